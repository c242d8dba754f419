//! The registry client: content by tag or digest from the hosts of one registry.
//!
//! ```text
//! GET /v2/<name>/manifests/<tag or digest>      ──▶ 200 document
//! GET /v2/<name>/blobs/<digest>  [Range]        ──▶ 200/206 content, or a redirect to storage
//!          └─ 401 WWW-Authenticate ──▶ token server, or Basic ──▶ the same request with Authorization
//! ```
//!
//! Facts from the OCI distribution specification. [`Session`] serves one pull: it reads the registry's
//! configuration, keeps connections and a token, tries hosts in turn and each host a bounded number of
//! times. What it gives out was checked against its digest, or is checked by who reads it to the end.
//!
//! Secrets stay with their origin: credentials, tokens, client certificates and configured headers are sent
//! to the configured scheme, host and port only, and not along redirects.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::OnceCell;

use crate::auth::Auth;
use crate::config::Config;
use crate::digest::Digest;
use crate::manifest::{self, Descriptor};
use crate::reference::Reference;

mod blob;
mod body;
mod challenge;
mod client;
mod dial;
mod error;
mod hosts;
mod origin;
mod token;

pub(crate) use blob::Transfer;
use body::{Body, Patience};
use challenge::Challenge;
use client::HttpClient;
pub use error::RegistryError;
pub use hosts::HostsError;
use hosts::{Host, Role};
use origin::{Origin, Scheme};

/// Bytes of a scope that a challenge may ask for.
const SCOPE_BYTES_MAX: usize = 4096;

/// One registry for the time of one pull.
pub(crate) struct Session {
    registry: String,
    repository: String,
    auth: Option<Auth>,
    config: Config,
    patience: Patience,
    hosts: Vec<Connected>,
}

/// A host and what is kept for it.
struct Connected {
    host: Host,
    client: HttpClient,
    /// For addresses the host sends us to; made when it does.
    elsewhere: OnceCell<HttpClient>,
    /// What goes into `Authorization`, once a challenge was answered.
    authorization: Mutex<Option<HeaderValue>>,
}

/// A document that has the digest it says.
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) content_type: String,
}

impl Session {
    /// Reads the configuration of the reference's registry and gets ready. No connection is made yet.
    pub(crate) async fn open(
        reference: &Reference,
        auth: Option<Auth>,
        config: &Config,
    ) -> Result<Session, RegistryError> {
        let registry = reference.registry().to_owned();
        let failed = |source: HostsError| RegistryError::Hosts {
            registry: reference.registry().to_owned(),
            source: Arc::new(source),
        };
        let (name, settings) = (registry.clone(), config.clone());
        let connect = move || -> Result<Vec<Connected>, HostsError> {
            let hosts = hosts::load(&name, &settings.certs_d, &settings.limits)?;
            hosts.into_iter().map(|host| Connected::new(host, &settings)).collect()
        };
        let hosts = match tokio::task::spawn_blocking(connect).await {
            Ok(outcome) => outcome.map_err(failed)?,
            // The runtime is going down; there is nobody left to ask.
            Err(_) => return Err(RegistryError::NoHost(registry)),
        };
        let repository = reference.repository().to_owned();
        let patience = Patience::of(config);
        Ok(Session { registry, repository, auth, config: config.clone(), patience, hosts })
    }

    /// What a tag or digest stands for. Hosts are asked in turn; a tag only those that may resolve.
    pub(crate) async fn manifest(&self, of: &Reference) -> Result<Fetched, RegistryError> {
        let (what, expected) = match (of.digest(), of.tag()) {
            (Some(digest), _) => (digest.as_str(), Some(digest)),
            (None, tag) => (tag.unwrap_or("latest"), None),
        };
        self.document("manifests", what, expected, self.config.limits.manifest_bytes).await
    }

    /// A manifest that an index leads to.
    pub(crate) async fn manifest_by(&self, descriptor: &Descriptor) -> Result<Fetched, RegistryError> {
        let max = descriptor.size.min(self.config.limits.manifest_bytes);
        self.document("manifests", descriptor.digest.as_str(), Some(&descriptor.digest), max).await
    }

