//! Builds images and writes them as OCI layouts, which skopeo pushes to a registry and `carpel import` reads.
//!
//! The same input gives the same bytes, hence the same digests: nothing here reads a clock.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// How a layer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// A layer: its tar and how it travels.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The uncompressed archive.
    pub tar: Vec<u8>,
    /// How it travels.
    pub compression: Compression,
}

/// An image: layers and an OCI image config.
#[derive(Debug, Clone)]
pub struct Image {
    layers: Vec<Layer>,
    architecture: String,
    config: Value,
}

/// The digests under which an image was written, each `sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Of the manifest, or of the index if it is one.
    pub manifest: String,
    /// Of the image config: the image's id.
    pub config: String,
    /// Of the layers as they travel.
    pub layers: Vec<String>,
}

impl Image {
    /// An image of the machine's own architecture with no layer.
    pub fn new() -> Self {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        Self { layers: Vec::new(), architecture: architecture.to_owned(), config: json!({}) }
    }

    /// Adds a gzip layer.
    #[must_use]
    pub fn layer(self, tar: Vec<u8>) -> Self {
        self.layer_as(tar, Compression::Gzip)
    }

    /// Adds a layer that travels as asked.
    #[must_use]
    pub fn layer_as(mut self, tar: Vec<u8>, compression: Compression) -> Self {
        self.layers.push(Layer { tar, compression });
        self
    }

    /// Sets one field of the config's `config` object: `User`, `Env`, `Entrypoint`, `Cmd`, `WorkingDir`, `StopSignal`, …
    #[must_use]
    pub fn config(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.config[field] = value.into();
        self
    }

    /// Changes the architecture the image says it is for.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        architecture.clone_into(&mut self.architecture);
        self
    }
}

impl Default for Image {
    fn default() -> Self {
        Self::new()
    }
}

/// `sha256:` and the hexadecimal digest of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Compresses a layer; returns its media type's suffix and its bytes.
pub fn compress(layer: &Layer) -> (&'static str, Vec<u8>) {
    match layer.compression {
        Compression::None => ("", layer.tar.clone()),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&layer.tar).expect("memory takes every byte");
            ("+gzip", encoder.finish().expect("memory takes every byte"))
        }
        Compression::Zstd => ("+zstd", zstd::encode_all(&layer.tar[..], 1).expect("memory takes every byte")),
    }
}

/// A folder in the OCI image layout.
#[derive(Debug)]
pub struct Layout {
    folder: PathBuf,
    entries: Vec<Value>,
}

impl Layout {
    /// Starts a layout in a folder that is made if it is missing.
    pub fn create(folder: &Path) -> Self {
        std::fs::create_dir_all(folder.join("blobs/sha256")).expect("layout folder can be made");
        write(&folder.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#);
        let layout = Self { folder: folder.to_owned(), entries: Vec::new() };
        layout.save();
        layout
    }

    /// A layout that is there already, to be pushed as it is.
    pub fn open(folder: &Path) -> Self {
        let bytes = std::fs::read(folder.join("index.json")).expect("a layout has an index");
        let mut index: Value = serde_json::from_slice(&bytes).expect("a layout's index is JSON");
        let entries = index["manifests"].as_array_mut().map(std::mem::take).unwrap_or_default();
        Self { folder: folder.to_owned(), entries }
    }

    /// Its entries' names, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries
            .iter()
            .filter_map(|entry| entry["annotations"]["org.opencontainers.image.ref.name"].as_str())
    }

    /// The digest that a name stands for.
    pub fn digest_of(&self, name: &str) -> Option<&str> {
        let entry = self
            .entries
            .iter()
            .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"].as_str() == Some(name))?;
        entry["digest"].as_str()
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes an image and gives it a name in the layout.
    pub fn add(&mut self, name: &str, image: &Image) -> Written {
        let (written, descriptor) = self.write_image(image);
        self.name(name, descriptor);
        written
    }

    /// Writes several images, of different architectures, under one index.
    pub fn add_index(&mut self, name: &str, images: &[Image]) -> Vec<Written> {
        let mut all = Vec::new();
        let mut manifests = Vec::new();
        for image in images {
            let (written, mut descriptor) = self.write_image(image);
            descriptor["platform"] = json!({ "os": "linux", "architecture": image.architecture });
            manifests.push(descriptor);
            all.push(written);
        }
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        let descriptor = self.blob(media_type, index.to_string().as_bytes());
        self.name(name, descriptor);
        all
    }

    /// Writes any bytes as a blob and returns its descriptor.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        let hex = digest.strip_prefix("sha256:").expect("our own digest");
        write(&self.folder.join("blobs/sha256").join(hex), bytes);
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// Puts a descriptor of a blob that is already written under a name.
    pub fn name(&mut self, name: &str, mut descriptor: Value) {
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        self.entries.push(descriptor);
        self.save();
    }

    fn write_image(&self, image: &Image) -> (Written, Value) {
        let mut diff_ids = Vec::new();
        let mut layers = Vec::new();
        for layer in &image.layers {
            diff_ids.push(digest(&layer.tar));
            let (suffix, bytes) = compress(layer);
            layers.push(self.blob(&format!("application/vnd.oci.image.layer.v1.tar{suffix}"), &bytes));
        }
        let config = json!({
            "created": "2026-01-01T00:00:00Z",
            "os": "linux",
            "architecture": image.architecture,
            "config": image.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
        let descriptor = self.blob(media_type, manifest.to_string().as_bytes());
        let text = |value: &Value| value["digest"].as_str().unwrap_or_default().to_owned();
        let written = Written {
            manifest: text(&descriptor),
            config: text(&config),
            layers: layers.iter().map(text).collect(),
        };
        (written, descriptor)
    }

    fn save(&self) {
        let index = json!({ "schemaVersion": 2, "manifests": self.entries });
        write(&self.folder.join("index.json"), index.to_string().as_bytes());
    }
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}
