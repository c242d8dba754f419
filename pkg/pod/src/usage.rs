//! Reading what pods and containers use, off every path.
//!
//! A cgroup's files are opened once and kept. How much disk a writable layer takes is measured by
//! walking it ([`disk`]): now and then, one at a time, and never while somebody waits.

mod disk;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use carpel_cgroups::{
    CgroupPath,
    stats::{self, Reader},
};
use futures::StreamExt;

use crate::{
    ContainerId, ContainerSnapshot, ContainerState, ContainerStats, CpuUsage, InterfaceUsage, MemoryUsage,
    PodSnapshot, PodState, PodStats, Pods, Pressure, Stall, StatsError, Usage, clock::now_ns, pods::Shared,
    scope::has_hold,
};
use disk::Disk;

/// Pods whose network is looked at, at the same time.
const NETWORKS_AT_ONCE: usize = 8;

/// Open readers, by the id of their container or pod.
#[derive(Debug, Default)]
pub(crate) struct UsageReaders {
    // Locked for the length of a map operation.
    open: Mutex<HashMap<String, Arc<Mutex<Kept>>>>,
    disk: Arc<Disk>,
}

/// A reader, and what it read last.
#[derive(Debug)]
struct Kept {
    reader: Reader,
    last: Option<(Instant, u64)>,
}

impl UsageReaders {
    /// A container is removed.
    pub(crate) fn forget(&self, id: &ContainerId) {
        self.close(id.as_str());
        self.disk.forget(id);
    }

    /// A pod is removed, or a container has exited.
    pub(crate) fn close(&self, id: &str) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Reads a cgroup. Blocks shortly. One that is gone uses nothing.
    fn read(&self, shared: &Shared, id: &str, cgroup_path: &str) -> Option<Usage> {
        let known = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        let kept = match known {
            Some(kept) => kept,
            None => {
                let path = CgroupPath::parse(cgroup_path).ok()?;
                let reader = match Reader::open(&shared.node.cgroups, &path) {
                    Ok(reader) => reader,
                    Err(stats::StatsError::Gone(_)) => return None,
                    Err(err) => {
                        let err = &err as &dyn std::error::Error;
                        tracing::warn!(cgroup_path, err, "opening a cgroup's statistics failed");
                        return None;
                    }
                };
                let kept = Arc::new(Mutex::new(Kept { reader, last: None }));
                let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(open.entry(id.to_owned()).or_insert(kept))
            }
        };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.reader.read() {
            Ok(stats) => Some(usage(&stats, &mut kept.last)),
            Err(err) => {
                tracing::debug!(
                    cgroup_path,
                    err = &err as &dyn std::error::Error,
                    "reading statistics failed"
                );
                drop(kept);
                self.close(id);
                None
            }
        }
    }
}

fn usage(stats: &stats::Stats, last: &mut Option<(Instant, u64)>) -> Usage {
    let now = Instant::now();
    let cpu = stats.cpu_usage_ns.map(|usage_ns| {
        let rate_nano_cores =
            last.and_then(|(then, before)| rate(before, usage_ns, now.duration_since(then)));
        *last = Some((now, usage_ns));
        CpuUsage { usage_ns, rate_nano_cores }
    });
    let memory = stats.memory.map(|memory| MemoryUsage {
        usage_bytes: memory.usage,
        working_set_bytes: memory.working_set,
        available_bytes: memory.available,
        rss_bytes: memory.rss,
        page_faults: memory.page_faults,
        major_page_faults: memory.major_page_faults,
        swap_bytes: stats.swap.map(|swap| swap.usage),
        swap_available_bytes: stats.swap.and_then(|swap| swap.available),
    });
    Usage {
        at_ns: now_ns(),
        cpu,
        memory,
        pids: stats.pids,
        cpu_pressure: stats.cpu_pressure.map(pressure),
        memory_pressure: stats.memory_pressure.map(pressure),
        io_pressure: stats.io_pressure.map(pressure),
    }
}

/// Nanoseconds of CPU per second of time.
fn rate(before_ns: u64, after_ns: u64, elapsed: std::time::Duration) -> Option<u64> {
    let elapsed = u64::try_from(elapsed.as_nanos()).ok().filter(|elapsed| *elapsed > 0)?;
    let used = u128::from(after_ns.saturating_sub(before_ns));
    u64::try_from(used * 1_000_000_000 / u128::from(elapsed)).ok()
}

