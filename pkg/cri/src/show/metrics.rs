//! Metrics, in the form that the kubelet passes on to Prometheus.
//!
//! A value is a whole number, so times are whole seconds: CRI has no other.

mod family;

use carpel_pod::{
    AllMetrics, ContainerMetrics, ContainerState, ContainerStats, Detail, DeviceIo, InterfaceUsage,
    MemoryDetail, PodMetrics, Pressure, Usage,
};
use carpel_proto::v1;

pub(crate) use family::descriptors;
use family::{self as f, Family};

/// What the kernel takes where no period was asked for (Documentation/scheduler/sched-bwc.rst).
const CPU_PERIOD_DEFAULT_US: u64 = 100_000;

/// All pods with their containers.
pub(crate) fn pod_metrics(all: &AllMetrics) -> Vec<v1::PodSandboxMetrics> {
    all.pods.iter().map(|pod| of_pod(all, pod)).collect()
}

fn of_pod(all: &AllMetrics, from: &PodMetrics) -> v1::PodSandboxMetrics {
    let pod = &from.stats.pod;
    let metadata = &pod.config.metadata;
    let base = [metadata.name.as_str(), metadata.namespace.as_str()];
    let mut own = Metrics::new(base, ["", pod.id.as_str(), ""]);
    for interface in &from.stats.network {
        own.interface(interface);
    }
    let containers = from.stats.containers.iter().zip(&from.containers);
    v1::PodSandboxMetrics {
        pod_sandbox_id: pod.id.to_string(),
        metrics: own.done,
        container_metrics: containers.map(|(stats, more)| of_container(all, base, stats, more)).collect(),
    }
}

fn of_container(
    all: &AllMetrics,
    base: [&str; 2],
    stats: &ContainerStats,
    more: &ContainerMetrics,
) -> v1::ContainerMetrics {
    let container = &stats.container;
    let config = &container.config;
    let image = match config.user_specified_image.as_str() {
        "" => &config.image,
        image => image,
    };
    let mut metrics = Metrics::new(base, [&config.name, container.id.as_str(), image]);
    if let Some(usage) = &stats.usage {
        metrics.usage(usage);
    }
    if let Some(detail) = &more.detail {
        metrics.detail(detail);
        for io in &detail.devices {
            metrics.device(io, &device(all, (io.major, io.minor)));
        }
    }
    metrics.files(all, stats, more);
    metrics.spec(stats);
    v1::ContainerMetrics { container_id: container.id.to_string(), metrics: metrics.done }
}

/// Its path, or its number where it has none.
fn device(all: &AllMetrics, (major, minor): (u32, u32)) -> String {
    all.devices.get(&(major, minor)).cloned().unwrap_or_else(|| format!("{major}:{minor}"))
}

/// The metrics of one pod or container, as they are collected.
struct Metrics {
    base: Vec<String>,
    done: Vec<v1::Metric>,
}

impl Metrics {
    fn new(pod: [&str; 2], rest: [&str; 3]) -> Metrics {
        let base = pod.iter().chain(&rest).map(ToString::to_string).collect();
        Metrics { base, done: Vec::new() }
    }

    /// A value read just now; nothing if there is none.
    fn put(&mut self, family: &Family, value: impl Into<Option<u64>>) {
        self.with(family, value, &[]);
    }

    /// A value with labels of its own.
    fn with(&mut self, family: &Family, value: impl Into<Option<u64>>, labels: &[&str]) {
        let Some(value) = value.into() else { return };
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        let labels = labels.iter().map(ToString::to_string);
        self.done.push(v1::Metric {
            name: family.name.to_owned(),
            timestamp: 0,
            metric_type: family.kind.into(),
            label_values: self.base.iter().cloned().chain(labels).collect(),
            value: Some(v1::UInt64Value { value }),
        });
    }

    /// What statistics tell, too.
    fn usage(&mut self, usage: &Usage) {
        self.with(&f::CPU_USAGE, usage.cpu.map(|cpu| seconds(cpu.usage_ns)), &["total"]);
        self.put(&f::THREADS, usage.pids);
        if let Some(memory) = usage.memory {
            self.put(&f::MEMORY_USAGE, memory.usage_bytes);
            self.put(&f::MEMORY_WORKING_SET, memory.working_set_bytes);
            self.put(&f::MEMORY_RSS, memory.rss_bytes);
            self.put(&f::MEMORY_SWAP, memory.swap_bytes);
            // What runs beside the container's own processes is in cgroups below its own: one scope for both.
            for scope in ["container", "hierarchy"] {
                self.with(&f::MEMORY_FAILURES, memory.page_faults, &["pgfault", scope]);
                self.with(&f::MEMORY_FAILURES, memory.major_page_faults, &["pgmajfault", scope]);
            }
        }
        self.pressure(usage.cpu_pressure, &f::CPU_WAITING, &f::CPU_STALLED);
        self.pressure(usage.memory_pressure, &f::MEMORY_WAITING, &f::MEMORY_STALLED);
        self.pressure(usage.io_pressure, &f::IO_WAITING, &f::IO_STALLED);
    }

    fn pressure(&mut self, pressure: Option<Pressure>, some: &Family, all: &Family) {
        self.put(some, pressure.map(|pressure| pressure.some.total_us / 1_000_000));
        self.put(all, pressure.map(|pressure| pressure.full.total_us / 1_000_000));
    }

