//! What is left of a container that could not be made: its cgroup, until it lets go.
//!
//! ```text
//!  Create fails ──▶ killed, removed ──────────────────────▶ the failure is answered
//!                        │ busy                                ▲
//!                        ▼                                     │
//!                   looked at again until it is gone, or for too long; then Shutdown tries it too
//! ```

use std::time::{Duration, Instant};

use carpel_cgroups::{Cgroup, DeleteError};
use carpel_shim_api::message::Failure;

use crate::container::Caller;
use crate::pod::Pod;
use crate::remove::{BUSY_MAX, LOOK_AGAIN};

/// The cgroup of a container that could not be made.
#[derive(Debug)]
pub(crate) struct Undone {
    pub(crate) cgroup: Cgroup,
    /// Who is to be told, and what, as soon as nothing is left or the cgroup was busy for too long.
    answer: Option<(Failure, Caller)>,
    /// When that is.
    until: Instant,
}

impl Pod {
    /// Leaves nothing of a container that could not be made, and then says why.
    pub(crate) fn undo(&mut self, cgroup: Cgroup, failure: Failure, caller: Caller) {
        // A failure shows with the removal: what was not killed is busy.
        let _tried_again = cgroup.kill();
        let until = Instant::now() + BUSY_MAX;
        self.undone.push(Undone { cgroup, answer: Some((failure, caller)), until });
        let _told_when_asked_for = self.try_undone();
    }

    /// Removes the cgroups of containers that could not be made, as far as they let go. What
    /// keeps the last one that does not.
    pub(crate) fn try_undone(&mut self) -> Option<DeleteError> {
        let now = Instant::now();
        let mut answers = Vec::new();
        let mut is_waiting = false;
        let mut kept = None;
        self.undone.retain_mut(|undone| match undone.cgroup.delete(Duration::ZERO) {
            Ok(()) => {
                answers.extend(undone.answer.take());
                false
            }
            Err(error) => {
                let _tried_again = undone.cgroup.kill();
                if matches!(error, DeleteError::Busy { .. }) && now < undone.until {
                    is_waiting = true;
                } else {
                    // It stays known: every later look at the pod, and its shutdown, try again.
                    answers.extend(undone.answer.take());
                }
                kept = Some(error);
                true
            }
        });
        for (failure, caller) in answers {
            self.fail(caller, failure);
        }
        if is_waiting {
            self.tick_at(now + LOOK_AGAIN);
        }
        kept
    }
}
