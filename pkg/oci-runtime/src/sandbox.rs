//! What a pod's containers share, made by changing the shim itself.
//!
//! ```text
//!  namespace   of the shim after `enter`     how a container gets it
//!  net         the pod's (joined)            by birth
//!  ipc, uts    the pod's (made) or the host's  by birth
//!  user        the host's, still             init enters the pod's, if it has one: `user_namespace.rs`
//!  mount       the host's, still             init joins the pod's mounts (`mounts.rs`), copies them
//!  pid         the host's, still             new · the micro-init's · a target's · by birth
//!  cgroup      the host's, still             init makes its own once it is in its cgroup
//! ```
//!
//! The shim's paths stay the host's. Everything made here ends with the shim: the mounts are in a
//! namespace that only a descriptor of the shim's keeps, the micro-init dies with it.
//!
//! A pod with a user namespace of its own is given all namespaces, which that one owns; what a process
//! with threads can make better than this one, whoever starts the shim makes (`carpel_sys::userns`).

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carpel_shim_api::plan::SandboxPlan;
use carpel_sys::clone::{NotSingleThreaded, Process, SingleThreaded};
use carpel_sys::namespace::{Kind, unshare};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, getpid, set_child_subreaper, set_dumpable_behavior};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

use micro_init::MicroInitError;
use mounts::{PodMounts, PodMountsError};
use sysctl::SysctlError;
use user_namespace::UserNamespace;

pub mod micro_init;
pub mod mounts;
pub mod sysctl;
pub(crate) mod user_namespace;

/// The longest host name, bytes (sethostname(2)).
const HOSTNAME_MAX_BYTES: usize = 64;

/// A pod's namespaces, as the shim that is in them holds them.
#[derive(Debug)]
pub struct Sandbox {
    alone: SingleThreaded,
    host_pid_namespace: OwnedFd,
    mounts: PodMounts,
    user_namespace: Option<UserNamespace>,
    init: Option<Process>,
}

