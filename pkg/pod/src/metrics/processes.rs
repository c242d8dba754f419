//! Open files of a container's processes, by /proc.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use rustix::process::Pid;

/// The most open files of one container that are looked at one by one, to tell sockets from others.
const LOOKED_AT_MAX: u64 = 4096;

/// Open files of a container's processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// All of them.
    pub open: u64,
    /// Those that are sockets; absent where there are too many to look.
    pub sockets: Option<u64>,
}

/// Counts them. What ends meanwhile has none. `None`: this kernel does not count them itself (before 6.2), and there
/// are too many to do so here.
pub(super) fn descriptors(processes: &[Pid]) -> Option<Descriptors> {
    let folders: Vec<_> = processes.iter().map(|pid| format!("/proc/{}/fd", pid.as_raw_nonzero())).collect();
    // The folder's size is their number (Documentation/filesystems/proc.rst, "/proc/<pid>/fd"); 0 on older kernels.
    let counted: u64 = folders.iter().filter_map(|fd| Some(fs::metadata(fd).ok()?.size())).sum();
    if counted > LOOKED_AT_MAX {
        return Some(Descriptors { open: counted, sockets: None });
    }
    let (mut open, mut sockets) = (0, 0);
    for folder in folders {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            open += 1;
            if open > LOOKED_AT_MAX {
                return (counted > 0).then_some(Descriptors { open: counted, sockets: None });
            }
            let is_socket = |target: &Path| target.to_string_lossy().starts_with("socket:");
            sockets += u64::from(fs::read_link(entry.path()).is_ok_and(|target| is_socket(&target)));
        }
    }
    Some(Descriptors { open, sockets: Some(sockets) })
}

/// The soft limit of open files (proc(5), `/proc/pid/limits`); `None` without one, or without the process.
pub(super) fn open_files_max(pid: i32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_counted_and_sockets_told_apart() {
        let own = rustix::process::getpid();
        let _kept = std::os::unix::net::UnixStream::pair().unwrap();
        let open = descriptors(&[own]).unwrap();
        assert!(open.sockets >= Some(2) && open.open > open.sockets.unwrap_or_default(), "{open:?}");
        assert!(open_files_max(own.as_raw_nonzero().get()).is_some());
        assert_eq!(open_files_max(i32::MAX), None);
    }
}
