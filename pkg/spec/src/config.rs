//! What a client asked for, parsed once into types that cannot be wrong.
//!
//! The CRI room makes these from protobuf messages and refuses what does not parse; nobody below it
//! sees a CRI message. The pod room writes them into its records, which is why they serialise: a new
//! field needs `#[serde(default)]`, a removed one a new record version.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Text that came as bytes: an environment value need not be UTF-8.
pub type Bytes = Vec<u8>;

/// A pod sandbox as asked for by `RunPodSandbox`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Who the pod is. Two sandboxes never have the same.
    pub metadata: SandboxMetadata,
    /// Host name; empty with the host's network: the node's name then.
    pub hostname: String,
    /// Folder of the containers' logs, absolute and without `..`.
    pub log_directory: Option<PathBuf>,
    /// Resolver settings; absent: the host's resolv.conf.
    pub dns: Option<DnsConfig>,
    /// Ports of the host that lead into the pod.
    pub port_mappings: Vec<PortMapping>,
    /// Given back byte for byte.
    pub labels: BTreeMap<String, String>,
    /// Given back byte for byte.
    pub annotations: BTreeMap<String, String>,
    /// Parent cgroup in cgroupfs form, absolute and clean; absent: Carpel's own default.
    pub cgroup_parent: Option<String>,
    /// Which namespaces the pod has of its own.
    pub namespaces: Namespaces,
    /// The sandbox's own security settings; containers have theirs.
    pub security: SandboxSecurity,
    /// Namespaced kernel settings in dotted form, checked against the namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Sum of what the pod adds to its containers' needs, as told.
    pub overhead: Option<Resources>,
    /// Sum of the containers' limits, as told.
    pub resources: Option<Resources>,
    /// `RuntimeClass` handler; empty: the default one.
    pub runtime_handler: String,
}

/// Who a pod sandbox is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxMetadata {
    /// The pod's name.
    pub name: String,
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// The pod's uid.
    pub uid: String,
    /// Rises each time the sandbox is made anew.
    pub attempt: u32,
}

/// Resolver settings of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// A port of the host that leads into the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Protocol.
    pub protocol: Protocol,
    /// Port in the pod.
    pub container_port: u16,
    /// Port of the host; never 0.
    pub host_port: u16,
    /// Address of the host; absent: all.
    pub host_ip: Option<IpAddr>,
}

/// Transport protocol of a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Which namespaces are the pod's and which the node's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Network, and with it UTS.
    pub network: PodOrNode,
    /// IPC, and with it `/dev/shm`.
    pub ipc: PodOrNode,
    /// Where processes are numbered.
    pub pid: PidMode,
    /// Whose ids its users and groups are.
    #[serde(default)]
    pub user: UserMode,
}

/// Whose ids users and groups are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum UserMode {
    /// The host's.
    #[default]
    Node,
    /// Those of a user namespace of the pod's.
    Pod(IdMappings),
}

impl UserMode {
    /// The pod's own, if it has any.
    pub fn mappings(&self) -> Option<IdMappings> {
        match self {
            UserMode::Node => None,
            UserMode::Pod(mappings) => Some(*mappings),
        }
    }
}

/// The ids of a user namespace, in each case from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMappings {
    /// Users.
    pub uids: IdRange,
    /// Groups.
    pub gids: IdRange,
}

/// Ids of the host that follow one another, without 2^32-1, which is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// What is 0 inside.
    pub host_id: u32,
    /// How many there are; at least one.
    pub length: u32,
}

/// The pod's own, or the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodOrNode {
    /// Shared by the pod's containers.
    Pod,
    /// The host's.
    Node,
}

/// CRI's `NamespaceMode` for processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// Shared by the pod's containers.
    Pod,
    /// The container's own.
    Container,
    /// The host's.
    Node,
    /// That of the container with this id.
    Target(String),
}

/// Security settings of the sandbox itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SandboxSecurity {
    /// Privileged containers are allowed in this pod.
    pub privileged: bool,
    /// Whoever the micro-init runs as, if the pod has one.
    pub run_as_user: Option<u32>,
    /// Its group.
    pub run_as_group: Option<u32>,
    /// Its supplementary groups.
    pub supplemental_groups: Vec<u32>,
    /// Whether the sandbox's root is read-only (it has none of its own).
    pub readonly_rootfs: bool,
    /// SELinux label, if any part of it was given.
    pub selinux: Option<SelinuxOption>,
    /// Seccomp profile.
    pub seccomp: SecurityProfile,
}

/// Parts of an SELinux label.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SelinuxOption {
    /// User part.
    pub user: String,
    /// Role part.
    pub role: String,
    /// Type part.
    pub type_: String,
    /// Level part.
    pub level: String,
}

/// A seccomp or AppArmor profile.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SecurityProfile {
    /// None.
    #[default]
    Unconfined,
    /// The runtime's own.
    RuntimeDefault,
    /// From the node: a path (seccomp) or a profile's name (AppArmor).
    Localhost(String),
}

