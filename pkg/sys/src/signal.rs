//! Signal masks and dispositions of this process: sigprocmask(2), sigaction(2).

use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::io::Errno;

use crate::clone::last_errno;

/// The mask that was in force before [`block_all`].
pub(crate) struct Blocked {
    before: libc::sigset_t,
}

/// Blocks every signal that can be blocked.
pub(crate) fn block_all() -> Result<Blocked, Errno> {
    // SAFETY: sigset_t is plain integers; both sets are initialised by the calls before they are read.
    unsafe {
        let mut all: libc::sigset_t = mem::zeroed();
        let mut before: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&raw mut all);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const all, &raw mut before) == -1 {
            return Err(last_errno());
        }
        Ok(Blocked { before })
    }
}

impl Blocked {
    /// Puts the mask back.
    pub(crate) fn restore(self) {
        // SAFETY: `before` was filled in by the kernel; SIG_SETMASK with a valid set cannot fail.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut()) };
    }
}

/// Default dispositions for all signals, none blocked: what a new program expects. Rust's start-up
/// code ignores SIGPIPE, and an ignored signal stays so over execve(2).
pub fn reset() {
    // SAFETY: setting SIG_DFL installs no code. It fails for SIGKILL, SIGSTOP and the C library's own
    // signals, which always have their default. The empty mask is initialised before it is used.
    unsafe {
        for number in 1..=64 {
            libc::signal(number, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// Has the kernel reap this process's children by itself (`SIGCHLD` ignored: wait(2), NOTES), also
/// those that become its children later.
pub fn ignore_child_exits() {
    // SAFETY: SIG_IGN installs no code, and SIGCHLD may be ignored.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Sends a signal to the process that `pidfd` is of, by the kernel's number: real-time signals too,
/// of which systemd as an init process wants one (`SIGRTMIN+3`). pidfd_send_signal(2).
pub fn send(pidfd: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    // SAFETY: the descriptor is open, no siginfo is passed, and a number that is no signal is refused.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            number,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == -1 { Err(last_errno()) } else { Ok(()) }
}

/// Sleeps until a signal that ends the process.
pub fn pause_for_ever() -> ! {
    loop {
        // SAFETY: pause has no preconditions.
        unsafe { libc::pause() };
    }
}
