//! One direction of one stream, whatever carries it.
//!
//! A connection has one task that reads frames and gives their content to [`Incoming`] queues, and one
//! that writes what [`Outgoing`] ends hand over. Both queues are short: a side that does not keep up
//! slows the other by TCP, and memory stays where it is.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::spdy::Window;

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
    /// Nothing comes after this, though there are still some who could send (SPDY only).
    Last,
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
    pub(crate) async fn hand_over(&self, to: &mpsc::Sender<Piece>, data: &[u8]) -> Result<(), Gone> {
        let bytes = u32::try_from(data.len().min(WAITING_BYTES)).map_err(|_| Gone)?;
        let room = Arc::clone(&self.0).acquire_many_owned(bytes).await.map_err(|_| Gone)?;
        // A copy: the reader's buffer, of which a piece may be a single byte, must not wait with it.
        let data = Bytes::copy_from_slice(data);
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
    /// What the client is ready to take (SPDY only).
    pub(crate) window: Option<Arc<Window>>,
}

/// The connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

impl Outgoing {
    /// Sends a piece. What the client has broken off is sent to nobody.
    pub(crate) async fn send(&self, mut data: Bytes) -> Result<(), Gone> {
        let stream = self.stream;
        let Some(window) = &self.window else {
            return self.writer.send(Write::Data { stream, data }).await.map_err(|_| Gone);
        };
        while !data.is_empty() {
            let Some(now) = window.spend(data.len()).await else { return Ok(()) };
            let data = data.split_to(now);
            self.writer.send(Write::Data { stream, data }).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Ends the stream; the other direction stays open.
    pub(crate) async fn end(&self) -> Result<(), Gone> {
        self.writer.send(Write::End { stream: self.stream }).await.map_err(|_| Gone)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    #[tokio::test]
    async fn a_piece_that_waits_keeps_no_more_than_itself() {
        let (sender, receiver) = mpsc::channel(1);
        let mut buffer = BytesMut::zeroed(1 << 20);
        let piece = buffer.split_to(1).freeze();
        Budget::new().hand_over(&sender, &piece).await.unwrap();
        drop(piece);
        let waiting = Incoming(receiver).next().await.unwrap();
        assert_eq!(waiting.len(), 1);
        assert!(waiting.is_unique(), "the piece shares the reader's buffer");
    }
}
