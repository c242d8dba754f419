//! Pulling: from a reference to a committed image.
//!
//! ```text
//! Puller::pull ─ join ─▶ resolve (manifest, config) ─▶ layers ─▶ commit
//!                              one flight per layer, shared with other pulls ┘
//! ```
//!
//! Whoever pulls drives the work; those who ask for the same join and drive it as well. It goes on as long as
//! one of them waits, and is dropped with the last.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::Semaphore;

use tracing::{Instrument, info_span};

use crate::auth::Auth;
use crate::config::Config;
use crate::digest::{ChainId, Digest};
use crate::error::ErrorKind;
use crate::image::{ConfigError, Platform};
use crate::manifest::ManifestError;
use crate::progress::{ProgressSender, PullProgress, PullStage};
use crate::reference::{Reference, ReferenceError};
use crate::registry::{RegistryError, Session};
use crate::store::{LayerLease, NewImage, Store, StoreError};

mod flight;
mod layers;
mod meter;
mod resolve;

pub(crate) use resolve::agree;

use flight::Flights;
pub use layers::LayerFailure;
use meter::{Meter, Tracker};

/// How often a waiting caller is shown progress.
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);

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
    /// The registry did not give the manifest or the config.
    #[error("cannot pull image {reference}")]
    Registry {
        /// The image.
        reference: Reference,
        /// What went wrong.
        #[source]
        source: Box<RegistryError>,
    },
    /// The manifest or index is malformed, hostile, or has nothing for this machine.
    #[error("manifest of image {reference} is refused")]
    Manifest {
        /// The image.
        reference: Reference,
        /// What is wrong with it.
        #[source]
        source: Arc<ManifestError>,
    },
    /// The config document is malformed or hostile.
    #[error("config of image {reference} is refused")]
    Config {
        /// The image.
        reference: Reference,
        /// What is wrong with it.
        #[source]
        source: Arc<ConfigError>,
    },
    /// A layer cannot be fetched or unpacked.
    #[error("cannot take in layer {layer} of image {reference}")]
    Layer {
        /// The image.
        reference: Reference,
        /// Digest of the layer's blob.
        layer: Digest,
        /// What went wrong.
        #[source]
        source: Arc<LayerFailure>,
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
}

impl PullError {
    /// What a caller may act on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            PullError::Reference(_) => ErrorKind::InvalidArgument,
            PullError::Registry { source, .. } => source.kind(),
            PullError::Manifest { source, .. } => source.kind(),
            PullError::Config { .. } => ErrorKind::InvalidImage,
            PullError::Layer { source, .. } => source.kind(),
            PullError::Store { source, .. } => source.kind(),
        }
    }
}

/// What makes two pulls the same. Credentials belong to it: one who has none must not get what another's
/// open.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    reference: Reference,
    platform: Platform,
    auth: Option<Auth>,
}

/// All pulls of one store.
pub(crate) struct Puller {
    config: Config,
    store: Arc<Store>,
    /// Permits to download and unpack one layer; given in the order they are asked for, so lower layers come
    /// first.
    downloads: Arc<Semaphore>,
    pulls: Flights<Key, Result<Digest, PullError>, Arc<Tracker>>,
    layers: Flights<ChainId, Result<Arc<LayerLease>, Arc<LayerFailure>>, Arc<Meter>>,
}

impl Puller {
    pub(crate) fn new(config: Config, store: Arc<Store>) -> Puller {
        let downloads = Arc::new(Semaphore::new(config.max_concurrent_downloads.max(1)));
        Puller { config, store, downloads, pulls: Flights::default(), layers: Flights::default() }
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) async fn pull(self: &Arc<Self>, request: PullRequest) -> Result<Digest, PullError> {
        let reference = Reference::parse(&request.reference)?;
        let platform = request.platform.unwrap_or_else(Platform::host);
        let key = Key { reference, platform, auth: request.auth };
        let joined = self.pulls.join(key.clone(), || {
            let tracker = Arc::new(Tracker::new(key.reference.to_string()));
            let work = self.clone().run(key, tracker.clone()).instrument(info_span!("pull")).boxed();
            (tracker, work)
        });
        let mut work = joined.work;
        let Some(watcher) = request.progress else { return work.await };
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                () = tokio::time::sleep(PROGRESS_PERIOD) => {
                    watcher.send_replace(joined.notes.snapshot());
                }
            }
        };
        watcher.send_replace(joined.notes.snapshot());
        outcome
    }

    pub(crate) fn progress(&self) -> Vec<PullProgress> {
        self.pulls.notes().iter().map(|tracker| tracker.snapshot()).collect()
    }

    /// The whole of one pull.
    async fn run(self: Arc<Self>, key: Key, tracker: Arc<Tracker>) -> Result<Digest, PullError> {
        let Key { reference, platform, auth } = key;
        let failed = |source| PullError::Registry { reference: reference.clone(), source: Box::new(source) };
        let session = Session::open(&reference, auth, &self.config).await.map_err(failed)?;
        let resolve = resolve::resolve(&session, &reference, &platform, &self.config.limits);
        let resolved = resolve.instrument(info_span!("resolve")).await?;
        tracker.stage(PullStage::Fetching);
        let chain = ChainId::chain(&resolved.diff_ids);
        let layers = self.bring_layers(Arc::new(session), &reference, &resolved, &chain, &tracker);
        let leases = layers.instrument(info_span!("layers")).await?;
        tracker.stage(PullStage::Committing);
        let tagged = reference.digest().is_none();
        let image = NewImage {
            id: resolved.id,
            config: resolved.config,
            config_document: resolved.config_document,
            manifest_digest: resolved.manifest_digest,
            manifest_document: resolved.manifest_document,
            layers: chain,
            repo_tags: reference.repo_tag().filter(|_| tagged).into_iter().collect(),
            repo_digests: vec![reference.repo_digest(&resolved.top_digest)],
        };
        let image = self
            .store
            .commit_image(image)
            .instrument(info_span!("commit"))
            .await
            .map_err(|source| PullError::Store { reference: reference.clone(), source: source.into() })?;
        // From here on the image itself keeps its layers.
        drop(leases);
        tracker.stage(PullStage::Done);
        Ok(image.id.clone())
    }
}
