//! Computes what a sandbox or container is to be: configuration and image in, plan out.
//!
//! ```text
//!   SandboxConfig ───── PodFacts ──▶ sandbox_plan ────▶ SandboxPlan
//!                  └───────────────▶ network_sysctls ─▶ [Sysctl]        (the network room writes them)
//!
//!   SandboxConfig ┐
//!   ContainerConfig ├─ ContainerInput ─▶ container_plan ─▶ PlannedContainer { ContainerPlan, … }
//!   ImageConfig   │                            │
//!   NodeFacts     ┘                            └─▶ seccomp::compile ─▶ BPF
//! ```
//!
//! Pure: same input, same bytes out, no I/O at all. What has to be looked up — the host's device
//! nodes, a profile's file, an image's layers — the caller looks up and hands in. See [`config`] and
//! [`input`] for what goes in and `carpel_shim_api::plan` for what comes out.
//!
//! An image is hostile: of its configuration only the fields of [`input::ImageConfig`] exist here,
//! and each of them is checked before it reaches a plan.
#![forbid(unsafe_code)]

pub mod capability;
mod cgroup;
pub mod config;
mod container;
mod devices;
pub mod error;
pub mod input;
mod mounts;
mod path;
mod process;
pub mod resolv_conf;
mod resources;
mod runtime_spec;
mod sandbox;
pub mod seccomp;
mod security;
pub mod selinux;
pub mod signal;
pub mod sysctl;
mod user;
mod volumes;

pub use cgroup::{container_cgroup, parent_cgroup, slice_path};
pub use container::{PlannedContainer, container_plan, exec_process};
pub use error::PlanError;
pub use input::{ContainerInput, ImageConfig, NodeFacts, PodFacts, SeccompInput};
pub use resources::plan_resources;
pub use runtime_spec::{RuntimeSpecFacts, runtime_spec, runtime_spec_json};
pub use sandbox::{effective_hostname, network_sysctls, sandbox_plan};
pub use security::{SeccompNeed, compile_seccomp, seccomp_need};

#[cfg(test)]
mod tests;
