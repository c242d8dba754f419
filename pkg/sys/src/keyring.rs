//! The kernel's key store: keyctl(2).

use std::ptr;

use rustix::io::Errno;

use crate::clone::last_errno;

/// `KEYCTL_JOIN_SESSION_KEYRING` of keyctl(2).
const JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Gives this process a new, empty session keyring without a name instead of the one it inherited
/// (keyctl_join_session_keyring(3)). ENOSYS: the kernel has no key store.
pub fn new_session() -> Result<(), Errno> {
    // SAFETY: a null name asks for an anonymous keyring; the call reads no memory of this process.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>()) };
    if result == -1 { Err(last_errno()) } else { Ok(()) }
}
