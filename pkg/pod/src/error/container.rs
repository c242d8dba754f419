//! Errors of operations on containers.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use thiserror::Error;

use super::{Cause, FileError, FindError, RecordError};
use crate::{AppArmorError, ContainerId, PodId, ScopeError, shim::ShimError};

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
    /// It needs an AppArmor profile that cannot be had.
    #[error("confine container {name:?}")]
    AppArmor {
        /// Name.
        name: String,
        /// Why.
        source: Arc<AppArmorError>,
    },
    /// It asks for an SELinux label that the node's policy does not know.
    #[error("the SELinux policy does not take label {label:?} of container {name:?}")]
    SelinuxLabel {
        /// Name.
        name: String,
        /// What was asked for, and what completes it.
        label: String,
        /// The kernel's answer.
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
    /// systemd did not make the container's scope.
    #[error("make the scope of container {id}")]
    Scope {
        /// The container.
        id: ContainerId,
        /// Why.
        source: Arc<ScopeError>,
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

/// [`crate::Pods::container_stats`] or [`crate::Pods::pod_stats`] failed.
#[derive(Debug, Error)]
pub enum StatsError {
    /// It does not exist.
    #[error("read statistics")]
    Find(#[from] FindError),
}
