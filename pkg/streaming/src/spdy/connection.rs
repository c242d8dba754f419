//! A connection: one task reads frames, one writes them, streams come out.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    frame::{self, FLOW_CONTROL_ERROR, Frame, FrameError, INVALID_STREAM, REFUSED_STREAM},
    headers::{HeaderError, HeaderReader, HeaderWriter},
    window::{self, Received, Windows},
};
use crate::{
    channel::{Budget, Incoming, Outgoing, PIECE_BYTES, Piece, QUEUE, Write},
    socket::Presence,
};

/// Streams of a connection that may be open at the same time.
const STREAMS_MAX: usize = 256;
/// How long a client may take to end the connection after the farewell.
const FAREWELL: Duration = Duration::from_secs(5);

/// A stream that the client opened.
#[derive(Debug)]
pub(crate) struct Stream {
    headers: Vec<(String, String)>,
    /// What the client sends.
    pub(crate) incoming: Incoming,
    /// What is sent to it.
    pub(crate) outgoing: Outgoing,
    /// Cancelled when the client breaks the stream off.
    pub(crate) reset: Arc<CancellationToken>,
}

/// What the reader knows of a stream.
#[derive(Debug)]
struct Open {
    /// Where its content goes, until the client has ended it.
    sender: Option<mpsc::Sender<Piece>>,
    /// The session has it as long as it has the stream.
    reset: Weak<CancellationToken>,
    received: Received,
}

impl Open {
    /// Whether anybody still has to do with it.
    fn is_used(&self) -> bool {
        self.reset.strong_count() > 0 || self.sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }
}

impl Stream {
    /// A header's value; names are lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// Takes the stream: the client waits for this.
    pub(crate) async fn accept(&self) {
        let accept = Write::Accept { stream: self.outgoing.stream };
        // A connection that has ended shows in what is read.
        let _gone = self.outgoing.writer.send(accept).await;
    }

    /// Refuses the stream.
    pub(crate) async fn refuse(self) {
        let refuse = Write::Reset { stream: self.outgoing.stream, status: REFUSED_STREAM };
        let _gone = self.outgoing.writer.send(refuse).await;
    }
}

/// A connection with its two tasks; they end with it.
#[derive(Debug)]
pub(crate) struct Connection {
    streams: mpsc::Receiver<Stream>,
    writer: mpsc::Sender<Write>,
    reading: JoinSet<()>,
    writing: JoinSet<()>,
}

