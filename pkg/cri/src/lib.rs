//! Speaks CRI v1 with the kubelet: the edge.
//!
//! ```text
//!  gRPC request ─ parse ─▶ carpel_spec::config / ids ─▶ pod, image, network rooms
//!  gRPC answer  ◀─ show ── snapshots                 ◀─┘
//!  gRPC status  ◀─ status ─ the rooms' errors          (the one place that knows gRPC codes)
//! ```
//!
//! Beside CRI's two services stands the operator's, for what CRI has no word for (`carpel import`, progress
//! of pulls); it is translated in the same way.
//!
//! It holds no state and decides nothing: each method is parse, one call, show. What is not built
//! answers `Unimplemented` by the generated default; the README lists it.
#![forbid(unsafe_code)]

mod filter;
mod info;
mod parse;
mod service;
mod show;
mod status;

pub use service::{ImageServer, OperatorServer, RuntimeFacts, RuntimeServer};

/// The largest message that is sent or taken, in bytes: what the kubelet's client accepts.
pub const MESSAGE_MAX_BYTES: usize = 16 << 20;
