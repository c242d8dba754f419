//! The ends of containers, and of the shim.
//!
//! ```text
//!   shim alive:  exit record on disk → event → exited → Exited, record, event      (one path)
//!   shim gone:   every container that lived: kill its cgroup, read its exit record → exited
//!   shim silent: its containers are Unknown until it answers a Snapshot
//! ```

use std::{sync::Arc, time::Duration};

use carpel_shim_api::{
    message::{ContainerSnapshot, ContainerState, SnapshotReply},
    record::ExitRecord,
};

use super::{
    Owner, answer, answer_all,
    container::{State, exit_of},
    pod::Phase,
};
use crate::{
    ContainerId, Exit, ExitReason, ShimError, StartError, User,
    clock::now_ns,
    event::EventKind,
    lost::{self, Lost, Settled},
    record::PodPhase,
};

/// Between two tries to end containers that survive, or to hear from a silent shim.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Longest wait for a shim's snapshot here, where nobody waits for it.
const SNAPSHOT_MAX: Duration = Duration::from_secs(30);

impl Owner {
    /// The shim told that a container ended.
    pub(super) fn exited(&mut self, record: ExitRecord) {
        let Ok(id) = ContainerId::try_from(record.container_id.clone()) else {
            return tracing::warn!(pod_id = %self.id, "the shim told the exit of a container without an id");
        };
        match self.container(&id).map(|container| &mut container.state) {
            // The answer to Start is on its way, and comes first.
            Some(State::Starting { exit, .. }) => *exit = Some(record),
            Some(_) => self.set_exited(&id, exit_of(record)),
            // Of a creation that is still to be told, or is being undone.
            None => self.ended_early(record),
        }
    }

    pub(super) fn set_exited(&mut self, id: &ContainerId, exit: Exit) {
        let shared = Arc::clone(&self.shared);
        let Some(container) = self.container(id) else { return };
        if container.has_exited() {
            return;
        }
        let before = std::mem::replace(&mut container.state, State::Exited(exit));
        let stop = container.stop.take();
        let remove = container.removal.is_some();
        let write = container.write(&shared.layout);
        self.shared.usage.close(id.as_str());
        self.container_changed(id, EventKind::Stopped);
        if let State::Starting { waiters, .. } = before {
            let err = StartError::Shim { id: id.clone(), source: Arc::new(ShimError::Gone) };
            answer_all(waiters, &Err(err));
        }
        for waiter in stop.map(|stop| stop.waiters).unwrap_or_default() {
            answer(waiter, Ok(()));
        }
        self.work(async move {
            let written = tokio::task::spawn_blocking(move || write.make()).await;
            if let Ok(Err(err)) = written {
                // The shim's own record still tells it, until the pod is stopped.
                let err = &err as &dyn std::error::Error;
                tracing::warn!(err, "recording an exit failed");
            }
            |_: &mut Owner| {}
        });
        if remove {
            self.delete(id);
        }
    }

    /// The shim's process has ended, or there is none.
    pub(super) fn shim_gone(&mut self) {
        self.process = None;
        self.handle.shim = None;
        self.init_pid = None;
        if matches!(self.phase, Phase::Ready) {
            tracing::warn!(pod_id = %self.id, "the pod's shim is gone");
            self.phase = Phase::NotReady { detached: false };
            self.record.phase = PodPhase::NotReady;
            self.write_record();
            let id = self.id.clone();
            self.tell(EventKind::Stopped, id.as_str());
        } else {
            self.publish();
        }
        self.settle_lost();
    }

    /// Ends what lived with a shim that is gone, and learns how it ended.
    fn settle_lost(&mut self) {
        let layout = &self.shared.layout;
        let ended = self.containers.iter().filter(|container| container.has_exited());
        let ended: Vec<String> = ended.map(|container| container.facts.cgroup_path.clone()).collect();
        let lost: Vec<Lost> = self
            .containers
            .iter()
            .filter(|container| !container.has_exited())
            .map(|container| Lost {
                id: container.id().clone(),
                cgroup_path: container.facts.cgroup_path.clone(),
                exit_record: layout.exit_record(&self.id, container.id()),
                started_at_ns: match container.state {
                    State::Running { started_at_ns, .. } => started_at_ns,
                    _ => 0,
                },
            })
            .collect();
        if lost.is_empty() && ended.is_empty() {
            return self.all_settled(String::new());
        }
        let node = Arc::clone(&self.shared.node);
        self.work(async move {
            let settled = tokio::task::spawn_blocking(move || lost::settle(&node, lost, &ended)).await;
            move |owner: &mut Owner| owner.lost_settled(settled.unwrap_or_default())
        });
    }

