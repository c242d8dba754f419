//! A plan's mounts, in two passes.
//!
//! ```text
//!  prepare   in the host's mount namespace, before pivot_root: what comes from the host's paths is
//!            cloned into mounts that are attached nowhere; /dev is made and filled; then, in the
//!            container's namespaces, /proc and /sys are made
//!  attach    after pivot_root, inside the new root alone: other file systems are made, parts of the
//!            root are cloned, all is attached
//! ```
//!
//! So no path of the host is looked up once the image's root can play a part, and none of the image's
//! before the host is out of reach. Clones are taken in the host's own namespace, where the peers of
//! a shared mount are, so that propagation needs no special case.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carpel_shim_api::plan::mount_plan::Source;
use carpel_shim_api::plan::{ContainerPlan, FilesystemSource, MountPlan, Propagation};
use carpel_sys::mount::{AttrChange, PropagationType, set_attr};
use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, UnmountFlags, open_tree, unmount};
use rustix::process::fchdir;

use crate::devices::{self, DeviceError};
use crate::mountinfo::Mount;
use crate::report::Stage;
use crate::root::{Absent, Links, Root, open_beneath};
use crate::rootfs::{self, RootfsError};
use crate::sandbox::mounts::{ROOT_DIR, attach};
use crate::sandbox::user_namespace::UserNamespace;
use bind::BindError;
use cgroup::{CgroupMountError, Hierarchies};
use filesystem::FilesystemError;

pub(crate) mod bind;
pub(crate) mod cgroup;
pub(crate) mod filesystem;

/// Where a container's device nodes are.
pub(crate) const DEV: &str = "/dev";
const SHM: &str = "/dev/shm";
/// The host's, for a pod that shares the host's IPC namespace.
const HOST_SHM: &str = "/dev/shm";

