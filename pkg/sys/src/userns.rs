//! A user namespace with namespaces that it owns, as descriptors (user_namespaces(7)).
//!
//! ```text
//!  this thread: clone3(VM|NEWUSER|NEWIPC|…) ─ write uid_map, gid_map ─ open /proc/<pid>/ns/* ─ kill, reap
//!  child, on a stack of its own:                 … sleeps …
//! ```
//!
//! A namespace belongs to the user namespace that its maker was in, and a process with threads can
//! neither make nor join a user namespace (setns(2)). So a child is born in all of them. It shares this
//! process's memory, so that no page table is copied, and does nothing but sleep: only somebody in the
//! parent namespace may write a map of more than one id, and only of a living process.

mod probe;

use std::ffi::c_void;
use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, getpid, waitid};

use crate::clone::{self, Process};
use crate::{signal, spawn};

pub use probe::{ProbeError, probe};

/// The child makes two system calls, and the first frames of this file's functions.
const STACK_BYTES: usize = 64 << 10;

/// Ids from 0 on inside, and which ones they are in this process's user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// What is 0 inside.
    pub host_id: u32,
    /// How many ids there are.
    pub length: u32,
}

/// What to make.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Users.
    pub uids: IdRange,
    /// Groups.
    pub gids: IdRange,
    /// Also a network and a UTS namespace.
    pub network_and_uts: bool,
    /// Also an IPC namespace.
    pub ipc: bool,
}

/// The namespaces. Each lives as long as something refers to it.
#[derive(Debug)]
pub struct Namespaces {
    /// The user namespace, which owns the others.
    pub user: OwnedFd,
    /// Network, if asked for.
    pub network: Option<OwnedFd>,
    /// UTS, if asked for.
    pub uts: Option<OwnedFd>,
    /// IPC, if asked for.
    pub ipc: Option<OwnedFd>,
}

/// Why they were not made. Nothing of them is left.
#[derive(Debug, thiserror::Error)]
pub enum UsernsError {
    /// No process: ENOSPC says that `user.max_user_namespaces` or the like is exhausted.
    #[error("clone3 a process in a new user namespace")]
    Clone(#[source] Errno),
    /// The ids.
    #[error("write {0} of a new user namespace")]
    Map(&'static str, #[source] io::Error),
    /// A descriptor.
    #[error("open the new {0} namespace")]
    Open(&'static str, #[source] io::Error),
}

/// Makes them. The caller may have any number of threads.
pub fn create(request: &Request) -> Result<Namespaces, UsernsError> {
    let mut stack: Vec<u128> = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
    let mut parent = getpid().as_raw_nonzero().get();
    let sleeper = clone_sleeper(request, &mut stack, &mut parent).map_err(UsernsError::Clone)?;
    let made = describe(request, sleeper.pid);
    // Its memory is this process's, so that the stack must not go before it has.
    let _ended = signal::send(sleeper.pidfd.as_fd(), libc::SIGKILL);
    while let Err(Errno::INTR) = waitid(WaitId::PidFd(sleeper.pidfd.as_fd()), WaitIdOptions::EXITED) {}
    made
}

fn describe(request: &Request, pid: Pid) -> Result<Namespaces, UsernsError> {
    let dir = format!("/proc/{}", pid.as_raw_nonzero());
    for (file, range) in [("uid_map", request.uids), ("gid_map", request.gids)] {
        let IdRange { host_id, length } = range;
        fs::write(format!("{dir}/{file}"), format!("0 {host_id} {length}\n"))
            .map_err(|source| UsernsError::Map(file, source))?;
    }
    let open = |name: &'static str| {
        let opened = File::open(format!("{dir}/ns/{name}"));
        opened.map(OwnedFd::from).map_err(|source| UsernsError::Open(name, source))
    };
    let wanted = |wanted: bool, name| wanted.then(|| open(name)).transpose();
    Ok(Namespaces {
        user: open("user")?,
        network: wanted(request.network_and_uts, "net")?,
        uts: wanted(request.network_and_uts, "uts")?,
        ipc: wanted(request.ipc, "ipc")?,
    })
}

fn clone_sleeper(request: &Request, stack: &mut Vec<u128>, parent: &mut i32) -> Result<Process, Errno> {
    let mut flags = libc::CLONE_VM | libc::CLONE_NEWUSER;
    if request.network_and_uts {
        flags |= libc::CLONE_NEWNET | libc::CLONE_NEWUTS;
    }
    if request.ipc {
        flags |= libc::CLONE_NEWIPC;
    }
    // SAFETY: all-zero is a valid clone_args: it is plain integers, and zero means "not asked for".
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = flags as u64;
    args.stack = stack.as_mut_ptr() as u64;
    args.stack_size = STACK_BYTES as u64;
    // SAFETY: `args` is initialised; its stack is aligned, large enough and unused by anybody else.
    // `create` keeps it and `parent` until the child has ended; the child reads `parent` alone, which
    // this thread does not touch meanwhile, and makes system calls that do not fail, so that not even
    // the thread's `errno`, which both see, is written by it.
    unsafe { spawn::clone3_process(args, sleep, ptr::from_mut(parent).cast()) }
}

/// The child's whole life, with all signals blocked: it ends by SIGKILL, also when its parent does.
extern "C" fn sleep(parent: *mut c_void) -> ! {
    // SAFETY: `clone_sleeper` passes a pointer to an i32 that outlives this process. The system calls
    // concern this process alone; ppoll without descriptors, time and mask waits for a signal, of
    // which none is delivered.
    unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        // A parent that ended before that has no more death to tell of.
        if libc::syscall(libc::SYS_getppid) == libc::c_long::from(*parent.cast::<i32>()) {
            loop {
                libc::syscall(libc::SYS_ppoll, ptr::null::<c_void>(), 0, ptr::null::<c_void>(), 0, 0);
            }
        }
    }
    clone::exit(1)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd, FromRawFd};
    use std::process::Command;
    use std::thread;

    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

