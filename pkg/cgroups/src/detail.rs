//! The figures of a cgroup that monitoring wants and nothing decides upon: read now and then, and nothing is kept open.
//!
//! | value | v1 | cgroup2 |
//! |---|---|---|
//! | CPU time by mode | `cpuacct.usage_user`, `cpuacct.usage_sys` (ns) | `cpu.stat` |
//! | throttling | `cpu.stat` | `cpu.stat` |
//! | memory by kind | `total_*` of `memory.stat`, `memory.kmem.usage_in_bytes` | `memory.stat` |
//! | peak | `memory.max_usage_in_bytes` | `memory.peak` |
//! | limit hit, killed | `memory.failcnt`, `memory.oom_control` | `memory.events` |
//! | devices | `blkio.throttle.*_recursive` | `io.stat` |
//! | most threads | `pids.max` | `pids.max` |
//!
//! What this kernel does not tell is absent.

use std::os::fd::{AsFd, OwnedFd};

use rustix::process::Pid;

use crate::cgroup::procs_below;
use crate::file::{self, FileError};
use crate::path::CgroupPath;
use crate::stats::StatsError;
use crate::tree::Tree;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// CPU time in user mode, in nanoseconds.
    pub cpu_user_ns: Option<u64>,
    /// CPU time in the kernel, in nanoseconds.
    pub cpu_system_ns: Option<u64>,
    /// Periods in which it could run, in which it was throttled, and how long it was, in nanoseconds.
    pub throttling: Option<Throttling>,
    /// Memory by kind.
    pub memory: Option<MemoryDetail>,
    /// What was read from and written to devices.
    pub devices: Vec<DeviceIo>,
    /// The most processes and threads; absent without a limit.
    pub pids_max: Option<u64>,
    /// Its processes and those below it, in the caller's PID namespace.
    pub processes: Vec<Pid>,
}

/// What a CPU quota cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods that have passed.
    pub periods: u64,
    /// Of them, those in which its quota was used up.
    pub throttled_periods: u64,
    /// How long it could not run for that, in nanoseconds.
    pub throttled_ns: u64,
}

/// Memory by kind, in bytes where not said otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryDetail {
    /// The page cache.
    pub cache: u64,
    /// Files that are mapped.
    pub mapped_file: u64,
    /// Page cache that was used lately.
    pub active_file: u64,
    /// Page cache that was not.
    pub inactive_file: u64,
    /// The kernel's own.
    pub kernel: Option<u64>,
    /// The most that was ever used.
    pub peak: Option<u64>,
    /// How often the limit was hit, a count.
    pub limit_hits: Option<u64>,
    /// Processes that the kernel killed for want of memory, a count.
    pub oom_kills: Option<u64>,
}

/// What was read from and written to a block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Its number.
    pub major: u32,
    /// See `major`.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Reads it.
///
/// # Errors
/// The cgroup is gone, or a file refused.
pub fn read(tree: &Tree, path: &CgroupPath) -> Result<Detail, StatsError> {
    let failed = |e: FileError| match e.is_absent() {
        true => StatsError::Gone(path.clone()),
        false => StatsError::File(path.clone(), e),
    };
    let mut detail = Detail::default();
    if let Some(folder) = Folder::open(tree, path, "cpuacct").map_err(failed)? {
        detail.cpu_user_ns = folder.number("cpuacct.usage_user").map_err(failed)?;
        detail.cpu_system_ns = folder.number("cpuacct.usage_sys").map_err(failed)?;
    }
    if let Some(folder) = Folder::open(tree, path, "cpu").map_err(failed)? {
        folder.cpu(&mut detail).map_err(failed)?;
    }
    if let Some(folder) = Folder::open(tree, path, "memory").map_err(failed)? {
        detail.memory = folder.memory().map_err(failed)?;
    }
    // The one controller has two names.
    for controller in ["blkio", "io"] {
        if let Some(folder) = Folder::open(tree, path, controller).map_err(failed)? {
            detail.devices = folder.devices().map_err(failed)?;
        }
    }
    if let Some(folder) = Folder::open(tree, path, "pids").map_err(failed)? {
        detail.pids_max = folder.number("pids.max").map_err(failed)?;
        detail.processes = procs_below(folder.dir.as_fd()).map_err(failed)?;
    }
    Ok(detail)
}

