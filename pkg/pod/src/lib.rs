//! The life of a pod through restarts: states, records, one owner per pod, recovery, the client of
//! the shim.
//!
//! ```text
//!              run                        stop, or the shim is lost               remove
//!  (reserved) ─────▶ Ready ─────────────────────────────────────────▶ NotReady ─────────▶ (gone)
//!                      │ create
//!                      ▼         start             exit
//!                   Created ───────────▶ Running ────────▶ Exited ── remove ──▶ (gone)
//!                      └──── start failed, or killed ────────▶ ▲
//! ```
//!
//! Each pod has one owner, a task ([`owner`]) that alone changes it. Requests reach it by a queue;
//! it answers none of them by waiting: whatever takes time runs beside it, and comes back to it as a
//! message. What it decides it writes down ([`record`]) and publishes ([`catalog`]); List and Status
//! read the published copy and never meet the owner. After a restart of the daemon the same owner is
//! started from the record and from what the shim answers ([`open`]).
//!
//! Not here: CRI, streaming, pulling, and whatever is done inside a container: the shim does that.
#![forbid(unsafe_code)]

mod apparmor;
mod attach;
mod catalog;
mod clock;
mod config;
mod error;
mod event;
mod exec;
mod host;
mod id;
mod layout;
mod lost;
mod metrics;
mod names;
mod node;
mod open;
mod owner;
mod pods;
mod profile;
mod record;
mod run;
mod scope;
mod selinux;
mod shim;
mod snapshot;
mod stats;
mod stdio;
mod survivors;
mod trash;
mod usage;
mod user_namespace;

pub use apparmor::{AppArmorError, AppArmorState};
pub use attach::{AttachRequest, AttachSession, ContainerTerminal};
pub use carpel_shim_api::message::FailureKind;
pub use config::{CgroupDriver, Config, Rlimit};
pub use error::{
    AttachError, Cause, CreateError, ExecError, FileError, FindError, NetnsError, ObjectKind, OpenError,
    RecordError, RemoveContainerError, RemovePodError, ReopenLogError, RunError, StartError, StatsError,
    StopContainerError, StopPodError, UpdateError,
};
pub use event::{Event, EventKind, EventStream};
pub use exec::{ExecOutput, ExecProcess, ExecRequest, ExecSession, ExecStreams};
pub use id::{ContainerId, IdError, PodId};
pub use metrics::{
    AllMetrics, ContainerMetrics, Descriptors, Detail, DeviceIo, Filesystem, MemoryDetail, PodMetrics,
    Throttling,
};
pub use pods::Pods;
pub use scope::{DriverError, ScopeError, preferred_cgroup_driver};
pub use shim::ShimError;
pub use snapshot::{ContainerSnapshot, ContainerState, Exit, ExitReason, PodSnapshot, PodState, User};
pub use stats::{
    ContainerStats, CpuUsage, DiskUsage, InterfaceUsage, MemoryUsage, PodStats, Pressure, Stall, Usage,
};
pub use stdio::{StdioReader, StdioWriter};
