//! A container as its owner knows it.

pub(crate) mod end;

use std::{path::PathBuf, sync::Arc, time::Duration};

use carpel_image::LayerLease;
use carpel_shim_api::record::ExitRecord;
use carpel_spec::config::{ContainerConfig, Resources};
use tokio::time::Instant;

use super::Reply;
use crate::{
    ContainerId, ContainerSnapshot, ContainerState, Exit, ExitReason, PodId, RemoveContainerError,
    StartError, StopContainerError, User,
    layout::Layout,
    pods::Shared,
    record::{ContainerPhase, ContainerRecord, ExitOnRecord, NewContainerRecord, UserRecord, Write, Writes},
    selinux::Level,
};

/// One container that exists.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) facts: Facts,
    pub(crate) state: State,
    /// Being stopped.
    pub(crate) stop: Option<Stop>,
    /// Who waits for it to be removed; it is removed as soon as it has exited.
    pub(crate) removal: Option<Vec<Reply<RemoveContainerError>>>,
    /// As it was published last.
    pub(crate) snapshot: Arc<ContainerSnapshot>,
    writes: Writes,
}

/// What is decided when a container is made. Limits change later, nothing else.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) id: ContainerId,
    pub(crate) pod_id: PodId,
    pub(crate) created_at_ns: i64,
    pub(crate) config: Arc<ContainerConfig>,
    pub(crate) image_id: String,
    pub(crate) image_ref: String,
    /// Keeps the image's layers from being deleted.
    pub(crate) lease: LayerLease,
    /// The kernel's number.
    pub(crate) stop_signal: i32,
    pub(crate) cgroup_path: String,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) resources: Resources,
    pub(crate) user: User,
    pub(crate) writable_layer: PathBuf,
    /// The SELinux level that it asks for itself: nobody else is given it before it is removed.
    pub(crate) _selinux_level: Option<Level>,
}

/// Where a container is in its life, with what only that part needs.
#[derive(Debug)]
pub(crate) enum State {
    Created {
        pid: i32,
    },
    /// The shim was told to start it. Its exit can come before the shim's answer.
    Starting {
        pid: i32,
        waiters: Vec<Reply<StartError>>,
        exit: Option<ExitRecord>,
    },
    Running {
        pid: i32,
        started_at_ns: i64,
    },
    Exited(Exit),
    /// The shim does not answer.
    Unknown,
}

/// A stop under way.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) waiters: Vec<Reply<StopContainerError>>,
    pub(crate) phase: StopPhase,
}

/// How far a stop is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StopPhase {
    /// It was asked to stop; at the deadline it is killed.
    Asked { kill_at: Instant },
    /// It was killed; it is killed again at `again_at`, in case that went wrong.
    Killed { first_at: Instant, again_at: Instant, pause: Duration },
}

impl StopPhase {
    pub(crate) fn deadline(self) -> Instant {
        match self {
            StopPhase::Asked { kill_at } => kill_at,
            StopPhase::Killed { again_at, .. } => again_at,
        }
    }
}

impl Container {
    pub(crate) fn new(facts: Facts, state: State) -> Container {
        let snapshot = Arc::new(snapshot(&facts, &state));
        Container { facts, state, stop: None, removal: None, snapshot, writes: Writes::default() }
    }

    /// A container of an earlier daemon, as its record has it.
    pub(crate) fn from_record(record: ContainerRecord, lease: LayerLease, shared: &Shared) -> Container {
        let user = record.user.map(|user| User { uid: user.uid, gid: user.gid, groups: user.groups });
        let state = record.exit.map_or(State::Unknown, |exit| State::Exited(exit.into()));
        let facts = Facts {
            writable_layer: shared.layout.upper(&record.id),
            _selinux_level: shared.levels.reserve_asked(record.config.security.selinux.as_ref()),
            id: record.id,
            pod_id: record.pod_id,
            created_at_ns: record.created_at_ns,
            config: Arc::new(record.config),
            image_id: record.image_id,
            image_ref: record.image_ref,
            lease,
            stop_signal: record.stop_signal,
            cgroup_path: record.cgroup_path,
            log_path: record.log_path,
            resources: record.resources,
            user: user.unwrap_or_default(),
        };
        Container::new(facts, state)
    }

    pub(crate) fn id(&self) -> &ContainerId {
        &self.facts.id
    }

    /// To be called after each change, before the pod is published.
    pub(crate) fn refresh(&mut self) {
        self.snapshot = Arc::new(snapshot(&self.facts, &self.state));
    }

