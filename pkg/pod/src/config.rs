//! What the pod room is told once, when it is opened.

use std::path::PathBuf;

pub use carpel_shim_api::plan::Rlimit;
pub use carpel_spec::input::CgroupDriver;

/// Settings of [`crate::Pods`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Durable state: `pods/<id>/` identity records, `containers/<id>/` writable layers, `trash/`.
    pub root: PathBuf,
    /// Volatile state on tmpfs: `pods/<id>/` with the shim's socket, exit and runtime records.
    pub state: PathBuf,
    /// The shim's program. It is copied once into a sealed memory file and started from there.
    pub shim: PathBuf,
    /// The cgroup that shims live in, relative to each hierarchy's root; with systemd the slice that their
    /// scope is in. Empty: the daemon's own.
    pub shim_cgroup: String,
    /// Parent cgroup of pods that name none: a path, or a slice's name.
    pub cgroup_parent: String,
    /// Who makes cgroups.
    pub cgroup_driver: CgroupDriver,
    /// Longest content of a log record, in bytes; longer lines are split.
    pub log_line_max_bytes: u32,
    /// Most of both streams together that [`crate::Pods::exec_sync`] gives back, in bytes.
    pub exec_output_max_bytes: usize,
    /// Resource limits of every container's processes.
    pub default_rlimits: Vec<Rlimit>,
    /// Capabilities of a container that asks for none: kernel names without `CAP_`.
    pub default_capabilities: Vec<String>,
    /// Writable layers are not synced (overlayfs `volatile`).
    pub overlay_volatile: bool,
}