/// Why a connection was given up.
#[derive(Debug, Error)]
enum ReadError {
    #[error("the client has gone")]
    Gone,
    #[error("read")]
    Io(#[from] std::io::Error),
    #[error("bad frame")]
    Frame(#[from] FrameError),
    #[error("bad headers")]
    Headers(#[from] HeaderError),
    #[error("the client opens the connection's windows wider than can be")]
    Windows,
}

/// Starts a connection on an upgraded HTTP connection.
pub(crate) fn accept(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    presence: Presence,
) -> Connection {
    let (read, write) = tokio::io::split(io);
    let (new_streams, streams) = mpsc::channel(QUEUE);
    let (writer, orders) = mpsc::channel(QUEUE);
    let (mut reading, mut writing) = (JoinSet::new(), JoinSet::new());
    let reader = Reader {
        open: HashMap::new(),
        budget: Budget::new(),
        headers: HeaderReader::new(),
        windows: Windows::new(),
        received: Received::default(),
        presence,
        new_streams,
        writer: writer.clone(),
    };
    reading.spawn(async move {
        if let Err(error) = reader.run(read).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a SPDY connection was given up");
        }
    });
    writing.spawn(write_frames(write, orders));
    Connection { streams, writer, reading, writing }
}

impl Connection {
    /// The next stream that the client opens; `None` once it opens no more.
    pub(crate) async fn next(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Resolves when the client has ended the connection. Refuses what streams it opens until then: one that
    /// nobody took would keep the reader from all that comes after it.
    pub(crate) async fn gone(&mut self) {
        while let Some(stream) = self.next().await {
            stream.refuse().await;
        }
    }

    /// Sends what is left and a farewell, and gives the client a moment to read it all.
    pub(crate) async fn close(mut self) {
        // The reader can still give orders, and does not end before the client: it must not keep the writer.
        for order in [Write::Raw(Bytes::from(frame::go_away(0))), Write::Last] {
            let _gone = self.writer.send(order).await;
        }
        self.streams.close();
        while self.streams.recv().await.is_some() {}
        self.writing.join_next().await;
        // Closing before the client has read everything could reset the connection and lose the rest.
        let _late = tokio::time::timeout(FAREWELL, self.reading.join_next()).await;
    }
}

struct Reader {
    open: HashMap<u32, Open>,
    budget: Budget,
    headers: HeaderReader,
    windows: Arc<Windows>,
    received: Received,
    presence: Presence,
    new_streams: mpsc::Sender<Stream>,
    writer: mpsc::Sender<Write>,
}

impl Reader {
    async fn run<R: AsyncRead>(mut self, mut io: ReadHalf<R>) -> Result<(), ReadError> {
        let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
        loop {
            while let Some(frame) = frame::take(&mut buffer)? {
                self.handle(frame).await?;
            }
            if io.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn handle(&mut self, frame: Frame) -> Result<(), ReadError> {
        match frame {
            Frame::Open { stream, block, fin } => self.opened(stream, &block, fin).await?,
            Frame::Data { stream, data, fin } => self.data(stream, data, fin).await?,
            Frame::Headers { block } => {
                self.headers.read(&block)?;
            }
            Frame::InitialWindow { bytes } => {
                self.windows.set_initial(bytes).map_err(|_overflow| ReadError::Windows)?;
            }
            Frame::Window { stream: 0, bytes } => {
                self.windows.open_connection(bytes).map_err(|_overflow| ReadError::Windows)?;
            }
            Frame::Window { stream, bytes } => {
                if self.windows.open_stream(stream, bytes).is_err() {
                    self.order(Write::Reset { stream, status: FLOW_CONTROL_ERROR }).await;
                    self.broken_off(stream);
                }
            }
            Frame::Reset { stream } => self.broken_off(stream),
            Frame::Ping { id } => self.order(Write::Raw(Bytes::from(frame::ping(id)))).await,
            Frame::GoAway | Frame::Ignored => {}
        }
        Ok(())
    }

    /// Whatever is under way on the stream ends.
    fn broken_off(&mut self, stream: u32) {
        self.windows.break_off(stream);
        if let Some(reset) = self.open.remove(&stream).and_then(|open| open.reset.upgrade()) {
            reset.cancel();
        }
    }

    async fn opened(&mut self, stream: u32, block: &[u8], fin: bool) -> Result<(), ReadError> {
        // Read in any case: the compression's state goes on from here.
        let headers = self.headers.read(block)?;
        if self.open.len() >= STREAMS_MAX {
            self.open.retain(|_, open| open.is_used());
        }
        // Clients number their streams oddly (draft 3.1, section 2.3.2).
        if stream.is_multiple_of(2) || self.open.contains_key(&stream) || self.open.len() >= STREAMS_MAX {
            self.order(Write::Reset { stream, status: REFUSED_STREAM }).await;
            return Ok(());
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let reset = Arc::new(CancellationToken::new());
        let sender = Some(sender).filter(|_| !fin);
        let received = Received::default();
        self.open.insert(stream, Open { sender, reset: Arc::downgrade(&reset), received });
        let opened = Stream {
            headers,
            incoming: Incoming(receiver),
            outgoing: Outgoing { stream, writer: self.writer.clone(), window: Some(self.windows.of(stream)) },
            reset,
        };
        if self.new_streams.send(opened).await.is_err() {
            self.open.remove(&stream);
            self.order(Write::Reset { stream, status: REFUSED_STREAM }).await;
        }
        Ok(())
    }

    async fn data(&mut self, stream: u32, data: Bytes, fin: bool) -> Result<(), ReadError> {
        if let Some(bytes) = self.received.count(data.len()) {
            self.order(Write::Raw(Bytes::from(frame::window_update(0, bytes)))).await;
        }
        let open = self.open.get_mut(&stream);
        let Some((sender, open)) = open.and_then(|open| Some((open.sender.clone()?, open))) else {
            // The end of a stream that we gave up first is nothing to complain of.
            if !fin {
                self.order(Write::Reset { stream, status: INVALID_STREAM }).await;
            }
            return Ok(());
        };
        let length = data.len();
        let handed =
            async { if data.is_empty() { Ok(()) } else { self.budget.hand_over(&sender, &data).await } };
        let handed = tokio::select! {
            biased;
            handed = handed => handed,
            // The session does not read just now, so what else the client sent does not show its end.
            () = self.presence.gone() => return Err(ReadError::Gone),
        };
        // A session that reads no more has dropped its end.
        if fin || handed.is_err() {
            open.sender = None;
        } else if let Some(bytes) = open.received.count(length) {
            self.order(Write::Raw(Bytes::from(frame::window_update(stream, bytes)))).await;
        }
        Ok(())
    }

    async fn order(&self, order: Write) {
        let _gone = self.writer.send(order).await;
    }
}

async fn write_frames<W: AsyncWrite>(mut io: WriteHalf<W>, mut orders: mpsc::Receiver<Write>) {
    let mut headers = HeaderWriter::new();
    let widest = [
        frame::settings(window::MAX_BYTES),
        frame::window_update(0, window::MAX_BYTES - window::DEFAULT_BYTES),
    ];
    // Together with the first answer, or as soon as there is nothing to wait for.
    if io.write_all(&widest.concat()).await.is_err() {
        return;
    }
    while let Some(order) = orders.recv().await {
        let written = match order {
            Write::Last => break,
            Write::Data { stream, data } => write_data(&mut io, stream, &data).await,
            Write::End { stream } => io.write_all(&frame::data_head(stream, 0, true)).await,
            Write::Reset { stream, status } => io.write_all(&frame::reset(stream, status)).await,
            Write::Raw(bytes) => io.write_all(&bytes).await,
            Write::Accept { stream } => match headers.write(&[]) {
                Ok(block) => io.write_all(&frame::reply(stream, &block)).await,
                Err(error) => Err(std::io::Error::other(error)),
            },
        };
        let flushed = if written.is_ok() && orders.is_empty() { io.flush().await } else { written };
        if flushed.is_err() {
            return;
        }
    }
    // A failure here is the client's going.
    let _gone = io.shutdown().await;
}

async fn write_data<W: AsyncWrite>(io: &mut WriteHalf<W>, stream: u32, data: &[u8]) -> std::io::Result<()> {
    for piece in data.chunks(frame::DATA_MAX_BYTES) {
        let head = frame::data_head(stream, piece.len(), false);
        // In one call where the transport can.
        let mut both = Buf::chain(&head[..], piece);
        while both.has_remaining() {
            if io.write_buf(&mut both).await? == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
