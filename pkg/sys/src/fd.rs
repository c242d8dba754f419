//! Many file descriptors at once: close_range(2).

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use crate::clone::last_errno;

/// Marks every descriptor from 3 on close-on-exec.
pub fn close_on_exec_from_3() -> Result<(), Errno> {
    // SAFETY: CLOSE_RANGE_CLOEXEC closes nothing now; it sets a flag on descriptors.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == -1 { Err(last_errno()) } else { Ok(()) }
}

/// A copy, close-on-exec, of a descriptor that this program was started with, by its number. The
/// original stays open, and is closed on exec from now on.
pub fn copy_inherited(number: RawFd) -> Result<OwnedFd, Errno> {
    if number < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: the descriptor is only borrowed for these two calls. The kernel refuses with EBADF if
    // it is not open, and copying it or marking it takes nothing from whoever owns it.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    let copy = fcntl_dupfd_cloexec(inherited, 3)?;
    fcntl_setfd(inherited, FdFlags::CLOEXEC)?;
    Ok(copy)
}

/// Closes every descriptor from 3 on, but those of `keep`, which is sorted.
///
/// Only for a child that has just been cloned: the owners of these descriptors are the parent's
/// values, of which the child has copies that it never uses nor drops.
pub(crate) fn close_all_but(keep: &[RawFd]) {
    let mut first: u32 = 3;
    for &kept in keep {
        let Ok(kept) = u32::try_from(kept) else { continue };
        if kept < first {
            continue;
        }
        if kept > first {
            close_range(first, kept - 1);
        }
        first = kept + 1;
    }
    close_range(first, u32::MAX);
}

/// Closes descriptors, as [`close_all_but`] does.
pub(crate) fn close_range(first: u32, last: u32) {
    // SAFETY: see `close_all_but`: no value of this process that still lives owns one of them. The
    // call fails only for first > last, which the caller excludes.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}
