//! Plans: an OCI spec boiled down to what the kernel is to be asked for.
//!
//! The daemon computes a plan once (the spec room), the shim carries it out (the runtime module) and
//! decides nothing: names are resolved to numbers, defaults are filled in, seccomp is a finished BPF
//! program. Only what must be looked up inside the container's own root — its users and groups —
//! travels by name. Field meanings are those of the OCI runtime specification, config.md and
//! config-linux.md, unless said otherwise.

/// What all containers of a pod share.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SandboxPlan {
    /// The pod's id, 64 lower-case hex digits.
    #[prost(string, tag = "1")]
    pub pod_id: String,
    /// The pod's folder on tmpfs: socket, exit records.
    #[prost(string, tag = "2")]
    pub pod_dir: String,
    /// The host's UTS namespace instead of one of the pod's own.
    #[prost(bool, tag = "3")]
    pub host_uts: bool,
    /// The host's IPC namespace and `/dev/shm` instead of the pod's own.
    #[prost(bool, tag = "4")]
    pub host_ipc: bool,
    /// One PID namespace for all containers, with a micro-init of the shim's as its PID 1.
    #[prost(bool, tag = "5")]
    pub shared_pid: bool,
    /// The host name in the pod's own UTS namespace.
    #[prost(string, tag = "6")]
    pub hostname: String,
    /// The size of the pod's `/dev/shm`, in bytes.
    #[prost(uint64, tag = "7")]
    pub shm_size_bytes: u64,
    /// Sysctls of the pod's IPC and UTS namespaces (`kernel.shm*`, `kernel.msg*`, `kernel.sem`,
    /// `fs.mqueue.*`), keys in dotted form. The network's are written by the network room.
    #[prost(message, repeated, tag = "8")]
    pub sysctls: Vec<Sysctl>,
    /// The cgroup that the shim itself lives in, relative to each hierarchy's root; empty: it stays
    /// where it was started. Never below the pod's own cgroup, so that the pod's limits do not hit it.
    #[prost(string, tag = "9")]
    pub shim_cgroup: String,
    /// The shim's own `oom_score_adj`; the daemon's own is the lowest that can be had.
    #[prost(int32, tag = "10")]
    pub shim_oom_score_adj: i32,
    /// The ids of the pod's user namespace; absent: the host's. With it descriptors of namespaces come
    /// with the message, all owned by that user namespace: network (unless the host's), UTS (unless
    /// `host_uts`), IPC (unless `host_ipc`), and at last the user namespace itself. Without it the network
    /// namespace's alone.
    #[prost(message, optional, tag = "11")]
    pub id_mappings: Option<IdMappings>,
    /// SELinux label of the pod's `/dev/shm`; empty: none.
    #[prost(string, tag = "12")]
    pub mount_label: String,
    /// SELinux label of the micro-init; empty: the shim's.
    #[prost(string, tag = "13")]
    pub process_label: String,
}

/// The ids of a user namespace, in each case from 0 on.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct IdMappings {
    /// Users.
    #[prost(message, required, tag = "1")]
    pub uids: IdRange,
    /// Groups.
    #[prost(message, required, tag = "2")]
    pub gids: IdRange,
}

/// Ids that follow one another.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct IdRange {
    /// What is 0 inside.
    #[prost(uint32, tag = "1")]
    pub host_id: u32,
    /// How many there are.
    #[prost(uint32, tag = "2")]
    pub length: u32,
}

/// A kernel setting.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sysctl {
    /// Dotted: `net.core.somaxconn`.
    #[prost(string, tag = "1")]
    pub key: String,
    /// As written to its file.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// One container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerPlan {
    /// The init process.
    #[prost(message, required, tag = "1")]
    pub process: ProcessPlan,
    /// The root file system.
    #[prost(message, required, tag = "2")]
    pub rootfs: RootfsPlan,
    /// Mounts, in the order in which they are made.
    #[prost(message, repeated, tag = "3")]
    pub mounts: Vec<MountPlan>,
    /// Where its processes are numbered. [`PidNamespace`].
    #[prost(enumeration = "PidNamespace", tag = "4")]
    pub pid_namespace: i32,
    /// With [`PidNamespace::Target`]: the container of this pod to join.
    #[prost(string, tag = "5")]
    pub pid_target: String,
    /// The host's cgroup namespace instead of one of its own.
    #[prost(bool, tag = "6")]
    pub host_cgroup_namespace: bool,
    /// Paths whose content is hidden: files read as empty, folders are empty.
    #[prost(string, repeated, tag = "7")]
    pub masked_paths: Vec<String>,
    /// Paths that cannot be written to.
    #[prost(string, repeated, tag = "8")]
    pub readonly_paths: Vec<String>,
    /// Device nodes beyond the default ones (null zero full random urandom tty, ptmx, console).
    #[prost(message, repeated, tag = "9")]
    pub devices: Vec<DevicePlan>,
    /// The cgroup and its limits.
    #[prost(message, required, tag = "10")]
    pub cgroup: CgroupPlan,
    /// Propagation of the container's `/`.
    #[prost(enumeration = "Propagation", tag = "11")]
    pub rootfs_propagation: i32,
    /// Small files that the daemon supplies (`/etc/resolv.conf`, `/etc/hostname`), bind-mounted from
    /// its folders, are ordinary entries of `mounts`. This is the pod's `/dev/shm` instead of a tmpfs
    /// of the container's own: the shim knows where it is.
    #[prost(bool, tag = "12")]
    pub pod_shm: bool,
    /// SELinux label of all files in what is mounted for this container alone: the root file system, image
    /// volumes, new file systems that can have one. Empty: as the file systems themselves say.
    #[prost(string, tag = "13")]
    pub mount_label: String,
}

