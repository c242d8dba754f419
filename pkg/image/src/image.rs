//! What an image is to its readers, and the part of an image config that is believed.
//!
//! An image is hostile input. [`ImageConfig`] carries the few fields that may shape a container and nothing
//! that could select behaviour of the host; readers that pass labels on must drop reserved prefixes
//! themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::{ChainId, Digest};

/// One image in the store: wholly there, unpacked, and usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Image id: the digest of the config.
    pub id: Digest,
    /// `registry/repository:tag` of every tag that resolves to it, sorted.
    pub repo_tags: Vec<String>,
    /// `registry/repository@digest` of everything it was pulled by, sorted.
    pub repo_digests: Vec<String>,
    /// Bytes it occupies unpacked, with its manifest and config; layers shared with others count in full.
    pub size: u64,
    /// The believed part of its config.
    pub config: ImageConfig,
    /// Digest of the manifest for this platform. Differs from the digest in `repo_digests` if the image was
    /// pulled through an index.
    pub manifest_digest: Digest,
    /// Whether the kubelet's garbage collection must leave it alone.
    pub pinned: bool,
    /// Its layers, bottom first.
    pub layers: Vec<ChainId>,
}

/// Operating system and processor that an image is for, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// `v7`, `v8`, …; absent: the architecture's usual one.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", x86_level()),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }
}

/// The x86-64 microarchitecture level (System V psABI, "Micro-Architecture Levels"), as image indexes name
/// it. The lowest has no name of its own there.
#[cfg(target_arch = "x86_64")]
fn x86_level() -> Option<&'static str> {
    macro_rules! all {
        ($($feature:tt),+) => { $(std::arch::is_x86_feature_detected!($feature))&&+ };
    }
    let second = all!("cmpxchg16b", "popcnt", "sse3", "ssse3", "sse4.1", "sse4.2");
    let third = all!("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe");
    match (second, third) {
        (true, true) => Some("v3"),
        (true, false) => Some("v2"),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_level() -> Option<&'static str> {
    None
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// The believed part of an image config (OCI image specification, `config.md`; Docker's is the same here).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Processor architecture in Go's words.
    pub architecture: String,
    /// Operating system in Go's words.
    pub os: String,
    /// Processor variant.
    pub variant: Option<String>,
    /// When it was made, RFC 3339, as the image says it.
    pub created: Option<String>,
    /// `USER` as written: user or uid, optionally `:` and group or gid.
    pub user: String,
    /// Environment, `NAME=value` each.
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub cmd: Vec<String>,
    /// `WORKDIR`; empty: the root directory.
    pub working_dir: String,
    /// Paths declared by `VOLUME`.
    pub volumes: BTreeSet<String>,
    /// Ports declared by `EXPOSE`, `port/protocol`.
    pub exposed_ports: BTreeSet<String>,
    /// Signal that asks the container to stop.
    pub stop_signal: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Why a config document is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not of the shape the specification gives.
    #[error("image config does not parse")]
    Json(#[source] serde_json::Error),
    /// `rootfs.type` is not `layers`.
    #[error("image config has rootfs type {0:?} instead of \"layers\"")]
    RootfsType(String),
    /// A string that goes to `execve` or a path has a NUL byte in it.
    #[error("image config has a NUL byte in {0}")]
    Nul(&'static str),
}

/// A config as parsed: the part for readers, and the layers' diff IDs for the unpacker.
#[derive(Debug)]
pub(crate) struct ParsedConfig {
    pub(crate) config: ImageConfig,
    pub(crate) diff_ids: Vec<Digest>,
}

impl ParsedConfig {
    /// Parses a config document. The caller has bounded its size and checked its digest.
    pub(crate) fn parse(document: &[u8]) -> Result<ParsedConfig, ConfigError> {
        let raw: RawConfig = serde_json::from_slice(document).map_err(ConfigError::Json)?;
        if raw.rootfs.kind != "layers" {
            return Err(ConfigError::RootfsType(raw.rootfs.kind.chars().take(64).collect()));
        }
        let run = raw.config.unwrap_or_default();
        let config = ImageConfig {
            architecture: raw.architecture,
            os: raw.os,
            variant: raw.variant.filter(|v| !v.is_empty()),
            created: raw.created,
            user: run.user,
            env: run.env,
            entrypoint: run.entrypoint,
            cmd: run.cmd,
            working_dir: run.working_dir,
            volumes: run.volumes.into_keys().collect(),
            exposed_ports: run.exposed_ports.into_keys().collect(),
            stop_signal: run.stop_signal.filter(|s| !s.is_empty()),
            labels: run.labels,
        };
        refuse_nul(&config)?;
        Ok(ParsedConfig { config, diff_ids: raw.rootfs.diff_ids })
    }
}

/// C strings cannot carry a NUL: what the kernel would see differs from what was checked.
fn refuse_nul(config: &ImageConfig) -> Result<(), ConfigError> {
    let has = |text: &String| text.contains('\0');
    let checks = [
        ("User", has(&config.user)),
        ("Env", config.env.iter().any(has)),
        ("Entrypoint", config.entrypoint.iter().any(has)),
        ("Cmd", config.cmd.iter().any(has)),
        ("WorkingDir", has(&config.working_dir)),
        ("Volumes", config.volumes.iter().any(has)),
        ("StopSignal", config.stop_signal.as_ref().is_some_and(has)),
    ];
    checks.iter().find(|(_, found)| *found).map_or(Ok(()), |(field, _)| Err(ConfigError::Nul(field)))
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default, deserialize_with = "null_is_default")]
    architecture: String,
    #[serde(default, deserialize_with = "null_is_default")]
    os: String,
    variant: Option<String>,
    created: Option<String>,
    config: Option<RawRun>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "null_is_default")]
    diff_ids: Vec<Digest>,
}

/// Go writes absent lists and maps as `null`, so every field may be absent or null.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    #[serde(deserialize_with = "null_is_default")]
    user: String,
    #[serde(deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    volumes: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "null_is_default")]
    exposed_ports: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "null_is_default")]
    stop_signal: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    labels: BTreeMap<String, String>,
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_unknown_fields_are_taken() {
        let parsed = ParsedConfig::parse(
            br#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["a"],"Volumes":{"/v":{}},
                 "ArgsEscaped":true,"Labels":null},"rootfs":{"type":"layers","diff_ids":null},"history":null}"#,
        )
        .unwrap();
        assert_eq!(parsed.config.cmd, ["a"]);
        assert!(parsed.config.volumes.contains("/v"));
        assert!(parsed.diff_ids.is_empty());
    }

    #[test]
    fn bad_configs_are_refused() {
        for bad in [
            "",
            "{}",
            r#"{"rootfs":{"type":"other"}}"#,
            r#"{"rootfs":{"type":"layers","diff_ids":["sha256:../../x"]}}"#,
            r#"{"rootfs":{"type":"layers"},"config":{"Env":["A=\u0000"]}}"#,
            r#"{"rootfs":{"type":"layers"},"config":{"WorkingDir":"/\u0000"}}"#,
        ] {
            assert!(ParsedConfig::parse(bad.as_bytes()).is_err(), "{bad} was taken");
        }
    }
}
