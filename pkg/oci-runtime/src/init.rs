//! Making a container, the child's side: from the clone to the init process's program.
//!
//! ```text
//!  in the host's mount namespace
//!    cgroup · close what is the shim's · die with the shim · labels
//!    rootfs, binds, image volumes, /dev, null device: as mounts that are attached nowhere
//!  in the pod's mount namespace
//!    the pod's /dev/shm
//!  in the pod's user namespace, if it has one, which owns what is made from here on; and if the
//!  container is to have a PID namespace, in another process: the first one of a namespace belongs to
//!  whoever makes it, and has that one's privileges
//!    cgroup namespace · a copy of the pod's mounts
//!    parts of image volumes · pivot_root: the host is out of reach
//!  in the container's root
//!    folders, mounts, devices · user · terminal, console · working directory · masks · read-only
//!    the steps of `process.rs`
//!    ── ready, go ──
//!    seccomp · execve
//! ```

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carpel_shim_api::plan::{ContainerPlan, PidNamespace, Propagation};
use carpel_sys::clone::{self, InChild};
use carpel_sys::mount::{ATTR_RDONLY, AttrChange, PropagationType, set_attr};
use carpel_sys::namespace::{Kind, unshare};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::umask;

use crate::cgroup::{Membership, MembershipError};
use crate::child::{self, ChildError};
use crate::devices::{self, DeviceError};
use crate::mask::{self, MaskError, NullMount};
use crate::mounts::{self, MountError, Mounts};
use crate::process::{ProcessError, Ready, limits, security, stdio, workdir};
use crate::report::{self, Failure, Stage};
use crate::root::Root;
use crate::rootfs::{self, RootfsError};
use crate::sandbox::Sandbox;
use crate::sandbox::mounts::PodMounts;
use crate::sandbox::user_namespace::UserNamespace;
use crate::stdio::Stdio;
use crate::terminal::{self, Terminal};
use crate::user;

const FAILED_STATUS: i32 = 1;

/// What a child is to become.
pub(crate) struct Init<'a> {
    pub(crate) plan: &'a ContainerPlan,
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) cgroup: Membership<'a>,
    pub(crate) stdio: &'a Stdio,
    pub(crate) sync: BorrowedFd<'a>,
}

