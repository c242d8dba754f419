//! SPDY/3.1 as Kubernetes clients speak it (the Chromium project's "SPDY Protocol - Draft 3.1").
//!
//! The client opens all streams; the server answers each with a reply, then both send data frames and
//! end with a FIN flag. The peers of this protocol (client-go on moby/spdystream) neither send nor
//! heed flow-control windows, so none are kept here: TCP holds a fast sender.

mod connection;
mod frame;
mod headers;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use connection::{Connection, Stream, accept};
