//! The cgroup tree: limits, statistics, events, freezing, killing.
//!
//! ```text
//!  Tree::detect()            which hierarchies there are: v2 alone, v1, or both (hybrid)
//!    └ Cgroup::create        mkdir in each, limits, device access; undone wholly if a step fails
//!        ├ v2_dir / join     a process gets in: CLONE_INTO_CGROUP, or a write to each cgroup.procs
//!        ├ update            new limits, all or none
//!        ├ leaf              a child for one exec, so that it can be killed with all it started
//!        ├ kill, freeze, procs, oom_kills
//!        └ delete            rmdir in each
//!  seat                      a process steps aside, so that a cgroup can hand controllers down
//!  stats::Reader             reads usage through kept file descriptors; knows no `Cgroup`
//!  detail::read              reads what only monitoring wants
//! ```
//!
//! Everything is opened by file descriptor beneath its hierarchy's root, never through a symbolic
//! link. A parent that exists is never limited nor removed: it is the kubelet's. Parents that are
//! absent are made, and removed when they are empty only below [`path::OWN_PREFIX`].
//!
//! Not here: the choice of a path or a limit, OCI or CRI types, and waiting without a bound.
//! Sources: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/*.rst of the kernel, cgroups(7).
#![forbid(unsafe_code)]

pub mod cgroup;
pub mod create;
pub mod detail;
pub mod devices;
pub mod file;
pub mod freeze;
pub mod kill;
pub mod leaf;
pub mod limits;
pub mod path;
mod remove;
pub mod seat;
pub mod stats;
pub mod tree;
mod update;

pub use cgroup::{Cgroup, JoinError, ReadError};
pub use create::CreateError;
pub use devices::{Access, DeviceKind, DeviceRule};
pub use freeze::FreezeError;
pub use kill::KillError;
pub use leaf::{Leaf, LeafError, LeafEvents};
pub use limits::{HugepageLimit, LimitError, Limits};
pub use path::{CgroupPath, PathError};
pub use remove::DeleteError;
pub use seat::{SeatError, seat};
pub use tree::{DetectError, Hierarchy, Tree};
pub use update::UpdateError;
