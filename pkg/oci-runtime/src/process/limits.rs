//! Resource limits (setrlimit(2)).

use carpel_shim_api::plan::Rlimit;
use carpel_sys::rlimit::{self, Limit};
use rustix::io::Errno;

/// A limit that was not set.
#[derive(Debug, thiserror::Error)]
#[error("set resource limit {resource} to {soft}:{hard}")]
pub(crate) struct LimitError {
    resource: u32,
    soft: u64,
    hard: u64,
    #[source]
    source: Errno,
}

/// Raises hard limits as far as [`set`] will want them. For a process that is about to enter a user
/// namespace, where no capability allows that any more.
pub(crate) fn make_room(limits: &[Rlimit]) -> Result<(), LimitError> {
    for &Rlimit { resource, soft, hard } in limits {
        let raised = rlimit::get(resource).and_then(|own| {
            if own.hard >= hard { Ok(()) } else { rlimit::set(resource, Limit { soft: own.soft, hard }) }
        });
        match raised {
            // Not here either: `set` makes do with what there is.
            Ok(()) | Err(Errno::PERM) => {}
            Err(source) => return Err(LimitError { resource, soft, hard, source }),
        }
    }
    Ok(())
}

/// Sets the limits. One above what the shim itself may have is clamped to that, where the shim has no
/// `CAP_SYS_RESOURCE`.
pub(crate) fn set(limits: &[Rlimit]) -> Result<(), LimitError> {
    for &Rlimit { resource, soft, hard } in limits {
        let result = match rlimit::set(resource, Limit { soft, hard }) {
            Err(Errno::PERM) => rlimit::get(resource).and_then(|own| {
                let clamped = Limit { soft: soft.min(own.hard), hard: hard.min(own.hard) };
                rlimit::set(resource, clamped)
            }),
            other => other,
        };
        result.map_err(|source| LimitError { resource, soft, hard, source })?;
    }
    Ok(())
}
