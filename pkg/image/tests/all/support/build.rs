//! Images made on the spot: layers, config, manifest, and ways to hand them over.

use std::io::Write as _;
use std::path::Path;

use carpel_image::Digest;
use serde_json::{Value, json};

use super::tar::Tar;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// How a layer is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pack {
    Plain,
    Gzip,
    Zstd,
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One layer: the blob, and what it inflates to.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: Digest,
    pub(crate) media_type: String,
}

impl Layer {
    pub(crate) fn new(tar: &[u8], pack: Pack) -> Layer {
        let (blob, suffix) = match pack {
            Pack::Plain => (tar.to_vec(), ""),
            Pack::Gzip => (gzip(tar), "+gzip"),
            Pack::Zstd => (zstd::encode_all(tar, 3).unwrap(), "+zstd"),
        };
        Layer { blob, diff_id: Digest::of(tar), media_type: format!("{OCI_LAYER}{suffix}") }
    }

    /// A blob whose inflated content nobody knows: for streams that are never read to their end.
    pub(crate) fn raw(blob: Vec<u8>) -> Layer {
        Layer { blob, diff_id: Digest::of(b"unknown"), media_type: OCI_LAYER.to_owned() }
    }
}

/// A whole image.
#[derive(Clone)]
pub(crate) struct Built {
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) media_type: String,
}

impl Built {
    pub(crate) fn new(layers: Vec<Layer>) -> Built {
        Built::with_config(layers, json!({"Env": ["PATH=/bin"], "Cmd": ["/bin/true"]}))
    }

    pub(crate) fn with_config(layers: Vec<Layer>, run: Value) -> Built {
        let architecture = carpel_image::Platform::host().architecture;
        Built::for_platform(layers, run, &architecture, None)
    }

    pub(crate) fn for_platform(
        layers: Vec<Layer>,
        run: Value,
        architecture: &str,
        variant: Option<&str>,
    ) -> Built {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let mut config = json!({
            "architecture": architecture, "os": "linux", "config": run,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        if let Some(variant) = variant {
            config["variant"] = json!(variant);
        }
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, &config),
            "layers": layers.iter().map(|l| descriptor(&l.media_type, &l.blob)).collect::<Vec<_>>(),
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        Built { config, layers, manifest, media_type: OCI_MANIFEST.to_owned() }
    }

    /// The same image in Docker's words.
    pub(crate) fn as_docker(&self) -> Built {
        let text = String::from_utf8(self.manifest.clone()).unwrap();
        let text = text.replace(OCI_MANIFEST, DOCKER_MANIFEST).replace(OCI_CONFIG, DOCKER_CONFIG);
        let text = text.replace(&format!("{OCI_LAYER}+gzip"), DOCKER_LAYER);
        Built { manifest: text.into_bytes(), media_type: DOCKER_MANIFEST.to_owned(), ..self.clone() }
    }

    pub(crate) fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Every blob but the manifest.
    pub(crate) fn blobs(&self) -> Vec<Vec<u8>> {
        let layers = self.layers.iter().map(|layer| layer.blob.clone());
        layers.chain([self.config.clone()]).collect()
    }

    /// An OCI archive of the image.
    pub(crate) fn archive(&self, name: Option<&str>) -> Vec<u8> {
        let mut entry = descriptor(&self.media_type, &self.manifest);
        if let Some(name) = name {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        let mut tar = Tar::new()
            .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", &serde_json::to_vec(&index).unwrap());
        for blob in self.blobs().iter().chain([&self.manifest]) {
            tar = tar.file(&format!("blobs/sha256/{}", Digest::of(blob).hex()), blob);
        }
        tar.done()
    }

    pub(crate) fn write_archive(&self, path: &Path, name: Option<&str>) {
        std::fs::write(path, self.archive(name)).unwrap();
    }
}

pub(crate) fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(content).as_str(), "size": content.len()})
}

/// A small image of two layers that differs with `salt`.
pub(crate) fn small(salt: &str) -> Built {
    let base = Tar::new().dir("bin/").file_mode("bin/true", 0o755, b"#!/bin/sh\n").done();
    let top = Tar::new().dir("etc/").file("etc/salt", salt.as_bytes()).done();
    Built::new(vec![Layer::new(&base, Pack::Gzip), Layer::new(&top, Pack::Gzip)])
}
