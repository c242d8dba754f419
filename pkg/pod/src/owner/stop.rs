//! StopContainer: a signal, a grace that is a deadline, then SIGKILL until it is dead.
//!
//! ```text
//!   Running ── stop signal ──▶ Asked ── deadline, or a call with less grace ──▶ Killed ─┐
//!      └──────────────────── grace 0 ───────────────────────────────────────▶    ▲ again
//!                                                                                └──────┘
//! ```
//!
//! The loop belongs to the owner, not to a caller: it goes on when all callers have gone.

use std::time::Duration;

use carpel_spec::config::PidMode;
use tokio::time::Instant;

use super::{
    Owner, Reply, answer, answer_all,
    container::{Container, State, Stop, StopPhase},
};
use crate::{ContainerId, StopContainerError};

/// SIGKILL, signal(7).
const SIGKILL: i32 = 9;
/// After the first SIGKILL, how long until the next; doubled each time.
const KILL_PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause.
const KILL_PAUSE_MAX: Duration = Duration::from_secs(30);
/// After so long since the first SIGKILL callers are told that it does not help. A process in an
/// uninterruptible wait dies when that ends, and then the container is stopped.
const KILL_PATIENCE: Duration = Duration::from_secs(20);
/// The longest grace: a number of CRI's has no other bound, and an `Instant` has.
const GRACE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Owner {
    pub(super) fn stop_container(
        &mut self,
        id: &ContainerId,
        grace: Duration,
        reply: Reply<StopContainerError>,
    ) {
        let kill_at = Instant::now() + grace.min(GRACE_MAX);
        let Some(container) = self.container(id) else { return answer(reply, Ok(())) };
        let runs = match &container.state {
            State::Exited(_) => return answer(reply, Ok(())),
            State::Running { .. } => true,
            // Nothing runs that could hear a signal.
            State::Created { .. } | State::Starting { .. } | State::Unknown => false,
        };
        match &mut container.stop {
            None => {
                let phase = StopPhase::Asked { kill_at };
                container.stop = Some(Stop { waiters: vec![reply], phase });
                let signal = container.facts.stop_signal;
                if runs && !grace.is_zero() {
                    self.send_signal(id, signal);
                    return;
                }
            }
            Some(stop) => {
                stop.waiters.push(reply);
                match &mut stop.phase {
                    StopPhase::Asked { kill_at: current } if kill_at < *current => *current = kill_at,
                    // More grace than before is not given, and what is killed is killed.
                    StopPhase::Asked { .. } | StopPhase::Killed { .. } => {}
                }
                if !grace.is_zero() {
                    return;
                }
            }
        }
        self.kill(id);
    }

    /// Kills now what is not being killed already.
    pub(super) fn kill(&mut self, id: &ContainerId) {
        let now = Instant::now();
        let Some(container) = self.container(id) else { return };
        let stop = container
            .stop
            .get_or_insert_with(|| Stop { waiters: Vec::new(), phase: StopPhase::Asked { kill_at: now } });
        if matches!(stop.phase, StopPhase::Killed { .. }) {
            return;
        }
        stop.phase = StopPhase::Killed { first_at: now, again_at: now + KILL_PAUSE, pause: KILL_PAUSE };
        self.send_signal(id, SIGKILL);
    }

    pub(super) fn deadlines_passed(&mut self) {
        let now = Instant::now();
        let due =
            |container: &&Container| container.stop.as_ref().is_some_and(|stop| stop.phase.deadline() <= now);
        let due: Vec<ContainerId> = self.containers.iter().filter(due).map(|c| c.id().clone()).collect();
        for id in due {
            let Some(Stop { phase, .. }) = self.container(&id).and_then(|c| c.stop.as_mut()) else {
                continue;
            };
            match phase {
                StopPhase::Asked { .. } => self.kill(&id),
                StopPhase::Killed { first_at, again_at, pause } => {
                    *pause = (*pause * 2).min(KILL_PAUSE_MAX);
                    *again_at = now + *pause;
                    let out_of_patience = now.duration_since(*first_at) >= KILL_PATIENCE;
                    self.send_signal(&id, SIGKILL);
                    if out_of_patience {
                        self.tell_survivors(&id);
                    }
                }
            }
        }
    }

    fn send_signal(&mut self, id: &ContainerId, signal: i32) {
        let pod_pid = self.config.namespaces.pid.clone();
        let Some(shim) = self.handle.shim.clone() else { return };
        let Some(container) = self.container(id) else { return };
        // Where processes are numbered together, the init process's end does not take the others along.
        let pid = container.facts.config.security.pid.as_ref().unwrap_or(&pod_pid);
        let all = signal == SIGKILL && *pid != PidMode::Container;
        let id = id.clone();
        self.work(async move {
            if let Err(err) = shim.kill(&id, signal, all).await {
                let err = &err as &dyn std::error::Error;
                tracing::warn!(container_id = %id, signal, err, "sending a signal failed");
            }
            |_: &mut Owner| {}
        });
    }

    /// Tells whoever waits who is still alive; the killing goes on.
    fn tell_survivors(&mut self, id: &ContainerId) {
        let node = std::sync::Arc::clone(&self.shared.node);
        let Some(container) = self.container(id) else { return };
        let Some(stop) = &mut container.stop else { return };
        let waiters = std::mem::take(&mut stop.waiters);
        let removal = container.removal.take().unwrap_or_default();
        let cgroup = container.facts.cgroup_path.clone();
        let id = id.clone();
        self.work(async move {
            let look = tokio::task::spawn_blocking(move || crate::survivors::tell(&node, &cgroup));
            let survivors = look.await.unwrap_or_default();
            tracing::warn!(container_id = %id, survivors, "a container survives SIGKILL");
            move |_: &mut Owner| {
                let err = StopContainerError::Unkillable { id, survivors };
                answer_all(removal, &Err(crate::RemoveContainerError::Stop(err.clone())));
                answer_all(waiters, &Err(err));
            }
        });
    }
}