/// A cgroup in the hierarchy of one controller.
struct Folder {
    dir: OwnedFd,
    is_v2: bool,
}

impl Folder {
    /// `None` without such a controller.
    fn open(tree: &Tree, path: &CgroupPath, controller: &str) -> Result<Option<Folder>, FileError> {
        let Some(hierarchy) = tree.with_controller(controller) else { return Ok(None) };
        let dir = file::open_dir(hierarchy.root(), path.as_relative())?;
        Ok(Some(Folder { dir, is_v2: hierarchy.is_v2() }))
    }

    /// A file's text; `None` if this kernel has no such file.
    fn text(&self, name: &str) -> Result<Option<String>, FileError> {
        match file::read(self.dir.as_fd(), name) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The one number in a file; `max` is none.
    fn number(&self, name: &str) -> Result<Option<u64>, FileError> {
        Ok(self.text(name)?.and_then(|text| text.trim().parse().ok()))
    }

    /// The number behind a key in a file.
    fn value(&self, name: &str, key: &str) -> Result<Option<u64>, FileError> {
        Ok(self.text(name)?.and_then(|text| file::flat_value(&text, key)))
    }

    fn cpu(&self, detail: &mut Detail) -> Result<(), FileError> {
        let Some(text) = self.text("cpu.stat")? else { return Ok(()) };
        let ns = |key| file::flat_value(&text, key).map(|us| us.saturating_mul(1000));
        if self.is_v2 {
            (detail.cpu_user_ns, detail.cpu_system_ns) = (ns("user_usec"), ns("system_usec"));
        }
        let throttled_ns =
            if self.is_v2 { ns("throttled_usec") } else { file::flat_value(&text, "throttled_time") };
        // The root's and, without the controller, any other's file has none of these.
        if let (Some(periods), Some(throttled_periods), Some(throttled_ns)) =
            (file::flat_value(&text, "nr_periods"), file::flat_value(&text, "nr_throttled"), throttled_ns)
        {
            detail.throttling = Some(Throttling { periods, throttled_periods, throttled_ns });
        }
        Ok(())
    }

    fn memory(&self) -> Result<Option<MemoryDetail>, FileError> {
        let Some(stat) = self.text("memory.stat")? else { return Ok(None) };
        let kind = |v1, v2| file::flat_value(&stat, if self.is_v2 { v2 } else { v1 }).unwrap_or_default();
        let mut memory = MemoryDetail {
            cache: kind("total_cache", "file"),
            mapped_file: kind("total_mapped_file", "file_mapped"),
            active_file: kind("total_active_file", "active_file"),
            inactive_file: kind("total_inactive_file", "inactive_file"),
            ..MemoryDetail::default()
        };
        if self.is_v2 {
            memory.kernel = file::flat_value(&stat, "kernel");
            memory.peak = self.number("memory.peak")?;
            memory.limit_hits = self.value("memory.events", "max")?;
            memory.oom_kills = self.value("memory.events", "oom_kill")?;
        } else {
            memory.kernel = self.number("memory.kmem.usage_in_bytes")?;
            memory.peak = self.number("memory.max_usage_in_bytes")?;
            memory.limit_hits = self.number("memory.failcnt")?;
            memory.oom_kills = self.value("memory.oom_control", "oom_kill")?;
        }
        Ok(Some(memory))
    }

    fn devices(&self) -> Result<Vec<DeviceIo>, FileError> {
        if self.is_v2 {
            return Ok(io_stat(&self.text("io.stat")?.unwrap_or_default()));
        }
        let bytes = self.text("blkio.throttle.io_service_bytes_recursive")?.unwrap_or_default();
        let operations = self.text("blkio.throttle.io_serviced_recursive")?.unwrap_or_default();
        Ok(blkio(&bytes, &operations))
    }
}

/// `253:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`
fn io_stat(text: &str) -> Vec<DeviceIo> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (major, minor) = device(words.next()?)?;
        let mut io = DeviceIo { major, minor, ..DeviceIo::default() };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match key {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.written_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => {}
            }
        }
        Some(io)
    };
    text.lines().filter_map(line).collect()
}

