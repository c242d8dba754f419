//! What every child does first.

use std::os::fd::{AsFd, BorrowedFd};
use std::panic;

use carpel_sys::clone::{self, CloneRequest, InChild, SingleThreaded, clone_process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::process::credentials::CredentialsError;
use crate::report::{self, Failure, Stage};

const PANIC_STATUS: i32 = 134;

/// Why a child could not prepare itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    #[error("arm the signal of the shim's death")]
    DeathSignal(#[source] Errno),
    #[error("the shim is gone")]
    Orphan,
    #[error("set the process's name")]
    Name(#[source] Errno),
    #[error("join the pod's mounts")]
    PodMounts(#[source] Errno),
    #[error("enter the pod's user namespace")]
    UserNamespace(#[source] Errno),
    #[error("clone3 a process in the pod's user namespace")]
    Sibling(#[source] Errno),
    #[error("give up all privileges")]
    Credentials(#[source] CredentialsError),
    #[error("report to the shim")]
    Report(#[source] Errno),
    #[error("keep a descriptor for panics")]
    Panics(#[source] std::io::Error),
}

/// Has a panic, which is a bug, told to the shim like any failure.
pub(crate) fn report_panics(sync: BorrowedFd<'_>) -> Result<(), ChildError> {
    let sync = sync.try_clone_to_owned().map_err(ChildError::Panics)?;
    panic::set_hook(Box::new(move |info| {
        let failure = Failure { stage: Stage::Panic, errno: None, text: info.to_string() };
        report::send_failed(sync.as_fd(), &failure);
        clone::exit(PANIC_STATUS)
    }));
    Ok(())
}

/// Has this process killed when the shim dies (`PR_SET_PDEATHSIG`), or fails if it is dead already:
/// its end of `sync` is then closed. The parent's process id tells nothing in a PID namespace.
///
/// The child's own copy of that end must be closed before. To be said again after each change of credentials, which disarms it (prctl(2)).
pub(crate) fn end_with_parent(sync: BorrowedFd<'_>) -> Result<(), ChildError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(ChildError::DeathSignal)?;
    let mut fds = [PollFd::from_borrowed_fd(sync, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).map_err(ChildError::DeathSignal)?;
    if fds[0].revents().intersects(PollFlags::HUP) { Err(ChildError::Orphan) } else { Ok(()) }
}

/// Goes on in another child of the shim's, the first process of a PID namespace that the user namespace
/// which this one has entered owns. The shim is told who it is before it does anything; this one's work
/// is done then.
pub(crate) fn continue_as_sibling(
    alone: &SingleThreaded,
    sync: BorrowedFd<'_>,
    body: impl FnOnce(&InChild) -> i32,
) -> Result<(), ChildError> {
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC).map_err(ChildError::Sibling)?;
    let request = CloneRequest { new_pid_namespace: true, sibling: true, ..CloneRequest::default() };
    let sibling = clone_process(alone, &request, |child| {
        // Else it would wait for itself if the other one ended.
        child.close(tell.as_fd());
        match rustix::io::read(&told, &mut [0u8; 1]) {
            Ok(1) => body(child),
            // The other one ended first: nobody knows of this one.
            _ => PANIC_STATUS,
        }
    });
    let sibling = sibling.map_err(ChildError::Sibling)?;
    report::send_moved(sync, &sibling).map_err(ChildError::Report)?;
    rustix::io::write(&tell, &[1]).map_err(ChildError::Sibling)?;
    Ok(())
}
