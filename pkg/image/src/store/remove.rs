//! Removing an image: its record in one transaction, its bytes later.

use std::sync::Arc;

use super::index::Change;
use super::{Store, StoreError};
use crate::digest::Digest;
use crate::error::ErrorKind;
use crate::reference::ReferenceError;

/// Why an image is still there.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The text names nothing that could exist.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The store cannot write.
    #[error("cannot remove image {id}")]
    Store {
        /// The image.
        id: Digest,
        /// What went wrong.
        #[source]
        source: StoreError,
    },
}

impl RemoveError {
    /// What a caller may act on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            RemoveError::Reference(_) => ErrorKind::InvalidArgument,
            RemoveError::Store { source, .. } => source.kind(),
        }
    }
}

impl Store {
    pub(crate) async fn remove(self: &Arc<Self>, reference_or_id: &str) -> Result<(), RemoveError> {
        let Some(image) = self.find(reference_or_id)? else { return Ok(()) };
        let (store, id) = (self.clone(), image.id.clone());
        let worked = tokio::task::spawn_blocking(move || store.remove_blocking(&id)).await;
        let failed = |source| RemoveError::Store { id: image.id.clone(), source };
        worked.map_err(StoreError::Worker).and_then(|outcome| outcome).map_err(failed)?;
        if self.sweeping.load(std::sync::atomic::Ordering::Relaxed) {
            self.wake.notify_one();
        }
        Ok(())
    }

    fn remove_blocking(&self, id: &Digest) -> Result<(), StoreError> {
        let mut index = self.writer();
        let Some(record) = self.state().records.get(id).cloned() else { return Ok(()) };
        let change = Change { drop_images: vec![id.clone()], ..Change::default() };
        index.apply(change, || self.everything())?;
        self.state().retract(id);
        self.discount(record.documents, super::commit::IMAGE_INODES);
        // The image is gone as far as anyone can see; a folder that cannot be moved is found at next start.
        if let Err(error) = self.layout.discard(&self.layout.image(id)) {
            tracing::warn!(error = &error as &dyn std::error::Error, image = %id, "image folder stays behind");
        }
        Ok(())
    }
}
