//! Joining a running container's stdio.

use std::sync::Arc;

use carpel_shim_api::message::Attach;

use crate::{
    AttachError, ContainerId,
    exec::{Streams, pipe_streams},
    shim::{Shim, ShimError},
    stdio::{StdioReader, StdioWriter},
};

/// Which streams of a container to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachRequest {
    /// Write to its stdin.
    pub stdin: bool,
    /// Read its stdout, or its terminal.
    pub stdout: bool,
    /// Read its stderr.
    pub stderr: bool,
}

/// A container's streams, from now on. The readers end with the container.
#[derive(Debug)]
pub struct AttachSession {
    /// Where to write its stdin.
    pub stdin: Option<StdioWriter>,
    /// Where to read its stdout, or its terminal.
    pub stdout: Option<StdioReader>,
    /// Where to read its stderr.
    pub stderr: Option<StdioReader>,
    /// Its terminal, if it has one.
    pub terminal: ContainerTerminal,
}

/// A container's terminal.
#[derive(Debug, Clone)]
pub struct ContainerTerminal {
    pub(crate) shim: Arc<Shim>,
    pub(crate) container: ContainerId,
}

impl ContainerTerminal {
    /// Tells the terminal its size, in characters.
    ///
    /// # Errors
    /// The shim refused (no terminal) or was lost.
    pub async fn resize(&self, width: u32, height: u32) -> Result<(), ShimError> {
        self.shim.resize(&self.container, "", width, height).await
    }
}

/// Joins a container's streams. See [`crate::Pods::attach`].
pub(crate) async fn start(
    shim: Arc<Shim>,
    container: ContainerId,
    request: AttachRequest,
) -> Result<AttachSession, AttachError> {
    let AttachRequest { stdin, stdout, stderr } = request;
    let attach = Attach { container_id: container.to_string(), stdin, stdout, stderr };
    let fds = match shim.attach(attach).await {
        Ok(fds) => fds,
        Err(source) => return Err(AttachError::Shim { id: container, source }),
    };
    match pipe_streams(fds, stdin, stdout, stderr) {
        Ok(Streams { stdin, stdout, stderr }) => {
            let terminal = ContainerTerminal { shim, container };
            Ok(AttachSession { stdin, stdout, stderr, terminal })
        }
        Err(source) => Err(AttachError::Io { id: container, source }),
    }
}
