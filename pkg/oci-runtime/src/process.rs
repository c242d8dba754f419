//! The steps from a clone to a program, common to init processes and execs, in the kernel's order:
//!
//! ```text
//!  security     AppArmor profile and SELinux label for the coming execve, out-of-memory score, keys: all
//!               through the host's procfs, before the container's can be in the way
//!  (init: rootfs, mounts · exec: the container's namespaces)
//!  workdir      by descriptor, and checked to be inside the root
//!  stdio        session, standard streams, controlling terminal
//!  limits       resource limits
//!  credentials  bounding set, groups, ids, capabilities, no_new_privs
//!  (init: waits for the shim's word)
//!  command      seccomp as the last step but one, execve
//! ```

use std::convert::Infallible;
use std::os::fd::BorrowedFd;

use carpel_shim_api::plan::ProcessPlan;
use carpel_sys::fd::close_on_exec_from_3;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::umask;
use rustix::thread::set_no_new_privs;

use crate::child::{self, ChildError};
use crate::report::Stage;
use crate::terminal::TerminalError;
use crate::user::{Identity, UserError};
use command::{Command, CommandError, RunError};
use credentials::{CredentialsError, LastPrivileges};
use limits::LimitError;
use security::SecurityError;
use stdio::StdioError;
use workdir::WorkdirError;

pub(crate) mod command;
pub(crate) mod credentials;
pub(crate) mod limits;
pub(crate) mod security;
pub(crate) mod stdio;
pub(crate) mod workdir;

/// umask(2) of a process whose plan does not say.
const DEFAULT_UMASK: u32 = 0o022;

/// The step that a process failed at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    #[error(transparent)]
    Stdio(#[from] StdioError),
    #[error(transparent)]
    Workdir(#[from] WorkdirError),
    #[error(transparent)]
    Limits(#[from] LimitError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("set no_new_privs")]
    NoNewPrivileges(#[source] Errno),
    #[error("mark the file descriptors close-on-exec")]
    CloseOnExec(#[source] Errno),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Run(#[from] RunError),
}

impl ProcessError {
    pub(crate) fn stage(&self) -> Stage {
        match self {
            Self::Child(_) | Self::CloseOnExec(_) => Stage::Prepare,
            Self::Security(SecurityError::OomScore { .. }) | Self::Limits(_) => Stage::Limits,
            Self::Security(_) => Stage::Security,
            Self::User(_) => Stage::User,
            Self::Terminal(_) | Self::Stdio(_) => Stage::Terminal,
            Self::Workdir(_) => Stage::WorkingDirectory,
            Self::Credentials(_) | Self::NoNewPrivileges(_) | Self::Run(RunError::Privileges(_)) => {
                Stage::Credentials
            }
            Self::Command(CommandError::Seccomp(_)) | Self::Run(RunError::Seccomp(_)) => Stage::Seccomp,
            Self::Command(_) | Self::Run(RunError::NotFound { .. } | RunError::Execute { .. }) => {
                Stage::Execute
            }
        }
    }
}

/// A process that is all but the program.
#[derive(Debug)]
pub(crate) struct Ready {
    command: Command,
    last: Option<LastPrivileges>,
}

impl Ready {
    /// Takes on limits and credentials. From here on the process can do little else than run.
    pub(crate) fn prepare(
        plan: &ProcessPlan,
        identity: &Identity,
        sync: BorrowedFd<'_>,
    ) -> Result<Self, ProcessError> {
        let command = Command::new(plan, identity.home.as_deref())?;
        umask(Mode::from_raw_mode(plan.umask.unwrap_or(DEFAULT_UMASK) & 0o777));
        limits::set(&plan.rlimits)?;
        let keep_sys_admin = command.has_filter() && !plan.no_new_privileges;
        let last = credentials::become_user(&identity.user, &plan.capabilities, keep_sys_admin)?;
        if plan.no_new_privileges {
            set_no_new_privs(true).map_err(ProcessError::NoNewPrivileges)?;
        }
        // The change of credentials has disarmed it.
        child::end_with_parent(sync)?;
        close_on_exec_from_3().map_err(ProcessError::CloseOnExec)?;
        Ok(Self { command, last: keep_sys_admin.then_some(last) })
    }

    /// Becomes the program.
    pub(crate) fn run(&self) -> Result<Infallible, ProcessError> {
        Ok(self.command.run(self.last.as_ref())?)
    }
}
