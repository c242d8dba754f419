//! Errors of the rooms as gRPC statuses: the one place that knows the codes.
//!
//! Every variant is listed, so that a new one does not compile until it has a code. The kubelet acts on
//! few of them: `NotFound` means gone, `DeadlineExceeded` of an exec is a probe's timeout, `Unimplemented`
//! makes it fall back for good (so nothing transient may say it), and a pull's message that begins with
//! `RegistryUnavailable` is told to users as such (k8s.io/cri-api, `pkg/errors`).

use std::error::Error;

use carpel_image::{ErrorKind, ImportError, PullError, ReferenceError, RemoveError};
use carpel_pod::{
    CreateError, ExecError, FailureKind, FindError, RemoveContainerError, RemovePodError, ReopenLogError,
    RunError, ShimError, StartError, StatsError, StopContainerError, StopPodError, UpdateError,
};
use carpel_streaming::TokenError;
use thiserror::Error as ThisError;
use tonic::{Code, Status};

use crate::parse::Invalid;

/// An error with a gRPC code.
pub(crate) trait ToStatus: Error + Sized + 'static {
    /// The code.
    fn code(&self) -> Code;

    /// The code and the whole chain of causes.
    fn to_status(&self) -> Status {
        Status::new(self.code(), chain(self))
    }
}

/// The longest message of a status, in bytes. It travels in a header, and clients bound those.
const MESSAGE_MAX_BYTES: usize = 4096;

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    if text.len() > MESSAGE_MAX_BYTES {
        text.truncate(text.floor_char_boundary(MESSAGE_MAX_BYTES));
        text.push('…');
    }
    text
}

/// A container or pod is not in a state to stream with.
#[derive(Debug, ThisError)]
#[error("{0} is not running")]
pub(crate) struct NotRunning(pub String);

impl ToStatus for NotRunning {
    fn code(&self) -> Code {
        Code::FailedPrecondition
    }
}

impl ToStatus for TokenError {
    fn code(&self) -> Code {
        match self {
            TokenError::TooMany => Code::ResourceExhausted,
            TokenError::Random(_) => Code::Internal,
        }
    }
}

impl ToStatus for ImportError {
    fn code(&self) -> Code {
        match self.kind() {
            // The operator named the file: what is wrong with it is an argument's fault.
            ErrorKind::Integrity | ErrorKind::InvalidImage | ErrorKind::Unsupported => Code::InvalidArgument,
            kind => image_code(kind),
        }
    }
}