    use super::*;

    const RANGE: IdRange = IdRange { host_id: 231_072, length: 65_536 };

    fn made() -> Namespaces {
        let request = Request { uids: RANGE, gids: RANGE, network_and_uts: true, ipc: true };
        create(&request).unwrap()
    }

    #[test]
    fn the_namespaces_are_new_and_belong_to_the_user_namespace() {
        let ns = made();
        let ioctl_owner = |fd: &OwnedFd| {
            // ioctl_nsfs(2), NS_GET_USERNS.
            // SAFETY: the request takes no argument and gives a new descriptor or -1.
            let owner = unsafe { libc::ioctl(fd.as_raw_fd(), 0xb701) };
            assert!(owner >= 0, "{}", io::Error::last_os_error());
            // SAFETY: new, and nobody else's.
            rustix::fs::fstat(unsafe { OwnedFd::from_raw_fd(owner) }).unwrap().st_ino
        };
        let user = rustix::fs::fstat(&ns.user).unwrap().st_ino;
        for fd in [&ns.network, &ns.uts, &ns.ipc] {
            assert_eq!(ioctl_owner(fd.as_ref().unwrap()), user);
        }
        let network = ns.network.unwrap();
        let links = thread::spawn(move || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            fs::read_dir("/proc/thread-self/net").unwrap().count()
        });
        assert!(links.join().unwrap() > 0);
    }

    #[test]
    fn the_ids_are_those_asked_for() {
        let ns = made();
        let path = format!("--user=/proc/{}/fd/{}", std::process::id(), ns.user.as_raw_fd());
        let out = Command::new("nsenter").args([&path, "cat", "/proc/self/uid_map"]).output().unwrap();
        let fields: Vec<String> =
            String::from_utf8(out.stdout).unwrap().split_whitespace().map(str::to_owned).collect();
        assert_eq!(fields, ["0", "231072", "65536"]);
    }

    #[test]
    fn a_range_that_is_none_leaves_no_process() {
        let none = IdRange { host_id: 1, length: 0 };
        let request = Request { uids: none, gids: RANGE, network_and_uts: false, ipc: false };
        assert!(matches!(create(&request), Err(UsernsError::Map("uid_map", _))));
    }

    #[test]
    fn many_threads_make_them_at_once() {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..20).for_each(|_| drop(made())));
            }
        });
    }
}
