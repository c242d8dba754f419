//! Statistics.

use carpel_pod::{
    ContainerStats, CpuUsage, DiskUsage, InterfaceUsage, MemoryUsage, PodStats, Pressure, Stall, Usage,
};
use carpel_proto::v1;

use super::{container, pod};

/// What a container uses.
pub(crate) fn container_stats(from: &ContainerStats) -> v1::ContainerStats {
    let config = &from.container.config;
    let usage = from.usage.as_ref();
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: from.container.id.to_string(),
            metadata: Some(container::metadata(config)),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        cpu: usage.and_then(cpu),
        memory: usage.and_then(memory),
        writable_layer: from.writable_layer.as_ref().map(disk),
        swap: usage.and_then(swap),
        io: usage.and_then(io),
    }
}

/// What a pod uses.
pub(crate) fn pod_stats(from: &PodStats) -> v1::PodSandboxStats {
    let config = &from.pod.config;
    let usage = from.usage.as_ref();
    let at_ns = usage.map_or_else(super::now_ns, |usage| usage.at_ns);
    // The kubelet takes a network to have a default interface, and dies if it has none (1.36,
    // `addCRIPodNetworkStats`): a pod in the host's network, or one that has stopped, has no network.
    let mut interfaces = from.network.iter().map(interface);
    let network = interfaces.next().map(|first| v1::NetworkUsage {
        timestamp: at_ns,
        default_interface: Some(first),
        interfaces: interfaces.collect(),
    });
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: from.pod.id.to_string(),
            metadata: Some(pod::metadata(&config.metadata)),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: usage.and_then(cpu),
            memory: usage.and_then(memory),
            network,
            process: usage.map(|usage| v1::ProcessUsage {
                timestamp: usage.at_ns,
                process_count: usage.pids.map(number),
            }),
            containers: from.containers.iter().map(container_stats).collect(),
            io: usage.and_then(io),
        }),
        windows: None,
    }
}

fn number(value: u64) -> v1::UInt64Value {
    v1::UInt64Value { value }
}

fn cpu(usage: &Usage) -> Option<v1::CpuUsage> {
    let CpuUsage { usage_ns, rate_nano_cores } = usage.cpu?;
    Some(v1::CpuUsage {
        timestamp: usage.at_ns,
        usage_core_nano_seconds: Some(number(usage_ns)),
        usage_nano_cores: rate_nano_cores.map(number),
        psi: usage.cpu_pressure.map(pressure),
    })
}

fn memory(usage: &Usage) -> Option<v1::MemoryUsage> {
    let memory: MemoryUsage = usage.memory?;
    Some(v1::MemoryUsage {
        timestamp: usage.at_ns,
        working_set_bytes: Some(number(memory.working_set_bytes)),
        available_bytes: memory.available_bytes.map(number),
        usage_bytes: Some(number(memory.usage_bytes)),
        rss_bytes: Some(number(memory.rss_bytes)),
        page_faults: Some(number(memory.page_faults)),
        major_page_faults: Some(number(memory.major_page_faults)),
        psi: usage.memory_pressure.map(pressure),
    })
}

fn swap(usage: &Usage) -> Option<v1::SwapUsage> {
    let memory = usage.memory?;
    Some(v1::SwapUsage {
        timestamp: usage.at_ns,
        swap_available_bytes: memory.swap_available_bytes.map(number),
        swap_usage_bytes: Some(number(memory.swap_bytes?)),
    })
}

fn io(usage: &Usage) -> Option<v1::IoUsage> {
    Some(v1::IoUsage { timestamp: usage.at_ns, psi: Some(pressure(usage.io_pressure?)) })
}

/// CRI's totals are in microseconds, as the kernel's.
fn pressure(from: Pressure) -> v1::PsiStats {
    let data = |stall: Stall| v1::PsiData {
        total: stall.total_us,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    v1::PsiStats { full: Some(data(from.full)), some: Some(data(from.some)) }
}

fn disk(from: &DiskUsage) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: from.at_ns,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: from.mountpoint.to_string_lossy().into_owned() }),
        used_bytes: Some(number(from.used_bytes)),
        inodes_used: Some(number(from.inodes)),
    }
}

fn interface(from: &InterfaceUsage) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: from.name.clone(),
        rx_bytes: Some(number(from.rx_bytes)),
        rx_errors: Some(number(from.rx_errors)),
        tx_bytes: Some(number(from.tx_bytes)),
        tx_errors: Some(number(from.tx_errors)),
    }
}
