//! The cheap handle that everybody outside holds.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Config;
use crate::digest::{ChainId, Digest};
use crate::image::Image;
use crate::import::ImportError;
use crate::progress::PullProgress;
use crate::pull::{PullError, PullRequest, Puller};
use crate::reference::ReferenceError;
use crate::store::{
    FsUsage, LayerLease, OpenError, RemoveError, Rootfs, RootfsError, Store, SweepError, SweepReport,
};

/// All images of one root directory. Cloning it clones a handle.
#[derive(Clone)]
pub struct Images {
    store: Arc<Store>,
    puller: Arc<Puller>,
}

impl Images {
    /// Opens the store beneath `config.root`, making it if absent, and removes what an earlier process left
    /// half done. Damaged records are moved to `quarantine/` and reported in the log; they never keep the
    /// store from opening.
    ///
    /// # Errors
    /// If the directory cannot be made or read, or another process has it open.
    pub async fn open(config: Config) -> Result<Images, OpenError> {
        let store = Store::open(&config).await?;
        let puller = Arc::new(Puller::new(config, store.clone()));
        Ok(Images { store, puller })
    }

    /// Brings an image here, and returns its id once it is durable. Pulls of the same thing with the same
    /// credentials join; one whose last waiter is gone is given up.
    ///
    /// # Errors
    /// See [`PullError::kind`]. Nothing half made is ever listed.
    pub async fn pull(&self, request: PullRequest) -> Result<Digest, PullError> {
        self.puller.pull(request).await
    }

    /// Snapshot of the pulls under way.
    pub fn pulls(&self) -> Vec<PullProgress> {
        self.puller.progress()
    }

    /// Takes in every image for this platform of an archive: an OCI layout or the format of `docker save`,
    /// as tar, plain or compressed.
    ///
    /// # Errors
    /// See [`ImportError::kind`]. Images before the one that failed stay.
    pub async fn import(&self, archive: PathBuf) -> Result<Vec<Arc<Image>>, ImportError> {
        crate::import::import(&self.puller, archive).await
    }

    /// Every image, sorted by id. Answered from memory.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.store.list()
    }

    /// The image that a tag, a digest reference, an id or the beginning of an id names; `None` if there is
    /// none. Answered from memory.
    ///
    /// # Errors
    /// If the text can be no reference and no id, or abbreviates the ids of several images.
    pub fn find(&self, reference_or_id: &str) -> Result<Option<Arc<Image>>, ReferenceError> {
        self.store.find(reference_or_id)
    }

    /// Removes the image with all its tags, whichever of them names it. An absent image is no error. Its
    /// layers are deleted in the background once no other image and no lease holds them.
    ///
    /// # Errors
    /// If the text names nothing that could exist, or the store cannot write.
    pub async fn remove(&self, reference_or_id: &str) -> Result<(), RemoveError> {
        self.store.remove(reference_or_id).await
    }

    /// What images occupy. Kept up as they come and go; never a walk.
    pub fn fs_usage(&self) -> FsUsage {
        self.store.fs_usage()
    }

    /// The lower directories of an image's root filesystem, leased. Data, not a mount.
    ///
    /// # Errors
    /// If no such image is in the store.
    pub fn rootfs(&self, image: &Digest) -> Result<Rootfs, RootfsError> {
        self.store.rootfs(image)
    }

    /// Keeps layers from being deleted while the lease lives, whether or not an image lists them. After a
    /// restart this is called for every recorded container before the first [`Images::sweep`].
    pub fn hold(&self, layers: &[ChainId]) -> LayerLease {
        self.store.hold(layers)
    }

    /// Deletes every layer that no image and no lease holds, and everything in the trash. From the first
    /// call on, layers that become free are deleted in the background as well.
    ///
    /// # Errors
    /// If the index cannot be written. A directory that cannot be deleted is counted in the report and tried
    /// again at the next sweep.
    pub async fn sweep(&self) -> Result<SweepReport, SweepError> {
        self.store.sweep().await
    }
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("root", &self.store.root()).finish_non_exhaustive()
    }
}
