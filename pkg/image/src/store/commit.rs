//! Bringing layers and images in, so that whatever is visible is durable.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::Change;
use super::{ImageRecord, LayerLease, LayerRecord, Store, StoreError};
use crate::digest::{ChainId, Digest};
use crate::error::IoFailure;
use crate::image::{Image, ImageConfig};

/// Inodes of an image's folder: itself and three documents.
pub(super) const IMAGE_INODES: u64 = 4;

/// Inodes a layer has besides its content: its folder and `layer.json`.
const LAYER_INODES: u64 = 2;

/// A folder in `tmp/` that a layer is unpacked into. Dropped without commit, it goes to the trash.
pub(crate) struct Staging {
    store: Arc<Store>,
    path: Option<PathBuf>,
}

impl Staging {
    /// Makes the folder. Blocking.
    pub(crate) fn create(store: &Arc<Store>) -> Result<Staging, StoreError> {
        let path = store.layout.tmp().join(store.layout.unique());
        let make = |path: &Path, mode| {
            fs::DirBuilder::new()
                .mode(mode)
                .create(path)
                .map_err(|error| IoFailure::new("create", store.layout.shown(path), error))
        };
        make(&path, 0o700)?;
        let staging = Staging { store: store.clone(), path: Some(path.clone()) };
        make(&path.join("diff"), 0o755)?;
        Ok(staging)
    }

    /// The directory that becomes the lower directory.
    pub(crate) fn diff(&self) -> PathBuf {
        self.path.as_deref().unwrap_or_else(|| self.store.root()).join("diff")
    }

    /// Syncs everything written into the folder. Blocking, and slow on a slow disk; no lock is held.
    pub(crate) fn sync(self, layer: LayerRecord) -> Result<StagedLayer, StoreError> {
        let path = self.path.as_deref().unwrap_or_else(|| self.store.root());
        let layer = LayerRecord { bytes: layer.bytes + 4096, inodes: layer.inodes + LAYER_INODES, ..layer };
        let json = serde_json::to_vec(&layer).map_err(StoreError::Encode)?;
        self.store.layout.write(&path.join("layer.json"), &json)?;
        let shown = || self.store.layout.shown(path);
        // One sync of the file system instead of one fsync per file: a layer has thousands.
        let folder = fs::File::open(path).map_err(|error| IoFailure::new("open", shown(), error))?;
        rustix::fs::syncfs(&folder).map_err(|errno| IoFailure::new("sync", shown(), errno))?;
        Ok(StagedLayer { staging: self, layer })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            if let Err(error) = self.store.layout.discard(&path) {
                tracing::warn!(error = &error as &dyn std::error::Error, "unfinished layer stays behind");
            }
            self.store.wake.notify_one();
        }
    }
}

/// A layer that is durable, but has no name yet.
pub(crate) struct StagedLayer {
    staging: Staging,
    layer: LayerRecord,
}

impl StagedLayer {
    /// Gives the layer its name, and returns a lease on it. The rename is the commit: from then on a restart
    /// finds the layer, with or without an image. Blocking.
    pub(crate) fn commit(mut self) -> Result<LayerLease, StoreError> {
        let store = self.staging.store.clone();
        let chain = self.layer.chain.clone();
        let _writer = store.writer();
        if let Some(lease) = store.hold_if_present(&chain) {
            return Ok(lease);
        }
        let target = store.layout.layer(&chain);
        // Left by a sweep that could not move it; not in the index, so nobody uses it.
        store.layout.discard(&target)?;
        let path = self.staging.path.take().ok_or_else(|| StoreError::LayerMissing(chain.clone()))?;
        if let Err(error) = fs::rename(&path, &target) {
            self.staging.path = Some(path);
            return Err(IoFailure::new("commit", store.layout.shown(&target), error).into());
        }
        store.layout.sync(&store.layout.layers())?;
        store.account(self.layer.bytes, self.layer.inodes);
        let mut state = store.state();
        state.layers.insert(chain.clone(), self.layer.clone());
        state.add_holds(std::slice::from_ref(&chain));
        drop(state);
        Ok(LayerLease::already_held(store.clone(), vec![chain]))
    }
}

/// An image whose layers are all in the store and under a lease of the caller.
pub(crate) struct NewImage {
    pub(crate) id: Digest,
    pub(crate) config: ImageConfig,
    pub(crate) config_document: Vec<u8>,
    pub(crate) manifest_digest: Digest,
    pub(crate) manifest_document: Vec<u8>,
    pub(crate) layers: Vec<ChainId>,
    pub(crate) repo_tags: Vec<String>,
    pub(crate) repo_digests: Vec<String>,
}

