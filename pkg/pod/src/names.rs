//! Names of pods: one sandbox for each, and retries that join.
//!
//! A reservation is part of its operation and is freed by its end: by a run that failed, or by the
//! pod's removal. A retry of a run that is under way waits for the same outcome, and one that comes
//! after it gets the same id.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use carpel_spec::config::{SandboxConfig, SandboxMetadata};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use crate::{PodId, RunError};

/// How a run ends, for all who wait for it.
pub(crate) type Outcome = Shared<BoxFuture<'static, Result<PodId, RunError>>>;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Names {
    // Locked for the length of a map operation.
    reserved: Mutex<HashMap<SandboxMetadata, Reservation>>,
}

#[derive(Debug)]
struct Reservation {
    id: PodId,
    config: Arc<SandboxConfig>,
    outcome: Outcome,
}

impl Names {
    /// Joins the run of this name, or starts one with `start`.
    pub(crate) fn join_or_start(
        &self,
        config: SandboxConfig,
        start: impl FnOnce(PodId, Arc<SandboxConfig>) -> Outcome,
    ) -> Result<Outcome, RunError> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reservation) = reserved.get(&config.metadata) {
            if is_same(&reservation.config, &config) {
                return Ok(reservation.outcome.clone());
            }
            return Err(taken(&config.metadata, reservation.id.clone()));
        }
        let id = PodId::random().map_err(|err| RunError::Id(Arc::new(err)))?;
        let config = Arc::new(config);
        let outcome = start(id.clone(), Arc::clone(&config));
        let metadata = config.metadata.clone();
        reserved.insert(metadata, Reservation { id, config, outcome: outcome.clone() });
        Ok(outcome)
    }

    /// Reserves the name of a pod that is there already.
    pub(crate) fn adopt(&self, id: PodId, config: Arc<SandboxConfig>) {
        let outcome = std::future::ready(Ok(id.clone())).boxed().shared();
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        reserved.insert(config.metadata.clone(), Reservation { id, config, outcome });
    }

    /// Frees a name, if this pod has it.
    pub(crate) fn release(&self, metadata: &SandboxMetadata, id: &PodId) {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        if reserved.get(metadata).is_some_and(|reservation| reservation.id == *id) {
            reserved.remove(metadata);
        }
    }
}

pub(crate) fn taken(metadata: &SandboxMetadata, id: PodId) -> RunError {
    let name = format!("{}/{}", metadata.namespace, metadata.name);
    RunError::NameTaken { name, attempt: metadata.attempt, id }
}

/// Labels and annotations may change between two tries of the kubelet's; what is made may not.
fn is_same(one: &SandboxConfig, other: &SandboxConfig) -> bool {
    let bare = |config: &SandboxConfig| {
        let mut bare = config.clone();
        bare.labels.clear();
        bare.annotations.clear();
        bare
    };
    bare(one) == bare(other)
}
