//! `PullImage`.

use carpel_image::{AuthFields, PullRequest, Reference};
use carpel_proto::v1;

use super::{Invalid, invalid, name, required};

/// What to pull, and as whom.
pub(crate) fn pull_request(from: v1::PullImageRequest) -> Result<PullRequest, Invalid> {
    let image = required(from.image, "image")?;
    let reference = name(&image.image, "image.image")?;
    let parsed =
        Reference::parse(&reference).map_err(|error| invalid("image.image", crate::status::chain(&error)))?;
    let auth = match from.auth {
        None => None,
        // The error never repeats what was given: it is a secret.
        Some(auth) => auth_fields(auth)
            .for_registry(parsed.registry())
            .map_err(|error| invalid("auth", crate::status::chain(&error)))?,
    };
    Ok(PullRequest { reference, auth, platform: None, progress: None })
}

fn auth_fields(from: v1::AuthConfig) -> AuthFields {
    AuthFields {
        username: from.username,
        password: from.password,
        auth: from.auth,
        server_address: from.server_address,
        identity_token: from.identity_token,
        registry_token: from.registry_token,
    }
}
