//! Bytes between an HTTP client and a container.
#![forbid(unsafe_code)]
