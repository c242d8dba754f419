//! Why a registry did not give what was asked.

use std::sync::Arc;
use std::time::Duration;

use super::hosts::HostsError;
use crate::digest::{Digest, DigestError};
use crate::error::ErrorKind;

/// A request that failed. URLs in it carry no query: signed storage addresses have secrets there.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry's configuration is wrong.
    #[error("configuration of registry {registry}")]
    Hosts {
        /// The registry.
        registry: String,
        /// What is wrong.
        #[source]
        source: Arc<HostsError>,
    },
    /// No host of the registry is configured for what was asked (`capabilities`).
    #[error("no host of registry {0} may be asked for this")]
    NoHost(String),
    /// No connection, or it broke before the answer.
    #[error("cannot reach {url}")]
    Unreachable {
        /// Where.
        url: String,
        /// What the client says.
        #[source]
        source: Arc<hyper_util::client::legacy::Error>,
    },
    /// The answer broke off.
    #[error("answer of {url} broke off")]
    BrokenOff {
        /// Where.
        url: String,
        /// What the client says.
        #[source]
        source: Arc<hyper::Error>,
    },
    /// The answer is shorter or longer than the descriptor of what was asked for.
    #[error("answer of {url} has {got} bytes instead of {expected}")]
    Length {
        /// Where.
        url: String,
        /// Bytes that came.
        got: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// The answer ended early, without an error of the connection.
    #[error("answer of {url} ends after {got} of {expected} bytes")]
    Truncated {
        /// Where.
        url: String,
        /// Bytes that came.
        got: u64,
        /// Bytes that there are.
        expected: u64,
    },
    /// Nothing, or next to nothing, came for the configured time.
    #[error("no progress from {url} for {after:?}")]
    Stalled {
        /// Where.
        url: String,
        /// The configured time.
        after: Duration,
    },
    /// 404.
    #[error("{url} does not exist")]
    NotFound {
        /// What.
        url: String,
    },
    /// The registry wants credentials and has none, or refuses those it was given.
    #[error("{url} asks for other credentials ({given})")]
    Unauthorized {
        /// What.
        url: String,
        /// Which kind it was given.
        given: &'static str,
    },
    /// 403, or a token that lacks the right.
    #[error("access to {url} is denied")]
    Denied {
        /// What.
        url: String,
    },
    /// Any other status.
    #[error("{url} answers with status {status}")]
    Status {
        /// What.
        url: String,
        /// The status.
        status: u16,
        /// When to come back, if it says so.
        retry_after: Option<Duration>,
    },
    /// More redirects than the limit.
    #[error("{url} is redirected more than {max} times")]
    RedirectLoop {
        /// The first address.
        url: String,
        /// The limit.
        max: usize,
    },
    /// A redirect to nowhere, or from an encrypted to a plain connection.
    #[error("{url} redirects to an address that is refused")]
    Redirect {
        /// Who redirects.
        url: String,
    },
    /// A token server that credentials must not be sent to, or that is no URL.
    #[error("{url} names a token server that is refused: {realm:?}")]
    Realm {
        /// Who names it.
        url: String,
        /// What it names.
        realm: String,
    },
    /// The token server's answer is no token.
    #[error("token server {url} gives no usable token")]
    Token {
        /// The token server.
        url: String,
    },
    /// More bytes than the limit, announced or sent.
    #[error("answer of {url} is larger than {max} bytes")]
    TooLarge {
        /// What.
        url: String,
        /// The limit.
        max: u64,
    },
    /// The content is not what was asked for.
    #[error("{url} gives content with digest {actual} instead of {expected}")]
    DigestMismatch {
        /// What.
        url: String,
        /// As asked.
        expected: Digest,
        /// As computed.
        actual: Digest,
    },
    /// The registry names a digest that is none.
    #[error("{url} names a malformed digest")]
    Digest {
        /// What.
        url: String,
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
    /// A URL could not be put together.
    #[error("{0:?} is no URL")]
    Url(String),
}

impl RegistryError {
    /// What a caller may act on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            RegistryError::Hosts { .. } | RegistryError::NoHost(_) => ErrorKind::Configuration,
            RegistryError::Unreachable { .. }
            | RegistryError::BrokenOff { .. }
            | RegistryError::Truncated { .. }
            | RegistryError::Status { .. }
            | RegistryError::RedirectLoop { .. }
            | RegistryError::Redirect { .. }
            | RegistryError::Token { .. }
            | RegistryError::Url(_) => ErrorKind::RegistryUnavailable,
            RegistryError::Stalled { .. } => ErrorKind::Stalled,
            RegistryError::NotFound { .. } => ErrorKind::NotFound,
            RegistryError::Unauthorized { .. } => ErrorKind::Unauthenticated,
            RegistryError::Denied { .. } | RegistryError::Realm { .. } => ErrorKind::PermissionDenied,
            RegistryError::TooLarge { .. } => ErrorKind::TooLarge,
            RegistryError::Length { .. }
            | RegistryError::DigestMismatch { .. }
            | RegistryError::Digest { .. } => ErrorKind::Integrity,
        }
    }

    /// Whether the same request may succeed a little later, at the same host.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            RegistryError::Unreachable { .. }
            | RegistryError::BrokenOff { .. }
            | RegistryError::Truncated { .. } => true,
            RegistryError::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }
}