    pub(crate) fn has_exited(&self) -> bool {
        matches!(self.state, State::Exited(_))
    }

    /// Decides to write its record as it is now. The write is to be made off the runtime's threads.
    pub(crate) fn write(&self, layout: &Layout) -> Write<ContainerRecord> {
        self.writes.decide(layout.container_record(self.id()), self.record())
    }

    /// What is written to disk.
    fn record(&self) -> ContainerRecord {
        let facts = &self.facts;
        let new = NewContainerRecord {
            id: facts.id.clone(),
            pod_id: facts.pod_id.clone(),
            created_at_ns: facts.created_at_ns,
            config: (*facts.config).clone(),
            image_id: facts.image_id.clone(),
            image_ref: facts.image_ref.clone(),
            layers: facts.lease.layers().iter().map(ToString::to_string).collect(),
            stop_signal: facts.stop_signal,
            cgroup_path: facts.cgroup_path.clone(),
            log_path: facts.log_path.clone(),
        };
        let mut record = ContainerRecord::from(new);
        record.phase = ContainerPhase::Created;
        record.resources = facts.resources.clone();
        let User { uid, gid, groups } = facts.user.clone();
        record.user = Some(UserRecord { uid, gid, groups });
        if let State::Exited(exit) = &self.state {
            record.exit = Some(ExitOnRecord::from(exit));
        }
        record
    }
}

fn snapshot(facts: &Facts, state: &State) -> ContainerSnapshot {
    let stop_signal = carpel_spec::signal::name(facts.stop_signal);
    ContainerSnapshot {
        id: facts.id.clone(),
        pod_id: facts.pod_id.clone(),
        config: Arc::clone(&facts.config),
        image_id: facts.image_id.clone(),
        image_ref: facts.image_ref.clone(),
        state: match state {
            State::Created { .. } | State::Starting { .. } => ContainerState::Created,
            State::Running { pid, started_at_ns } => {
                ContainerState::Running { pid: *pid, started_at_ns: *started_at_ns }
            }
            State::Exited(exit) => ContainerState::Exited(exit.clone()),
            State::Unknown => ContainerState::Unknown,
        },
        created_at_ns: facts.created_at_ns,
        user: facts.user.clone(),
        resources: facts.resources.clone(),
        // A number without a name was asked for as a number.
        stop_signal: stop_signal.unwrap_or_else(|_| facts.stop_signal.to_string()),
        log_path: facts.log_path.clone(),
        cgroup_path: facts.cgroup_path.clone(),
        writable_layer: Some(facts.writable_layer.clone()),
    }
}

/// Tells an exit in CRI's words. A container counts as killed for memory only if that is how its init
/// process ended: one whose child was killed and that went on has an exit code of its own.
pub(crate) fn exit_of(record: ExitRecord) -> Exit {
    const KILLED: i32 = 137;
    const NOT_STARTED: i32 = 128;
    let reason = match record.exit_code {
        KILLED if record.oom_killed => ExitReason::OomKilled,
        0 => ExitReason::Completed,
        NOT_STARTED if record.started_at_ns == 0 => ExitReason::StartError,
        _ => ExitReason::Error,
    };
    Exit {
        code: record.exit_code,
        reason,
        message: record.message,
        started_at_ns: record.started_at_ns,
        // The kubelet trusts that an end does not come before its start, whatever the clock did.
        finished_at_ns: record.finished_at_ns.max(record.started_at_ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(exit_code: i32, oom_killed: bool, started_at_ns: i64) -> ExitReason {
        let record = ExitRecord {
            container_id: String::new(),
            exit_code,
            signal: 0,
            oom_killed,
            started_at_ns,
            finished_at_ns: 5,
            message: String::new(),
        };
        let exit = exit_of(record);
        assert!(exit.finished_at_ns >= exit.started_at_ns);
        exit.reason
    }

    #[test]
    fn exits_have_the_kubelets_words() {
        assert_eq!(exit(0, false, 1), ExitReason::Completed);
        assert_eq!(exit(3, false, 1), ExitReason::Error);
        assert_eq!(exit(137, false, 1), ExitReason::Error);
        assert_eq!(exit(137, true, 9), ExitReason::OomKilled);
        assert_eq!(exit(1, true, 1), ExitReason::Error);
        assert_eq!(exit(0, true, 1), ExitReason::Completed);
        assert_eq!(exit(128, false, 0), ExitReason::StartError);
        assert_eq!(exit(128, false, 1), ExitReason::Error);
    }
}
