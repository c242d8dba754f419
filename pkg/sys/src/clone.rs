//! A process made by clone3(2) that goes on in this program's code: fork with what fork cannot do.
//!
//! The child has a copy of this process's memory and runs full Rust. That is sound only while this
//! process has one thread, because a lock that another thread held would stay locked for ever in the
//! child: [`SingleThreaded`] is the proof, got once and asked for at every clone. Not for the daemon,
//! which has threads and starts programs with [`crate::spawn`].

use std::fs;
use std::marker::PhantomData;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::{fd, signal};

/// The exit status of a child whose closure panicked.
const PANIC_STATUS: i32 = 134;

/// Proof that this process has one thread. It cannot be sent to another one.
///
/// It is checked when it is made. Whoever holds it keeps the promise that no thread is started while
/// it exists.
#[derive(Debug)]
pub struct SingleThreaded {
    // A raw pointer is neither Send nor Sync.
    not_send: PhantomData<*const ()>,
}

/// Why [`SingleThreaded::prove`] gave no proof.
#[derive(Debug, thiserror::Error)]
pub enum NotSingleThreaded {
    /// The process has other threads, this many in all.
    #[error("this process has {0} threads, not one")]
    Threads(usize),
    /// They could not be counted.
    #[error("count this process's threads")]
    Count(#[source] std::io::Error),
}

impl SingleThreaded {
    /// Counts this process's threads in `/proc/self/task`.
    pub fn prove() -> Result<Self, NotSingleThreaded> {
        let threads = fs::read_dir("/proc/self/task").map_err(NotSingleThreaded::Count)?.count();
        match threads {
            1 => Ok(Self { not_send: PhantomData }),
            more => Err(NotSingleThreaded::Threads(more)),
        }
    }
}

/// What a cloned process is born with.
#[derive(Debug, Default, Clone, Copy)]
pub struct CloneRequest<'fd> {
    /// Born as the first process of a new PID namespace (`CLONE_NEWPID`).
    pub new_pid_namespace: bool,
    /// Born in a new mount namespace, a copy of this one (`CLONE_NEWNS`).
    pub new_mount_namespace: bool,
    /// Born as a child of this process's parent, who reaps it (`CLONE_PARENT`).
    pub sibling: bool,
    /// The folder of the cgroup v2 to be born in (`CLONE_INTO_CGROUP`); else this process's own.
    pub cgroup: Option<BorrowedFd<'fd>>,
}

/// Proof of being in a child that [`clone_process`] made, and never coming back from it.
#[derive(Debug)]
pub struct InChild {
    // A raw pointer is neither Send nor Sync.
    not_send: PhantomData<*const ()>,
}

impl InChild {
    /// Closes every descriptor but 0, 1, 2 and `keep`. A copy of a pipe's write end left open here
    /// would keep its reader, who knows nothing of this process, from ever seeing the end.
    ///
    /// The descriptors' owners are the parent's values, of which a child has copies that are never
    /// dropped. Using one that was not kept fails with EBADF.
    pub fn close_all_but(&self, keep: &[BorrowedFd<'_>]) {
        let mut keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
        keep.sort_unstable();
        fd::close_all_but(&keep);
    }

    /// Closes one descriptor, of which the same is true.
    pub fn close(&self, fd: BorrowedFd<'_>) {
        if let Ok(number) = u32::try_from(fd.as_raw_fd()) {
            fd::close_range(number, number);
        }
    }
}

/// A child process. The pidfd is readable once it has ended (pidfd_open(2)).
#[derive(Debug)]
pub struct Process {
    /// Its id in this process's PID namespace.
    pub pid: Pid,
    /// Its pidfd, close-on-exec.
    pub pidfd: OwnedFd,
}

/// Clones this process. The child runs `child` and ends with the status that it returns; it never
/// comes back into the caller's code, and nothing is dropped or flushed at its end.
///
/// In the child all signals have their default disposition and none is blocked. If its parent's
/// death is to be its own, it says so itself (`PR_SET_PDEATHSIG`).
pub fn clone_process(
    _alone: &SingleThreaded,
    request: &CloneRequest<'_>,
    child: impl FnOnce(&InChild) -> i32,
) -> Result<Process, Errno> {
    let mut flags = libc::CLONE_PIDFD as u64;
    if request.new_pid_namespace {
        flags |= libc::CLONE_NEWPID as u64;
    }
    if request.new_mount_namespace {
        flags |= libc::CLONE_NEWNS as u64;
    }
    if request.sibling {
        flags |= libc::CLONE_PARENT as u64;
    }
    // Between the clone and the closure nothing of the caller's may run: not a signal handler either.
    let blocked = signal::block_all()?;
    let mut pidfd: RawFd = -1;
    let result = clone3(flags, request.cgroup, &mut pidfd);
    match result {
        Ok(None) => run_child(child),
        Ok(Some(pid)) => {
            blocked.restore();
            // SAFETY: CLONE_PIDFD made the kernel store a new descriptor, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Process { pid, pidfd })
        }
        Err(errno) => {
            blocked.restore();
            Err(errno)
        }
    }
}

/// `None` in the child.
fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>, pidfd: &mut RawFd) -> Result<Option<Pid>, Errno> {
    // SAFETY: all-zero is a valid clone_args: it is plain integers, and zero means "not asked for".
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = flags;
    // A sibling has this process's own (clone(2): with CLONE_PARENT there must be none here).
    if flags & libc::CLONE_PARENT as u64 == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    args.pidfd = std::ptr::from_mut(pidfd) as u64;
    if let Some(cgroup) = cgroup {
        // CLONE_INTO_CGROUP is bit 33: libc's constant has the type of clone(2)'s 32-bit flags.
        args.flags |= 1 << 33;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the arguments are initialised and outlive the call; `pidfd` points to a live i32. Without
    // CLONE_VM and with no stack given the child goes on with a copy of this stack, as after fork(2).
    // The caller proved that there is one thread, so no lock in the copied memory is held.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match result {
        -1 => Err(last_errno()),
        pid => Ok(Pid::from_raw(i32::try_from(pid).unwrap_or(0))),
    }
}

fn run_child(child: impl FnOnce(&InChild) -> i32) -> ! {
    // A panic must neither unwind into the caller's frames nor reach abort(3): musl's raises the
    // signal with the thread id that it remembers, which in this copy is the parent's.
    panic::set_hook(Box::new(|_| exit(PANIC_STATUS)));
    signal::reset();
    exit(child(&InChild { not_send: PhantomData }))
}

/// Ends the process at once, without running destructors or exit handlers.
pub fn exit(status: i32) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(status) }
}

pub(crate) fn last_errno() -> Errno {
    // Every caller has just seen a system call fail, so that the number is there.
    let raw = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Errno::from_raw_os_error(raw)
}
