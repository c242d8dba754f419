//! Images of an OCI layout: `index.json`, and blobs named after their digests.

use super::archive::{Archive, blob_name};
use super::{Found, ImportError};
use crate::config::Limits;
use crate::image::Platform;
use crate::manifest::{Descriptor, Document, ManifestError, choose};
use crate::reference::Reference;

/// Where tools write the name of an image: a whole reference, or a tag alone.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where containerd and Docker write the whole name.
const FULL_NAME: &str = "io.containerd.image.name";

/// Indexes within the layout's own index that are followed.
const INDEX_DEPTH_MAX: usize = 3;

pub(super) fn find(
    archive: &Archive,
    platform: &Platform,
    limits: &Limits,
) -> Result<Vec<Found>, ImportError> {
    let index = archive.document("index.json", limits.manifest_bytes)?;
    let Document::Index(entries) = Document::parse(&index, &[], limits)? else {
        return Err(ManifestError::Neither.into());
    };
    let mut images: Vec<Found> = Vec::new();
    for entry in entries {
        // An entry that says it is for another machine; one that says nothing is looked into.
        if entry.platform.is_some() && choose(std::slice::from_ref(&entry), platform).is_none() {
            continue;
        }
        let Some(found) = follow(archive, &entry, platform, limits)? else { continue };
        let known = images.iter_mut().find(|known| known.manifest_document == found.manifest_document);
        match known {
            Some(known) => known.names.extend(found.names),
            None => images.push(found),
        }
    }
    Ok(images)
}

/// The image that an entry leads to; `None` if it has nothing for the platform.
fn follow(
    archive: &Archive,
    entry: &Descriptor,
    platform: &Platform,
    limits: &Limits,
) -> Result<Option<Found>, ImportError> {
    let names = name(entry)?;
    let mut at = entry.clone();
    for _ in 0..=INDEX_DEPTH_MAX {
        let document = archive.blob(&at.digest, limits.manifest_bytes)?;
        match Document::parse(&document, &[&at.media_type], limits)? {
            Document::Index(entries) => match choose(&entries, platform) {
                Some(chosen) => at = chosen.clone(),
                None => return Ok(None),
            },
            Document::Manifest(manifest) => {
                let config_document = archive.blob(&manifest.config.digest, limits.config_bytes)?;
                let members = manifest.layers.iter().map(|layer| blob_name(&layer.digest)).collect();
                let digest = Some(entry.digest.clone());
                let manifest_document = document;
                return Ok(Some(Found {
                    manifest,
                    manifest_document,
                    config_document,
                    names,
                    members,
                    digest,
                }));
            }
        }
    }
    Err(ManifestError::Nested.into())
}

/// The names an entry carries. A bare tag names no image.
fn name(entry: &Descriptor) -> Result<Vec<Reference>, ImportError> {
    let annotation = |key: &str| entry.annotations.as_ref().and_then(|all| all.get(key));
    let whole = |text: &&String| text.contains(['/', ':']);
    match annotation(FULL_NAME).or_else(|| annotation(REF_NAME).filter(whole)) {
        Some(text) => Ok(vec![Reference::parse(text)?]),
        None => Ok(Vec::new()),
    }
}
