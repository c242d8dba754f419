//! Supervises one pod: makes its containers, reaps them, writes their logs, answers the daemon.
//!
//! ```text
//!              ┌ connection.rs ─ frames, descriptors, bounded queues
//!  epoll ──────┤ request.rs ──── one message → one verb below
//!  (pod.rs)    ├ create.rs  exec.rs  remove.rs ── verbs that end later: a state, and who waits for it
//!              ├ stdio.rs ────── a container's pipes → log.rs (the file), attach.rs (the clients)
//!              └ exit.rs ─────── SIGCHLD → wait → output drained → exit record on disk → event
//! ```
//!
//! One process, one thread, one loop: nothing in it waits for a container, a client or the daemon.
//! What takes time is a state of the container ([`container::State`]) and a source of the poller.
//! A daemon that is away, or does not read, changes nothing for the containers.
//!
//! SIGTERM, SIGINT and SIGHUP are read and passed over: a shim ends when it is told to over its
//! socket, or when its pod's folder is gone. A service manager must leave shims alone
//! (`KillMode=process`). If a shim is killed, its containers die with it, by the kernel's hand.
//!
//! Not here: how a container is made (the runtime module), what a container should be (the daemon).
#![forbid(unsafe_code)]

pub mod log;

mod attach;
mod connection;
mod container;
mod create;
mod exec;
mod exit;
mod failure;
mod hold;
mod oom;
mod pod;
mod poller;
mod remove;
mod request;
mod resources;
mod snapshot;
mod stdio;
mod undo;

pub use hold::hold;
pub use pod::{RunError, run};
