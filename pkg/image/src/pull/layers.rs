//! Bringing the layers of an image in: all at once, each as it arrives, none twice.

use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::flight::Joined;
use super::meter::{Meter, Tracker};
use super::resolve::Resolved;
use super::{PullError, Puller};
use crate::digest::{ChainId, Digest};
use crate::error::ErrorKind;
use crate::layer::{self, LayerError, Ready};
use crate::manifest::Descriptor;
use crate::pipe;
use crate::progress::LayerStage;
use crate::reference::Reference;
use crate::registry::{RegistryError, Session, Transfer};
use crate::store::LayerLease;

/// Why a layer is not in the store.
#[derive(Debug, thiserror::Error)]
pub enum LayerFailure {
    /// The registry did not give it.
    #[error(transparent)]
    Fetch(RegistryError),
    /// It came, and cannot be unpacked or stored.
    #[error(transparent)]
    Unpack(UnpackFailure),
    /// A layer below it failed, and without that one it has no use.
    #[error("a layer below it failed")]
    Below,
    /// The thread that unpacked it ended early.
    #[error("the unpacking thread ended early")]
    Worker(#[source] tokio::task::JoinError),
}

/// A failure of unpacking, with its class.
#[derive(Debug, thiserror::Error)]
#[error("cannot unpack it")]
pub struct UnpackFailure(#[source] LayerError);

impl LayerFailure {
    /// What a caller may act on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            LayerFailure::Fetch(error) => error.kind(),
            LayerFailure::Unpack(UnpackFailure(error)) => error.kind(),
            LayerFailure::Below => ErrorKind::Cancelled,
            LayerFailure::Worker(error) if error.is_cancelled() => ErrorKind::Cancelled,
            LayerFailure::Worker(_) => ErrorKind::Internal,
        }
    }
}

impl From<LayerError> for LayerFailure {
    fn from(error: LayerError) -> LayerFailure {
        LayerFailure::Unpack(UnpackFailure(error))
    }
}

type Outcome = Result<Arc<LayerLease>, Arc<LayerFailure>>;
type Flying = Shared<BoxFuture<'static, Outcome>>;

/// A layer that did not come.
struct Failed {
    layer: Digest,
    /// Whether this pull brought it, or had joined another's.
    led: bool,
    source: Arc<LayerFailure>,
}

/// One layer that is wanted.
struct Wanted {
    descriptor: Descriptor,
    diff_id: Digest,
    chain: ChainId,
    /// Directories of the layers below, top-most first.
    below_paths: Vec<PathBuf>,
}

impl Puller {
    /// Every layer of the image, leased. The first failure ends it; what other pulls wait for goes on.
    pub(super) async fn bring_layers(
        self: &Arc<Self>,
        session: Arc<Session>,
        reference: &Reference,
        resolved: &Resolved,
        chain: &[ChainId],
        tracker: &Tracker,
    ) -> Result<Vec<Arc<LayerLease>>, PullError> {
        let mut leases = Vec::new();
        let first = self.bring_all(&session, resolved, chain, tracker, &mut leases).await;
        let outcome = match first {
            // A layer that another pull brought may have failed for that pull's reasons, its credentials or
            // its hosts. What has come since is leased and is not fetched again.
            Err(failed) if !failed.led => {
                self.bring_all(&session, resolved, chain, tracker, &mut leases).await
            }
            outcome => outcome,
        };
        match outcome {
            Ok(()) => Ok(leases),
            Err(Failed { layer, source, .. }) => {
                Err(PullError::Layer { reference: reference.clone(), layer, source })
            }
        }
    }

    async fn bring_all(
        self: &Arc<Self>,
        session: &Arc<Session>,
        resolved: &Resolved,
        chain: &[ChainId],
        tracker: &Tracker,
        leases: &mut Vec<Arc<LayerLease>>,
    ) -> Result<(), Failed> {
        let mut below: Option<Flying> = None;
        let mut below_paths: Vec<PathBuf> = Vec::new();
        let mut flying = FuturesUnordered::new();
        tracker.forget_layers();
        for ((descriptor, diff_id), chain) in resolved.layers.iter().zip(&resolved.diff_ids).zip(chain) {
            let wanted = Wanted {
                descriptor: descriptor.clone(),
                diff_id: diff_id.clone(),
                chain: chain.clone(),
                below_paths: below_paths.clone(),
            };
            let joined = self.join_layer(session, wanted, below);
            tracker.watch(descriptor.digest.clone(), descriptor.size, joined.notes);
            below = Some(joined.work.clone());
            below_paths.insert(0, self.store.layer_path(chain));
            let (layer, led, work) = (descriptor.digest.clone(), joined.leads, joined.work);
            flying.push(async move { work.await.map_err(|source| Failed { layer, led, source }) });
        }
        drop(below);
        let mut dependent = None;
        while let Some(outcome) = flying.next().await {
            match outcome {
                Ok(lease) => leases.push(lease),
                // The layer below says what it was.
                Err(failed) if matches!(*failed.source, LayerFailure::Below) => dependent = Some(failed),
                Err(failed) => return Err(failed),
            }
        }
        dependent.map_or(Ok(()), Err)
    }

