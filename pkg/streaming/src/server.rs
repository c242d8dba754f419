//! The HTTP server: tokens become sessions.

mod upgrade;

use std::{
    convert::Infallible,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::task::TaskTracker;

use crate::{
    backend::Backend,
    socket::{Presence, Socket},
    tls::{Identity, TlsError, TlsFiles},
    token::{self, AttachTarget, ExecTarget, TokenError, Tokens},
};
use upgrade::Upgrade;

/// The most of a request's head, in bytes.
const REQUEST_MAX_BYTES: usize = 64 << 10;
/// Ports of one session: the channels of WebSocket are numbered by one byte.
const FORWARDS_MAX: usize = 100;

/// How the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where; loopback unless the operator has a reason, for the kubelet is the only client. Port 0: any.
    pub address: SocketAddr,
    /// With these files by TLS, otherwise in the clear.
    pub tls: Option<TlsFiles>,
    /// In the clear even where others than this node can listen.
    pub plain_beyond_loopback: bool,
    /// How long a client may take for its request, for TLS, and to open its streams.
    pub creation_timeout: Duration,
    /// How long a session may last in which nothing is sent either way.
    pub idle_timeout: Duration,
    /// Connections that may be open at the same time.
    pub connections_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            tls: None,
            plain_beyond_loopback: false,
            creation_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(4 * 3600),
            connections_max: 4096,
        }
    }
}

/// The server cannot listen.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The address is not to be had.
    #[error("listen for streaming clients on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Whoever reads along would have a token, and so a shell in a container.
    #[error(
        "{0} can be reached from elsewhere: streaming there needs a certificate and its key, or express leave"
    )]
    Exposed(SocketAddr),
    /// The certificate or its key.
    #[error("stream over TLS")]
    Tls(#[from] TlsError),
}

/// Gives out URLs and serves the clients that come with them. A cheap handle.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    /// What URLs begin with.
    base: String,
    tls: Option<Arc<Identity>>,
    tokens: Tokens,
    backend: Arc<dyn Backend>,
    config: Config,
    sessions: TaskTracker,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("base", &self.shared.base).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens, and serves until the runtime ends.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(config: Config, backend: Arc<dyn Backend>) -> Result<Server, OpenError> {
        if config.tls.is_none() && !config.address.ip().is_loopback() && !config.plain_beyond_loopback {
            return Err(OpenError::Exposed(config.address));
        }
        let tls = config.tls.clone().map(Identity::open).transpose()?.map(Arc::new);
        let failed = |source| OpenError::Listen { address: config.address, source };
        let listener = TcpListener::bind(config.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{}", reachable(address));
        let (tokens, sessions) = (Tokens::default(), TaskTracker::new());
        let shared = Arc::new(Shared { base, tls, tokens, backend, config, sessions });
        shared.sessions.spawn(listen(listener, Arc::clone(&shared)));
        Ok(Server { shared })
    }

    /// A URL that runs `target` for the one client that opens it.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn exec(&self, target: ExecTarget) -> Result<String, TokenError> {
        self.url("exec", token::Request::Exec(target))
    }

    /// A URL that joins `target`.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn attach(&self, target: AttachTarget) -> Result<String, TokenError> {
        self.url("attach", token::Request::Attach(target))
    }

    /// A URL that leads to the ports of a pod. Those who speak WebSocket without SPDY inside have no other way
    /// to name the ports than `ports`.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn port_forward(&self, pod: String, ports: Vec<u16>) -> Result<String, TokenError> {
        self.url("portforward", token::Request::PortForward { pod, ports })
    }

    /// The certificate, DER, that who connects now is shown; `None` in the clear.
    pub async fn certificate(&self) -> Option<Vec<u8>> {
        let tls = self.shared.tls.clone()?;
        // It fails only where the runtime ends, and the server with it.
        let current = tokio::task::spawn_blocking(move || tls.current()).await.ok()?;
        Some(current.certificate.to_vec())
    }

    fn url(&self, verb: &str, request: token::Request) -> Result<String, TokenError> {
        let token = self.shared.tokens.insert(request)?;
        Ok(format!("{}/{verb}/{token}", self.shared.base))
    }
}

/// The address for clients on this node of a server that listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Accepts for ever. An accept that fails for want of descriptors is tried again, never the end.
async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(shared.config.connections_max));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                let connection = serve(socket, Arc::clone(&shared), place);
                shared.sessions.spawn(connection);
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a streaming client was not accepted"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(socket: TcpStream, shared: Arc<Shared>, place: OwnedSemaphorePermit) {
    let socket = Socket::new(socket);
    let presence = socket.presence();
    let Some(tls) = shared.tls.clone() else { return serve_http(socket, presence, &shared, place).await };
    let accepted = async {
        let current = tokio::task::spawn_blocking(move || tls.current()).await?;
        current.acceptor.accept(socket).await
    };
    match tokio::time::timeout(shared.config.creation_timeout, accepted).await {
        Ok(Ok(socket)) => serve_http(socket, presence, &shared, place).await,
        Ok(Err(error)) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a streaming client does not speak TLS"
            );
        }
        Err(_elapsed) => tracing::debug!("a streaming client took too long for TLS"),
    }
}

async fn serve_http(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    presence: Presence,
    shared: &Arc<Shared>,
    place: OwnedSemaphorePermit,
) {
    let place = Arc::new(place);
    let service = service_fn(|request| {
        let answer = answer(request, shared, presence.clone(), Arc::clone(&place));
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.creation_timeout)
        .max_buf_size(REQUEST_MAX_BYTES)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    // Until the switch: neither requests one after the other nor answers that nobody reads hold the place.
    match tokio::time::timeout(2 * shared.config.creation_timeout, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a streaming client's request was not HTTP"
            );
        }
        Err(_elapsed) => tracing::debug!("a streaming client did not switch protocols in time"),
    }
}

fn answer(
    request: Request<Incoming>,
    shared: &Arc<Shared>,
    presence: Presence,
    place: Arc<OwnedSemaphorePermit>,
) -> Response<Full<Bytes>> {
    let mut parts = request.uri().path().trim_start_matches('/').split('/');
    let (verb, token, rest) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let (Some(token), None) = (token, rest) else {
        return refuse(StatusCode::NOT_FOUND, "no such path");
    };
    // What is not an upgrade leaves the token alone.
    let upgrade = match upgrade::negotiate(verb, request.headers()) {
        Ok(upgrade) => upgrade,
        Err(reason) => return refuse(StatusCode::BAD_REQUEST, reason),
    };
    let Some(target) = shared.tokens.take(token) else {
        return refuse(StatusCode::NOT_FOUND, "no such token, or it was used or is too old");
    };
    if let (Upgrade::WebSocket { .. }, token::Request::PortForward { ports, .. }) = (&upgrade, &target)
        && !(1..=FORWARDS_MAX).contains(&ports.len())
    {
        return refuse(StatusCode::BAD_REQUEST, "the PortForward request must name 1 to 100 ports");
    }
    let response = upgrade.response();
    let session = upgrade::session(request, upgrade, target, presence, Arc::clone(shared));
    shared.sessions.spawn(async move {
        session.await;
        drop(place);
    });
    response
}

fn refuse(status: StatusCode, reason: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(reason.as_bytes())));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;
