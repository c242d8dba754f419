//! Opening a store: undo what was half done, believe what checks, set the rest aside.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::index::{Change, Contents, Index};
use super::layout::Layout;
use super::{ImageRecord, LayerRecord, State, Store, StoreError};
use crate::config::Config;
use crate::error::IoFailure;

/// Bytes of a `record.json` or `layer.json`: a record carries at most an image config and some names.
const RECORD_BYTES_MAX: u64 = 16 << 20;

/// Why the store cannot be opened. Damage is never a reason.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration names no root directory.
    #[error("the image store needs a root directory, and an absolute one: {0:?}")]
    Root(PathBuf),
    /// A folder or file of the store cannot be made or read.
    #[error("image store")]
    Io(#[from] IoFailure),
    /// Another process has the same root open.
    #[error("image store {0:?} is in use by another process")]
    InUse(PathBuf),
    /// A fresh index cannot be made.
    #[error("image store")]
    Store(#[from] StoreError),
}

impl Store {
    /// Opens or makes the store beneath `config.root` and starts its background sweeper.
    pub(crate) async fn open(config: &Config) -> Result<Arc<Store>, OpenError> {
        if !config.root.is_absolute() {
            return Err(OpenError::Root(config.root.clone()));
        }
        let (root, pinned) = (config.root.clone(), config.pinned.clone());
        let store = tokio::task::spawn_blocking(move || open_blocking(root, pinned))
            .await
            .map_err(StoreError::Worker)??;
        let store = Arc::new(store);
        super::sweep::spawn(&store);
        // What was moved to the trash while opening.
        store.wake.notify_one();
        Ok(store)
    }
}

fn open_blocking(root: PathBuf, pinned: Vec<String>) -> Result<Store, OpenError> {
    let layout = Layout::new(root);
    layout.create()?;
    let lock = lock(&layout)?;
    for name in layout.names(&layout.tmp())? {
        layout.discard(&layout.tmp().join(name))?;
    }
    let (mut index, contents) = match Index::open(layout.index(), layout.reserve()) {
        Ok(opened) => opened,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "image index is damaged, rebuilding it"
            );
            layout.set_aside(&layout.index())?;
            Index::open(layout.index(), layout.reserve())?
        }
    };
    let fresh = contents.images.is_empty();
    let found = reconcile(&layout, contents, fresh)?;
    let everything =
        || Change { put_images: found.images.clone(), put_layers: found.layers.clone(), ..Change::default() };
    index.apply(found.mend, everything)?;
    let mut state = State::default();
    let (mut bytes, mut inodes) = (0, 0);
    for layer in found.layers {
        bytes += layer.bytes;
        inodes += layer.inodes;
        state.layers.insert(layer.chain.clone(), layer);
    }
    let store = Store {
        layout,
        pinned,
        state: Mutex::new(State::default()),
        writer: Mutex::new(index),
        used_bytes: AtomicU64::new(0),
        used_inodes: AtomicU64::new(0),
        emptying: Mutex::new(()),
        sweeping: AtomicBool::new(false),
        wake: Arc::new(Notify::new()),
        _lock: lock,
    };
    for record in found.images {
        bytes += record.documents;
        inodes += super::commit::IMAGE_INODES;
        let pinned = store.is_pinned(&record);
        state.publish(record, pinned);
    }
    *store.state() = state;
    store.account(bytes, inodes);
    Ok(store)
}

