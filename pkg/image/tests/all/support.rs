//! What the tests share: stores, images built on the spot, registries.

pub(crate) mod build;
pub(crate) mod registry;
pub(crate) mod scripted;
pub(crate) mod tar;

use std::path::{Path, PathBuf};
use std::time::Duration;

use carpel_image::{Config, Image, Images, PullError, PullRequest};

/// A store in a directory of its own, that goes with it.
pub(crate) struct Home {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) config: Config,
}

impl Home {
    pub(crate) fn new() -> Home {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config {
            root: folder.path().join("images"),
            certs_d: vec![folder.path().join("certs.d")],
            progress_timeout: Duration::from_secs(30),
            ..Config::default()
        };
        config.limits.retry_pause = Duration::from_millis(5);
        config.limits.retry_pause_max = Duration::from_millis(50);
        Home { folder, config }
    }

    pub(crate) async fn open(&self) -> Images {
        Images::open(self.config.clone()).await.unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `certs.d/<registry>/hosts.toml`.
    pub(crate) fn hosts(&self, registry: &str, text: &str) -> PathBuf {
        let folder = self.folder.path().join("certs.d").join(registry);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("hosts.toml"), text).unwrap();
        folder
    }

    /// Names in a folder of the store.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.config.root.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Removes every image.
    pub(crate) async fn clear(&self, images: &Images) {
        for image in images.list() {
            images.remove(image.id.as_str()).await.unwrap();
        }
        images.sweep().await.unwrap();
    }

    /// That a failed operation left nothing half made: no image, nothing in `tmp/`, and after a sweep
    /// nothing at all.
    pub(crate) async fn assert_clean(&self, images: &Images) {
        assert!(images.list().is_empty(), "an image is listed: {:?}", images.list());
        // Unpacking threads of an aborted pull end on their own.
        for _ in 0..1000 {
            if self.names("tmp").is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.names("tmp"), [] as [&str; 0]);
        images.sweep().await.unwrap();
        for folder in ["images", "layers", "trash"] {
            assert_eq!(self.names(folder), [] as [&str; 0], "left in {folder}");
        }
        let usage = images.fs_usage();
        assert_eq!((usage.used_bytes, usage.inodes_used), (0, 0));
    }
}

pub(crate) fn request(reference: &str) -> PullRequest {
    PullRequest { reference: reference.to_owned(), ..PullRequest::default() }
}

pub(crate) async fn pull(images: &Images, reference: &str) -> Result<std::sync::Arc<Image>, PullError> {
    let id = images.pull(request(reference)).await?;
    Ok(images.find(id.as_str()).unwrap().expect("a pulled image is in the store"))
}

/// An error and its causes, as a log would show them.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Runs a program of the system and panics with what it said if it fails.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    output.stdout
}

/// A directory outside of every store, with a file and a directory that no layer may touch.
pub(crate) struct Canary {
    folder: tempfile::TempDir,
    before: String,
}

impl Canary {
    pub(crate) fn new() -> Canary {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "untouched").unwrap();
        std::fs::create_dir(folder.path().join("dir")).unwrap();
        let before = crate::trees::describe(folder.path());
        Canary { folder, before }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn text(&self) -> &str {
        self.path().to_str().unwrap()
    }

    pub(crate) fn assert_untouched(&self) {
        assert_eq!(crate::trees::describe(self.path()), self.before);
    }
}
