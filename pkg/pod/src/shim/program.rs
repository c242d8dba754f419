//! Starting shims, and their processes.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::Arc,
};

use carpel_cgroups::Cgroup;
use carpel_sys::{
    exec::CStringList,
    memfd::sealed_program,
    spawn::{Program, SpawnError, spawn_shim},
};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions},
};
use tokio::net::unix::pipe::Receiver;

/// The shim's program in sealed memory.
#[derive(Debug)]
pub(crate) struct ShimProgram {
    exe: OwnedFd,
    /// Where shims live. They are born in its cgroup2 folder: moving a process there afterwards waits
    /// for an RCU grace period, 3-15 ms.
    home: Option<Cgroup>,
}

/// Why no shim was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartShimError {
    #[error("the shim's arguments contain a NUL byte")]
    Nul(#[source] std::ffi::NulError),
    #[error("start the shim's process")]
    Spawn(#[source] SpawnError),
    #[error("watch the shim's process")]
    Watch(#[source] io::Error),
}

/// A shim's process. Whoever holds it can kill it and sees it end; dropping it changes nothing.
#[derive(Debug, Clone)]
pub(crate) struct ShimProcess {
    pid: i32,
    // Of all that tokio watches for readers, this takes any descriptor; nothing is read from it.
    pidfd: Arc<Receiver>,
}

impl ShimProgram {
    /// Copies the program into sealed memory. Blocks shortly.
    pub(crate) fn load(path: &Path) -> io::Result<ShimProgram> {
        Ok(ShimProgram { exe: sealed_program("carpel-shim", &mut File::open(path)?)?, home: None })
    }

    /// Has shims be born in a cgroup.
    pub(crate) fn live_in(&mut self, home: Option<Cgroup>) {
        self.home = home;
    }

    /// The program itself.
    pub(crate) fn exe(&self) -> BorrowedFd<'_> {
        self.exe.as_fd()
    }

    /// Starts a shim. Blocks until it has executed. Must be called in a tokio runtime.
    pub(crate) fn start(
        &self,
        pod_dir: &Path,
        listener: BorrowedFd<'_>,
        log: BorrowedFd<'_>,
    ) -> Result<ShimProcess, StartShimError> {
        let folder = CString::new(pod_dir.as_os_str().as_bytes()).map_err(StartShimError::Nul)?;
        let argv = CStringList::new(vec![c"carpel-shim".to_owned(), c"--pod-dir".to_owned(), folder]);
        let envp = CStringList::new(Vec::new());
        let spawn = |cgroup| {
            spawn_shim(&Program { exe: self.exe.as_fd(), argv: &argv, envp: &envp, listener, log, cgroup })
        };
        let process = match self.home.as_ref().and_then(Cgroup::v2_dir) {
            // Somebody may have removed the folder: the shim then makes it anew and moves itself.
            Some(home) => spawn(Some(home)).or_else(|_| spawn(None)),
            None => spawn(None),
        };
        let process = process.map_err(StartShimError::Spawn)?;
        ShimProcess::new(process.pid.as_raw_nonzero().get(), process.pidfd).map_err(StartShimError::Watch)
    }
}

impl ShimProcess {
    fn new(pid: i32, pidfd: OwnedFd) -> io::Result<Self> {
        Ok(ShimProcess { pid, pidfd: Arc::new(Receiver::from_owned_fd_unchecked(pidfd)?) })
    }

    /// A shim of an earlier daemon, by its number; `None` if that is not the shim of this folder.
    pub(crate) fn adopt(pid: i32, pod_dir: &Path) -> Option<Self> {
        let pid = Pid::from_raw(pid)?;
        // Opened first and looked at then: what is looked at is what was opened, or has ended.
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let pid = pid.as_raw_nonzero().get();
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let folder = pod_dir.as_os_str().as_bytes();
        if !command.split(|byte| *byte == 0).any(|argument| argument == folder) {
            tracing::warn!(pid, pod_dir = %pod_dir.display(), "a process is not the shim that it should be");
            return None;
        }
        Self::new(pid, pidfd).ok()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// One that has ended is no error.
    pub(crate) fn kill(&self) {
        match rustix::process::pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(err) => tracing::warn!(pid = self.pid, %err, "killing a shim failed"),
        }
    }

    /// Waits until it has ended, and reaps it if it is this daemon's child.
    pub(crate) async fn ended(&self) {
        // A pidfd becomes readable when its process has ended, pidfd_open(2), and stays so.
        if let Err(err) = self.pidfd.readable().await {
            tracing::warn!(pid = self.pid, %err, "watching a shim failed");
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            // ECHILD: an earlier daemon's child, which init reaps, or reaped here before.
            Ok(_) | Err(Errno::CHILD) => {}
            Err(err) => tracing::warn!(pid = self.pid, %err, "reaping a shim failed"),
        }
    }
}
