//! Streams over WebSocket (RFC 6455): the first byte of each message says which stream it is of.
//!
//! ```text
//!  v4.channel.k8s.io         binary messages   0 stdin  1 stdout  2 stderr  3 error  4 resize
//!  v5.channel.k8s.io         the same, and 255 n from the client: its stream n has ended
//!  v4.base64.channel.k8s.io  text messages     '0' … '4', the rest in base64
//!  port-forward              2n data, 2n+1 error of the n-th port; each begins with the port, little-endian;
//!                            over v5, 255 n from either side: stream n has ended
//! ```

use std::{collections::HashMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    sync::mpsc,
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::{
    channel::{Budget, Incoming, Outgoing, PIECE_BYTES, Piece, QUEUE, Write},
    socket::Presence,
};

/// The largest message that is taken, in bytes.
const MESSAGE_MAX_BYTES: usize = 1 << 20;
/// The channel that v5 ends others by.
const CLOSE: u8 = 255;
/// How long a client may take to end the connection after the farewell.
const FAREWELL: Duration = Duration::from_secs(5);

/// How messages look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Bytes as they are.
    Binary(Closing),
    /// Text.
    Base64,
}

/// Who can end streams one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    /// They end together with the connection.
    Nobody,
    /// The client (v5).
    Client,
    /// Both (port-forward over v5, which is ours: half-closed connections are forwarded as such).
    Both,
}

impl Encoding {
    fn client_closes(self) -> bool {
        matches!(self, Encoding::Binary(Closing::Client | Closing::Both))
    }
}

/// A connection with its two tasks; they end with it.
#[derive(Debug)]
pub(crate) struct Connection {
    writer: mpsc::Sender<Write>,
    incoming: HashMap<u8, Incoming>,
    reading: JoinSet<()>,
    writing: JoinSet<()>,
}

/// Starts a connection with these channels towards us on an upgraded HTTP connection.
pub(crate) async fn accept(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    presence: Presence,
    encoding: Encoding,
    inward: &[u8],
) -> Connection {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX_BYTES))
        .max_frame_size(Some(MESSAGE_MAX_BYTES));
    let (sink, stream) = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await.split();
    let (writer, orders) = mpsc::channel(QUEUE);
    let (mut senders, mut incoming) = (HashMap::new(), HashMap::new());
    for &channel in inward {
        let (sender, receiver) = mpsc::channel(QUEUE);
        senders.insert(channel, sender);
        incoming.insert(channel, Incoming(receiver));
    }
    let (mut reading, mut writing) = (JoinSet::new(), JoinSet::new());
    reading.spawn(read_messages(stream, presence, encoding, senders));
    writing.spawn(write_messages(sink, encoding, orders));
    Connection { writer, incoming, reading, writing }
}

impl Connection {
    /// What the client sends on a channel; once for each.
    pub(crate) fn take(&mut self, channel: u8) -> Option<Incoming> {
        self.incoming.remove(&channel)
    }

    /// What is sent to the client on a channel.
    pub(crate) fn outgoing(&self, channel: u8) -> Outgoing {
        Outgoing { stream: channel.into(), writer: self.writer.clone(), window: None }
    }

    /// Resolves when the client has ended the connection.
    pub(crate) async fn gone(&mut self) {
        self.reading.join_next().await;
    }

    /// Sends what is left and a farewell, and gives the client a moment to read it all.
    pub(crate) async fn close(mut self) {
        drop(self.writer);
        self.incoming.clear();
        self.writing.join_next().await;
        // Closing before everything of the client was read would reset the connection, and lose what it has not
        // read itself: its command's exit code.
        let _late = tokio::time::timeout(FAREWELL, self.reading.join_next()).await;
    }
}

/// A connection whose messages are the bytes of another protocol, and the task that carries them. It ends when
/// both sides have, or is dropped.
pub(crate) async fn tunnel(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> (DuplexStream, JoinSet<()>) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX_BYTES))
        .max_frame_size(Some(MESSAGE_MAX_BYTES));
    let (mut sink, mut stream) =
        WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await.split();
    let (near, far) = tokio::io::duplex(PIECE_BYTES);
    let (mut read, mut write) = tokio::io::split(far);
    let mut carrier = JoinSet::new();
    carrier.spawn(async move {
        let inward = async {
            while let Some(Ok(message)) = stream.next().await {
                match message {
                    Message::Binary(content) => write.write_all(&content).await.ok()?,
                    Message::Close(_) => break,
                    Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                }
            }
            write.shutdown().await.ok()
        };
        let outward = async {
            let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
            loop {
                buffer.reserve(PIECE_BYTES);
                if read.read_buf(&mut buffer).await.ok()? == 0 {
                    return sink.close().await.ok();
                }
                sink.send(Message::Binary(buffer.split().freeze())).await.ok()?;
            }
        };
        tokio::join!(inward, outward);
    });
    (near, carrier)
}

