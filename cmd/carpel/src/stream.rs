//! Streams to and from containers and pods: what the URLs of CRI's Exec, Attach and PortForward lead to,
//! spoken over WebSocket.
//!
//! ```text
//!  command       0 stdin · 1 stdout · 2 stderr · 3 a status object at the end · 4 the terminal's size
//!  port-forward  0 data  · 1 error, each beginning with the port in two bytes, little-endian
//!  v5 only       255 n: channel n has ended. Over v4 (containerd, CRI-O) an input cannot be ended
//! ```
//!
//! Each message is binary; its first byte is the channel. SPDY, which the kubelet speaks, is not needed here.

pub(crate) mod forward;
mod input;
mod outcome;
pub(crate) mod session;
mod signals;
mod terminal;
mod tls;

use std::{future::Future, io, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        http::{HeaderValue, Uri, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::WebSocketConfig,
    },
};
use tokio_util::either::Either;

pub(crate) use input::DetachKeys;
pub(crate) use terminal::restore_on_panic;
pub(crate) use tls::TlsArgs;

use crate::client::Client;

/// The protocols of this module, the better first.
const PROTOCOLS: &str = "v5.channel.k8s.io, v4.channel.k8s.io";
/// The channel of v5 that ends others.
const END: u8 = 255;
/// The largest message that is taken from a runtime, in bytes.
const MESSAGE_MAX_BYTES: usize = 4 << 20;
/// How long the runtime's streaming server may take for each: the connection, TLS, and the switch of protocols.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// The most of a refusal's text that is shown, in characters.
const REFUSAL_MAX: usize = 500;

/// A streaming session that could not be had, or ended as it should not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("the runtime's streaming address {0:?} is not a URL of http or https")]
    Url(String),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error("cannot connect to the runtime's streaming server at {address}")]
    Connect { address: String, source: io::Error },
    #[error("the runtime's streaming server at {address} did not answer in {} s", HANDSHAKE.as_secs())]
    Silent { address: String },
    #[error("the runtime's streaming server at {address} does not speak WebSocket")]
    Handshake { address: String, source: Box<tungstenite::Error> },
    #[error("the runtime's streaming server refused: {status} {text}")]
    Refused { status: u16, text: String },
    #[error("the runtime could not do it: {0}")]
    Failed(String),
    #[error("the session broke off before the command's exit code was known")]
    Broken { source: Option<Box<tungstenite::Error>> },
    #[error("the runtime's account of the end is not understood: {0:?}")]
    Status(String),
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    #[error("standard input is not a terminal")]
    NoTerminal,
    #[error("cannot listen on {address}")]
    Listen { address: String, source: io::Error },
}

impl StreamError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Tls(error) => return error.hint(),
            Self::Url(_) | Self::Handshake { .. } => {
                "`carpel exec --sync` works with every runtime: without input, the output at the end"
            }
            Self::Connect { .. } | Self::Silent { .. } => {
                "the address is the runtime's own: carpel must run on its node, in its network namespace"
            }
            Self::NoTerminal => "leave out -t to give the command input from a pipe or file",
            Self::Broken { .. } => "the daemon may have ended: see its log. The command may still run",
            Self::Refused { .. }
            | Self::Failed(_)
            | Self::Status(_)
            | Self::Terminal(_)
            | Self::Listen { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// A connection that has switched protocols.
#[derive(Debug)]
pub(crate) struct Channels {
    to: Sender,
    from: Receiver,
}

/// In the clear or over TLS.
type Socket = Either<TcpStream, TlsStream<TcpStream>>;

/// What goes to the runtime.
#[derive(Debug)]
struct Sender {
    sink: SplitSink<WebSocketStream<Socket>, Message>,
    /// Whether channels can be ended one by one.
    ends: bool,
}

/// What comes from the runtime.
#[derive(Debug)]
struct Receiver {
    stream: SplitStream<WebSocketStream<Socket>>,
    /// A piece that came while the session was awaited.
    first: Option<(u8, Bytes)>,
}

/// Opens a URL that CRI gave. It works once.
pub(crate) async fn open(client: &Client, tls: &TlsArgs, url: &str) -> Result<Channels, StreamError> {
    let malformed = || StreamError::Url(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| malformed())?;
    let authority = uri.authority().ok_or_else(malformed)?;
    let (secure, port) = match uri.scheme_str() {
        Some("http" | "ws") => (false, 80),
        Some("https" | "wss") => (true, 443),
        _ => return Err(malformed()),
    };
    let address = match authority.port_u16() {
        Some(_) => authority.as_str().to_owned(),
        None => format!("{authority}:{port}"),
    };
    let socket = if secure {
        Either::Right(tls::connect(client, tls, authority.host(), &address).await?)
    } else {
        Either::Left(connect(&address).await?)
    };
    // The library wants to hear of WebSocket in the URL too; of TLS it knows nothing.
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = format!("ws://{address}{path}").into_client_request();
    let mut request = request.map_err(|_| malformed())?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOLS));
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX_BYTES))
        .max_frame_size(Some(MESSAGE_MAX_BYTES));
    let switched = async {
        let switched = client_async_with_config(request, socket, Some(config)).await;
        switched.map_err(|error| not_switched(&address, error))
    };
    let (socket, response) = timely(&address, switched).await?;
    let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let (sink, stream) = socket.split();
    let ends = chosen == Some("v5.channel.k8s.io");
    Ok(Channels { to: Sender { sink, ends }, from: Receiver { stream, first: None } })
}

