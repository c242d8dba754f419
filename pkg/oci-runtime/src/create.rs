//! Making a container, the shim's side: a child that is everything but the program.
//!
//! ```text
//!  begin ──▶ Creating ──on_readable──▶ Created ──start──▶ Starting ──on_readable──▶ started
//!                │                        │                   │
//!                └── CreateError          └ dropped: the      └── StartError
//!                                           child ends
//! ```
//! The child's side is `init.rs`. Whatever becomes of it, the caller reaps the process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carpel_shim_api::plan::{ContainerPlan, PidNamespace};
use carpel_sys::clone::{CloneRequest, Process, clone_process};
use rustix::io::Errno;

use crate::cgroup::Membership;
use crate::init::{self, Init};
use crate::report::{self, Failure, ReadError, Report};
use crate::sandbox::{NamespaceError, Sandbox};
use crate::stdio::Stdio;
use crate::user::Identity;

/// What to make.
pub struct Request<'a> {
    /// The container.
    pub plan: &'a ContainerPlan,
    /// Its cgroup, which is there already.
    pub cgroup: Membership<'a>,
    /// Its init process's streams; [`Stdio::Terminal`] exactly if the plan has a terminal.
    pub stdio: Stdio,
    /// With [`PidNamespace::Target`]: the pidfd of the container whose namespace is joined.
    pub pid_target: Option<BorrowedFd<'a>>,
}

/// Why a container was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The plan contradicts the request or the pod.
    #[error("{0}")]
    Invalid(&'static str),
    /// No socket to the child.
    #[error("make the socket to a new init process")]
    Socket(#[source] Errno),
    /// The PID namespace could not be chosen.
    #[error("choose the PID namespace of a new container")]
    PidNamespace(#[source] NamespaceError),
    /// No process.
    #[error("clone3 a new init process")]
    Clone(#[source] Errno),
    /// The child said why it failed.
    #[error("{0}")]
    Init(Failure),
    /// The child ended without a word: it was killed.
    #[error("the init process was killed before it was ready")]
    Killed,
    /// The child's report could not be read.
    #[error("read the init process's report")]
    Report(#[source] ReadError),
}

/// Why a container's program does not run. Its init process has ended.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The child had ended already.
    #[error("the init process was killed before it was started")]
    Killed,
    /// It could not be told.
    #[error("tell the init process to go on")]
    Go(#[source] Errno),
    /// The child said why it failed.
    #[error("{0}")]
    Init(Failure),
    /// The child's report could not be read.
    #[error("read the init process's report")]
    Report(#[source] ReadError),
}

/// A container that is being made: its process, to be watched and reaped, and its progress.
#[derive(Debug)]
pub struct Begun {
    /// The init process.
    pub process: Process,
    /// How far it is.
    pub creating: Creating,
}

/// The child is at work. Dropping it ends the child at its next step.
#[derive(Debug)]
pub struct Creating {
    sync: OwnedFd,
}

/// What [`Creating::on_readable`] found.
#[derive(Debug)]
pub enum Progress {
    /// Nothing yet.
    Pending(Creating),
    /// Another process goes on in the child's place; the child's end means nothing any more.
    Moved(Process, Creating),
    /// All but the program.
    Created(Created),
}

/// The child waits for [`Created::start`]. Dropping it ends the child.
#[derive(Debug)]
pub struct Created {
    /// Who it runs as, by the image's own files. For [`exec::Request`](crate::exec::Request), which
    /// must not ask files that the container may have changed since.
    pub identity: Identity,
    /// The terminal's master, to be taken, if the plan has a terminal.
    pub console: Option<OwnedFd>,
    sync: OwnedFd,
}

/// The child was told to execute its program.
#[derive(Debug)]
pub struct Starting {
    sync: OwnedFd,
}

/// What [`Starting::on_readable`] found.
#[derive(Debug)]
pub enum StartProgress {
    /// Nothing yet.
    Pending(Starting),
    /// execve succeeded, or a signal killed the child just before it: then its exit tells.
    Started,
}

/// Makes the child. Does not wait for it.
pub fn begin(sandbox: &Sandbox, request: Request<'_>) -> Result<Begun, CreateError> {
    let plan = request.plan;
    if plan.process.terminal != matches!(request.stdio, Stdio::Terminal) {
        return Err(CreateError::Invalid("a terminal in the plan and in the request, or in neither"));
    }
    let (sync, theirs) = report::pair().map_err(CreateError::Socket)?;
    let own_pids = plan.pid_namespace() == PidNamespace::Container;
    let clone = CloneRequest {
        // One that the pod's user namespace is to own is made from within that: `init.rs`.
        new_pid_namespace: own_pids && sandbox.user_namespace().is_none(),
        cgroup: request.cgroup.born_in(),
        ..CloneRequest::default()
    };
    let init = Init { plan, sandbox, cgroup: request.cgroup, stdio: &request.stdio, sync: theirs.as_fd() };
    let make = || clone_process(sandbox.alone(), &clone, |child| init::run(child, &init));
    let process = match plan.pid_namespace() {
        PidNamespace::Container | PidNamespace::Node => make(),
        PidNamespace::Pod => {
            let shared = sandbox.shared_pid_namespace();
            let shared = shared.ok_or(CreateError::Invalid("the pod has no shared PID namespace"))?;
            sandbox.with_children_in(shared, make).map_err(CreateError::PidNamespace)?
        }
        PidNamespace::Target => {
            let target = request.pid_target;
            let target = target.ok_or(CreateError::Invalid("no container whose PID namespace is joined"))?;
            sandbox.with_children_in(target, make).map_err(CreateError::PidNamespace)?
        }
    };
    let process = process.map_err(CreateError::Clone)?;
    Ok(Begun { process, creating: Creating { sync } })
}

impl Creating {
    /// Goes on when [`AsFd::as_fd`] is readable.
    pub fn on_readable(self) -> Result<Progress, CreateError> {
        match report::receive(self.sync.as_fd()).map_err(CreateError::Report)? {
            None => Ok(Progress::Pending(self)),
            Some(Report::Moved(process)) => Ok(Progress::Moved(process, self)),
            Some(Report::Ready { identity, console }) => {
                Ok(Progress::Created(Created { identity, console, sync: self.sync }))
            }
            Some(Report::Failed(failure)) => Err(CreateError::Init(failure)),
            Some(Report::End) => Err(CreateError::Killed),
        }
    }
}

impl Created {
    /// Lets the child execute its program.
    pub fn start(self) -> Result<Starting, StartError> {
        match report::send_go(self.sync.as_fd()) {
            Ok(()) => Ok(Starting { sync: self.sync }),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(StartError::Killed),
            Err(errno) => Err(StartError::Go(errno)),
        }
    }
}

impl Starting {
    /// Goes on when [`AsFd::as_fd`] is readable.
    pub fn on_readable(self) -> Result<StartProgress, StartError> {
        match report::receive(self.sync.as_fd()).map_err(StartError::Report)? {
            None => Ok(StartProgress::Pending(self)),
            Some(Report::End) => Ok(StartProgress::Started),
            Some(Report::Failed(failure)) => Err(StartError::Init(failure)),
            Some(Report::Moved(_) | Report::Ready { .. }) => Err(StartError::Report(ReadError::Malformed)),
        }
    }
}

impl AsFd for Creating {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }
}

impl AsFd for Created {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }
}

impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }
}