impl ToStatus for Invalid {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl ToStatus for FindError {
    fn code(&self) -> Code {
        match self {
            FindError::NotFound { .. } => Code::NotFound,
            FindError::Ambiguous { .. } => Code::InvalidArgument,
        }
    }
}

impl ToStatus for ShimError {
    fn code(&self) -> Code {
        match self {
            ShimError::Gone => Code::Unavailable,
            ShimError::Timeout { .. } => Code::DeadlineExceeded,
            ShimError::Refused { kind, .. } => refused(*kind),
            ShimError::Stuck { .. } | ShimError::Descriptors { .. } => Code::ResourceExhausted,
            ShimError::UnexpectedReply { .. } | ShimError::Version { .. } | ShimError::Frame { .. } => {
                Code::Internal
            }
        }
    }
}

fn refused(kind: FailureKind) -> Code {
    match kind {
        // Unsupported is the shim's, for a call that CRI has: not the kubelet's "older runtime".
        FailureKind::Internal | FailureKind::Unsupported => Code::Internal,
        FailureKind::Invalid | FailureKind::User => Code::InvalidArgument,
        FailureKind::NotFound => Code::NotFound,
        FailureKind::WrongState => Code::FailedPrecondition,
        FailureKind::AlreadyExists => Code::AlreadyExists,
        FailureKind::CommandNotExecutable | FailureKind::Mount | FailureKind::ImageVolume => Code::Unknown,
        FailureKind::Exhausted => Code::ResourceExhausted,
    }
}

impl ToStatus for RunError {
    fn code(&self) -> Code {
        match self {
            RunError::NameTaken { .. } => Code::AlreadyExists,
            RunError::UnknownHandler(_) | RunError::Plan { .. } | RunError::SelinuxLabel { .. } => {
                Code::InvalidArgument
            }
            RunError::Record { .. } | RunError::File { .. } => disk(self),
            RunError::Id(_)
            | RunError::SelinuxLevel { .. }
            | RunError::UserNamespace { .. }
            | RunError::Spawn { .. }
            | RunError::BrokenOff(_) => Code::Internal,
            RunError::Network { .. } => Code::Unknown,
            RunError::Shim { source, .. } => source.code(),
        }
    }
}

impl ToStatus for StopPodError {
    fn code(&self) -> Code {
        match self {
            StopPodError::Find(error) => error.code(),
            StopPodError::Unkillable { .. } => Code::DeadlineExceeded,
            StopPodError::Network { .. } => Code::Unknown,
            StopPodError::Record { .. } => disk(self),
        }
    }
}

impl ToStatus for RemovePodError {
    fn code(&self) -> Code {
        match self {
            RemovePodError::Find(error) => error.code(),
            RemovePodError::Stop(error) => error.code(),
            RemovePodError::Record { .. } => disk(self),
        }
    }
}

impl ToStatus for CreateError {
    fn code(&self) -> Code {
        match self {
            CreateError::Find(error) => error.code(),
            CreateError::PodNotReady(_) => Code::FailedPrecondition,
            CreateError::NameTaken { .. } => Code::AlreadyExists,
            CreateError::PrivilegedNotAllowed { .. }
            | CreateError::PidTarget { .. }
            | CreateError::SelinuxLabel { .. }
            | CreateError::Plan { .. } => Code::InvalidArgument,
            CreateError::ImageNotFound(_) => Code::NotFound,
            CreateError::Host { .. } | CreateError::File { .. } => disk(self),
            CreateError::HostTimeout { .. } => Code::DeadlineExceeded,
            CreateError::Record { .. } => disk(self),
            CreateError::Image { .. }
            | CreateError::Id { .. }
            | CreateError::AppArmor { .. }
            | CreateError::Scope { .. }
            | CreateError::BrokenOff(_) => Code::Internal,
            CreateError::ImageVolume { .. } => Code::Unknown,
            CreateError::Shim { source, .. } => source.code(),
        }
    }

    fn to_status(&self) -> Status {
        let text = chain(self);
        let of_image_volume = match self {
            CreateError::ImageVolume { .. } => true,
            CreateError::Shim { source, .. } => {
                matches!(**source, ShimError::Refused { kind: FailureKind::ImageVolume, .. })
            }
            _ => false,
        };
        // The kubelet tells this word from the rest of the message (k8s.io/cri-api, pkg/errors).
        let word = if of_image_volume { "ImageVolumeMountFailed: " } else { "" };
        Status::new(self.code(), format!("{word}{text}"))
    }
}

impl ToStatus for StartError {
    fn code(&self) -> Code {
        match self {
            StartError::Find(error) => error.code(),
            StartError::NotCreated(_) => Code::FailedPrecondition,
            StartError::Shim { source, .. } => source.code(),
        }
    }
}

impl ToStatus for StopContainerError {
    fn code(&self) -> Code {
        match self {
            StopContainerError::Find(error) => error.code(),
            StopContainerError::Unkillable { .. } => Code::DeadlineExceeded,
        }
    }
}

impl ToStatus for RemoveContainerError {
    fn code(&self) -> Code {
        match self {
            RemoveContainerError::Find(error) => error.code(),
            RemoveContainerError::Stop(error) => error.code(),
            RemoveContainerError::Shim { source, .. } => source.code(),
            RemoveContainerError::Record { .. } => disk(self),
        }
    }
}

impl ToStatus for UpdateError {
    fn code(&self) -> Code {
        match self {
            UpdateError::Find(error) => error.code(),
            UpdateError::NotAlive(_) => Code::FailedPrecondition,
            UpdateError::Plan { .. } => Code::InvalidArgument,
            UpdateError::Shim { source, .. } => source.code(),
            UpdateError::Record { .. } => disk(self),
        }
    }
}

impl ToStatus for ReopenLogError {
    fn code(&self) -> Code {
        match self {
            ReopenLogError::Find(error) => error.code(),
            ReopenLogError::NotRunning(_) => Code::FailedPrecondition,
            ReopenLogError::Shim { source, .. } => source.code(),
        }
    }
}

impl ToStatus for ExecError {
    fn code(&self) -> Code {
        match self {
            ExecError::Find(error) => error.code(),
            ExecError::NotRunning(_) => Code::FailedPrecondition,
            ExecError::EmptyCommand(_) => Code::InvalidArgument,
            ExecError::Timeout { .. } => Code::DeadlineExceeded,
            ExecError::Shim { source, .. } => source.code(),
            ExecError::Io { .. } => Code::Internal,
        }
    }
}

impl ToStatus for StatsError {
    fn code(&self) -> Code {
        match self {
            StatsError::Find(error) => error.code(),
        }
    }
}

impl ToStatus for ReferenceError {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl ToStatus for RemoveError {
    fn code(&self) -> Code {
        image_code(self.kind())
    }
}

impl ToStatus for PullError {
    fn code(&self) -> Code {
        image_code(self.kind())
    }

