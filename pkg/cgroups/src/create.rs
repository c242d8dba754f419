//! Making a container's cgroup: a folder in every hierarchy, its limits, its devices.
//!
//! ```text
//!  in each hierarchy:  absent parents → folder
//!  cgroup2:            controllers handed down from the root to the parent (subtree_control)
//!  v1 cpuset:          CPUs and memory nodes copied from the parent, which a new folder lacks
//!  then limits, then devices;  any failure → folders that were made here are removed again
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::io::Errno;
use thiserror::Error;

use crate::cgroup::Cgroup;
use crate::devices::{self, DeviceError, DeviceRule};
use crate::file::{self, Attempt, FileError};
use crate::limits::{Current, LimitError, Limits};
use crate::path::CgroupPath;
use crate::remove;
use crate::tree::{Hierarchy, Tree};
use crate::update::{self, ApplyError};

/// Controllers that a container's limits and statistics may need on cgroup2.
const V2_CONTROLLERS: &[&str] = &["cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma", "misc"];
/// Somebody who removes an empty parent at the same moment is outrun in this many tries.
const MKDIR_TRIES: usize = 8;

/// Why a cgroup could not be made. Nothing of it is left.
#[derive(Debug, Error)]
pub enum CreateError {
    /// A folder could not be made.
    #[error("cgroup {path} in {hierarchy}")]
    Make {
        /// The cgroup.
        path: CgroupPath,
        /// Where the hierarchy is mounted.
        hierarchy: String,
        /// Why.
        #[source]
        source: FileError,
    },
    /// There is such a cgroup, and processes are in it.
    #[error("cgroup {path} exists in {hierarchy} and is in use")]
    Occupied {
        /// The cgroup.
        path: CgroupPath,
        /// Where the hierarchy is mounted.
        hierarchy: String,
    },
    /// The limits make no sense.
    #[error("limits of cgroup {0}")]
    Limits(CgroupPath, #[source] LimitError),
    /// A limit could not be set.
    #[error("limits of cgroup {0}")]
    Apply(CgroupPath, #[source] ApplyError),
    /// Device access could not be set.
    #[error("devices of cgroup {0}")]
    Devices(CgroupPath, #[source] DeviceError),
}

impl Cgroup {
    /// Makes a cgroup with these limits and device rules; `None` leaves all devices of the parent.
    ///
    /// A cgroup of the same path that is empty of processes is a left-over, and made anew.
    ///
    /// # Errors
    /// See [`CreateError`]; nothing that was made here is then left.
    pub fn create(
        tree: &Arc<Tree>,
        path: &CgroupPath,
        limits: &Limits,
        device_rules: Option<&[DeviceRule]>,
    ) -> Result<Cgroup, CreateError> {
        limits.check().map_err(|e| CreateError::Limits(path.clone(), e))?;
        let mut made = Made::default();
        let cgroup = fill(tree, path, limits, device_rules, &mut made);
        if cgroup.is_err() {
            made.undo(tree);
        }
        cgroup
    }
}

impl Cgroup {
    /// Opens a cgroup that others share, making it in every hierarchy where it is absent. No limits.
    ///
    /// # Errors
    /// A folder could not be made; what was made here is removed.
    pub fn ensure(tree: &Arc<Tree>, path: &CgroupPath) -> Result<Cgroup, CreateError> {
        let mut made = Made::default();
        let mut ensured = Ok(());
        for number in 0..tree.hierarchies.len() {
            ensured = ensured.and_then(|()| make(tree, number, path, Existing::Kept, &mut made));
        }
        let opened = ensured.and_then(|()| {
            let hierarchy = tree.v2().map(name).unwrap_or_default();
            Cgroup::open(tree, path).map_err(|source| CreateError::Make {
                path: path.clone(),
                hierarchy,
                source,
            })
        });
        if opened.is_err() {
            made.undo(tree);
        }
        opened
    }
}

/// What becomes of a cgroup that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Existing {
    /// It is used as it is.
    Kept,
    /// It is removed and made anew: its counters would be taken for the new container's.
    Replaced,
}

/// The folders that were made, in order.
#[derive(Default)]
struct Made(Vec<(usize, CgroupPath)>);

impl Made {
    /// Removes them, last first. One that got a child of somebody else's meanwhile stays.
    fn undo(&self, tree: &Tree) {
        for (hierarchy, path) in self.0.iter().rev() {
            let _ = remove::remove_empty(tree.hierarchies[*hierarchy].root(), path);
        }
    }
}

fn fill(
    tree: &Arc<Tree>,
    path: &CgroupPath,
    limits: &Limits,
    device_rules: Option<&[DeviceRule]>,
    made: &mut Made,
) -> Result<Cgroup, CreateError> {
    for number in 0..tree.hierarchies.len() {
        make(tree, number, path, Existing::Replaced, made)?;
    }
    let cgroup = Cgroup::open(tree, path).map_err(|source| CreateError::Make {
        path: path.clone(),
        hierarchy: tree.v2().map(name).unwrap_or_default(),
        source,
    })?;
    let writes =
        update::plan(tree, limits, &Current::default()).map_err(|e| CreateError::Apply(path.clone(), e))?;
    update::apply_new(tree, path, &writes).map_err(|e| CreateError::Apply(path.clone(), e))?;
    if let Some(rules) = device_rules {
        set_devices(tree, path, rules)?;
    }
    Ok(cgroup)
}

fn name(hierarchy: &Hierarchy) -> String {
    hierarchy.mount_point().display().to_string()
}

fn make(
    tree: &Tree,
    number: usize,
    path: &CgroupPath,
    existing: Existing,
    made: &mut Made,
) -> Result<(), CreateError> {
    let hierarchy = &tree.hierarchies[number];
    let failed = |source| CreateError::Make { path: path.clone(), hierarchy: name(hierarchy), source };
    let mut tries = 0;
    loop {
        tries += 1;
        match make_once(hierarchy, number, path, existing, made) {
            Err(e) if e.is_absent() && tries < MKDIR_TRIES => {}
            Err(e) if e.source == Errno::BUSY && e.attempt == Attempt::Rmdir => {
                return Err(CreateError::Occupied { path: path.clone(), hierarchy: name(hierarchy) });
            }
            other => return other.map_err(failed),
        }
    }
}

/// Goes down from the root, making what is absent.
fn make_once(
    hierarchy: &Hierarchy,
    number: usize,
    path: &CgroupPath,
    existing: Existing,
    made: &mut Made,
) -> Result<(), FileError> {
    let is_cpuset = !hierarchy.is_v2() && hierarchy.controllers().iter().any(|c| c == "cpuset");
    let depth = path.components().count();
    let mut parent: Option<OwnedFd> = None;
    let mut here: Option<CgroupPath> = None;
    for (level, component) in path.components().enumerate() {
        let above = parent.as_ref().map_or(hierarchy.root(), AsFd::as_fd);
        let existing = if level + 1 == depth { existing } else { Existing::Kept };
        if hierarchy.is_v2() && !hierarchy.controllers().is_empty() {
            hand_down_controllers(above)?;
        }
        let now = match &here {
            None => CgroupPath::parse(component),
            Some(above) => above.child(component),
        }
        .map_err(|_| FileError::new(Attempt::Mkdir, component, Errno::NAMETOOLONG))?;
        if make_dir(above, component, existing)? {
            made.0.push((number, now.clone()));
        }
        let dir = file::open_dir(above, component)?;
        if is_cpuset {
            inherit_cpuset(above, dir.as_fd())?;
        }
        here = Some(now);
        parent = Some(dir);
    }
    Ok(())
}

/// Makes a folder and says whether it was made.
fn make_dir(parent: BorrowedFd<'_>, name: &str, existing: Existing) -> Result<bool, FileError> {
    let mkdir = || rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755));
    match mkdir() {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) if existing == Existing::Replaced => {
            remove::remove_tree(parent, name)?;
            mkdir().map(|()| true).map_err(|e| FileError::new(Attempt::Mkdir, name, e))
        }
        Err(Errno::EXIST) => Ok(false),
        Err(e) => Err(FileError::new(Attempt::Mkdir, name, e)),
    }
}

