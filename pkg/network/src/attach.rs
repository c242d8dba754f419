//! Giving a pod its network: check, reserve, write the intent, make, write the result. Any failure after the
//! intent is undone in one place, by the same code that detaches.

use std::path::PathBuf;
use std::sync::Arc;

use carpel_sys::netns::{self, NetnsError};

use crate::attachment::{Attachment, NetworkStatus};
use crate::bridge::{self, Bridge, BridgeError, PlanError};
use crate::cni::{Cni, CniError, CniPlanError};
use crate::detach::{self, DetachError};
use crate::netlink::{Batch, Family, NetlinkError, Socket, route};
use crate::network::{Engine, Shared, settle, unwind};
use crate::pods::{Pod, State};
use crate::record::{Durability, EngineRecord, Record, RecordError, is_pod_id};
use crate::request::AttachRequest;

/// Why a pod got no network. Nothing of it is left, except for [`AttachError::Leftover`].
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The pod's id is no id.
    #[error("pod id {0:?} is not 64 lower-case hexadecimal digits")]
    PodId(String),
    /// The pod has a network, or a rest of one, already.
    #[error("pod {0} has a network already; detach it first")]
    Exists(String),
    /// The node cannot attach pods now; the text is that of [`NetworkStatus::NotReady`].
    #[error("{0}")]
    NotReady(String),
    /// The built-in bridge cannot give what the pod asks for.
    #[error("network of pod {pod}")]
    Plan {
        /// The pod.
        pod: String,
        /// What it cannot have.
        #[source]
        source: PlanError,
    },
    /// The CNI configuration or the pod's request cannot be turned into plugin calls.
    #[error("network of pod {pod}")]
    CniPlan {
        /// The pod.
        pod: String,
        /// Why not.
        #[source]
        source: CniPlanError,
    },
    /// The intent or the result cannot be written.
    #[error("remember the network of pod {pod}")]
    Record {
        /// The pod.
        pod: String,
        /// Why not.
        #[source]
        source: RecordError,
    },
    /// The namespace cannot be made.
    #[error("network namespace of pod {pod}")]
    Netns {
        /// The pod.
        pod: String,
        /// Why not.
        #[source]
        source: NetnsError,
    },
    /// Loopback cannot be switched on.
    #[error("loopback of pod {pod}")]
    Loopback {
        /// The pod.
        pod: String,
        /// Why not.
        #[source]
        source: NetlinkError,
    },
    /// The built-in bridge failed.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// A CNI plugin failed.
    #[error("CNI ADD for pod {pod}")]
    Cni {
        /// The pod.
        pod: String,
        /// Which, and how.
        #[source]
        source: CniError,
    },
    /// The attach failed, and so did undoing it: the pod stays known until a detach succeeds.
    #[error("attach failed, and undoing it too ({undo}); detach the pod later")]
    Leftover {
        /// Why the attach failed.
        #[source]
        attach: Box<AttachError>,
        /// Why undoing it failed.
        undo: Box<DetachError>,
    },
}

pub(crate) async fn attach(shared: Arc<Shared>, request: AttachRequest) -> Result<Attachment, AttachError> {
    if !is_pod_id(&request.pod) {
        return Err(AttachError::PodId(request.pod));
    }
    let (entry, _turn) = loop {
        let entry = shared.pods.find_or_insert(&request.pod);
        let turn = entry.turn.clone().lock_owned().await;
        // A detach that was before us in the queue may have forgotten the entry; then ask for a new one.
        if shared.pods.is_current(&request.pod, &entry) {
            break (entry, turn);
        }
    };
    if !matches!(entry.state(), State::Absent) {
        return Err(AttachError::Exists(request.pod));
    }
    let outcome = match &shared.engine {
        Engine::Builtin(_) => {
            let first = attach_builtin_blocking(&shared, &entry, &request).await;
            if is_exhausted(&first) {
                // Pods that are leaving still hold their addresses, but not for long.
                settle(&shared).await;
                attach_builtin_blocking(&shared, &entry, &request).await
            } else {
                first
            }
        }
        Engine::Cni(cni) => attach_cni(&shared, cni, &entry, &request).await,
    };
    if matches!(entry.state(), State::Absent) {
        shared.pods.forget(&request.pod, &entry);
    }
    outcome
}

/// Where the pod's namespace is pinned. Twenty digits tell pods apart and keep names short for people.
fn pin(shared: &Shared, pod: &str) -> PathBuf {
    detach::pin(&shared.config.netns_dir, pod)
}

// === the built-in bridge ===

async fn attach_builtin_blocking(
    shared: &Arc<Shared>,
    entry: &Arc<Pod>,
    request: &AttachRequest,
) -> Result<Attachment, AttachError> {
    let (shared, entry, request) = (shared.clone(), entry.clone(), request.clone());
    unwind(tokio::task::spawn_blocking(move || attach_builtin(&shared, &entry, &request)).await)
}

fn is_exhausted(outcome: &Result<Attachment, AttachError>) -> bool {
    matches!(outcome, Err(AttachError::Plan { source: PlanError::Exhausted(_), .. }))
}

