//! The first process of a shared PID namespace.
//!
//! A PID namespace needs a first process: when it ends, the kernel kills all others in there, and it
//! inherits those that lose their parent. This one is a clone of the shim that has the kernel reap
//! them and sleeps for ever: it never wakes up and keeps a few pages of memory. Containers of the pod
//! see it, so it is nobody, in an empty read-only root, and cannot be traced.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carpel_sys::clone::{CloneRequest, InChild, Process, SingleThreaded, clone_process};
use carpel_sys::signal;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::thread::set_name;

use crate::child::{self, ChildError};
use crate::process::credentials;
use crate::report::{self, Failure, ReadError, Report, Stage};
use crate::sandbox::mounts::PodMounts;
use crate::sandbox::user_namespace::UserNamespace;
use crate::user::Identity;

/// Who it runs as: the pause container's customary user, which no image gives anything to.
const NOBODY: u32 = 65535;
const FAILED_STATUS: i32 = 1;

/// Why there is no micro-init.
#[derive(Debug, thiserror::Error)]
pub enum MicroInitError {
    /// The host's procfs is not there.
    #[error("open /proc for its label")]
    Proc(#[source] Errno),
    /// No socket to it.
    #[error("make the socket to it")]
    Socket(#[source] Errno),
    /// No process.
    #[error("clone3 it")]
    Clone(#[source] Errno),
    /// It said why it failed.
    #[error("{0}")]
    Failed(Failure),
    /// It ended without a word.
    #[error("it {0} before it was ready")]
    Ended(String),
    /// Its report could not be read.
    #[error("read its report")]
    Report(#[source] ReadError),
}

/// Its change to the SELinux label of the pod, which is the last that it does: containers of the pod that see
/// it may then read of it what they may of each other.
struct Relabel<'a> {
    label: &'a str,
    /// The host's procfs, which is out of reach by its path then; absent if there is no label.
    proc: Option<OwnedFd>,
}

impl<'a> Relabel<'a> {
    fn prepare(label: &'a str) -> Result<Self, Errno> {
        let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = if label.is_empty() { None } else { Some(open("/proc", dir, Mode::empty())?) };
        Ok(Self { label, proc })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.proc.as_ref().map(OwnedFd::as_fd)
    }

    fn carry_out(&self) {
        let Some(proc) = &self.proc else { return };
        let file = openat(proc, "thread-self/attr/current", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        // A policy may let no process change without an execve: then it stays what the shim is, and is seen less.
        let _as_far_as_allowed = file.and_then(|file| rustix::io::write(&file, self.label.as_bytes()));
    }
}

/// Starts it and waits until it is ready, which takes a few system calls.
pub(crate) fn start(
    alone: &SingleThreaded,
    mounts: &PodMounts,
    label: &str,
    user: Option<&UserNamespace>,
) -> Result<Process, MicroInitError> {
    let relabel = Relabel::prepare(label).map_err(MicroInitError::Proc)?;
    let (sync, theirs) = report::pair().map_err(MicroInitError::Socket)?;
    let request = CloneRequest { new_pid_namespace: user.is_none(), ..CloneRequest::default() };
    let process = match user {
        None => clone_process(alone, &request, |child| run(child, mounts, &relabel, theirs.as_fd())),
        Some(user) => {
            let hand_over = |child: &_| hand_over(child, alone, user, mounts, &relabel, theirs.as_fd());
            clone_process(alone, &request, hand_over)
        }
    };
    let mut process = process.map_err(MicroInitError::Clone)?;
    drop(theirs);
    loop {
        match report::receive(sync.as_fd()).map_err(MicroInitError::Report)? {
            Some(Report::Moved(successor)) => {
                // Its work is done, and nobody else waits for it.
                let id = WaitId::PidFd(process.pidfd.as_fd());
                while let Err(Errno::INTR) = waitid(id.clone(), WaitIdOptions::EXITED) {}
                process = successor;
            }
            Some(Report::Ready { .. }) => return Ok(process),
            Some(Report::Failed(failure)) => return Err(MicroInitError::Failed(failure)),
            Some(Report::End) => return Err(MicroInitError::Ended(how_it_ended(&process))),
            None => match poll(&mut [PollFd::new(&sync, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(MicroInitError::Report(ReadError::Receive(errno))),
            },
        }
    }
}

/// How a process ended that has closed its end of the socket: it ends in this moment, if it has not.
fn how_it_ended(process: &Process) -> String {
    let status = loop {
        match waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            other => break other.ok().flatten(),
        }
    };
    let signal = status.as_ref().and_then(|status| status.terminating_signal());
    let code = status.as_ref().and_then(|status| status.exit_status());
    match (signal, code) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(code)) => format!("exited with {code}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The child that the micro-init of a user namespace is made by, since a PID namespace belongs to the
/// user namespace of its maker.
fn hand_over(
    child: &InChild,
    alone: &SingleThreaded,
    user: &UserNamespace,
    mounts: &PodMounts,
    relabel: &Relabel<'_>,
    sync: BorrowedFd<'_>,
) -> i32 {
    let keep: Vec<BorrowedFd<'_>> = mounts.fds().chain([sync, user.fd()]).chain(relabel.fd()).collect();
    child.close_all_but(&keep);
    let nobody = user.nobody(NOBODY);
    let handed_over = child::end_with_parent(sync)
        .and_then(|()| mounts.join().map_err(ChildError::PodMounts))
        .and_then(|()| user.enter().map_err(ChildError::UserNamespace))
        .and_then(|()| child::end_with_parent(sync))
        .and_then(|()| {
            child::continue_as_sibling(alone, sync, |child| {
                let keep: Vec<BorrowedFd<'_>> = relabel.fd().into_iter().chain([sync]).collect();
                child.close_all_but(&keep);
                become_init(child, relabel, sync, || prepare(nobody, sync))
            })
        });
    match handed_over {
        Ok(()) => 0,
        Err(error) => {
            report::send_failed(sync, &Failure::new(Stage::Prepare, &error));
            FAILED_STATUS
        }
    }
}

fn run(child: &InChild, mounts: &PodMounts, relabel: &Relabel<'_>, sync: BorrowedFd<'_>) -> i32 {
    let keep: Vec<BorrowedFd<'_>> = mounts.fds().chain([sync]).chain(relabel.fd()).collect();
    child.close_all_but(&keep);
    become_init(child, relabel, sync, || {
        mounts.join().map_err(ChildError::PodMounts)?;
        prepare(NOBODY, sync)
    })
}

fn become_init(
    child: &InChild,
    relabel: &Relabel<'_>,
    sync: BorrowedFd<'_>,
    prepare: impl FnOnce() -> Result<(), ChildError>,
) -> i32 {
    match prepare() {
        Ok(()) => {
            relabel.carry_out();
            child.close_all_but(&[]);
            signal::ignore_child_exits();
            signal::pause_for_ever()
        }
        Err(error) => {
            report::send_failed(sync, &Failure::new(Stage::Prepare, &error));
            FAILED_STATUS
        }
    }
}

fn prepare(nobody: u32, sync: BorrowedFd<'_>) -> Result<(), ChildError> {
    child::end_with_parent(sync)?;
    set_name(c"carpel-init").map_err(ChildError::Name)?;
    credentials::become_nobody(nobody).map_err(ChildError::Credentials)?;
    // Changing the user has disarmed it.
    child::end_with_parent(sync)?;
    report::send_ready(sync, &Identity::default(), None).map_err(ChildError::Report)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Process, how_it_ended};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    #[test]
    #[allow(clippy::zombie_processes, reason = "what is tested waits for it")]
    fn an_end_is_told_by_its_signal_or_status() {
        for (script, expected) in
            [("kill -SEGV $$", "was killed by signal 11"), ("exit 134", "exited with 134")]
        {
            let child = Command::new("sh").args(["-c", script]).spawn().expect("a shell");
            let pid = Pid::from_child(&child);
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("its descriptor");
            assert_eq!(how_it_ended(&Process { pid, pidfd }), expected);
        }
    }
}
