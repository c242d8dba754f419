//! Reading and writing the small files of a cgroup, by folder descriptor, bounded.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use thiserror::Error;

/// The most that is read of one file, in bytes. `cgroup.procs` is read in pieces and has its own.
pub const FILE_MAX_BYTES: usize = 64 << 10;

/// What was tried on a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// Opening it, or its folder.
    Open,
    /// Reading it.
    Read,
    /// Writing this to it.
    Write(String),
    /// Making the folder.
    Mkdir,
    /// Removing the folder.
    Rmdir,
}

/// A file or folder of a cgroup hierarchy that did not do what it should.
#[derive(Debug, Error)]
#[error("{attempt} {path}")]
pub struct FileError {
    /// What was tried.
    pub attempt: Attempt,
    /// On what; for a file, its name alone.
    pub path: String,
    /// What the kernel answered.
    #[source]
    pub source: Errno,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attempt::Open => f.write_str("open"),
            Attempt::Read => f.write_str("read"),
            Attempt::Write(value) => write!(f, "write {value:?} to"),
            Attempt::Mkdir => f.write_str("make"),
            Attempt::Rmdir => f.write_str("remove"),
        }
    }
}

impl FileError {
    pub(crate) fn new(attempt: Attempt, path: impl Into<String>, source: Errno) -> FileError {
        FileError { attempt, path: path.into(), source }
    }

    /// The file is not there (any more): the feature or the cgroup is missing.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self.source, Errno::NOENT | Errno::NODEV)
    }
}

/// Opens a folder beneath another one, through no symbolic link and onto no other mount.
pub(crate) fn open_dir(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, FileError> {
    rustix::fs::openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )
    .map_err(|e| FileError::new(Attempt::Open, path, e))
}

fn open_file(dir: BorrowedFd<'_>, name: &str, flags: OFlags) -> Result<OwnedFd, FileError> {
    rustix::fs::openat2(
        dir,
        name,
        flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )
    .map_err(|e| FileError::new(Attempt::Open, name, e))
}

/// Opens a file for reading; the name may have slashes, and stays beneath `dir`.
pub(crate) fn open_read(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, FileError> {
    open_file(dir, name, OFlags::RDONLY)
}

/// Opens a file for writing. Truncation means nothing to kernfs, and a shell's `>` asks for it, too.
pub(crate) fn open_write(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, FileError> {
    open_file(dir, name, OFlags::WRONLY | OFlags::TRUNC)
}

/// Reads a file of at most [`FILE_MAX_BYTES`]; what is beyond is an error, not cut.
pub(crate) fn read(dir: BorrowedFd<'_>, name: &str) -> Result<String, FileError> {
    let file = open_read(dir, name)?;
    read_fd(file.as_fd(), name, FILE_MAX_BYTES)
}

/// Reads an open file from its start.
pub(crate) fn read_fd(file: BorrowedFd<'_>, name: &str, max_bytes: usize) -> Result<String, FileError> {
    let failed = |e| FileError::new(Attempt::Read, name, e);
    let mut text = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        match rustix::io::pread(file, &mut chunk, text.len() as u64) {
            Ok(0) => break,
            Ok(n) if text.len() + n > max_bytes => return Err(failed(Errno::FBIG)),
            Ok(n) => text.extend_from_slice(&chunk[..n]),
            Err(Errno::INTR) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    String::from_utf8(text).map_err(|_| failed(Errno::ILSEQ))
}

/// Writes a value in one write(2), as kernfs wants it.
pub(crate) fn write(dir: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), FileError> {
    let file = open_write(dir, name)?;
    let failed = |e| FileError::new(Attempt::Write(value.to_owned()), name, e);
    loop {
        match rustix::io::write(&file, value.as_bytes()) {
            Ok(n) if n == value.len() => return Ok(()),
            Ok(_) => return Err(failed(Errno::IO)),
            Err(Errno::INTR) => {}
            Err(e) => return Err(failed(e)),
        }
    }
}

/// The value behind `key ` in a flat-keyed file (`oom_kill 3`).
pub(crate) fn flat_value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
