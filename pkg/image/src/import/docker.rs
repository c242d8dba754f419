//! Images of a Docker archive: `manifest.json` names a config and uncompressed layers for each.
//!
//! Such an archive keeps no manifest. One is written from what is there, so that every image in the store has
//! one; it has never been in a registry and gives the image no repo digest.

use serde::{Deserialize, Serialize};

use super::archive::Archive;
use super::{Found, ImportError};
use crate::config::Limits;
use crate::digest::Digest;
use crate::image::ParsedConfig;
use crate::manifest::{Document, ManifestError};
use crate::reference::Reference;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'m> {
    schema_version: u8,
    media_type: &'m str,
    config: Descriptor<'m>,
    layers: Vec<Descriptor<'m>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'m> {
    media_type: &'m str,
    digest: &'m Digest,
    size: u64,
}

pub(super) fn find(archive: &Archive, limits: &Limits) -> Result<Vec<Found>, ImportError> {
    let name = "manifest.json";
    let document = archive.document(name, limits.manifest_bytes)?;
    let entries: Vec<Entry> = serde_json::from_slice(&document)
        .map_err(|source| ImportError::Document { name: name.to_owned(), source })?;
    if entries.len() > limits.index_entries {
        return Err(ManifestError::TooMany(limits.index_entries, "entries").into());
    }
    entries.into_iter().map(|entry| read(archive, entry, limits)).collect()
}

fn read(archive: &Archive, entry: Entry, limits: &Limits) -> Result<Found, ImportError> {
    let config_document = archive.document(&entry.config, limits.config_bytes)?;
    let parsed = ParsedConfig::parse(&config_document)?;
    let members = entry.layers.unwrap_or_default();
    let (layers, diff_ids) = (members.len(), parsed.diff_ids.len());
    if layers != diff_ids {
        return Err(ManifestError::LayerCount { layers, diff_ids }.into());
    }
    let config_digest = Digest::of(&config_document);
    let mut digests = Vec::new();
    for (member, diff_id) in members.iter().zip(&parsed.diff_ids) {
        let (content, size) = archive.content(member)?;
        digests.push((digest_of(content, diff_id)?, size));
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: "application/vnd.oci.image.manifest.v1+json",
        config: Descriptor {
            media_type: "application/vnd.oci.image.config.v1+json",
            digest: &config_digest,
            size: config_document.len() as u64,
        },
        layers: digests
            .iter()
            .map(|(digest, size)| Descriptor {
                media_type: "application/vnd.oci.image.layer.v1.tar",
                digest,
                size: *size,
            })
            .collect(),
    };
    let manifest_document = serde_json::to_vec(&manifest)
        .map_err(|source| ImportError::Document { name: "manifest.json".to_owned(), source })?;
    let Document::Manifest(manifest) = Document::parse(&manifest_document, &[], limits)? else {
        return Err(ManifestError::Neither.into());
    };
    let tags = entry.repo_tags.unwrap_or_default();
    let names = tags.iter().map(|tag| Reference::parse(tag)).collect::<Result<_, _>>()?;
    Ok(Found { manifest, manifest_document, config_document, names, members, digest: None })
}

/// Digest of a layer as it lies in the archive: the diff ID, unless somebody compressed it.
fn digest_of(mut content: impl std::io::BufRead, diff_id: &Digest) -> Result<Digest, ImportError> {
    let failed = |error| crate::IoFailure::new("read", diff_id.to_string(), error);
    let magic = content.fill_buf().map_err(failed)?;
    let compressed = magic.starts_with(&[0x1f, 0x8b]) || magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    if !compressed {
        return Ok(diff_id.clone());
    }
    let mut hasher = crate::digest::Hasher::new(diff_id.algorithm());
    let mut buffer = vec![0; 128 << 10];
    loop {
        let got = content.read(&mut buffer).map_err(failed)?;
        if got == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..got]);
    }
}
