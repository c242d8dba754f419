//! How a failure is told: one line with its causes, and one that says what to do about it.

use std::io::Write;

use crate::{client, command, follow, resolve, stream};

/// Writes the failure to standard error. If even that is closed, there is nobody to tell.
pub(crate) fn report(error: &anyhow::Error) {
    let mut text = format!("carpel: {error:#}\n");
    if let Some(hint) = hint(error) {
        text.push_str(&format!("  hint: {hint}\n"));
    }
    let _nobody_to_tell = std::io::stderr().write_all(text.as_bytes());
}

/// The advice of the first cause that has one.
fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        None.or_else(|| cause.downcast_ref::<client::ConnectError>().and_then(client::ConnectError::hint))
            .or_else(|| cause.downcast_ref::<client::CallError>().and_then(client::CallError::hint))
            .or_else(|| cause.downcast_ref::<resolve::ResolveError>().map(resolve::ResolveError::hint))
            .or_else(|| cause.downcast_ref::<follow::FollowError>().and_then(follow::FollowError::hint))
            .or_else(|| cause.downcast_ref::<stream::StreamError>().and_then(stream::StreamError::hint))
            .or_else(|| cause.downcast_ref::<command::Refused>().and_then(command::Refused::hint))
    })
}
