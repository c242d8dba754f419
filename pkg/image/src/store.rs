//! The content store: which images there are, where their layers lie, and who holds them.
//!
//! ```text
//! root/                       0700
//!   lock                      flock: one process per root
//!   index.redb                images and layers; the answer at start
//!   reserve                   space given back when the disk is full, so that removal works
//!   images/<id>/              manifest.json, config.json, record.json (what the index says, to rebuild it)
//!   layers/<chain id>/        layer.json, diff/ (the lower directory for overlayfs)
//!   tmp/ trash/ quarantine/   work in progress; on its way out; damaged records
//! ```
//!
//! Order of durability: a layer is written in `tmp/`, synced as a file system, renamed into `layers/`; when
//! all layers of an image are there its folder is synced and renamed into `images/`; one transaction of the
//! index then makes it visible. Whatever a crash leaves is either invisible or whole: `tmp/` is thrown away
//! at the next start, a layer without image is kept until the next sweep, an image folder without index
//! entry is thrown away.
//!
//! Memory answers every question. [`State`] is what readers see; `writer` serialises changes of the disk and
//! is only ever locked on blocking threads.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::digest::{ChainId, Digest};
use crate::error::{ErrorKind, IoFailure};
use crate::image::{Image, ImageConfig};
use crate::reference::{Query, ReferenceError};

mod commit;
pub(crate) mod delete;
mod index;
mod layout;
mod lease;
mod open;
mod remove;
mod sweep;

pub(crate) use commit::{NewImage, Staging};
pub use lease::LayerLease;
pub use open::OpenError;
pub use remove::RemoveError;
pub use sweep::{SweepError, SweepReport};

/// What images occupy on disk (CRI `ImageFsInfo`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsUsage {
    /// Directory whose file system holds the images.
    pub mountpoint: PathBuf,
    /// Bytes of blocks in use by layers and image records.
    pub used_bytes: u64,
    /// Inodes in use by them.
    pub inodes_used: u64,
}

/// Lower directories of a root filesystem, and the right to use them.
#[derive(Debug)]
pub struct Rootfs {
    /// For overlayfs, top-most first. Empty for an image without layers.
    pub lowers: Vec<PathBuf>,
    /// The same layers by name, bottom first: what a container's record keeps for [`crate::Images::hold`].
    pub layers: Vec<ChainId>,
    /// Keeps the directories from being deleted.
    pub lease: LayerLease,
}

/// Why there is no rootfs.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The store has no such image.
    #[error("image {0} is not in the store")]
    NotFound(Digest),
}

/// A failure of the store under another operation.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("image store")]
    Io(#[from] IoFailure),
    /// The index could not be read or written.
    #[error("cannot {action} the image index")]
    Index {
        /// The operation, as a verb.
        action: &'static str,
        /// What the database says.
        #[source]
        source: Box<redb::Error>,
    },
    /// The index was closed by an earlier failure and could not be opened again.
    #[error("the image index is closed after an earlier failure")]
    IndexClosed,
    /// A record could not be written as JSON.
    #[error("cannot encode a record of the image store")]
    Encode(#[source] serde_json::Error),
    /// A layer that the image needs is gone from the store.
    #[error("layer {0} is not in the store")]
    LayerMissing(ChainId),
    /// The thread that did the work panicked or the runtime is shutting down.
    #[error("a worker of the image store ended early")]
    Worker(#[source] tokio::task::JoinError),
}

impl StoreError {
    /// What a caller may act on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            StoreError::Io(failure) => failure.kind(),
            StoreError::Index { source, .. } => match source.as_ref() {
                redb::Error::Io(error) => {
                    IoFailure::new("write", "index", std::io::Error::from(error.kind())).kind()
                }
                _ => ErrorKind::Internal,
            },
            StoreError::Worker(error) if error.is_cancelled() => ErrorKind::Cancelled,
            StoreError::IndexClosed
            | StoreError::Encode(_)
            | StoreError::LayerMissing(_)
            | StoreError::Worker(_) => ErrorKind::Internal,
        }
    }
}

/// What the disk says of a layer: `layer.json`, and its entry in the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) chain: ChainId,
    pub(crate) diff_id: Digest,
    /// Bytes of blocks and number of inodes in use.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// What the disk says of an image: `record.json`, and its entry in the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) id: Digest,
    pub(crate) manifest_digest: Digest,
    pub(crate) repo_tags: Vec<String>,
    pub(crate) repo_digests: Vec<String>,
    pub(crate) layers: Vec<ChainId>,
    pub(crate) config: ImageConfig,
    /// Bytes of manifest and config.
    pub(crate) documents: u64,
    /// Grows with every change in the store: of two records with one tag, the later is right.
    pub(crate) generation: u64,
}

/// What readers see. Locked for moments only, never across I/O.
#[derive(Default)]
struct State {
    records: BTreeMap<Digest, ImageRecord>,
    images: BTreeMap<Digest, Arc<Image>>,
    /// Tags and digest references, each to the image it resolves to.
    names: HashMap<String, Digest>,
    layers: HashMap<ChainId, LayerRecord>,
    /// How many leases are on each layer.
    holds: HashMap<ChainId, usize>,
    generation: u64,
}

/// One root directory. Writes go through `writer`; reads through `state`.
pub(crate) struct Store {
    layout: layout::Layout,
    pinned: Vec<String>,
    // A std mutex: nothing is awaited while it is held.
    state: Mutex<State>,
    // Taken before `state` where both are needed, on blocking threads only.
    writer: Mutex<index::Index>,
    used_bytes: AtomicU64,
    used_inodes: AtomicU64,
    // Held while the trash is emptied: two at once would meet each other's half deleted trees.
    emptying: Mutex<()>,
    /// Set by the first sweep: before it, leases of earlier containers may not be known yet.
    sweeping: AtomicBool,
    /// Woken when something became free, and when the store goes.
    wake: Arc<Notify>,
    // Held for its flock.
    _lock: std::fs::File,
}

