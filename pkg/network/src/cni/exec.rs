//! Executing one CNI plugin: environment and stdin in, bounded output out, killed when its time is up.
//!
//! A plugin gets an environment of its own, never the daemon's, and leads a process group of its own, so that
//! whatever it started dies with it at the timeout.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// More than any result or message; a plugin that writes more is killed.
const OUTPUT_MAX_BYTES: usize = 1 << 20;
/// Plugins call `iptables`, `nft`, `ip` and the like.
const PLUGIN_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long output may still come after the plugin has exited: something it started may hold the pipe.
const DRAIN: Duration = Duration::from_millis(500);
/// While an installer writes the executable, it cannot be executed (`ETXTBSY`).
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// How much of a plugin's stderr an error carries, from its end.
const STDERR_SHOWN_BYTES: usize = 2048;

/// What a plugin said.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// Why a plugin said nothing that counts.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// No folder has it.
    #[error("plugin executable not found in {}", paths(.0))]
    NotFound(Vec<PathBuf>),
    /// It cannot be started, fed, or waited for.
    #[error("{operation} {path}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The executable.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It was killed.
    #[error("killed after {timeout:?}{}", shown(stderr))]
    Timeout {
        /// Its time.
        timeout: Duration,
        /// What it wrote to stderr.
        stderr: String,
    },
    /// It was killed.
    #[error("killed because it wrote more than {OUTPUT_MAX_BYTES} bytes")]
    TooMuchOutput,
}

fn paths(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// A plugin's stderr as the tail of a message.
pub(crate) fn shown(stderr: &str) -> String {
    let text = stderr.trim();
    if text.is_empty() { String::new() } else { format!("; stderr: {text}") }
}

/// The first folder's executable of this name, which has no `/` in it.
fn find(bin_dirs: &[PathBuf], kind: &str) -> Result<PathBuf, ExecError> {
    let mut candidates = bin_dirs.iter().map(|dir| dir.join(kind));
    candidates.find(|path| path.is_file()).ok_or_else(|| ExecError::NotFound(bin_dirs.to_vec()))
}

/// Runs the plugin to its end.
pub(crate) async fn run(
    bin_dirs: &[PathBuf],
    kind: &str,
    env: &[(&str, String)],
    stdin: &[u8],
    timeout: Duration,
) -> Result<Output, ExecError> {
    let path = find(bin_dirs, kind)?;
    let mut child = spawn(&path, bin_dirs, env).await?;
    let mut stderr = Vec::new();
    let talked = tokio::time::timeout(timeout, talk(&path, &mut child, stdin, &mut stderr)).await;
    let outcome = match talked {
        Ok(Ok((status, stdout))) => return Ok(Output { status, stdout, stderr: tail(&stderr) }),
        Ok(Err(error)) => error,
        Err(_) => ExecError::Timeout { timeout, stderr: tail(&stderr) },
    };
    // While the child is not reaped (it has an id), its group's number cannot be somebody else's.
    if let Some(group) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let _ = child.kill().await;
    Err(outcome)
}

async fn spawn(path: &Path, bin_dirs: &[PathBuf], env: &[(&str, String)]) -> Result<Child, ExecError> {
    let mut command = Command::new(path);
    let search = bin_dirs.iter().map(|dir| dir.to_string_lossy()).collect::<Vec<_>>().join(":");
    command
        .env_clear()
        .env("PATH", PLUGIN_PATH)
        .env("CNI_PATH", search)
        .envs(env.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for _ in 1..BUSY_TRIES {
        match command.spawn() {
            Err(busy) if busy.kind() == io::ErrorKind::ExecutableFileBusy => {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            outcome => return outcome.map_err(io_error("execute", path)),
        }
    }
    command.spawn().map_err(io_error("execute", path))
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ExecError {
    move |source| ExecError::Io { operation, path: path.into(), source }
}

/// Feeds and reads the plugin until it has exited and its output has ended.
async fn talk(
    path: &Path,
    child: &mut Child,
    input: &[u8],
    stderr: &mut Vec<u8>,
) -> Result<(ExitStatus, Vec<u8>), ExecError> {
    let (mut stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        let Some(pipe) = stdin.as_mut() else { return Ok(()) };
        let written = pipe.write_all(input).await;
        stdin = None;
        match written {
            // It may know enough without reading everything.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(io_error("feed", path)),
        }
    };
    let wait = async { child.wait().await.map_err(io_error("wait for", path)) };
    let mut stdout = Vec::new();
    let status = {
        let work = async { tokio::try_join!(feed, wait) };
        let read =
            async { tokio::try_join!(read_bounded(path, out, &mut stdout), read_bounded(path, err, stderr)) };
        tokio::pin!(work, read);
        tokio::select! {
            done = &mut work => {
                let ((), status) = done?;
                match tokio::time::timeout(DRAIN, read).await {
                    Ok(outcome) => outcome.map(|_| status)?,
                    // Something it started holds the pipe; what the plugin wrote itself is here.
                    Err(_) => status,
                }
            }
            ended = &mut read => {
                ended?;
                work.await?.1
            }
        }
    };
    Ok((status, stdout))
}

async fn read_bounded(
    path: &Path,
    pipe: Option<impl AsyncRead + Unpin>,
    into: &mut Vec<u8>,
) -> Result<(), ExecError> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    loop {
        into.reserve(8 << 10);
        let read = pipe.read_buf(into).await.map_err(io_error("read the output of", path))?;
        if read == 0 {
            return Ok(());
        }
        if into.len() > OUTPUT_MAX_BYTES {
            return Err(ExecError::TooMuchOutput);
        }
    }
}

fn tail(stderr: &[u8]) -> String {
    let start = stderr.len().saturating_sub(STDERR_SHOWN_BYTES);
    String::from_utf8_lossy(&stderr[start..]).into_owned()
}
