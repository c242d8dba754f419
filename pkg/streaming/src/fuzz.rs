//! Bytes of a hostile client, for fuzzers (`--cfg fuzzing`) and for the property tests here: whatever they are,
//! nothing panics, what is kept stays bounded, and every task ends with its connection.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    AttachTarget, ExecTarget,
    backend::{Answer, Backend, Process},
    port_forward,
    socket::Presence,
    spdy,
    websocket::{self, Closing, Encoding},
};

/// How long a session of the fuzzer may take, in the paused time of its runtime.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Frames, in pieces as the first byte says.
pub fn spdy_frames(data: &[u8]) {
    spdy::fuzz_frames(data);
}

/// Header blocks of one direction; the first byte of each says how long it is.
pub fn spdy_headers(data: &[u8]) {
    spdy::fuzz_headers(data);
}

/// A whole SPDY connection, whose streams are port-forwards and echoed.
pub fn spdy_session(data: &[u8]) {
    session(data, |io, presence| async move {
        let connection = spdy::accept(io, presence);
        port_forward::over_spdy(connection, Arc::new(Nowhere), "pod".to_owned(), PATIENCE / 10).await;
    });
}

/// Messages of the channel protocols; the first byte says which.
pub fn websocket_session(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let encoding = match first % 4 {
        0 => Encoding::Binary(Closing::Nobody),
        1 => Encoding::Binary(Closing::Client),
        2 => Encoding::Binary(Closing::Both),
        _ => Encoding::Base64,
    };
    session(data, move |io, presence| async move {
        let mut connection = websocket::accept(io, presence, encoding, &[0, 4]).await;
        let (mut stdin, mut sizes) = (connection.take(0), connection.take(4));
        let echo = connection.outgoing(1);
        let read = async move {
            while let Some(piece) = stdin.as_mut()?.next().await {
                echo.send(piece).await.ok()?;
            }
            echo.end().await.ok()
        };
        let resize = async {
            while let Some(piece) = sizes.as_mut()?.next().await {
                crate::command::fuzz_size(&piece);
            }
            Some(())
        };
        tokio::join!(read, resize);
        connection.close().await;
    });
}

/// SPDY inside WebSocket messages.
pub fn tunnel_session(data: &[u8]) {
    session(data, |io, presence| async move {
        let (tunnel, _carrier) = websocket::tunnel(io).await;
        let connection = spdy::accept(tunnel, presence);
        port_forward::over_spdy(connection, Arc::new(Nowhere), "pod".to_owned(), PATIENCE / 10).await;
    });
}

/// Gives a session the bytes, then the end of the connection, and waits for its end.
fn session<F>(data: &[u8], serve: impl FnOnce(tokio::io::DuplexStream, Presence) -> F)
where
    F: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let (client, server) = tokio::io::duplex(4096);
        let (mut read, mut write) = tokio::io::split(client);
        let talking = async {
            // The server may have given the connection up.
            let _given_up = write.write_all(data).await;
            let _given_up = write.shutdown().await;
        };
        let listening = async {
            let mut buffer = BytesMut::new();
            while read.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
                buffer.clear();
            }
        };
        let served = async { tokio::join!(serve(server, Presence::unknown()), talking, listening) };
        let ended = tokio::time::timeout(PATIENCE, served).await;
        assert!(ended.is_ok(), "the session outlives its connection");
        // Those that were aborted end when they are looked at next.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        let left = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        assert_eq!(left, 0, "tasks are left");
    });
}

/// A pod where nobody listens.
struct Nowhere;

impl Backend for Nowhere {
    fn exec(&self, _target: ExecTarget) -> Answer<'_, Process> {
        Box::pin(async { Err("no exec".into()) })
    }

    fn attach(&self, _target: AttachTarget) -> Answer<'_, Process> {
        Box::pin(async { Err("no attach".into()) })
    }

    fn connect(&self, _pod: String, _port: u16) -> Answer<'_, tokio::net::TcpStream> {
        Box::pin(async { Err("connection refused".into()) })
    }
}

#[cfg(test)]
mod tests;
