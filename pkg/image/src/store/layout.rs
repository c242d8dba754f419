//! Names of the files beneath the store's root, and the few file operations all of them share.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::{ChainId, Digest};
use crate::error::IoFailure;

/// Where things are. Every path component is a constant or the hex of a checked digest.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    // Distinguishes names in tmp/ and trash/; both are emptied at start, so it may begin anew.
    serial: AtomicU64,
}

impl Layout {
    pub(super) fn new(root: PathBuf) -> Layout {
        Layout { root, serial: AtomicU64::new(0) }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index.redb")
    }

    pub(super) fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    pub(super) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub(super) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub(super) fn image(&self, id: &Digest) -> PathBuf {
        self.images().join(id.hex())
    }

    pub(super) fn layer(&self, chain: &ChainId) -> PathBuf {
        self.layers().join(chain.directory())
    }

    pub(super) fn diff(&self, chain: &ChainId) -> PathBuf {
        self.layer(chain).join("diff")
    }

    /// A name nobody else uses in `tmp/` or `trash/` while this process lives.
    pub(super) fn unique(&self) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        format!("{}-{serial}", std::process::id())
    }

    /// Makes the root and its folders, for root's eyes only: layers hold setuid files.
    pub(super) fn create(&self) -> Result<(), IoFailure> {
        let folders = [self.images(), self.layers(), self.tmp(), self.trash(), self.quarantine()];
        for folder in std::iter::once(self.root.clone()).chain(folders) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)))
                .map_err(|error| IoFailure::new("create", self.shown(&folder), error))?;
        }
        Ok(())
    }

    /// A path as shown in errors: beneath the root where it is, so that messages stay short.
    pub(super) fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root)
            .ok()
            .filter(|rest| !rest.as_os_str().is_empty())
            .unwrap_or(path)
            .display()
            .to_string()
    }

    /// Moves something out of sight in one step; it is deleted later. Absent is fine.
    pub(super) fn discard(&self, path: &Path) -> Result<(), IoFailure> {
        self.move_into(path, &self.trash())
    }

    /// Keeps something damaged for a person to look at. Absent is fine.
    pub(super) fn set_aside(&self, path: &Path) -> Result<(), IoFailure> {
        self.move_into(path, &self.quarantine())
    }

    fn move_into(&self, path: &Path, folder: &Path) -> Result<(), IoFailure> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stamp = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        let target = folder.join(format!("{name}.{stamp}.{}", self.unique()));
        match fs::rename(path, target) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(IoFailure::new("move away", self.shown(path), error)),
        }
    }

    /// Writes a whole file and syncs it.
    pub(super) fn write(&self, path: &Path, content: &[u8]) -> Result<(), IoFailure> {
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| {
                file.write_all(content)?;
                file.sync_all()
            })
            .map_err(|error| IoFailure::new("write", self.shown(path), error))
    }

    /// Puts a whole file in place of another, so that a reader sees one of them.
    pub(super) fn replace(&self, path: &Path, content: &[u8]) -> Result<(), IoFailure> {
        let fresh = path.with_extension("new");
        self.write(&fresh, content)?;
        fs::rename(&fresh, path).map_err(|error| IoFailure::new("replace", self.shown(path), error))?;
        path.parent().map_or(Ok(()), |folder| self.sync(folder))
    }

    /// Syncs a directory: its entries survive a power cut afterwards.
    pub(super) fn sync(&self, folder: &Path) -> Result<(), IoFailure> {
        fs::File::open(folder)
            .and_then(|file| file.sync_all())
            .map_err(|error| IoFailure::new("sync", self.shown(folder), error))
    }

    /// Names in a folder of ours.
    pub(super) fn names(&self, folder: &Path) -> Result<Vec<std::ffi::OsString>, IoFailure> {
        let failed = |error| IoFailure::new("list", self.shown(folder), error);
        fs::read_dir(folder)
            .map_err(failed)?
            .map(|entry| entry.map(|e| e.file_name()).map_err(failed))
            .collect()
    }
}
