//! Delete, StopAll, Shutdown: the verbs that end when something has ended.

use std::time::{Duration, Instant};

use carpel_cgroups::{Cgroup, DeleteError};
use carpel_shim_api::message::{Done, ExecExited, Failure, FailureKind, event, reply};
use rustix::fs::AtFlags;

use crate::container::{Caller, Container, Removal, State};
use crate::create::kill;
use crate::exec::ExecState;
use crate::failure::{failure, plain};
use crate::pod::Pod;
use crate::request::{Answer, check_id, signal, wrong_state};

/// How long a dead container's cgroup may be busy.
pub(crate) const BUSY_MAX: Duration = Duration::from_secs(5);
/// Between two looks at a cgroup.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(3);
/// How long a last answer may take to be read.
const FLUSH_MAX: Duration = Duration::from_secs(2);
const SIGKILL: i32 = 9;

/// How near the shim is to its end.
#[derive(Debug)]
pub(crate) enum Ending {
    /// It goes on.
    No,
    /// All containers are to die and their cgroups to go; who is to be told.
    Stopping { caller: Option<Caller>, until: Option<Instant> },
    /// Answers are sent, then it ends.
    Flushing { until: Instant },
    /// It ends with this turn of the loop.
    Now,
}

impl Ending {
    pub(crate) fn flushing() -> Ending {
        Ending::Flushing { until: Instant::now() + FLUSH_MAX }
    }
}

impl Pod {
    pub(crate) fn is_stopping(&self) -> bool {
        !self.stopping.is_empty() || !matches!(self.ending, Ending::No)
    }

    /// Forgets a container. One that was never started is killed first.
    pub(crate) fn delete(&mut self, caller: Caller, id: &str) -> Result<Answer, Failure> {
        let Ok((key, container)) = self.find(id) else {
            // A record may be there without its container: of a shim's previous try.
            check_id(id, "a container's")?;
            self.remove_record(id);
            return Ok(Answer::done());
        };
        if container.removal.is_some() {
            return Err(wrong_state(container, "deleted twice"));
        }
        match container.state {
            State::Exited { .. } | State::Draining { .. } => {}
            State::Created { .. } => signal(container, SIGKILL, true)?,
            State::Creating { .. }
            | State::CreateFailed { .. }
            | State::Starting { .. }
            | State::StartFailed { .. }
            | State::Running { .. }
            | State::Changing => return Err(wrong_state(container, "deleted")),
        }
        container.removal = Some(Removal { caller, until: Instant::now() + BUSY_MAX });
        self.try_removal(key);
        Ok(Answer::Later)
    }

    /// Kills every container; the answer comes when all are dead.
    pub(crate) fn stop_all(&mut self, caller: Caller) -> Answer {
        self.stopping.push(caller);
        self.kill_all();
        self.after_exit();
        Answer::Later
    }

    /// Kills every container, removes their cgroups, answers and ends.
    pub(crate) fn shut_down(&mut self, caller: Caller) -> Answer {
        match &mut self.ending {
            Ending::No => self.ending = Ending::Stopping { caller: Some(caller), until: None },
            // The first one is answered; the connection of a second closes with the shim.
            Ending::Stopping { .. } | Ending::Flushing { .. } | Ending::Now => {}
        }
        self.kill_all();
        self.after_exit();
        Answer::Later
    }

    /// The pod's folder is gone, and so is everybody who could ask for anything.
    pub(crate) fn leave_if_forgotten(&mut self) {
        if matches!(self.ending, Ending::No) && self.is_forgotten() {
            self.ending = Ending::Stopping { caller: None, until: None };
            self.kill_all();
            self.after_exit();
        }
    }

    fn kill_all(&mut self) {
        for container in self.containers.values_mut() {
            // The loop comes back to those that do not die: see `look_again`.
            let _tried_again = signal(container, SIGKILL, true);
        }
    }

    /// A container has ended or gone: who waits for that?
    pub(crate) fn after_exit(&mut self) {
        let keys: Vec<u32> = self.containers.keys().copied().collect();
        keys.into_iter().for_each(|key| self.try_removal(key));
        let _told_at_the_end = self.try_undone();
        if !self.stopping.is_empty() && self.is_all_dead() {
            for caller in std::mem::take(&mut self.stopping) {
                self.reply(caller, reply::Body::Done(Done {}));
            }
        }
        self.try_end();
        let is_waiting = !self.stopping.is_empty() || matches!(self.ending, Ending::Stopping { .. });
        if is_waiting {
            self.tick_at(Instant::now() + LOOK_AGAIN);
        }
    }

