//! The HTTP server: tokens become sessions.

mod upgrade;

use std::{
    convert::Infallible,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
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
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::task::TaskTracker;

use crate::{
    backend::Backend,
    token::{self, AttachTarget, ExecTarget, TokenError, Tokens},
};

/// How the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where; loopback unless the operator has a reason, for the kubelet is the only client. Port 0: any.
    pub address: SocketAddr,
    /// How long a client may take to open its streams.
    pub creation_timeout: Duration,
    /// How long a session may last.
    pub session_timeout: Duration,
    /// Connections that may be open at the same time.
    pub connections_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            creation_timeout: Duration::from_secs(30),
            session_timeout: Duration::from_secs(4 * 3600),
            connections_max: 4096,
        }
    }
}

/// The server cannot listen.
#[derive(Debug, Error)]
#[error("listen for streaming clients on {address}")]
pub struct OpenError {
    /// Where.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// Gives out URLs and serves the clients that come with them. A cheap handle.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    address: SocketAddr,
    tokens: Tokens,
    backend: Arc<dyn Backend>,
    config: Config,
    sessions: TaskTracker,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.shared.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens, and serves until the runtime ends.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn open(config: Config, backend: Arc<dyn Backend>) -> Result<Server, OpenError> {
        let failed = |source| OpenError { address: config.address, source };
        let listener = TcpListener::bind(config.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let sessions = TaskTracker::new();
        let shared = Arc::new(Shared { address, tokens: Tokens::default(), backend, config, sessions });
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

    /// A URL that leads to the ports of a pod.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn port_forward(&self, pod: String) -> Result<String, TokenError> {
        self.url("portforward", token::Request::PortForward { pod })
    }

    fn url(&self, verb: &str, request: token::Request) -> Result<String, TokenError> {
        let token = self.shared.tokens.insert(request)?;
        Ok(format!("http://{}/{verb}/{token}", self.shared.address))
    }
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

async fn serve(socket: TcpStream, shared: Arc<Shared>, place: tokio::sync::OwnedSemaphorePermit) {
    // Small pieces of a terminal must not wait for each other; a failure only makes it slower.
    let _slower = socket.set_nodelay(true);
    let place = Arc::new(place);
    let service = service_fn(|request| {
        let answer = answer(request, &shared, Arc::clone(&place));
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.creation_timeout)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "a streaming client's request was not HTTP"
        );
    }
}

fn answer(
    request: Request<Incoming>,
    shared: &Arc<Shared>,
    place: Arc<tokio::sync::OwnedSemaphorePermit>,
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
    let response = upgrade.response();
    let session = upgrade::session(request, upgrade, target, Arc::clone(shared));
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
