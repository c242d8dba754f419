//! What the daemon and a shim say to each other.
#![forbid(unsafe_code)]
