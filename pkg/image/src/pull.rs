//! Pulling: from a reference to a committed image.

use std::sync::Arc;

use crate::auth::Auth;
use crate::config::Config;
use crate::digest::Digest;
use crate::error::ErrorKind;
use crate::image::{ConfigError, Platform};
use crate::progress::{ProgressSender, PullProgress};
use crate::reference::{Reference, ReferenceError};
use crate::store::{Store, StoreError};

/// What is to be pulled, and for whom.
#[derive(Debug, Default)]
pub struct PullRequest {
    /// The image, as the user wrote it.
    pub reference: String,
    /// Credentials for the registry that the reference names; see [`crate::AuthFields::for_registry`].
    pub auth: Option<Auth>,
    /// The platform to choose from an index; `None`: this machine's.
    pub platform: Option<Platform>,
    /// Where to show progress.
    pub progress: Option<ProgressSender>,
}

/// Why an image is not here. Clones share their cause: everybody who joined a pull gets one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PullError {
    /// The reference is malformed.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The config document is malformed or hostile.
    #[error("config of image {reference} is refused")]
    Config {
        /// The image.
        reference: Reference,
        /// What is wrong with it.
        #[source]
        source: Arc<ConfigError>,
    },
    /// The store cannot take it.
    #[error("cannot store image {reference}")]
    Store {
        /// The image.
        reference: Reference,
        /// What went wrong.
        #[source]
        source: Arc<StoreError>,
    },
    /// The pull ended without a result: the daemon is shutting down.
    #[error("pull of image {0} was cancelled")]
    Cancelled(Reference),
}

impl PullError {
    /// What a caller may act on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            PullError::Reference(_) => ErrorKind::InvalidArgument,
            PullError::Config { .. } => ErrorKind::InvalidImage,
            PullError::Store { source, .. } => source.kind(),
            PullError::Cancelled(_) => ErrorKind::Cancelled,
        }
    }
}

pub(crate) struct Puller {
    config: Config,
    store: Arc<Store>,
}

impl Puller {
    pub(crate) fn new(config: Config, store: Arc<Store>) -> Puller {
        Puller { config, store }
    }

    pub(crate) async fn pull(&self, request: PullRequest) -> Result<Digest, PullError> {
        let reference = Reference::parse(&request.reference)?;
        Err(PullError::Cancelled(reference))
    }

    pub(crate) fn progress(&self) -> Vec<PullProgress> {
        Vec::new()
    }
}