/// Why a mount was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("mount {destination}")]
    Mount {
        destination: String,
        #[source]
        source: OneMountError,
    },
    #[error("read the host's mounts")]
    Mountinfo(#[source] std::io::Error),
    #[error("take the pod's /dev/shm along")]
    PodShm(#[source] Errno),
}

/// What is wrong with one mount.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OneMountError {
    #[error("the destination is not an absolute path")]
    Destination,
    #[error("there is no source")]
    NoSource,
    #[error(transparent)]
    Bind(BindError),
    #[error(transparent)]
    Filesystem(FilesystemError),
    #[error(transparent)]
    Cgroup(CgroupMountError),
    #[error(transparent)]
    Layers(RootfsError),
    #[error("find {path} in the image volume")]
    SubPath {
        path: String,
        #[source]
        source: Errno,
    },
    #[error("bind {path} of the container's root")]
    Rootfs {
        path: String,
        #[source]
        source: Errno,
    },
    #[error("{0} leads to the container's root itself, of which it should be a part")]
    WholeRoot(String),
    #[error("it must be mounted on an ordinary directory, not through a symbolic link")]
    Symlink,
    #[error("find or make the mount point")]
    Target(#[source] Errno),
    #[error("set the mount's attributes")]
    Attributes(#[source] Errno),
    #[error("attach the mount")]
    Attach(#[source] Errno),
    #[error(transparent)]
    Device(DeviceError),
}

impl MountError {
    pub(crate) fn stage(&self) -> Stage {
        match self {
            Self::Mount { source: OneMountError::Device(_), .. } => Stage::Device,
            Self::Mount { source: OneMountError::Layers(_) | OneMountError::SubPath { .. }, .. } => {
                Stage::ImageVolume
            }
            _ => Stage::Mount,
        }
    }
}

/// A mount that is ready to be attached, or one still to be made inside.
#[derive(Debug)]
enum Prepared {
    Detached(OwnedFd),
    /// `/dev` with its nodes, `/proc`, `/sys`: never mounted through a symbolic link of the image's.
    Fixed(OwnedFd),
    Layers {
        mount: OwnedFd,
        sub_path: String,
    },
    Inside,
    /// Optional, and not to be had.
    PassedOver,
}

/// The plan's mounts after the first pass.
#[derive(Debug)]
pub(crate) struct Mounts<'a> {
    plans: Vec<(&'a MountPlan, Prepared)>,
    hierarchies: Option<Hierarchies>,
    /// Instead of what the plan has at `/dev/shm`.
    shm: Option<OwnedFd>,
    /// For a plan that has nothing at `/dev`: the image's own folder is never filled with nodes.
    default_dev: Option<OwnedFd>,
    plan: &'a ContainerPlan,
}

fn is_at(plan: &MountPlan, path: &str) -> bool {
    plan.destination.trim_end_matches('/') == path
}

fn is_cgroup(plan: &MountPlan) -> bool {
    matches!(&plan.source, Some(Source::Filesystem(source)) if source.fs_type == "cgroup")
}

/// The first pass, in the host's mount namespace.
pub(crate) fn prepare<'a>(
    plan: &'a ContainerPlan,
    host_ipc: bool,
    user: Option<&UserNamespace>,
) -> Result<Mounts<'a>, MountError> {
    let needs_host =
        |m: &MountPlan| is_cgroup(m) || matches!(m.propagation(), Propagation::Slave | Propagation::Shared);
    let host = if plan.mounts.iter().any(needs_host) {
        crate::mountinfo::read().map_err(MountError::Mountinfo)?
    } else {
        Vec::new()
    };
    let hierarchies = plan.mounts.iter().any(is_cgroup).then(|| Hierarchies::of(&host));
    let shm = if plan.pod_shm && host_ipc {
        Some(bind::clone_path(HOST_SHM, true).map_err(MountError::PodShm)?)
    } else {
        None
    };
    let mut plans: Vec<_> = plan.mounts.iter().map(|mount| (mount, Prepared::Inside)).collect();
    // Layers last, because on old kernels mounting them leaves the host's mount namespace.
    for layers in [false, true] {
        for (mount, prepared) in &mut plans {
            if matches!(mount.source, Some(Source::Layers(_))) != layers {
                continue;
            }
            let failed = |source| MountError::Mount { destination: mount.destination.clone(), source };
            *prepared = match prepare_one(plan, mount, &host, host_ipc, user) {
                Err(error) if mount.optional && may_be_passed_over(&error) => Prepared::PassedOver,
                other => other.map_err(failed)?,
            };
        }
    }
    let default_dev = if plan.mounts.iter().any(|mount| is_at(mount, DEV)) {
        None
    } else {
        Some(filled_dev(plan, &filesystem::default_dev(), user).map_err(at(DEV))?)
    };
    Ok(Mounts { plans, hierarchies, shm, default_dev, plan })
}

fn prepare_one(
    plan: &ContainerPlan,
    mount: &MountPlan,
    host: &[Mount],
    host_ipc: bool,
    user: Option<&UserNamespace>,
) -> Result<Prepared, OneMountError> {
    if !mount.destination.starts_with('/') {
        return Err(OneMountError::Destination);
    }
    match &mount.source {
        None => Err(OneMountError::NoSource),
        Some(Source::Filesystem(source)) if is_at(mount, DEV) => {
            let dev = filled_dev(plan, source, user)?;
            set_attributes(dev.as_fd(), mount)?;
            Ok(Prepared::Fixed(dev))
        }
        // With the host's privileges: its root is the maker's of the IPC namespace, who is not in the pod's user
        // namespace. The host's own keeps its label.
        Some(Source::Filesystem(source)) if source.fs_type == "mqueue" => {
            let label = if host_ipc { "" } else { &plan.mount_label };
            let mqueue = filesystem::make_mqueue(source, label).map_err(OneMountError::Filesystem)?;
            set_attributes(mqueue.as_fd(), mount)?;
            Ok(Prepared::Detached(mqueue))
        }
        Some(Source::Filesystem(_) | Source::Rootfs(_)) => Ok(Prepared::Inside),
        Some(Source::Bind(source)) => {
            let clone =
                bind::prepare(mount, source, &plan.mount_label, host, user).map_err(OneMountError::Bind)?;
            Ok(Prepared::Detached(clone))
        }
        Some(Source::Layers(source)) => {
            let layers =
                rootfs::read_only(&source.lowers, &plan.mount_label, user).map_err(OneMountError::Layers)?;
            set_attributes(layers.as_fd(), mount)?;
            Ok(Prepared::Layers { mount: layers, sub_path: source.sub_path.clone() })
        }
    }
}

impl Mounts<'_> {
    /// Clones the pod's `/dev/shm`. The process is in the pod's mount namespace.
    pub(crate) fn take_pod_shm(&mut self, shm: Option<BorrowedFd<'_>>) -> Result<(), MountError> {
        let Some(shm) = shm.filter(|_| self.plan.pod_shm) else { return Ok(()) };
        self.shm = Some(clone_mount(shm).map_err(MountError::PodShm)?);
        Ok(())
    }

    /// Makes procfs and sysfs, which show the process's own namespaces: those of the container. In a user
    /// namespace that is allowed only where others are seen, and so before pivot_root.
    pub(crate) fn make_kernel_views(&mut self) -> Result<(), MountError> {
        for (mount, prepared) in &mut self.plans {
            let Some(Source::Filesystem(source)) = &mount.source else { continue };
            if !matches!(prepared, Prepared::Inside) || !matches!(source.fs_type.as_str(), "proc" | "sysfs") {
                continue;
            }
            let made = filesystem::make(source, &self.plan.mount_label).map_err(OneMountError::Filesystem);
            let made = made.and_then(|fd| set_attributes(fd.as_fd(), mount).map(|()| fd));
            *prepared = match made {
                Ok(fd) => Prepared::Fixed(fd),
                Err(error) if mount.optional && may_be_passed_over(&error) => Prepared::PassedOver,
                Err(error) => return Err(at(&mount.destination)(error)),
            };
        }
        Ok(())
    }

    /// Replaces image volumes by the paths inside them that are wanted. The process is in its own
    /// mount namespace, before pivot_root: a part of a mount can be cloned only where it is attached.
    pub(crate) fn take_sub_paths(&mut self) -> Result<(), MountError> {
        for (mount, prepared) in &mut self.plans {
            let Prepared::Layers { mount: layers, sub_path } = prepared else { continue };
            if sub_path.trim_matches('/').is_empty() {
                continue;
            }
            let failed = |source| {
                let source = OneMountError::SubPath { path: sub_path.clone(), source };
                MountError::Mount { destination: mount.destination.clone(), source }
            };
            let part = part_of(layers.as_fd(), sub_path).map_err(failed)?;
            *prepared = Prepared::Detached(part);
        }
        Ok(())
    }

    /// The second pass, inside the new root. Gives the container's own `/dev`; none if the plan binds
    /// a folder there.
    pub(crate) fn attach(self, root: &Root) -> Result<Option<OwnedFd>, MountError> {
        let mut own_dev = self.default_dev;
        let mut shm = self.shm;
        if let Some(dev) = &own_dev {
            let target = target(root, DEV, Absent::Dir, Links::Refuse).map_err(at(DEV))?;
            attach(dev.as_fd(), target.as_fd()).map_err(|e| at(DEV)(OneMountError::Attach(e)))?;
        }
        for (mount, prepared) in self.plans {
            if matches!(prepared, Prepared::PassedOver) {
                continue;
            }
            let is_shm = is_at(mount, SHM) && shm.is_some();
            let prepared = match shm.take_if(|_| is_shm) {
                Some(shm) => Prepared::Detached(shm),
                None => prepared,
            };
            let result = attach_one(root, mount, prepared, self.hierarchies.as_ref(), &self.plan.mount_label);
            match result {
                Ok(fd) if is_at(mount, DEV) => {
                    let own = matches!(mount.source, Some(Source::Filesystem(_)));
                    own_dev = own.then_some(fd);
                }
                Ok(_) => {}
                Err(error) if mount.optional && may_be_passed_over(&error) => {}
                Err(error) => return Err(at(&mount.destination)(error)),
            }
        }
        if let Some(shm) = shm {
            let target = root.ensure(SHM, Absent::Dir, Links::Follow);
            let target = target.map_err(|e| at(SHM)(OneMountError::Target(e)))?;
            attach(shm.as_fd(), target.as_fd()).map_err(|e| at(SHM)(OneMountError::Attach(e)))?;
        }
        Ok(own_dev)
    }
}

