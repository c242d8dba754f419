//! Ending a container that nobody was told of: killed, then forgotten by its shim.

use std::time::Duration;

use carpel_shim_api::message::FailureKind;
use tokio::time::Instant;

use crate::{
    ContainerId,
    shim::{Shim, ShimError},
};

/// How long a killed container may take to die.
const END_MAX: Duration = Duration::from_secs(30);
/// Between two looks whether it has.
const END_PAUSE: Duration = Duration::from_millis(50);
/// signal(7).
const SIGKILL: i32 = 9;

/// Kills a container, wherever it is in its life, and deletes it as soon as it is dead. One
/// that the shim does not know is no error, and leaves no exit record either.
///
/// # Errors
/// The shim does not answer, or the container does not die: the shim has not let go of its files.
pub(crate) async fn end(shim: &Shim, id: &ContainerId) -> Result<(), ShimError> {
    let until = Instant::now() + END_MAX;
    match shim.kill(id, SIGKILL, true).await {
        Ok(()) | Err(ShimError::Refused { kind: FailureKind::NotFound, .. }) => {}
        Err(err) => return Err(err),
    }
    loop {
        match shim.delete(id).await {
            // It is dying, or the attempt to make it is being undone.
            Err(ShimError::Refused { kind: FailureKind::WrongState, .. }) if Instant::now() < until => {
                tokio::time::sleep(END_PAUSE).await;
            }
            other => return other,
        }
    }
}
