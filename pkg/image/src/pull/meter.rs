//! Counting how far pulls and their layers are.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::digest::Digest;
use crate::progress::{LayerProgress, LayerStage, PullProgress, PullStage};

/// One layer, shared by all pulls that wait for it.
#[derive(Default)]
pub(crate) struct Meter {
    pub(crate) arrived: AtomicU64,
    stage: AtomicU8,
}

impl Meter {
    pub(crate) fn stage(&self, stage: LayerStage) {
        let number = match stage {
            LayerStage::Waiting => 0,
            LayerStage::Fetching => 1,
            LayerStage::Done => 2,
            LayerStage::Present => 3,
        };
        self.stage.store(number, Ordering::Relaxed);
    }

    fn current(&self) -> LayerStage {
        match self.stage.load(Ordering::Relaxed) {
            0 => LayerStage::Waiting,
            1 => LayerStage::Fetching,
            2 => LayerStage::Done,
            _ => LayerStage::Present,
        }
    }
}

/// One pull.
pub(crate) struct Tracker {
    reference: String,
    began: Instant,
    // One lock for both: a snapshot shows a stage and the layers of that stage.
    state: Mutex<(PullStage, Vec<Watched>)>,
}

struct Watched {
    digest: Digest,
    total: u64,
    meter: Arc<Meter>,
}

impl Tracker {
    pub(crate) fn new(reference: String) -> Tracker {
        Tracker { reference, began: Instant::now(), state: Mutex::default() }
    }

    pub(crate) fn stage(&self, stage: PullStage) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = stage;
    }

    pub(crate) fn forget_layers(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.clear();
    }

    pub(crate) fn watch(&self, digest: Digest, total: u64, meter: Arc<Meter>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.push(Watched { digest, total, meter });
    }

    pub(crate) fn snapshot(&self) -> PullProgress {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let layers = state.1.iter().map(|layer| LayerProgress {
            digest: layer.digest.clone(),
            stage: layer.meter.current(),
            bytes: layer.meter.arrived.load(Ordering::Relaxed),
            total: layer.total,
        });
        PullProgress {
            reference: self.reference.clone(),
            stage: state.0,
            layers: layers.collect(),
            elapsed: self.began.elapsed(),
        }
    }
}
