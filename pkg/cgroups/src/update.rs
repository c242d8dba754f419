//! Setting limits: where each write goes, and taking all of them back when one fails.

use std::os::fd::{AsFd, OwnedFd};

use thiserror::Error;

use crate::cgroup::Cgroup;
use crate::file::{self, FileError};
use crate::limits::{self, Absent, Current, LimitError, Limits, Setting};
use crate::path::CgroupPath;
use crate::tree::Tree;

/// A write, and the hierarchy that it goes to.
#[derive(Debug)]
pub(crate) struct Write {
    hierarchy: usize,
    setting: Setting,
}

/// Why limits could not be set.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// They make no sense together with those in force.
    #[error("not acceptable")]
    Limits(#[source] LimitError),
    /// The controller is not there, or not on cgroup2 where the file needs it.
    #[error("{file}: this host has no {controller} controller for it")]
    NoController {
        /// The controller.
        controller: String,
        /// The file.
        file: String,
    },
    /// The kernel refused.
    #[error("not set")]
    Write(#[source] FileError),
}

/// Why limits were not changed.
#[derive(Debug, Error)]
pub enum UpdateError {
    /// The values in force could not be read.
    #[error("cgroup {0}")]
    Current(CgroupPath, #[source] FileError),
    /// A limit could not be set; all are as they were before.
    #[error("limits of cgroup {0}")]
    Apply(CgroupPath, #[source] ApplyError),
    /// A limit could not be set, and of those set before it these could not be set back.
    #[error("limits of cgroup {path}, with {not_restored:?} not set back")]
    NotRestored {
        /// The cgroup.
        path: CgroupPath,
        /// Files that keep their new values.
        not_restored: Vec<String>,
        /// Why the limit could not be set.
        #[source]
        source: ApplyError,
    },
}

impl Cgroup {
    /// Changes limits: all that are given, or none.
    ///
    /// # Errors
    /// See [`UpdateError`].
    pub fn update(&self, limits: &Limits) -> Result<(), UpdateError> {
        let path = self.path();
        let current = current(self.tree(), path).map_err(|e| UpdateError::Current(path.clone(), e))?;
        let writes = plan(self.tree(), limits, &current).map_err(|e| UpdateError::Apply(path.clone(), e))?;
        let mut dirs = Dirs::new(self.tree(), path);
        let mut done: Vec<(&Write, String)> = Vec::new();
        for write in &writes {
            match dirs.exchange(write) {
                Ok(Some(old)) => done.push((write, old)),
                Ok(None) => {}
                Err(source) => {
                    let not_restored = dirs.restore(done);
                    let source = ApplyError::Write(source);
                    if not_restored.is_empty() {
                        return Err(UpdateError::Apply(path.clone(), source));
                    }
                    return Err(UpdateError::NotRestored { path: path.clone(), not_restored, source });
                }
            }
        }
        Ok(())
    }
}

/// Sends each setting to the hierarchy that has its controller, in that version's words.
pub(crate) fn plan(tree: &Tree, limits: &Limits, current: &Current) -> Result<Vec<Write>, ApplyError> {
    let at = |controller: &str| {
        tree.hierarchies.iter().position(|h| h.controllers().iter().any(|c| c == controller))
    };
    let is_v2 = |hierarchy: usize| tree.hierarchies[hierarchy].is_v2();
    let mut writes = Vec::new();
    for setting in limits::v1_settings(limits, current).map_err(ApplyError::Limits)? {
        if let Some(hierarchy) = at(&setting.controller).filter(|h| !is_v2(*h)) {
            writes.push(Write { hierarchy, setting });
        }
    }
    for setting in limits::v2_settings(limits, current).map_err(ApplyError::Limits)? {
        match at(&setting.controller) {
            Some(hierarchy) if is_v2(hierarchy) => writes.push(Write { hierarchy, setting }),
            Some(_) => {}
            None if setting.absent == Absent::Harmless => {}
            None => return Err(no_controller(setting)),
        }
    }
    // Last, so that what is said by a file's name overrides what was computed.
    for setting in limits::unified_settings(limits) {
        match at(&setting.controller) {
            Some(hierarchy) if is_v2(hierarchy) => writes.push(Write { hierarchy, setting }),
            Some(_) | None => return Err(no_controller(setting)),
        }
    }
    Ok(writes)
}

fn no_controller(setting: Setting) -> ApplyError {
    ApplyError::NoController { controller: setting.controller, file: setting.file }
}

/// Sets the limits of a cgroup that is removed if one of them fails.
pub(crate) fn apply_new(tree: &Tree, path: &CgroupPath, writes: &[Write]) -> Result<(), ApplyError> {
    let mut dirs = Dirs::new(tree, path);
    for write in writes {
        dirs.set(write).map_err(ApplyError::Write)?;
    }
    Ok(())
}

/// The folders of one cgroup, opened as they are needed.
struct Dirs<'a> {
    tree: &'a Tree,
    path: &'a CgroupPath,
    open: Vec<(usize, OwnedFd)>,
}

impl<'a> Dirs<'a> {
    fn new(tree: &'a Tree, path: &'a CgroupPath) -> Dirs<'a> {
        Dirs { tree, path, open: Vec::new() }
    }

    fn dir(&mut self, hierarchy: usize) -> Result<&OwnedFd, FileError> {
        let at = match self.open.iter().position(|(h, _)| *h == hierarchy) {
            Some(at) => at,
            None => {
                let root = self.tree.hierarchies[hierarchy].root();
                self.open.push((hierarchy, file::open_dir(root, self.path.as_relative())?));
                self.open.len() - 1
            }
        };
        Ok(&self.open[at].1)
    }

    /// Writes; `false` if the file is absent and that is harmless.
    fn set(&mut self, write: &Write) -> Result<bool, FileError> {
        let dir = self.dir(write.hierarchy)?;
        match file::write(dir.as_fd(), &write.setting.file, &write.setting.value) {
            Ok(()) => Ok(true),
            Err(e) if e.is_absent() && write.setting.absent == Absent::Harmless => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Writes and returns what was there. A file that cannot be read back is no limit.
    fn exchange(&mut self, write: &Write) -> Result<Option<String>, FileError> {
        let dir = self.dir(write.hierarchy)?;
        let old = match file::read(dir.as_fd(), &write.setting.file) {
            Ok(old) => old,
            Err(e) if e.is_absent() && write.setting.absent == Absent::Harmless => return Ok(None),
            Err(e) => return Err(e),
        };
        Ok(self.set(write)?.then_some(old))
    }

    /// Writes the old values back, last first; returns the files that refused.
    fn restore(&mut self, done: Vec<(&Write, String)>) -> Vec<String> {
        let mut refused = Vec::new();
        for (write, old) in done.into_iter().rev() {
            // An empty list (cpuset) is written as an empty line: a write of nothing does nothing.
            let value = if old.trim().is_empty() { "\n" } else { old.trim_end() };
            let back = match self.dir(write.hierarchy) {
                Ok(dir) => file::write(dir.as_fd(), &write.setting.file, value),
                Err(e) => Err(e),
            };
            if back.is_err() {
                refused.push(write.setting.file.clone());
            }
        }
        refused
    }
}

/// The values in force that new ones depend on.
fn current(tree: &Tree, path: &CgroupPath) -> Result<Current, FileError> {
    let mut current = Current::default();
    if let Some(memory) = tree.with_controller("memory") {
        let dir = file::open_dir(memory.root(), path.as_relative())?;
        if memory.is_v2() {
            current.memory_limit_bytes = number(&file::read(dir.as_fd(), "memory.max")?);
        } else {
            current.memory_limit_bytes = v1_limit(&file::read(dir.as_fd(), "memory.limit_in_bytes")?);
            current.memory_swap_limit_bytes = match file::read(dir.as_fd(), "memory.memsw.limit_in_bytes") {
                Ok(text) => v1_limit(&text),
                Err(e) if e.is_absent() => None,
                Err(e) => return Err(e),
            };
        }
    }
    if let Some(cpu) = tree.with_controller("cpu") {
        let dir = file::open_dir(cpu.root(), path.as_relative())?;
        if cpu.is_v2() {
            let text = file::read(dir.as_fd(), "cpu.max")?;
            let mut words = text.split_whitespace();
            current.cpu_quota_us = words.next().and_then(number);
            current.cpu_period_us = words.next().and_then(number);
        } else {
            current.cpu_quota_us = number(&file::read(dir.as_fd(), "cpu.cfs_quota_us")?);
            current.cpu_period_us = number(&file::read(dir.as_fd(), "cpu.cfs_period_us")?);
        }
    }
    Ok(current)
}

/// A number; `max` and -1 are none.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// v1 shows "no limit" as the largest number of whole pages.
pub(crate) fn v1_limit(text: &str) -> Option<u64> {
    number(text).filter(|bytes| *bytes < (1 << 62))
}

#[cfg(test)]
mod tests;
