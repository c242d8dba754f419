//! The harness of the tests against running programs: real daemons, registries, images and namespaces.
//!
//! A test states its case inside [`scenario::run`], which starts a daemon with folders, a bridge and a subnet of its own,
//! and afterwards empties it, ends it and looks for anything it left on the machine: processes, mounts, network
//! namespaces, interfaces, cgroups, firewall rules. A leak fails the test that made it.
//!
//! ```text
//! hack/test ─► cargo test ─► scenario::run ─► Daemon (carpeld + its shims)  ◄─ CRI ─ Client, k8s-cri, crictl, critest
//!                                 │              │ pulls
//!                                 └─ audit       └► Registry (docker-registry) · scripted registry ◄─ Layout (fixtures)
//! ```
//!
//! This is not a place for behaviour of the product: nothing outside `e2e` depends on it.
#![forbid(unsafe_code)]

pub mod audit;
pub mod busybox;
pub mod certificates;
pub mod checks;
pub mod client;
pub mod cluster;
pub mod config;
pub mod containerd;
pub mod crictl;
pub mod daemon;
pub mod http;
pub mod kernel;
pub mod kubelet;
pub mod layout;
pub mod log;
pub mod process;
pub mod pty;
pub mod registry;
pub mod scenario;
pub mod scripted;
pub mod tar;
pub mod token;
