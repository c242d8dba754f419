//! Deleting what nobody holds.
//!
//! Choosing is quick and under the writer's lock; deleting is slow and under none: a victim is taken out of
//! the index and renamed into `trash/` first, so it can be pulled anew while its old bytes still go.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::index::Change;
use super::{LayerRecord, Store, StoreError, delete};
use crate::digest::ChainId;
use crate::error::{ErrorKind, IoFailure};

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Layers deleted.
    pub layers: usize,
    /// Bytes of blocks they occupied.
    pub bytes: u64,
    /// Things in the trash that could not be deleted and are tried again next time.
    pub left: usize,
}

/// Why nothing was swept.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The store cannot be read or written.
    #[error("cannot sweep the image store")]
    Store(#[from] StoreError),
}

impl SweepError {
    /// What a caller may act on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            SweepError::Store(source) => source.kind(),
        }
    }
}

/// Starts the task that sweeps whenever something becomes free. It ends with the store.
pub(super) fn spawn(store: &Arc<Store>) {
    let (weak, wake) = (Arc::downgrade(store), store.wake.clone());
    tokio::spawn(async move {
        loop {
            wake.notified().await;
            let Some(store) = weak.upgrade() else { return };
            if let Err(error) = store.tidy().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "background sweep failed");
            }
        }
    });
}

impl Store {
    pub(crate) async fn sweep(self: &Arc<Self>) -> Result<SweepReport, SweepError> {
        self.sweeping.store(true, Ordering::Relaxed);
        let store = self.clone();
        let worked = tokio::task::spawn_blocking(move || store.sweep_blocking()).await;
        Ok(worked.map_err(StoreError::Worker)??)
    }

    /// What the background does when something became free: a sweep, or before the first sweep, when leases
    /// of earlier containers may not be known yet, only the trash.
    async fn tidy(self: &Arc<Self>) -> Result<(), SweepError> {
        if self.sweeping.load(Ordering::Relaxed) {
            return self.sweep().await.map(|_| ());
        }
        let store = self.clone();
        let worked = tokio::task::spawn_blocking(move || store.empty_trash()).await;
        worked.map_err(StoreError::Worker)??;
        Ok(())
    }

    fn sweep_blocking(&self) -> Result<SweepReport, StoreError> {
        let victims = self.retire_layers()?;
        let bytes = victims.iter().map(|layer| layer.bytes).sum();
        let left = self.empty_trash()?;
        Ok(SweepReport { layers: victims.len(), bytes, left })
    }

    /// Takes every layer that no image and no lease holds out of the index and into the trash.
    fn retire_layers(&self) -> Result<Vec<LayerRecord>, StoreError> {
        let mut index = self.writer();
        let victims: Vec<LayerRecord> = {
            let mut state = self.state();
            let used: HashSet<_> = state.records.values().flat_map(|r| r.layers.iter().cloned()).collect();
            let is_free = |chain: &&ChainId| !used.contains(*chain) && !state.holds.contains_key(*chain);
            let free: Vec<ChainId> = state.layers.keys().filter(is_free).cloned().collect();
            // Out of memory in the same moment: nobody can take a lease on them from here on.
            free.iter().filter_map(|chain| state.layers.remove(chain)).collect()
        };
        if victims.is_empty() {
            return Ok(victims);
        }
        let drop_layers = victims.iter().map(|layer| layer.chain.clone()).collect();
        if let Err(error) = index.apply(Change { drop_layers, ..Change::default() }, || self.everything()) {
            let mut state = self.state();
            state.layers.extend(victims.into_iter().map(|layer| (layer.chain.clone(), layer)));
            return Err(error);
        }
        for layer in &victims {
            self.layout.discard(&self.layout.layer(&layer.chain))?;
            self.discount(layer.bytes, layer.inodes);
        }
        Ok(victims)
    }

    /// Deletes what is in the trash, and returns how much of it resists.
    fn empty_trash(&self) -> Result<usize, StoreError> {
        let _alone = self.emptying.lock().unwrap_or_else(PoisonError::into_inner);
        let trash = self.layout.trash();
        let folder = std::fs::File::open(&trash)
            .map_err(|error| IoFailure::new("open", self.layout.shown(&trash), error))?;
        let mut left = 0;
        for name in self.layout.names(&trash)? {
            if let Err(error) = delete::tree(&folder, &name) {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot delete from the trash");
                left += 1;
            }
        }
        Ok(left)
    }
}
