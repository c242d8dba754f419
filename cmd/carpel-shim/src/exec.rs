//! Exec: one more process in a running container.
//!
//! ```text
//!  Starting ──▶ Running ──▶ (gone), or Lingering while something that it started is in its leaf
//!      └──────▶ Failed ───▶ (gone)
//! ```
//! One of the container's own kind runs as who the container was made to run as: the container's
//! `/etc/passwd` may be masked or changed since. One with a process of its own is looked up there.
//!
//! Its output goes to the daemon through pipes that the shim does not touch. Its end is an event,
//! after the answer to the request.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use carpel_cgroups::{Leaf, LeafEvents};
use carpel_oci_runtime::cgroup::Membership;
use carpel_oci_runtime::exec::{self as runtime, Execing, Progress, Started};
use carpel_oci_runtime::stdio::Stdio;
use carpel_oci_runtime::user::Identity;
use carpel_shim_api::message::{
    Exec as ExecRequest, ExecExited, ExecStarted, Failure, FailureKind, event, reply,
};
use carpel_sys::clone::Process;
use rustix::fs::OFlags;

use crate::container::{Caller, Container, State};
use crate::create::kill;
use crate::exit::Ended;
use crate::failure::{failure, of_exec, plain};
use crate::pod::{Pod, Ready};
use crate::poller::{EventFlags, Poller, Source};
use crate::request::{Answer, check_id, wrong_state};
use crate::stdio::{input_pipe, null, output_pipe};

/// Execs of one container at a time.
const EXECS_MAX: usize = 1024;
/// A process that has ended lets go of its cgroup a moment later.
const LEAF_SOON: Duration = Duration::from_millis(5);
/// Between two looks at a leaf that cannot be watched: there are no descriptors left.
const LEAF_UNWATCHED: Duration = Duration::from_secs(1);

/// An exec.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: String,
    pub(crate) process: Process,
    /// Its own cgroup, where there is cgroup2.
    pub(crate) leaf: Option<Leaf>,
    pub(crate) state: ExecState,
}

/// Where an exec is in its life.
#[derive(Debug)]
pub(crate) enum ExecState {
    /// It joins the container. The daemon's ends of its pipes wait for the answer.
    Starting { execing: Execing, theirs: Vec<OwnedFd>, caller: Caller },
    /// It did not get to its execve, and is to be reaped.
    Failed { failure: Failure, caller: Caller },
    /// It runs.
    Running,
    /// It has ended, and something that it started has not, the end of which the shim may not be told: it
    /// may be the child of the container's init. The leaf's events tell, once they are watched.
    Lingering { events: Option<LeafEvents> },
    /// Between two states.
    Changing,
}

/// The two sides of an exec's streams.
struct Pipes {
    ours: Stdio,
    theirs: Vec<OwnedFd>,
}

