//! Port-forward: for each connection of the client a pair of streams, data and error.
//!
//! A connection that fails tells so on its error stream and ends alone; the session goes on.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};

use crate::{
    backend::Backend,
    channel::{Incoming, Outgoing, PIECE_BYTES},
    socket::Presence,
    spdy::{Connection, Stream},
    websocket::{self, Encoding},
};

/// Connections of one session that may be open at the same time.
const CONNECTIONS_MAX: usize = 100;

/// A session over SPDY: `portforward.k8s.io`. Runs until the client ends it. A stream whose other half does not come
/// in `creation` is broken off.
pub(crate) async fn over_spdy(
    mut connection: Connection,
    backend: Arc<dyn Backend>,
    pod: String,
    creation: Duration,
) {
    let mut halves: HashMap<String, (Instant, Stream)> = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        let oldest = halves.values().map(|(since, _)| *since + creation).min();
        let stream = match oldest {
            None => connection.next().await,
            Some(oldest) => match tokio::time::timeout_at(oldest, connection.next()).await {
                Ok(stream) => stream,
                Err(_elapsed) => {
                    let now = Instant::now();
                    for (_, (_, half)) in halves.extract_if(|_, (since, _)| *since + creation <= now) {
                        half.refuse().await;
                    }
                    continue;
                }
            },
        };
        let Some(stream) = stream else { break };
        while running.try_join_next().is_some() {}
        // Streams without an id come in pairs, an error stream and then its data (old clients).
        let id = stream.header("requestid").unwrap_or_default().to_owned();
        if halves.len() + running.len() >= CONNECTIONS_MAX {
            stream.refuse().await;
            continue;
        }
        stream.accept().await;
        let Some((_, other)) = halves.remove(&id) else {
            halves.insert(id, (Instant::now(), stream));
            continue;
        };
        match pair(other, stream) {
            Ok((data, error, port)) => {
                let (backend, pod) = (Arc::clone(&backend), pod.clone());
                running.spawn(async move {
                    let Stream { incoming, outgoing, reset, .. } = data;
                    tokio::select! {
                        () = forward(&*backend, pod, port, incoming, outgoing, error.clone()) => {}
                        // Whatever the pod still sends, nobody wants. The client waits for the error stream's end
                        // even so, and keeps its own connection until then.
                        () = reset.cancelled() => {
                            let _gone = error.end().await;
                        }
                    }
                });
            }
            // Nothing would ever come on them.
            Err(streams) => {
                tracing::debug!(pod, "a port-forward's streams make no pair");
                for stream in *streams {
                    stream.refuse().await;
                }
            }
        }
    }
    // The client has gone. What waits for it, or for a pod that says nothing, would keep the connection.
    drop(halves);
    running.shutdown().await;
    connection.close().await;
}

/// A session over the channels of WebSocket: one connection to each port. Runs until all of them, or the client,
/// have ended.
pub(crate) async fn over_websocket(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    presence: Presence,
    encoding: Encoding,
    backend: Arc<dyn Backend>,
    pod: String,
    ports: Vec<u16>,
) {
    // The caller has bounded the ports, so each has its two channels.
    let channels: Vec<(u8, u16)> = (0..).step_by(2).zip(ports).collect();
    let inward: Vec<u8> = channels.iter().map(|(channel, _)| *channel).collect();
    let mut connection = websocket::accept(io, presence, encoding, &inward).await;
    let mut running = JoinSet::new();
    for (channel, port) in channels {
        let Some(incoming) = connection.take(channel) else { continue };
        let (data, error) = (connection.outgoing(channel), connection.outgoing(channel + 1));
        for stream in [&data, &error] {
            let _gone = stream.send(Bytes::copy_from_slice(&port.to_le_bytes())).await;
        }
        let (backend, pod) = (Arc::clone(&backend), pod.clone());
        running.spawn(async move { forward(&*backend, pod, port, incoming, data, error).await });
    }
    let ended = async { while running.join_next().await.is_some() {} };
    tokio::select! {
        () = ended => connection.close().await,
        () = connection.gone() => {}
    }
}

/// Which of two streams is the data and which the error stream, and the port that they are for. `Err`: they are
/// no such pair.
fn pair(one: Stream, two: Stream) -> Result<(Stream, Outgoing, u16), Box<[Stream; 2]>> {
    let (data, error) = match (one.header("streamtype"), two.header("streamtype")) {
        (Some("data"), Some("error")) => (one, two),
        (Some("error"), Some("data")) => (two, one),
        _ => return Err(Box::new([one, two])),
    };
    let port = data.header("port").and_then(|port| port.parse().ok()).filter(|&port: &u16| port != 0);
    match port {
        Some(port) => Ok((data, error.outgoing, port)),
        None => Err(Box::new([data, error])),
    }
}

/// One connection, from dialling to the end of both directions.
pub(crate) async fn forward(
    backend: &dyn Backend,
    pod: String,
    port: u16,
    incoming: Incoming,
    outgoing: Outgoing,
    error: Outgoing,
) {
    let outcome = match backend.connect(pod, port).await {
        Ok(socket) => copy(socket, incoming, &outgoing).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(message) = outcome {
        let _gone = error.send(Bytes::from(format!("port {port}: {message}"))).await;
    }
    for stream in [&outgoing, &error] {
        let _gone = stream.end().await;
    }
}

async fn copy(mut socket: TcpStream, mut incoming: Incoming, outgoing: &Outgoing) -> std::io::Result<()> {
    let (mut read, mut write) = socket.split();
    let inward = async {
        while let Some(piece) = incoming.next().await {
            write.write_all(&piece).await?;
        }
        write.shutdown().await
    };
    let outward = async {
        let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
        loop {
            buffer.reserve(PIECE_BYTES);
            if read.read_buf(&mut buffer).await? == 0 || outgoing.send(buffer.split().freeze()).await.is_err()
            {
                return outgoing.end().await.or(Ok(()));
            }
        }
    };
    tokio::try_join!(inward, outward).map(|_| ())
}