    /// Whether no container has a process any more. Those that are killed with their init process
    /// die a moment after it.
    fn is_all_dead(&self) -> bool {
        let is_empty = |cgroup: &Cgroup| !cgroup.is_populated().unwrap_or(false);
        self.containers.values().all(|c| !c.is_alive() && is_empty(&c.cgroup))
            && self.undone.iter().all(|undone| is_empty(&undone.cgroup))
    }

    /// Removes what is left of a container that is to be deleted, if it has ended.
    fn try_removal(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let Some(removal) = &container.removal else { return };
        let (caller, until) = (removal.caller, removal.until);
        if container.is_alive() {
            return;
        }
        match container.cgroup.delete(Duration::ZERO) {
            Ok(()) => {
                if let Some(container) = self.containers.remove(&key) {
                    self.remove_record(&container.id);
                    self.tell_of_dead_execs(container);
                }
                self.reply(caller, reply::Body::Done(Done {}));
            }
            Err(DeleteError::Busy { .. }) if Instant::now() < until => {
                let _tried_again = container.cgroup.kill();
                self.tick_at(Instant::now() + LOOK_AGAIN);
            }
            Err(error) => {
                container.removal = None;
                self.fail(caller, failure(FailureKind::Internal, &error));
            }
        }
    }

    /// The container's cgroup was empty: execs that are not reaped yet were killed with it, and when
    /// they are reaped nobody knows any more whose they were.
    fn tell_of_dead_execs(&mut self, container: Container) {
        let container_id = container.id;
        for exec in container.execs.into_values() {
            match exec.state {
                ExecState::Starting { execing, caller, .. } => {
                    self.poller.remove(&execing);
                    // It may not have got as far as the container's cgroup.
                    kill(&exec.process);
                    let message = format!("container {container_id} was deleted before exec {} ran", exec.id);
                    self.fail(caller, plain(FailureKind::WrongState, message));
                }
                ExecState::Failed { failure, caller } => self.fail(caller, failure),
                ExecState::Running => self.publish(event::Body::ExecExited(ExecExited {
                    container_id: container_id.clone(),
                    exec_id: exec.id,
                    exit_code: 128 + SIGKILL,
                })),
                // Its end was told.
                ExecState::Lingering { events } => events.iter().for_each(|e| self.poller.remove(e)),
                ExecState::Changing => {}
            }
        }
    }

    fn remove_record(&self, id: &str) {
        let _absent = rustix::fs::unlinkat(&self.exits, id, AtFlags::empty());
    }

    /// Goes one step towards the end, if the end was asked for.
    fn try_end(&mut self) {
        let Ending::Stopping { caller, until } = &mut self.ending else { return };
        let caller = *caller;
        if self.containers.values().any(|c| c.is_alive()) {
            return;
        }
        let now = Instant::now();
        let until = *until.get_or_insert(now + BUSY_MAX);
        let mut busy = self.try_undone();
        let mut gone = |cgroup: &Cgroup| match cgroup.delete(Duration::ZERO) {
            Ok(()) => true,
            Err(error) => {
                let _tried_again = cgroup.kill();
                busy = Some(error);
                false
            }
        };
        let dead: Vec<Container> =
            self.containers.extract_if(.., |_, c| gone(&c.cgroup)).map(|(_, c)| c).collect();
        dead.into_iter().for_each(|container| self.tell_of_dead_execs(container));
        if let Some(error) = busy {
            if now < until {
                self.tick_at(now + LOOK_AGAIN);
                return;
            }
            // The shim stays, so that the daemon can look into it and try again.
            match caller {
                Some(caller) => {
                    self.ending = Ending::No;
                    self.fail(caller, failure(FailureKind::Internal, &error));
                }
                None => self.ending = Ending::Now,
            }
            return;
        }
        self.ending = Ending::flushing();
        if let Some(caller) = caller {
            self.reply(caller, reply::Body::Done(Done {}));
        }
        self.tick_at(now + FLUSH_MAX);
    }

    /// Looks at what tells nobody when it changes.
    pub(crate) fn look_again(&mut self, now: Instant) {
        let mut late = Vec::new();
        let mut next = None;
        for (key, container) in &self.containers {
            if let State::Draining { until, .. } = container.state {
                if until <= now {
                    late.push(*key);
                } else {
                    next = Some(next.map_or(until, |next: Instant| next.min(until)));
                }
            }
        }
        late.into_iter().for_each(|key| self.finish(key));
        if let Some(next) = next {
            self.tick_at(next);
        }
        self.forget_vacated_execs();
        self.save_records();
        if !self.stopping.is_empty() || matches!(self.ending, Ending::Stopping { .. }) {
            self.kill_all();
        }
        self.after_exit();
    }
}
