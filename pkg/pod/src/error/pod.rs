//! Errors of operations on pods.

use std::{io, path::PathBuf, sync::Arc};

use thiserror::Error;

use super::{Cause, FileError, FindError, RecordError};
use crate::{PodId, shim::ShimError};

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
    /// The pod got no SELinux level of its own.
    #[error("choose an SELinux level for pod {id}")]
    SelinuxLevel {
        /// The pod.
        id: PodId,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The pod asks for an SELinux label that the node's policy does not know.
    #[error("the SELinux policy does not take label {label:?} of pod {id}")]
    SelinuxLabel {
        /// The pod.
        id: PodId,
        /// What was asked for, and what completes it.
        label: String,
        /// The kernel's answer.
        source: Arc<io::Error>,
    },
    /// The pod got no user namespace.
    #[error("make the user namespace of pod {id}")]
    UserNamespace {
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
