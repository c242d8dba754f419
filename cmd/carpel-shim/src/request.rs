//! One message of the daemon's, and the verb that it asks for.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use carpel_cgroups::cgroup::Hierarchies;
use carpel_cgroups::{Cgroup, CgroupPath, Tree};
use carpel_oci_runtime::sandbox::Sandbox;
use carpel_shim_api::message::{
    Done, Failure, FailureKind, Hello, HelloReply, Kill, Resize, SandboxReply, Update, reply, request,
};
use carpel_shim_api::plan::SandboxPlan;
use carpel_shim_api::{VERSION, VERSION_OLDEST};
use rustix::io::Errno;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::connection::Incoming;
use crate::container::{Caller, Container, State};
use crate::exec::ExecState;
use crate::failure::{failure, plain};
use crate::oom;
use crate::pod::{Pod, Ready};
use crate::remove::Ending;
use crate::resources;

/// The longest id, in bytes.
const ID_MAX_BYTES: usize = 128;
/// Signals are numbered 1 to 64.
const SIGNAL_MAX: i32 = 64;
const SIGKILL: i32 = 9;

/// How a request is answered.
pub(crate) enum Answer {
    /// Now.
    Now(reply::Body),
    /// Now, with descriptors.
    With(reply::Body, Vec<OwnedFd>),
    /// When it is done; the caller is kept with what is under way.
    Later,
}

impl Answer {
    pub(crate) fn done() -> Answer {
        Answer::Now(reply::Body::Done(Done {}))
    }
}

impl Pod {
    pub(crate) fn on_request(&mut self, caller: Caller, incoming: Incoming) {
        let answer = match incoming.request.body {
            Some(body) => self.carry_out(caller, body, incoming.fds),
            None => Err(plain(FailureKind::Unsupported, "this shim does not know the request")),
        };
        match answer {
            Ok(Answer::Now(body)) => self.reply(caller, body),
            Ok(Answer::With(body, fds)) => self.reply_with(caller, body, fds),
            Ok(Answer::Later) => {}
            Err(failure) => self.fail(caller, failure),
        }
    }

    fn carry_out(
        &mut self,
        caller: Caller,
        body: request::Body,
        fds: Vec<OwnedFd>,
    ) -> Result<Answer, Failure> {
        match body {
            request::Body::Hello(hello) => self.hello(caller, &hello),
            request::Body::Sandbox(plan) => self.sandbox(&plan, fds),
            request::Body::Create(create) => self.create(caller, create, fds.into_iter().next()),
            request::Body::Start(container) => self.start(caller, &container.container_id),
            request::Body::Kill(kill) => self.kill(&kill),
            request::Body::Delete(container) => self.delete(caller, &container.container_id),
            request::Body::Exec(exec) => self.exec(caller, exec),
            request::Body::KillExec(exec) => self.kill_exec(&exec.container_id, &exec.exec_id),
            request::Body::Resize(resize) => self.resize(&resize),
            request::Body::CloseStdin(container) => self.close_stdin(&container.container_id),
            request::Body::ReopenLog(container) => self.reopen_log(&container.container_id),
            request::Body::Update(update) => self.update(&update),
            request::Body::Attach(attach) => {
                let streams = [attach.stdin, attach.stdout, attach.stderr];
                self.attach(&attach.container_id, streams)
            }
            request::Body::Snapshot(_) => Ok(Answer::Now(reply::Body::Snapshot(self.snapshot()))),
            request::Body::Shutdown(_) => Ok(self.shut_down(caller)),
            request::Body::StopAll(_) => Ok(self.stop_all(caller)),
        }
    }

    fn hello(&mut self, caller: Caller, hello: &Hello) -> Result<Answer, Failure> {
        let version = hello.version.min(VERSION);
        if version < VERSION_OLDEST || version < hello.version_oldest {
            let message = format!(
                "no version in common: {VERSION_OLDEST} to {VERSION} here, {} to {} there",
                hello.version_oldest, hello.version
            );
            return Err(plain(FailureKind::Unsupported, message));
        }
        self.greet(caller.connection);
        Ok(Answer::Now(reply::Body::Hello(HelloReply {
            version,
            shim_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
        })))
    }