fn pressure(from: stats::Pressure) -> Pressure {
    let stall = |stall: stats::Stall| Stall {
        total_us: stall.total_us,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    Pressure { some: stall(from.some), full: stall(from.full) }
}

impl Pods {
    /// What a container uses.
    ///
    /// # Errors
    /// It does not exist.
    pub async fn container_stats(&self, id: &str) -> Result<ContainerStats, StatsError> {
        let container = self.find_container(id)?;
        let mut all = self.stats_of(vec![Arc::clone(&container)]).await;
        // The one is missing only if the runtime is ending.
        Ok(all.pop().unwrap_or(ContainerStats { container, usage: None, writable_layer: None }))
    }

    /// What each container uses that `wanted` picks. One that cannot be read is there without figures.
    pub async fn all_container_stats(
        &self,
        wanted: impl Fn(&ContainerSnapshot) -> bool,
    ) -> Vec<ContainerStats> {
        let containers = self.containers().into_iter().filter(|container| wanted(container)).collect();
        self.stats_of(containers).await
    }

    /// What a pod uses, with its running containers.
    ///
    /// # Errors
    /// It does not exist.
    pub async fn pod_stats(&self, id: &str) -> Result<PodStats, StatsError> {
        let pod = self.find_pod(id)?;
        Ok(self.stats_of_pod(pod).await)
    }

    /// What each pod uses that `wanted` picks.
    pub async fn all_pod_stats(&self, wanted: impl Fn(&PodSnapshot) -> bool) -> Vec<PodStats> {
        let pods: Vec<_> = self.pods().into_iter().filter(|pod| wanted(pod)).collect();
        let stats = pods.into_iter().map(|pod| self.stats_of_pod(pod));
        futures::stream::iter(stats).buffered(NETWORKS_AT_ONCE).collect().await
    }

    async fn stats_of_pod(&self, pod: Arc<PodSnapshot>) -> PodStats {
        let runs =
            |container: &Arc<ContainerSnapshot>| matches!(container.state, ContainerState::Running { .. });
        let mut containers = self.containers_of(&pod);
        let holds = holds(&containers);
        containers.retain(runs);
        let shared = Arc::clone(&self.shared);
        let own = Arc::clone(&pod);
        let usage = tokio::task::spawn_blocking(move || {
            // A parent that several pods share tells nothing of one of them.
            own.config.cgroup_parent.as_deref()?;
            let mut usage = shared.usage.read(&shared, own.id.as_str(), &own.cgroup_parent)?;
            usage.pids = usage.pids.map(|pids| pids.saturating_sub(holds));
            Some(usage)
        });
        let network = async {
            if pod.netns.is_none() || pod.state == PodState::NotReady {
                return Vec::new();
            }
            match self.shared.network.stats(pod.id.as_str()).await {
                Ok(interfaces) => interfaces.into_iter().map(interface).collect(),
                Err(err) => {
                    let err = &err as &dyn std::error::Error;
                    tracing::debug!(pod_id = %pod.id, err, "reading a pod's interfaces failed");
                    Vec::new()
                }
            }
        };
        let (usage, network, containers) = tokio::join!(usage, network, self.stats_of(containers));
        PodStats { usage: usage.unwrap_or_default(), network, containers, pod }
    }

    async fn stats_of(&self, containers: Vec<Arc<ContainerSnapshot>>) -> Vec<ContainerStats> {
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || {
            let one = |container: Arc<ContainerSnapshot>| {
                let usage = match container.state {
                    ContainerState::Running { .. } => {
                        shared.usage.read(&shared, container.id.as_str(), &container.cgroup_path)
                    }
                    ContainerState::Created | ContainerState::Exited(_) | ContainerState::Unknown => None,
                };
                let mountpoint = shared.layout.containers();
                let writable_layer = shared.usage.disk.last_and_refresh(&container, mountpoint);
                ContainerStats { container, usage, writable_layer }
            };
            containers.into_iter().map(one).collect()
        });
        read.await.unwrap_or_default()
    }
}

/// How many processes in the pod's cgroup are the runtime's own, and not to be counted as the pod's.
fn holds(containers: &[Arc<ContainerSnapshot>]) -> u64 {
    let held = containers.iter().filter(|container| match container.state {
        ContainerState::Created | ContainerState::Running { .. } | ContainerState::Unknown => {
            has_hold(&container.cgroup_path)
        }
        ContainerState::Exited(_) => false,
    });
    held.map(|_| 1).sum()
}

fn interface(from: carpel_network::InterfaceStats) -> InterfaceUsage {
    InterfaceUsage {
        name: from.name,
        rx_bytes: from.rx_bytes,
        rx_packets: from.rx_packets,
        rx_errors: from.rx_errors,
        rx_dropped: from.rx_dropped,
        tx_bytes: from.tx_bytes,
        tx_packets: from.tx_packets,
        tx_errors: from.tx_errors,
        tx_dropped: from.tx_dropped,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_rate_is_nanoseconds_of_cpu_per_second() {
        assert_eq!(rate(0, 500_000_000, Duration::from_secs(1)), Some(500_000_000));
        assert_eq!(rate(100, 100, Duration::from_secs(10)), Some(0));
        assert_eq!(rate(100, 50, Duration::from_secs(1)), Some(0));
        assert_eq!(rate(0, 1, Duration::ZERO), None);
    }
}
