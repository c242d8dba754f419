//! What a cgroup uses, read through kept file descriptors.
//!
//! | value | v1 | cgroup2 |
//! |---|---|---|
//! | CPU time | `cpuacct.usage` (ns) | `cpu.stat` `usage_usec` |
//! | memory | `memory.usage_in_bytes`, `total_*` of `memory.stat` | `memory.current`, `memory.stat` |
//! | swap | `memory.memsw.*` less memory | `memory.swap.*` |
//! | processes | `pids.current` | `pids.current` |
//! | pressure | the cgroup2 of a hybrid host, if it counts | `*.pressure` |
//!
//! The working set is what cannot be given back easily: usage less the inactive part of the page
//! cache, as the kubelet's eviction and cAdvisor reckon it.

mod parse;

use std::os::fd::{AsFd, OwnedFd};

use thiserror::Error;

use crate::file::{self, FILE_MAX_BYTES, FileError};
use crate::path::CgroupPath;
use crate::tree::Tree;
use crate::update::v1_limit;

pub use parse::{Pressure, Stall};

/// Usage at one moment. A part whose controller the host does not have is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// CPU time of all processes ever in it, in nanoseconds.
    pub cpu_usage_ns: Option<u64>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Swap.
    pub swap: Option<Swap>,
    /// Processes and threads now.
    pub pids: Option<u64>,
    /// Time lost for want of CPU.
    pub cpu_pressure: Option<Pressure>,
    /// Time lost for want of memory.
    pub memory_pressure: Option<Pressure>,
    /// Time lost waiting for disks.
    pub io_pressure: Option<Pressure>,
}

/// Memory, in bytes where not said otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is charged, with the page cache.
    pub usage: u64,
    /// Usage less inactive page cache.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// The limit less the working set; absent without a limit.
    pub available: Option<u64>,
    /// The limit; absent without one.
    pub limit: Option<u64>,
    /// Page faults, a count.
    pub page_faults: u64,
    /// Page faults that had to read, a count.
    pub major_page_faults: u64,
}

/// Swap, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swap {
    /// In use.
    pub usage: u64,
    /// The limit less usage; absent without a limit.
    pub available: Option<u64>,
}

/// Why usage could not be read.
#[derive(Debug, Error)]
pub enum StatsError {
    /// The cgroup is not there (any more).
    #[error("cgroup {0} is gone")]
    Gone(CgroupPath),
    /// A file refused.
    #[error("usage of cgroup {0}")]
    File(CgroupPath, #[source] FileError),
    /// A file does not hold what it should.
    #[error("usage of cgroup {path}: {file} has no {wanted}")]
    Malformed {
        /// The cgroup.
        path: CgroupPath,
        /// The file.
        file: &'static str,
        /// What was looked for.
        wanted: &'static str,
    },
}

/// Reads one cgroup's usage, any number of times.
#[derive(Debug)]
pub struct Reader {
    path: CgroupPath,
    cpu: Option<Source>,
    memory: Option<MemoryFiles>,
    pids: Option<Source>,
    pressure: [Option<Source>; 3],
}

#[derive(Debug)]
struct Source {
    name: &'static str,
    file: OwnedFd,
    is_v2: bool,
}

#[derive(Debug)]
struct MemoryFiles {
    usage: Source,
    limit: Source,
    stat: Source,
    swap: Option<(Source, Source)>,
}

impl Reader {
    /// Opens the files of a cgroup.
    ///
    /// # Errors
    /// The cgroup is not there, or a file cannot be opened.
    pub fn open(tree: &Tree, path: &CgroupPath) -> Result<Reader, StatsError> {
        let open = Opener { tree, path };
        let cpu = match open.source("cpuacct", "cpuacct.usage", "cpu.stat")? {
            Some(cpu) => Some(cpu),
            None => open.source("cpu", "", "cpu.stat")?,
        };
        let pressure = [
            open.pressure("cpu.pressure")?,
            open.pressure("memory.pressure")?,
            open.pressure("io.pressure")?,
        ];
        Ok(Reader {
            path: path.clone(),
            cpu,
            memory: open.memory()?,
            pids: open.source("pids", "pids.current", "pids.current")?,
            pressure,
        })
    }

    /// Reads it now.
    ///
    /// # Errors
    /// See [`StatsError`].
    pub fn read(&self) -> Result<Stats, StatsError> {
        let memory = self.memory.as_ref().map(|files| self.read_memory(files)).transpose()?;
        let [cpu_pressure, memory_pressure, io_pressure] = &self.pressure;
        Ok(Stats {
            cpu_usage_ns: self.cpu.as_ref().map(|source| self.read_cpu(source)).transpose()?,
            memory: memory.map(|(memory, _)| memory),
            swap: memory.and_then(|(_, swap)| swap),
            pids: self.pids.as_ref().map(|source| self.number(source)).transpose()?,
            cpu_pressure: self.read_pressure(cpu_pressure.as_ref())?,
            memory_pressure: self.read_pressure(memory_pressure.as_ref())?,
            io_pressure: self.read_pressure(io_pressure.as_ref())?,
        })
    }

    fn text(&self, source: &Source) -> Result<String, StatsError> {
        file::read_fd(source.file.as_fd(), source.name, FILE_MAX_BYTES).map_err(|e| failed(&self.path, e))
    }

    fn malformed(&self, file: &'static str, wanted: &'static str) -> StatsError {
        StatsError::Malformed { path: self.path.clone(), file, wanted }
    }

