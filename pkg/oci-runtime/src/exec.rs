//! One more process in a running container, the shim's side. The child's side is `joiner.rs`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carpel_shim_api::plan::ProcessPlan;
use carpel_sys::clone::{CloneRequest, Process, clone_process};
use rustix::io::Errno;

use crate::cgroup::Membership;
use crate::joiner::{self, Joiner};
use crate::report::{self, Failure, ReadError, Report};
use crate::sandbox::{NamespaceError, Sandbox};
use crate::stdio::Stdio;
use crate::user::Identity;

/// What to run.
pub struct Request<'a> {
    /// The pidfd of the container's init process.
    pub container: BorrowedFd<'a>,
    /// The process.
    pub plan: &'a ProcessPlan,
    /// Who it runs as, where that was resolved before: the container's files, which it may have changed
    /// since, then have no say. Else the plan's user is looked up in them.
    pub identity: Option<&'a Identity>,
    /// The cgroup it is to be in, which is there already.
    pub cgroup: Membership<'a>,
    /// Its streams; [`Stdio::Terminal`] exactly if the plan has a terminal.
    pub stdio: Stdio,
}

/// Why a process does not run. The child has ended.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The plan contradicts the request.
    #[error("{0}")]
    Invalid(&'static str),
    /// No socket to the child.
    #[error("make the socket to a new process")]
    Socket(#[source] Errno),
    /// The container's PID namespace could not be joined: it has exited (ESRCH).
    #[error("join the container's PID namespace")]
    PidNamespace(#[source] NamespaceError),
    /// No process.
    #[error("clone3 a new process")]
    Clone(#[source] Errno),
    /// The child said why it failed.
    #[error("{0}")]
    Child(Failure),
    /// The child ended without a word: it was killed.
    #[error("the process was killed before it ran")]
    Killed,
    /// The child's report could not be read.
    #[error("read the process's report")]
    Report(#[source] ReadError),
}

/// A process that is being made: to be watched and reaped, and its progress.
#[derive(Debug)]
pub struct Begun {
    /// The process.
    pub process: Process,
    /// How far it is.
    pub execing: Execing,
}

/// The child is at work.
#[derive(Debug)]
pub struct Execing {
    sync: OwnedFd,
    ready: Option<Started>,
}

/// What [`Execing::on_readable`] found.
#[derive(Debug)]
pub enum Progress {
    /// Nothing yet.
    Pending(Execing),
    /// execve succeeded, or a signal killed the child just before it: then its exit tells.
    Started(Started),
}

/// The process runs.
#[derive(Debug)]
pub struct Started {
    /// Who it runs as.
    pub identity: Identity,
    /// The terminal's master, if the plan has a terminal.
    pub console: Option<OwnedFd>,
}

/// Makes the child. Does not wait for it.
pub fn begin(sandbox: &Sandbox, request: Request<'_>) -> Result<Begun, ExecError> {
    if request.plan.terminal != matches!(request.stdio, Stdio::Terminal) {
        return Err(ExecError::Invalid("a terminal in the plan and in the request, or in neither"));
    }
    let (sync, theirs) = report::pair().map_err(ExecError::Socket)?;
    let clone = CloneRequest { cgroup: request.cgroup.born_in(), ..CloneRequest::default() };
    let joiner = Joiner {
        plan: request.plan,
        user_namespace: sandbox.user_namespace(),
        container: request.container,
        identity: request.identity,
        cgroup: request.cgroup,
        stdio: &request.stdio,
        sync: theirs.as_fd(),
    };
    let make = || clone_process(sandbox.alone(), &clone, |child| joiner::run(child, &joiner));
    let process = sandbox.with_children_in(request.container, make).map_err(ExecError::PidNamespace)?;
    let process = process.map_err(ExecError::Clone)?;
    Ok(Begun { process, execing: Execing { sync, ready: None } })
}

impl Execing {
    /// Goes on when [`AsFd::as_fd`] is readable.
    pub fn on_readable(mut self) -> Result<Progress, ExecError> {
        loop {
            match report::receive(self.sync.as_fd()).map_err(ExecError::Report)? {
                None => return Ok(Progress::Pending(self)),
                Some(Report::Ready { identity, console }) => {
                    self.ready = Some(Started { identity, console });
                }
                Some(Report::Moved(_)) => return Err(ExecError::Report(ReadError::Malformed)),
                Some(Report::Failed(failure)) => return Err(ExecError::Child(failure)),
                Some(Report::End) => {
                    return self.ready.map(Progress::Started).ok_or(ExecError::Killed);
                }
            }
        }
    }
}

impl AsFd for Execing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }
}
