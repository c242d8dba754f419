//! Leases: as long as one lives, its layers stay.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Store;
use crate::digest::ChainId;

/// The right to use layers. Dropping it gives them free; nothing else does.
pub struct LayerLease {
    store: Arc<Store>,
    layers: Vec<ChainId>,
}

impl LayerLease {
    /// Wraps holds that were counted already.
    pub(super) fn already_held(store: Arc<Store>, layers: Vec<ChainId>) -> LayerLease {
        LayerLease { store, layers }
    }

    /// The layers under this lease, bottom first.
    pub fn layers(&self) -> &[ChainId] {
        &self.layers
    }
}

impl Drop for LayerLease {
    fn drop(&mut self) {
        let mut freed = false;
        let mut state = self.store.state();
        for layer in &self.layers {
            if let Some(count) = state.holds.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    state.holds.remove(layer);
                    freed = true;
                }
            }
        }
        drop(state);
        if freed && self.store.sweeping.load(Ordering::Relaxed) {
            self.store.wake.notify_one();
        }
    }
}

impl std::fmt::Debug for LayerLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerLease").field("layers", &self.layers).finish_non_exhaustive()
    }
}
