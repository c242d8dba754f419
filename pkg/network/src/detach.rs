//! Taking a pod's network away, from its record.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use carpel_sys::netns::{self, NetnsError};

use crate::bridge::{self, Bridge, BridgeError};
use crate::cni::{self, CniError};
use crate::network::{Engine, Shared, unwind};
use crate::pods::{Pod, State};
use crate::record::{CniRecord, Durability, EngineRecord, Record, RecordError};

/// Why a pod's network is still there, at least in part. The record stays; try again.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// The built-in bridge failed.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// A CNI plugin failed, so the pod's address may still be taken.
    #[error("CNI DEL for pod {pod}")]
    Cni {
        /// The pod.
        pod: String,
        /// Which, and how.
        #[source]
        source: CniError,
    },
    /// The namespace cannot be unpinned.
    #[error("network namespace of pod {pod}")]
    Netns {
        /// The pod.
        pod: String,
        /// Why not.
        #[source]
        source: NetnsError,
    },
    /// The record cannot be removed.
    #[error("forget the network of pod {pod}")]
    Record {
        /// The pod.
        pod: String,
        /// Why not.
        #[source]
        source: RecordError,
    },
}

/// Where a pod's namespace is pinned: named by the pod, so that an audit can match them.
pub(crate) fn pin(netns_dir: &Path, pod: &str) -> PathBuf {
    netns_dir.join(format!("carpel-{}", &pod[..20]))
}

pub(crate) async fn detach(shared: Arc<Shared>, id: String) -> Result<(), DetachError> {
    let Some(entry) = shared.pods.find(&id) else { return Ok(()) };
    let _turn = entry.turn.lock().await;
    if !shared.pods.is_current(&id, &entry) {
        // Another detach was faster. An attach that came after it is none of this call's business.
        return Ok(());
    }
    let record = match entry.state() {
        State::Absent => return Ok(()),
        State::Damaged => {
            detach_damaged(&shared, &id).await?;
            forget(&shared, &id, &entry);
            return Ok(());
        }
        State::Intent(record) | State::Attached(record, _) => record,
    };
    // From now on it is not attached, whatever happens; and a socket would keep the namespace alive.
    entry.set_state(State::Intent(record.clone()));
    *entry.counters.lock().unwrap_or_else(PoisonError::into_inner) = None;
    match &record.engine {
        EngineRecord::Cni(plan) => detach_cni(&shared, &record, plan).await?,
        EngineRecord::Builtin(_) => {
            let (shared, record) = (shared.clone(), record.clone());
            let detach = move || detach_builtin(&shared, shared.bridge(), &record);
            unwind(tokio::task::spawn_blocking(detach).await)?;
        }
    }
    forget(&shared, &id, &entry);
    Ok(())
}

fn forget(shared: &Shared, id: &str, entry: &Arc<Pod>) {
    entry.set_state(State::Absent);
    shared.pods.forget(id, entry);
}

impl Shared {
    fn bridge(&self) -> Option<&Bridge> {
        match &self.engine {
            Engine::Builtin(bridge) => Some(bridge),
            Engine::Cni(_) => None,
        }
    }
}

/// Everything a record of the built-in bridge stands for, then the record, then the reservation.
pub(crate) fn detach_builtin(
    shared: &Shared,
    bridge: Option<&Bridge>,
    record: &Record,
) -> Result<(), DetachError> {
    let EngineRecord::Builtin(plan) = &record.engine else { return Ok(()) };
    let pod = &record.pod;
    if let Some(bridge) = bridge {
        bridge.close(pod);
    }
    bridge::unmake(pod, &record.netns, plan)?;
    let removed = shared.store.remove(pod, Durability::Process);
    removed.map_err(|source| DetachError::Record { pod: pod.clone(), source })?;
    if let Some(bridge) = bridge {
        bridge.release(pod, plan);
    }
    Ok(())
}

/// DEL of every network in reverse, then the namespace, then the record.
pub(crate) async fn detach_cni(
    shared: &Arc<Shared>,
    record: &Arc<Record>,
    plan: &CniRecord,
) -> Result<(), DetachError> {
    let pod = record.pod.clone();
    let netns_error = |source| DetachError::Netns { pod: pod.clone(), source };
    // A path where no namespace is pinned any more must not reach a plugin: it would enter something else,
    // or fail where DEL with no namespace at all succeeds (CNI 1.1.0, "DEL": CNI_NETNS may be empty).
    let pinned = netns::open(&record.netns).map_err(netns_error)?.is_some();
    let netns = pinned.then_some(record.netns.as_path());
    cni::del(&pod, netns, plan).await.map_err(|source| DetachError::Cni { pod: pod.clone(), source })?;
    let (shared, record) = (shared.clone(), record.clone());
    unwind(tokio::task::spawn_blocking(move || finish(&shared, &record.pod, &record.netns)).await)
}

fn finish(shared: &Shared, pod: &str, netns: &Path) -> Result<(), DetachError> {
    netns::remove(netns).map_err(|source| DetachError::Netns { pod: pod.into(), source })?;
    let removed = shared.store.remove(pod, Durability::PowerCut);
    removed.map_err(|source| DetachError::Record { pod: pod.into(), source })
}

/// Nothing is known but the id: what it names is removed, and plugins get what libcni's cache remembers.
async fn detach_damaged(shared: &Arc<Shared>, pod: &str) -> Result<(), DetachError> {
    let pin = pin(&shared.config.netns_dir, pod);
    if let Engine::Cni(engine) = &shared.engine {
        let pinned =
            netns::open(&pin).map_err(|source| DetachError::Netns { pod: pod.into(), source })?.is_some();
        let deleted = engine.del_cached(pod, pinned.then_some(pin.as_path())).await;
        deleted.map_err(|source| DetachError::Cni { pod: pod.into(), source })?;
    }
    let (shared, pod) = (shared.clone(), pod.to_owned());
    let remove = move || {
        bridge::unmake_by_name(&pod, &pin)?;
        finish(&shared, &pod, &pin)
    };
    unwind(tokio::task::spawn_blocking(remove).await)
}
