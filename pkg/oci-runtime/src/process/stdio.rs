//! Standard streams, session and controlling terminal.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Gid, Uid, fchown, fstat};
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

/// Gives the pipes to the root of the user namespace that the process is about to enter, who can give
/// them on from there.
pub(crate) fn give(stdio: &Stdio, (uid, gid): (Uid, Gid)) -> Result<(), StdioError> {
    for (number, stream) in stdio.fds().into_iter().enumerate() {
        if is_pipe(stream).map_err(|e| StdioError::Place(number, e))? {
            fchown(stream, Some(uid), Some(gid)).map_err(|e| StdioError::Place(number, e))?;
        }
    }
    Ok(())
}

/// Nothing but a pipe is the process's own to be given.
fn is_pipe(stream: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fstat(stream)?.st_mode) == FileType::Fifo)
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
                if is_pipe(*stream).map_err(|e| StdioError::Place(number, e))? {
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
