//! A place of its own for the process that a delegated cgroup2 folder began with.
//!
//! A folder that has processes cannot hand controllers down to its children (cgroup-v2.rst, "No
//! Internal Process Constraint"), and systemd's scopes begin with a process. So that one steps aside,
//! into a child without controllers, before anything else is made there.

use std::os::fd::AsFd;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::Pid;
use thiserror::Error;

use crate::file::{self, Attempt, FileError};
use crate::path::{CgroupPath, PathError};
use crate::tree::Tree;

/// Why a process is not in its place.
#[derive(Debug, Error)]
pub enum SeatError {
    /// The host has no cgroup2.
    #[error("there is no cgroup2 hierarchy to seat process {0} in")]
    NoV2(i32),
    /// The name is no plain component.
    #[error("the name of a process's place")]
    Name(#[source] PathError),
    /// A folder or file refused.
    #[error("seat process {pid} in cgroup {path}")]
    File {
        /// The process.
        pid: i32,
        /// The place.
        path: CgroupPath,
        /// Why.
        #[source]
        source: FileError,
    },
}

impl SeatError {
    /// Whether the folder to seat it in is not there, or has just gone.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, SeatError::File { source, .. } if source.is_absent())
    }
}

/// Moves a process with all its threads into the child `name` of `parent`, which is made if it is
/// absent. No controllers are handed down to it.
///
/// # Errors
/// See [`SeatError`].
pub fn seat(tree: &Tree, parent: &CgroupPath, name: &str, pid: Pid) -> Result<(), SeatError> {
    let path = parent.child(name).map_err(SeatError::Name)?;
    let pid = pid.as_raw_nonzero().get();
    let v2 = tree.v2().ok_or(SeatError::NoV2(pid))?;
    let move_in = || {
        let dir = file::open_dir(v2.root(), parent.as_relative())?;
        match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(FileError::new(Attempt::Mkdir, name, e)),
        }
        let seat = file::open_dir(dir.as_fd(), name)?;
        file::write(seat.as_fd(), "cgroup.procs", &pid.to_string())
    };
    move_in().map_err(|source| SeatError::File { pid, path, source })
}
