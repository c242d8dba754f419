//! What pods and containers use.

use std::{path::PathBuf, sync::Arc};

use crate::snapshot::{ContainerSnapshot, PodSnapshot};

/// What a container uses. A part that this kernel or this moment does not tell is absent.
#[derive(Debug, Clone)]
pub struct ContainerStats {
    /// Whose.
    pub container: Arc<ContainerSnapshot>,
    /// Its cgroup's figures; absent once it has exited.
    pub usage: Option<Usage>,
    /// Its writable layer; measured now and then.
    pub writable_layer: Option<DiskUsage>,
}

/// What a pod uses.
#[derive(Debug, Clone)]
pub struct PodStats {
    /// Whose.
    pub pod: Arc<PodSnapshot>,
    /// The figures of the pod's cgroup, if it has one of its own.
    pub usage: Option<Usage>,
    /// Its interfaces, the default one first.
    pub network: Vec<InterfaceUsage>,
    /// Its containers that run.
    pub containers: Vec<ContainerStats>,
}

/// Figures of a cgroup.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// When they were read: nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// CPU.
    pub cpu: Option<CpuUsage>,
    /// Memory.
    pub memory: Option<MemoryUsage>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Stalls for want of CPU.
    pub cpu_pressure: Option<Pressure>,
    /// Stalls for want of memory.
    pub memory_pressure: Option<Pressure>,
    /// Stalls for want of input and output.
    pub io_pressure: Option<Pressure>,
}

/// CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuUsage {
    /// Total, in nanoseconds of one core. Never falls.
    pub usage_ns: u64,
    /// Nanoseconds per second since the last measurement; absent the first time.
    pub rate_nano_cores: Option<u64>,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// All that is charged.
    pub usage_bytes: u64,
    /// Without the file pages that can be dropped at once.
    pub working_set_bytes: u64,
    /// What is left of the limit; absent without one.
    pub available_bytes: Option<u64>,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// Minor page faults.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
    /// Swap in use; absent if it is not accounted.
    pub swap_bytes: Option<u64>,
    /// What is left of the swap limit; absent without one.
    pub swap_available_bytes: Option<u64>,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Some tasks stalled.
    pub some: Stall,
    /// All tasks stalled.
    pub full: Stall,
}

/// How long tasks stalled.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// In all, in microseconds.
    pub total_us: u64,
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last 60 seconds.
    pub avg60: f64,
    /// Percent of the last 300 seconds.
    pub avg300: f64,
}

/// Disk space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUsage {
    /// When it was measured: nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// The folder that holds it.
    pub mountpoint: PathBuf,
    /// Blocks in use, in bytes.
    pub used_bytes: u64,
    /// Files, folders and so on.
    pub inodes: u64,
}

/// A network interface of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceUsage {
    /// `eth0`.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets received with errors.
    pub rx_errors: u64,
    /// Packets received and dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets not sent because of errors.
    pub tx_errors: u64,
    /// Packets dropped on their way out.
    pub tx_dropped: u64,
}
