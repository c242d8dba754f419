//! How a new process gets into its cgroup.
//!
//! On cgroup v2 it is born there. Into each v1 hierarchy it writes itself, before anything else: the
//! first such write of a while waits some milliseconds for the kernel, and only the child waits.

use std::os::fd::BorrowedFd;

use carpel_cgroups::cgroup::{Hierarchies, JoinError};
use carpel_cgroups::{Cgroup, Leaf};
use rustix::io::Errno;

/// The cgroup that a new process is to be in, which is there already.
#[derive(Debug, Clone, Copy)]
pub struct Membership<'a> {
    /// The container's cgroup.
    pub cgroup: &'a Cgroup,
    /// A child of it in cgroup v2, for an exec that can be killed by itself.
    pub leaf: Option<&'a Leaf>,
}

/// Why a process is not in its cgroup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembershipError {
    #[error("open the cgroup")]
    Open(#[source] JoinError),
    #[error("enter the cgroup")]
    Enter(#[source] Errno),
}

impl<'a> Membership<'a> {
    /// The folder to be born in by `CLONE_INTO_CGROUP`.
    pub(crate) fn born_in(&self) -> Option<BorrowedFd<'a>> {
        self.leaf.map(Leaf::dir).or_else(|| self.cgroup.v2_dir())
    }

    /// Moves the calling process into all hierarchies that it was not born in.
    pub(crate) fn join_self(&self) -> Result<(), MembershipError> {
        let rest = if self.born_in().is_some() { Hierarchies::V1 } else { Hierarchies::All };
        for entrance in self.cgroup.entrances(rest).map_err(MembershipError::Open)? {
            rustix::io::write(&entrance, b"0").map_err(MembershipError::Enter)?;
        }
        Ok(())
    }
}
