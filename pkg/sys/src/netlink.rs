//! Socket options of netlink(7) that rustix does not offer.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Has the kernel say in words what it did not like (`NETLINK_EXT_ACK`), and not send refused requests back
/// (`NETLINK_CAP_ACK`). Both since Linux 4.12.
pub fn explain_errors(socket: impl AsFd) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        let on: libc::c_int = 1;
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: `on` lives through the call and `len` is its size; the kernel only reads it. The
        // descriptor is borrowed, so it is open.
        let outcome =
            unsafe { libc::setsockopt(fd, libc::SOL_NETLINK, option, std::ptr::from_ref(&on).cast(), len) };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
