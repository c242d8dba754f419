//! Parts of an image reference, as far as people want to see them. The runtime alone decides what a reference
//! means; nothing here completes or checks one.

/// Longest name made from a reference; a pod's name is also its host name (63).
const NAME_MAX: usize = 40;

/// `registry/repository` and the tag of a tagged reference, for two columns of a table.
pub(crate) fn split_tag(reference: &str) -> (&str, &str) {
    let (name, _digest) = reference.split_once('@').unwrap_or((reference, ""));
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[last..].rfind(':') {
        // A colon before the last slash divides host and port.
        Some(colon) => (&name[..last + colon], &name[last + colon + 1..]),
        None => (name, ""),
    }
}

/// A name for what runs the image, valid as a host name (RFC 1123): the last part of the repository.
pub(crate) fn workload_name(reference: &str) -> String {
    let (name, tag) = split_tag(reference);
    // An image may be named by its id.
    let base =
        if name == "sha256" && tag.len() == 64 { "image" } else { name.rsplit('/').next().unwrap_or(name) };
    let mapped: String = base
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(NAME_MAX)
        .collect();
    let trimmed = mapped.trim_matches('-');
    if trimmed.is_empty() { "pod".to_owned() } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_split_at_the_tag() {
        for (reference, parts) in [
            ("docker.io/library/nginx:1.27", ("docker.io/library/nginx", "1.27")),
            ("localhost:5000/nginx", ("localhost:5000/nginx", "")),
            ("localhost:5000/nginx:1@sha256:00", ("localhost:5000/nginx", "1")),
            ("nginx", ("nginx", "")),
            ("", ("", "")),
        ] {
            assert_eq!(split_tag(reference), parts);
        }
    }

    #[test]
    fn names_of_workloads() {
        for (reference, name) in [
            ("docker.io/library/nginx:1.27", "nginx"),
            ("localhost:5000/My_App@sha256:00", "my-app"),
            ("...", "pod"),
            ("sha256:0123456789012345678901234567890123456789012345678901234567890123", "image"),
        ] {
            assert_eq!(workload_name(reference), name, "{reference}");
        }
    }

    proptest! {
        #[test]
        fn every_workload_name_is_a_host_name(reference in ".{0,80}") {
            let name = workload_name(&reference);
            prop_assert!((1..=NAME_MAX).contains(&name.len()));
            prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert!(!name.starts_with('-') && !name.ends_with('-'));
        }
    }
}