/// Which PID namespace a container's processes live in. CRI `NamespaceMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum PidNamespace {
    /// One of its own.
    Container = 0,
    /// The pod's shared one.
    Pod = 1,
    /// The host's.
    Node = 2,
    /// That of another container.
    Target = 3,
}

/// The root file system: an overlay mounted inside the container's own mount namespace.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RootfsPlan {
    /// Read-only layers, top-most first, absolute paths. At least one.
    #[prost(string, repeated, tag = "1")]
    pub lowers: Vec<String>,
    /// The writable layer. The shim makes the folder if it is absent. Empty: none, read-only overlay.
    #[prost(string, tag = "2")]
    pub upper: String,
    /// overlayfs' work folder, beside `upper` on the same file system.
    #[prost(string, tag = "3")]
    pub work: String,
    /// `/` cannot be written to once everything is mounted.
    #[prost(bool, tag = "4")]
    pub readonly: bool,
    /// overlayfs' `volatile` option: no sync of the upper layer.
    #[prost(bool, tag = "5")]
    pub volatile: bool,
    /// Absolute paths inside the container at which something must be: where nothing is, a folder is made, 0755, with
    /// those on the way, before anything is mounted. Symbolic links are followed inside the root.
    #[prost(string, repeated, tag = "6")]
    pub folders: Vec<String>,
}

/// One mount.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MountPlan {
    /// Absolute path inside the container.
    #[prost(string, tag = "1")]
    pub destination: String,
    /// What is mounted.
    #[prost(oneof = "mount_plan::Source", tags = "2, 3, 4, 9")]
    pub source: Option<mount_plan::Source>,
    /// `MOUNT_ATTR_*` to set on it (mount_setattr(2)), for a bind mount after it was cloned.
    #[prost(uint64, tag = "5")]
    pub attributes: u64,
    /// `MOUNT_ATTR_*` to set on it and on all below it (`rro` and friends).
    #[prost(uint64, tag = "6")]
    pub attributes_recursive: u64,
    /// Propagation of the mount; `Inherit` leaves the default (private).
    #[prost(enumeration = "Propagation", tag = "7")]
    pub propagation: i32,
    /// A failure that the kernel answers with ENOENT/ENODEV/EPERM is passed over (`/dev/mqueue` on a
    /// kernel without it).
    #[prost(bool, tag = "8")]
    pub optional: bool,
    /// Of a bind mount: its files show the ids that the pod's user namespace maps theirs to. Image layers
    /// and what is made for the container always do.
    #[prost(bool, tag = "10")]
    pub idmapped: bool,
    /// Of a bind mount: its files are given [`ContainerPlan::mount_label`] for good.
    #[prost(bool, tag = "11")]
    pub relabel: bool,
}

/// The kinds of [`MountPlan`].
pub mod mount_plan {
    /// What is mounted.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Source {
        /// A folder or file of the host.
        #[prost(message, tag = "2")]
        Bind(super::BindSource),
        /// A new file system.
        #[prost(message, tag = "3")]
        Filesystem(super::FilesystemSource),
        /// A read-only overlay of image layers (an image volume), or one layer.
        #[prost(message, tag = "4")]
        Layers(super::LayersSource),
        /// A part of the container's own root file system.
        #[prost(message, tag = "9")]
        Rootfs(super::RootfsSource),
    }
}

/// A bind mount's source.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BindSource {
    /// Absolute path on the host.
    #[prost(string, tag = "1")]
    pub path: String,
    /// With all that is mounted below it.
    #[prost(bool, tag = "2")]
    pub recursive: bool,
    /// Makes the folder if nothing is there, as containerd and CRI-O do for hostPath volumes.
    #[prost(bool, tag = "3")]
    pub create_dir: bool,
}