    /// A small blob, such as a config, in memory.
    pub(crate) async fn small_blob(&self, descriptor: &Descriptor) -> Result<Fetched, RegistryError> {
        let max = descriptor.size.min(self.config.limits.config_bytes);
        self.document("blobs", descriptor.digest.as_str(), Some(&descriptor.digest), max).await
    }

    async fn document(
        &self,
        kind: &'static str,
        what: &str,
        expected: Option<&Digest>,
        max: u64,
    ) -> Result<Fetched, RegistryError> {
        let mut last = RegistryError::NoHost(self.registry.clone());
        for host in &self.hosts {
            let capabilities = host.host.capabilities;
            if !(if expected.is_some() { capabilities.pull } else { capabilities.resolve }) {
                continue;
            }
            let path = format!("{}/{kind}/{what}", self.repository);
            let mut tries = 0;
            loop {
                tries += 1;
                match self.document_from(host, &path, expected, max).await {
                    Ok(fetched) => return Ok(fetched),
                    Err(error) if self.pause(&error, tries).await => {}
                    Err(error) => {
                        tracing::debug!(host = %host.host.origin, error = &error as &dyn std::error::Error, "host failed");
                        last = error;
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    async fn document_from(
        &self,
        host: &Connected,
        path: &str,
        expected: Option<&Digest>,
        max: u64,
    ) -> Result<Fetched, RegistryError> {
        let (response, url) = self.get(host, path, None).await?;
        let headers = response.headers();
        if length(headers).is_some_and(|length| length > max) {
            return Err(RegistryError::TooLarge { url, max });
        }
        let said = said_digest(headers, &url)?;
        let content_type =
            headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let bytes = Body::new(response, url.clone(), self.patience).collect(max).await?;
        let check = |expected: &Digest| {
            let actual = Digest::of_with(expected.algorithm(), &bytes);
            if actual == *expected {
                return Ok(actual);
            }
            Err(RegistryError::DigestMismatch { url: url.clone(), expected: expected.clone(), actual })
        };
        if let Some(said) = &said {
            check(said)?;
        }
        let digest = match expected.or(said.as_ref()) {
            Some(expected) => check(expected)?,
            None => Digest::of(&bytes),
        };
        Ok(Fetched { bytes, digest, content_type })
    }

    /// Waits before another try, and says whether there is one.
    async fn pause(&self, error: &RegistryError, tries: u32) -> bool {
        let limits = &self.config.limits;
        // A host that cannot be reached at all is tried once more only: there are others, and the kubelet.
        let max = if matches!(error, RegistryError::Unreachable { .. }) { 2 } else { limits.attempts };
        if !error.is_transient() || tries >= max.max(1) {
            return false;
        }
        let doubled = limits.retry_pause.saturating_mul(1 << tries.saturating_sub(1).min(16));
        let asked = match error {
            RegistryError::Status { retry_after: Some(after), .. } => *after,
            _ => Duration::ZERO,
        };
        // Some spread, so that all nodes of a cluster do not come back in the same moment.
        let spread = doubled.mul_f64(f64::from(jiggle()) / 255.0 / 4.0);
        tokio::time::sleep((doubled + spread).max(asked).min(limits.retry_pause_max)).await;
        true
    }

    /// One GET at one host, authorised if the host asks for it. Returns a response with status 200 or 206,
    /// and the address for messages.
    async fn get(
        &self,
        host: &Connected,
        path: &str,
        from: Option<u64>,
    ) -> Result<(Response<Incoming>, String), RegistryError> {
        let mut address = format!("{}{}/{path}", host.host.origin, host.host.path);
        let url = address.clone();
        if let Some(namespace) = &host.host.namespace {
            address = format!("{address}?{}", token::form_urlencoded(&[("ns", namespace)]));
        }
        let uri: Uri = address.parse().map_err(|_| RegistryError::Url(url.clone()))?;
        let mut given = host.authorization();
        let mut challenged = false;
        loop {
            let (response, origin) = self.follow(host, &uri, from, given.clone()).await?;
            match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok((response, url)),
                StatusCode::UNAUTHORIZED if origin == host.host.origin && !challenged => {
                    challenged = true;
                    let fresh = self.authorize(host, response.headers(), &url).await?;
                    *host.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(fresh.clone());
                    given = Some(fresh);
                }
                _ => return Err(self.refusal(&response, url, given.is_some())),
            }
        }
    }

    /// Sends a request and goes along redirects.
    async fn follow(
        &self,
        host: &Connected,
        uri: &Uri,
        from: Option<u64>,
        authorization: Option<HeaderValue>,
    ) -> Result<(Response<Incoming>, Origin), RegistryError> {
        let home = &host.host.origin;
        let (mut uri, mut origin) = (uri.clone(), home.clone());
        for _ in 0..=self.config.limits.redirects {
            let mut request =
                Request::builder().uri(&uri).header(ACCEPT, accept(&uri)).header(USER_AGENT, AGENT);
            if let Some(from) = from {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if origin == *home {
                for (name, value) in &host.host.headers {
                    request = request.header(name, value);
                }
                if let Some(value) = &authorization {
                    request = request.header(AUTHORIZATION, value);
                }
            }
            let request = request.body(Full::default()).map_err(|_| RegistryError::Url(bare(&uri)))?;
            let response = self.send(host, &origin, request).await?;
            if !is_redirect(response.status()) {
                return Ok((response, origin));
            }
            let refused = || RegistryError::Redirect { url: bare(&uri) };
            let location =
                response.headers().get(LOCATION).and_then(|v| v.to_str().ok()).ok_or_else(refused)?;
            let next = resolve(&uri, location).ok_or_else(refused)?;
            let next_origin = Origin::of(&next).ok_or_else(refused)?;
            if origin.scheme == Scheme::Https && next_origin.scheme == Scheme::Http {
                return Err(refused());
            }
            (uri, origin) = (next, next_origin);
        }
        Err(RegistryError::RedirectLoop { url: bare(&uri), max: self.config.limits.redirects })
    }

    /// One request, one response head, within the time that a transfer may make no progress.
    async fn send(
        &self,
        host: &Connected,
        origin: &Origin,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let url = bare(request.uri());
        let client = host.client_for(origin, &self.config).await.map_err(|source| RegistryError::Hosts {
            registry: self.registry.clone(),
            source: Arc::new(source),
        })?;
        match tokio::time::timeout(self.patience.timeout, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => Err(RegistryError::Unreachable { url, source: Arc::new(source) }),
            Err(_) => Err(RegistryError::Stalled { url, after: self.patience.timeout }),
        }
    }

    /// Answers a challenge.
    async fn authorize(
        &self,
        host: &Connected,
        headers: &HeaderMap,
        url: &str,
    ) -> Result<HeaderValue, RegistryError> {
        // Credentials are the registry's; a mirror gets none of them.
        let auth = self.auth.as_ref().filter(|_| host.host.role == Role::Registry);
        let unauthorized = || RegistryError::Unauthorized { url: url.to_owned(), given: kind_of(auth) };
        if let Some(Auth::RegistryToken(token)) = auth {
            return token::bearer(token).ok_or_else(unauthorized);
        }
        let challenges = challenge::parse(headers);
        let bearer = challenges.iter().find(|c| matches!(c, Challenge::Bearer { .. }));
        if let Some(Challenge::Bearer { realm, service, scope, .. }) = bearer {
            let usual = format!("repository:{}:pull", self.repository);
            let scope = scope.as_deref().filter(|s| !s.is_empty() && s.len() <= SCOPE_BYTES_MAX);
            let ask =
                token::TokenRequest { realm, service: service.as_deref(), scope: scope.unwrap_or(&usual) };
            return self.token(host, &ask, auth).await;
        }
        match auth {
            Some(Auth::Basic { username, password }) if challenges.contains(&Challenge::Basic) => {
                token::basic(username, password).ok_or_else(unauthorized)
            }
            _ => Err(unauthorized()),
        }
    }

    async fn token(
        &self,
        host: &Connected,
        ask: &token::TokenRequest<'_>,
        auth: Option<&Auth>,
    ) -> Result<HeaderValue, RegistryError> {
        let (request, origin) = token::request(&host.host.origin, ask, auth)?;
        let url = bare(request.uri());
        let response = self.send(host, &origin, request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST => {
                return Err(RegistryError::Unauthorized { url, given: kind_of(auth) });
            }
            // A redirect would take credentials along; token servers have no need of it.
            status if is_redirect(status) => return Err(RegistryError::Token { url }),
            _ => return Err(self.refusal(&response, url, auth.is_some())),
        }
        let body = Body::new(response, url.clone(), self.patience);
        let body = body.collect(self.config.limits.token_bytes).await?;
        token::answer(&body).ok_or(RegistryError::Token { url })
    }

    fn refusal(&self, response: &Response<Incoming>, url: String, authorized: bool) -> RegistryError {
        let status = response.status();
        match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { url },
            StatusCode::FORBIDDEN => RegistryError::Denied { url },
            StatusCode::UNAUTHORIZED => {
                let challenges = challenge::parse(response.headers());
                let lacks_scope = challenges.iter().any(
                    |c| matches!(c, Challenge::Bearer { error: Some(e), .. } if e == "insufficient_scope"),
                );
                match lacks_scope && authorized {
                    true => RegistryError::Denied { url },
                    false => RegistryError::Unauthorized { url, given: kind_of(self.auth.as_ref()) },
                }
            }
            _ => {
                let retry_after = retry_after(response.headers());
                RegistryError::Status { url, status: status.as_u16(), retry_after }
            }
        }
    }
}

impl Connected {
    fn new(host: Host, config: &Config) -> Result<Connected, HostsError> {
        let client = client::build(&host.origin, &host.tls, host.dial_timeout, config)?;
        Ok(Connected { host, client, elsewhere: OnceCell::new(), authorization: Mutex::new(None) })
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn client_for(&self, origin: &Origin, config: &Config) -> Result<&HttpClient, HostsError> {
        if *origin == self.host.origin {
            return Ok(&self.client);
        }
        let make = || async {
            let (origin, tls) = (origin.clone(), client::without_secrets(&self.host.tls));
            let (dial, cloned) = (self.host.dial_timeout, config.clone());
            // Encrypted or not is decided by each address; the trust is the same.
            let origin = Origin { scheme: Scheme::Https, ..origin };
            let build = move || client::build(&origin, &tls, dial, &cloned);
            match tokio::task::spawn_blocking(build).await {
                Ok(built) => built,
                Err(_) => {
                    client::build(&self.host.origin, &client::without_secrets(&self.host.tls), dial, config)
                }
            }
        };
        self.elsewhere.get_or_try_init(make).await
    }
}

const AGENT: &str = concat!("carpel/", env!("CARGO_PKG_VERSION"));

fn accept(uri: &Uri) -> &'static str {
    if uri.path().contains("/manifests/") { manifest::ACCEPT } else { "*/*" }
}

fn kind_of(auth: Option<&Auth>) -> &'static str {
    match auth {
        None => "no credentials were given",
        Some(Auth::Basic { .. }) => "user name and password were given",
        Some(Auth::IdentityToken(_)) => "an identity token was given",
        Some(Auth::RegistryToken(_)) => "a registry token was given",
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `Docker-Content-Digest`, which must be one if it is there.
fn said_digest(headers: &HeaderMap, url: &str) -> Result<Option<Digest>, RegistryError> {
    let Some(value) = headers.get("docker-content-digest") else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    text.parse().map(Some).map_err(|source| RegistryError::Digest { url: url.to_owned(), source })
}

/// `Retry-After` in seconds. The form with a date is rare and would trust the registry's clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// A URL without its query, which may hold secrets.
fn bare(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("http");
    format!("{scheme}://{}{}", uri.authority().map_or("", |a| a.as_str()), uri.path())
}

/// The address a `Location` means, seen from `base` (RFC 3986, section 5.2, for the forms servers send).
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    let authority = base.authority()?.as_str();
    let scheme = base.scheme_str()?;
    let whole = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    whole.parse().ok()
}

/// A byte that differs from call to call; nothing depends on it being random.
fn jiggle() -> u8 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish() as u8
}
