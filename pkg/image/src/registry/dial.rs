//! The way to a host: a connection straight to it, or a tunnel through a proxy.
//!
//! ```text
//!   this very machine, or in NO_PROXY ─▶ TCP to the host
//!   else ─▶ TCP to the proxy ─▶ CONNECT host:port ─▶ TLS (or plain http) to the host, which the proxy only passes on
//! ```
//!
//! The proxy looks up the host's name. Facts from RFC 9110, section 9.3.6. Not here: proxies that are spoken to by
//! TLS or SOCKS, and plain http without a tunnel.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;

use super::origin::is_loopback;
use crate::config::Proxies;

/// Between two probes of an idle connection.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Makes connections for one host's client.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    tcp: HttpConnector,
    proxies: Arc<Matcher>,
    timeout: Duration,
}

/// Why there is no connection through a proxy; without one it is an error of the connector's.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error("the proxy {proxy} gives no way to {host}")]
    Refused {
        proxy: String,
        host: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("the proxy {proxy} did not answer within {timeout:?}")]
    Timeout { proxy: String, timeout: Duration },
}

impl Dialer {
    pub(crate) fn new(proxies: &Proxies, timeout: Duration) -> Dialer {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(timeout));
        tcp.set_keepalive(Some(KEEPALIVE));
        let (http, https, no) = (proxies.http.clone(), proxies.https.clone(), proxies.no.clone());
        let proxies = Arc::new(Matcher::builder().http(http).https(https).no(no).build());
        Dialer { tcp, proxies, timeout }
    }

    fn proxy(&self, host: &Uri) -> Option<Intercept> {
        self.proxies.intercept(host).filter(|_| !host.host().is_some_and(is_loopback))
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, host: Uri) -> Self::Future {
        let Some(proxy) = self.proxy(&host) else {
            let connecting = self.tcp.call(host);
            return Box::pin(async { Ok(connecting.await?) });
        };
        let (mut tcp, timeout) = (self.tcp.clone(), self.timeout);
        // The password is not part of it.
        let address = proxy.uri().authority().map(ToString::to_string).unwrap_or_default();
        Box::pin(async move {
            std::future::poll_fn(|context| tcp.poll_ready(context)).await?;
            let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
            if let Some(credentials) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(credentials.clone());
            }
            match tokio::time::timeout(timeout, tunnel.call(host.clone())).await {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(source)) => {
                    let host = host.authority().map(ToString::to_string).unwrap_or_default();
                    Err(TunnelError::Refused { proxy: address, host, source: source.into() }.into())
                }
                Err(_) => Err(TunnelError::Timeout { proxy: address, timeout }.into()),
            }
        })
    }
}
