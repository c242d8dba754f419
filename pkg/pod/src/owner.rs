//! The owner of a pod.

use std::{sync::Arc, time::Duration};

use carpel_spec::config::{ContainerConfig, Resources};
use tokio::sync::{mpsc, oneshot};

use crate::{
    ContainerId, CreateError, RemoveContainerError, RemovePodError, ReopenLogError, StartError,
    StopContainerError, StopPodError, UpdateError, shim::Shim,
};

/// How to reach a pod's owner.
#[derive(Debug, Clone)]
pub(crate) struct PodHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    /// The pod's shim; absent once it has gone.
    pub(crate) shim: Option<Arc<Shim>>,
}

/// What an owner is asked for. Each is answered exactly once.
#[derive(Debug)]
pub(crate) enum Command {
    StopPod(Reply<StopPodError>),
    RemovePod(Reply<RemovePodError>),
    Create { config: Box<ContainerConfig>, reply: Reply<CreateError, ContainerId> },
    Start { id: ContainerId, reply: Reply<StartError> },
    StopContainer { id: ContainerId, grace: Duration, reply: Reply<StopContainerError> },
    RemoveContainer { id: ContainerId, reply: Reply<RemoveContainerError> },
    Update { id: ContainerId, resources: Resources, reply: Reply<UpdateError> },
    ReopenLog { id: ContainerId, reply: Reply<ReopenLogError> },
}

/// Where an answer goes.
pub(crate) type Reply<E, T = ()> = oneshot::Sender<Result<T, E>>;
