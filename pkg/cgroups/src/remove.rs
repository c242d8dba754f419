//! Removing a cgroup from every hierarchy.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::fs::AtFlags;
use rustix::io::Errno;
use thiserror::Error;

use crate::cgroup::{CHILD_DEPTH_MAX, Cgroup, child_names};
use crate::file::{self, Attempt, FileError};
use crate::path::CgroupPath;
use crate::tree::Hierarchy;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(2);

/// Why a cgroup was not removed.
#[derive(Debug, Error)]
pub enum DeleteError {
    /// A process is in it.
    #[error("cgroup {path} in {hierarchy} is in use")]
    Busy {
        /// The cgroup.
        path: CgroupPath,
        /// Where the hierarchy is mounted.
        hierarchy: String,
    },
    /// The kernel refused for another reason.
    #[error("cgroup {path} in {hierarchy}")]
    Remove {
        /// The cgroup.
        path: CgroupPath,
        /// Where the hierarchy is mounted.
        hierarchy: String,
        /// Why.
        #[source]
        source: FileError,
    },
}

impl Cgroup {
    /// Removes it and every child that was made in it, in all hierarchies; what is gone already is
    /// fine. Empty parents go too if they are ours, see [`crate::path::OWN_PREFIX`].
    ///
    /// A process that is dying holds its cgroup for a moment: the removal is tried again for up to
    /// `patience`, asleep. Zero is one try.
    ///
    /// # Errors
    /// See [`DeleteError`]. The other hierarchies were tried, and it can be tried again.
    pub fn delete(&self, patience: Duration) -> Result<(), DeleteError> {
        let mut left = patience;
        loop {
            let result = self.delete_once();
            match result {
                Err(DeleteError::Busy { .. }) if !left.is_zero() => {
                    let pause = left.min(PAUSE);
                    std::thread::sleep(pause);
                    left -= pause;
                }
                other => return other,
            }
        }
    }

    /// Removes it wherever it has neither children nor processes. Empty parents go too if they are
    /// ours, as by [`Cgroup::delete`]. Returns whether it is nowhere any more.
    pub fn remove_if_empty(&self) -> bool {
        let mut is_gone = true;
        for hierarchy in &self.tree().hierarchies {
            match remove_empty(hierarchy.root(), self.path()) {
                Ok(()) if self.path().has_own_prefix() => remove_parents(hierarchy, self.path()),
                Ok(()) => {}
                Err(e) => is_gone &= e.is_absent(),
            }
        }
        is_gone
    }

    fn delete_once(&self) -> Result<(), DeleteError> {
        let mut first = Ok(());
        for hierarchy in &self.tree().hierarchies {
            let result = self.delete_in(hierarchy);
            if first.is_ok() {
                first = result;
            }
        }
        first
    }

    fn delete_in(&self, hierarchy: &Hierarchy) -> Result<(), DeleteError> {
        let path = self.path().clone();
        match remove_path(hierarchy.root(), &path) {
            Ok(()) => {
                if path.has_own_prefix() {
                    remove_parents(hierarchy, &path);
                }
                Ok(())
            }
            Err(e) if e.source == Errno::BUSY => {
                Err(DeleteError::Busy { path, hierarchy: hierarchy.mount_point().display().to_string() })
            }
            Err(source) => {
                let hierarchy = hierarchy.mount_point().display().to_string();
                Err(DeleteError::Remove { path, hierarchy, source })
            }
        }
    }
}

/// Goes up until a parent is not empty.
fn remove_parents(hierarchy: &Hierarchy, path: &CgroupPath) {
    let mut parent = path.parent();
    while let Some(path) = parent {
        if remove_empty(hierarchy.root(), &path).is_err() {
            return;
        }
        parent = path.parent();
    }
}

/// Removes a folder that has neither children nor processes.
pub(crate) fn remove_empty(root: BorrowedFd<'_>, path: &CgroupPath) -> Result<(), FileError> {
    // rmdir's path is walked by the kernel with symbolic links; kernfs has none, and every
    // component was checked.
    rustix::fs::unlinkat(root, path.as_relative(), AtFlags::REMOVEDIR)
        .map_err(|e| FileError::new(Attempt::Rmdir, path.as_relative(), e))
}

fn remove_path(root: BorrowedFd<'_>, path: &CgroupPath) -> Result<(), FileError> {
    match path.as_relative().rsplit_once('/') {
        None => remove_tree(root, path.as_relative()),
        Some((parent, name)) => match file::open_dir(root, parent) {
            Ok(parent) => remove_tree(parent.as_fd(), name),
            Err(e) if e.is_absent() => Ok(()),
            Err(e) => Err(e),
        },
    }
}

/// Removes a folder with those below it; an absent one is fine.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &str) -> Result<(), FileError> {
    remove_below(parent, name, 0)
}

fn remove_below(parent: BorrowedFd<'_>, name: &str, depth: usize) -> Result<(), FileError> {
    let rmdir = || rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
    let failed = |e| FileError::new(Attempt::Rmdir, name, e);
    match rmdir() {
        Ok(()) | Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
        // Children, or processes: both are "busy" to kernfs.
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(e) => return Err(failed(e)),
    }
    if depth >= CHILD_DEPTH_MAX {
        return Err(failed(Errno::LOOP));
    }
    let dir = match file::open_dir(parent, name) {
        Ok(dir) => dir,
        Err(e) if e.is_absent() => return Ok(()),
        Err(e) => return Err(e),
    };
    let children = match child_names(dir.as_fd()) {
        // Somebody else removes it too: systemd does, when a scope is empty.
        Err(e) if e.is_absent() => return Ok(()),
        other => other?,
    };
    for child in children {
        remove_below(dir.as_fd(), &child, depth + 1)?;
    }
    match rmdir() {
        Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
        Err(e) => Err(failed(e)),
    }
}