fn at(destination: &str) -> impl FnOnce(OneMountError) -> MountError {
    let destination = destination.to_owned();
    move |source| MountError::Mount { destination, source }
}

/// What `optional` covers: the kernel has no such file system, or may not give it.
fn may_be_passed_over(error: &OneMountError) -> bool {
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = next {
        if let Some(errno) = cause.downcast_ref::<Errno>() {
            return matches!(*errno, Errno::NOENT | Errno::NODEV | Errno::PERM);
        }
        next = cause.source();
    }
    false
}

/// A `/dev` with its nodes, attached nowhere. Made with the host's privileges: a node can be made with
/// those alone, and can be used only on a file system that was made with them.
fn filled_dev(
    plan: &ContainerPlan,
    source: &FilesystemSource,
    user: Option<&UserNamespace>,
) -> Result<OwnedFd, OneMountError> {
    let mut source = source.clone();
    if let Some((uid, gid)) = user.map(UserNamespace::root) {
        source.options.extend([format!("uid={}", uid.as_raw()), format!("gid={}", gid.as_raw())]);
    }
    let dev = filesystem::make(&source, &plan.mount_label).map_err(OneMountError::Filesystem)?;
    devices::populate(dev.as_fd(), plan, user).map_err(OneMountError::Device)?;
    Ok(dev)
}

