//! The log's file: opening it where it belongs, writing whole records.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::record::{HEADER_BYTES, Header};

/// The longest path, in bytes.
const PATH_MAX_BYTES: usize = 4095;
/// Records that are written together, and the pieces that they have: header, two of content, newline.
const RECORDS_MAX: usize = 64;
const PIECES_MAX: usize = 4 * RECORDS_MAX;
/// A log may be read by the node's log group, and by nobody else.
const FILE_MODE: u32 = 0o640;
const DIR_MODE: u32 = 0o755;

/// Why a log was not opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Not absolute, with `..`, too long, or without a file name below a folder.
    #[error("log path {0:?} is not absolute and plain")]
    Path(PathBuf),
    /// A folder could not be made or opened.
    #[error("folder of log {path:?}")]
    Dir {
        /// The log.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: Errno,
    },
    /// The file could not be opened.
    #[error("open log {path:?}")]
    File {
        /// The log.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: Errno,
    },
    /// Something else than a file is there.
    #[error("log {0:?} is not a regular file")]
    NotAFile(PathBuf),
}

/// An open file, and where it was opened.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: OwnedFd,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> Result<LogFile, OpenError> {
        Ok(LogFile { path: path.to_owned(), file: open(path)? })
    }

    /// Of any descriptor, for a test of how a refusal is met.
    #[cfg(test)]
    pub(super) fn of(file: OwnedFd) -> LogFile {
        LogFile { path: PathBuf::new(), file }
    }

    pub(super) fn reopen(&mut self) -> Result<(), OpenError> {
        self.file = open(&self.path)?;
        Ok(())
    }
}

/// Opens `<pod's folder>/<container>/<n>.log`. The pod's folder is the node's own and may be reached
/// by any links; from there on a link is refused, and the container's folder is made if it is absent.
fn open(path: &Path) -> Result<OwnedFd, OpenError> {
    let (base, dir_name, name) = parts(path).ok_or_else(|| OpenError::Path(path.to_owned()))?;
    let failed = |source| OpenError::Dir { path: path.to_owned(), source };
    let base = open_base(base).map_err(failed)?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let open_dir = || rustix::fs::openat2(&base, dir_name, folder, Mode::empty(), beneath);
    let dir = match open_dir() {
        Err(Errno::NOENT) => match rustix::fs::mkdirat(&base, dir_name, Mode::from_raw_mode(DIR_MODE)) {
            Ok(()) | Err(Errno::EXIST) => open_dir(),
            Err(e) => Err(e),
        },
        other => other,
    }
    .map_err(failed)?;
    // Without NONBLOCK a pipe that somebody put there would hold the shim up.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY;
    let file = rustix::fs::openat2(&dir, name, flags, Mode::from_raw_mode(FILE_MODE), beneath)
        .map_err(|source| OpenError::File { path: path.to_owned(), source })?;
    let stat =
        rustix::fs::fstat(&file).map_err(|source| OpenError::File { path: path.to_owned(), source })?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(OpenError::NotAFile(path.to_owned()));
    }
    Ok(file)
}

/// The pod's folder, the container's, the file's name.
fn parts(path: &Path) -> Option<(&Path, &OsStr, &OsStr)> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let plain = path.is_absolute()
        && bytes.len() <= PATH_MAX_BYTES
        && !bytes.contains(&0)
        && !bytes.ends_with(b"/")
        && path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !plain {
        return None;
    }
    let dir = path.parent()?;
    Some((dir.parent()?, dir.file_name()?, path.file_name()?))
}

fn open_base(base: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(base, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            // The kubelet makes it; other clients may not.
            std::fs::create_dir_all(base).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            rustix::fs::open(base, flags, Mode::empty())
        }
        other => other,
    }
}

/// What was not written, and why.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failed {
    /// Bytes of content.
    pub(super) lost_bytes: u64,
    /// What the kernel answered.
    pub(super) errno: Errno,
}

/// Records on their way to the file.
pub(super) struct Batch<'a> {
    file: &'a LogFile,
    pieces: [IoSlice<'a>; PIECES_MAX],
    pieces_used: usize,
    /// Where each record ends, in bytes from the first one.
    ends: [usize; RECORDS_MAX],
    records: usize,
    failed: Option<Failed>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(file: &'a LogFile) -> Batch<'a> {
        Batch {
            file,
            pieces: [IoSlice::new(&[]); PIECES_MAX],
            pieces_used: 0,
            ends: [0; RECORDS_MAX],
            records: 0,
            failed: None,
        }
    }

    /// Adds a record, and writes those that are there if it was the last that fits.
    pub(super) fn push(&mut self, header: &'a Header, content: (&'a [u8], &'a [u8])) {
        let length = HEADER_BYTES + content.0.len() + content.1.len() + 1;
        for piece in [header.as_bytes(), content.0, content.1, b"\n"] {
            if !piece.is_empty() {
                self.pieces[self.pieces_used] = IoSlice::new(piece);
                self.pieces_used += 1;
            }
        }
        self.ends[self.records] = self.bytes() + length;
        self.records += 1;
        if self.records == RECORDS_MAX {
            self.write();
        }
    }

    /// Writes what is left and tells what was not written.
    pub(super) fn finish(mut self) -> Option<Failed> {
        self.write();
        self.failed
    }

    fn bytes(&self) -> usize {
        self.records.checked_sub(1).map_or(0, |last| self.ends[last])
    }

    fn write(&mut self) {
        let total = self.bytes();
        let mut pieces = &mut self.pieces[..self.pieces_used];
        let mut written = 0;
        let mut errno = None;
        // After a failure nothing more is tried: the records would close up over the gap.
        while written < total && self.failed.is_none() && errno.is_none() {
            match rustix::io::writev(&self.file.file, pieces) {
                Ok(0) => errno = Some(Errno::IO),
                Ok(n) => {
                    written += n;
                    IoSlice::advance_slices(&mut pieces, n);
                }
                Err(Errno::INTR) => {}
                Err(e) => errno = Some(e),
            }
        }
        if written < total {
            let whole = self.ends[..self.records].iter().filter(|end| **end <= written).count();
            let kept = whole.checked_sub(1).map_or(0, |last| self.ends[last]);
            cut(&self.file.file, written - kept);
            let lost = total - kept - (self.records - whole) * (HEADER_BYTES + 1);
            let before = self.failed.map_or(0, |failed| failed.lost_bytes);
            let first = self.failed.map(|failed| failed.errno);
            let errno = first.or(errno).unwrap_or(Errno::IO);
            self.failed = Some(Failed { lost_bytes: before + lost as u64, errno });
        }
        self.pieces = [IoSlice::new(&[]); PIECES_MAX];
        self.pieces_used = 0;
        self.records = 0;
    }
}

/// Takes the torn end of the last record off the file. If even that fails, a reader sees a line that
/// is no record, and goes on with the next.
fn cut(file: &OwnedFd, torn_bytes: usize) {
    if torn_bytes == 0 {
        return;
    }
    if let Ok(stat) = rustix::fs::fstat(file.as_fd()) {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let _still_torn = rustix::fs::ftruncate(file.as_fd(), size.saturating_sub(torn_bytes as u64));
    }
}
