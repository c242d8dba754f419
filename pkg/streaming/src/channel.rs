//! One direction of one stream, whatever carries it.
//!
//! A connection has one task that reads frames and gives their content to [`Incoming`] queues, and one
//! that writes what [`Outgoing`] ends hand over. Both queues are short: a side that does not keep up
//! slows the other by TCP, and memory stays where it is.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Pieces that wait between a connection's reader and a session.
pub(crate) const QUEUE: usize = 8;
/// Bytes that wait between a connection's reader and its sessions, over all streams.
const WAITING_BYTES: usize = 4 << 20;
/// The largest piece that is sent, in bytes.
pub(crate) const PIECE_BYTES: usize = 32 << 10;

/// What a connection's writer is asked for.
#[derive(Debug)]
pub(crate) enum Write {
    /// A piece of a stream.
    Data { stream: u32, data: Bytes },
    /// A stream's end.
    End { stream: u32 },
    /// The answer to a stream that the client opened (SPDY only).
    Accept { stream: u32 },
    /// A stream is refused or broken off (SPDY only).
    Reset { stream: u32, status: u32 },
    /// A ready frame: the answer to a ping, a farewell.
    Raw(Bytes),
}

/// A piece on its way to a session, with its place in the connection's budget.
#[derive(Debug)]
pub(crate) struct Piece {
    data: Bytes,
    _room: OwnedSemaphorePermit,
}

/// The bytes that may wait in all queues of a connection towards sessions.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(crate) fn new() -> Budget {
        Budget(Arc::new(Semaphore::new(WAITING_BYTES)))
    }

    /// Hands `data` to a session, once there is room. `Err`: the session reads no more.
    pub(crate) async fn hand_over(&self, to: &mpsc::Sender<Piece>, data: Bytes) -> Result<(), Gone> {
        let bytes = u32::try_from(data.len().min(WAITING_BYTES)).map_err(|_| Gone)?;
        let room = Arc::clone(&self.0).acquire_many_owned(bytes).await.map_err(|_| Gone)?;
        to.send(Piece { data, _room: room }).await.map_err(|_| Gone)
    }
}

/// What the client sends on a stream. It ends when the client ends the stream or the connection.
#[derive(Debug)]
pub(crate) struct Incoming(pub(crate) mpsc::Receiver<Piece>);

impl Incoming {
    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await.map(|piece| piece.data)
    }
}

/// What is sent to the client on a stream.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) stream: u32,
    pub(crate) writer: mpsc::Sender<Write>,
}

/// The connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

impl Outgoing {
    /// Sends a piece.
    pub(crate) async fn send(&self, data: Bytes) -> Result<(), Gone> {
        self.writer.send(Write::Data { stream: self.stream, data }).await.map_err(|_| Gone)
    }

    /// Ends the stream; the other direction stays open.
    pub(crate) async fn end(&self) -> Result<(), Gone> {
        self.writer.send(Write::End { stream: self.stream }).await.map_err(|_| Gone)
    }
}
