//! The published copy: what a reader sees of a pod or a container, as it was at one moment.
//!
//! A pod's owner makes a new snapshot after each change; nobody changes one. Snapshots hold no
//! handle to anything that runs, so keeping one costs memory only.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use carpel_spec::config::{ContainerConfig, Resources, SandboxConfig};

use crate::{ContainerId, PodId};

/// A pod as it was when it was last changed.
#[derive(Debug, Clone)]
pub struct PodSnapshot {
    /// The pod's id.
    pub id: PodId,
    /// What was asked for.
    pub config: Arc<SandboxConfig>,
    /// Whether containers can be made in it.
    pub state: PodState,
    /// Nanoseconds since the Unix epoch; strictly increasing from pod to pod.
    pub created_at_ns: i64,
    /// Addresses, the primary family's first; empty with the host's network. Kept until removal.
    pub ips: Vec<IpAddr>,
    /// Where the network namespace is pinned; absent with the host's network.
    pub netns: Option<PathBuf>,
    /// The shim's process; absent once it has gone.
    pub shim_pid: Option<i32>,
    /// The micro-init of a shared PID namespace.
    pub init_pid: Option<i32>,
    /// The pod's cgroup parent, in cgroupfs form.
    pub cgroup_parent: String,
    /// Containers that exist, in the order of their creation.
    pub containers: Vec<ContainerId>,
}

/// Whether a pod can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PodState {
    /// Containers can be made in it.
    Ready,
    /// Stopped, or its shim has gone.
    NotReady,
}

/// A container as it was when it was last changed.
#[derive(Debug, Clone)]
pub struct ContainerSnapshot {
    /// The container's id.
    pub id: ContainerId,
    /// The pod that it belongs to.
    pub pod_id: PodId,
    /// What was asked for.
    pub config: Arc<ContainerConfig>,
    /// The image's id: the digest of its configuration.
    pub image_id: String,
    /// How the image is referred to: a repository digest, else its id.
    pub image_ref: String,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Nanoseconds since the Unix epoch; strictly increasing from container to container.
    pub created_at_ns: i64,
    /// Who the init process runs as, resolved by the image's own files.
    pub user: User,
    /// The limits that are in force.
    pub resources: Resources,
    /// The signal that asks it to stop: a kernel name, `SIGTERM`.
    pub stop_signal: String,
    /// Where its log is, absolute; absent: it has none.
    pub log_path: Option<PathBuf>,
    /// Its cgroup, in the form of the configured driver.
    pub cgroup_path: String,
    /// Its writable layer; absent if its root has none.
    pub writable_layer: Option<PathBuf>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Its init process waits before its execve.
    Created,
    /// Its init process runs.
    Running {
        /// The init process, in the daemon's pid namespace.
        pid: i32,
        /// Nanoseconds since the Unix epoch.
        started_at_ns: i64,
    },
    /// Its init process has ended, or never came to be.
    Exited(Exit),
    /// Its shim does not answer, so nobody can say.
    Unknown,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// 0–255; 128 plus the signal's number when a signal ended it.
    pub code: i32,
    /// In one word.
    pub reason: ExitReason,
    /// For people; may be empty.
    pub message: String,
    /// Nanoseconds since the Unix epoch; zero if it never ran and was never started.
    pub started_at_ns: i64,
    /// Nanoseconds since the Unix epoch.
    pub finished_at_ns: i64,
}

/// Why a container ended. The kubelet shows these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Another exit code, or a signal.
    Error,
    /// The kernel's out-of-memory killer.
    OomKilled,
    /// The command could not be executed.
    StartError,
    /// Nobody saw it end: the node restarted, or its shim was lost.
    Unknown,
}

impl ExitReason {
    /// The word in CRI's `ContainerStatus.reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ExitReason::Completed => "Completed",
            ExitReason::Error => "Error",
            ExitReason::OomKilled => "OOMKilled",
            ExitReason::StartError => "StartError",
            ExitReason::Unknown => "Unknown",
        }
    }
}

/// Who a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}
