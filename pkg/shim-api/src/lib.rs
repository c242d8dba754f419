//! What the daemon and a shim say to each other: messages, framing, exit records, version.
//!
//! Sans-IO: nothing here opens, reads or writes anything. The daemon drives it with tokio, the shim
//! with epoll, and both see the same bytes.
//!
//! ```text
//!  daemon                                   shim (one per pod)
//!    │ bind+listen pods/<id>/shim.sock, connect, spawn(listener = fd 3)
//!    │ ── Hello, Sandbox ─────────────────────▶ │  pipelined: one round trip for a pod
//!    │ ◀───────────────────── HelloReply, Done ─│
//!    │ ── Create(ContainerPlan) ──────────────▶ │  clone3, mounts … everything up to execve
//!    │ ◀──────────────────────────── Created ── │
//!    │ ── Start ──────────────────────────────▶ │  the init process is released
//!    │ ◀──────────────────────────── Started ── │
//!    │ ◀═══════════════════ event: Exited ═════ │  after the exit record is on disk
//! ```
//!
//! A frame is a 12-byte header ([`frame::Header`]) and a prost message; file descriptors travel with
//! the header's bytes by `SCM_RIGHTS` (unix(7)). Any number of connections may be open; events go to
//! each that said `Hello`. Messages only ever gain fields, so that a daemon can talk to shims two
//! versions older and the other way round; [`VERSION`] rises when a field's meaning changes.
//!
//! Not here: any decision, and any JSON. A plan is ready to be carried out as it is.
#![forbid(unsafe_code)]

pub mod frame;
pub mod message;
pub mod plan;
pub mod record;

/// The version of the protocol that this crate speaks.
pub const VERSION: u32 = 1;
/// The oldest version that this crate still understands.
pub const VERSION_OLDEST: u32 = 1;

/// The largest payload of a frame, in bytes. A larger one ends the connection.
pub const PAYLOAD_MAX_BYTES: usize = 4 << 20;
/// The most file descriptors that one frame carries (the kernel's own limit is 253, unix(7)).
pub const FDS_MAX: usize = 16;

/// The number of the listening socket's file descriptor in a new shim.
pub const LISTENER_FD: i32 = 3;
