//! Content digests and chain identifiers.
//!
//! A [`Digest`] that exists is well formed: a known algorithm and exactly as many lower-case hex digits as
//! the algorithm has. It may therefore be used as a file name or a URL segment without another check; a
//! string from the outside may not (CVE-2024-3727).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// The hash functions the OCI image specification registers for digests (`descriptor.md`, "Registered
/// algorithms") that this crate computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// SHA-256, what every registry uses.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The prefix in front of the colon.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// Why a string is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:hex` in it.
    #[error("digest {0:?} is not of the form algorithm:hex")]
    Form(String),
    /// The algorithm is not sha256 or sha512.
    #[error("digest algorithm {0:?} is not supported (sha256 and sha512 are)")]
    Algorithm(String),
    /// The hex part is of the wrong length or has other characters than 0-9 and a-f.
    #[error("digest {0:?} does not have the lower-case hex digits its algorithm asks for")]
    Hex(String),
}

/// The digest of some content: `sha256:` and 64 hex digits, or `sha512:` and 128.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(Arc<str>);

impl Digest {
    /// The SHA-256 digest of `content`.
    pub fn of(content: &[u8]) -> Digest {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(content);
        hasher.finish()
    }

    /// The digest of `content` by the given algorithm.
    pub fn of_with(algorithm: Algorithm, content: &[u8]) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }

    /// Whole text, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        if self.0.starts_with("sha512:") { Algorithm::Sha512 } else { Algorithm::Sha256 }
    }

    /// The hex digits behind the colon.
    pub fn hex(&self) -> &str {
        &self.0[self.algorithm().name().len() + 1..]
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // What goes into an error message is bounded: the text may come from a registry.
        let shown = || text.chars().take(160).collect::<String>();
        let Some((name, hex)) = text.split_once(':') else {
            return Err(DigestError::Form(shown()));
        };
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            other => return Err(DigestError::Algorithm(other.chars().take(32).collect())),
        };
        let digits = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex.len() != algorithm.hex_len() || !digits {
            return Err(DigestError::Hex(shown()));
        }
        Ok(Digest(text.into()))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0.as_ref().to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names an unpacked layer together with all layers below it (OCI image specification, `config.md`,
/// "Layer ChainID"): `chain(1) = diff(1)`, `chain(n) = sha256(chain(n-1) + " " + diff(n))`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(Digest);

impl ChainId {
    /// The chain identifiers of an image's layers, bottom first, as many as there are diff IDs.
    pub fn chain(diff_ids: &[Digest]) -> Vec<ChainId> {
        let mut chain: Vec<ChainId> = Vec::with_capacity(diff_ids.len());
        for diff in diff_ids {
            let next = match chain.last() {
                None => ChainId(diff.clone()),
                Some(below) => ChainId(Digest::of(format!("{} {diff}", below.0).as_bytes())),
            };
            chain.push(next);
        }
        chain
    }

    /// The digest behind the name.
    pub fn digest(&self) -> &Digest {
        &self.0
    }

    /// The directory name of the layer: the hex digits alone.
    pub(crate) fn directory(&self) -> &str {
        self.0.hex()
    }
}

impl FromStr for ChainId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(ChainId)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A running hash of either algorithm.
pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Hasher {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Box::new(sha2::Sha512::new())),
        }
    }

    pub(crate) fn update(&mut self, content: &[u8]) {
        match self {
            Hasher::Sha256(state) => state.update(content),
            Hasher::Sha512(state) => state.update(content),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        let text = match self {
            Hasher::Sha256(state) => format!("sha256:{}", hex::encode(state.finalize())),
            Hasher::Sha512(state) => format!("sha512:{}", hex::encode(state.finalize())),
        };
        Digest(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_strings_are_no_digests() {
        let good = format!("sha256:{}", "a".repeat(64));
        assert_eq!(good.parse::<Digest>().unwrap().hex(), "a".repeat(64));
        for bad in [
            String::new(),
            "sha256".into(),
            "sha256:".into(),
            format!("sha256:{}", "a".repeat(63)),
            format!("sha256:{}", "a".repeat(65)),
            format!("sha256:{}", "A".repeat(64)),
            format!("SHA256:{}", "a".repeat(64)),
            format!("md5:{}", "a".repeat(32)),
            format!("sha256:../../../../etc/passwd{}", "a".repeat(38)),
            format!("sha256:{}\n", "a".repeat(63)),
            format!("sha256:{}é", "a".repeat(62)),
            format!(":{}", "a".repeat(64)),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn chain_follows_the_specification() {
        let diffs: Vec<Digest> = [b"1", b"2", b"3"].iter().map(|c| Digest::of(*c)).collect();
        let chain = ChainId::chain(&diffs);
        assert_eq!(chain[0].digest(), &diffs[0]);
        let second = Digest::of(format!("{} {}", diffs[0], diffs[1]).as_bytes());
        assert_eq!(chain[1].digest(), &second);
        assert_eq!(chain[2].digest(), &Digest::of(format!("{second} {}", diffs[2]).as_bytes()));
    }
}