    fn lost_settled(&mut self, settled: Vec<(ContainerId, Settled)>) {
        let mut survivors = Vec::new();
        for (id, outcome) in settled {
            match outcome {
                Settled::Exited(exit) => self.set_exited(&id, exit),
                Settled::Survives(who) => {
                    if let Some(container) = self.container(&id) {
                        container.state = State::Unknown;
                        container.refresh();
                    }
                    survivors.push(who);
                }
            }
        }
        if survivors.is_empty() {
            return self.all_settled(String::new());
        }
        self.publish();
        self.all_settled(survivors.join("; "));
        self.work(async {
            tokio::time::sleep(RETRY_PAUSE).await;
            |owner: &mut Owner| {
                if owner.handle.shim.is_none() {
                    owner.settle_lost();
                }
            }
        });
    }

    /// A container of which the shim told nothing: it is asked for all it knows.
    pub(super) fn settle_unknown(&mut self, id: &ContainerId) {
        if let Some(container) = self.container(id) {
            container.refresh();
        }
        self.publish();
        // If the shim has gone, its end settles it.
        self.ask_shim();
    }

    /// Asks the shim for all that it knows, and again until it answers.
    pub(super) fn ask_shim(&mut self) {
        let Some(shim) = self.handle.shim.clone() else { return };
        // Of those that are made from now on, the answer may say nothing.
        let asked: Vec<ContainerId> = self.containers.iter().map(|c| c.id().clone()).collect();
        self.work(async move {
            let met = shim.meet(SNAPSHOT_MAX).await;
            if met.is_err() {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            move |owner: &mut Owner| match met {
                Ok((_, snapshot)) => owner.apply_snapshot_to(&asked, &snapshot),
                // A new connection begins with a snapshot.
                Err(ShimError::Gone) => {}
                Err(_) => owner.ask_shim(),
            }
        });
    }

    /// Brings the containers to where the shim has them.
    pub(super) fn apply_snapshot(&mut self, snapshot: SnapshotReply) {
        let ids: Vec<ContainerId> = self.containers.iter().map(|c| c.id().clone()).collect();
        self.apply_snapshot_to(&ids, &snapshot);
    }

    /// Brings those containers that were there when the snapshot was asked for to where it has them.
    fn apply_snapshot_to(&mut self, ids: &[ContainerId], snapshot: &SnapshotReply) {
        self.init_pid = Some(snapshot.init_pid).filter(|pid| *pid > 0);
        for id in ids {
            let known = snapshot.containers.iter().find(|known| known.container_id == id.as_str());
            self.apply_known(id, known);
        }
        self.publish();
    }

    fn apply_known(&mut self, id: &ContainerId, known: Option<&ContainerSnapshot>) {
        let exit_record = self.shared.layout.exit_record(&self.id, id);
        let Some(container) = self.container(id) else { return };
        if container.has_exited() || matches!(container.state, State::Starting { .. }) {
            return;
        }
        let Some(known) = known else {
            // The shim has nothing of it any more; its exit record may still be there.
            let exit = lost::read_exit(&exit_record).unwrap_or_else(|| Exit {
                code: 255,
                reason: ExitReason::Unknown,
                message: "the pod's shim does not know the container".to_owned(),
                started_at_ns: 0,
                finished_at_ns: now_ns(),
            });
            return self.set_exited(id, exit);
        };
        if let Some(user) = &known.user {
            container.facts.user = User { uid: user.uid, gid: user.gid, groups: user.groups.clone() };
        }
        match (known.state(), known.exit.clone()) {
            (ContainerState::Exited, Some(exit)) => return self.set_exited(id, exit_of(exit)),
            (ContainerState::Exited, None) => {}
            // It was started since.
            (ContainerState::Created, _) if matches!(container.state, State::Running { .. }) => {}
            (ContainerState::Created, _) => container.state = State::Created { pid: known.pid },
            (ContainerState::Running, _) => {
                container.state = State::Running { pid: known.pid, started_at_ns: known.started_at_ns };
            }
        }
        container.refresh();
    }
}
