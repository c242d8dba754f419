//! Manifests and indexes: what is read of them, and what is refused.
//!
//! OCI image specification `manifest.md`, `image-index.md`, `descriptor.md`; Docker image manifest version 2,
//! schema 2. A document that can be read as an index and as a manifest is refused, whichever way it came
//! (GHSA-5j5w-g665-5m35): two readers would run two images under one digest.

use serde::Deserialize;

use crate::config::Limits;
use crate::digest::Digest;
use crate::image::Platform;

/// Media types asked for, in `Accept`.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Layers that are tar streams. What they are compressed with is read off their first bytes.
const LAYERS: [&str; 8] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    // Misspelt by tools that are in use.
    "application/vnd.docker.image.rootfs.diff.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar+zstd",
];

/// Layers that a registry may not have itself: their descriptors carry `urls`.
const FOREIGN_LAYERS: [&str; 5] = [
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// Why a manifest or index is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of the shape the specification gives; bad digests are found here too.
    #[error("document does not parse")]
    Json(#[source] serde_json::Error),
    /// `schemaVersion` is not 2.
    #[error("schemaVersion is {0}, not 2")]
    SchemaVersion(u64),
    /// Docker's first manifest format, which carries no checkable image id.
    #[error("Docker schema 1 manifests are not supported")]
    Schema1,
    /// It has the fields of an index and of a manifest.
    #[error("document is both an index and a manifest")]
    Ambiguous,
    /// It has the fields of neither.
    #[error("document is neither an index nor a manifest")]
    Neither,
    /// Its own media type, the response's, or its descriptor's says something else than its fields.
    #[error("media type {0:?} does not fit the document")]
    MediaType(String),
    /// The config is none of an image: an artifact of another kind.
    #[error("config media type {0:?} is not that of a container image")]
    NotAnImage(String),
    /// A layer is no tar stream that is known here.
    #[error("layer media type {0:?} is not supported")]
    LayerType(String),
    /// More layers or entries than the limit.
    #[error("document has more than {0} {1}")]
    TooMany(usize, &'static str),
    /// A descriptor's size is beyond its bound.
    #[error("{0} of {1} bytes is larger than the limit")]
    TooLarge(&'static str, u64),
    /// There is nothing to run in it.
    #[error("image has no layers")]
    NoLayers,
    /// The config has another number of diff IDs than the manifest has layers.
    #[error("manifest has {layers} layers, the config {diff_ids} diff IDs")]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// Diff IDs in the config.
        diff_ids: usize,
    },
    /// Indexes within indexes.
    #[error("indexes are nested too deep")]
    Nested,
    /// An index has nothing for the platform, or a manifest's config is for another one.
    #[error("no image for platform {0}")]
    Platform(Platform),
}

impl ManifestError {
    /// What a caller may act on.
    pub fn kind(&self) -> crate::ErrorKind {
        use crate::ErrorKind;
        match self {
            ManifestError::Schema1
            | ManifestError::NotAnImage(_)
            | ManifestError::LayerType(_)
            | ManifestError::Platform(_) => ErrorKind::Unsupported,
            ManifestError::TooMany(..) | ManifestError::TooLarge(..) => ErrorKind::TooLarge,
            ManifestError::Json(_)
            | ManifestError::SchemaVersion(_)
            | ManifestError::Ambiguous
            | ManifestError::Neither
            | ManifestError::MediaType(_)
            | ManifestError::NoLayers
            | ManifestError::LayerCount { .. }
            | ManifestError::Nested => ErrorKind::InvalidImage,
        }
    }
}

/// A reference by digest to other content.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) urls: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) platform: Option<RawPlatform>,
    #[serde(default)]
    pub(crate) annotations: Option<std::collections::BTreeMap<String, String>>,
}

impl Descriptor {
    /// Addresses outside the registry that may be asked for a layer that the registry does not have.
    pub(crate) fn foreign_urls(&self) -> &[String] {
        if FOREIGN_LAYERS.contains(&self.media_type.as_str()) {
            self.urls.as_deref().unwrap_or_default()
        } else {
            &[]
        }
    }
}

/// `platform` of a descriptor in an index.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct RawPlatform {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
    pub(crate) variant: Option<String>,
}