impl Store {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under this lock leaves maps that are each whole; going on is better than failing for ever.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, index::Index> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn root(&self) -> &Path {
        self.layout.root()
    }

    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        self.state().images.values().cloned().collect()
    }

    pub(crate) fn find(&self, text: &str) -> Result<Option<Arc<Image>>, ReferenceError> {
        let query = Query::parse(text)?;
        self.state().resolve(text, &query)
    }

    pub(crate) fn fs_usage(&self) -> FsUsage {
        FsUsage {
            mountpoint: self.layout.root().to_owned(),
            used_bytes: self.used_bytes.load(Ordering::Relaxed),
            inodes_used: self.used_inodes.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn rootfs(self: &Arc<Self>, image: &Digest) -> Result<Rootfs, RootfsError> {
        let mut state = self.state();
        let image = state.images.get(image).cloned().ok_or_else(|| RootfsError::NotFound(image.clone()))?;
        state.add_holds(&image.layers);
        drop(state);
        let lowers = image.layers.iter().rev().map(|layer| self.layout.diff(layer)).collect();
        let lease = LayerLease::already_held(self.clone(), image.layers.clone());
        Ok(Rootfs { lowers, layers: image.layers.clone(), lease })
    }

    pub(crate) fn hold(self: &Arc<Self>, layers: &[ChainId]) -> LayerLease {
        self.state().add_holds(layers);
        LayerLease::already_held(self.clone(), layers.to_vec())
    }

    /// A lease on the layer if it is in the store, taken in the same moment as the look.
    pub(crate) fn hold_if_present(self: &Arc<Self>, layer: &ChainId) -> Option<LayerLease> {
        let mut state = self.state();
        if !state.layers.contains_key(layer) {
            return None;
        }
        state.add_holds(std::slice::from_ref(layer));
        Some(LayerLease::already_held(self.clone(), vec![layer.clone()]))
    }

    /// The directory of a layer's content.
    pub(crate) fn layer_path(&self, layer: &ChainId) -> PathBuf {
        self.layout.diff(layer)
    }

    /// What the index should hold.
    fn everything(&self) -> index::Change {
        let state = self.state();
        index::Change {
            put_images: state.records.values().cloned().collect(),
            put_layers: state.layers.values().cloned().collect(),
            ..index::Change::default()
        }
    }

    fn account(&self, bytes: u64, inodes: u64) {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.used_inodes.fetch_add(inodes, Ordering::Relaxed);
    }

    fn discount(&self, bytes: u64, inodes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.used_inodes.fetch_sub(inodes, Ordering::Relaxed);
    }

    fn is_pinned(&self, record: &ImageRecord) -> bool {
        record.repo_tags.iter().chain(&record.repo_digests).any(|name| {
            self.pinned.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == pattern,
            })
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // The sweeper finds the store gone and ends.
        self.wake.notify_one();
    }
}

impl State {
    fn add_holds(&mut self, layers: &[ChainId]) {
        for layer in layers {
            *self.holds.entry(layer.clone()).or_default() += 1;
        }
    }

    /// What a query means here. Whole ids go before names, names before abbreviated ids.
    fn resolve(&self, text: &str, query: &Query) -> Result<Option<Arc<Image>>, ReferenceError> {
        if let Some(image) = query.id.as_ref().and_then(|id| self.images.get(id)) {
            return Ok(Some(image.clone()));
        }
        if let Some(reference) = &query.reference {
            // A tag beside a digest is only a comment: the digest decides.
            let name = match reference.digest() {
                Some(digest) => reference.repo_digest(digest),
                None => reference.to_string(),
            };
            if let Some(image) = self.names.get(&name).and_then(|id| self.images.get(id)) {
                return Ok(Some(image.clone()));
            }
        }
        let Some(prefix) = &query.id_prefix else { return Ok(None) };
        let mut fits = self.images.values().filter(|image| image.id.hex().starts_with(prefix.as_str()));
        match (fits.next(), fits.next()) {
            (Some(_), Some(_)) => Err(ReferenceError::Ambiguous(text.to_owned())),
            (first, _) => Ok(first.cloned()),
        }
    }

    /// Puts a record in place of the image's earlier one, and its names with it.
    fn publish(&mut self, record: ImageRecord, pinned: bool) {
        self.retract(&record.id);
        let layer_bytes: u64 =
            record.layers.iter().filter_map(|layer| self.layers.get(layer)).map(|layer| layer.bytes).sum();
        let image = Image {
            id: record.id.clone(),
            repo_tags: record.repo_tags.clone(),
            repo_digests: record.repo_digests.clone(),
            size: layer_bytes + record.documents,
            config: record.config.clone(),
            manifest_digest: record.manifest_digest.clone(),
            pinned,
            layers: record.layers.clone(),
        };
        for name in record.repo_tags.iter().chain(&record.repo_digests) {
            self.names.insert(name.clone(), record.id.clone());
        }
        self.generation = self.generation.max(record.generation);
        self.images.insert(record.id.clone(), Arc::new(image));
        self.records.insert(record.id.clone(), record);
    }

    /// Takes an image and its names out.
    fn retract(&mut self, id: &Digest) {
        self.images.remove(id);
        if self.records.remove(id).is_some() {
            self.names.retain(|_, owner| owner != id);
        }
    }
}