    fn number(&self, source: &Source) -> Result<u64, StatsError> {
        self.text(source)?.trim().parse().map_err(|_| self.malformed(source.name, "number"))
    }

    /// A limit; `max` and v1's very large number are none.
    fn limit(&self, source: &Source) -> Result<Option<u64>, StatsError> {
        Ok(v1_limit(&self.text(source)?))
    }

    fn read_cpu(&self, source: &Source) -> Result<u64, StatsError> {
        if !source.is_v2 {
            return self.number(source);
        }
        let text = self.text(source)?;
        let usec = file::flat_value(&text, "usage_usec");
        usec.map(|us| us.saturating_mul(1000)).ok_or_else(|| self.malformed(source.name, "usage_usec"))
    }

    fn read_memory(&self, files: &MemoryFiles) -> Result<(Memory, Option<Swap>), StatsError> {
        let usage = self.number(&files.usage)?;
        let limit = self.limit(&files.limit)?;
        let stat = self.text(&files.stat)?;
        let value = |v1: &'static str, v2: &'static str| {
            let key = if files.stat.is_v2 { v2 } else { v1 };
            file::flat_value(&stat, key).ok_or_else(|| self.malformed(files.stat.name, key))
        };
        let working_set = usage.saturating_sub(value("total_inactive_file", "inactive_file")?);
        let memory = Memory {
            usage,
            working_set,
            rss: value("total_rss", "anon")?,
            available: limit.map(|limit| limit.saturating_sub(working_set)),
            limit,
            page_faults: value("total_pgfault", "pgfault")?,
            major_page_faults: value("total_pgmajfault", "pgmajfault")?,
        };
        let Some((swap_usage, swap_limit)) = &files.swap else { return Ok((memory, None)) };
        let (counted, allowed) = (self.number(swap_usage)?, self.limit(swap_limit)?);
        // v1 counts memory and swap together.
        let swap = if swap_usage.is_v2 {
            Swap { usage: counted, available: allowed.map(|l| l.saturating_sub(counted)) }
        } else {
            let used = counted.saturating_sub(usage);
            let allowed = allowed.map(|both| both.saturating_sub(limit.unwrap_or(both)));
            Swap { usage: used, available: allowed.map(|l| l.saturating_sub(used)) }
        };
        Ok((memory, Some(swap)))
    }

    fn read_pressure(&self, source: Option<&Source>) -> Result<Option<Pressure>, StatsError> {
        let Some(source) = source else { return Ok(None) };
        match self.text(source) {
            Ok(text) => {
                Pressure::parse(&text).map(Some).ok_or_else(|| self.malformed(source.name, "some line"))
            }
            // `psi=0` on the kernel's command line: the files are there and refuse to be read.
            Err(StatsError::File(_, e)) if e.source == rustix::io::Errno::OPNOTSUPP => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn failed(path: &CgroupPath, error: FileError) -> StatsError {
    if error.is_absent() { StatsError::Gone(path.clone()) } else { StatsError::File(path.clone(), error) }
}

struct Opener<'a> {
    tree: &'a Tree,
    path: &'a CgroupPath,
}

impl Opener<'_> {
    /// Opens a controller's file, by the name it has on the version that the controller is on.
    fn source(
        &self,
        controller: &str,
        v1: &'static str,
        v2: &'static str,
    ) -> Result<Option<Source>, StatsError> {
        let Some(hierarchy) = self.tree.with_controller(controller) else { return Ok(None) };
        let is_v2 = hierarchy.is_v2();
        let name = if is_v2 { v2 } else { v1 };
        if name.is_empty() {
            return Ok(None);
        }
        let dir =
            file::open_dir(hierarchy.root(), self.path.as_relative()).map_err(|e| failed(self.path, e))?;
        let file = file::open_read(dir.as_fd(), name).map_err(|e| failed(self.path, e))?;
        Ok(Some(Source { name, file, is_v2 }))
    }

    /// As [`Opener::source`], for a file that the kernel may have been built without.
    fn optional(
        &self,
        controller: &str,
        v1: &'static str,
        v2: &'static str,
    ) -> Result<Option<Source>, StatsError> {
        match self.source(controller, v1, v2) {
            Err(StatsError::Gone(_)) => Ok(None),
            other => other,
        }
    }

    fn memory(&self) -> Result<Option<MemoryFiles>, StatsError> {
        let Some(usage) = self.source("memory", "memory.usage_in_bytes", "memory.current")? else {
            return Ok(None);
        };
        let limit = self.source("memory", "memory.limit_in_bytes", "memory.max")?;
        let stat = self.source("memory", "memory.stat", "memory.stat")?;
        let (Some(limit), Some(stat)) = (limit, stat) else { return Ok(None) };
        let swap_usage = self.optional("memory", "memory.memsw.usage_in_bytes", "memory.swap.current")?;
        let swap_limit = self.optional("memory", "memory.memsw.limit_in_bytes", "memory.swap.max")?;
        Ok(Some(MemoryFiles { usage, limit, stat, swap: swap_usage.zip(swap_limit) }))
    }

    /// Pressure is of cgroup2's core, not of a controller.
    fn pressure(&self, name: &'static str) -> Result<Option<Source>, StatsError> {
        let Some(hierarchy) = self.tree.v2() else { return Ok(None) };
        let opened = file::open_dir(hierarchy.root(), self.path.as_relative())
            .and_then(|dir| file::open_read(dir.as_fd(), name));
        match opened {
            Ok(file) => Ok(Some(Source { name, file, is_v2: true })),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(StatsError::File(self.path.clone(), e)),
        }
    }
}

#[cfg(test)]
mod tests;
