//! A pod's own mount namespace: nearly empty, with the pod's `/dev/shm` in it.
//!
//! ```text
//!  /        read-only tmpfs
//!  ├─ root  empty: where an init process puts its container's root before it pivots
//!  └─ shm   the pod's /dev/shm (absent if the pod has the host's)
//! ```
//!
//! In a pod with a user namespace of its own there are folders `proc` and `sys` too: an init process
//! mounts a procfs and a sysfs there in a copy of its own ([`PodMounts::reveal`]).
//!
//! Each init process joins it and copies it. So no container ever has a copy of the host's mounts,
//! whose number would otherwise be paid for in every pod: time to copy and undo them, kernel memory,
//! and volumes kept busy. The namespace has no process and no name; it ends with its descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carpel_sys::mount::{ATTR_RDONLY, AttrChange, PropagationType, set_attr};
use carpel_sys::namespace::{Kind, unshare};
use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use rustix::process::{fchdir, pivot_root};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::sandbox::user_namespace::UserNamespace;

/// Where an init process puts its container's root before it pivots.
pub(crate) const ROOT_DIR: &str = "root";
const SHM_DIR: &str = "shm";
/// Folders of a pod with a user namespace, and what is mounted on them.
const REVEALED: [(&str, &str); 2] = [("proc", "proc"), ("sys", "sysfs")];

/// The pod's mount namespace.
#[derive(Debug)]
pub(crate) struct PodMounts {
    namespace: OwnedFd,
    /// The pod's `/dev/shm`, a mount in that namespace.
    shm: Option<OwnedFd>,
}

/// Why the mounts were not made; the step that failed. Nothing is left in the host's table.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct PodMountsError {
    step: &'static str,
    #[source]
    source: Errno,
}

fn at(step: &'static str) -> impl FnOnce(Errno) -> PodMountsError {
    move |source| PodMountsError { step, source }
}

impl PodMounts {
    /// Makes it, with a `/dev/shm` of that size unless absent, whose files have that SELinux label unless it
    /// is empty. The caller is back in its own mount
    /// namespace afterwards, its current folder the root.
    pub(crate) fn make(
        shm_size_bytes: Option<u64>,
        label: &str,
        user: Option<&UserNamespace>,
    ) -> Result<Self, PodMountsError> {
        let dir = OFlags::RDONLY | OFlags::CLOEXEC;
        let host =
            open("/proc/self/ns/mnt", dir, Mode::empty()).map_err(at("open the host's mount namespace"))?;
        unshare(&[Kind::Mount]).map_err(at("unshare the mount namespace"))?;
        let made = Self::make_in_copy(shm_size_bytes, label, user);
        // Also on failure: the shim's answer is still to go out, and its paths are the host's.
        move_into_link_name_space(host.as_fd(), Some(LinkNameSpaceType::Mount))
            .map_err(at("come back to the host's mount namespace"))?;
        made
    }

    fn make_in_copy(
        shm_size_bytes: Option<u64>,
        label: &str,
        user: Option<&UserNamespace>,
    ) -> Result<Self, PodMountsError> {
        let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let old = open("/", dir, Mode::empty()).map_err(at("open the host's root"))?;
        // Else taking the copies away would take the host's mounts away.
        let private = AttrChange {
            propagation: Some(PropagationType::Private),
            recursive: true,
            ..AttrChange::default()
        };
        set_attr(old.as_fd(), private).map_err(at("make the copied mounts private"))?;
        let namespace = open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(at("open the pod's mount namespace"))?;

        let none = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let root = tmpfs("carpel", "16k", "0755", "", None, none).map_err(at("make the root tmpfs"))?;
        let revealed = REVEALED.map(|(name, _)| name);
        let revealed: &[&str] = if user.is_some() { &revealed } else { &[] };
        for name in [ROOT_DIR, SHM_DIR].iter().chain(revealed).copied() {
            mkdirat(&root, name, Mode::from_raw_mode(0o755)).map_err(at("make the mount points"))?;
        }
        set_attr(root.as_fd(), AttrChange { set: ATTR_RDONLY, ..AttrChange::default() })
            .map_err(at("make the root tmpfs read-only"))?;
        // The old root's own folder serves as the mount point: it is there on every host.
        attach(root.as_fd(), old.as_fd()).map_err(at("mount the root tmpfs"))?;
        fchdir(&root).and_then(|()| pivot_root(".", ".")).map_err(at("pivot to the root tmpfs"))?;
        fchdir(&old)
            .and_then(|()| unmount(".", UnmountFlags::DETACH))
            .map_err(at("drop the host's mounts"))?;
        fchdir(&root).map_err(at("leave the host's root"))?;

        let shm = match shm_size_bytes {
            None => None,
            Some(bytes) => {
                let shm = tmpfs("shm", &bytes.to_string(), "1777", label, user, none)
                    .map_err(at("make the pod's shm"))?;
                let target =
                    openat(&root, SHM_DIR, dir, Mode::empty()).map_err(at("open shm's mount point"))?;
                attach(shm.as_fd(), target.as_fd()).map_err(at("mount the pod's shm"))?;
                Some(shm)
            }
        };
        Ok(Self { namespace, shm })
    }

    /// Moves this process there; its root and current folder are the namespace's.
    pub(crate) fn join(&self) -> Result<(), Errno> {
        move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Mount))
    }

    /// Mounts a procfs and a sysfs that nobody sees. To mount one of its own a process in a user
    /// namespace must have one in its mount namespace with nothing hidden (the kernel's
    /// `mount_too_revealing`, fs/namespace.c). The process has joined, and is alone in a copy.
    pub(crate) fn reveal() -> Result<(), Errno> {
        for (name, fs_type) in REVEALED {
            let context = fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(context.as_fd())?;
            let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            attach(mount.as_fd(), open(name, flags, Mode::empty())?.as_fd())?;
        }
        Ok(())
    }

    pub(crate) fn shm(&self) -> Option<BorrowedFd<'_>> {
        self.shm.as_ref().map(OwnedFd::as_fd)
    }

    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.namespace.as_fd()).chain(self.shm())
    }
}

/// A new tmpfs, not attached anywhere, that belongs to this process's user or to a pod's root. All of its
/// files have that SELinux label, unless it is empty.
pub(crate) fn tmpfs(
    source: &str,
    size: &str,
    mode: &str,
    label: &str,
    user: Option<&UserNamespace>,
    attr: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("source", source), ("size", size), ("mode", mode)] {
        fsconfig_set_string(context.as_fd(), key, value)?;
    }
    if !label.is_empty() {
        fsconfig_set_string(context.as_fd(), "context", label)?;
    }
    if let Some(user) = user {
        let (uid, gid) = user.root();
        for (key, id) in [("uid", uid.as_raw()), ("gid", gid.as_raw())] {
            fsconfig_set_string(context.as_fd(), key, id.to_string())?;
        }
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attr)
}

/// Attaches a mount, by descriptors on both sides.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}
