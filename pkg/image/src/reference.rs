//! Image references as people and the kubelet write them, in the one form the store keeps.
//!
//! `busybox` and `docker.io/library/busybox:latest` are the same image; everything inside this crate uses
//! the long form. The grammar is that of `oci_spec::distribution::Reference`; on top of it digests are held
//! to [`Digest`]'s own grammar and the length is bounded before the pattern is run.

use std::fmt;

use crate::digest::{Digest, DigestError};

/// Bytes of a reference: 255 for the name, 128 for the tag, 135 for the digest, and room for the host.
const REFERENCE_BYTES_MAX: usize = 1024;

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
        source: std::sync::Arc<oci_spec::distribution::ParseError>,
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
        let parsed = oci_spec::distribution::Reference::try_from(text)
            .map_err(|source| ReferenceError::Grammar { text: text.to_owned(), source: source.into() })?;
        // The pattern takes a first component in upper case for a host, and then finds that it is none.
        if parsed.repository().bytes().any(|b| b.is_ascii_uppercase()) {
            let source = oci_spec::distribution::ParseError::NameContainsUppercase.into();
            return Err(ReferenceError::Grammar { text: text.to_owned(), source });
        }
        let digest = match parsed.digest() {
            None => None,
            Some(digest) => Some(
                digest.parse().map_err(|source| ReferenceError::Digest { text: text.to_owned(), source })?,
            ),
        };
        Ok(Reference {
            registry: parsed.registry().to_owned(),
            repository: parsed.repository().to_owned(),
            tag: parsed.tag().map(str::to_owned),
            digest,
        })
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