fn lock(layout: &Layout) -> Result<fs::File, OpenError> {
    let path = layout.lock();
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| IoFailure::new("open", layout.shown(&path), error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse(layout.root().to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(IoFailure::new("lock", layout.shown(&path), error).into()),
    }
}

/// What the store holds, and what its index must be told to say the same.
#[derive(Default)]
struct Found {
    images: Vec<ImageRecord>,
    layers: Vec<LayerRecord>,
    mend: Change,
}

/// Compares the index with the folders. `rebuild`: the index knows no image, so folders are believed.
fn reconcile(layout: &Layout, contents: Contents, rebuild: bool) -> Result<Found, OpenError> {
    let mut found = Found::default();
    for (key, value) in &contents.damaged {
        tracing::error!(key, "damaged record in the image index");
        layout.write(&layout.quarantine().join(format!("index-record-{}", layout.unique())), value)?;
        forget(key, &mut found.mend);
    }
    let damaged = !contents.damaged.is_empty();
    reconcile_layers(layout, contents.layers, &mut found)?;
    let mut candidates = contents.images;
    if rebuild || damaged {
        adopt_images(layout, &mut candidates, &mut found.mend)?;
    }
    let present: HashSet<_> = found.layers.iter().map(|layer| layer.chain.clone()).collect();
    for record in candidates {
        let whole = record.layers.iter().all(|layer| present.contains(layer));
        if whole && layout.image(&record.id).is_dir() {
            found.images.push(record);
            continue;
        }
        tracing::error!(image = %record.id, "image is not whole any more and is set aside; pull it again");
        layout.set_aside(&layout.image(&record.id))?;
        found.mend.put_images.retain(|put| put.id != record.id);
        found.mend.drop_images.push(record.id);
    }
    drop_strangers(layout, &found)?;
    settle_names(&mut found);
    Ok(found)
}

/// Removes a key that is in one of the tables; which, its value no longer says.
fn forget(key: &str, mend: &mut Change) {
    if let Ok(id) = key.parse() {
        mend.drop_images.push(id);
    }
    if let Ok(chain) = key.parse() {
        mend.drop_layers.push(chain);
    }
}

/// Layers of the index whose folder is there, and folders that describe themselves and are not indexed: a
/// layer's rename is its commit.
fn reconcile_layers(layout: &Layout, indexed: Vec<LayerRecord>, found: &mut Found) -> Result<(), OpenError> {
    let mut on_disk: HashSet<String> =
        layout.names(&layout.layers())?.into_iter().map(|name| name.to_string_lossy().into_owned()).collect();
    for record in indexed {
        let folder = on_disk.take(record.chain.digest().hex());
        if folder.is_some() && layout.diff(&record.chain).is_dir() {
            found.layers.push(record);
        } else {
            tracing::error!(layer = %record.chain, "layer is gone from the image store");
            found.mend.drop_layers.push(record.chain);
        }
    }
    for name in on_disk {
        let folder = layout.layers().join(&name);
        let described: Option<LayerRecord> = read_json(&folder.join("layer.json"));
        match described.filter(|r| r.chain.digest().hex() == name && folder.join("diff").is_dir()) {
            Some(record) => {
                found.mend.put_layers.push(record.clone());
                found.layers.push(record);
            }
            None => {
                tracing::error!(folder = name, "folder among the layers is no layer and is set aside");
                layout.set_aside(&folder)?;
            }
        }
    }
    Ok(())
}

/// Takes images from their folders where the index has none.
fn adopt_images(
    layout: &Layout,
    candidates: &mut Vec<ImageRecord>,
    mend: &mut Change,
) -> Result<(), OpenError> {
    for name in layout.names(&layout.images())? {
        let folder = layout.images().join(&name);
        let Some(record) = read_json::<ImageRecord>(&folder.join("record.json")) else { continue };
        if name.to_str() != Some(record.id.hex()) || candidates.iter().any(|known| known.id == record.id) {
            continue;
        }
        mend.drop_images.retain(|id| id != &record.id);
        mend.put_images.push(record.clone());
        candidates.push(record);
    }
    Ok(())
}

/// Folders among the images that no record speaks of: a commit that did not come to its end.
fn drop_strangers(layout: &Layout, found: &Found) -> Result<(), OpenError> {
    let known: HashSet<&str> = found.images.iter().map(|record| record.id.hex()).collect();
    for name in layout.names(&layout.images())? {
        if name.to_str().is_none_or(|name| !known.contains(name)) {
            layout.discard(&layout.images().join(name))?;
        }
    }
    Ok(())
}

/// Each name belongs to the record that was written last.
fn settle_names(found: &mut Found) {
    found.images.sort_by_key(|record| std::cmp::Reverse(record.generation));
    let mut taken = HashSet::new();
    for record in &mut found.images {
        let before = record.repo_tags.len();
        record.repo_tags.retain(|tag| taken.insert(tag.clone()));
        if record.repo_tags.len() != before {
            found.mend.put_images.retain(|put| put.id != record.id);
            found.mend.put_images.push(record.clone());
        }
    }
}

fn read_json<T: DeserializeOwned>(path: &std::path::Path) -> Option<T> {
    use std::io::Read as _;
    let mut content = Vec::new();
    fs::File::open(path).ok()?.take(RECORD_BYTES_MAX).read_to_end(&mut content).ok()?;
    serde_json::from_slice(&content).ok()
}
