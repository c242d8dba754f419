//! Every unsafe call of the workspace, as safe functions.
//!
//! One file per part of the kernel's interface. What rustix already offers safely is not repeated
//! here; callers use rustix for it. This room knows nothing of containers.

pub mod bpf;
pub mod clone;
pub mod exec;
pub mod fd;
pub mod heap;
pub mod keyring;
pub mod memfd;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod netns;
pub mod rlimit;
pub mod seccomp;
pub mod signal;
pub mod spawn;
pub mod userns;