impl Pod {
    /// Runs a process in a container.
    pub(crate) fn exec(&mut self, caller: Caller, request: ExecRequest) -> Result<Answer, Failure> {
        check_id(&request.exec_id, "an exec's")?;
        let exec_key = self.next_key().ok_or_else(|| plain(FailureKind::Exhausted, "no more keys"))?;
        let found = self.containers.iter_mut().find(|(_, c)| c.id == request.container_id);
        let Some((key, container)) = found else {
            return Err(crate::request::no_container(&request.container_id));
        };
        let key = *key;
        let Some(ready) = &self.ready else {
            return Err(plain(FailureKind::WrongState, "the pod is not set up"));
        };
        check(container, &request)?;
        let internal = |e: &(dyn std::error::Error + 'static)| failure(FailureKind::Internal, e);
        let terminal = request.plan.process.as_ref().map_or(request.plan.terminal, |p| p.terminal);
        let pipes = pipes(&request, terminal).map_err(|e| internal(&e))?;
        let leaf = container.cgroup.leaf(&leaf_name(&request.exec_id)).map_err(|e| internal(&e))?;
        let begun = begin(ready, container, request.plan, leaf.as_ref(), pipes.ours).and_then(|begun| {
            let watched = self.poller.add(&begun.execing, Source::Exec(key, exec_key), EventFlags::IN);
            match watched {
                Ok(()) => Ok(begun),
                Err(e) => {
                    kill(&begun.process);
                    Err(internal(&e))
                }
            }
        });
        let begun = begun.inspect_err(|_| {
            if let Some(leaf) = &leaf {
                let _left_over = leaf.kill().is_ok() && leaf.delete(LEAF_SOON).is_ok();
            }
        })?;
        let state = ExecState::Starting { execing: begun.execing, theirs: pipes.theirs, caller };
        let exec = Exec { id: request.exec_id, process: begun.process, leaf, state };
        container.execs.insert(exec_key, exec);
        Ok(Answer::Later)
    }

    /// An exec's process has something to say, or has closed its end.
    pub(crate) fn on_exec_report(&mut self, key: u32, exec_key: u32) {
        let Some(exec) = self.containers.get_mut(&key).and_then(|c| c.execs.get_mut(&exec_key)) else {
            return;
        };
        match std::mem::replace(&mut exec.state, ExecState::Changing) {
            ExecState::Starting { execing, theirs, caller } => {
                self.poller.remove(&execing);
                match execing.on_readable() {
                    Ok(Progress::Pending(execing)) => {
                        // Watched before without a complaint, so watched again.
                        let source = Source::Exec(key, exec_key);
                        let _same = self.poller.add(&execing, source, EventFlags::IN);
                        exec.state = ExecState::Starting { execing, theirs, caller };
                    }
                    Ok(Progress::Started(started)) => {
                        exec.state = ExecState::Running;
                        let pid = exec.process.pid.as_raw_nonzero().get();
                        self.answer_exec(caller, pid, started, theirs);
                    }
                    Err(error) => {
                        kill(&exec.process);
                        exec.state = ExecState::Failed { failure: of_exec(&error), caller };
                    }
                }
            }
            other => exec.state = other,
        }
    }

    fn answer_exec(&mut self, caller: Caller, pid: i32, started: Started, mut theirs: Vec<OwnedFd>) {
        theirs.extend(started.console);
        self.reply_with(caller, reply::Body::ExecStarted(ExecStarted { pid }), theirs);
    }

    /// An exec's process was reaped.
    pub(crate) fn on_exec_exit(&mut self, key: u32, exec_key: u32, ended: Ended) {
        // What it had to say before it ended is heard first.
        self.on_exec_report(key, exec_key);
        let Some(container) = self.containers.get_mut(&key) else { return };
        let Some(exec) = container.execs.get_mut(&exec_key) else { return };
        let exec_id = exec.id.clone();
        let state = std::mem::replace(&mut exec.state, ExecState::Lingering { events: None });
        let container_id = container.id.clone();
        self.forget_exec(key, exec_key);
        match state {
            ExecState::Failed { failure, caller } => self.fail(caller, failure),
            ExecState::Starting { execing, caller, .. } => {
                self.poller.remove(&execing);
                let message = format!("exec {exec_id} ended before it ran");
                self.fail(caller, plain(FailureKind::Internal, message));
            }
            ExecState::Running | ExecState::Lingering { .. } | ExecState::Changing => {
                let exited = ExecExited { container_id, exec_id, exit_code: ended.code() };
                self.publish(event::Body::ExecExited(exited));
            }
        }
    }

    /// The leaf of an exec that has ended may have emptied.
    pub(crate) fn on_leaf_event(&mut self, key: u32, exec_key: u32) {
        let exec = self.containers.get(&key).and_then(|container| container.execs.get(&exec_key));
        let Some(Exec { state: ExecState::Lingering { events: Some(events) }, .. }) = exec else { return };
        events.heard();
        self.forget_exec(key, exec_key);
    }

    /// Drops an exec that has ended, unless its leaf is still in use.
    fn forget_exec(&mut self, key: u32, exec_key: u32) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let Some(exec) = container.execs.get(&exec_key) else { return };
        if is_vacated(exec, &self.poller) {
            container.execs.remove(&exec_key);
        } else {
            self.tick_at(Instant::now() + LEAF_SOON);
        }
    }

    /// Drops the execs that have ended and whose leaves have emptied since, and watches the other leaves.
    pub(crate) fn forget_vacated_execs(&mut self) {
        let mut is_blind = false;
        for (key, container) in &mut self.containers {
            container.execs.retain(|exec_key, exec| {
                if !matches!(exec.state, ExecState::Lingering { .. }) {
                    return true;
                }
                if is_vacated(exec, &self.poller) {
                    return false;
                }
                if let (ExecState::Lingering { events: events @ None }, Some(leaf)) =
                    (&mut exec.state, &exec.leaf)
                {
                    *events = watch(leaf, &self.poller, Source::Leaf(*key, *exec_key));
                    is_blind |= events.is_none();
                }
                true
            });
        }
        if is_blind {
            self.tick_at(Instant::now() + LEAF_UNWATCHED);
        }
    }

