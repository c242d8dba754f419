//! The life of a pod through restarts.
#![forbid(unsafe_code)]
