//! What a shim leaves on disk for a daemon that was away.
//!
//! `<pod dir>/exits/<container id>` holds one [`ExitRecord`] as prost bytes, written to a temporary
//! name and renamed before the exit is told to anybody. The shim alone writes it; `Delete` removes it.

/// The name of the folder of exit records in a pod's folder.
pub const EXITS_DIR: &str = "exits";
/// The name of a shim's listening socket in its pod's folder.
pub const SOCKET_NAME: &str = "shim.sock";

/// How a container ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExitRecord {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// 0–255; 128 plus the signal's number when a signal ended it.
    #[prost(int32, tag = "2")]
    pub exit_code: i32,
    /// The signal that ended it; zero if it exited by itself.
    #[prost(int32, tag = "3")]
    pub signal: i32,
    /// The kernel's out-of-memory killer struck in the container's cgroup.
    #[prost(bool, tag = "4")]
    pub oom_killed: bool,
    /// Nanoseconds since the Unix epoch; zero if it never ran.
    #[prost(int64, tag = "5")]
    pub started_at_ns: i64,
    /// Nanoseconds since the Unix epoch.
    #[prost(int64, tag = "6")]
    pub finished_at_ns: i64,
    /// For people; not empty when something other than the process itself ended the container.
    #[prost(string, tag = "7")]
    pub message: String,
}

/// Who a process runs as.
#[derive(Clone, PartialEq, prost::Message)]
pub struct User {
    /// User id.
    #[prost(uint32, tag = "1")]
    pub uid: u32,
    /// Primary group id.
    #[prost(uint32, tag = "2")]
    pub gid: u32,
    /// Supplementary group ids, the primary one included if it is among them.
    #[prost(uint32, repeated, tag = "3")]
    pub groups: Vec<u32>,
}