    /// Sets up the pod. The shim is changed for good by it: if it fails half-way, the shim ends.
    fn sandbox(&mut self, plan: &SandboxPlan, fds: Vec<OwnedFd>) -> Result<Answer, Failure> {
        if self.ready.is_some() {
            return Err(plain(FailureKind::WrongState, "the pod is set up already"));
        }
        if !plan.pod_dir.is_empty() && Path::new(&plan.pod_dir) != self.dir {
            let message = format!("pod folder {:?} is not this shim's {:?}", plan.pod_dir, self.dir);
            return Err(plain(FailureKind::Invalid, message));
        }
        let tree = Tree::detect().map_err(|e| failure(FailureKind::Internal, &e))?;
        let tree = Arc::new(tree);
        if !plan.shim_cgroup.is_empty() {
            join_own(&tree, &plan.shim_cgroup)?;
        }
        let sandbox = match Sandbox::enter(plan, fds) {
            Ok(sandbox) => sandbox,
            Err(error) => {
                self.ending = Ending::flushing();
                return Err(failure(FailureKind::Internal, &error));
            }
        };
        let init_pid = sandbox.micro_init().map_or(0, |init| init.pid.as_raw_nonzero().get());
        self.ready = Some(Ready { sandbox, tree, init_ended: false });
        Ok(Answer::Now(reply::Body::Sandbox(SandboxReply { init_pid })))
    }

    fn kill(&mut self, kill: &Kill) -> Result<Answer, Failure> {
        if !(1..=SIGNAL_MAX).contains(&kill.signal) {
            let message = format!("{} is not a signal's number", kill.signal);
            return Err(plain(FailureKind::Invalid, message));
        }
        let (_, container) = self.find(&kill.container_id)?;
        signal(container, kill.signal, kill.all)?;
        Ok(Answer::done())
    }

