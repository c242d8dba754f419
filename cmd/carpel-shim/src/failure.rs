//! Errors as the daemon gets them: a kind for programs, and one line with all causes for people.

use std::error::Error;

use carpel_oci_runtime::create::{CreateError, StartError};
use carpel_oci_runtime::exec::ExecError;
use carpel_oci_runtime::report::{self, Stage};
use carpel_shim_api::message::{Failure, FailureKind};
use rustix::io::Errno;

/// Puts a failure together from a kind and an error with its causes.
pub(crate) fn failure(kind: FailureKind, error: &(dyn Error + 'static)) -> Failure {
    let mut message = error.to_string();
    let mut kind = kind;
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        if let Some(errno) = error.downcast_ref::<Errno>()
            && kind == FailureKind::Internal
        {
            kind = of_errno(Some(*errno));
        }
        cause = error.source();
    }
    Failure { kind: kind.into(), message }
}

/// A failure that has no error behind it.
pub(crate) fn plain(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind: kind.into(), message: message.into() }
}

pub(crate) fn of_create(error: &CreateError) -> Failure {
    let kind = match error {
        CreateError::Init(child) => of_child(child),
        CreateError::Invalid(_) => FailureKind::Invalid,
        _ => FailureKind::Internal,
    };
    failure(kind, error)
}

pub(crate) fn of_start(error: &StartError) -> Failure {
    let kind = match error {
        StartError::Init(child) => of_child(child),
        _ => FailureKind::Internal,
    };
    failure(kind, error)
}

pub(crate) fn of_exec(error: &ExecError) -> Failure {
    let kind = match error {
        ExecError::Child(child) => of_child(child),
        ExecError::Invalid(_) => FailureKind::Invalid,
        _ => FailureKind::Internal,
    };
    failure(kind, error)
}

/// What sort of failure a child's is: by its step, unless the machine has run out of something.
fn of_child(child: &report::Failure) -> FailureKind {
    let by_errno = of_errno(child.errno);
    if by_errno == FailureKind::Exhausted {
        return by_errno;
    }
    match child.stage {
        Stage::Execute => FailureKind::CommandNotExecutable,
        Stage::User => FailureKind::User,
        Stage::Mount | Stage::Rootfs => FailureKind::Mount,
        Stage::ImageVolume => FailureKind::ImageVolume,
        // A working directory that cannot be entered is the image's or the pod's fault.
        Stage::WorkingDirectory => FailureKind::CommandNotExecutable,
        Stage::Prepare
        | Stage::Cgroup
        | Stage::Namespace
        | Stage::Device
        | Stage::Terminal
        | Stage::Security
        | Stage::Limits
        | Stage::Credentials
        | Stage::Seccomp
        | Stage::Panic => FailureKind::Internal,
    }
}

fn of_errno(errno: Option<Errno>) -> FailureKind {
    match errno {
        Some(
            Errno::NOMEM
            | Errno::AGAIN
            | Errno::MFILE
            | Errno::NFILE
            | Errno::NOSPC
            | Errno::DQUOT
            | Errno::USERS,
        ) => FailureKind::Exhausted,
        _ => FailureKind::Internal,
    }
}
