//! Gives a pod its network: namespace, CNI, built-in bridge.
//!
//! [`Network`] is the cheap handle. [`Network::attach`] makes and pins a network namespace and has one of
//! two engines put interfaces into it; [`Network::detach`] takes all of it away again, from what the disk
//! remembers, however long ago and whatever happened since.
//!
//! ```text
//!   attach   plan (nothing touched) ─► record "intent" durable ─► netns pinned, lo up ─► engine ─► record "attached"
//!                                                └────────────── any step fails ──────────┴─► detach (the one undo)
//!   detach   engine (CNI DEL in reverse | ports, veth) ─► netns unpinned ─► record removed
//!                 └── fails: the record stays, the address stays taken, the caller tries again
//! ```
//!
//! It is not a CNI plugin, it starts no containers, and it never addresses a namespace by a process id.
#![forbid(unsafe_code)]

mod attach;
mod attachment;
mod bridge;
mod cni;
mod config;
mod detach;
mod netlink;
mod network;
mod nft;
mod pods;
mod record;
mod request;

pub use attach::AttachError;
pub use attachment::{Attachment, Interface, InterfaceStats, NetworkStatus};
pub use bridge::{BridgeError, HostError, PlanError, PortError, SysctlError};
pub use cni::{
    ArgumentError, CacheError, CniError, CniOpenError, CniPlanError, ConfError, ExecError, PluginError,
    Problem, ResultError,
};
pub use config::{BridgeConfig, CniConfig, Config, ConfigError, Mode, ParseSubnetError, Subnet};
pub use detach::DetachError;
pub use netlink::NetlinkError;
pub use network::{CheckError, Network, OpenError, StatsError, TeardownError};
pub use record::RecordError;
pub use request::{AttachRequest, DnsConfig, PortMapping, Protocol};
