//! A terminal of the container's own devpts (pts(4)).
//!
//! The slave is got from the master by `TIOCGPTPEER`, never by a path: what the container has at
//! `/dev/pts/0` plays no part.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, fstat, fstatfs, makedev};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use crate::devices::{CONSOLE, open_in};
use crate::mounts::clone_mount;
use crate::root::{Links, Root};
use crate::sandbox::mounts::attach;

/// statfs(2) `f_type` of devpts.
const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
/// Below the container's devpts, not `/dev/ptmx`, which is a link or somebody's file.
const PTMX: &str = "/dev/pts/ptmx";

/// Why there is no terminal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TerminalError {
    #[error("open {PTMX}")]
    Open(#[source] Errno),
    #[error("{PTMX} is not a devpts master")]
    NotPtmx,
    #[error("unlock the terminal")]
    Unlock(#[source] Errno),
    #[error("open the terminal's other end")]
    Peer(#[source] Errno),
    #[error("mount the terminal on /dev/{CONSOLE}")]
    Console(#[source] Errno),
}

/// Both ends.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// The shim's end.
    pub(crate) master: OwnedFd,
    /// The process's end.
    pub(crate) slave: OwnedFd,
}

/// Makes a terminal in the devpts that is mounted in the container.
pub(crate) fn open(root: &Root) -> Result<Terminal, TerminalError> {
    let found =
        root.open(PTMX, OFlags::PATH | OFlags::NOFOLLOW, Links::Refuse).map_err(TerminalError::Open)?;
    if !is_ptmx(found.as_fd()).map_err(TerminalError::Open)? {
        return Err(TerminalError::NotPtmx);
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let master = root.open(PTMX, flags, Links::Refuse).map_err(TerminalError::Open)?;
    if !is_ptmx(master.as_fd()).map_err(TerminalError::Open)? {
        return Err(TerminalError::NotPtmx);
    }
    unlockpt(&master).map_err(TerminalError::Unlock)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).map_err(TerminalError::Peer)?;
    Ok(Terminal { master, slave })
}

fn is_ptmx(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = fstat(fd)?;
    let is_char = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    let magic = u64::try_from(fstatfs(fd)?.f_type);
    Ok(is_char && stat.st_rdev == makedev(5, 2) && magic == Ok(DEVPTS_SUPER_MAGIC))
}

/// Mounts the slave on `/dev/console`, which is a file of the container's own new `/dev`.
pub(crate) fn mount_console(terminal: &Terminal, dev: BorrowedFd<'_>) -> Result<(), TerminalError> {
    let target = open_in(dev, CONSOLE).map_err(TerminalError::Console)?;
    let console = clone_mount(terminal.slave.as_fd()).map_err(TerminalError::Console)?;
    attach(console.as_fd(), target.as_fd()).map_err(TerminalError::Console)
}
