//! Taking a pod's network away, from its record.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use carpel_sys::netns::{self, NetnsError};
use tokio::sync::OwnedMutexGuard;

use crate::bridge::{self, Bridge, BridgeError};
use crate::cni::{self, CniError};
use crate::network::{Engine, Shared, unwind};
use crate::pods::{Pod, State};
use crate::record::{BridgeRecord, CniRecord, Durability, EngineRecord, Record, RecordError};

/// How long a namespace without processes takes to die, with its devices, on a machine that is not idle.
const NAMESPACE_DEATH: Duration = Duration::from_millis(200);

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
    if let State::Leaving = entry.state() {
        return Ok(());
    }
    let turn = entry.turn.clone().lock_owned().await;
    if !shared.pods.is_current(&id, &entry) {
        // Another detach was faster. An attach that came after it is none of this call's business.
        return Ok(());
    }
    let record = match entry.state() {
        State::Absent | State::Leaving => return Ok(()),
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
    match (&record.engine, &shared.engine) {
        (EngineRecord::Cni(plan), _) => detach_cni(&shared, &record, plan).await?,
        (EngineRecord::Builtin(plan), Engine::Builtin(bridge)) if bridge.is(&plan.bridge) => {
            let (leaving, left) = (shared.clone(), record.clone());
            unwind(tokio::task::spawn_blocking(move || leave(&leaving, &left)).await)?;
            entry.set_state(State::Leaving);
            tokio::spawn(finish_leaving(shared, id, entry, record, turn));
            return Ok(());
        }
        (EngineRecord::Builtin(_), _) => {
            let (shared, record) = (shared.clone(), record.clone());
            let detach = move || detach_at_once(&shared, shared.bridge(), &record);
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

/// The quick part: the pod is off the node. The record stays for the rest, without the ports, which another
/// pod may take from now on.
fn leave(shared: &Shared, record: &Record) -> Result<(), DetachError> {
    let (Some(bridge), EngineRecord::Builtin(plan)) = (shared.bridge(), &record.engine) else {
        return Ok(());
    };
    let pod = &record.pod;
    bridge.leave(pod, &record.netns, plan)?;
    if plan.ports.is_empty() {
        return Ok(());
    }
    let mut rest = record.clone();
    rest.attachment = None;
    rest.engine = EngineRecord::Builtin(BridgeRecord { ports: Vec::new(), ..plan.clone() });
    let written = shared.store.write(&rest, Durability::Process);
    written.map_err(|source| DetachError::Record { pod: pod.clone(), source })
}

/// The slow part: deleting a pair of devices waits for RCU several times. A namespace that dies takes the pair
/// along, and the kernel does that for many at once, so it gets the time to; what is left then (somebody
/// holds the namespace open) is deleted here. If the daemon dies meanwhile, the record tells the next one.
async fn finish_leaving(
    shared: Arc<Shared>,
    id: String,
    entry: Arc<Pod>,
    record: Arc<Record>,
    _turn: OwnedMutexGuard<()>,
) {
    tokio::time::sleep(NAMESPACE_DEATH).await;
    let (leaving, left) = (shared.clone(), record.clone());
    let finished = unwind(tokio::task::spawn_blocking(move || finish_builtin(&leaving, &left)).await);
    match finished {
        Ok(()) => forget(&shared, &id, &entry),
        Err(error) => {
            tracing::warn!(pod_id = %id, error = &error as &dyn std::error::Error, "a detached pod is not gone yet");
            entry.set_state(State::Intent(record));
        }
    }
}

fn finish_builtin(shared: &Shared, record: &Record) -> Result<(), DetachError> {
    let (Some(bridge), EngineRecord::Builtin(plan)) = (shared.bridge(), &record.engine) else {
        return Ok(());
    };
    bridge.finish(&record.pod, plan)?;
    forget_builtin(shared, Some(bridge), record, plan)
}

/// All of it now: for undoing an attach, and for records of a bridge that is not configured any more.
pub(crate) fn detach_at_once(
    shared: &Shared,
    bridge: Option<&Bridge>,
    record: &Record,
) -> Result<(), DetachError> {
    let EngineRecord::Builtin(plan) = &record.engine else { return Ok(()) };
    if let Some(bridge) = bridge {
        bridge.close(&record.pod);
    }
    bridge::unmake(&record.pod, &record.netns, plan)?;
    forget_builtin(shared, bridge, record, plan)
}

/// The record, then the reservation.
fn forget_builtin(
    shared: &Shared,
    bridge: Option<&Bridge>,
    record: &Record,
    plan: &BridgeRecord,
) -> Result<(), DetachError> {
    let removed = shared.store.remove(&record.pod, Durability::Process);
    removed.map_err(|source| DetachError::Record { pod: record.pod.clone(), source })?;
    if let Some(bridge) = bridge {
        bridge.release(&record.pod, plan);
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
