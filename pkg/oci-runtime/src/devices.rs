//! Device nodes, made on a tmpfs of the container's own that nothing of the image is in.
//!
//! In a pod with a user namespace everything there belongs to the container's root, but for the host's
//! devices: those keep the host's owner, who is nobody in there, so that what the host's root alone may
//! open is not opened by the container's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carpel_shim_api::plan::{ContainerPlan, DevicePlan};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, makedev, mknodat, openat, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::mounts::{DEV, part_of};
use crate::root::{Absent, Links, Root, ensure_beneath};
use crate::sandbox::mounts::{attach, tmpfs};
use crate::sandbox::user_namespace::UserNamespace;

/// Linux's documentation: admin-guide/devices.txt; the set that every container has: OCI
/// config-linux.md, "Default Devices".
const DEFAULT_NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const DEFAULT_NODE_MODE: u32 = 0o666;
/// OCI config-linux.md, "Dev symbolic links", and core as Linux systems have it.
const DEFAULT_LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];
/// The name below `/dev` that a container's terminal is mounted on.
pub(crate) const CONSOLE: &str = "console";

/// Why a node was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("device {path}: {kind:?} is no kind of device")]
    Kind { path: String, kind: u32 },
    #[error("device {0}: not a path below a folder")]
    Path(String),
    #[error("make device {path}")]
    Make {
        path: String,
        #[source]
        source: Errno,
    },
}

fn failed(path: &str) -> impl FnOnce(Errno) -> DeviceError {
    let path = path.to_owned();
    move |source| DeviceError::Make { path, source }
}

/// Fills a new `/dev` that is attached nowhere yet.
pub(crate) fn populate(
    dev: BorrowedFd<'_>,
    plan: &ContainerPlan,
    user: Option<&UserNamespace>,
) -> Result<(), DeviceError> {
    let give = |dir: BorrowedFd<'_>, name: &str| match user.map(UserNamespace::root) {
        None => Ok(()),
        Some((uid, gid)) => chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW),
    };
    let mode = Mode::from_raw_mode(DEFAULT_NODE_MODE);
    for (name, major, minor) in DEFAULT_NODES {
        let overridden = plan.devices.iter().any(|device| below_dev(&device.path) == Some(name));
        if !overridden {
            mknodat(dev, name, FileType::CharacterDevice, mode, makedev(major, minor))
                .and_then(|()| give(dev, name))
                .map_err(failed(name))?;
        }
    }
    for (name, target) in DEFAULT_LINKS {
        symlinkat(target, dev, name).and_then(|()| give(dev, name)).map_err(failed(name))?;
    }
    if plan.process.terminal {
        // A file to mount the terminal on.
        ensure_beneath(dev, CONSOLE, Absent::File)
            .and_then(|_| give(dev, CONSOLE))
            .map_err(failed(CONSOLE))?;
    }
    for device in &plan.devices {
        if let Some(path) = below_dev(&device.path) {
            let (dir, name) = split(path);
            let dir = ensure_beneath(dev, dir, Absent::Dir).map_err(failed(&device.path))?;
            make(dir.as_fd(), name, device)?;
        }
    }
    Ok(())
}

/// Makes the plan's nodes outside `/dev`, in the mounted root.
pub(crate) fn populate_elsewhere(root: &Root, plan: &ContainerPlan) -> Result<(), DeviceError> {
    for device in elsewhere(plan) {
        let (dir, name) = split(&device.path);
        let dir = root.ensure(dir, Absent::Dir, Links::Follow).map_err(failed(&device.path))?;
        make(dir.as_fd(), name, device)?;
    }
    Ok(())
}

/// The same for a user namespace, where no node can be made: a tmpfs, attached nowhere, of nodes by number.
pub(crate) fn make_elsewhere(plan: &ContainerPlan) -> Result<Option<OwnedFd>, DeviceError> {
    let mut nodes = None;
    for (number, device) in elsewhere(plan).enumerate() {
        let dir = match &nodes {
            Some(nodes) => nodes,
            None => {
                let made = tmpfs("devices", "256k", "0755", &plan.mount_label, None, MountAttrFlags::empty());
                nodes.insert(made.map_err(failed(&device.path))?)
            }
        };
        make(dir.as_fd(), &number.to_string(), device)?;
    }
    Ok(nodes)
}

/// Clones each of them, in a mount namespace of this process's own, before pivot_root.
pub(crate) fn take_elsewhere(
    nodes: BorrowedFd<'_>,
    plan: &ContainerPlan,
) -> Result<Vec<OwnedFd>, DeviceError> {
    let numbered = elsewhere(plan).enumerate();
    numbered
        .map(|(number, device)| part_of(nodes, &number.to_string()).map_err(failed(&device.path)))
        .collect()
}

/// Mounts each where it is wanted, in the mounted root.
pub(crate) fn attach_elsewhere(
    root: &Root,
    plan: &ContainerPlan,
    nodes: &[OwnedFd],
) -> Result<(), DeviceError> {
    for (device, node) in elsewhere(plan).zip(nodes) {
        root.ensure(&device.path, Absent::File, Links::Follow)
            .and_then(|target| attach(node.as_fd(), target.as_fd()))
            .map_err(failed(&device.path))?;
    }
    Ok(())
}

fn elsewhere(plan: &ContainerPlan) -> impl Iterator<Item = &DevicePlan> {
    plan.devices.iter().filter(|device| below_dev(&device.path).is_none())
}

fn below_dev(path: &str) -> Option<&str> {
    path.strip_prefix(DEV)?.strip_prefix('/').map(|rest| rest.trim_matches('/'))
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or((".", path))
}

fn make(dir: BorrowedFd<'_>, name: &str, device: &DevicePlan) -> Result<(), DeviceError> {
    if matches!(name, "" | "." | "..") {
        return Err(DeviceError::Path(device.path.clone()));
    }
    let kind = match char::from_u32(device.kind) {
        Some('c' | 'u') => FileType::CharacterDevice,
        Some('b') => FileType::BlockDevice,
        Some('p') => FileType::Fifo,
        _ => return Err(DeviceError::Kind { path: device.path.clone(), kind: device.kind }),
    };
    let mode = Mode::from_raw_mode(device.mode & 0o777);
    // A name that is taken is an error, also when it is a symbolic link: mknod(2) never follows it.
    mknodat(dir, name, kind, mode, makedev(device.major, device.minor)).map_err(failed(&device.path))?;
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(failed(&device.path))
}

/// Whether a descriptor is the null device, whatever path it was opened by.
pub(crate) fn is_null(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = fstat(fd)?;
    let is_char = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    Ok(is_char && stat.st_rdev == makedev(1, 3))
}

/// The container's own null device, if it has one that is the real one.
pub(crate) fn open_null(root: &Root) -> Option<OwnedFd> {
    // Looked at before it is opened: opening some other device could have an effect.
    let found = root.open("/dev/null", OFlags::PATH | OFlags::NOFOLLOW, Links::Refuse).ok()?;
    if !is_null(found.as_fd()).ok()? {
        return None;
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let null = root.open("/dev/null", flags, Links::Refuse).ok()?;
    is_null(null.as_fd()).ok()?.then_some(null)
}

/// A descriptor of a node of the container's own `/dev`.
pub(crate) fn open_in(dev: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    openat(dev, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}
