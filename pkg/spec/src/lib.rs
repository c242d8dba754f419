//! Computes what a sandbox or container is to be: configuration and image in, plan out.
//!
//! Pure: same input, same bytes out, no I/O at all. See [`config`] for what goes in and
//! `carpel_shim_api::plan` for what comes out.
#![forbid(unsafe_code)]

pub mod config;
