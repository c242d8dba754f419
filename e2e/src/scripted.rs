//! A registry that serves what a test wrote, and misbehaves where the test says so.
//!
//! For a registry that behaves there is the real one: [`crate::registry`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::http::{Reply, Request, Server};
use crate::layout::Layout;

/// What a well-behaved registry would answer about the images of a layout.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// Bytes and media type by digest.
    blobs: BTreeMap<String, (String, Vec<u8>)>,
    /// Digest by tag.
    tags: BTreeMap<String, String>,
}

impl Content {
    /// Takes in a layout: each image's name there becomes a tag, valid in every repository.
    pub fn of(layout: &Path) -> Self {
        let mut content = Self::default();
        let read =
            |path: &Path| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for entry in std::fs::read_dir(layout.join("blobs/sha256")).expect("a layout has blobs") {
            let entry = entry.expect("a layout's blobs can be listed");
            let bytes = read(&entry.path());
            let json = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
            let media_type = json.as_ref().and_then(|json| json["mediaType"].as_str());
            let media_type = media_type.unwrap_or("application/octet-stream").to_owned();
            let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
            content.blobs.insert(digest, (media_type, bytes));
        }
        let layout = Layout::open(layout);
        for name in layout.names() {
            let digest = layout.digest_of(name).expect("a name stands for a digest");
            content.tags.insert(name.to_owned(), digest.to_owned());
        }
        content
    }

    /// Puts other bytes under a digest: a registry that lies.
    pub fn replace(&mut self, digest: &str, bytes: Vec<u8>) {
        self.blobs.get_mut(digest).expect("the digest is in the layout").1 = bytes;
    }

    /// The honest answer.
    pub fn answer(&self, request: &Request) -> Reply {
        if request.path == "/v2/" || request.path == "/v2" {
            return Reply::new(200, "application/json", "{}");
        }
        let mut parts = request.path.rsplit('/');
        let (last, kind) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let digest = self.tags.get(last).map_or(last, String::as_str);
        match self.blobs.get(digest) {
            Some((media_type, bytes)) if kind == "manifests" || kind == "blobs" => {
                let media_type = if kind == "blobs" { "application/octet-stream" } else { media_type };
                Reply::new(200, media_type, bytes.clone()).header("docker-content-digest", digest)
            }
            _ => Reply::new(404, "application/json", r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
        }
    }
}

/// Starts a registry whose every answer passes through `script`, which sees the request and the honest answer.
pub fn start(content: Content, script: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Server {
    let content = Arc::new(content);
    Server::start(move |request| script(request, content.answer(request)))
}
