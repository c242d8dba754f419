//! One more process in a running container, the child's side.
//!
//! ```text
//!  born in the container's PID namespace and the pod's net, ipc, uts
//!    cgroup · close what is the shim's · die with the shim · labels
//!    joins the init process's user, mount and cgroup namespaces by its pidfd
//!    user, unless it is known · terminal · working directory · the steps of `process.rs`
//!    ── ready ──
//!    seccomp · execve
//! ```
//!
//! From its birth until the change of credentials the child has the shim's capabilities and can be
//! seen in the container. Not being dumpable (`Sandbox::enter`), it cannot be traced nor its
//! descriptors be opened by the container's processes, unless they have `CAP_SYS_PTRACE`: a container
//! with that capability and without a user namespace is to be trusted as the host's root is. The same
//! holds for an init process that joins another's PID namespace.

use std::convert::Infallible;
use std::os::fd::BorrowedFd;

use carpel_shim_api::plan::ProcessPlan;
use carpel_sys::clone::InChild;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::umask;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::cgroup::{Membership, MembershipError};
use crate::child::{self, ChildError};
use crate::process::{ProcessError, Ready, limits, security, stdio, workdir};
use crate::report::{self, Failure, Stage};
use crate::root::Root;
use crate::sandbox::user_namespace::{UserNamespace, become_root};
use crate::stdio::Stdio;
use crate::terminal;
use crate::user::{self, Identity};

const FAILED_STATUS: i32 = 1;

/// What a child is to become.
pub(crate) struct Joiner<'a> {
    pub(crate) plan: &'a ProcessPlan,
    pub(crate) user_namespace: Option<&'a UserNamespace>,
    pub(crate) container: BorrowedFd<'a>,
    /// Resolved before; `None` to look the plan's user up in the container's files.
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) cgroup: Membership<'a>,
    pub(crate) stdio: &'a Stdio,
    pub(crate) sync: BorrowedFd<'a>,
}

/// The step that failed.
#[derive(Debug, thiserror::Error)]
enum JoinerError {
    #[error(transparent)]
    Cgroup(#[from] MembershipError),
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error("join the container's namespaces")]
    Namespaces(#[source] Errno),
    #[error("open the container's root")]
    Root(#[source] Errno),
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl JoinerError {
    fn stage(&self) -> Stage {
        match self {
            Self::Cgroup(_) => Stage::Cgroup,
            Self::Child(_) => Stage::Prepare,
            Self::Namespaces(_) | Self::Root(_) => Stage::Namespace,
            Self::Process(error) => error.stage(),
        }
    }
}

/// The child's whole life. The status that it gives back is the failed child's.
pub(crate) fn run(child: &InChild, joiner: &Joiner<'_>) -> i32 {
    match carry_out(child, joiner) {
        Ok(never) => match never {},
        Err(error) => {
            report::send_failed(joiner.sync, &Failure::new(error.stage(), &error));
            FAILED_STATUS
        }
    }
}

fn carry_out(child: &InChild, joiner: &Joiner<'_>) -> Result<Infallible, JoinerError> {
    let plan = joiner.plan;
    joiner.cgroup.join_self()?;
    let mut keep = joiner.stdio.fds();
    keep.extend([joiner.container, joiner.sync]);
    child.close_all_but(&keep);
    child::report_panics(joiner.sync)?;
    child::end_with_parent(joiner.sync)?;
    security::set_oom_score(plan).map_err(ProcessError::from)?;
    security::label(plan).map_err(ProcessError::from)?;
    security::leave_keyring().map_err(ProcessError::from)?;
    // A folder that the working directory lacks is made with exactly its mode.
    umask(Mode::empty());

    let mut kinds = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::CONTROL_GROUP;
    if let Some(user_namespace) = joiner.user_namespace {
        kinds |= ThreadNameSpaceType::USER;
        stdio::give(joiner.stdio, user_namespace.root()).map_err(ProcessError::from)?;
        limits::make_room(&plan.rlimits).map_err(ProcessError::from)?;
    }
    move_into_thread_name_spaces(joiner.container, kinds).map_err(JoinerError::Namespaces)?;
    if joiner.user_namespace.is_some() {
        become_root().map_err(ChildError::UserNamespace)?;
        child::end_with_parent(joiner.sync)?;
    }
    let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Root::new(open("/", dir, Mode::empty()).map_err(JoinerError::Root)?);
    let looked_up;
    let identity = match joiner.identity {
        Some(identity) => identity,
        None => {
            looked_up =
                user::resolve(&root, &plan.user, joiner.user_namespace).map_err(ProcessError::from)?;
            &looked_up
        }
    };
    let terminal =
        if plan.terminal { Some(terminal::open(&root).map_err(ProcessError::from)?) } else { None };
    let dir = workdir::ensure(&root, &plan.cwd).map_err(ProcessError::from)?;
    workdir::enter(&dir, &plan.cwd).map_err(ProcessError::from)?;
    stdio::place(&root, joiner.stdio, terminal.as_ref(), identity.user.uid).map_err(ProcessError::from)?;
    let ready = Ready::prepare(plan, identity, joiner.sync)?;
    let console = terminal.map(|terminal| terminal.master);
    report::send_ready(joiner.sync, identity, console.as_ref()).map_err(ChildError::Report)?;
    drop(console);
    Ok(ready.run()?)
}