/// `253:0 Read 4096`, a line for each operation, bytes and operations in files of their own.
fn blkio(bytes: &str, operations: &str) -> Vec<DeviceIo> {
    let mut devices: Vec<DeviceIo> = Vec::new();
    for (text, is_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let &[number, operation, value] = words.as_slice() else { continue };
            let (Some((major, minor)), Ok(value)) = (device(number), value.parse()) else { continue };
            let found = devices.iter().position(|io| (io.major, io.minor) == (major, minor));
            let index = found.unwrap_or_else(|| {
                devices.push(DeviceIo { major, minor, ..DeviceIo::default() });
                devices.len() - 1
            });
            match (operation, is_bytes) {
                ("Read", true) => devices[index].read_bytes = value,
                ("Write", true) => devices[index].written_bytes = value,
                ("Read", false) => devices[index].reads = value,
                ("Write", false) => devices[index].writes = value,
                _ => {}
            }
        }
    }
    devices
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn devices_are_read_in_both_forms() {
        let io = DeviceIo { major: 253, minor: 1, read_bytes: 4096, written_bytes: 8, reads: 2, writes: 1 };
        let v2 = "253:1 rbytes=4096 wbytes=8 rios=2 wios=1 dbytes=0 dios=0\nnonsense\n7:x rbytes=1\n";
        assert_eq!(io_stat(v2), [io]);
        let bytes = "253:1 Read 4096\n253:1 Write 8\n253:1 Total 4104\nTotal 4104\n";
        assert_eq!(blkio(bytes, "253:1 Read 2\n253:1 Write 1\n"), [io]);
        assert_eq!(blkio("Total 0\n", "Total 0\n"), []);
    }

    #[test]
    fn cgroup2s_files_are_read_and_what_is_missing_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu io memory pids\n").unwrap();
        fs::create_dir(dir.path().join("c")).unwrap();
        for (name, content) in [
            (
                "cpu.stat",
                "usage_usec 3\nuser_usec 2\nsystem_usec 1\nnr_periods 9\nnr_throttled 4\nthrottled_usec 5\n",
            ),
            ("memory.stat", "file 600\nkernel 70\nfile_mapped 50\ninactive_file 250\nactive_file 350\n"),
            ("memory.events", "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\n"),
            ("io.stat", ""),
            ("pids.max", "max\n"),
            ("cgroup.procs", "1\n"),
        ] {
            fs::write(dir.path().join("c").join(name), content).unwrap();
        }
        let tree = Tree::unified_at(dir.path()).unwrap();
        let detail = read(&tree, &CgroupPath::parse("/c").unwrap()).unwrap();
        let memory = MemoryDetail {
            cache: 600,
            mapped_file: 50,
            active_file: 350,
            inactive_file: 250,
            kernel: Some(70),
            peak: None,
            limit_hits: Some(3),
            oom_kills: Some(1),
        };
        let wanted = Detail {
            cpu_user_ns: Some(2000),
            cpu_system_ns: Some(1000),
            throttling: Some(Throttling { periods: 9, throttled_periods: 4, throttled_ns: 5000 }),
            memory: Some(memory),
            devices: Vec::new(),
            pids_max: None,
            processes: vec![Pid::INIT],
        };
        assert_eq!(detail, wanted);
        assert!(matches!(read(&tree, &CgroupPath::parse("/d").unwrap()), Err(StatsError::Gone(_))));
    }
}
