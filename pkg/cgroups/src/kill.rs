//! Killing everything in a cgroup.
//!
//! cgroup2 does it in one write (`cgroup.kill`, Linux 5.14), which no fork can outrun; a hybrid
//! host's cgroup2 too, since every container is in it. Elsewhere the lists of processes are read and
//! signalled until a round shows nobody new.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use thiserror::Error;

use crate::cgroup::{Cgroup, procs_below};
use crate::file::{self, FileError};
use crate::path::CgroupPath;

const SIGKILL: i32 = Signal::KILL.as_raw();
/// Rounds of reading and signalling. Each kills all it sees, and the dead do not fork.
const ROUNDS_MAX: usize = 64;
/// How many processes are held by a descriptor at a time.
const BATCH: usize = 64;
/// The most that is read of `/proc/<pid>/stat`, in bytes.
const STAT_MAX_BYTES: usize = 4096;

/// Why processes were not killed.
#[derive(Debug, Error)]
pub enum KillError {
    /// The cgroup's files refused.
    #[error("kill the processes of cgroup {0}")]
    File(CgroupPath, #[source] FileError),
    /// A process refused the signal.
    #[error("send {signal} to process {pid} of cgroup {path}")]
    Signal {
        /// The cgroup.
        path: CgroupPath,
        /// The process.
        pid: i32,
        /// The signal's number.
        signal: i32,
        /// What the kernel answered.
        #[source]
        source: Errno,
    },
    /// New processes came faster than they could be killed.
    #[error("cgroup {0} still has new processes after {ROUNDS_MAX} rounds of killing")]
    Endless(CgroupPath),
}

impl Cgroup {
    /// Kills every process in it and below it, frozen ones too. Returns when all have been sent the
    /// signal, not when they are gone. A cgroup that is gone has no processes: no error.
    ///
    /// # Errors
    /// See [`KillError`].
    pub fn kill(&self) -> Result<(), KillError> {
        let failed = |e| KillError::File(self.path().clone(), e);
        let killed = match self.v2_dir() {
            Some(dir) => kill_v2(dir).map_err(failed)?,
            None => false,
        };
        if !killed {
            self.kill_each()?;
        }
        // A process that v1's freezer holds does not die until it thaws; cgroup2's lets it die.
        self.thaw_v1().map_err(failed)
    }

    /// Sends a signal, by the kernel's number, to every process in it and below it.
    ///
    /// # Errors
    /// See [`KillError`].
    pub fn signal(&self, signal: i32) -> Result<(), KillError> {
        if signal == SIGKILL {
            return self.kill();
        }
        let failed = |e| KillError::File(self.path().clone(), e);
        match self.observed_dir() {
            Ok(dir) => self.signal_listed(dir.as_fd(), &procs_below(dir.as_fd()).map_err(failed)?, signal),
            Err(e) if e.is_absent() => Ok(()),
            Err(e) => Err(failed(e)),
        }
    }

    /// Kills a process that leads its session, with all that is in the session or descends from it.
    /// For an exec where there is no cgroup2 for a leaf of its own: who has left the session and
    /// lost the parent is not found.
    ///
    /// # Errors
    /// See [`KillError`].
    pub fn kill_session(&self, leader: Pid) -> Result<(), KillError> {
        self.kill_until_none(|all| family(leader, &all))
    }

    fn kill_each(&self) -> Result<(), KillError> {
        self.kill_until_none(|all| all)
    }

    /// Kills those that `choose` picks out of all that are there, until it picks nobody new: whoever was
    /// born meanwhile is met in the next round.
    fn kill_until_none(&self, choose: impl Fn(Vec<Pid>) -> Vec<Pid>) -> Result<(), KillError> {
        let failed = |e| KillError::File(self.path().clone(), e);
        let dir = match self.observed_dir() {
            Ok(dir) => dir,
            Err(e) if e.is_absent() => return Ok(()),
            Err(e) => return Err(failed(e)),
        };
        let mut killed = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let chosen = choose(procs_below(dir.as_fd()).map_err(failed)?);
            let new: Vec<Pid> = chosen.into_iter().filter(|pid| !killed.contains(pid)).collect();
            if new.is_empty() {
                return Ok(());
            }
            self.signal_listed(dir.as_fd(), &new, SIGKILL)?;
            killed.extend(new);
        }
        Err(KillError::Endless(self.path().clone()))
    }

    /// Signals those that are in the folder still after they are held by a descriptor: a number may
    /// have gone to a stranger between the list and the signal.
    fn signal_listed(&self, dir: BorrowedFd<'_>, pids: &[Pid], signal: i32) -> Result<(), KillError> {
        for batch in pids.chunks(BATCH) {
            let held: Vec<(Pid, OwnedFd)> = batch
                .iter()
                .filter_map(|pid| Some((*pid, pidfd_open(*pid, PidfdFlags::empty()).ok()?)))
                .collect();
            let still = procs_below(dir).map_err(|e| KillError::File(self.path().clone(), e))?;
            for (pid, pidfd) in held.iter().filter(|(pid, _)| still.contains(pid)) {
                match carpel_sys::signal::send(pidfd.as_fd(), signal) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(source) => {
                        return Err(KillError::Signal {
                            path: self.path().clone(),
                            pid: pid.as_raw_nonzero().get(),
                            signal,
                            source,
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Kills by `cgroup.kill`; `false` if the kernel does not have it.
pub(crate) fn kill_v2(dir: BorrowedFd<'_>) -> Result<bool, FileError> {
    match file::write(dir, "cgroup.kill", "1") {
        Ok(()) => Ok(true),
        // ENODEV: the cgroup itself is gone.
        Err(e) if e.source == Errno::NODEV => Ok(true),
        Err(e) if e.source == Errno::NOENT => Ok(false),
        Err(e) => Err(e),
    }
}

/// Those of `all` that are in the leader's session or descend from it or from one of them.
fn family(leader: Pid, all: &[Pid]) -> Vec<Pid> {
    let leader = leader.as_raw_nonzero().get();
    let known: Vec<(Pid, i32, i32)> = all
        .iter()
        .filter_map(|pid| {
            let (parent, session) = parent_and_session(*pid)?;
            Some((*pid, parent, session))
        })
        .collect();
    let number = |pid: &Pid| pid.as_raw_nonzero().get();
    let mut family: Vec<Pid> = known
        .iter()
        .filter(|(pid, _, session)| number(pid) == leader || *session == leader)
        .map(|(pid, _, _)| *pid)
        .collect();
    loop {
        let children: Vec<Pid> = known
            .iter()
            .filter(|(pid, parent, _)| !family.contains(pid) && family.iter().any(|f| number(f) == *parent))
            .map(|(pid, _, _)| *pid)
            .collect();
        if children.is_empty() {
            return family;
        }
        family.extend(children);
    }
}

/// From `/proc/<pid>/stat`: what is behind the name, which may itself hold blanks and brackets.
fn parent_and_session(pid: Pid) -> Option<(i32, i32)> {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let stat = rustix::fs::open(path.as_str(), flags, rustix::fs::Mode::empty()).ok()?;
    let text = file::read_fd(stat.as_fd(), &path, STAT_MAX_BYTES).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let mut words = rest.split_whitespace().skip(1);
    let parent = words.next()?.parse().ok()?;
    let session = words.nth(1)?.parse().ok()?;
    Some((parent, session))
}
