//! Being the process that a scope of systemd's must have: it waits for the end of its standard input.
//!
//! ```text
//!   daemon ── starts ──▶ this, in <scope>/hold          the container, in <scope>/container
//!     └── the pipe's other end ──▶ shim: closes it when all is known of the container
//! ```
//!
//! systemd removes a scope's cgroup as soon as no process is in it, and with it the count of those
//! that were killed for memory. As long as this one waits, that is still to be read. If daemon and
//! shim are gone, so is the other end, and nothing stays behind.

use rustix::io::Errno;

/// Waits. Nothing that is read means anything.
pub fn hold() {
    let mut ignored = [0u8; 16];
    loop {
        match rustix::io::read(rustix::stdio::stdin(), &mut ignored) {
            Ok(0) => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