/// Lets the children of a cgroup2 folder have controllers. One that is refused (processes in the
/// folder, real-time tasks) matters only if a limit needs it, and then its file is missing.
fn hand_down_controllers(dir: BorrowedFd<'_>) -> Result<(), FileError> {
    let available = file::read(dir, "cgroup.controllers")?;
    let enabled = file::read(dir, "cgroup.subtree_control")?;
    let missing: Vec<String> = available
        .split_whitespace()
        .filter(|c| V2_CONTROLLERS.contains(c) && !enabled.split_whitespace().any(|e| e == *c))
        .map(|c| format!("+{c}"))
        .collect();
    if missing.is_empty() || file::write(dir, "cgroup.subtree_control", &missing.join(" ")).is_ok() {
        return Ok(());
    }
    for one in &missing {
        // The whole line fails for one; the others are still wanted.
        let _ = file::write(dir, "cgroup.subtree_control", one);
    }
    Ok(())
}

/// A v1 cpuset folder starts with no CPU and no memory node, and takes no process until it has some.
fn inherit_cpuset(parent: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> Result<(), FileError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if file::read(dir, file)?.trim().is_empty() {
            let value = file::read(parent, file)?;
            file::write(dir, file, value.trim())?;
        }
    }
    Ok(())
}

fn set_devices(tree: &Tree, path: &CgroupPath, rules: &[DeviceRule]) -> Result<(), CreateError> {
    let failed = |e| CreateError::Devices(path.clone(), e);
    let open = |hierarchy: &Hierarchy| {
        file::open_dir(hierarchy.root(), path.as_relative()).map_err(|e| failed(DeviceError::Write(e)))
    };
    if let Some(v1) = tree.with_controller("devices") {
        return devices::set_v1(open(v1)?.as_fd(), rules).map_err(failed);
    }
    match tree.v2() {
        Some(v2) => devices::set_program(open(v2)?.as_fd(), rules).map_err(failed),
        None => Err(failed(DeviceError::NoController)),
    }
}
