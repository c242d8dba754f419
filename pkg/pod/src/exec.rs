//! One more process in a running container, and its streams.

pub(crate) mod sync;

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use carpel_shim_api::message::{Exec, ExecPlan};

use crate::{
    ContainerId, ExecError,
    shim::{ExecExit, Shim, ShimError},
    stdio::{StdioReader, StdioWriter},
};

/// Longest wait for a command to have started.
const START_MAX: Duration = Duration::from_secs(60);

/// A command to run in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// The command and its arguments; at least one.
    pub command: Vec<String>,
    /// Which streams the process has.
    pub streams: ExecStreams,
}

/// The streams of an exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecStreams {
    /// A controlling terminal: it reads stdin, and stdout and stderr are one.
    Pty,
    /// A pipe for each that is wanted.
    Pipes {
        /// The caller writes to it; else it reads `/dev/null`.
        stdin: bool,
        /// The caller reads it; else it goes to `/dev/null`.
        stdout: bool,
        /// As stdout.
        stderr: bool,
    },
}

/// What a command left when it had ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// The first bytes of its stdout; both streams together are within the configured limit.
    pub stdout: Vec<u8>,
    /// The first bytes of its stderr.
    pub stderr: Vec<u8>,
    /// 0–255; 128 plus the signal's number when a signal ended it.
    pub exit_code: i32,
}

/// A command that runs, with its streams. Dropping it closes the streams and does not end the command.
#[derive(Debug)]
pub struct ExecSession {
    /// Where to write its stdin.
    pub stdin: Option<StdioWriter>,
    /// Where to read its stdout, or its terminal.
    pub stdout: Option<StdioReader>,
    /// Where to read its stderr.
    pub stderr: Option<StdioReader>,
    /// The process itself.
    pub process: ExecProcess,
}

/// A command that runs in a container.
#[derive(Debug)]
pub struct ExecProcess {
    pub(crate) shim: Arc<Shim>,
    pub(crate) container: ContainerId,
    pub(crate) exec_id: String,
    pub(crate) pid: i32,
    pub(crate) exit: ExecExit,
}

impl ExecProcess {
    /// The process, in the daemon's pid namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Tells a terminal its size, in characters.
    ///
    /// # Errors
    /// The shim refused (no terminal) or was lost.
    pub async fn resize(&self, width: u32, height: u32) -> Result<(), ShimError> {
        self.shim.resize(&self.container, &self.exec_id, width, height).await
    }

    /// Waits until it has ended, and gives its exit code. May be called again.
    ///
    /// # Errors
    /// The shim was lost.
    pub async fn wait(&mut self) -> Result<i32, ShimError> {
        self.exit.wait().await
    }

    /// Kills it with every process that it started. One that has ended is no error.
    ///
    /// # Errors
    /// The shim refused or was lost.
    pub async fn kill(&self) -> Result<(), ShimError> {
        self.shim.kill_exec(&self.container, &self.exec_id).await
    }
}

/// Starts a command. See [`crate::Pods::exec`].
pub(crate) async fn start(
    shim: Arc<Shim>,
    container: ContainerId,
    request: ExecRequest,
) -> Result<ExecSession, ExecError> {
    let exec_id = new_exec_id();
    let (terminal, stdin, stdout, stderr) = match request.streams {
        ExecStreams::Pty => (true, true, true, false),
        ExecStreams::Pipes { stdin, stdout, stderr } => (false, stdin, stdout, stderr),
    };
    let exec = Exec {
        container_id: container.to_string(),
        exec_id: exec_id.clone(),
        plan: ExecPlan { args: args(request.command), terminal, process: None },
        stdin,
        stdout,
        stderr,
    };
    // If the caller goes away while it starts, nobody will ever have it.
    let mut guard = KillOnDrop::new(&shim, &container, exec_id.clone());
    let execed = match shim.exec(exec, START_MAX).await {
        Ok(execed) => execed,
        Err(source) => {
            // What was refused has left nothing; what is unanswered may still start.
            guard.armed = matches!(source, ShimError::Timeout { .. });
            return Err(ExecError::Shim { id: container, source });
        }
    };
    let streams =
        if terminal { terminal_streams(execed.fds) } else { pipe_streams(execed.fds, stdin, stdout, stderr) };
    match streams {
        Ok(Streams { stdin, stdout, stderr }) => {
            guard.armed = false;
            let process = ExecProcess { shim, container, exec_id, pid: execed.pid, exit: execed.exit };
            Ok(ExecSession { stdin, stdout, stderr, process })
        }
        Err(source) => Err(ExecError::Io { id: container, source }),
    }
}

/// While armed, kills a command when it is dropped: its caller was.
struct KillOnDrop {
    shim: Arc<Shim>,
    container: ContainerId,
    exec_id: String,
    armed: bool,
}

impl KillOnDrop {
    fn new(shim: &Arc<Shim>, container: &ContainerId, exec_id: String) -> KillOnDrop {
        KillOnDrop { shim: Arc::clone(shim), container: container.clone(), exec_id, armed: true }
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if self.armed {
            self.shim.kill_exec_and_forget(&self.container, &self.exec_id);
        }
    }
}

/// Streams that came from the shim.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<StdioWriter>,
    pub(crate) stdout: Option<StdioReader>,
    pub(crate) stderr: Option<StdioReader>,
}

fn terminal_streams(fds: Vec<OwnedFd>) -> io::Result<Streams> {
    let master = fds.into_iter().next().ok_or(io::ErrorKind::UnexpectedEof)?;
    let stdin = StdioWriter::new(master.try_clone()?)?;
    Ok(Streams { stdin: Some(stdin), stdout: Some(StdioReader::new(master)?), stderr: None })
}

/// Takes the descriptors of the streams that were asked for, in the protocol's order.
pub(crate) fn pipe_streams(
    fds: Vec<OwnedFd>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
) -> io::Result<Streams> {
    let mut fds = fds.into_iter();
    let mut next = |wanted: bool| match wanted {
        true => fds.next().map(Some).ok_or(io::Error::from(io::ErrorKind::UnexpectedEof)),
        false => Ok(None),
    };
    Ok(Streams {
        stdin: next(stdin)?.map(StdioWriter::new).transpose()?,
        stdout: next(stdout)?.map(StdioReader::new).transpose()?,
        stderr: next(stderr)?.map(StdioReader::new).transpose()?,
    })
}

fn args(command: Vec<String>) -> Vec<Vec<u8>> {
    command.into_iter().map(String::into_bytes).collect()
}

/// Unique within a container also over restarts of the daemon: the shim may still have execs of the
/// one before.
fn new_exec_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static START: OnceLock<i64> = OnceLock::new();
    let start = START.get_or_init(crate::clock::now_ns);
    format!("{start:x}-{:x}", NEXT.fetch_add(1, Ordering::Relaxed))
}
