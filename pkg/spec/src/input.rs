//! What the daemon knows about the node, the pod and the image when it computes a plan.
//!
//! Everything here was looked up by the caller; nothing in this crate looks anything up itself.

use std::collections::{BTreeMap, BTreeSet};

use carpel_shim_api::plan::Rlimit;

use crate::config::{ContainerConfig, SandboxConfig, SelinuxOption};
use crate::seccomp::{Arch, BpfProgram, KernelVersion};
use crate::selinux::Labels;

/// What is known about a pod when its sandbox is planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// The pod's id, 64 lower-case hex digits.
    pub pod_id: String,
    /// The pod's folder on tmpfs, absolute.
    pub pod_dir: String,
    /// Size of the pod's `/dev/shm`, in bytes. Kubernetes users expect 64 MiB.
    pub shm_size_bytes: u64,
    /// The cgroup that the shim lives in; empty: where it was started.
    pub shim_cgroup: String,
    /// The shim's `oom_score_adj`.
    pub shim_oom_score_adj: i32,
    /// What processes of a pod network of its own may do without privilege.
    pub unprivileged: UnprivilegedNetwork,
    /// See [`crate::selinux::of_pod`].
    pub selinux: Labels,
}

/// What an unprivileged process may do in a pod's own network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnprivilegedNetwork {
    /// Bind ports below 1024 and send ICMP echo requests, as with containerd and CRI-O.
    PortsAndPing,
    /// The kernel's defaults: neither.
    KernelDefault,
}

/// The part of an image's configuration that may have a meaning here. OCI image-spec, config.md.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageConfig {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub cmd: Vec<String>,
    /// `USER`: `user`, `uid`, `user:group`, `uid:gid`; empty: root.
    pub user: String,
    /// `WORKDIR`; empty: `/`.
    pub working_dir: String,
    /// `VOLUME` paths.
    pub volumes: Vec<String>,
    /// `STOPSIGNAL`, by name or number.
    pub stop_signal: Option<String>,
    /// Labels; they select nothing.
    pub labels: BTreeMap<String, String>,
}

/// Everything that [`crate::container_plan`] needs.
#[derive(Debug, Clone, Copy)]
pub struct ContainerInput<'a> {
    /// The pod, as asked for.
    pub sandbox: &'a SandboxConfig,
    /// The container, as asked for.
    pub config: &'a ContainerConfig,
    /// Its image.
    pub image: &'a ImageConfig,
    /// Its id, 64 lower-case hex digits.
    pub container_id: &'a str,
    /// The SELinux level that was chosen for the pod, if one was.
    pub selinux_level: Option<&'a str>,
    /// The host name that the container sees: see [`crate::effective_hostname`].
    pub hostname: &'a str,
    /// Its root file system's parts.
    pub rootfs: &'a RootfsInput,
    /// Files that the daemon supplies.
    pub pod_files: &'a PodFiles,
    /// For each mount of the configuration that is an image: its layers, by the mount's index.
    pub image_mounts: &'a BTreeMap<usize, Vec<String>>,
    /// For each device of the configuration, by index: the nodes that it stands for. More than one
    /// where the host path is a folder.
    pub devices: &'a [Vec<HostDevice>],
    /// All device nodes of the host, for a privileged container; else not looked at.
    pub host_devices: &'a [HostDevice],
    /// The seccomp profile's content, where one is needed.
    pub seccomp: SeccompInput<'a>,
    /// The node.
    pub node: &'a NodeFacts,
}

/// Parts of a root file system, as the image room hands them out. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootfsInput {
    /// Unpacked layers, top-most first.
    pub lowers: Vec<String>,
    /// The writable layer.
    pub upper: String,
    /// overlayfs' work folder.
    pub work: String,
    /// Whether overlayfs may leave out syncing the upper layer.
    pub volatile: bool,
}

/// Files of the pod that every container sees, as absolute paths on the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodFiles {
    /// For `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// For `/etc/hostname`.
    pub hostname: String,
    /// For `/etc/hosts`, unless the client mounts its own as the kubelet does.
    pub hosts: Option<String>,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Where it is to be in the container, absolute.
    pub path: String,
    /// Block or character device.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Kind of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Block device.
    Block,
    /// Character device.
    Character,
}

/// Where a container's seccomp filter comes from. Which profile it is, the configuration says;
/// [`crate::seccomp_need`] tells what has to be looked up for it.
#[derive(Debug, Clone, Copy)]
pub enum SeccompInput<'a> {
    /// Nothing was looked up: enough for `Unconfined` and `RuntimeDefault`.
    BuiltIn,
    /// Content of the JSON file that a `Localhost` profile names.
    Localhost(&'a [u8]),
    /// A program that was compiled earlier for an equal [`crate::SeccompNeed`].
    Compiled(&'a BpfProgram),
}

/// What is known about the node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFacts {
    /// How its cgroups are laid out.
    pub cgroup: CgroupLayout,
    /// Who makes cgroups.
    pub cgroup_driver: CgroupDriver,
    /// Parent cgroup of pods that name none: a path for cgroupfs (`/carpel`), a slice for systemd
    /// (`carpel.slice`).
    pub cgroup_parent_default: String,
    /// First part of a systemd scope's name.
    pub scope_prefix: String,
    /// Whether swap can be limited apart from memory.
    pub swap_limits: SwapLimits,
    /// What an ordinary container is granted; [`crate::capability::CONTAINERD_DEFAULT`] unless
    /// configured.
    pub default_capabilities: u64,
    /// What the daemon has itself: nothing beyond can be granted.
    pub daemon_capabilities: u64,
    /// Limits of every container's init process.
    pub default_rlimits: Vec<Rlimit>,
    /// The machine's architecture.
    pub arch: Arch,
    /// The running kernel.
    pub kernel: KernelVersion,
    /// AppArmor.
    pub apparmor: AppArmor,
    /// SELinux.
    pub selinux: Selinux,
    /// Number of CPUs, counted from 0, that have `thermal_throttle` in sysfs; 0 in most machines'
    /// guests.
    pub thermal_throttle_cpus: u32,
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The shims, by mkdir.
    Cgroupfs,
    /// systemd makes a slice for each pod and a scope for each container, the shim what is in a scope.
    Systemd,
}

/// How cgroups are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupLayout {
    /// Controllers in hierarchies of their own.
    V1,
    /// As v1, with a v2 hierarchy without controllers beside it.
    Hybrid,
    /// One hierarchy.
    V2,
}

/// Whether the kernel limits swap apart from memory (`memory.swap.max`, `memory.memsw.*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapLimits {
    /// It does.
    Present,
    /// It does not: swap limits are left out.
    Absent,
}

/// AppArmor on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppArmor {
    /// The kernel has none, or it is off.
    Absent,
    /// It is on.
    Enabled {
        /// The profile for `RuntimeDefault`; `None` where none is loaded and nobody can load one: such a
        /// container is not confined.
        default_profile: Option<String>,
        /// Names of the loaded profiles.
        loaded: BTreeSet<String>,
    },
}

/// SELinux on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selinux {
    /// The kernel has none, or it is off.
    Absent,
    /// It is on, and its policy knows nothing of containers: they run as whatever starts them.
    WithoutContainers,
    /// It is on.
    Enabled(Box<SelinuxContexts>),
}

/// Parts of labels for which nobody gives any; categories are the pod's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelinuxContexts {
    /// Of processes; without a level where the policy has none (no MLS, no MCS).
    pub process: SelinuxOption,
    /// Of files.
    pub file: SelinuxOption,
    /// Of processes of privileged containers; absent where the policy knows no such type.
    pub privileged: Option<SelinuxOption>,
}
