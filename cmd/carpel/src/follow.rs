//! Reads a container's log file, once or for as long as the container lives, through rotation.
//!
//! ```text
//!   kubelet:  rename 0.log → 0.log.20260102    runtime: ReopenContainerLog makes a new 0.log
//!   here:     at the end of the old file, another file stands at the path
//!             → read the old one once more (a write may have been under way) → go on with the new one
//! ```
//!
//! It polls: a log may lie on any filesystem, and inotify instances are few. Everything here blocks, so it
//! runs on a thread of its own.

mod print;
mod tail;

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

pub(crate) use print::{Printer, Timestamps};

use crate::log_format::Decoder;

const POLL: Duration = Duration::from_millis(50);

const CHUNK_BYTES: usize = 64 << 10;

/// A log that cannot be read, or whose lines cannot be passed on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    #[error("cannot open the log {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read the log {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write the log to the terminal or pipe")]
    Write(#[source] io::Error),
}

impl FollowError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        let Self::Open { source, .. } = self else { return None };
        match source.kind() {
            io::ErrorKind::PermissionDenied => Some("only root may read it: try again with sudo".into()),
            io::ErrorKind::NotFound => Some(
                "the container never started, or its log was removed; logs are read on the node itself"
                    .into(),
            ),
            _ => None,
        }
    }

    /// Whether the reader of our output has gone, which is no failure.
    pub(crate) fn is_closed_output(&self) -> bool {
        matches!(self, Self::Write(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Set once a container has ended, and with it its log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ended(Arc<(Mutex<bool>, Condvar)>);

impl Ended {
    /// All that the container wrote is in the file by now.
    pub(crate) fn set(&self) {
        *self.flag() = true;
        self.0.1.notify_all();
    }

    fn get(&self) -> bool {
        *self.flag()
    }

    /// Until it is set, but no longer than [`POLL`].
    fn wait(&self) {
        let waited = self.0.1.wait_timeout_while(self.flag(), POLL, |ended| !*ended);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// A flag cannot be left half changed, so a poisoned lock is as good as any.
    fn flag(&self) -> MutexGuard<'_, bool> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether to wait for more at the end of the file.
#[derive(Debug)]
pub(crate) enum Until {
    /// Stop at the end of the file.
    EndOfFile,
    /// Stop at the end of the file once the container has ended.
    Ended(Ended),
}

/// Copies the log at `path` to `printer`: the last `tail` lines, or all of them.
///
/// # Errors
/// If the file cannot be opened or read, or the output cannot be written.
pub(crate) fn copy(
    path: &Path,
    tail: Option<u64>,
    until: &Until,
    printer: &mut Printer<'_>,
) -> Result<(), FollowError> {
    let Some(mut log) = open(path, until)? else { return Ok(()) };
    if let Some(lines) = tail {
        log.skip_to_tail(lines)?;
    }
    let Until::Ended(ended) = until else { return log.drain(printer) };
    loop {
        // Both are asked before reading: what was written before the answer is then read.
        let last = ended.get();
        let replaced = log.replaced();
        log.drain(printer)?;
        if replaced {
            thread::sleep(POLL);
            log.drain(printer)?;
            log = LogFile::open(path)?;
        } else if last {
            return Ok(());
        } else {
            ended.wait();
        }
    }
}

/// Opens the log, which appears when the container starts; nothing if it ended without one.
fn open(path: &Path, until: &Until) -> Result<Option<LogFile>, FollowError> {
    let Until::Ended(ended) = until else { return LogFile::open(path).map(Some) };
    loop {
        let last = ended.get();
        match LogFile::open(path) {
            Err(FollowError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                if last {
                    return Ok(None);
                }
            }
            opened => return opened.map(Some),
        }
        ended.wait();
    }
}

struct LogFile {
    path: PathBuf,
    file: File,
    decoder: Decoder,
    position: u64,
}

impl LogFile {
    fn open(path: &Path) -> Result<Self, FollowError> {
        let file = File::open(path).map_err(|source| FollowError::Open { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file, decoder: Decoder::new(0), position: 0 })
    }

    fn read_error(&self, source: io::Error) -> FollowError {
        FollowError::Read { path: self.path.clone(), source }
    }

    fn skip_to_tail(&mut self, lines: u64) -> Result<(), FollowError> {
        let offset = tail::offset(&mut self.file, lines).map_err(|source| self.read_error(source))?;
        self.seek(offset)
    }

    fn seek(&mut self, offset: u64) -> Result<(), FollowError> {
        self.file.seek(SeekFrom::Start(offset)).map_err(|source| self.read_error(source))?;
        self.position = offset;
        self.decoder = Decoder::new(offset);
        Ok(())
    }

    /// Whether another file stands at the path by now. While none does, the writer still has the old one.
    fn replaced(&self) -> bool {
        match (fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(here)) => (there.dev(), there.ino()) != (here.dev(), here.ino()),
            _ => false,
        }
    }

    /// Reads to the end of the file.
    fn drain(&mut self, printer: &mut Printer<'_>) -> Result<(), FollowError> {
        let length = self.file.metadata().map_err(|source| self.read_error(source))?.len();
        if length < self.position {
            // Truncated in place; what is there now is new.
            self.seek(0)?;
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = match self.file.read(&mut chunk) {
                Ok(0) => return printer.flush().map_err(FollowError::Write),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.read_error(error)),
            };
            self.position += read as u64;
            self.decoder
                .feed(&chunk[..read], &mut |event| printer.event(&event))
                .map_err(FollowError::Write)?;
        }
    }
}

#[cfg(test)]
mod tests;
