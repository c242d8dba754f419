//! Owner, mode, times and extended attributes of an object just made, through its descriptor.
//!
//! Order matters (chown(2), capabilities(7)): changing the owner clears setuid bits and file capabilities, so
//! it comes first.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmod, chownat, fchmod,
    fchown, fsetxattr, fstat, futimens, lsetxattr, openat, utimensat,
};
use rustix::io::Errno;

use super::{Refusal, Spot, UnpackError, refused, shown};
use crate::tar::{Entry, Time};

/// Which permissions an object has.
pub(super) enum Permissions {
    /// A symlink has none of its own.
    OfLink,
    /// A device or fifo has the entry's.
    OfNode,
}

pub(super) fn set_directory(fd: BorrowedFd<'_>, entry: &Entry, max: usize) -> Result<(), UnpackError> {
    set_owner_and_mode(fd, entry)?;
    set_xattrs(entry, max, &|name, value| set_xattr(fd, name, value))
}

pub(super) fn set_file(fd: BorrowedFd<'_>, entry: &Entry, max: usize) -> Result<(), UnpackError> {
    set_owner_and_mode(fd, entry)?;
    set_xattrs(entry, max, &|name, value| set_xattr(fd, name, value))?;
    set_times(fd, entry.mtime).map_err(|errno| failed(entry, "set times", errno))
}

fn set_owner_and_mode(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), UnpackError> {
    let (uid, gid) = owner(entry);
    fchown(fd, Some(uid), Some(gid)).map_err(|errno| failed(entry, "set owner", errno))?;
    fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(|errno| failed(entry, "set mode", errno))
}

/// For objects that must not be opened: a device's driver would notice, a fifo would block.
pub(super) fn set_by_name(spot: &Spot<'_>, permissions: Permissions, max: usize) -> Result<(), UnpackError> {
    let entry = spot.entry;
    let (uid, gid) = owner(entry);
    chownat(&spot.parent, &spot.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| failed(entry, "set owner", errno))?;
    if let Permissions::OfNode = permissions {
        // A path descriptor names the object itself, and its entry in /proc/self/fd leads to nothing else.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&spot.parent, &spot.name, flags, Mode::empty())
            .and_then(|fd| {
                chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(entry.mode))
            })
            .map_err(|errno| failed(entry, "set mode", errno))?;
    }
    let parent = format!("/proc/self/fd/{}/", spot.parent.as_raw_fd());
    let path = CString::new([parent.as_bytes(), spot.name.as_bytes()].concat())
        .map_err(|_| refused(entry, Refusal::Nul))?;
    set_xattrs(entry, max, &|name, value| lsetxattr(&path, name, value, XattrFlags::empty()))?;
    let times = timestamps(entry.mtime);
    utimensat(&spot.parent, &spot.name, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| failed(entry, "set times", errno))
}

pub(super) fn set_times(fd: BorrowedFd<'_>, time: Time) -> Result<(), Errno> {
    futimens(fd, &timestamps(time))
}

pub(super) fn set_xattr(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    fsetxattr(fd, name, value, XattrFlags::empty())
}

/// Sets one attribute of the object at hand.
type SetXattr<'s> = &'s dyn Fn(&CStr, &[u8]) -> Result<(), Errno>;

/// What a directory's children inherit as they are made (acl(5)), so it is set when all are there.
const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

/// The default access control list that a directory's entry brings.
pub(super) fn default_acl(entry: &Entry) -> Option<&[u8]> {
    let mut acls = entry.xattrs.iter().filter(|(name, _)| name == DEFAULT_ACL.to_bytes());
    acls.next_back().map(|(_, value)| value.as_slice())
}

/// Sets a directory's default access control list, if its file system has any.
pub(super) fn set_default_acl(fd: BorrowedFd<'_>, path: &[u8], acl: &[u8]) -> Result<(), UnpackError> {
    match set_xattr(fd, DEFAULT_ACL, acl) {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(xattr_failed(path, errno)),
    }
}

fn xattr_failed(path: &[u8], errno: Errno) -> UnpackError {
    let path = shown(path);
    match errno {
        Errno::INVAL => UnpackError::Entry { path, what: Refusal::XattrValue },
        errno => UnpackError::Apply { path, action: "set extended attribute", source: errno.into() },
    }
}

/// Sets the attributes an image may bring: `user.*`, file capabilities, access control lists. Everything else
/// speaks to this host's kernel: `trusted.overlay.*` would redirect lookups in the overlay, `security.*` labels
/// are the host's policy.
fn set_xattrs(entry: &Entry, max: usize, set: SetXattr<'_>) -> Result<(), UnpackError> {
    let total: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if total > max {
        return Err(refused(entry, Refusal::Xattrs));
    }
    for (name, value) in &entry.xattrs {
        let is_capability = name == b"security.capability";
        let is_user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        let is_acl = name == b"system.posix_acl_access";
        if name == DEFAULT_ACL.to_bytes() {
            continue;
        }
        if !is_capability && !is_user && !is_acl {
            tracing::debug!(
                path = shown(&entry.path),
                name = shown(name),
                "attribute of a layer is not kept"
            );
            continue;
        }
        let name = CString::new(name.as_slice()).map_err(|_| refused(entry, Refusal::Nul))?;
        match set(&name, value) {
            Ok(()) => {}
            // The kernel has user attributes on files and directories only, and some file systems none.
            Err(Errno::PERM | Errno::OPNOTSUPP) if is_user => {}
            Err(Errno::OPNOTSUPP) if is_acl => {}
            Err(errno) => return Err(xattr_failed(&entry.path, errno)),
        }
    }
    Ok(())
}

/// Whether two descriptors are of one directory.
pub(super) fn same_directory(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

fn owner(entry: &Entry) -> (Uid, Gid) {
    (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))
}

fn timestamps(time: Time) -> Timestamps {
    let modified = Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) };
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: modified }
}

fn failed(entry: &Entry, action: &'static str, errno: Errno) -> UnpackError {
    UnpackError::Apply { path: shown(&entry.path), action, source: errno.into() }
}