/// The step that failed.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error(transparent)]
    Cgroup(#[from] MembershipError),
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error("make the container's {0} namespace")]
    Namespace(&'static str, #[source] Errno),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error("mount a procfs and a sysfs for the container's to be allowed by")]
    Reveal(#[source] Errno),
    #[error("open the container's root")]
    Root(#[source] Errno),
    #[error("set the propagation of the container's root")]
    RootPropagation(#[source] Errno),
    #[error("make the container's root read-only")]
    RootReadOnly(#[source] Errno),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Mask(#[from] MaskError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("wait for the shim's word")]
    Wait(#[source] Errno),
    #[error("the shim does not want the container any more")]
    Unwanted,
}

impl InitError {
    fn stage(&self) -> Stage {
        match self {
            Self::Cgroup(_) => Stage::Cgroup,
            Self::Child(_) | Self::Wait(_) | Self::Unwanted => Stage::Prepare,
            Self::Namespace(..) | Self::Reveal(_) => Stage::Namespace,
            Self::Rootfs(_) | Self::Root(_) | Self::RootPropagation(_) | Self::RootReadOnly(_) => {
                Stage::Rootfs
            }
            Self::Mount(error) => error.stage(),
            Self::Mask(_) => Stage::Mount,
            Self::Device(_) => Stage::Device,
            Self::Process(error) => error.stage(),
        }
    }
}

/// The child's whole life. The status that it gives back is the failed child's.
pub(crate) fn run(child: &InChild, init: &Init<'_>) -> i32 {
    report_end(init, carry_out(child, init))
}

fn report_end(init: &Init<'_>, result: Result<Infallible, InitError>) -> i32 {
    match result {
        Ok(never) => match never {},
        Err(error) => {
            report::send_failed(init.sync, &Failure::new(error.stage(), &error));
            FAILED_STATUS
        }
    }
}

fn carry_out(child: &InChild, init: &Init<'_>) -> Result<Infallible, InitError> {
    let plan = init.plan;
    // First of all, so that every byte and process from here on is the container's.
    init.cgroup.join_self()?;
    let sandbox = init.sandbox;
    let user = sandbox.user_namespace();
    let shared = sandbox.mounts().fds().chain(user.map(UserNamespace::fd));
    let keep: Vec<BorrowedFd<'_>> = init.stdio.fds().into_iter().chain(shared).chain([init.sync]).collect();
    child.close_all_but(&keep);
    child::report_panics(init.sync)?;
    child::end_with_parent(init.sync)?;
    security::set_oom_score(&plan.process).map_err(ProcessError::from)?;
    security::label(&plan.process).map_err(ProcessError::from)?;
    security::leave_keyring().map_err(ProcessError::from)?;
    // Modes are given exactly from here on; the process's own mask comes at the end.
    umask(Mode::empty());

    let taken = take_along(init)?;
    if let Some(user) = user {
        enter_user_namespace(init, user)?;
        if plan.pid_namespace() == PidNamespace::Container {
            child::continue_as_sibling(sandbox.alone(), init.sync, |_| {
                report_end(init, go_on_as_sibling(init, taken))
            })?;
            clone::exit(0);
        }
    }
    become_container(init, taken)
}

/// What is left to do with no more than the pod's user namespace allows.
fn enter_user_namespace(init: &Init<'_>, user: &UserNamespace) -> Result<(), InitError> {
    unshare(&[Kind::Mount]).map_err(|e| InitError::Namespace("mount", e))?;
    PodMounts::reveal().map_err(InitError::Reveal)?;
    stdio::give(init.stdio, user.root()).map_err(ProcessError::from)?;
    limits::make_room(&init.plan.process.rlimits).map_err(ProcessError::from)?;
    user.enter().map_err(ChildError::UserNamespace)?;
    // The change of credentials has disarmed it.
    child::end_with_parent(init.sync)?;
    Ok(())
}

fn go_on_as_sibling(init: &Init<'_>, taken: Taken<'_>) -> Result<Infallible, InitError> {
    child::report_panics(init.sync)?;
    child::end_with_parent(init.sync)?;
    become_container(init, taken)
}

fn become_container(init: &Init<'_>, taken: Taken<'_>) -> Result<Infallible, InitError> {
    let plan = init.plan;
    let user = init.sandbox.user_namespace();
    if !plan.host_cgroup_namespace {
        unshare(&[Kind::Cgroup]).map_err(|e| InitError::Namespace("cgroup", e))?;
    }
    let Mounted { root, null, own_dev } = enter_root(plan, taken)?;
    let identity = user::resolve(&root, &plan.process.user, user).map_err(ProcessError::from)?;
    let terminal = open_terminal(init, &root, own_dev.as_ref())?;
    let dir = workdir::ensure(&root, &plan.process.cwd).map_err(ProcessError::from)?;
    mask::mask(&root, null, &plan.masked_paths, &plan.mount_label)?;
    mask::make_read_only(&root, &plan.readonly_paths)?;
    finish_root(plan, &root)?;
    workdir::enter(&dir, &plan.process.cwd).map_err(ProcessError::from)?;
    stdio::place(&root, init.stdio, terminal.as_ref(), identity.user.uid).map_err(ProcessError::from)?;
    let ready = Ready::prepare(&plan.process, &identity, init.sync)?;

    let console = terminal.map(|terminal| terminal.master);
    report::send_ready(init.sync, &identity, console.as_ref()).map_err(ChildError::Report)?;
    drop(console);
    if !report::wait_for_go(init.sync).map_err(InitError::Wait)? {
        return Err(InitError::Unwanted);
    }
    Ok(ready.run()?)
}

/// What comes from the host, as mounts that are attached nowhere.
struct Taken<'a> {
    mounts: Mounts<'a>,
    null: NullMount,
    rootfs: OwnedFd,
    /// Nodes outside `/dev`, in a pod with a user namespace.
    nodes: Option<OwnedFd>,
}

/// Prepares all that comes from the host. Nothing of the image's was looked at then but its layers'
/// paths; the process is in the pod's mount namespace.
fn take_along<'a>(init: &Init<'a>) -> Result<Taken<'a>, InitError> {
    let plan = init.plan;
    let user = init.sandbox.user_namespace();
    let host_ipc = init.sandbox.mounts().shm().is_none();
    let mut mounts = mounts::prepare(plan, host_ipc, user)?;
    let null = mask::take_null()?;
    let nodes = if user.is_some() { devices::make_elsewhere(plan)? } else { None };
    // Last, because on old kernels it leaves the host's mount namespace.
    let rootfs = rootfs::make(&plan.rootfs, &plan.mount_label, user)?;
    init.sandbox.mounts().join().map_err(ChildError::PodMounts)?;
    mounts.take_pod_shm(init.sandbox.mounts().shm())?;
    Ok(Taken { mounts, null, rootfs, nodes })
}

/// The container's root with all of the plan's mounts.
struct Mounted {
    root: Root,
    null: NullMount,
    /// Absent if the plan binds a folder at `/dev`.
    own_dev: Option<OwnedFd>,
}

/// Moves into the root and makes all mounts. Nothing of the host's can be reached afterwards.
fn enter_root(plan: &ContainerPlan, taken: Taken<'_>) -> Result<Mounted, InitError> {
    let Taken { mut mounts, null, rootfs, nodes } = taken;
    unshare(&[Kind::Mount]).map_err(|e| InitError::Namespace("mount", e))?;
    mounts.make_kernel_views()?;
    mounts.take_sub_paths()?;
    let nodes = nodes.map(|nodes| devices::take_elsewhere(nodes.as_fd(), plan)).transpose()?;
    rootfs::pivot_into(rootfs.as_fd())?;
    drop(rootfs);

    let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Root::new(open("/", dir, Mode::empty()).map_err(InitError::Root)?);
    rootfs::make_folders(&plan.rootfs, &root)?;
    let own_dev = mounts.attach(&root)?;
    match nodes {
        Some(nodes) => devices::attach_elsewhere(&root, plan, &nodes)?,
        None => devices::populate_elsewhere(&root, plan)?,
    }
    Ok(Mounted { root, null, own_dev })
}

fn open_terminal(
    init: &Init<'_>,
    root: &Root,
    own_dev: Option<&OwnedFd>,
) -> Result<Option<Terminal>, InitError> {
    if !init.plan.process.terminal {
        return Ok(None);
    }
    let terminal = terminal::open(root).map_err(ProcessError::from)?;
    if let Some(dev) = own_dev {
        terminal::mount_console(&terminal, dev.as_fd()).map_err(ProcessError::from)?;
    }
    Ok(Some(terminal))
}

/// What can only be said of the root once all is made in it.
fn finish_root(plan: &ContainerPlan, root: &Root) -> Result<(), InitError> {
    let propagation = match plan.rootfs_propagation() {
        // It was mounted for this container alone.
        Propagation::Inherit | Propagation::Private => None,
        Propagation::Slave => Some(PropagationType::Slave),
        Propagation::Shared => Some(PropagationType::Shared),
    };
    if propagation.is_some() {
        let change = AttrChange { propagation, ..AttrChange::default() };
        set_attr(root.as_fd(), change).map_err(InitError::RootPropagation)?;
    }
    if plan.rootfs.readonly {
        let change = AttrChange { set: ATTR_RDONLY, ..AttrChange::default() };
        set_attr(root.as_fd(), change).map_err(InitError::RootReadOnly)?;
    }
    Ok(())
}
