//! Importing images from an archive: an OCI layout or what `docker save` writes, as one tar file.
//!
//! The file is walked once for the names and places of its members; documents and layers are then read
//! where they lie. A compressed archive is inflated into the store's `tmp/` first. Nothing of the archive is
//! ever used as a path on this machine: member names are keys in a table.
//!
//! OCI image specification, `image-layout.md`; the `manifest.json` of Docker's image format 1.2.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Limits;
use crate::digest::{ChainId, Digest};
use crate::error::{ErrorKind, IoFailure};
use crate::image::{ConfigError, Image, ParsedConfig, Platform};
use crate::layer::{self, LayerError};
use crate::manifest::{Manifest, ManifestError};
use crate::pull::{Puller, agree};
use crate::reference::{Reference, ReferenceError};
use crate::store::{LayerLease, NewImage, Store, StoreError};

mod archive;
mod docker;
mod layout;

use archive::{Archive, ArchiveError};

/// Why an archive was not taken in, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("cannot import")]
    Io(#[from] IoFailure),
    /// It is no tar file, or one beyond the limits.
    #[error("archive {path:?} is refused")]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: MalformedArchive,
    },
    /// It has neither an OCI `index.json` nor a Docker `manifest.json`.
    #[error("archive {0:?} is neither an OCI layout nor a Docker archive")]
    Format(PathBuf),
    /// It has no image for this platform.
    #[error("archive {path:?} has no image for platform {platform}")]
    Nothing {
        /// The file.
        path: PathBuf,
        /// This machine.
        platform: Platform,
    },
    /// Something that an image of it needs is not in it.
    #[error("archive lacks {0:?}")]
    Missing(String),
    /// A member's content is not what its digest says.
    #[error("member {0} of the archive does not have the digest it is named after")]
    Digest(Digest),
    /// A document in it is malformed.
    #[error("document {name:?} of the archive does not parse")]
    Document {
        /// The member.
        name: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest in it is refused.
    #[error("manifest in the archive is refused")]
    Manifest(#[from] ManifestError),
    /// A config in it is refused.
    #[error("config in the archive is refused")]
    Config(#[from] ConfigError),
    /// A name in it is no reference.
    #[error("name of an image in the archive")]
    Name(#[from] ReferenceError),
    /// A layer in it cannot be unpacked or stored.
    #[error("cannot take in layer {layer} of the archive")]
    Layer {
        /// The layer's diff ID.
        layer: Digest,
        /// What went wrong.
        #[source]
        source: FailedLayer,
    },
    /// The store cannot take it.
    #[error("cannot store the image")]
    Store(#[from] StoreError),
}

/// Why a file is no archive of images.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct MalformedArchive(ArchiveError);

/// Why a layer of an archive is refused.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct FailedLayer(LayerError);

impl ImportError {
    /// What a caller may act on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ImportError::Io(failure) if failure.source.kind() == std::io::ErrorKind::NotFound => {
                ErrorKind::NotFound
            }
            ImportError::Io(failure) => failure.kind(),
            ImportError::Archive { source: MalformedArchive(error), .. } => error.kind(),
            ImportError::Format(_)
            | ImportError::Missing(_)
            | ImportError::Document { .. }
            | ImportError::Name(_)
            | ImportError::Config(_) => ErrorKind::InvalidImage,
            ImportError::Nothing { .. } => ErrorKind::Unsupported,
            ImportError::Digest(_) => ErrorKind::Integrity,
            ImportError::Manifest(error) => error.kind(),
            ImportError::Layer { source: FailedLayer(error), .. } => error.kind(),
            ImportError::Store(error) => error.kind(),
        }
    }
}

/// An image found in an archive.
struct Found {
    manifest: Manifest,
    manifest_document: Vec<u8>,
    config_document: Vec<u8>,
    /// Normalised names of it.
    names: Vec<Reference>,
    /// Member of each layer, bottom first, and whether its digest is that of its blob.
    members: Vec<String>,
    /// Digest that names it in a registry, where the archive keeps it.
    digest: Option<Digest>,
}

pub(crate) async fn import(puller: &Arc<Puller>, path: PathBuf) -> Result<Vec<Arc<Image>>, ImportError> {
    let (store, limits) = (puller.store().clone(), puller.config().limits.clone());
    let worked = tokio::task::spawn_blocking(move || import_blocking(&store, path, &limits)).await;
    worked.map_err(StoreError::Worker)?
}

fn import_blocking(
    store: &Arc<Store>,
    path: PathBuf,
    limits: &Limits,
) -> Result<Vec<Arc<Image>>, ImportError> {
    let platform = Platform::host();
    let archive = Archive::open(store, &path, limits)?;
    // An archive of both kinds is a Docker one that keeps its images as a layout: the layout says more.
    let found = if archive.has("index.json") {
        layout::find(&archive, &platform, limits)?
    } else if archive.has("manifest.json") {
        docker::find(&archive, limits)?
    } else {
        return Err(ImportError::Format(path));
    };
    if found.is_empty() {
        return Err(ImportError::Nothing { path, platform });
    }
    found.into_iter().map(|found| take(store, &archive, found, &platform, limits)).collect()
}

/// Takes one image in.
fn take(
    store: &Arc<Store>,
    archive: &Archive,
    found: Found,
    platform: &Platform,
    limits: &Limits,
) -> Result<Arc<Image>, ImportError> {
    let parsed = ParsedConfig::parse(&found.config_document)?;
    agree(&found.manifest, &parsed, platform)?;
    let chain = ChainId::chain(&parsed.diff_ids);
    let mut leases: Vec<LayerLease> = Vec::new();
    for (at, diff_id) in parsed.diff_ids.iter().enumerate() {
        let failed = |source| ImportError::Layer { layer: diff_id.clone(), source: FailedLayer(source) };
        let chain_id = &chain[at];
        if let Some(lease) = store.hold_if_present(chain_id) {
            leases.push(lease);
            continue;
        }
        let (content, size) = archive.content(&found.members[at])?;
        let mut hashing = archive::Hashing::new(content, &found.manifest.layers[at].digest);
        let ready = layer::unpack(store, &mut hashing, size, diff_id, limits).map_err(failed)?;
        hashing.check()?;
        let below: Vec<PathBuf> = chain[..at].iter().rev().map(|layer| store.layer_path(layer)).collect();
        leases.push(layer::commit(ready, chain_id.clone(), &below).map_err(failed)?);
    }
    let repo_digests = match &found.digest {
        Some(digest) => found.names.iter().map(|name| name.repo_digest(digest)).collect(),
        None => Vec::new(),
    };
    let image = NewImage {
        id: found.manifest.config.digest.clone(),
        config: parsed.config,
        config_document: found.config_document,
        manifest_digest: Digest::of(&found.manifest_document),
        manifest_document: found.manifest_document,
        layers: chain,
        repo_tags: found.names.iter().filter_map(Reference::repo_tag).collect(),
        repo_digests,
    };
    Ok(store.commit_image_blocking(image)?)
}
