//! The image room from outside: real registries, scripted ones, real archives, hostile ones.
//!
//! One test program, so that it is linked once. They need root (devices, owners, mounts), the programs
//! `docker-registry`, `skopeo` and `openssl`, and nothing but the loopback network.
#![allow(clippy::unwrap_used, reason = "what fails in a test says where")]

mod support;

mod archives;
mod crash;
mod disk_full;
mod hostile_layers;
mod hostile_registry;
mod layers;
mod lifecycle;
mod mirrors;
mod proxies;
mod registry;
mod sharing;
mod trees;
