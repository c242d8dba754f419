//! A bounded pipe from the async side, where bytes arrive, to the thread that unpacks them.
//!
//! ```text
//! download task ──Bytes──▶ channel of a few chunks ──▶ blocking Read on the unpacking thread
//! ```
//!
//! The end is said by a message of its own. A sender that just goes away means that the transfer failed or
//! was cancelled, and the reader gets [`Aborted`], never a stream that looks complete.

use std::io::{self, BufRead, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

/// Chunks in flight: at hyper's usual chunk sizes some hundred kilobytes.
const DEPTH: usize = 16;

/// The transfer that fed a pipe ended before its end.
#[derive(Debug, thiserror::Error)]
#[error("the transfer was broken off")]
pub(crate) struct Aborted;

/// The reader of a pipe is gone: unpacking failed.
pub(crate) struct Closed;

enum Message {
    Chunk(Bytes),
    End,
}

pub(crate) struct PipeWriter(mpsc::Sender<Message>);

pub(crate) struct PipeReader {
    messages: mpsc::Receiver<Message>,
    current: Bytes,
    ended: bool,
}

pub(crate) fn pipe() -> (PipeWriter, PipeReader) {
    let (sender, messages) = mpsc::channel(DEPTH);
    (PipeWriter(sender), PipeReader { messages, current: Bytes::new(), ended: false })
}

impl PipeWriter {
    pub(crate) async fn write(&self, chunk: Bytes) -> Result<(), Closed> {
        self.0.send(Message::Chunk(chunk)).await.map_err(|_| Closed)
    }

    /// Says that everything was written. What the reader does with the rest is its own matter.
    pub(crate) async fn finish(self) -> Result<(), Closed> {
        self.0.send(Message::End).await.map_err(|_| Closed)
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let got = available.len().min(buffer.len());
        buffer[..got].copy_from_slice(&available[..got]);
        self.consume(got);
        Ok(got)
    }
}

impl BufRead for PipeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            match self.messages.blocking_recv() {
                Some(Message::Chunk(chunk)) => self.current = chunk,
                Some(Message::End) => self.ended = true,
                None => return Err(io::Error::other(Aborted)),
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount.min(self.current.len()));
    }
}
