//! What can go wrong, an enum for each operation.
//!
//! The causes are shared by all callers that joined an operation, which is why they stand in an
//! [`Arc`]. `Display` says operation and subject; the cause is told by `source()` only.

mod container;
mod pod;

use std::{io, path::PathBuf, sync::Arc};

use thiserror::Error;

use crate::DriverError;

pub use container::{
    AttachError, CreateError, ExecError, RemoveContainerError, ReopenLogError, StartError, StatsError,
    StopContainerError, UpdateError,
};
pub use pod::{NetnsError, RemovePodError, RunError, StopPodError};

/// A cause of another room, shared by all callers that joined the operation.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// Characters of an id that an error shows. Whole ids have 64.
const ID_SHOWN_MAX: usize = 80;

/// What an id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A pod sandbox.
    Pod,
    /// A container.
    Container,
}

impl std::fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ObjectKind::Pod => "pod sandbox",
            ObjectKind::Container => "container",
        })
    }
}

/// An id, or the beginning of one, that does not lead to one thing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FindError {
    /// Nothing has this id.
    #[error("{kind} {:?} does not exist", shortened(id))]
    NotFound {
        /// What was looked for.
        kind: ObjectKind,
        /// As given.
        id: String,
    },
    /// More than one id begins like this.
    #[error("more than one {kind} has an id that begins with {:?}", shortened(prefix))]
    Ambiguous {
        /// What was looked for.
        kind: ObjectKind,
        /// As given.
        prefix: String,
    },
}

/// An id of a caller's as far as an error shows it: it may be of any length.
fn shortened(id: &str) -> std::borrow::Cow<'_, str> {
    match id.char_indices().nth(ID_SHOWN_MAX) {
        None => id.into(),
        Some((end, _)) => format!("{}…", &id[..end]).into(),
    }
}

/// A record could not be written, read or removed.
#[derive(Debug, Error)]
#[error("{action} record {}", path.display())]
pub struct RecordError {
    /// `write`, `read`, `remove`.
    pub action: &'static str,
    /// Which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// A step with files of a pod or container failed.
#[derive(Debug, Error)]
#[error("{action} {}", path.display())]
pub struct FileError {
    /// The verb: `create`, `write`, `check`.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// [`crate::Pods::open`] failed. A damaged record never is the reason: it is put aside.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A folder or file of the daemon's own is not usable.
    #[error("open the pods' state")]
    File(#[from] FileError),
    /// The shim's program is not usable.
    #[error("load shim {}", path.display())]
    Shim {
        /// From the configuration.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The node's cgroups are not usable.
    #[error("look at the node's cgroups")]
    Cgroups(#[source] carpel_cgroups::DetectError),
    /// systemd cannot make the cgroups.
    #[error("use the configured cgroup driver")]
    Driver(#[from] DriverError),
    /// The daemon's own capabilities are not readable.
    #[error("read the daemon's own capabilities")]
    Capabilities(#[source] io::Error),
    /// A configured default capability does not exist.
    #[error("use the configured default capabilities")]
    DefaultCapability(#[source] carpel_spec::capability::UnknownCapability),
    /// No seccomp programs can be made for this processor.
    #[error("this processor's architecture is not supported")]
    Architecture,
    /// A thread that read the disk ended early.
    #[error("reading the pods' state was broken off")]
    BrokenOff(#[source] tokio::task::JoinError),
    /// The kernel's boot id is not readable.
    #[error("read the kernel's boot id")]
    BootId(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_huge_id_is_shown_shortened() {
        let kind = ObjectKind::Container;
        let id = "ä".repeat(100_000);
        for err in [FindError::NotFound { kind, id: id.clone() }, FindError::Ambiguous { kind, prefix: id }] {
            let text = err.to_string();
            assert_eq!(text.chars().filter(|char| *char == 'ä').count(), ID_SHOWN_MAX);
            assert!(text.contains('…'), "{text}");
        }
        let whole = "f".repeat(64);
        let err = FindError::NotFound { kind, id: whole.clone() };
        assert_eq!(err.to_string(), format!("container \"{whole}\" does not exist"));
    }
}
