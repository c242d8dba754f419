//! Real pods through the shim's socket: the real program, a busybox root, real cgroups. Needs root
//! and a static busybox.
#![allow(clippy::print_stderr)] // A failed test says what it left, a measurement what it measured.

mod attach;
mod daemon;
mod ends;
mod execs;
mod figures;
mod harness;
mod life;
mod logs;
