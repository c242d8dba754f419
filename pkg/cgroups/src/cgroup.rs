//! One container's cgroup, once it is there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::Pid;
use thiserror::Error;

use crate::file::{self, FileError};
use crate::path::CgroupPath;
use crate::tree::{Hierarchy, Tree};

/// The most that is read of all `cgroup.procs` of one cgroup, in bytes: half a million processes.
const PROCS_MAX_BYTES: usize = 4 << 20;
/// How deep and how many folders below a container's are looked at.
pub(crate) const CHILD_DEPTH_MAX: usize = 32;
pub(crate) const CHILDREN_MAX: usize = 20_000;

/// A cgroup in every hierarchy.
///
/// Only the cgroup2 folder is kept open, for `clone3`; a descriptor for each v1 folder of each
/// container would be most of what a shim holds.
#[derive(Debug)]
pub struct Cgroup {
    tree: Arc<Tree>,
    path: CgroupPath,
    v2: Option<OwnedFd>,
}

/// Why a process could not be put into a cgroup.
#[derive(Debug, Error)]
#[error("put process {pid} into cgroup {path} in {hierarchy}")]
pub struct JoinError {
    /// The process; zero is the caller.
    pub pid: i32,
    /// The cgroup.
    pub path: CgroupPath,
    /// Where the hierarchy is mounted.
    pub hierarchy: String,
    /// What the kernel answered.
    #[source]
    pub source: FileError,
}

/// Why something about a cgroup could not be read.
#[derive(Debug, Error)]
#[error("cgroup {path}")]
pub struct ReadError {
    /// The cgroup.
    pub path: CgroupPath,
    /// Why.
    #[source]
    pub source: FileError,
}

/// Which hierarchies a process is to be put into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hierarchies {
    /// Every one.
    All,
    /// Those of v1: it is in cgroup2's already, by `CLONE_INTO_CGROUP`.
    V1,
}

impl Cgroup {
    /// Opens one that exists.
    ///
    /// # Errors
    /// Its cgroup2 folder cannot be opened. v1 folders are looked for when they are needed.
    pub fn open(tree: &Arc<Tree>, path: &CgroupPath) -> Result<Cgroup, FileError> {
        let v2 = tree.v2().map(|h| file::open_dir(h.root(), path.as_relative())).transpose()?;
        Ok(Cgroup { tree: Arc::clone(tree), path: path.clone(), v2 })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// The hierarchies that it is in.
    #[must_use]
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// Its cgroup2 folder, for `CLONE_INTO_CGROUP`; also on a hybrid host.
    #[must_use]
    pub fn v2_dir(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(AsFd::as_fd)
    }

    /// Opens the files by which a process with one thread puts itself in: it writes `0` to each of
    /// them. Empty on a unified host with [`Hierarchies::V1`].
    ///
    /// On v1 that file is `tasks`: a thread that moves only itself does not wait for an RCU grace period
    /// (3–15 ms, the first write to any `cgroup.procs` after a pause), because no other thread can be
    /// forking meanwhile (`cgroup_procs_write_start`, kernel/cgroup/cgroup.c; older kernels just wait). On
    /// cgroup2 there is no such way but `CLONE_INTO_CGROUP`.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub fn entrances(&self, which: Hierarchies) -> Result<Vec<OwnedFd>, JoinError> {
        self.in_each(which)
            .map(|hierarchy| {
                let name = if hierarchy.is_v2() { "cgroup.procs" } else { "tasks" };
                file::open_dir(hierarchy.root(), self.path.as_relative())
                    .and_then(|dir| file::open_write(dir.as_fd(), name))
                    .map_err(|source| self.join_error(0, hierarchy, source))
            })
            .collect()
    }

    /// Puts a process, with all its threads, into the hierarchies.
    ///
    /// # Errors
    /// A write was refused; the process is then in some of them.
    pub fn join(&self, pid: Pid, which: Hierarchies) -> Result<(), JoinError> {
        let number = pid.as_raw_nonzero().get();
        for hierarchy in self.in_each(which) {
            file::open_dir(hierarchy.root(), self.path.as_relative())
                .and_then(|dir| file::write(dir.as_fd(), "cgroup.procs", &number.to_string()))
                .map_err(|source| self.join_error(number, hierarchy, source))?;
        }
        Ok(())
    }

    fn in_each(&self, which: Hierarchies) -> impl Iterator<Item = &Hierarchy> {
        self.tree.hierarchies.iter().filter(move |h| which == Hierarchies::All || !h.is_v2())
    }