/// A document that was read without doubt.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    /// Bottom first.
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a document. `said` are the media types that others gave it: the response's `Content-Type`, the
    /// descriptor that led here.
    pub(crate) fn parse(bytes: &[u8], said: &[&str], limits: &Limits) -> Result<Document, ManifestError> {
        if said.iter().any(|media_type| media_type.starts_with(DOCKER_SCHEMA1)) {
            return Err(ManifestError::Schema1);
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        if raw.schema_version == 1 && raw.fs_layers.is_some() {
            return Err(ManifestError::Schema1);
        }
        if raw.schema_version != 2 {
            return Err(ManifestError::SchemaVersion(raw.schema_version));
        }
        let own = raw.media_type.as_deref().unwrap_or_default();
        let mut said: Vec<&str> = said.to_vec();
        said.push(own);
        match raw {
            Raw { manifests: Some(manifests), config: None, layers: None, fs_layers: None, .. } => {
                expect(&said, &[OCI_INDEX, DOCKER_LIST])?;
                if manifests.len() > limits.index_entries {
                    return Err(ManifestError::TooMany(limits.index_entries, "entries"));
                }
                Ok(Document::Index(manifests))
            }
            Raw { manifests: None, config: Some(config), layers: Some(layers), fs_layers: None, .. } => {
                expect(&said, &[OCI_MANIFEST, DOCKER_MANIFEST])?;
                let manifest = Manifest { config, layers };
                manifest.check(limits)?;
                Ok(Document::Manifest(manifest))
            }
            Raw { manifests: None, config: None, layers: None, .. } => Err(ManifestError::Neither),
            Raw { manifests: None, fs_layers: None, .. } => Err(ManifestError::Neither),
            _ => Err(ManifestError::Ambiguous),
        }
    }
}

/// Every media type that says anything about manifests must be one of `wanted`.
fn expect(said: &[&str], wanted: &[&str]) -> Result<(), ManifestError> {
    const KNOWN: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
    for media_type in said {
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        // Plain JSON, or nothing, is what simple file servers say of every document.
        let is_vague = matches!(essence, "" | "application/json" | "text/plain" | "application/octet-stream");
        if !is_vague
            && !wanted.contains(&essence)
            && (KNOWN.contains(&essence) || essence.contains("manifest"))
        {
            return Err(ManifestError::MediaType(essence.chars().take(128).collect()));
        }
    }
    Ok(())
}

impl Manifest {
    fn check(&self, limits: &Limits) -> Result<(), ManifestError> {
        let shown = |text: &str| text.chars().take(128).collect::<String>();
        if ![OCI_CONFIG, DOCKER_CONFIG].contains(&self.config.media_type.as_str()) {
            return Err(ManifestError::NotAnImage(shown(&self.config.media_type)));
        }
        if self.config.size > limits.config_bytes {
            return Err(ManifestError::TooLarge("config", self.config.size));
        }
        if self.layers.len() > limits.layers {
            return Err(ManifestError::TooMany(limits.layers, "layers"));
        }
        if self.layers.is_empty() {
            return Err(ManifestError::NoLayers);
        }
        for layer in &self.layers {
            let media_type = layer.media_type.as_str();
            if !LAYERS.contains(&media_type) && !FOREIGN_LAYERS.contains(&media_type) {
                return Err(ManifestError::LayerType(shown(media_type)));
            }
            if layer.size > limits.layer_compressed_bytes {
                return Err(ManifestError::TooLarge("layer", layer.size));
            }
        }
        Ok(())
    }
}

/// The entry of an index that fits the platform best; the first of equals.
pub(crate) fn choose<'d>(entries: &'d [Descriptor], platform: &Platform) -> Option<&'d Descriptor> {
    let ranked = entries.iter().filter_map(|entry| {
        let rank = match &entry.platform {
            Some(offered) => fits(platform, &offered.os, &offered.architecture, offered.variant.as_deref())?,
            // It may be ours; only its config knows. After all that say so.
            None => u32::MAX,
        };
        Some((rank, entry))
    });
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry)
}

/// Whether an image for `os/architecture/variant` runs on `platform`: 0 is a perfect fit, more is worse.
pub(crate) fn fits(platform: &Platform, os: &str, architecture: &str, variant: Option<&str>) -> Option<u32> {
    let normal = |architecture: &str| match architecture {
        "x86_64" | "x86-64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        "armhf" | "armel" => "arm".to_owned(),
        "i386" => "386".to_owned(),
        other => other.to_owned(),
    };
    let architecture = normal(architecture);
    if os != platform.os || architecture != normal(&platform.architecture) {
        return None;
    }
    let ours = level(&architecture, platform.variant.as_deref())?;
    let theirs = level(&architecture, variant.filter(|v| !v.is_empty()))?;
    ours.checked_sub(theirs)
}

/// A variant as a number: a machine of one level runs everything of lower levels.
fn level(architecture: &str, variant: Option<&str>) -> Option<u32> {
    let usual = match architecture {
        "arm" => 7,
        "arm64" => 8,
        "amd64" => 1,
        _ => return Some(u32::from(variant.is_some())),
    };
    match variant {
        None => Some(usual),
        // Newer arm64 levels are written v8.1, v9.2: the first number is enough to order them.
        Some(text) => text.strip_prefix('v')?.split('.').next()?.parse().ok(),
    }
}

#[cfg(test)]
mod tests;
