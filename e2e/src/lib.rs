//! Tests and benchmarks against running programs.
#![forbid(unsafe_code)]