    fn join_error(&self, pid: i32, hierarchy: &Hierarchy, source: FileError) -> JoinError {
        let hierarchy = hierarchy.mount_point().display().to_string();
        JoinError { pid, path: self.path.clone(), hierarchy, source }
    }

    /// The processes in it and below it, as numbers of the caller's PID namespace; those that are
    /// not visible there are left out.
    ///
    /// # Errors
    /// The cgroup is gone, or its list is too long.
    pub fn procs(&self) -> Result<Vec<Pid>, ReadError> {
        self.observed_dir()
            .and_then(|dir| procs_below(dir.as_fd()))
            .map_err(|source| ReadError { path: self.path.clone(), source })
    }

    /// Whether a process is in it or below it.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn is_populated(&self) -> Result<bool, ReadError> {
        let failed = |source| ReadError { path: self.path.clone(), source };
        match self.v2_dir() {
            Some(dir) => is_populated(dir).map_err(failed),
            None => self.procs().map(|procs| !procs.is_empty()),
        }
    }

    /// How many of its processes the kernel's out-of-memory killer has killed, ever.
    ///
    /// # Errors
    /// The cgroup is gone, or the host has no memory controller.
    pub fn oom_kills(&self) -> Result<u64, ReadError> {
        let failed = |source| ReadError { path: self.path.clone(), source };
        let Some(memory) = self.tree.with_controller("memory") else { return Ok(0) };
        let file = if memory.is_v2() { "memory.events" } else { "memory.oom_control" };
        let dir = file::open_dir(memory.root(), self.path.as_relative()).map_err(failed)?;
        let text = file::read(dir.as_fd(), file).map_err(failed)?;
        Ok(file::flat_value(&text, "oom_kill").unwrap_or(0))
    }

    /// The folder in which its processes are looked at.
    pub(crate) fn observed_dir(&self) -> Result<OwnedFd, FileError> {
        let hierarchy = self
            .tree
            .v2()
            .or_else(|| self.tree.with_controller("pids"))
            .or_else(|| self.tree.with_controller("memory"))
            .or_else(|| self.tree.hierarchies.first())
            .ok_or_else(|| FileError::new(file::Attempt::Open, self.path.as_relative(), Errno::NOENT))?;
        file::open_dir(hierarchy.root(), self.path.as_relative())
    }
}

/// Whether a process is in a cgroup2 folder or below it.
pub(crate) fn is_populated(dir: BorrowedFd<'_>) -> Result<bool, FileError> {
    let text = file::read(dir, "cgroup.events")?;
    Ok(file::flat_value(&text, "populated") == Some(1))
}

/// The processes of a folder and of all folders below it.
pub(crate) fn procs_below(dir: BorrowedFd<'_>) -> Result<Vec<Pid>, FileError> {
    let mut pids = Vec::new();
    let mut budget_bytes = PROCS_MAX_BYTES;
    let mut seen = 0;
    walk(dir, 0, &mut seen, &mut |dir| {
        let text = match file::open_read(dir, "cgroup.procs")
            .and_then(|f| file::read_fd(f.as_fd(), "cgroup.procs", budget_bytes))
        {
            Ok(text) => text,
            // A threaded child has its processes listed by its domain; a removed one has none.
            Err(e) if e.is_absent() || e.source == Errno::OPNOTSUPP => return Ok(()),
            Err(e) => return Err(e),
        };
        budget_bytes -= text.len();
        pids.extend(text.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw));
        Ok(())
    })?;
    Ok(pids)
}

/// Visits a folder and those below it, parents first.
fn walk(
    dir: BorrowedFd<'_>,
    depth: usize,
    seen: &mut usize,
    visit: &mut dyn FnMut(BorrowedFd<'_>) -> Result<(), FileError>,
) -> Result<(), FileError> {
    visit(dir)?;
    for name in child_names(dir)? {
        *seen += 1;
        if depth >= CHILD_DEPTH_MAX || *seen > CHILDREN_MAX {
            return Err(FileError::new(file::Attempt::Read, name, Errno::LOOP));
        }
        match file::open_dir(dir, &name) {
            Ok(child) => walk(child.as_fd(), depth + 1, seen, visit)?,
            Err(e) if e.is_absent() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The names of the folders in a folder.
pub(crate) fn child_names(dir: BorrowedFd<'_>) -> Result<Vec<String>, FileError> {
    let failed = |e| FileError::new(file::Attempt::Read, ".", e);
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if entry.file_type() == rustix::fs::FileType::Directory && name != b"." && name != b".." {
            names.push(String::from_utf8_lossy(name).into_owned());
        }
        if names.len() > CHILDREN_MAX {
            return Err(failed(Errno::LOOP));
        }
    }
    Ok(names)
}