    fn to_status(&self) -> Status {
        let text = chain(self);
        match self.kind() {
            ErrorKind::RegistryUnavailable => {
                Status::new(self.code(), format!("RegistryUnavailable: {text}"))
            }
            _ => Status::new(self.code(), text),
        }
    }
}

fn image_code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        // The kubelet looks for its word in messages with code Unknown.
        ErrorKind::RegistryUnavailable => Code::Unknown,
        ErrorKind::Integrity => Code::DataLoss,
        ErrorKind::Stalled => Code::DeadlineExceeded,
        ErrorKind::TooLarge | ErrorKind::NoSpace => Code::ResourceExhausted,
        ErrorKind::Unsupported | ErrorKind::InvalidImage | ErrorKind::Configuration => {
            Code::FailedPrecondition
        }
        ErrorKind::Internal => Code::Internal,
        ErrorKind::Cancelled => Code::Aborted,
    }
}

/// The code of an error whose cause lies with a file: a full disk is not a defect of the daemon.
fn disk(error: &(dyn Error + 'static)) -> Code {
    use std::io::{Error as IoError, ErrorKind as Io};
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<IoError>() {
            return match io.kind() {
                Io::StorageFull | Io::QuotaExceeded => Code::ResourceExhausted,
                Io::NotFound | Io::NotADirectory | Io::InvalidInput => Code::InvalidArgument,
                _ => Code::Internal,
            };
        }
        cause = error.source();
    }
    Code::Internal
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use carpel_pod::{FileError, ObjectKind};

    use super::*;

    fn host_error(kind: std::io::ErrorKind) -> CreateError {
        let source = FileError { action: "check", path: PathBuf::from("/data"), source: kind.into() };
        CreateError::Host { name: "web".into(), source: Arc::new(source) }
    }

    #[test]
    fn causes_are_told_once_each() {
        let status = host_error(std::io::ErrorKind::StorageFull).to_status();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message().matches("/data").count(), 1, "{}", status.message());
        assert_eq!(host_error(std::io::ErrorKind::NotFound).code(), Code::InvalidArgument);
        assert_eq!(host_error(std::io::ErrorKind::PermissionDenied).code(), Code::Internal);
    }

    #[test]
    fn what_is_gone_is_not_found() {
        let gone = FindError::NotFound { kind: ObjectKind::Container, id: "abc".into() };
        assert_eq!(ExecError::from(gone.clone()).to_status().code(), Code::NotFound);
        assert_eq!(StartError::from(gone).to_status().code(), Code::NotFound);
    }

    #[test]
    fn nothing_transient_is_unimplemented() {
        for kind in [FailureKind::Unsupported, FailureKind::Internal, FailureKind::Exhausted] {
            let error = ShimError::Refused { kind, message: "no".into() };
            assert_ne!(error.code(), Code::Unimplemented);
        }
    }
}
