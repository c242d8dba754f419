//! How a container ends: reaping, what is left of its output, its record, the event.

use std::time::{Duration, Instant};

use carpel_oci_runtime::create::{Progress, StartError, StartProgress};
use carpel_shim_api::message::{ContainerExited, Failure, FailureKind, event};
use carpel_shim_api::record::ExitRecord;
use prost::Message;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus};

use crate::container::{Caller, State};
use crate::failure::{of_create, of_start, plain};
use crate::oom;
use crate::pod::Pod;
use crate::stdio::{LAST_BYTES, now_ns};

/// How long output may come from a pipe that somebody outside of the container holds open.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// The exit code of a container whose command could not be executed.
const START_FAILED_CODE: i32 = 128;
/// Between two tries to write a record.
const SAVE_AGAIN: Duration = Duration::from_secs(1);

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended(WaitStatus);

impl Ended {
    /// 0–255; 128 plus the signal's number.
    pub(crate) fn code(self) -> i32 {
        match self.0.terminating_signal() {
            Some(signal) => 128 + signal,
            None => self.0.exit_status().unwrap_or(255),
        }
    }

    /// Zero if it exited by itself.
    pub(crate) fn signal(self) -> i32 {
        self.0.terminating_signal().unwrap_or(0)
    }
}

/// Whose process it was.
enum Child {
    Init(u32),
    Exec(u32, u32),
    MicroInit,
    /// An orphan that became the shim's.
    Orphan,
}

