//! What a caller may act on, whatever step failed.
//!
//! Each operation has an error enum of its own, in its own file; they share this one classification, which
//! the room that speaks to the kubelet maps to status codes by an exhaustive `match`.

/// Class of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request itself is wrong: a reference that is none.
    InvalidArgument,
    /// The registry does not have it, or the store does not.
    NotFound,
    /// The registry wants credentials, or did not take those that were given.
    Unauthenticated,
    /// The registry knows who asks and refuses.
    PermissionDenied,
    /// The registry cannot be reached, answers with a server error, or asks to come back later.
    RegistryUnavailable,
    /// Content is not what its digest or length says.
    Integrity,
    /// A transfer made no progress for the configured time.
    Stalled,
    /// Something is larger, deeper, or more than its bound.
    TooLarge,
    /// The disk or its inodes are full.
    NoSpace,
    /// The image is well formed, but not for this machine or of a kind that cannot be run.
    Unsupported,
    /// The image, or what the registry says, is malformed or hostile.
    InvalidImage,
    /// The operator's own files (hosts.toml, certificates) are wrong.
    Configuration,
    /// The local store failed.
    Internal,
    /// The operation was given up because nobody waits for it, or because the store is closing.
    Cancelled,
}

/// A file operation of the store that failed: what was done, and to what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {subject}")]
pub struct IoFailure {
    /// The operation, as a verb.
    pub action: &'static str,
    /// The file, relative to the store where that is possible.
    pub subject: String,
    /// The system's answer.
    #[source]
    pub source: std::io::Error,
}

impl IoFailure {
    pub(crate) fn new(
        action: &'static str,
        subject: impl Into<String>,
        source: impl Into<std::io::Error>,
    ) -> IoFailure {
        IoFailure { action, subject: subject.into(), source: source.into() }
    }

    /// [`ErrorKind::NoSpace`] if the disk, its inodes or a quota is full, else [`ErrorKind::Internal`].
    pub fn kind(&self) -> ErrorKind {
        use std::io::ErrorKind as Io;
        match self.source.kind() {
            Io::StorageFull | Io::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Internal,
        }
    }
}
