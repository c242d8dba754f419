//! Paths inside a container's root, which the image and other containers of the pod control.
//!
//! Everything goes by file descriptor beneath the root's: openat2(2) with `RESOLVE_IN_ROOT` and
//! without magic links, or, where something has to be made, one component after the other with
//! symbolic links read and followed here. A component that changes meanwhile can lead to another
//! place inside the root, never out of it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;

/// As many symbolic links as the kernel follows in one path (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// `PATH_MAX`.
const PATH_MAX_BYTES: usize = 4096;
/// How often a lookup that raced with a rename is tried again: openat2(2) asks for it (EAGAIN).
const TRIES_MAX: usize = 64;

/// A container's root folder.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
}

/// What to make where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    /// A folder, 0755.
    Dir,
    /// An empty file, 0644.
    File,
}

/// What to do about symbolic links on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// They lead to a place inside the root.
    Follow,
    /// ELOOP.
    Refuse,
}

impl Root {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens what is there.
    pub(crate) fn open(&self, path: &str, flags: OFlags, links: Links) -> Result<OwnedFd, Errno> {
        open_beneath(self.fd.as_fd(), path, flags, links)
    }

    /// An `O_PATH` descriptor of what is there, or of what is made there with all missing folders on
    /// the way.
    pub(crate) fn ensure(&self, path: &str, absent: Absent, links: Links) -> Result<OwnedFd, Errno> {
        match self.open(path, OFlags::PATH, links) {
            Err(Errno::NOENT) => walk(self.fd.as_fd(), path.as_ref(), absent, links),
            other => other,
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens `path` inside `root`.
pub(crate) fn open_beneath(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
    links: Links,
) -> Result<OwnedFd, Errno> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if links == Links::Refuse {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    for _ in 0..TRIES_MAX {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Makes `path` inside `root`, which is a folder of this process's own making.
pub(crate) fn ensure_beneath(root: BorrowedFd<'_>, path: &str, absent: Absent) -> Result<OwnedFd, Errno> {
    walk(root, path.as_ref(), absent, Links::Refuse)
}

fn components(path: &OsStr) -> impl DoubleEndedIterator<Item = OsString> {
    let parts = path.as_bytes().split(|byte| *byte == b'/');
    parts.filter(|part| !part.is_empty() && *part != b".").map(|part| OsStr::from_bytes(part).to_owned())
}

fn walk(root: BorrowedFd<'_>, path: &OsStr, absent: Absent, links: Links) -> Result<OwnedFd, Errno> {
    if path.len() >= PATH_MAX_BYTES {
        return Err(Errno::NAMETOOLONG);
    }
    // The folders from the root to where the walk is. `..` goes back here and never asks the kernel,
    // which would take it relative to wherever the folder has been moved to.
    let mut trail = vec![openat(root, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?];
    let mut ahead: VecDeque<OsString> = components(path).collect();
    let mut followed = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let at = trail.last().ok_or(Errno::NOENT)?;
        let make = if ahead.is_empty() { absent } else { Absent::Dir };
        let (fd, stat) = open_or_make(at.as_fd(), &name, make)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                followed += 1;
                if links == Links::Refuse || followed > LINKS_MAX || is_magic(at.as_fd(), &name) {
                    return Err(Errno::LOOP);
                }
                let target = OsString::from_vec(readlinkat(&fd, "", Vec::new())?.into_bytes());
                if target.as_bytes().first() == Some(&b'/') {
                    trail.truncate(1);
                }
                for component in components(&target).rev() {
                    ahead.push_front(component);
                }
            }
            FileType::Directory => trail.push(fd),
            _ if ahead.is_empty() => trail.push(fd),
            _ => return Err(Errno::NOTDIR),
        }
    }
    trail.pop().ok_or(Errno::NOENT)
}

/// Whether a link is one of procfs that leads to an open file or another namespace, whatever its text
/// says (symlink(7)). The kernel tells; where an ordinary link leads makes no difference here.
fn is_magic(at: BorrowedFd<'_>, name: &OsStr) -> bool {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    matches!(openat2(at, name, flags, Mode::empty(), resolve), Err(Errno::LOOP))
}

/// Opens a component, a symbolic link as such.
fn open_or_make(at: BorrowedFd<'_>, name: &OsStr, make: Absent) -> Result<(OwnedFd, Stat), Errno> {
    let path = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match openat(at, name, path, Mode::empty()) {
        Err(Errno::NOENT) => {
            let made = match make {
                Absent::Dir => mkdirat(at, name, Mode::from_raw_mode(0o755)),
                Absent::File => {
                    let new =
                        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    openat(at, name, new, Mode::from_raw_mode(0o644)).map(drop)
                }
            };
            // Somebody else may have been faster; what they made is then taken like anything there.
            match made {
                Ok(()) | Err(Errno::EXIST) => openat(at, name, path, Mode::empty())?,
                Err(errno) => return Err(errno),
            }
        }
        other => other?,
    };
    let stat = fstat(&fd)?;
    Ok((fd, stat))
}
