//! What can go wrong, an enum for each operation.
//!
//! The causes are shared by all callers that joined an operation, which is why they stand in an
//! [`Arc`]. `Display` says operation and subject; the cause is told by `source()` only.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use thiserror::Error;

use crate::{ContainerId, PodId, shim::ShimError};

/// A cause of another room, shared by all callers that joined the operation.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// What an id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A pod sandbox.
    Pod,
    /// A container.
    Container,
}

impl std::fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ObjectKind::Pod => "pod sandbox",
            ObjectKind::Container => "container",
        })
    }
}

/// An id, or the beginning of one, that does not lead to one thing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FindError {
    /// Nothing has this id.
    #[error("{kind} {id:?} does not exist")]
    NotFound {
        /// What was looked for.
        kind: ObjectKind,
        /// As given.
        id: String,
    },
    /// More than one id begins like this.
    #[error("more than one {kind} has an id that begins with {prefix:?}")]
    Ambiguous {
        /// What was looked for.
        kind: ObjectKind,
        /// As given.
        prefix: String,
    },
}

/// A record could not be written, read or removed.
#[derive(Debug, Error)]
#[error("{action} record {}", path.display())]
pub struct RecordError {
    /// `write`, `read`, `remove`.
    pub action: &'static str,
    /// Which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// A step with files of a pod or container failed.
#[derive(Debug, Error)]
#[error("{action} {}", path.display())]
pub struct FileError {
    /// The verb: `create`, `write`, `check`.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// [`crate::Pods::open`] failed. A damaged record never is the reason: it is put aside.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A folder or file of the daemon's own is not usable.
    #[error("open the pods' state")]
    File(#[from] FileError),
    /// The shim's program is not usable.
    #[error("load shim {}", path.display())]
    Shim {
        /// From the configuration.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The node's cgroups are not usable.
    #[error("look at the node's cgroups")]
    Cgroups(#[source] carpel_cgroups::DetectError),
    /// The daemon's own capabilities are not readable.
    #[error("read the daemon's own capabilities")]
    Capabilities(#[source] io::Error),
    /// A configured default capability does not exist.
    #[error("use the configured default capabilities")]
    DefaultCapability(#[source] carpel_spec::capability::UnknownCapability),
    /// No seccomp programs can be made for this processor.
    #[error("this processor's architecture is not supported")]
    Architecture,
    /// A thread that read the disk ended early.
    #[error("reading the pods' state was broken off")]
    BrokenOff(#[source] tokio::task::JoinError),
    /// The kernel's boot id is not readable.
    #[error("read the kernel's boot id")]
    BootId(#[source] io::Error),
}

/// [`crate::Pods::run`] failed; nothing is left of the pod, or it is listed as `NotReady`.
#[derive(Debug, Clone, Error)]
pub enum RunError {
    /// Another pod has this name and attempt, and another configuration or it was stopped.
    #[error("pod {name:?} attempt {attempt} exists already as {id}, with another configuration or stopped")]
    NameTaken {
        /// Namespace and name.
        name: String,
        /// Attempt.
        attempt: u32,
        /// Who has it.
        id: PodId,
    },
    /// No such runtime handler.
    #[error("runtime handler {0:?} does not exist")]
    UnknownHandler(String),
    /// No id could be drawn.
    #[error("draw an id for a pod")]
    Id(#[source] Arc<io::Error>),
    /// A record could not be written.
    #[error("record pod {id}")]
    Record {
        /// The pod.
        id: PodId,
        /// Why.
        source: Arc<RecordError>,
    },
    /// A file or folder of the pod could not be made.
    #[error("make the files of pod {id}")]
    File {
        /// The pod.
        id: PodId,
        /// Why.
        source: Arc<FileError>,
    },
    /// The configuration cannot be carried out.
    #[error("plan pod {id}")]
    Plan {
        /// The pod.
        id: PodId,
        /// Why.
        source: Cause,
    },
    /// The pod got no network.
    #[error("attach pod {id} to the network")]
    Network {
        /// The pod.
        id: PodId,
        /// Why.
        source: Cause,
    },
    /// The shim could not be started.
    #[error("start the shim of pod {id}")]
    Spawn {
        /// The pod.
        id: PodId,
        /// Why.
        source: Cause,
    },
    /// The shim refused or was lost.
    #[error("set up pod {id}")]
    Shim {
        /// The pod.
        id: PodId,
        /// Why.
        source: Arc<ShimError>,
    },
    /// The operation ended without a result: a defect.
    #[error("running pod {0} was broken off")]
    BrokenOff(PodId),
}

/// [`crate::Pods::stop`] failed; the pod stays listed and the call can be repeated.
#[derive(Debug, Clone, Error)]
pub enum StopPodError {
    /// The id leads to more than one pod.
    #[error("stop pod")]
    Find(#[from] FindError),
    /// Containers are still alive after SIGKILL.
    #[error("containers of pod {id} survive SIGKILL: {survivors}")]
    Unkillable {
        /// The pod.
        id: PodId,
        /// Which processes, and what they wait for.
        survivors: String,
    },
    /// The network could not be given back.
    #[error("detach pod {id} from the network")]
    Network {
        /// The pod.
        id: PodId,
        /// Why.
        source: Cause,
    },
    /// A record could not be written.
    #[error("record that pod {id} is stopped")]
    Record {
        /// The pod.
        id: PodId,
        /// Why.
        source: Arc<RecordError>,
    },
}

/// [`crate::Pods::remove`] failed; the pod stays listed and the call can be repeated.
#[derive(Debug, Clone, Error)]
pub enum RemovePodError {
    /// The id leads to more than one pod.
    #[error("remove pod")]
    Find(#[from] FindError),
    /// It could not be stopped first.
    #[error("stop pod before it is removed")]
    Stop(#[source] StopPodError),
    /// A record could not be removed.
    #[error("remove the record of pod {id}")]
    Record {
        /// The pod.
        id: PodId,
        /// Why.
        source: Arc<RecordError>,
    },
}

/// [`crate::Pods::create_container`] failed; nothing is left of the container.
#[derive(Debug, Clone, Error)]
pub enum CreateError {
    /// The pod does not exist.
    #[error("create container")]
    Find(#[from] FindError),
    /// The pod is stopped.
    #[error("create container: pod {0} is not ready")]
    PodNotReady(PodId),
    /// Another container of the pod has this name and attempt, and another configuration.
    #[error("container {name:?} attempt {attempt} exists already as {id}, with another configuration")]
    NameTaken {
        /// Name.
        name: String,
        /// Attempt.
        attempt: u32,
        /// Who has it.
        id: ContainerId,
    },
    /// A privileged container in a pod that does not allow it.
    #[error("container {name:?} is privileged and its pod {pod} is not")]
    PrivilegedNotAllowed {
        /// Name.
        name: String,
        /// The pod.
        pod: PodId,
    },
    /// The container whose PID namespace is to be joined is not one of this pod's running ones.
    #[error("container {name:?} targets the processes of {target:?}")]
    PidTarget {
        /// Name.
        name: String,
        /// As given.
        target: String,
        /// Why not.
        source: FindError,
    },
    /// The image is not here.
    #[error("image {0:?} does not exist on this node")]
    ImageNotFound(String),
    /// The image is here and not usable.
    #[error("use image {image:?}")]
    Image {
        /// As given.
        image: String,
        /// Why.
        source: Cause,
    },
    /// An image that is to be mounted as a volume is not usable.
    #[error("mount image {image:?} as a volume")]
    ImageVolume {
        /// As given.
        image: String,
        /// Why.
        source: Cause,
    },
    /// The configuration cannot be carried out.
    #[error("plan container {name:?}")]
    Plan {
        /// Name.
        name: String,
        /// Why.
        source: Cause,
    },
    /// No id could be drawn.
    #[error("draw an id for container {name:?}")]
    Id {
        /// Name.
        name: String,
        /// Why.
        source: Arc<io::Error>,
    },
    /// A mount's source or a device of the host is not usable.
    #[error("container {name:?} asks for what the host does not have")]
    Host {
        /// Name.
        name: String,
        /// What, and why.
        source: Arc<FileError>,
    },
    /// The host did not answer about a mount's source or a device in time: a dead mount, likely.
    #[error("container {name:?}: {} did not answer within {waited:?}", path.display())]
    HostTimeout {
        /// Name.
        name: String,
        /// On the host.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// A file or folder of the container could not be made.
    #[error("make the files of container {id}")]
    File {
        /// The container.
        id: ContainerId,
        /// Why.
        source: Arc<FileError>,
    },
    /// A record could not be written.
    #[error("record container {id}")]
    Record {
        /// The container.
        id: ContainerId,
        /// Why.
        source: Arc<RecordError>,
    },
    /// The shim refused or was lost.
    #[error("create container {id}")]
    Shim {
        /// The container.
        id: ContainerId,
        /// Why.
        source: Arc<ShimError>,
    },
    /// The pod was removed meanwhile.
    #[error("creating container {0:?} was broken off: its pod is being removed")]
    BrokenOff(String),
}

/// [`crate::Pods::start_container`] failed. If it was the command, the container is `Exited` with
/// reason `StartError`.
#[derive(Debug, Clone, Error)]
pub enum StartError {
    /// The container does not exist.
    #[error("start container")]
    Find(#[from] FindError),
    /// It is not in state `Created`.
    #[error("container {0} is not in state created")]
    NotCreated(ContainerId),
    /// The shim refused or was lost.
    #[error("start container {id}")]
    Shim {
        /// The container.
        id: ContainerId,
        /// Why.
        source: Arc<ShimError>,
    },
}

/// [`crate::Pods::stop_container`] failed; it goes on being killed.
#[derive(Debug, Clone, Error)]
pub enum StopContainerError {
    /// The id leads to more than one container.
    #[error("stop container")]
    Find(#[from] FindError),
    /// Still alive after SIGKILL.
    #[error("container {id} survives SIGKILL: {survivors}")]
    Unkillable {
        /// The container.
        id: ContainerId,
        /// Which processes, and what they wait for.
        survivors: String,
    },
}

/// [`crate::Pods::remove_container`] failed; the call can be repeated.
#[derive(Debug, Clone, Error)]
pub enum RemoveContainerError {
    /// The id leads to more than one container.
    #[error("remove container")]
    Find(#[from] FindError),
    /// It could not be stopped first.
    #[error("stop container before it is removed")]
    Stop(#[source] StopContainerError),
    /// The shim refused.
    #[error("remove container {id}")]
    Shim {
        /// The container.
        id: ContainerId,
        /// Why.
        source: Arc<ShimError>,
    },
    /// A record could not be removed.
    #[error("remove the record of container {id}")]
    Record {
        /// The container.
        id: ContainerId,
        /// Why.
        source: Arc<RecordError>,
    },
}

/// [`crate::Pods::update_resources`] failed; the old limits are in force.
#[derive(Debug, Clone, Error)]
pub enum UpdateError {
    /// The container does not exist.
    #[error("update container")]
    Find(#[from] FindError),
    /// It has exited.
    #[error("container {0} is neither created nor running")]
    NotAlive(ContainerId),
    /// The limits make no sense.
    #[error("plan the limits of container {id}")]
    Plan {
        /// The container.
        id: ContainerId,
        /// Why.
        source: Cause,
    },
    /// The shim refused or was lost.
    #[error("update the limits of container {id}")]
    Shim {
        /// The container.
        id: ContainerId,
        /// Why.
        source: Arc<ShimError>,
    },
    /// The new limits are in force and could not be recorded.
    #[error("record the limits of container {id}")]
    Record {
        /// The container.
        id: ContainerId,
        /// Why.
        source: Arc<RecordError>,
    },
}

/// [`crate::Pods::reopen_log`] failed; no file was made.
#[derive(Debug, Clone, Error)]
pub enum ReopenLogError {
    /// The container does not exist.
    #[error("reopen a container's log")]
    Find(#[from] FindError),
    /// It does not run.
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// The shim refused or was lost.
    #[error("reopen the log of container {id}")]
    Shim {
        /// The container.
        id: ContainerId,
        /// Why.
        source: Arc<ShimError>,
    },
}

/// [`crate::Pods::exec_sync`] or [`crate::Pods::exec`] failed.
#[derive(Debug, Error)]
pub enum ExecError {
    /// The container does not exist.
    #[error("exec in a container")]
    Find(#[from] FindError),
    /// It does not run.
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// There is nothing to run.
    #[error("exec in container {0}: the command is empty")]
    EmptyCommand(ContainerId),
    /// The time was over; the process and all that it started was killed.
    #[error("command in container {id} did not end within {timeout:?}")]
    Timeout {
        /// The container.
        id: ContainerId,
        /// As asked for.
        timeout: Duration,
    },
    /// The shim refused or was lost.
    #[error("exec in container {id}")]
    Shim {
        /// The container.
        id: ContainerId,
        /// Why.
        source: ShimError,
    },
    /// A stream broke.
    #[error("read the output of a command in container {id}")]
    Io {
        /// The container.
        id: ContainerId,
        /// Why.
        source: io::Error,
    },
}

/// [`crate::Pods::attach`] failed.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The container does not exist.
    #[error("attach to a container")]
    Find(#[from] FindError),
    /// It does not run.
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// The shim refused or was lost.
    #[error("attach to container {id}")]
    Shim {
        /// The container.
        id: ContainerId,
        /// Why.
        source: ShimError,
    },
    /// A stream is not usable.
    #[error("take over the streams of container {id}")]
    Io {
        /// The container.
        id: ContainerId,
        /// Why.
        source: io::Error,
    },
}

/// [`crate::Pods::netns_of`] failed.
#[derive(Debug, Error)]
pub enum NetnsError {
    /// The pod does not exist.
    #[error("enter a pod's network")]
    Find(#[from] FindError),
    /// It is stopped.
    #[error("pod {0} is not ready")]
    NotReady(PodId),
    /// The namespace cannot be opened.
    #[error("open the network namespace of pod {id} at {}", path.display())]
    Open {
        /// The pod.
        id: PodId,
        /// Where it is pinned.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// [`crate::Pods::container_stats`] or [`crate::Pods::pod_stats`] failed.
#[derive(Debug, Error)]
pub enum StatsError {
    /// It does not exist.
    #[error("read statistics")]
    Find(#[from] FindError),
}
