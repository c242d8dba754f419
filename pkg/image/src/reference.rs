//! Image references as people and the kubelet write them, in the one form the store keeps.
//!
//! `busybox` and `docker.io/library/busybox:latest` are the same image; everything inside this crate uses
//! the long form.
//!
//! ```text
//!   reference = [ host [ ":" port ] "/" ] component *( "/" component ) [ ":" tag ] [ "@" digest ]
//! ```
//!
//! The first part is a host if there is a `/` behind it and a `.` or `:` in it, or if it is `localhost`. Facts from
//! the distribution project's reference grammar and the OCI distribution specification ("Pulling manifests").
//! `oci_spec` parses the same with a regular expression, which keeps 7 MB of memory once it was used: a third of
//! what the daemon may need. It is the oracle of the tests.

use std::fmt;

use crate::digest::{Digest, DigestError};

/// Bytes of a reference: 255 for the name, 128 for the tag, 135 for the digest, and room for the host.
const REFERENCE_BYTES_MAX: usize = 1024;
/// Bytes of a repository's path.
const REPOSITORY_BYTES_MAX: usize = 255;
/// Bytes of a tag.
const TAG_BYTES_MAX: usize = 128;
/// The registry of names without one.
const DEFAULT_REGISTRY: &str = "docker.io";
/// What it was called before.
const DEFAULT_REGISTRY_LEGACY: &str = "index.docker.io";

/// Fewest hex digits of an abbreviated image id: fewer would make a mistyped name hit an image.
const SHORT_ID_MIN: usize = 4;

/// Why a reference or id names nothing that could exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Longer than any reference may be.
    #[error("image reference of {0} bytes is longer than {REFERENCE_BYTES_MAX}")]
    TooLong(usize),
    /// Not in the grammar of references.
    #[error("image reference {text:?} is not valid")]
    Grammar {
        /// The text as given.
        text: String,
        /// Which part of the grammar it breaks.
        #[source]
        source: GrammarError,
    },
    /// The digest in it is malformed.
    #[error("image reference {text:?} has a bad digest")]
    Digest {
        /// The text as given.
        text: String,
        /// What is wrong with the digest.
        #[source]
        source: DigestError,
    },
    /// An abbreviated id fits more than one image.
    #[error("image id {0:?} is ambiguous")]
    Ambiguous(String),
}

/// Which part of the grammar of references is broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// The part before the first `/` looks like a host and is none.
    #[error("{0:?} is not a registry's host and port")]
    Host(String),
    /// Part of the repository's path.
    #[error("{0:?} is not lower-case letters and digits, joined by one `.`, one or two `_`, or any `-`")]
    Component(String),
    /// The path as a whole.
    #[error("a repository of {0} bytes is longer than {REPOSITORY_BYTES_MAX}")]
    RepositoryTooLong(usize),
    /// The tag.
    #[error(
        "{0:?} is not a tag: up to {TAG_BYTES_MAX} letters, digits, `_`, `.` or `-`, the last two not first"
    )]
    Tag(String),
}

