//! Images.

use carpel_image::Image;
use carpel_proto::v1;

/// An image as the kubelet's garbage collector and its runAsNonRoot check see it.
pub(crate) fn image(from: &Image) -> v1::Image {
    let (uid, username) = user(&from.config.user);
    v1::Image {
        id: from.id.to_string(),
        repo_tags: from.repo_tags.clone(),
        repo_digests: from.repo_digests.clone(),
        // The kubelet takes zero for "not told".
        size: from.size.max(1),
        uid,
        username,
        spec: Some(image_spec(from)),
        pinned: from.pinned,
    }
}

/// What a client may say to mean this image.
fn image_spec(from: &Image) -> v1::ImageSpec {
    let name = from.repo_tags.first().or(from.repo_digests.first()).cloned();
    v1::ImageSpec { image: name.unwrap_or_else(|| from.id.to_string()), ..v1::ImageSpec::default() }
}

/// Either a number or a name, of the user part of the image's `USER`. Digits out of range are told as
/// a name, so that nobody takes them for root.
fn user(user: &str) -> (Option<v1::Int64Value>, String) {
    let user = user.split(':').next().unwrap_or_default();
    if user.is_empty() {
        return (Some(v1::Int64Value { value: 0 }), String::new());
    }
    let digits = user.bytes().all(|byte| byte.is_ascii_digit());
    match user.parse::<u32>() {
        Ok(uid) if digits => (Some(v1::Int64Value { value: uid.into() }), String::new()),
        _ => (None, user.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_number_or_a_name_never_both() {
        for (given, uid, name) in [
            ("", Some(0), ""),
            ("0", Some(0), ""),
            ("1002", Some(1002), ""),
            ("1003:1004", Some(1003), ""),
            ("www-data:1004", None, "www-data"),
            ("4294967296", None, "4294967296"),
            ("+1", None, "+1"),
            ("-1", None, "-1"),
        ] {
            let (got, got_name) = user(given);
            assert_eq!((got.map(|value| value.value), got_name.as_str()), (uid, name), "{given}");
        }
    }
}
