//! The operator's command: a CRI client and node care.
#![forbid(unsafe_code)]

fn main() {}
