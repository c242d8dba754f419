//! Why a plan cannot be made: always a fault of what was asked for.

use crate::capability::UnknownCapability;
use crate::seccomp::{CompileError, ProfileError};
use crate::signal::UnknownSignal;
use crate::sysctl::SysctlError;

/// Why no plan could be computed. Every variant is the fault of the request or of the image, except
/// those that name a missing input.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Neither request nor image say what to run.
    #[error("no command: neither the container nor its image has one")]
    NoCommand,
    /// A text has a NUL byte in it.
    #[error("{field} contains a NUL byte")]
    Nul {
        /// What it is.
        field: &'static str,
    },
    /// A variable's name cannot be one.
    #[error("environment variable name {name:?} is empty or contains '=' or a NUL byte")]
    EnvName {
        /// As given.
        name: String,
    },
    /// A path is not absolute or has a `..`.
    #[error("{field} {path:?}: {problem}")]
    Path {
        /// What it is.
        field: &'static str,
        /// As given.
        path: String,
        /// What is wrong.
        problem: PathProblem,
    },
    /// A user or group text.
    #[error("{field} {text:?}: {problem}")]
    User {
        /// Where it came from.
        field: &'static str,
        /// As given.
        text: String,
        /// What is wrong.
        problem: UserProblem,
    },
    /// A group without a user.
    #[error("run_as_group is set, but neither run_as_user nor run_as_username is")]
    GroupWithoutUser,
    /// Too many of something.
    #[error("{count} {what}, at most {max} are possible")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A capability that the kernel does not have.
    #[error("capability to {action}")]
    Capability {
        /// `add` or `drop`.
        action: &'static str,
        /// Which.
        #[source]
        source: UnknownCapability,
    },
    /// The pod does not allow it.
    #[error("a privileged container needs a privileged pod sandbox")]
    PrivilegedInUnprivilegedPod,
    /// The sandbox has no PID namespace to share.
    #[error("the container wants the pod's PID namespace, but the pod sandbox has none of its own")]
    NoPodPidNamespace,
    /// A user namespace owns nothing of the host's, so that a container could not even see it.
    #[error("a pod with a user namespace of its own cannot have the host's {namespace} namespace")]
    HostNamespaceInUserNamespace {
        /// Which.
        namespace: &'static str,
    },
    /// A pod has one user namespace.
    #[error("the user namespace of the container is not that of its pod sandbox")]
    OtherUserNamespace,
    /// Nobody in there can be it.
    #[error("{field} {id} is not mapped by the pod's user namespace, which has 0 to {last}")]
    UnmappedId {
        /// What it is.
        field: &'static str,
        /// As given.
        id: u32,
        /// The last one that is.
        last: u32,
    },
    /// A sandbox cannot be in a container's namespace.
    #[error("the PID namespace mode of a pod sandbox cannot be that of a target container")]
    SandboxTargetPid,
    /// A target container's id is not one.
    #[error("target container id {id:?} is not an id")]
    TargetId {
        /// As given.
        id: String,
    },
    /// A mount cannot be there.
    #[error("mount at {path:?}: {problem}")]
    Mount {
        /// In the container.
        path: String,
        /// What is wrong.
        problem: MountProblem,
    },
    /// An input that the caller must supply is not there.
    #[error("no layers were given for the image mount at {path:?}")]
    ImageMountMissing {
        /// In the container.
        path: String,
    },
    /// An input that the caller must supply is not there.
    #[error("device {path:?} was not looked up, or there is none")]
    DeviceMissing {
        /// On the host.
        path: String,
    },
    /// Not built yet, and a device that silently is not there would be worse.
    #[error("CDI device {name:?} was asked for, but CDI devices are not supported")]
    Cdi {
        /// As given.
        name: String,
    },
    /// Device permissions.
    #[error("device {path:?}: permissions {permissions:?} are not made of r, w and m")]
    DevicePermissions {
        /// In the container.
        path: String,
        /// As given.
        permissions: String,
    },
    /// A limit.
    #[error("{field} {value:?}: {problem}")]
    Resource {
        /// Its name in CRI.
        field: &'static str,
        /// As given.
        value: String,
        /// What is wrong.
        problem: ResourceProblem,
    },
    /// `unified` needs cgroup v2.
    #[error("unified cgroup settings need cgroup v2, which this node does not have")]
    UnifiedWithoutV2,
    /// A cgroup parent of the wrong form.
    #[error("cgroup parent {parent:?}: {problem}")]
    CgroupParent {
        /// As given.
        parent: String,
        /// What is wrong.
        problem: CgroupProblem,
    },
    /// The host name.
    #[error("host name {hostname:?}: {problem}")]
    Hostname {
        /// As given.
        hostname: String,
        /// What is wrong.
        problem: HostnameProblem,
    },
    /// A kernel setting.
    #[error("sysctl {key:?}")]
    Sysctl {
        /// As given.
        key: String,
        /// What is wrong.
        #[source]
        source: SysctlError,
    },
    /// The stop signal.
    #[error("stop signal")]
    StopSignal(#[source] UnknownSignal),
    /// The content of a seccomp profile was not handed in.
    #[error("the content of seccomp profile {path:?} was not given")]
    SeccompMissing {
        /// On the node.
        path: String,
    },
    /// A seccomp profile that is not one.
    #[error("seccomp profile {path:?}")]
    SeccompProfile {
        /// On the node.
        path: String,
        /// What is wrong.
        #[source]
        source: ProfileError,
    },
    /// A seccomp profile that cannot be carried out.
    #[error("compile seccomp profile {path:?}")]
    SeccompCompile {
        /// On the node, or `runtime/default`.
        path: String,
        /// What is wrong.
        #[source]
        source: CompileError,
    },
    /// AppArmor was asked for by name where there is none.
    #[error("AppArmor profile {profile:?} was asked for, but AppArmor is not enabled on this node")]
    AppArmorAbsent {
        /// As given.
        profile: String,
    },
    /// AppArmor was asked for by a name that is not loaded.
    #[error("AppArmor profile {profile:?} is not loaded on this node")]
    AppArmorNotLoaded {
        /// As given.
        profile: String,
    },
    /// A label was asked for that no policy can allow.
    #[error("an SELinux label was asked for, but the policy of this node knows nothing of containers")]
    SelinuxWithoutContainers,
    /// A part of an SELinux label.
    #[error("SELinux {part} {value:?} cannot be part of a label")]
    SelinuxPart {
        /// Which.
        part: &'static str,
        /// As given.
        value: String,
    },
    /// The plan as a whole.
    #[error("the container's plan has {bytes} bytes, at most {max} can be told to a shim")]
    TooLarge {
        /// How many.
        bytes: usize,
        /// How many there may be.
        max: usize,
    },
    /// A root file system is made of layers.
    #[error("no layers were given for the root file system")]
    NoLayers,
}

