//! Processes and streams of running containers. They go straight to the shim, past the owner: an
//! exec never waits for a stop's grace, and the shim knows best whether the container runs.

use std::{fs::File, os::fd::OwnedFd, sync::Arc, time::Duration};

use crate::{
    AttachError, AttachRequest, AttachSession, ContainerId, ContainerState, ExecError, ExecOutput,
    ExecRequest, ExecSession, FindError, NetnsError, PodState, Pods, attach, exec, shim::Shim,
};

impl Pods {
    /// Runs a command in a container to its end. Output over the configured limit is read and
    /// dropped. When the time is over, or the caller has gone, the command is killed with every
    /// process that it started.
    ///
    /// # Errors
    /// See [`ExecError`]. An exit code other than 0 is none.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, ExecError> {
        let (id, shim) = match self.running(id)? {
            Running::Yes(id, shim) => (id, shim),
            Running::No(id) => return Err(ExecError::NotRunning(id)),
        };
        if command.is_empty() {
            return Err(ExecError::EmptyCommand(id));
        }
        exec::sync::run(shim, id, command, timeout, self.shared.config.exec_output_max_bytes).await
    }

    /// Starts a command in a container. It runs on when the session is dropped.
    ///
    /// # Errors
    /// See [`ExecError`].
    pub async fn exec(&self, id: &str, request: ExecRequest) -> Result<ExecSession, ExecError> {
        let (id, shim) = match self.running(id)? {
            Running::Yes(id, shim) => (id, shim),
            Running::No(id) => return Err(ExecError::NotRunning(id)),
        };
        if request.command.is_empty() {
            return Err(ExecError::EmptyCommand(id));
        }
        exec::start(shim, id, request).await
    }

    /// Joins the streams of a container that runs, or is about to be started.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub async fn attach(&self, id: &str, request: AttachRequest) -> Result<AttachSession, AttachError> {
        let (container, handle) = self.shared.catalog.find_owned(id)?;
        let id = container.id.clone();
        match (&container.state, handle.shim) {
            (ContainerState::Created | ContainerState::Running { .. }, Some(shim)) => {
                attach::start(shim, id, request).await
            }
            _ => Err(AttachError::NotRunning(id)),
        }
    }

    /// A pod's network namespace, for port-forwarding; `None` with the host's network.
    ///
    /// # Errors
    /// See [`NetnsError`].
    pub fn netns_of(&self, pod: &str) -> Result<Option<OwnedFd>, NetnsError> {
        let (pod, _) = self.shared.catalog.find_pod(pod)?;
        match (pod.state, &pod.netns) {
            (PodState::NotReady, _) => Err(NetnsError::NotReady(pod.id.clone())),
            (PodState::Ready, None) => Ok(None),
            (PodState::Ready, Some(path)) => match File::open(path) {
                Ok(file) => Ok(Some(file.into())),
                Err(source) => Err(NetnsError::Open { id: pod.id.clone(), path: path.clone(), source }),
            },
        }
    }

    fn running(&self, id: &str) -> Result<Running, FindError> {
        let (container, handle) = self.shared.catalog.find_owned(id)?;
        match (&container.state, handle.shim) {
            (ContainerState::Running { .. }, Some(shim)) => Ok(Running::Yes(container.id.clone(), shim)),
            _ => Ok(Running::No(container.id.clone())),
        }
    }
}

enum Running {
    Yes(ContainerId, Arc<Shim>),
    No(ContainerId),
}