/// A container as asked for by `CreateContainer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Name within the pod.
    pub name: String,
    /// Rises each time the container is made anew.
    pub attempt: u32,
    /// The image to use, as given: an id, a digest or a tag.
    pub image: String,
    /// What the user wrote for it, if that was told.
    pub user_specified_image: String,
    /// Replaces the image's entrypoint and drops its command.
    pub command: Vec<String>,
    /// Replaces the image's command.
    pub args: Vec<String>,
    /// Working directory; empty: the image's.
    pub working_dir: String,
    /// Name and value; later ones win.
    pub envs: Vec<(String, Bytes)>,
    /// Volumes and files.
    pub mounts: Vec<MountConfig>,
    /// Devices.
    pub devices: Vec<DeviceConfig>,
    /// Qualified CDI device names.
    pub cdi_devices: Vec<String>,
    /// Given back byte for byte.
    pub labels: BTreeMap<String, String>,
    /// Given back byte for byte.
    pub annotations: BTreeMap<String, String>,
    /// Relative to the pod's log directory, clean; absent: no log.
    pub log_path: Option<PathBuf>,
    /// The init process's stdin.
    pub stdin: StdinMode,
    /// A controlling terminal, or pipes.
    pub terminal: Terminal,
    /// Limits.
    pub resources: Resources,
    /// Security settings.
    pub security: ContainerSecurity,
    /// Signal that asks the container to stop; absent: the image's, else SIGTERM. A kernel name
    /// (`SIGTERM`, `SIGRTMIN+3`).
    pub stop_signal: Option<String>,
}

/// What a container's stdin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StdinMode {
    /// `/dev/null`.
    Closed,
    /// Attached clients write to it, one after another.
    Open,
    /// It closes when the first attached client goes.
    Once,
}

/// A controlling terminal, or pipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Terminal {
    /// A pseudo-terminal: one output stream.
    Pty,
    /// Separate stdout and stderr.
    Pipes,
}

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountConfig {
    /// Absolute, in the container.
    pub container_path: String,
    /// What is mounted.
    pub source: MountSource,
    /// How far read-only goes.
    pub access: MountAccess,
    /// How mounts travel.
    pub propagation: MountPropagation,
    /// Relabelling was asked for.
    pub selinux_relabel: bool,
    /// Its files are to show these ids: those of the pod's user namespace.
    #[serde(default)]
    pub id_mappings: Option<IdMappings>,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// Absolute path on the host.
    Host(PathBuf),
    /// An image, and a path within it (empty: its root).
    Image {
        /// Reference or id.
        image: String,
        /// Relative, clean.
        sub_path: String,
    },
}

/// How far read-only goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountAccess {
    /// Writable.
    ReadWrite,
    /// The mount itself is read-only.
    ReadOnly,
    /// The mount and all below it are read-only.
    RecursiveReadOnly,
}

/// CRI `MountPropagation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// Neither way.
    Private,
    /// Mounts of the host appear in the container.
    HostToContainer,
    /// Both ways; privileged containers only.
    Bidirectional,
}

/// A device for a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceConfig {
    /// Absolute, in the container.
    pub container_path: String,
    /// Absolute, on the host: a node, or a folder of nodes.
    pub host_path: PathBuf,
    /// Some of `r`, `w`, `m`.
    pub permissions: String,
}

/// Security settings of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContainerSecurity {
    /// All capabilities, all devices, nothing masked, no seccomp or AppArmor.
    pub privileged: bool,
    /// Kernel names without `CAP_`; `ALL` for all.
    pub add_capabilities: Vec<String>,
    /// As `add_capabilities`.
    pub drop_capabilities: Vec<String>,
    /// Where processes are numbered; absent: as the sandbox says.
    pub pid: Option<PidMode>,
    /// Whose ids its users and groups are; absent: as the sandbox says, and never anything else.
    #[serde(default)]
    pub user: Option<UserMode>,
    /// Who it runs as; absent: the image says.
    pub run_as: Option<RunAs>,
    /// Primary group; only with `run_as`.
    pub run_as_group: Option<u32>,
    /// Supplementary groups.
    pub supplemental_groups: Vec<u32>,
    /// Whether the image's own group memberships count too.
    pub supplemental_groups_policy: GroupsPolicy,
    /// The root file system cannot be written to.
    pub readonly_rootfs: bool,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Hidden paths.
    pub masked_paths: Vec<String>,
    /// Paths that cannot be written to.
    pub readonly_paths: Vec<String>,
    /// Seccomp profile.
    pub seccomp: SecurityProfile,
    /// AppArmor profile.
    pub apparmor: SecurityProfile,
    /// SELinux label.
    pub selinux: Option<SelinuxOption>,
}

/// Who a container runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunAs {
    /// By number.
    Uid(u32),
    /// By a name of the image's passwd file.
    Name(String),
}

/// CRI `SupplementalGroupsPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// With the image's own.
    #[default]
    Merge,
    /// Only those asked for.
    Strict,
}

/// Limits, as in CRI's `LinuxContainerResources`. An absent one was not given (CRI: zero).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Microseconds.
    pub cpu_period_us: Option<u64>,
    /// Microseconds per period; -1: no limit.
    pub cpu_quota_us: Option<i64>,
    /// cgroup v1 scale.
    pub cpu_shares: Option<u64>,
    /// Bytes; -1: no limit.
    pub memory_limit_bytes: Option<i64>,
    /// Memory and swap together, bytes; -1: no limit.
    pub memory_swap_limit_bytes: Option<i64>,
    /// -1000..1000.
    pub oom_score_adj: Option<i32>,
    /// List format.
    pub cpuset_cpus: Option<String>,
    /// List format.
    pub cpuset_mems: Option<String>,
    /// Page size as in the cgroup file's name, and bytes.
    pub hugepage_limits: Vec<(String, u64)>,
    /// cgroup v2 files by name.
    pub unified: BTreeMap<String, String>,
}