/// Why the pod was not set up. The process is then of no use any more: it should end.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Threads would not follow into the namespaces.
    #[error("set up a pod")]
    Threads(#[source] NotSingleThreaded),
    /// A setting of the shim's own process.
    #[error("set the shim's own {0}")]
    Own(&'static str, #[source] Errno),
    /// A namespace could not be made or joined.
    #[error("enter the pod's {0} namespace")]
    Namespace(&'static str, #[source] Errno),
    /// The plan speaks of a namespace whose descriptor did not come with it.
    #[error("the {0} namespace did not come with the pod's plan")]
    MissingNamespace(&'static str),
    /// A user namespace owns nothing of the host's.
    #[error("a pod with a user namespace of its own cannot have the host's IPC namespace")]
    HostIpcInUserNamespace,
    /// The host name is longer than the kernel takes.
    #[error("a host name of {0} bytes; at most {HOSTNAME_MAX_BYTES}")]
    HostnameLength(usize),
    /// The host name could not be set.
    #[error("set the pod's host name")]
    Hostname(#[source] Errno),
    /// The mounts.
    #[error("make the pod's mounts")]
    Mounts(#[source] PodMountsError),
    /// A sysctl.
    #[error("set the pod's sysctls")]
    Sysctl(#[source] SysctlError),
    /// The micro-init.
    #[error("start the pod's micro-init")]
    MicroInit(#[source] MicroInitError),
}

/// Why no child could be made in a PID namespace.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// Its process has ended (ESRCH), or it is not below this one's (EINVAL).
    #[error("join it")]
    Join(#[source] Errno),
    /// The child was made, and ends; the next would be born in the wrong namespace.
    #[error("come back from it")]
    Return(#[source] Errno),
}

impl Sandbox {
    /// Makes and joins the pod's namespaces in this process, which must have one thread. `namespaces`
    /// are those that were made before: see [`SandboxPlan::id_mappings`].
    ///
    /// Children that lose their parent become this process's (`PR_SET_CHILD_SUBREAPER`), and from
    /// now on neither it nor a child of it can be looked into before it executes another program
    /// (`PR_SET_DUMPABLE`), so that a container's processes cannot get at what these have open.
    pub fn enter(plan: &SandboxPlan, namespaces: Vec<OwnedFd>) -> Result<Self, SandboxError> {
        let alone = SingleThreaded::prove().map_err(SandboxError::Threads)?;
        let given = Given::of(plan, namespaces)?;
        if plan.hostname.len() > HOSTNAME_MAX_BYTES {
            return Err(SandboxError::HostnameLength(plan.hostname.len()));
        }
        sysctl::check(plan).map_err(SandboxError::Sysctl)?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|e| SandboxError::Own("dumpability", e))?;
        set_child_subreaper(Some(getpid())).map_err(|e| SandboxError::Own("reaper flag", e))?;
        set_oom_score_adj(plan.shim_oom_score_adj);
        let host_pid_namespace = open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let host_pid_namespace = host_pid_namespace.map_err(|e| SandboxError::Namespace("pid", e))?;

        let shm_size = (!plan.host_ipc).then_some(plan.shm_size_bytes);
        let mounts = PodMounts::make(shm_size, &plan.mount_label, given.user.as_ref())
            .map_err(SandboxError::Mounts)?;
        if !plan.host_ipc {
            make_or_join("ipc", Kind::Ipc, given.ipc, LinkNameSpaceType::InterProcessCommunication)?;
        }
        if !plan.host_uts {
            make_or_join("uts", Kind::Uts, given.uts, LinkNameSpaceType::HostNameAndNISDomainName)?;
            // A new namespace starts with the node's name, which is what a pod without one gets.
            if !plan.hostname.is_empty() {
                rustix::system::sethostname(plan.hostname.as_bytes()).map_err(SandboxError::Hostname)?;
            }
        }
        if let Some(netns) = given.network {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|e| SandboxError::Namespace("network", e))?;
        }
        sysctl::apply(plan, given.user.as_ref()).map_err(SandboxError::Sysctl)?;
        let init = if plan.shared_pid {
            let started = micro_init::start(&alone, &mounts, &plan.process_label, given.user.as_ref());
            Some(started.map_err(SandboxError::MicroInit)?)
        } else {
            None
        };
        Ok(Self { alone, host_pid_namespace, mounts, user_namespace: given.user, init })
    }

    /// The micro-init of a shared PID namespace. When it ends, all processes in there are killed.
    #[must_use]
    pub fn micro_init(&self) -> Option<&Process> {
        self.init.as_ref()
    }

    pub(crate) fn alone(&self) -> &SingleThreaded {
        &self.alone
    }

    pub(crate) fn mounts(&self) -> &PodMounts {
        &self.mounts
    }

    /// Absent: the pod has the host's.
    pub(crate) fn user_namespace(&self) -> Option<&UserNamespace> {
        self.user_namespace.as_ref()
    }

    /// A process of the shared PID namespace.
    pub(crate) fn shared_pid_namespace(&self) -> Option<BorrowedFd<'_>> {
        self.init.as_ref().map(|init| init.pidfd.as_fd())
    }

    /// Has the children that `make` makes be born in the PID namespace of the process `member`
    /// (pid_namespaces(7): setns changes where children are born, not this process).
    pub(crate) fn with_children_in<T>(
        &self,
        member: BorrowedFd<'_>,
        make: impl FnOnce() -> T,
    ) -> Result<T, NamespaceError> {
        move_into_thread_name_spaces(member, ThreadNameSpaceType::PROCESS_ID)
            .map_err(NamespaceError::Join)?;
        let made = make();
        move_into_link_name_space(self.host_pid_namespace.as_fd(), Some(LinkNameSpaceType::ProcessID))
            .map_err(NamespaceError::Return)?;
        Ok(made)
    }
}

/// The namespaces that came with a plan.
#[derive(Default)]
struct Given {
    network: Option<OwnedFd>,
    uts: Option<OwnedFd>,
    ipc: Option<OwnedFd>,
    user: Option<UserNamespace>,
}

impl Given {
    fn of(plan: &SandboxPlan, mut namespaces: Vec<OwnedFd>) -> Result<Self, SandboxError> {
        let Some(ids) = plan.id_mappings else {
            return Ok(Self { network: namespaces.into_iter().next(), ..Self::default() });
        };
        if plan.host_ipc {
            return Err(SandboxError::HostIpcInUserNamespace);
        }
        let mut last = |name| namespaces.pop().ok_or(SandboxError::MissingNamespace(name));
        let user = Some(UserNamespace::new(last("user")?, ids));
        let ipc = Some(last("ipc")?);
        let uts = if plan.host_uts { None } else { Some(last("uts")?) };
        Ok(Self { network: namespaces.pop(), uts, ipc, user })
    }
}

/// Joins a namespace that was given, or makes one.
fn make_or_join(
    name: &'static str,
    kind: Kind,
    given: Option<OwnedFd>,
    link: LinkNameSpaceType,
) -> Result<(), SandboxError> {
    let result = match given {
        Some(fd) => move_into_link_name_space(fd.as_fd(), Some(link)),
        None => unshare(&[kind]),
    };
    result.map_err(|e| SandboxError::Namespace(name, e))
}

/// Going below what the daemon has takes CAP_SYS_RESOURCE (proc_pid_oom_score_adj(5)); without it the
/// shim stays where the daemon is, which is the lowest it can have.
fn set_oom_score_adj(wanted: i32) {
    let _lowest_that_can_be_had = fs::write("/proc/self/oom_score_adj", wanted.to_string());
}