fn attach_one(
    root: &Root,
    mount: &MountPlan,
    prepared: Prepared,
    hierarchies: Option<&Hierarchies>,
    label: &str,
) -> Result<OwnedFd, OneMountError> {
    let (fd, links) = match (prepared, &mount.source) {
        (Prepared::Detached(fd) | Prepared::Layers { mount: fd, .. }, _) => (fd, Links::Follow),
        (Prepared::Fixed(fd), _) => (fd, Links::Refuse),
        (Prepared::Inside, Some(Source::Filesystem(source))) if source.fs_type == "cgroup" => {
            let hierarchies = hierarchies.ok_or(OneMountError::NoSource)?;
            let target = target(root, &mount.destination, Absent::Dir, Links::Refuse)?;
            return cgroup::mount(hierarchies, mount, label, target.as_fd()).map_err(OneMountError::Cgroup);
        }
        (Prepared::Inside, Some(Source::Filesystem(source))) => {
            let fd = filesystem::make(source, label).map_err(OneMountError::Filesystem)?;
            set_attributes(fd.as_fd(), mount)?;
            (fd, Links::Follow)
        }
        (Prepared::Inside, Some(Source::Rootfs(source))) => {
            let part = part_of_root(root, &source.path)?;
            set_attributes(part.as_fd(), mount)?;
            (part, Links::Follow)
        }
        (Prepared::Inside | Prepared::PassedOver, _) => return Err(OneMountError::NoSource),
    };
    let stat = fstat(&fd).map_err(OneMountError::Attach)?;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let absent = if is_dir { Absent::Dir } else { Absent::File };
    let target = target(root, &mount.destination, absent, links)?;
    attach(fd.as_fd(), target.as_fd()).map_err(OneMountError::Attach)?;
    if let Some(propagation) = shared_inside(mount) {
        let change = AttrChange { propagation: Some(propagation), ..AttrChange::default() };
        set_attr(fd.as_fd(), change).map_err(OneMountError::Attributes)?;
    }
    Ok(fd)
}

/// A part of the container's root as a mount.
fn part_of_root(root: &Root, path: &str) -> Result<OwnedFd, OneMountError> {
    let failed = |source| OneMountError::Rootfs { path: path.to_owned(), source };
    let part = root.ensure(path, Absent::Dir, Links::Follow).map_err(failed)?;
    let (found, whole) = (fstat(&part).map_err(failed)?, fstat(root).map_err(failed)?);
    // A symbolic link of the image's must not make all of a read-only root writable.
    if (found.st_dev, found.st_ino) == (whole.st_dev, whole.st_ino) {
        return Err(OneMountError::WholeRoot(path.to_owned()));
    }
    clone_mount(part.as_fd()).map_err(failed)
}

/// A file system of the container's own has no peers outside; its propagation matters for namespaces
/// that the container makes, and is set once it is attached.
fn shared_inside(mount: &MountPlan) -> Option<PropagationType> {
    match (&mount.source, mount.propagation()) {
        (Some(Source::Bind(_)), _) | (_, Propagation::Inherit | Propagation::Private) => None,
        (_, Propagation::Slave) => Some(PropagationType::Slave),
        (_, Propagation::Shared) => Some(PropagationType::Shared),
    }
}

fn target(root: &Root, path: &str, absent: Absent, links: Links) -> Result<OwnedFd, OneMountError> {
    match root.ensure(path, absent, links) {
        Err(Errno::LOOP) if links == Links::Refuse => Err(OneMountError::Symlink),
        other => other.map_err(OneMountError::Target),
    }
}

/// Sets the attributes of a mount that is not attached yet.
fn set_attributes(fd: BorrowedFd<'_>, mount: &MountPlan) -> Result<(), OneMountError> {
    for (set, recursive) in [(mount.attributes, false), (mount.attributes_recursive, true)] {
        if set != 0 {
            let change = AttrChange { set, recursive, propagation: None };
            set_attr(fd, change).map_err(OneMountError::Attributes)?;
        }
    }
    Ok(())
}

/// Clones a mount of this namespace, or the part of one below a folder; without the mounts on it.
pub(crate) fn clone_mount(mount: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(mount, "", flags)
}

/// Clones a part of a mount that is attached nowhere, in a mount namespace of this process's own.
pub(crate) fn part_of(mount: BorrowedFd<'_>, sub_path: &str) -> Result<OwnedFd, Errno> {
    let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let scratch = rustix::fs::open(ROOT_DIR, dir, rustix::fs::Mode::empty())?;
    attach(mount, scratch.as_fd())?;
    let part =
        open_beneath(mount, sub_path, OFlags::PATH, Links::Follow).and_then(|part| clone_mount(part.as_fd()));
    let home = rustix::fs::open("/", dir, rustix::fs::Mode::empty())?;
    fchdir(mount)?;
    unmount(".", UnmountFlags::DETACH)?;
    fchdir(&home)?;
    part
}