fn attach_builtin(shared: &Shared, entry: &Pod, request: &AttachRequest) -> Result<Attachment, AttachError> {
    let Engine::Builtin(bridge) = &shared.engine else {
        return Err(AttachError::NotReady("the built-in bridge is not configured".into()));
    };
    let pod = &request.pod;
    let plan = bridge.plan(request).map_err(|source| AttachError::Plan { pod: pod.clone(), source })?;
    let pin = pin(shared, pod);
    let record = Record::intent(request, pin.clone(), EngineRecord::Builtin(plan.clone()));
    if let Err(source) = shared.store.write(&record, Durability::Process) {
        bridge.release(pod, &plan);
        return Err(AttachError::Record { pod: pod.clone(), source });
    }
    let record = Arc::new(record);
    entry.set_state(State::Intent(record.clone()));
    let made = bridge.make(&pin, &plan, request).map_err(AttachError::from);
    match made.and_then(|made| remember(shared, &record, made, Durability::Process)) {
        Ok((record, attachment)) => {
            entry.set_state(State::Attached(record, Arc::new(attachment.clone())));
            Ok(attachment)
        }
        Err(error) => Err(undo_builtin(shared, bridge, entry, &record, error)),
    }
}

fn undo_builtin(
    shared: &Shared,
    bridge: &Bridge,
    entry: &Pod,
    record: &Record,
    attach: AttachError,
) -> AttachError {
    match detach::detach_at_once(shared, Some(bridge), record) {
        Ok(()) => {
            entry.set_state(State::Absent);
            attach
        }
        Err(undo) => AttachError::Leftover { attach: Box::new(attach), undo: Box::new(undo) },
    }
}

/// The complete record, written.
fn remember(
    shared: &Shared,
    intent: &Record,
    attachment: Attachment,
    durability: Durability,
) -> Result<(Arc<Record>, Attachment), AttachError> {
    let mut record = intent.clone();
    record.set_attachment(&attachment);
    let written = shared.store.write(&record, durability);
    written.map_err(|source| AttachError::Record { pod: record.pod.clone(), source })?;
    Ok((Arc::new(record), attachment))
}

// === CNI ===

async fn attach_cni(
    shared: &Arc<Shared>,
    cni: &Cni,
    entry: &Arc<Pod>,
    request: &AttachRequest,
) -> Result<Attachment, AttachError> {
    let pod = &request.pod;
    let _not_collecting = shared.collecting.read().await;
    if let NetworkStatus::NotReady { message, .. } = cni.status() {
        return Err(AttachError::NotReady(message));
    }
    let plan = cni.plan(request).map_err(|source| AttachError::CniPlan { pod: pod.clone(), source })?;
    let intent = Record::intent(request, pin(shared, pod), EngineRecord::Cni(plan.clone()));
    let record = Arc::new(intent);
    let begun = {
        let (shared, record, entry) = (shared.clone(), record.clone(), entry.clone());
        let request = request.clone();
        unwind(tokio::task::spawn_blocking(move || begin_cni(&shared, &record, &entry, &request)).await)
    };
    let made = match begun {
        Err(error @ AttachError::Record { .. }) => return Err(error),
        Err(error) => Err(error),
        Ok(()) => crate::cni::add(pod, &record.netns, &plan)
            .await
            .map_err(|source| AttachError::Cni { pod: pod.clone(), source }),
    };
    let remembered = match made {
        Err(error) => Err(error),
        Ok(attachment) => {
            let (shared, record) = (shared.clone(), record.clone());
            let write = move || remember(&shared, &record, attachment, Durability::PowerCut);
            unwind(tokio::task::spawn_blocking(write).await)
        }
    };
    match remembered {
        Ok((record, attachment)) => {
            entry.set_state(State::Attached(record, Arc::new(attachment.clone())));
            Ok(attachment)
        }
        Err(attach) => match detach::detach_cni(shared, &record, &plan).await {
            Ok(()) => {
                entry.set_state(State::Absent);
                Err(attach)
            }
            Err(undo) => Err(AttachError::Leftover { attach: Box::new(attach), undo: Box::new(undo) }),
        },
    }
}

/// The intent, then a namespace with loopback on, then the pod's settings: plugins find it ready.
fn begin_cni(
    shared: &Shared,
    record: &Arc<Record>,
    entry: &Pod,
    request: &AttachRequest,
) -> Result<(), AttachError> {
    let pod = &record.pod;
    if let Err(source) = shared.store.write(record, Durability::PowerCut) {
        return Err(AttachError::Record { pod: pod.clone(), source });
    }
    entry.set_state(State::Intent(record.clone()));
    let netns_error = |source| AttachError::Netns { pod: pod.clone(), source };
    let inside = request.pin_namespace(&record.netns, || {
        let mut socket = Socket::open(Family::Route)?;
        let mut batch = Batch::default();
        route::set_up(&mut batch, route::LOOPBACK_INDEX);
        socket.execute(batch)
    });
    inside.map_err(netns_error)?.map_err(|source| AttachError::Loopback { pod: pod.clone(), source })?;
    if let Some(ns) = netns::open(&record.netns).map_err(netns_error)? {
        bridge::write_sysctls(pod, &ns, &request.sysctls)?;
    }
    Ok(())
}