/// A new file system.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FilesystemSource {
    /// `proc`, `sysfs`, `tmpfs`, `devpts`, `mqueue`, `cgroup` (whatever this host has: the shim knows
    /// how a cgroup tree looks in a container).
    #[prost(string, tag = "1")]
    pub fs_type: String,
    /// `key=value` or `flag`, one each: `size=65536k`, `mode=755`.
    #[prost(string, repeated, tag = "2")]
    pub options: Vec<String>,
}

/// Image layers, read-only.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LayersSource {
    /// Top-most first, absolute paths.
    #[prost(string, repeated, tag = "1")]
    pub lowers: Vec<String>,
    /// A path inside them to mount instead of their root; resolved within them.
    #[prost(string, tag = "2")]
    pub sub_path: String,
}

/// A part of the container's own root file system, as a mount of its own. Where it is bound onto
/// itself, what is read-only of `/` ([`RootfsPlan::readonly`]) is not so for this part: that says
/// something of one mount and nothing of those below it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RootfsSource {
    /// Absolute path inside the container. A folder is made if nothing is there, 0755.
    #[prost(string, tag = "1")]
    pub path: String,
}

/// How mounts and unmounts travel. mount_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Propagation {
    /// As it comes.
    Inherit = 0,
    /// Neither way.
    Private = 1,
    /// From the host into the container.
    Slave = 2,
    /// Both ways.
    Shared = 3,
}

/// A device node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DevicePlan {
    /// Absolute path inside the container.
    #[prost(string, tag = "1")]
    pub path: String,
    /// `c`, `b` or `p`, as a character code.
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    /// Major number.
    #[prost(uint32, tag = "3")]
    pub major: u32,
    /// Minor number.
    #[prost(uint32, tag = "4")]
    pub minor: u32,
    /// Permission bits.
    #[prost(uint32, tag = "5")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "6")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "7")]
    pub gid: u32,
}