    fn join_layer(
        self: &Arc<Self>,
        session: &Arc<Session>,
        wanted: Wanted,
        below: Option<Flying>,
    ) -> Joined<Outcome, Arc<Meter>> {
        self.layers.join(wanted.chain.clone(), || {
            let meter = Arc::new(Meter::default());
            let work = self.clone().bring(session.clone(), wanted, below, meter.clone()).boxed();
            (meter, work)
        })
    }

    /// One layer: from the registry into the store.
    async fn bring(
        self: Arc<Self>,
        session: Arc<Session>,
        wanted: Wanted,
        below: Option<Flying>,
        meter: Arc<Meter>,
    ) -> Outcome {
        if let Some(lease) = self.store.hold_if_present(&wanted.chain) {
            meter.stage(LayerStage::Present);
            return Ok(Arc::new(lease));
        }
        let ready = self.fetch(&session, &wanted, &meter).await.map_err(Arc::new)?;
        // The permit is given back by now: waiting for a layer below while holding one could wait for ever.
        let below = match below {
            None => None,
            Some(below) => Some(below.await.map_err(|_| Arc::new(LayerFailure::Below))?),
        };
        let (chain, paths) = (wanted.chain, wanted.below_paths);
        let committed = tokio::task::spawn_blocking(move || {
            // Held until the layer that looks into them is done.
            let _below = below;
            layer::commit(ready, chain, &paths)
        });
        let lease = committed.await.map_err(|error| Arc::new(LayerFailure::Worker(error)))?;
        let lease = lease.map_err(|error| Arc::new(error.into()))?;
        meter.stage(LayerStage::Done);
        Ok(Arc::new(lease))
    }

    /// Downloads and unpacks at once, as often as there are hosts whose content was not wrong yet.
    async fn fetch(&self, session: &Session, wanted: &Wanted, meter: &Meter) -> Result<Ready, LayerFailure> {
        // The semaphore is never closed.
        let _permit = self.downloads.acquire().await.ok();
        meter.stage(LayerStage::Fetching);
        let mut bad = Vec::new();
        let mut wrong = None;
        loop {
            let known = bad.len();
            let outcome = self.fetch_once(session, wanted, meter, &mut bad).await;
            match (outcome, wrong.take()) {
                (Err(error @ LayerFailure::Fetch(RegistryError::DigestMismatch { .. })), _)
                    if bad.len() > known =>
                {
                    tracing::warn!(layer = %wanted.descriptor.digest, "a host gives wrong content");
                    wrong = Some(error);
                }
                // No host is left that was not wrong.
                (Err(LayerFailure::Fetch(RegistryError::NoHost(_))), Some(wrong)) => return Err(wrong),
                (outcome, _) => return outcome,
            }
        }
    }

    async fn fetch_once(
        &self,
        session: &Session,
        wanted: &Wanted,
        meter: &Meter,
        bad: &mut Vec<usize>,
    ) -> Result<Ready, LayerFailure> {
        let (writer, reader) = pipe::pipe();
        let unpacking = {
            let (store, limits) = (self.store.clone(), self.config.limits.clone());
            let (size, diff_id) = (wanted.descriptor.size, wanted.diff_id.clone());
            tokio::task::spawn_blocking(move || layer::unpack(&store, reader, size, &diff_id, &limits))
        };
        let transfer = Transfer::new(&wanted.descriptor, writer, &meter.arrived);
        let fetched = session.blob(transfer, bad).await;
        let unpacked = unpacking.await.map_err(LayerFailure::Worker)?;
        match (fetched, unpacked) {
            // Whatever the unpacker met, it met in bytes that are not the layer's.
            (Err(error @ RegistryError::DigestMismatch { .. }), _) => Err(LayerFailure::Fetch(error)),
            (_, Err(error)) if !error.is_aborted() => Err(error.into()),
            (Err(error), _) => Err(LayerFailure::Fetch(error)),
            (Ok(_), outcome) => outcome.map_err(LayerFailure::from),
        }
    }
}