    fn detail(&mut self, detail: &Detail) {
        self.put(&f::CPU_USER, detail.cpu_user_ns.map(seconds));
        self.put(&f::CPU_SYSTEM, detail.cpu_system_ns.map(seconds));
        if let Some(throttling) = detail.throttling {
            self.put(&f::CFS_PERIODS, throttling.periods);
            self.put(&f::CFS_THROTTLED, throttling.throttled_periods);
            self.put(&f::CFS_THROTTLED_SECONDS, seconds(throttling.throttled_ns));
        }
        if let Some(MemoryDetail {
            cache,
            mapped_file,
            active_file,
            inactive_file,
            kernel,
            peak,
            limit_hits,
            oom_kills,
        }) = detail.memory
        {
            self.put(&f::MEMORY_CACHE, cache);
            self.put(&f::MEMORY_MAPPED_FILE, mapped_file);
            self.put(&f::MEMORY_ACTIVE_FILE, active_file);
            self.put(&f::MEMORY_INACTIVE_FILE, inactive_file);
            self.put(&f::MEMORY_KERNEL, kernel);
            self.put(&f::MEMORY_PEAK, peak);
            self.put(&f::MEMORY_FAILCNT, limit_hits);
            self.put(&f::OOM_EVENTS, oom_kills);
        }
        self.put(&f::PROCESSES, detail.processes.len() as u64);
        self.put(&f::THREADS_MAX, detail.pids_max.unwrap_or(0));
    }

    fn device(&mut self, io: &DeviceIo, path: &str) {
        self.with(&f::FS_READS, io.reads, &[path]);
        self.with(&f::FS_READ_BYTES, io.read_bytes, &[path]);
        self.with(&f::FS_WRITES, io.writes, &[path]);
        self.with(&f::FS_WRITTEN_BYTES, io.written_bytes, &[path]);
        let (major, minor) = (io.major.to_string(), io.minor.to_string());
        self.with(&f::BLKIO, io.read_bytes, &[path, &major, &minor, "Read"]);
        self.with(&f::BLKIO, io.written_bytes, &[path, &major, &minor, "Write"]);
    }

    fn interface(&mut self, from: &InterfaceUsage) {
        let name = [from.name.as_str()];
        self.with(&f::RECEIVED_BYTES, from.rx_bytes, &name);
        self.with(&f::RECEIVED, from.rx_packets, &name);
        self.with(&f::RECEIVED_DROPPED, from.rx_dropped, &name);
        self.with(&f::RECEIVE_ERRORS, from.rx_errors, &name);
        self.with(&f::SENT_BYTES, from.tx_bytes, &name);
        self.with(&f::SENT, from.tx_packets, &name);
        self.with(&f::SENT_DROPPED, from.tx_dropped, &name);
        self.with(&f::SEND_ERRORS, from.tx_errors, &name);
    }

    /// The writable layer, and open files.
    fn files(&mut self, all: &AllMetrics, stats: &ContainerStats, more: &ContainerMetrics) {
        if let (Some(filesystem), Some(layer)) = (&all.filesystem, &stats.writable_layer) {
            let path = device(all, filesystem.device);
            self.with(&f::FS_USAGE, layer.used_bytes, &[&path]);
            // It was measured before it was asked for.
            if let Some(measured) = self.done.last_mut() {
                measured.timestamp = layer.at_ns;
            }
            self.with(&f::FS_LIMIT, filesystem.bytes, &[&path]);
            self.with(&f::FS_INODES, filesystem.inodes, &[&path]);
            self.with(&f::FS_INODES_FREE, filesystem.inodes_free, &[&path]);
        }
        self.put(&f::FILE_DESCRIPTORS, more.descriptors.map(|descriptors| descriptors.open));
        self.put(&f::SOCKETS, more.descriptors.and_then(|descriptors| descriptors.sockets));
        self.with(&f::ULIMITS, more.open_files_max, &["max_open_files"]);
    }

    /// What was asked for, and when.
    fn spec(&mut self, stats: &ContainerStats) {
        let resources = &stats.container.resources;
        let limit = |limit: Option<i64>| limit.and_then(|limit| u64::try_from(limit).ok());
        self.put(&f::SPEC_CPU_PERIOD, resources.cpu_period_us.unwrap_or(CPU_PERIOD_DEFAULT_US));
        self.put(&f::SPEC_CPU_QUOTA, limit(resources.cpu_quota_us).filter(|quota| *quota > 0));
        self.put(&f::SPEC_CPU_SHARES, resources.cpu_shares);
        self.put(&f::SPEC_MEMORY_LIMIT, limit(resources.memory_limit_bytes).unwrap_or(0));
        // CRI has none.
        self.put(&f::SPEC_MEMORY_RESERVATION, 0);
        self.put(&f::SPEC_MEMORY_SWAP_LIMIT, limit(resources.memory_swap_limit_bytes).unwrap_or(0));
        let epoch = |ns: i64| seconds(u64::try_from(ns).unwrap_or(0));
        self.put(&f::LAST_SEEN, epoch(super::now_ns()));
        if let ContainerState::Running { started_at_ns, .. } = stats.container.state {
            self.put(&f::START_TIME, epoch(started_at_ns));
        }
    }
}

fn seconds(ns: u64) -> u64 {
    ns / 1_000_000_000
}