/// A process: the init process, or an exec that differs from it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProcessPlan {
    /// The command and its arguments. The command is looked up in the `PATH` of `env`, inside the root.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub args: Vec<Vec<u8>>,
    /// `NAME=value`. `HOME` is added from the image's passwd file if it is absent.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub env: Vec<Vec<u8>>,
    /// Working directory, absolute; made if it is absent.
    #[prost(string, tag = "3")]
    pub cwd: String,
    /// Who it runs as.
    #[prost(message, required, tag = "4")]
    pub user: UserPlan,
    /// Capability sets.
    #[prost(message, required, tag = "5")]
    pub capabilities: Capabilities,
    /// Resource limits.
    #[prost(message, repeated, tag = "6")]
    pub rlimits: Vec<Rlimit>,
    /// prctl(2) `PR_SET_NO_NEW_PRIVS`.
    #[prost(bool, tag = "7")]
    pub no_new_privileges: bool,
    /// -1000..1000; clamped to what the shim may set. Absent: the shim's own is not inherited but 0.
    #[prost(int32, optional, tag = "8")]
    pub oom_score_adj: Option<i32>,
    /// A finished seccomp filter: `struct sock_filter` × n in this machine's byte order. Empty: none.
    #[prost(bytes = "vec", tag = "9")]
    pub seccomp_bpf: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*` for it.
    #[prost(uint32, tag = "10")]
    pub seccomp_flags: u32,
    /// AppArmor profile to change to on exec; empty: none.
    #[prost(string, tag = "11")]
    pub apparmor_profile: String,
    /// SELinux label of the process; empty: none.
    #[prost(string, tag = "12")]
    pub selinux_label: String,
    /// A controlling terminal.
    #[prost(bool, tag = "13")]
    pub terminal: bool,
    /// File mode creation mask; absent: 0022.
    #[prost(uint32, optional, tag = "14")]
    pub umask: Option<u32>,
}

/// Who a process runs as, as far as the daemon knows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UserPlan {
    /// The user, by number or by a name of the image's `/etc/passwd`.
    #[prost(oneof = "user_plan::User", tags = "1, 2")]
    pub user: Option<user_plan::User>,
    /// The primary group, by number or by a name of the image's `/etc/group`; absent: the user's own
    /// group by the image's passwd file, else 0.
    #[prost(oneof = "user_plan::Group", tags = "3, 4")]
    pub group: Option<user_plan::Group>,
    /// Supplementary groups that were asked for.
    #[prost(uint32, repeated, tag = "5")]
    pub supplemental_groups: Vec<u32>,
    /// Also the groups of which the image's `/etc/group` makes the user a member (CRI
    /// `SupplementalGroupsPolicy` Merge); else only those asked for (Strict).
    #[prost(bool, tag = "6")]
    pub merge_image_groups: bool,
}

/// The choices of [`UserPlan`].
pub mod user_plan {
    /// The user. Absent: 0.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum User {
        /// A number is never looked up as a name.
        #[prost(uint32, tag = "1")]
        Uid(u32),
        /// A name of the image's passwd file; absent there is an error.
        #[prost(string, tag = "2")]
        Name(String),
    }

    /// The primary group.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Group {
        /// A number is never looked up as a name.
        #[prost(uint32, tag = "3")]
        Gid(u32),
        /// A name of the image's group file; absent there is an error.
        #[prost(string, tag = "4")]
        GroupName(String),
    }
}

/// Capability sets, a bit each: bit n is the capability with the number n (capabilities(7)).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Capabilities {
    /// Bounding set. What the shim itself does not have is left out, silently: it cannot be given.
    #[prost(uint64, tag = "1")]
    pub bounding: u64,
    /// Effective set.
    #[prost(uint64, tag = "2")]
    pub effective: u64,
    /// Permitted set.
    #[prost(uint64, tag = "3")]
    pub permitted: u64,
    /// Inheritable set.
    #[prost(uint64, tag = "4")]
    pub inheritable: u64,
    /// Ambient set.
    #[prost(uint64, tag = "5")]
    pub ambient: u64,
}

/// A resource limit, setrlimit(2). A hard limit over the shim's own is clamped to it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rlimit {
    /// `RLIMIT_*`, the kernel's number.
    #[prost(uint32, tag = "1")]
    pub resource: u32,
    /// Soft limit; `u64::MAX` is infinity.
    #[prost(uint64, tag = "2")]
    pub soft: u64,
    /// Hard limit; `u64::MAX` is infinity.
    #[prost(uint64, tag = "3")]
    pub hard: u64,
}

/// A container's cgroup.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CgroupPlan {
    // Tag 1 said who makes it: the shim always does.
    /// The path below each hierarchy's root, `/kubepods/burstable/pod…/<id>`. Where systemd has a scope
    /// for the container, a path in that.
    #[prost(string, tag = "2")]
    pub path: String,
    /// Its limits.
    #[prost(message, required, tag = "3")]
    pub resources: Resources,
    /// Device access: nothing but these. Rules are tried in order, the last that matches decides.
    #[prost(message, repeated, tag = "4")]
    pub device_rules: Vec<DeviceRule>,
}

/// A rule of the device cgroup.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeviceRule {
    /// Allows, or forbids.
    #[prost(bool, tag = "1")]
    pub allow: bool,
    /// `a` (both kinds), `c` or `b`, as a character code.
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    /// Absent: all.
    #[prost(uint32, optional, tag = "3")]
    pub major: Option<u32>,
    /// Absent: all.
    #[prost(uint32, optional, tag = "4")]
    pub minor: Option<u32>,
    /// May be read.
    #[prost(bool, tag = "5")]
    pub read: bool,
    /// May be written.
    #[prost(bool, tag = "6")]
    pub write: bool,
    /// A node for it may be made.
    #[prost(bool, tag = "7")]
    pub mknod: bool,
}

/// Limits. An absent field is left as it is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resources {
    /// cgroup v1 `cpu.shares`, 2–262144; converted to `cpu.weight` on v2.
    #[prost(uint64, optional, tag = "1")]
    pub cpu_shares: Option<u64>,
    /// Microseconds per period; -1: no limit.
    #[prost(int64, optional, tag = "2")]
    pub cpu_quota_us: Option<i64>,
    /// Microseconds.
    #[prost(uint64, optional, tag = "3")]
    pub cpu_period_us: Option<u64>,
    /// List format: `0-3,8`.
    #[prost(string, optional, tag = "4")]
    pub cpuset_cpus: Option<String>,
    /// List format.
    #[prost(string, optional, tag = "5")]
    pub cpuset_mems: Option<String>,
    /// Bytes; -1: no limit.
    #[prost(int64, optional, tag = "6")]
    pub memory_limit_bytes: Option<i64>,
    /// Memory and swap together, bytes; -1: no limit.
    #[prost(int64, optional, tag = "7")]
    pub memory_swap_limit_bytes: Option<i64>,
    /// Processes and threads; -1: no limit.
    #[prost(int64, optional, tag = "8")]
    pub pids_limit: Option<i64>,
    /// Huge page limits.
    #[prost(message, repeated, tag = "9")]
    pub hugepage_limits: Vec<HugepageLimit>,
    /// cgroup v2 files to write, by name (`memory.high`), sorted by name.
    #[prost(message, repeated, tag = "10")]
    pub unified: Vec<Sysctl>,
}

/// A limit of huge pages of one size.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HugepageLimit {
    /// As in the file's name: `2MB`, `1GB`.
    #[prost(string, tag = "1")]
    pub page_size: String,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub limit_bytes: u64,
}