/// A parsed and normalised reference: registry, repository, and a tag or a digest or both.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalises: no registry becomes `docker.io`, a single-component repository there gets
    /// `library/` in front, and without tag and digest the tag is `latest`.
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        if text.len() > REFERENCE_BYTES_MAX {
            return Err(ReferenceError::TooLong(text.len()));
        }
        let (named, digest) = match text.split_once('@') {
            None => (text, None),
            Some((named, digest)) => {
                let bad = |source| ReferenceError::Digest { text: text.to_owned(), source };
                (named, Some(digest.parse().map_err(bad)?))
            }
        };
        let (registry, repository, tag) =
            split(named).map_err(|source| ReferenceError::Grammar { text: text.to_owned(), source })?;
        let tag = match tag {
            None if digest.is_none() => Some("latest".to_owned()),
            tag => tag.map(str::to_owned),
        };
        Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
    }

    /// Host, and port if one was given, of the registry that the image is named after.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository's path in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; absent if the reference has a digest only.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest the content must have.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `registry/repository`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `registry/repository:tag`, as images are listed by (CRI `Image.repo_tags`).
    pub fn repo_tag(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}/{}:{tag}", self.registry, self.repository))
    }

    /// `registry/repository@digest`, as images are listed by (CRI `Image.repo_digests`).
    pub fn repo_digest(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.registry, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Registry, repository and tag of a reference without its digest.
fn split(named: &str) -> Result<(&str, String, Option<&str>), GrammarError> {
    let last = named.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match named[last..].split_once(':') {
        None => (named, None),
        Some((base, tag)) => (&named[..last + base.len()], Some(tag)),
    };
    if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
        return Err(GrammarError::Tag(tag.to_owned()));
    }
    let (registry, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => (DEFAULT_REGISTRY, name),
    };
    // Some networks have `_` in the names of hosts: in a host that reads as a component it is taken.
    if !is_host(registry) && !is_component(registry) {
        return Err(GrammarError::Host(registry.to_owned()));
    }
    if let Some(component) = path.split('/').find(|component| !is_component(component)) {
        return Err(GrammarError::Component(component.to_owned()));
    }
    let registry = if registry == DEFAULT_REGISTRY_LEGACY { DEFAULT_REGISTRY } else { registry };
    let is_official = registry == DEFAULT_REGISTRY && !path.contains('/');
    let repository = if is_official { format!("library/{path}") } else { path.to_owned() };
    match repository.len() {
        0..=REPOSITORY_BYTES_MAX => Ok((registry, repository, tag)),
        bytes => Err(GrammarError::RepositoryTooLong(bytes)),
    }
}

/// Labels joined by `.`, then maybe `:` and a port.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let (labels, port) = text.split_once(':').unwrap_or((text, "0"));
    labels.split('.').all(is_label) && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// Words of lower-case letters and digits; between two of them `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_joint = |joint: &str| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-');
    text.starts_with(is_word) && text.ends_with(is_word) && text.split(is_word).all(is_joint)
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=TAG_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
        && !text.starts_with(['.', '-'])
}

/// What a string given to find or remove may mean: an id in whole or in part, a reference, or both.
#[derive(Debug)]
pub(crate) struct Query {
    /// Set if the text is a whole image id.
    pub(crate) id: Option<Digest>,
    /// Set if the text may abbreviate an image id: hex digits.
    pub(crate) id_prefix: Option<String>,
    /// Set if the text is in the grammar of references.
    pub(crate) reference: Option<Reference>,
}

