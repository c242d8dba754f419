//! Standard streams, session and controlling terminal.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Uid, fchown, fstat};
use rustix::io::Errno;
use rustix::process::{ioctl_tiocsctty, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::devices;
use crate::root::Root;
use crate::stdio::Stdio;
use crate::terminal::Terminal;

/// Why the streams are not in place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdioError {
    #[error("start a session")]
    Session(#[source] Errno),
    #[error("give the terminal to the user")]
    Owner(#[source] Errno),
    #[error("make the terminal the controlling one")]
    ControllingTerminal(#[source] Errno),
    #[error("put standard stream {0} in place")]
    Place(usize, #[source] Errno),
}

/// Starts a session and puts the streams in place. They belong to the user afterwards, so that it can
/// open them again by `/dev/stdout`.
pub(crate) fn place(
    root: &Root,
    stdio: &Stdio,
    terminal: Option<&Terminal>,
    uid: u32,
) -> Result<(), StdioError> {
    setsid().map_err(StdioError::Session)?;
    let owner = Some(Uid::from_raw(uid));
    match (stdio, terminal) {
        (Stdio::Terminal, Some(terminal)) => {
            fchown(&terminal.slave, owner, None).map_err(StdioError::Owner)?;
            ioctl_tiocsctty(&terminal.slave).map_err(StdioError::ControllingTerminal)?;
            let slave = terminal.slave.as_fd();
            place_all([slave; 3])
        }
        (Stdio::Terminal, None) => Err(StdioError::ControllingTerminal(Errno::NOTTY)),
        (Stdio::Streams { stdin, stdout, stderr }, _) => {
            let given = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
            // The host's null device is an inode of the host's: its mode could be changed through it.
            let null = devices::open_null(root);
            let own = given.map(|stream| match (&null, devices::is_null(stream)) {
                (Some(null), Ok(true)) => null.as_fd(),
                _ => stream,
            });
            for (number, stream) in own.iter().enumerate() {
                let stat = fstat(stream).map_err(|e| StdioError::Place(number, e))?;
                // Nothing but a pipe is the process's own to be given.
                if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo {
                    fchown(stream, owner, None).map_err(|e| StdioError::Place(number, e))?;
                }
            }
            place_all(own)
        }
    }
}

fn place_all(streams: [BorrowedFd<'_>; 3]) -> Result<(), StdioError> {
    dup2_stdin(streams[0]).map_err(|e| StdioError::Place(0, e))?;
    dup2_stdout(streams[1]).map_err(|e| StdioError::Place(1, e))?;
    dup2_stderr(streams[2]).map_err(|e| StdioError::Place(2, e))
}
