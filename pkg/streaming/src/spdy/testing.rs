//! A client for tests, frame by frame.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{frame, headers::HeaderWriter};

/// A client's side of a connection, frame by frame.
pub(crate) struct Client<T> {
    pub(crate) io: T,
    headers: HeaderWriter,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    pub(crate) fn new(io: T) -> Self {
        Client { io, headers: HeaderWriter::new() }
    }

    pub(crate) async fn open(&mut self, stream: u32, kind: &str) {
        self.open_with(stream, &[("streamtype", kind)]).await;
    }

    pub(crate) async fn open_with(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let frame = open(&mut self.headers, stream, headers);
        self.io.write_all(&frame).await.unwrap();
    }

    pub(crate) async fn data(&mut self, stream: u32, data: &[u8], fin: bool) {
        self.io.write_all(&frame::data_head(stream, data.len(), fin)).await.unwrap();
        self.io.write_all(data).await.unwrap();
    }

    /// The head of the next frame, its payload passed over, as well as frames about windows.
    pub(crate) async fn head(&mut self) -> [u8; 8] {
        loop {
            let (head, _) = self.frame().await;
            if !matches!(head[..4], [0x80, 3, 0, 4 | 9]) {
                return head;
            }
        }
    }

    /// The next frame: its head and its payload.
    pub(crate) async fn frame(&mut self) -> ([u8; 8], Vec<u8>) {
        let mut head = [0; 8];
        self.io.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize];
        self.io.read_exact(&mut payload).await.unwrap();
        (head, payload)
    }
}

/// Breaks a stream off: CANCEL (draft 3.1, section 2.6.3).
pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame::reset(stream, 5)
}

pub(crate) use super::headers::HeaderWriter as Headers;

/// A stream's opening frame.
pub(crate) fn open(headers: &mut Headers, stream: u32, pairs: &[(&str, &str)]) -> Vec<u8> {
    let block = headers.write(pairs).unwrap();
    let mut frame = vec![0x80, 3, 0, 1];
    frame.extend(u32::try_from(10 + block.len()).unwrap().to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend([0; 6]);
    frame.extend(block);
    frame
}

/// A piece of a stream.
pub(crate) fn data(stream: u32, data: &[u8], fin: bool) -> Vec<u8> {
    [&frame::data_head(stream, data.len(), fin)[..], data].concat()
}
