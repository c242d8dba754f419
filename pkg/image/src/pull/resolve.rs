//! From a reference to what is to be fetched: the manifest for this platform and its config.

use std::sync::Arc;

use super::PullError;
use crate::config::Limits;
use crate::digest::Digest;
use crate::image::{ImageConfig, ParsedConfig, Platform};
use crate::manifest::{Descriptor, Document, Manifest, ManifestError, choose, fits};
use crate::reference::Reference;
use crate::registry::{Fetched, Session};

/// Indexes within indexes that are followed.
const INDEX_DEPTH_MAX: usize = 3;

/// An image that is known, but not here yet.
pub(super) struct Resolved {
    /// Digest of what the reference names: a manifest or an index.
    pub(super) top_digest: Digest,
    pub(super) manifest_digest: Digest,
    pub(super) manifest_document: Vec<u8>,
    pub(super) id: Digest,
    pub(super) config: ImageConfig,
    pub(super) config_document: Vec<u8>,
    /// Bottom first; as many as there are diff IDs.
    pub(super) layers: Vec<Descriptor>,
    pub(super) diff_ids: Vec<Digest>,
}

pub(super) async fn resolve(
    session: &Session,
    reference: &Reference,
    platform: &Platform,
    limits: &Limits,
) -> Result<Resolved, PullError> {
    let registry = |source| PullError::Registry { reference: reference.clone(), source: Box::new(source) };
    let refused = |source: ManifestError| PullError::Manifest {
        reference: reference.clone(),
        source: Arc::new(source),
    };
    let mut fetched = session.manifest(reference).await.map_err(registry)?;
    let top_digest = fetched.digest.clone();
    let mut said = String::new();
    let mut found = None;
    for _ in 0..=INDEX_DEPTH_MAX {
        let document =
            Document::parse(&fetched.bytes, &[&fetched.content_type, &said], limits).map_err(refused)?;
        match document {
            Document::Manifest(manifest) => {
                found = Some(manifest);
                break;
            }
            Document::Index(entries) => {
                let none = || refused(ManifestError::Platform(platform.clone()));
                let entry = choose(&entries, platform).ok_or_else(none)?;
                fetched = session.manifest_by(entry).await.map_err(registry)?;
                said = entry.media_type.clone();
            }
        }
    }
    let manifest = found.ok_or_else(|| refused(ManifestError::Nested))?;
    let config = session.small_blob(&manifest.config).await.map_err(registry)?;
    complete(manifest, fetched, top_digest, config, reference, platform)
}

/// Puts manifest and config together, if they fit each other and the platform.
fn complete(
    manifest: Manifest,
    fetched: Fetched,
    top_digest: Digest,
    config: Fetched,
    reference: &Reference,
    platform: &Platform,
) -> Result<Resolved, PullError> {
    let parsed = ParsedConfig::parse(&config.bytes)
        .map_err(|source| PullError::Config { reference: reference.clone(), source: source.into() })?;
    agree(&manifest, &parsed, platform)
        .map_err(|source| PullError::Manifest { reference: reference.clone(), source: source.into() })?;
    Ok(Resolved {
        top_digest,
        manifest_digest: fetched.digest,
        manifest_document: fetched.bytes,
        id: config.digest,
        config: parsed.config,
        config_document: config.bytes,
        layers: manifest.layers,
        diff_ids: parsed.diff_ids,
    })
}

/// What a manifest and its config must agree on; for imports as well.
pub(crate) fn agree(
    manifest: &Manifest,
    parsed: &ParsedConfig,
    platform: &Platform,
) -> Result<(), ManifestError> {
    let (layers, diff_ids) = (manifest.layers.len(), parsed.diff_ids.len());
    if layers != diff_ids {
        return Err(ManifestError::LayerCount { layers, diff_ids });
    }
    let config = &parsed.config;
    // Images made by hand leave these out; then they are taken at their puller's word.
    if config.os.is_empty() || config.architecture.is_empty() {
        return Ok(());
    }
    match fits(platform, &config.os, &config.architecture, config.variant.as_deref()) {
        Some(_) => Ok(()),
        None => Err(ManifestError::Platform(platform.clone())),
    }
}