impl Pod {
    /// Takes the status of every child that has ended, the pod's own and orphans.
    pub(crate) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let ended = Ended(status);
            match self.whose(pid) {
                Child::Init(key) => self.on_init_exit(key, ended),
                Child::Exec(key, exec) => self.on_exec_exit(key, exec, ended),
                Child::MicroInit => {
                    if let Some(ready) = &mut self.ready {
                        ready.init_ended = true;
                    }
                }
                Child::Orphan => {}
            }
        }
    }

    fn whose(&self, pid: rustix::process::Pid) -> Child {
        for (key, container) in &self.containers {
            if container.init().is_some_and(|init| init.pid == pid) {
                return Child::Init(*key);
            }
            let lives =
                |state: &crate::exec::ExecState| !matches!(state, crate::exec::ExecState::Lingering { .. });
            let mut execs = container.execs.iter();
            if let Some((exec, _)) = execs.find(|(_, e)| e.process.pid == pid && lives(&e.state)) {
                return Child::Exec(*key, *exec);
            }
        }
        let micro_init = self.ready.as_ref().and_then(|ready| ready.sandbox.micro_init());
        if micro_init.is_some_and(|init| init.pid == pid) { Child::MicroInit } else { Child::Orphan }
    }

    fn on_init_exit(&mut self, key: u32, ended: Ended) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        match std::mem::replace(&mut container.state, State::Changing) {
            State::Creating { creating, caller, .. } => {
                self.poller.remove(&creating);
                let failure = match creating.on_readable() {
                    Err(error) => of_create(&error),
                    Ok(Progress::Moved(process, creating)) => {
                        return self.go_on_with(key, process, creating, caller);
                    }
                    Ok(_) => {
                        plain(FailureKind::Internal, "the init process ended before it was asked to run")
                    }
                };
                self.undo_create(key, failure, caller);
            }
            State::CreateFailed { failure, caller, .. } => self.undo_create(key, failure, caller),
            State::Created { .. } => self.end(key, ended, 0, None),
            State::Starting { process, starting, caller } => {
                self.poller.remove(&starting);
                match starting.on_readable() {
                    // The program never ran: no start.
                    Err(error @ StartError::Init(_)) => {
                        self.end(key, ended, 0, Some((of_start(&error), caller)));
                    }
                    // It ran, for however short a time; the exit tells the rest.
                    Ok(StartProgress::Started | StartProgress::Pending(_)) | Err(_) => {
                        self.on_started(key, process, caller);
                        let started_at_ns = self.started_at_ns(key);
                        self.end(key, ended, started_at_ns, None);
                    }
                }
            }
            State::StartFailed { failure, caller, .. } => {
                self.end(key, ended, 0, Some((failure, caller)));
            }
            State::Running { started_at_ns, .. } => self.end(key, ended, started_at_ns, None),
            other => container.state = other,
        }
    }

    fn started_at_ns(&self, key: u32) -> i64 {
        match self.containers.get(&key).map(|c| &c.state) {
            Some(State::Running { started_at_ns, .. }) => *started_at_ns,
            _ => 0,
        }
    }

    /// Leaves nothing of a container that could not be made, and says why.
    fn undo_create(&mut self, key: u32, failure: Failure, caller: Caller) {
        if let Some(mut container) = self.containers.remove(&key) {
            container.streams.close(&self.poller);
            self.undo(container.cgroup, failure, caller);
        }
        self.after_exit();
    }

    /// The init process is reaped: the rest of the container ends with it.
    fn end(&mut self, key: u32, ended: Ended, started_at_ns: i64, start_failure: Option<(Failure, Caller)>) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        // Before anything is removed or killed: the counter goes with the cgroup.
        let oom_killed = oom::is_why(container, ended);
        // With a PID namespace of its own the kernel has killed the rest by now.
        let _no_rest = container.cgroup.kill();
        let (exit_code, signal, message) = match &start_failure {
            Some((failure, _)) => (START_FAILED_CODE, 0, failure.message.clone()),
            None => (ended.code(), ended.signal(), String::new()),
        };
        let record = ExitRecord {
            container_id: container.id.clone(),
            exit_code,
            signal,
            oom_killed,
            started_at_ns,
            finished_at_ns: now_ns(),
            message,
        };
        let until = Instant::now() + DRAIN_MAX;
        container.state = State::Draining { record, start_failure, until, left: LAST_BYTES };
        container.streams.close_stdin(&self.poller);
        self.finish_if_drained(key);
        if self.containers.get(&key).is_some_and(|c| matches!(c.state, State::Draining { .. })) {
            self.tick_at(until);
        }
    }

    /// Output has ended on one stream; if on all, the container is over.
    pub(crate) fn finish_if_drained(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        if let State::Draining { left, .. } = &mut container.state
            && container.streams.drain(&mut self.buffer, &self.poller, left)
        {
            self.finish(key);
        }
    }

    /// Everything of the container is known and written: its record, and then the news.
    pub(crate) fn finish(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let (record, start_failure) = match std::mem::replace(&mut container.state, State::Changing) {
            State::Draining { record, start_failure, .. } => (record, start_failure),
            other => {
                container.state = other;
                return;
            }
        };
        container.streams.close(&self.poller);
        container.hold = None;
        let saved = save(&self.exits, &record).is_ok();
        container.state = State::Exited { record: record.clone(), saved };
        if !saved {
            self.tick_at(Instant::now() + SAVE_AGAIN);
        }
        if let Some((failure, caller)) = start_failure {
            self.fail(caller, failure);
        }
        self.publish(event::Body::ContainerExited(ContainerExited { exit: record }));
        self.after_exit();
    }

    /// Writes the records that could not be written before: a full `/run` has room again.
    pub(crate) fn save_records(&mut self) {
        let mut unsaved = false;
        for container in self.containers.values_mut() {
            if let State::Exited { record, saved: saved @ false } = &mut container.state {
                *saved = save(&self.exits, record).is_ok();
                unsaved |= !*saved;
            }
        }
        if unsaved && !self.is_forgotten() {
            self.tick_at(Instant::now() + SAVE_AGAIN);
        }
    }
}

/// Writes a record beside its place and renames it: a reader sees a whole one or none.
fn save(exits: &std::os::fd::OwnedFd, record: &ExitRecord) -> Result<(), Errno> {
    let temporary = format!(".{}.new", record.container_id);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(exits, temporary.as_str(), flags, Mode::from_raw_mode(0o600))?;
    let bytes = record.encode_to_vec();
    let written = match rustix::io::write(&file, &bytes) {
        Ok(n) if n == bytes.len() => {
            rustix::fs::renameat(exits, temporary.as_str(), exits, record.container_id.as_str())
        }
        Ok(_) => Err(Errno::NOSPC),
        Err(e) => Err(e),
    };
    if written.is_err() {
        let _absent = rustix::fs::unlinkat(exits, temporary.as_str(), rustix::fs::AtFlags::empty());
    }
    written
}