async fn read_messages<S>(
    mut stream: SplitStream<WebSocketStream<S>>,
    presence: Presence,
    encoding: Encoding,
    mut channels: HashMap<u8, mpsc::Sender<Piece>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let budget = Budget::new();
    while let Some(Ok(message)) = stream.next().await {
        let content = match message {
            Message::Binary(content) => content,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return,
            // Pings are answered by the library.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        let Some((channel, data)) = decode(encoding, &content) else { continue };
        if channel == CLOSE && encoding.client_closes() {
            if let [ended] = data[..] {
                channels.remove(&ended);
            }
            continue;
        }
        // An empty message only says that the channel is there.
        let Some(sender) = channels.get(&channel) else { continue };
        if data.is_empty() {
            continue;
        }
        tokio::select! {
            biased;
            handed = budget.hand_over(sender, &data) => {
                if handed.is_err() {
                    channels.remove(&channel);
                }
            }
            // The session does not read just now, so what else the client sent does not show its end.
            () = presence.gone() => return,
        }
    }
}

/// The channel and content of a message; `None` for one that makes no sense.
fn decode(encoding: Encoding, content: &Bytes) -> Option<(u8, Bytes)> {
    let &first = content.first()?;
    match encoding {
        Encoding::Binary(_) => Some((first, content.slice(1..))),
        Encoding::Base64 => {
            let channel = first.checked_sub(b'0').filter(|channel| *channel < 10)?;
            Some((channel, STANDARD.decode(&content[1..]).ok()?.into()))
        }
    }
}

fn encode(encoding: Encoding, channel: u8, data: &[u8]) -> Message {
    match encoding {
        Encoding::Binary(_) => {
            let mut content = BytesMut::with_capacity(1 + data.len());
            content.put_u8(channel);
            content.put_slice(data);
            Message::Binary(content.freeze())
        }
        Encoding::Base64 => {
            let mut text = String::with_capacity(1 + data.len() * 4 / 3 + 4);
            text.push(char::from(b'0' + channel.min(9)));
            STANDARD.encode_string(data, &mut text);
            Message::Text(text.into())
        }
    }
}

async fn write_messages<S>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    encoding: Encoding,
    mut orders: mpsc::Receiver<Write>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(order) = orders.recv().await {
        let message = match order {
            Write::Data { stream, data } => {
                // Channels are small numbers on this transport.
                encode(encoding, u8::try_from(stream).unwrap_or(CLOSE), &data)
            }
            Write::End { stream } if encoding == Encoding::Binary(Closing::Both) => {
                encode(encoding, CLOSE, &[u8::try_from(stream).unwrap_or(CLOSE)])
            }
            Write::End { .. } | Write::Accept { .. } | Write::Reset { .. } | Write::Raw(_) | Write::Last => {
                continue;
            }
        };
        if sink.send(message).await.is_err() {
            return;
        }
    }
    // Clients take an end without a status for a failure. This one may have gone first.
    let farewell = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let _gone = sink.send(Message::Close(Some(farewell))).await;
    let _gone = sink.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        for encoding in
            [Encoding::Binary(Closing::Nobody), Encoding::Binary(Closing::Client), Encoding::Base64]
        {
            let content = match encode(encoding, 3, b"a\0\xff") {
                Message::Binary(content) => content,
                Message::Text(text) => Bytes::from(text),
                other => panic!("{other:?}"),
            };
            assert_eq!(decode(encoding, &content), Some((3, Bytes::from_static(b"a\0\xff"))));
        }
    }

    #[test]
    fn nonsense_is_passed_over() {
        assert_eq!(decode(Encoding::Binary(Closing::Client), &Bytes::new()), None);
        assert_eq!(decode(Encoding::Base64, &Bytes::from_static(b"x")), None);
        assert_eq!(decode(Encoding::Base64, &Bytes::from_static(b"0***")), None);
    }
}
