//! Real pods through the shim's socket: the real program, a busybox root, real cgroups. Needs root
//! and a static busybox.

mod attach;
mod ends;
mod execs;
mod harness;
mod life;
mod logs;