async fn connect(address: &str) -> Result<TcpStream, StreamError> {
    let failed = |source| StreamError::Connect { address: address.to_owned(), source };
    let socket = timely(address, async { TcpStream::connect(address).await.map_err(failed) }).await?;
    // A key stroke must not wait for the next; a failure only makes it slower.
    let _slower = socket.set_nodelay(true);
    Ok(socket)
}

/// Awaits a step that the server at `address` must not draw out.
async fn timely<T>(
    address: &str,
    step: impl Future<Output = Result<T, StreamError>>,
) -> Result<T, StreamError> {
    timeout(HANDSHAKE, step)
        .await
        .unwrap_or_else(|_| Err(StreamError::Silent { address: address.to_owned() }))
}

/// Why the server at `address` did not switch protocols.
fn not_switched(address: &str, error: tungstenite::Error) -> StreamError {
    match error {
        tungstenite::Error::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            let text = String::from_utf8_lossy(body).trim().chars().take(REFUSAL_MAX).collect();
            StreamError::Refused { status: response.status().as_u16(), text }
        }
        tungstenite::Error::Io(error) if let Some(unwelcome) = tls::unwelcome(address, &error) => {
            unwelcome.into()
        }
        source => StreamError::Handshake { address: address.to_owned(), source: Box::new(source) },
    }
}

impl Sender {
    /// Sends a piece. An error is the connection's end, which the receiver tells more of.
    async fn send(&mut self, channel: u8, data: &[u8]) -> Result<(), tungstenite::Error> {
        let mut content = BytesMut::with_capacity(1 + data.len());
        content.put_u8(channel);
        content.put_slice(data);
        self.sink.send(Message::Binary(content.freeze())).await
    }

    /// Ends a channel. `false`: over this protocol that cannot be told.
    async fn end(&mut self, channel: u8) -> Result<bool, tungstenite::Error> {
        if self.ends {
            self.send(END, &[channel]).await?;
        }
        Ok(self.ends)
    }

    /// Shows the runtime that somebody is there.
    async fn ping(&mut self) -> Result<(), tungstenite::Error> {
        self.sink.send(Message::Ping(Bytes::new())).await
    }

    /// Says that the session is over.
    async fn close(&mut self) {
        // The other side may have gone first.
        let _gone = self.sink.close().await;
    }
}

impl Channels {
    /// Waits until the runtime has joined the container: it says so by a first message.
    pub(crate) async fn ready(mut self) -> Result<Channels, StreamError> {
        match self.from.next().await {
            Ok(Some((session::ERROR, status))) if !status.is_empty() => {
                outcome::exit_code(&status)?;
                Err(StreamError::Broken { source: None })
            }
            Ok(Some(piece)) => {
                self.from.first = Some(piece);
                Ok(self)
            }
            Ok(None) => Err(StreamError::Broken { source: None }),
            Err(source) => Err(StreamError::Broken { source: Some(Box::new(source)) }),
        }
    }
}

impl Receiver {
    /// The next piece and its channel; `None` at the end of the connection.
    async fn next(&mut self) -> Result<Option<(u8, Bytes)>, tungstenite::Error> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        while let Some(message) = self.stream.next().await {
            match message? {
                Message::Binary(content) => {
                    if let Some(&channel) = content.first() {
                        return Ok(Some((channel, content.slice(1..))));
                    }
                }
                Message::Close(_) => return Ok(None),
                // Pings are answered by the library.
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        Ok(None)
    }
}
