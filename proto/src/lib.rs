//! The CRI v1 protocol, compiled.
#![forbid(unsafe_code)]
