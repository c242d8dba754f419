//! Leaving namespaces: unshare(2).

use rustix::io::Errno;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Kinds of namespaces. clone(2), `CLONE_NEW*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Mounts; this process's current folder and root move to the copy.
    Mount,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
    /// The root of what is seen of the cgroup tree: the cgroups that this process is in now.
    Cgroup,
}

/// Moves this process into new namespaces of these kinds.
pub fn unshare(kinds: &[Kind]) -> Result<(), Errno> {
    let flags = kinds.iter().fold(UnshareFlags::empty(), |flags, kind| {
        flags
            | match kind {
                Kind::Mount => UnshareFlags::NEWNS,
                Kind::Ipc => UnshareFlags::NEWIPC,
                Kind::Uts => UnshareFlags::NEWUTS,
                Kind::Cgroup => UnshareFlags::NEWCGROUP,
            }
    });
    // SAFETY: CLONE_FILES, the flag that could take descriptors away from other threads, is not among
    // those that can be asked for.
    unsafe { unshare_unsafe(flags) }
}
