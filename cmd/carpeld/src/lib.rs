//! The Carpel daemon as a library: `main.rs` parses, this puts the rooms together.
//!
//! ```text
//!  config → telemetry → lock → rooms (image, network, pod) → CRI on the socket → READY → SIGTERM → drain
//! ```
//!
//! No CRI logic and no decision about pods or images is made here.
#![forbid(unsafe_code)]

mod backend;
pub mod config;
pub mod daemon;
pub mod listen;
mod rooms;
pub mod rpc;
pub mod telemetry;