    /// Kills an exec with all that it started. One that is gone is no error.
    pub(crate) fn kill_exec(&mut self, container_id: &str, exec_id: &str) -> Result<Answer, Failure> {
        let (_, container) = self.find(container_id)?;
        let Some(exec) = container.execs.values().find(|e| e.id == exec_id) else {
            return Ok(Answer::done());
        };
        let internal = |e: &(dyn std::error::Error + 'static)| failure(FailureKind::Internal, e);
        match &exec.leaf {
            Some(leaf) => leaf.kill().map_err(|e| internal(&e))?,
            None => container.cgroup.kill_session(exec.process.pid).map_err(|e| internal(&e))?,
        }
        // v1's freezer would keep them from dying; and one that is not in its leaf yet dies so.
        if !matches!(exec.state, ExecState::Lingering { .. }) {
            kill(&exec.process);
        }
        Ok(Answer::done())
    }
}

fn leaf_name(exec_id: &str) -> String {
    format!("exec-{exec_id}")
}

fn check(container: &Container, request: &ExecRequest) -> Result<(), Failure> {
    if !matches!(container.state, State::Running { .. }) {
        return Err(wrong_state(container, "joined by an exec"));
    }
    if container.execs.values().any(|e| e.id == request.exec_id) {
        let message = format!("exec {} exists already in container {}", request.exec_id, container.id);
        return Err(plain(FailureKind::AlreadyExists, message));
    }
    if container.execs.len() >= EXECS_MAX {
        let message = format!("container {} has {EXECS_MAX} execs already", container.id);
        return Err(plain(FailureKind::Exhausted, message));
    }
    Ok(())
}

/// Removes the leaf of an exec that has ended; `false` if something is in it still.
fn is_vacated(exec: &Exec, poller: &Poller) -> bool {
    // A leaf that cannot be removed for another reason is the container's removal to deal with.
    let is_vacated = exec.leaf.as_ref().is_none_or(|leaf| leaf.delete(Duration::ZERO).unwrap_or(true));
    if let (true, ExecState::Lingering { events: Some(events) }) = (is_vacated, &exec.state) {
        poller.remove(events);
    }
    is_vacated
}

fn watch(leaf: &Leaf, poller: &Poller, source: Source) -> Option<LeafEvents> {
    let events = leaf.events().ok()?;
    // Such a file always counts as readable: only the urgent condition means something.
    poller.add(&events, source, EventFlags::PRI).ok()?;
    Some(events)
}

fn pipes(request: &ExecRequest, terminal: bool) -> Result<Pipes, rustix::io::Errno> {
    if terminal {
        return Ok(Pipes { ours: Stdio::Terminal, theirs: Vec::new() });
    }
    let mut theirs = Vec::new();
    let stdin = if request.stdin {
        let (read, write) = input_pipe()?;
        theirs.push(write);
        read
    } else {
        null(OFlags::RDONLY)?
    };
    let mut output = |wanted: bool| {
        if !wanted {
            return null(OFlags::WRONLY);
        }
        let (read, write) = output_pipe()?;
        theirs.push(read);
        Ok(write)
    };
    let stdout = output(request.stdout)?;
    let stderr = output(request.stderr)?;
    Ok(Pipes { ours: Stdio::Streams { stdin, stdout, stderr }, theirs })
}

fn begin(
    ready: &Ready,
    container: &mut Container,
    plan: carpel_shim_api::message::ExecPlan,
    leaf: Option<&Leaf>,
    stdio: Stdio,
) -> Result<runtime::Begun, Failure> {
    let State::Running { process: init, .. } = &container.state else {
        return Err(wrong_state(container, "joined by an exec"));
    };
    let seat = Membership { cgroup: &container.cgroup, leaf };
    let run = |plan: &carpel_shim_api::plan::ProcessPlan, identity: Option<&Identity>| {
        let container = init.pidfd.as_fd();
        let request = runtime::Request { container, plan, identity, cgroup: seat, stdio };
        runtime::begin(&ready.sandbox, request).map_err(|e| of_exec(&e))
    };
    if let Some(own) = &plan.process {
        return run(own, None);
    }
    let Some(identity) = &container.identity else {
        return Err(plain(
            FailureKind::Internal,
            format!("who container {} runs as is not known", container.id),
        ));
    };
    // The container's own plan with other arguments, for a moment: a copy would have the seccomp
    // program in it, and that is most of a plan.
    let args = std::mem::replace(&mut container.process.args, plan.args);
    let terminal = std::mem::replace(&mut container.process.terminal, plan.terminal);
    let begun = run(&container.process, Some(identity));
    container.process.args = args;
    container.process.terminal = terminal;
    begun
}
