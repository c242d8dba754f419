//! Bytes between an HTTP client and a container: exec, attach and port-forward.
//!
//! ```text
//!  CRI Exec ─▶ Server::exec ─▶ "http://127.0.0.1:PORT/exec/TOKEN"      the token works once, for a minute
//!  client   ─ GET/POST, Upgrade: SPDY/3.1 or websocket ─▶ server ─▶ token ─▶ Backend::exec
//!                ├ spdy       streams by number, headers say which is stdin, stdout, error, resize
//!                └ websocket  one message for each piece, its first byte says which
//!           ─▶ command / port_forward: the same session over either
//! ```
//!
//! It knows no pods: a [`Backend`] opens processes and connections. Everything is bounded: tokens
//! that wait, streams of a connection, bytes of a frame, the time until a client has opened its
//! streams, the time without any traffic. When a session ends, all of its tasks end. It listens beyond
//! loopback only with TLS, or by the operator's express wish.
#![forbid(unsafe_code)]

mod backend;
mod channel;
mod command;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod outcome;
mod port_forward;
mod server;
mod socket;
mod spdy;
mod tls;
mod token;
mod websocket;

pub use backend::{Answer, Backend, BackendError, Process, Size, Terminal};
pub use server::{Config, OpenError, Server};
pub use tls::{TlsError, TlsFiles};
pub use token::{AttachTarget, ExecTarget, Streams, TokenError};