    fn resize(&mut self, resize: &Resize) -> Result<Answer, Failure> {
        let cells = |n: u32, what: &str| {
            u16::try_from(n).map_err(|_| plain(FailureKind::Invalid, format!("{n} {what} are too many")))
        };
        let size = Winsize {
            ws_col: cells(resize.width, "columns")?,
            ws_row: cells(resize.height, "rows")?,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let (_, container) = self.find(&resize.container_id)?;
        let result = if resize.exec_id.is_empty() {
            let console = container.streams.console();
            let console =
                console.ok_or_else(|| plain(FailureKind::Invalid, "the container has no terminal"))?;
            tcsetwinsize(console, size)
        } else {
            let process = container.execs.values().find(|e| e.id == resize.exec_id);
            // One that has ended has no terminal, though something that it started may still be there.
            let process = process.filter(|e| !matches!(e.state, ExecState::Lingering { .. }));
            let process = process.ok_or_else(|| no_exec(&resize.exec_id))?;
            match resize_foreign(&process.process.pidfd, size) {
                // It is ending, and was not reaped yet: its descriptors are closed (pidfd_getfd(2)).
                Err(Errno::SRCH | Errno::BADF) => return Err(no_exec(&resize.exec_id)),
                result => result,
            }
        };
        result.map_err(|e| {
            plain(
                FailureKind::Internal,
                format!("set the size of the terminal of {}: {e}", resize.container_id),
            )
        })?;
        Ok(Answer::done())
    }

    fn close_stdin(&mut self, id: &str) -> Result<Answer, Failure> {
        let (key, _) = self.find(id)?;
        if let Some(container) = self.containers.get_mut(&key) {
            container.streams.close_stdin(&self.poller);
        }
        Ok(Answer::done())
    }

    fn reopen_log(&mut self, id: &str) -> Result<Answer, Failure> {
        let (_, container) = self.find(id)?;
        if !container.is_alive() {
            let message = format!("container {id} is exited: its log is closed");
            return Err(plain(FailureKind::WrongState, message));
        }
        container.streams.reopen_log().map_err(|e| failure(FailureKind::Internal, &e))?;
        Ok(Answer::done())
    }

    fn update(&mut self, update: &Update) -> Result<Answer, Failure> {
        let (_, container) = self.find(&update.container_id)?;
        match container.state {
            State::Created { .. } | State::Starting { .. } | State::Running { .. } => {}
            State::Creating { .. }
            | State::CreateFailed { .. }
            | State::StartFailed { .. }
            | State::Draining { .. }
            | State::Exited { .. }
            | State::Changing => return Err(wrong_state(container, "updated")),
        }
        let limits = resources::limits(&update.resources);
        limits.check().map_err(|e| failure(FailureKind::Invalid, &e))?;
        container.cgroup.update(&limits).map_err(|e| failure(FailureKind::Internal, &e))?;
        Ok(Answer::done())
    }

    fn attach(&mut self, id: &str, streams: [bool; 3]) -> Result<Answer, Failure> {
        let (key, container) = self.find(id)?;
        if !matches!(container.state, State::Created { .. } | State::Starting { .. } | State::Running { .. })
        {
            return Err(wrong_state(container, "attached to"));
        }
        let Some(container) = self.containers.get_mut(&key) else { return Err(no_container(id)) };
        let fds =
            container.streams.attach(streams, &self.poller).map_err(|e| failure(FailureKind::Invalid, &e))?;
        Ok(Answer::With(reply::Body::Attached(carpel_shim_api::message::Attached {}), fds))
    }

    /// The container with this id, and its key.
    pub(crate) fn find(&mut self, id: &str) -> Result<(u32, &mut Container), Failure> {
        let found = self.containers.iter_mut().find(|(_, container)| container.id == id);
        found.map(|(key, container)| (*key, container)).ok_or_else(|| no_container(id))
    }
}

/// Sends a signal to a container's init process, or to all of it. One that has exited is no error.
pub(crate) fn signal(container: &mut Container, signal: i32, all: bool) -> Result<(), Failure> {
    if signal == SIGKILL {
        oom::on_sigkill(container);
    }
    let Some(init) = container.init() else { return Ok(()) };
    let mut result = Ok(());
    // SIGKILL means all of it in any case: the rest does not outlive the init process. A frozen
    // container dies by its cgroup only.
    if all || signal == SIGKILL {
        result = container.cgroup.signal(signal).map_err(|e| failure(FailureKind::Internal, &e));
    }
    // All the same: a process that is not in its cgroup yet, or whose cgroup could not be reached.
    if !all || signal == SIGKILL {
        use std::os::fd::AsFd;
        match carpel_sys::signal::send(init.pidfd.as_fd(), signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(e) => {
                let message = format!("send signal {signal} to container {}: {e}", container.id);
                result = result.and(Err(plain(FailureKind::Internal, message)));
            }
        }
    }
    result
}

/// Sets the size of the terminal that another process has as one of its streams. The shim does not
/// keep a copy of an exec's terminal: the terminal would not hang up when the client goes.
fn resize_foreign(pidfd: &OwnedFd, size: Winsize) -> Result<(), Errno> {
    let mut last = Errno::NOTTY;
    for stream in 0..=2 {
        let set = pidfd_getfd(pidfd, stream, PidfdGetfdFlags::empty()).and_then(|fd| tcsetwinsize(&fd, size));
        match set {
            Ok(()) => return Ok(()),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Moves the shim into the cgroup that it is to live in.
fn join_own(tree: &Arc<Tree>, path: &str) -> Result<(), Failure> {
    let path = CgroupPath::parse(path).map_err(|e| failure(FailureKind::Invalid, &e))?;
    let cgroup = Cgroup::ensure(tree, &path).map_err(|e| failure(FailureKind::Internal, &e))?;
    // A daemon that could has started the shim in its cgroup2 folder already.
    let which = if is_born_in(&path) { Hierarchies::V1 } else { Hierarchies::All };
    for entrance in cgroup.entrances(which).map_err(|e| failure(FailureKind::Internal, &e))? {
        rustix::io::write(&entrance, b"0").map_err(|e| failure(FailureKind::Internal, &e))?;
    }
    Ok(())
}

/// Whether this process is in `path` of cgroup2. cgroups(7), `/proc/pid/cgroup`.
fn is_born_in(path: &CgroupPath) -> bool {
    let line = format!("0::{path}");
    std::fs::read_to_string("/proc/self/cgroup").is_ok_and(|text| text.lines().any(|have| have == line))
}

/// An id names files and cgroups: a plain word.
pub(crate) fn check_id(id: &str, what: &str) -> Result<(), Failure> {
    let plain_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let is_plain =
        !id.is_empty() && id.len() <= ID_MAX_BYTES && !id.starts_with('.') && id.bytes().all(plain_byte);
    if is_plain { Ok(()) } else { Err(plain(FailureKind::Invalid, format!("{id:?} is not {what} id"))) }
}

pub(crate) fn no_container(id: &str) -> Failure {
    plain(FailureKind::NotFound, format!("no container {id} in this pod"))
}

fn no_exec(id: &str) -> Failure {
    plain(FailureKind::NotFound, format!("no exec {id} in this container"))
}

pub(crate) fn wrong_state(container: &Container, verb: &str) -> Failure {
    let message = format!("container {} is {}: it cannot be {verb}", container.id, container.state_name());
    plain(FailureKind::WrongState, message)
}
