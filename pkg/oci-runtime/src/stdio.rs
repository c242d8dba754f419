//! A new process's standard streams.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where a process's standard streams go.
#[derive(Debug)]
pub enum Stdio {
    /// The process's ends of pipes, or `/dev/null` of the host, which is replaced by the container's.
    Streams {
        /// Becomes fd 0.
        stdin: OwnedFd,
        /// Becomes fd 1.
        stdout: OwnedFd,
        /// Becomes fd 2.
        stderr: OwnedFd,
    },
    /// A terminal of the container's own devpts. Its master comes back with the child's report.
    Terminal,
}

impl Stdio {
    /// The streams' descriptors, in order.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Streams { stdin, stdout, stderr } => vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            Self::Terminal => Vec::new(),
        }
    }
}
