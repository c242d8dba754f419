//! A port-forward: each connection to a local port becomes a session of its own.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use carpel_proto::v1::PortForwardRequest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use super::{Channels, StreamError, TlsArgs};
use crate::{
    client::{Client, ask},
    failure, output,
};

const DATA: u8 = 0;
const ERROR: u8 = 1;

/// Connections to one local port at the same time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;
/// What is read at a time, in bytes.
const PIECE_BYTES: usize = 32 << 10;
/// The most of an error's text, in bytes.
const ERROR_MAX_BYTES: usize = 4 << 10;
/// How long answers are awaited after the local end, where the far side cannot be told of it.
const LINGER: Duration = Duration::from_secs(10);
/// The pause after a connection that could not be accepted: for want of descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A local port that leads to a pod's.
#[derive(Debug)]
pub(crate) struct Forward {
    listener: TcpListener,
    /// Where it listens.
    pub(crate) local: SocketAddr,
    /// The pod's port.
    pub(crate) port: u16,
}

impl Forward {
    /// Listens on `local`; port 0 is any that is free.
    pub(crate) async fn listen(local: SocketAddr, port: u16) -> Result<Forward, StreamError> {
        let failed = |source| StreamError::Listen { address: local.to_string(), source };
        let listener = TcpListener::bind(local).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        Ok(Forward { listener, local, port })
    }

    /// Forwards connections for ever. One that fails is told of, and the others go on.
    pub(crate) async fn run(self, client: Client, tls: TlsArgs, pod: String) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            let socket = match self.listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tell(anyhow::Error::new(error).context("cannot accept a connection")).await;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (client, tls, pod, port) = (client.clone(), tls.clone(), pod.clone(), self.port);
            connections.spawn(async move {
                if let Err(error) = connection(&client, &tls, &pod, port, socket).await {
                    tell(error.context(format!("a connection to port {port} failed"))).await;
                }
                drop(place);
            });
        }
    }
}

/// Reports a failure, aside: whoever reads our standard error may take any time.
async fn tell(error: anyhow::Error) {
    let told = tokio::task::spawn_blocking(move || failure::report(&error));
    // It can only have been cut off by our own end.
    let _end = told.await;
}

/// One connection, both ways, to its end.
async fn connection(
    client: &Client,
    tls: &TlsArgs,
    pod: &str,
    port: u16,
    mut socket: TcpStream,
) -> anyhow::Result<()> {
    let request = PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: vec![i32::from(port)] };
    let answer = ask("forward the port", client.runtime().port_forward(request)).await?;
    let Channels { mut to, mut from } = super::open(client, tls, &answer.url).await?;
    // A failure only makes it slower.
    let _slower = socket.set_nodelay(true);
    let (mut read, mut write) = socket.split();
    let outward = async {
        let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
        // What a failed read leaves unsaid, the other direction's end tells.
        while read.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
            if to.send(DATA, &buffer).await.is_err() {
                break;
            }
            buffer.clear();
        }
        match to.end(DATA).await {
            // Over v4 the end of one direction cannot be told: answers under way get some time.
            Ok(false) => tokio::time::sleep(LINGER).await,
            Ok(true) | Err(_) => std::future::pending().await,
        }
    };
    let inward = async {
        let (mut heads, mut error) = ([false; 2], Vec::new());
        while let Some((channel, mut data)) = from.next().await? {
            let Some(head) = heads.get_mut(usize::from(channel)) else {
                // The far side has ended its direction; ours may go on.
                if channel == super::END && data[..] == [DATA] {
                    write.shutdown().await.or_else(gone)?;
                }
                continue;
            };
            // The first message of each channel begins with the port.
            if !std::mem::replace(head, true) {
                data = data.slice(data.len().min(2)..);
            }
            match channel {
                ERROR => {
                    error.extend_from_slice(&data);
                    error.truncate(ERROR_MAX_BYTES);
                }
                _ => write.write_all(&data).await.or_else(gone)?,
            }
        }
        if error.is_empty() {
            Ok(())
        } else {
            Err(Refusal(String::from_utf8_lossy(&error).into_owned()).into())
        }
    };
    tokio::select! {
        () = outward => Ok(()),
        ended = inward => ended,
    }
}

/// What the runtime says about a connection that it could not make.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// A local program that has closed its end wants no more: that is no failure.
fn gone(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => Ok(()),
        _ => Err(error),
    }
}

/// Tells where a local port leads.
pub(crate) fn announce(forward: &Forward, pod: &str) {
    output::say(&format!("{} leads to port {} of pod {pod}", forward.local, forward.port));
}
