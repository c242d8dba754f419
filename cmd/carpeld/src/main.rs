//! The Carpel daemon: puts the rooms together, runs, drains.
#![forbid(unsafe_code)]

fn main() {}
