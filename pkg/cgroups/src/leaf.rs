//! A child of a container's cgroup for one exec, on cgroup2 only.
//!
//! It has no controllers, so that the container's limits hold for both together and the rule that
//! processes sit in leaves alone is not touched: a folder without controllers in its
//! `subtree_control` may have processes and children. It exists for `cgroup.kill`: an exec that runs
//! over its time is killed with everything that it started, whatever their sessions and parents.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::Errno;
use thiserror::Error;

use crate::cgroup::{self, Cgroup};
use crate::file::{self, Attempt, FileError};
use crate::path::PathError;
use crate::{kill, remove};

/// Between two tries of a removal.
const PAUSE: Duration = Duration::from_millis(1);

/// The child.
#[derive(Debug)]
pub struct Leaf {
    parent: OwnedFd,
    name: String,
    dir: OwnedFd,
}

/// Becomes readable with `POLLPRI` when the leaf's last process has left it, and once at the beginning. Something
/// else may have changed, too: it says that it is time to look.
///
/// Source: `cgroup.events` in Documentation/admin-guide/cgroup-v2.rst of the kernel.
#[derive(Debug)]
pub struct LeafEvents(OwnedFd);

/// Why a leaf did not do what it should.
#[derive(Debug, Error)]
pub enum LeafError {
    /// The name is no plain component.
    #[error("name of an exec's cgroup")]
    Name(#[source] PathError),
    /// A file or folder refused.
    #[error("cgroup of exec {0}")]
    File(String, #[source] FileError),
    /// The kernel has no `cgroup.kill` (before 5.14).
    #[error("cgroup of exec {0}: this kernel has no cgroup.kill")]
    NoKill(String),
}

impl Cgroup {
    /// Makes a child for an exec; `None` where there is no cgroup2.
    ///
    /// # Errors
    /// The name is taken or no plain component, or the folder cannot be made.
    pub fn leaf(&self, name: &str) -> Result<Option<Leaf>, LeafError> {
        let Some(parent) = self.v2_dir() else { return Ok(None) };
        self.path().child(name).map_err(LeafError::Name)?;
        let failed = |e| LeafError::File(name.to_owned(), e);
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))
            .map_err(|e| failed(FileError::new(Attempt::Mkdir, name, e)))?;
        let opened = file::open_dir(parent, name).and_then(|dir| {
            let parent = parent
                .try_clone_to_owned()
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::MFILE))
                .map_err(|e| FileError::new(Attempt::Open, name, e))?;
            Ok(Leaf { parent, name: name.to_owned(), dir })
        });
        if opened.is_err() {
            let _ = remove::remove_tree(parent, name);
        }
        opened.map(Some).map_err(failed)
    }
}

impl Leaf {
    /// Its folder, for `CLONE_INTO_CGROUP`.
    #[must_use]
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Whether a process is in it.
    ///
    /// # Errors
    /// The folder is gone.
    pub fn is_populated(&self) -> Result<bool, LeafError> {
        cgroup::is_populated(self.dir()).map_err(|e| LeafError::File(self.name.clone(), e))
    }

    /// What tells when it has emptied.
    ///
    /// # Errors
    /// The folder is gone, or no descriptor is left.
    pub fn events(&self) -> Result<LeafEvents, LeafError> {
        let opened = file::open_read(self.dir(), "cgroup.events");
        opened.map(LeafEvents).map_err(|e| LeafError::File(self.name.clone(), e))
    }

    /// Kills everything in it, in one step.
    ///
    /// # Errors
    /// The kernel has no `cgroup.kill`, or refuses.
    pub fn kill(&self) -> Result<(), LeafError> {
        match kill::kill_v2(self.dir()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(LeafError::NoKill(self.name.clone())),
            Err(e) => Err(LeafError::File(self.name.clone(), e)),
        }
    }

    /// Removes it. `false`: processes were in it for all of `patience`; try again later.
    ///
    /// # Errors
    /// The kernel refused for another reason.
    pub fn delete(&self, patience: Duration) -> Result<bool, LeafError> {
        let mut left = patience;
        loop {
            match remove::remove_tree(self.parent.as_fd(), &self.name) {
                Ok(()) => return Ok(true),
                Err(e) if e.source == Errno::BUSY && left.is_zero() => return Ok(false),
                Err(e) if e.source == Errno::BUSY => {
                    let pause = left.min(PAUSE);
                    std::thread::sleep(pause);
                    left -= pause;
                }
                Err(e) => return Err(LeafError::File(self.name.clone(), e)),
            }
        }
    }
}

impl LeafEvents {
    /// Takes note of what it has told, so that it tells only of what comes after. To be called before looking.
    pub fn heard(&self) {
        // The kernel remembers for each descriptor what it has read; the words themselves are of no use, and a
        // folder that is gone says nothing any more.
        let _gone = rustix::io::pread(&self.0, &mut [0; 64], 0);
    }
}

impl AsFd for LeafEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