impl Query {
    /// Reads `text` in every way it can be read.
    ///
    /// # Errors
    /// If it can be read in none.
    pub(crate) fn parse(text: &str) -> Result<Query, ReferenceError> {
        if let Ok(id) = text.parse::<Digest>() {
            return Ok(Query { id: Some(id), id_prefix: None, reference: None });
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let id = if is_hex { format!("sha256:{hex}").parse().ok() } else { None };
        let in_range = (SHORT_ID_MIN..64).contains(&hex.len());
        let id_prefix = (is_hex && in_range).then(|| hex.to_owned());
        match Reference::parse(text) {
            // `sha256:abcd` reads as repository and tag too; nobody means that.
            Ok(_) if id_prefix.is_some() && text.starts_with("sha256:") => {
                Ok(Query { id, id_prefix, reference: None })
            }
            Ok(reference) => Ok(Query { id, id_prefix, reference: Some(reference) }),
            Err(_) if id.is_some() || id_prefix.is_some() => Ok(Query { id, id_prefix, reference: None }),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(text: &str) -> String {
        Reference::parse(text).unwrap().to_string()
    }

    #[test]
    fn short_names_become_whole() {
        assert_eq!(normal("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(normal("a/b:c"), "docker.io/a/b:c");
        assert_eq!(normal("localhost/b"), "localhost/b:latest");
        assert_eq!(normal("127.0.0.1:5000/x/y:1"), "127.0.0.1:5000/x/y:1");
        assert_eq!(normal("index.docker.io/x"), "docker.io/library/x:latest");
        let digest = Digest::of(b"x");
        assert_eq!(normal(&format!("r.io/x@{digest}")), format!("r.io/x@{digest}"));
        assert_eq!(normal(&format!("r.io/x:t@{digest}")), format!("r.io/x:t@{digest}"));
    }

    #[test]
    fn malformed_references_are_refused() {
        let upper = format!("r.io/x@sha256:{}", "A".repeat(64));
        let long = "a/".repeat(1000);
        for bad in [
            "",
            " ",
            "UPPER",
            "a b",
            "a:b:c",
            "a@b",
            "../x",
            "a//b",
            "r.io/x:",
            "x@sha256:12",
            &upper,
            &long,
            "x\n",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_refusal_says_which_part_is_wrong() {
        let source = |text: &str| match Reference::parse(text) {
            Err(ReferenceError::Grammar { source, .. }) => source,
            other => panic!("{text:?} gives {other:?}"),
        };
        assert_eq!(source("r_.io:x/a"), GrammarError::Host("r_.io:x".to_owned()));
        assert_eq!(source("r.io/a/B/c"), GrammarError::Component("B".to_owned()));
        assert_eq!(source("r.io/a:b c"), GrammarError::Tag("b c".to_owned()));
        assert_eq!(source(&format!("r.io/{}", "a".repeat(256))), GrammarError::RepositoryTooLong(256));
        assert!(matches!(Reference::parse("x@sha256:12"), Err(ReferenceError::Digest { .. })));
    }

    /// As `oci_spec` takes it, but for what is checked on top of its pattern: see [`Reference::parse`].
    fn oracle(text: &str) -> Option<String> {
        let parsed = oci_spec::distribution::Reference::try_from(text).ok()?;
        let is_ours = parsed.digest().is_none_or(|digest| digest.parse::<Digest>().is_ok())
            && !parsed.repository().bytes().any(|b| b.is_ascii_uppercase());
        is_ours.then(|| parsed.whole())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn arbitrary_text_is_taken_as_the_oracle_takes_it(text in "[ab0AZ./:_@-]{0,24}") {
            prop_assert_eq!(Reference::parse(&text).ok().map(|parsed| parsed.to_string()), oracle(&text));
        }

        #[test]
        fn likely_text_is_taken_as_the_oracle_takes_it(
            host in "(|localhost/|[a-z][a-z_.-]{0,5}[.:][a-z0-9]{1,4}/)",
            path in "[a-z0-9]{1,3}([._-]{0,3}[a-z0-9/]{1,4}){0,3}",
            tag in "(|:[a-zA-Z0-9_.-]{0,8})",
            digest in "(|@sha256:[0-9a-f]{64})",
        ) {
            let text = format!("{host}{path}{tag}{digest}");
            prop_assert_eq!(Reference::parse(&text).ok().map(|parsed| parsed.to_string()), oracle(&text));
        }

        #[test]
        fn what_is_written_is_read_again(text in "[ab0./:_-]{1,24}") {
            if let Ok(parsed) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&parsed.to_string()), Ok(parsed));
            }
        }
    }

    #[test]
    fn queries_see_ids_and_references() {
        let digest = Digest::of(b"x");
        assert_eq!(Query::parse(digest.as_str()).unwrap().id, Some(digest.clone()));
        assert_eq!(Query::parse(digest.hex()).unwrap().id, Some(digest.clone()));
        let short = Query::parse(&digest.hex()[..13]).unwrap();
        assert_eq!(short.id_prefix.as_deref(), Some(&digest.hex()[..13]));
        assert!(short.reference.is_some());
        assert!(Query::parse("sha256:abcdef").unwrap().reference.is_none());
        assert!(Query::parse("UPPER").is_err());
    }
}
