//! What the rest of the daemon does for this room.

use std::{error::Error, future::Future, pin::Pin};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::token::{AttachTarget, ExecTarget};

/// A future that a [`Backend`] gives back.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send + 'a>>;

/// Why a backend could not do it; told to the client.
pub type BackendError = Box<dyn Error + Send + Sync>;

/// Opens what sessions stream to.
pub trait Backend: Send + Sync + 'static {
    /// Runs a command in a container.
    fn exec(&self, target: ExecTarget) -> Answer<'_, Process>;

    /// Joins a container's streams.
    fn attach(&self, target: AttachTarget) -> Answer<'_, Process>;

    /// Connects to a port on the loopback of a pod's network, IPv4 or IPv6.
    fn connect(&self, pod: String, port: u16) -> Answer<'_, tokio::net::TcpStream>;
}

/// A process and its streams.
pub struct Process {
    /// Where to write its stdin.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Where to read its stdout, or its terminal.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Where to read its stderr.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Its terminal, if it has one.
    pub terminal: Option<Box<dyn Terminal>>,
    /// Resolves with its exit code when it has ended. For attach: with 0 when the container has.
    pub exit: Pin<Box<dyn Future<Output = Result<i32, BackendError>> + Send>>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}

/// A terminal whose size can change.
pub trait Terminal: Send + Sync {
    /// Tells it its size.
    fn resize(&self, size: Size) -> Answer<'_, ()>;
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}