impl Store {
    /// Writes the image's documents and makes it visible, in one transaction with the tags it takes over.
    pub(crate) async fn commit_image(self: &Arc<Self>, new: NewImage) -> Result<Arc<Image>, StoreError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.commit_image_blocking(new))
            .await
            .map_err(StoreError::Worker)?
    }

    pub(crate) fn commit_image_blocking(&self, new: NewImage) -> Result<Arc<Image>, StoreError> {
        let mut index = self.writer();
        let (record, robbed, put_layers, earlier) = self.plan(&new)?;
        let generation = record.generation;
        self.write_image_folder(&new, &record)?;
        let mut put_images = vec![record];
        put_images.extend(robbed);
        for other in &put_images[1..] {
            let json = serde_json::to_vec(other).map_err(StoreError::Encode)?;
            self.layout.replace(&self.layout.image(&other.id).join("record.json"), &json)?;
        }
        let change = Change { put_images: put_images.clone(), put_layers, ..Change::default() };
        index.apply(change, || self.everything())?;
        tracing::debug!(image = %new.id, generation, "image committed");
        self.account(put_images[0].documents, IMAGE_INODES);
        if let Some(earlier) = earlier {
            self.discount(earlier.documents, IMAGE_INODES);
        }
        let mut state = self.state();
        // Those that lose a tag first: publishing retracts names by owner.
        for record in put_images.into_iter().rev() {
            let pinned = self.is_pinned(&record);
            state.publish(record, pinned);
        }
        state.images.get(&new.id).cloned().ok_or(StoreError::IndexClosed)
    }

    /// The record to be written; the records that lose tags to it; the layers it needs in the index; and the
    /// record it replaces.
    #[allow(clippy::type_complexity, reason = "one caller, which takes it apart at once")]
    fn plan(
        &self,
        new: &NewImage,
    ) -> Result<(ImageRecord, Vec<ImageRecord>, Vec<LayerRecord>, Option<ImageRecord>), StoreError> {
        let state = self.state();
        let generation = state.generation + 1;
        let layers: Result<Vec<_>, _> = new
            .layers
            .iter()
            .map(|layer| {
                state.layers.get(layer).cloned().ok_or_else(|| StoreError::LayerMissing(layer.clone()))
            })
            .collect();
        let earlier = state.records.get(&new.id).cloned();
        let merged = |old: Option<&Vec<String>>, fresh: &[String]| -> Vec<String> {
            let all: BTreeSet<_> = old.into_iter().flatten().chain(fresh).cloned().collect();
            all.into_iter().collect()
        };
        let record = ImageRecord {
            id: new.id.clone(),
            manifest_digest: new.manifest_digest.clone(),
            repo_tags: merged(earlier.as_ref().map(|r| &r.repo_tags), &new.repo_tags),
            repo_digests: merged(earlier.as_ref().map(|r| &r.repo_digests), &new.repo_digests),
            layers: new.layers.clone(),
            config: new.config.clone(),
            documents: (new.config_document.len() + new.manifest_document.len()) as u64,
            generation,
        };
        let loses = |other: &&ImageRecord| {
            other.id != new.id && other.repo_tags.iter().any(|tag| new.repo_tags.contains(tag))
        };
        let robbed = state.records.values().filter(loses).cloned().map(|mut other| {
            other.repo_tags.retain(|tag| !new.repo_tags.contains(tag));
            other.generation = generation;
            other
        });
        let robbed = robbed.collect();
        Ok((record, robbed, layers?, earlier))
    }

    /// Puts manifest, config and record in place, durably.
    fn write_image_folder(&self, new: &NewImage, record: &ImageRecord) -> Result<(), StoreError> {
        let json = serde_json::to_vec(record).map_err(StoreError::Encode)?;
        let target = self.layout.image(&new.id);
        if target.is_dir() {
            // The config is the same: the folder is named after its digest. The manifest may be another.
            self.layout.replace(&target.join("manifest.json"), &new.manifest_document)?;
            self.layout.replace(&target.join("config.json"), &new.config_document)?;
            self.layout.replace(&target.join("record.json"), &json)?;
            return Ok(());
        }
        let fresh = self.layout.tmp().join(self.layout.unique());
        let written = self.write_documents(&fresh, new, &json).and_then(|()| {
            fs::rename(&fresh, &target)
                .map_err(|error| IoFailure::new("commit", self.layout.shown(&target), error))
        });
        if let Err(error) = written {
            self.layout.discard(&fresh)?;
            return Err(error.into());
        }
        self.layout.sync(&self.layout.images())?;
        Ok(())
    }

    fn write_documents(&self, folder: &Path, new: &NewImage, record: &[u8]) -> Result<(), IoFailure> {
        fs::DirBuilder::new()
            .mode(0o700)
            .create(folder)
            .map_err(|error| IoFailure::new("create", self.layout.shown(folder), error))?;
        self.layout.write(&folder.join("manifest.json"), &new.manifest_document)?;
        self.layout.write(&folder.join("config.json"), &new.config_document)?;
        self.layout.write(&folder.join("record.json"), record)?;
        self.layout.sync(folder)
    }
}
