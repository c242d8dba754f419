//! Carries out a container plan on this kernel.
//!
//! The caller is a pod's shim: one process, one thread, which stays in the host's mount and PID
//! namespaces. Nothing here waits for a child: each call makes one and gives back a socket to poll.
//!
//! ```text
//!  shim                                            children
//!  Sandbox::enter    joins the pod's net, ipc, uts namespaces; makes its mounts
//!      │             ────────────────────────────▶ micro-init (only with a shared PID namespace)
//!  create::begin     ──── clone3 ────────────────▶ init: cgroup, rootfs, mounts, pivot_root,
//!      │ Creating::on_readable ◀── user, console ─ devices, user, credentials … waits
//!  Created::start    ──── go ────────────────────▶ seccomp, execve
//!      │ Starting::on_readable ◀──── end of file ─ (close-on-exec: it runs)
//!  exec::begin       ──── clone3 ────────────────▶ joins an init's namespaces, credentials, execve
//!      │ Execing::on_readable ◀───── end of file ─
//! ```
//!
//! A child that fails says at which step, with what errno and why, and ends. Children die with the
//! shim (`PR_SET_PDEATHSIG`). The caller reaps them, keeps their cgroups, logs and exit records.
//!
//! Not here: decisions. A plan is carried out or refused.
#![forbid(unsafe_code)]

pub mod cgroup;
pub mod create;
pub mod exec;
pub mod report;
pub mod sandbox;
pub mod stdio;
pub mod user;

mod child;
mod devices;
mod init;
mod joiner;
mod label;
mod mask;
mod mountinfo;
mod mounts;
mod process;
mod root;
mod rootfs;
mod terminal;
