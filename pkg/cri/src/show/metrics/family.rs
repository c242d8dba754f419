//! The names and labels of metrics: cAdvisor's, for the kubelet's `/metrics/cadvisor` is made of these where its
//! feature gate `PodAndContainerStatsFromCRI` is on, and dashboards know no others.

use carpel_proto::v1;

/// Labels of every metric, in order. Those of a pod have no container and no image.
const BASE: [&str; 5] = ["pod", "namespace", "container", "id", "image"];
/// Further labels of metrics of a device.
const DEVICE: &[&str] = &["device"];
/// Further labels of metrics of a network interface.
const INTERFACE: &[&str] = &["interface"];

/// All metrics of one name.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    help: &'static str,
    pub(super) kind: v1::MetricType,
    /// Labels after the common ones.
    pub(super) labels: &'static [&'static str],
}

/// Makes a constant of each family, and `ALL` of them together.
macro_rules! families {
    ($($constant:ident: $kind:ident $name:literal $labels:expr, $help:literal;)*) => {
        $(pub(super) const $constant: Family =
            Family { name: $name, help: $help, kind: v1::MetricType::$kind, labels: $labels };)*
        const ALL: &[Family] = &[$($constant),*];
    };
}

families! {
    CPU_USAGE: Counter "container_cpu_usage_seconds_total" &["cpu"], "CPU time, in whole seconds.";
    CPU_USER: Counter "container_cpu_user_seconds_total" &[], "CPU time in user mode, in whole seconds.";
    CPU_SYSTEM: Counter "container_cpu_system_seconds_total" &[], "CPU time in the kernel, in whole seconds.";
    CFS_PERIODS: Counter "container_cpu_cfs_periods_total" &[], "Periods of the CPU quota.";
    CFS_THROTTLED: Counter "container_cpu_cfs_throttled_periods_total" &[], "Periods in which the quota was used up.";
    CFS_THROTTLED_SECONDS: Counter "container_cpu_cfs_throttled_seconds_total" &[],
        "Time without CPU because the quota was used up, in whole seconds.";

    MEMORY_USAGE: Gauge "container_memory_usage_bytes" &[], "Memory, with the page cache.";
    MEMORY_WORKING_SET: Gauge "container_memory_working_set_bytes" &[], "Memory less inactive page cache.";
    MEMORY_RSS: Gauge "container_memory_rss" &[], "Anonymous memory, in bytes.";
    MEMORY_CACHE: Gauge "container_memory_cache" &[], "Page cache, in bytes.";
    MEMORY_MAPPED_FILE: Gauge "container_memory_mapped_file" &[], "Mapped files, in bytes.";
    MEMORY_SWAP: Gauge "container_memory_swap" &[], "Swap in use, in bytes.";
    MEMORY_KERNEL: Gauge "container_memory_kernel_usage" &[], "Memory of the kernel for it, in bytes.";
    MEMORY_PEAK: Gauge "container_memory_max_usage_bytes" &[], "The most memory ever used.";
    MEMORY_ACTIVE_FILE: Gauge "container_memory_total_active_file_bytes" &[], "Active page cache.";
    MEMORY_INACTIVE_FILE: Gauge "container_memory_total_inactive_file_bytes" &[], "Inactive page cache.";
    MEMORY_FAILCNT: Counter "container_memory_failcnt" &[], "How often the memory limit was hit.";
    MEMORY_FAILURES: Counter "container_memory_failures_total" &["failure_type", "scope"], "Page faults.";
    OOM_EVENTS: Counter "container_oom_events_total" &[], "Processes killed for want of memory.";

    FS_USAGE: Gauge "container_fs_usage_bytes" DEVICE, "Disk space of the writable layer.";
    FS_LIMIT: Gauge "container_fs_limit_bytes" DEVICE, "Size of the file system of the writable layer.";
    FS_INODES: Gauge "container_fs_inodes_total" DEVICE, "Inodes of that file system.";
    FS_INODES_FREE: Gauge "container_fs_inodes_free" DEVICE, "Free inodes of that file system.";
    FS_READS: Counter "container_fs_reads_total" DEVICE, "Reads.";
    FS_READ_BYTES: Counter "container_fs_reads_bytes_total" DEVICE, "Bytes read.";
    FS_WRITES: Counter "container_fs_writes_total" DEVICE, "Writes.";
    FS_WRITTEN_BYTES: Counter "container_fs_writes_bytes_total" DEVICE, "Bytes written.";
    BLKIO: Counter "container_blkio_device_usage_total" &["device", "major", "minor", "operation"],
        "Bytes read from and written to devices.";

    RECEIVED_BYTES: Counter "container_network_receive_bytes_total" INTERFACE, "Bytes received.";
    RECEIVED: Counter "container_network_receive_packets_total" INTERFACE, "Packets received.";
    RECEIVED_DROPPED: Counter "container_network_receive_packets_dropped_total" INTERFACE,
        "Packets received and dropped.";
    RECEIVE_ERRORS: Counter "container_network_receive_errors_total" INTERFACE, "Packets received with errors.";
    SENT_BYTES: Counter "container_network_transmit_bytes_total" INTERFACE, "Bytes sent.";
    SENT: Counter "container_network_transmit_packets_total" INTERFACE, "Packets sent.";
    SENT_DROPPED: Counter "container_network_transmit_packets_dropped_total" INTERFACE,
        "Packets dropped on their way out.";
    SEND_ERRORS: Counter "container_network_transmit_errors_total" INTERFACE, "Packets not sent because of errors.";

    PROCESSES: Gauge "container_processes" &[], "Processes.";
    THREADS: Gauge "container_threads" &[], "Processes and threads.";
    THREADS_MAX: Gauge "container_threads_max" &[], "The most processes and threads; 0: no limit.";
    FILE_DESCRIPTORS: Gauge "container_file_descriptors" &[], "Open files.";
    SOCKETS: Gauge "container_sockets" &[], "Open sockets.";
    ULIMITS: Gauge "container_ulimits_soft" &["ulimit"], "Soft limits of the init process; absent: no limit.";

    CPU_WAITING: Counter "container_pressure_cpu_waiting_seconds_total" &[], "Time in which some task lacked CPU.";
    CPU_STALLED: Counter "container_pressure_cpu_stalled_seconds_total" &[], "Time in which all tasks lacked CPU.";
    MEMORY_WAITING: Counter "container_pressure_memory_waiting_seconds_total" &[],
        "Time in which some task lacked memory.";
    MEMORY_STALLED: Counter "container_pressure_memory_stalled_seconds_total" &[],
        "Time in which all tasks lacked memory.";
    IO_WAITING: Counter "container_pressure_io_waiting_seconds_total" &[],
        "Time in which some task waited for a device.";
    IO_STALLED: Counter "container_pressure_io_stalled_seconds_total" &[],
        "Time in which all tasks waited for a device.";

    LAST_SEEN: Gauge "container_last_seen" &[], "When it was last seen, in seconds since the Unix epoch.";
    START_TIME: Gauge "container_start_time_seconds" &[], "When it was started, in seconds since the Unix epoch.";
    SPEC_CPU_PERIOD: Gauge "container_spec_cpu_period" &[], "Period of the CPU quota, in microseconds.";
    SPEC_CPU_QUOTA: Gauge "container_spec_cpu_quota" &[], "CPU quota, in microseconds; absent: no limit.";
    SPEC_CPU_SHARES: Gauge "container_spec_cpu_shares" &[], "CPU shares.";
    SPEC_MEMORY_LIMIT: Gauge "container_spec_memory_limit_bytes" &[], "Memory limit; 0: no limit.";
    SPEC_MEMORY_RESERVATION: Gauge "container_spec_memory_reservation_limit_bytes" &[], "Memory reservation; 0: none.";
    SPEC_MEMORY_SWAP_LIMIT: Gauge "container_spec_memory_swap_limit_bytes" &[],
        "Limit of memory and swap together; 0: no limit.";
}

/// All of them, as CRI lists them. The kubelet asks once and drops whatever is not listed.
pub(crate) fn descriptors() -> Vec<v1::MetricDescriptor> {
    let text = |labels: &[&str]| labels.iter().map(ToString::to_string).collect::<Vec<_>>();
    let descriptor = |family: &Family| v1::MetricDescriptor {
        name: family.name.to_owned(),
        help: family.help.to_owned(),
        label_keys: [text(&BASE), text(family.labels)].concat(),
    };
    ALL.iter().map(descriptor).collect()
}
