//! Supervises one pod: makes its containers, reaps them, writes their logs.
#![forbid(unsafe_code)]

fn main() {}
