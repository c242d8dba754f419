//! What monitoring wants of pods and containers, beyond their statistics.
//!
//! ```text
//!  all_pod_stats  the figures that statistics have too, through kept descriptors
//!    └ details    of each running container: its cgroup's rest, and its processes' descriptors
//! ```
//!
//! Read when it is asked for, and nothing is kept.

mod processes;

use std::{collections::HashMap, path::Path, sync::Arc};

use carpel_cgroups::{CgroupPath, detail};

use crate::{ContainerSnapshot, ContainerState, PodState, PodStats, Pods, pods::Shared};
pub use carpel_cgroups::detail::{Detail, DeviceIo, MemoryDetail, Throttling};
pub use processes::Descriptors;

/// What monitoring wants of a pod.
#[derive(Debug, Clone)]
pub struct PodMetrics {
    /// Its statistics.
    pub stats: PodStats,
    /// Of each container in `stats`, in its order.
    pub containers: Vec<ContainerMetrics>,
}

/// What monitoring wants of a container that runs, beyond its statistics.
#[derive(Debug, Clone, Default)]
pub struct ContainerMetrics {
    /// The rest of its cgroup's figures; absent once it has exited.
    pub detail: Option<Detail>,
    /// Open files of its processes; absent where there are too many to look.
    pub descriptors: Option<Descriptors>,
    /// How many files its init process may have open; absent without a limit.
    pub open_files_max: Option<u64>,
}

/// The metrics of all pods, and what they have in common.
#[derive(Debug, Clone, Default)]
pub struct AllMetrics {
    /// The pods.
    pub pods: Vec<PodMetrics>,
    /// The file system of the writable layers.
    pub filesystem: Option<Filesystem>,
    /// Paths of the block devices in the pods' figures, by number. One without a path is not there.
    pub devices: HashMap<(u32, u32), String>,
}

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// Its device's number, which may be no block device's.
    pub device: (u32, u32),
    /// Its size.
    pub bytes: u64,
    /// How many inodes it has.
    pub inodes: u64,
    /// How many of them are free.
    pub inodes_free: u64,
}

impl Pods {
    /// What monitoring wants of the pods that are ready.
    pub async fn metrics(&self) -> AllMetrics {
        let stats = self.all_pod_stats(|pod| pod.state == PodState::Ready).await;
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || all(&shared, stats));
        // It is missing only if the runtime is ending.
        read.await.unwrap_or_default()
    }
}

fn all(shared: &Shared, stats: Vec<PodStats>) -> AllMetrics {
    let of_pod = |stats: PodStats| {
        let containers = stats.containers.iter().map(|one| of_container(shared, &one.container)).collect();
        PodMetrics { stats, containers }
    };
    let pods: Vec<_> = stats.into_iter().map(of_pod).collect();
    let filesystem = filesystem(&shared.layout.containers());
    let details = pods.iter().flat_map(|pod| &pod.containers).filter_map(|one| one.detail.as_ref());
    let used = details.flat_map(|detail| &detail.devices).map(|io| (io.major, io.minor));
    let mut devices = HashMap::new();
    for number in used.chain(filesystem.as_ref().map(|filesystem| filesystem.device)) {
        if !devices.contains_key(&number)
            && let Some(path) = device_path(number)
        {
            devices.insert(number, path);
        }
    }
    AllMetrics { pods, filesystem, devices }
}

fn of_container(shared: &Shared, container: &ContainerSnapshot) -> ContainerMetrics {
    let ContainerState::Running { pid, .. } = container.state else { return ContainerMetrics::default() };
    let Ok(path) = CgroupPath::parse(&container.cgroup_path) else { return ContainerMetrics::default() };
    match detail::read(&shared.node.cgroups, &path) {
        Ok(detail) => ContainerMetrics {
            descriptors: processes::descriptors(&detail.processes),
            open_files_max: processes::open_files_max(pid),
            detail: Some(detail),
        },
        Err(err) => {
            let err = &err as &dyn std::error::Error;
            tracing::debug!(container_id = %container.id, err, "reading a container's metrics failed");
            ContainerMetrics::default()
        }
    }
}

fn filesystem(folder: &Path) -> Option<Filesystem> {
    let (status, size) = (rustix::fs::stat(folder).ok()?, rustix::fs::statvfs(folder).ok()?);
    Some(Filesystem {
        device: (rustix::fs::major(status.st_dev), rustix::fs::minor(status.st_dev)),
        bytes: size.f_blocks.saturating_mul(size.f_frsize),
        inodes: size.f_files,
        inodes_free: size.f_ffree,
    })
}

/// The kernel's own name of a block device, below /dev.
fn device_path((major, minor): (u32, u32)) -> Option<String> {
    let event = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).ok()?;
    let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(format!("/dev/{name}"))
}
