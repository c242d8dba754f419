//! The parts of the mount interface that rustix lacks: mount_setattr(2).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::clone::last_errno;

/// `MOUNT_ATTR_RDONLY`: the mount cannot be written through.
pub const ATTR_RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
/// `MOUNT_ATTR_NOSUID`: set-user-id bits and file capabilities have no effect.
pub const ATTR_NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
/// `MOUNT_ATTR_NODEV`: device nodes cannot be opened.
pub const ATTR_NODEV: u64 = libc::MOUNT_ATTR_NODEV;
/// `MOUNT_ATTR_NOEXEC`: nothing can be executed.
pub const ATTR_NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
/// `MOUNT_ATTR__ATIME`: the bits that say how access times are kept; they change together.
const ATTR_ATIME_MASK: u64 = libc::MOUNT_ATTR__ATIME;

/// How mounts and unmounts below a mount travel to others (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropagationType {
    /// Neither way.
    Private,
    /// From its master only.
    Slave,
    /// Both ways.
    Shared,
}

/// A change of a mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttrChange {
    /// `MOUNT_ATTR_*` bits to set.
    pub set: u64,
    /// A propagation type to change to.
    pub propagation: Option<PropagationType>,
    /// The same for all mounts below it.
    pub recursive: bool,
}

/// Changes the mount that `mount` refers to, attached or not.
///
/// EINVAL also when `mount` is not the root of a mount (mount_setattr(2)).
pub fn set_attr(mount: BorrowedFd<'_>, change: AttrChange) -> Result<(), Errno> {
    let propagation = match change.propagation {
        None => 0,
        Some(PropagationType::Private) => libc::MS_PRIVATE,
        Some(PropagationType::Slave) => libc::MS_SLAVE,
        Some(PropagationType::Shared) => libc::MS_SHARED,
    };
    let attr = libc::mount_attr {
        attr_set: change.set,
        // An access time mode can only be set together with clearing all of its bits.
        attr_clr: if change.set & ATTR_ATIME_MASK == 0 { 0 } else { ATTR_ATIME_MASK },
        propagation,
        userns_fd: 0,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if change.recursive {
        flags |= libc::AT_RECURSIVE;
    }
    mount_setattr(mount, flags, &attr)
}

/// Shows the files of a mount that is attached nowhere, and never was, as belonging to the ids that
/// `userns` maps theirs to (`MOUNT_ATTR_IDMAP`). All below it too if `recursive`: then all or none.
///
/// EINVAL: a file system there cannot do that. EPERM: it does so already.
pub fn set_idmap(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>, recursive: bool) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(userns.as_raw_fd()).map_err(|_| Errno::BADF)?,
    };
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    mount_setattr(mount, libc::AT_EMPTY_PATH | below, &attr)
}

fn mount_setattr(mount: BorrowedFd<'_>, flags: libc::c_int, attr: &libc::mount_attr) -> Result<(), Errno> {
    // SAFETY: the path is a NUL-terminated constant, the struct is initialised, outlives the call and
    // has the size that is passed with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == -1 { Err(last_errno()) } else { Ok(()) }
}
