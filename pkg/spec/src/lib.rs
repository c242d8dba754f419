//! Computes what a sandbox or container is to be; no I/O.
#![forbid(unsafe_code)]