/// What is wrong with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// Not from `/`.
    #[error("it is not absolute")]
    NotAbsolute,
    /// Goes up.
    #[error("it contains `..`")]
    ParentComponent,
    /// Over `PATH_MAX`.
    #[error("it is longer than 4095 bytes")]
    TooLong,
    /// Holds a NUL byte or a line break.
    #[error("it contains a NUL byte or a line break")]
    ControlByte,
    /// Is the root itself.
    #[error("it is the root")]
    Root,
    /// Not UTF-8.
    #[error("it is not UTF-8")]
    NotUtf8,
}

/// What is wrong with a user or group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserProblem {
    /// Nothing there.
    #[error("the user or group is empty")]
    Empty,
    /// More than one `:`.
    #[error("it has more than one ':'")]
    Colons,
    /// Over 2^32-2.
    #[error("the number is larger than 4294967294")]
    OutOfRange,
    /// `007`.
    #[error("the number has a leading zero")]
    LeadingZero,
    /// Neither a number nor a name.
    #[error("it is neither a decimal number nor a name of letters, digits, '_', '-', '.' and '@'")]
    NotAName,
}

/// What is wrong with a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MountProblem {
    /// `/proc` must be a procfs.
    #[error("nothing but the host's /proc can be mounted on /proc, and only single files below it")]
    Proc,
    /// Bidirectional is for privileged containers.
    #[error("bidirectional propagation needs a privileged container")]
    BidirectionalUnprivileged,
    /// `rro` and propagation.
    #[error("a recursively read-only mount must have private propagation")]
    RecursiveReadOnlyPropagation,
    /// `rro` on an old kernel.
    #[error("a recursively read-only mount needs Linux 5.12")]
    RecursiveReadOnlyKernel,
    /// An image's content is never written to.
    #[error("an image can be mounted read-only and with private propagation only")]
    ImageAccess,
    /// An idmapped mount in a pod without a user namespace, or with other ids.
    #[error("the ids that it maps are not those of a user namespace of the pod")]
    Idmap,
    /// A sub path that goes up or is absolute.
    #[error("the image sub path must be relative and without `..`")]
    SubPath,
}

/// What is wrong with a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResourceProblem {
    /// Out of range.
    #[error("it is out of range")]
    Range,
    /// Not a list of numbers.
    #[error("it is not a list of numbers and ranges")]
    List,
    /// Not a page size.
    #[error("it is not a page size such as 2MB")]
    PageSize,
    /// Given twice.
    #[error("it is given more than once")]
    Duplicate,
    /// Not a cgroup file.
    #[error("it is not the name of a cgroup v2 file")]
    UnifiedKey,
    /// Control bytes.
    #[error("it contains a control character or is longer than 4096 bytes")]
    UnifiedValue,
    /// Memory and swap together are less than memory.
    #[error("it is less than the memory limit")]
    SwapBelowMemory,
}

/// What is wrong with a cgroup parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CgroupProblem {
    /// A path with `..`, `:` or control characters.
    #[error("it must be a path without `..`, ':' and control characters")]
    Grammar,
    /// systemd wants a slice.
    #[error("the systemd cgroup driver needs the name of a slice, such as kubepods-pod1.slice")]
    NotASlice,
    /// A slice is systemd's to make; the pod would be outside of what its own name says.
    #[error(
        "a slice is for the systemd cgroup driver, and this runtime's is cgroupfs: the kubelet's cgroupDriver must be \
         the same"
    )]
    Slice,
    /// The kernel takes no longer path.
    #[error("it is longer than 4095 bytes")]
    TooLong,
}

/// What is wrong with a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostnameProblem {
    /// The kernel's limit, `__NEW_UTS_LEN`.
    #[error("it is longer than 64 bytes")]
    TooLong,
    /// Not a letter, digit, `-`, `_` or `.`.
    #[error("it has a character other than letters, digits, '-', '_' and '.'")]
    Character,
}
