//! Cached results in libcni's format, so that plugins and other tools find what they know.
//!
//! `<cache_dir>/results/<network>-<container>-<interface>` holds `kind`, the configuration list (base64 of its
//! bytes), arguments, and the last result, which DEL, CHECK and GC hand to plugins as `prevResult`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const KIND: &str = "cniCacheV1";
const CACHE_MAX_BYTES: u64 = 4 << 20;
const CACHE_FILES_MAX: usize = 1 << 17;

/// One cached attachment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cached {
    pub(crate) kind: String,
    #[serde(rename = "containerId")]
    pub(crate) container: String,
    /// Base64 of the configuration list.
    #[serde(default)]
    pub(crate) config: String,
    #[serde(rename = "ifName")]
    pub(crate) interface: String,
    #[serde(rename = "networkName", default)]
    pub(crate) network: String,
    #[serde(default)]
    pub(crate) netns: String,
    #[serde(rename = "cniArgs", default)]
    pub(crate) args: Option<Vec<(String, String)>>,
    #[serde(rename = "capabilityArgs", default)]
    pub(crate) capability_args: Option<serde_json::Map<String, Value>>,
    #[serde(default)]
    pub(crate) result: Value,
}

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{operation} CNI result cache {path}")]
pub struct CacheError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    move |source| CacheError { operation, path: path.into(), source }
}

fn path(cache_dir: &Path, network: &str, container: &str, interface: &str) -> PathBuf {
    cache_dir.join("results").join(format!("{network}-{container}-{interface}"))
}

impl Cached {
    pub(crate) fn new(network: &str, container: &str, interface: &str, list: &Value) -> Cached {
        Cached {
            kind: KIND.into(),
            container: container.into(),
            config: STANDARD.encode(list.to_string()),
            interface: interface.into(),
            network: network.into(),
            netns: String::new(),
            args: None,
            capability_args: None,
            result: Value::Null,
        }
    }

    /// The configuration list it was made with.
    pub(crate) fn list(&self) -> Option<Value> {
        serde_json::from_slice(&STANDARD.decode(&self.config).ok()?).ok()
    }
}

pub(crate) fn write(cache_dir: &Path, cached: &Cached) -> Result<(), CacheError> {
    let dir = cache_dir.join("results");
    fs::create_dir_all(&dir).map_err(error("create", &dir))?;
    let path = path(cache_dir, &cached.network, &cached.container, &cached.interface);
    let bytes = serde_json::to_vec(cached).map_err(io::Error::from).map_err(error("encode", &path))?;
    let unfinished = path.with_extension("carpel-tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(error("create", &unfinished))?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(error("write", &unfinished))?;
    fs::rename(&unfinished, &path).map_err(error("rename to", &path))
}

/// What the cache remembers. A file that cannot be understood counts as absent: DEL goes on without it, as
/// the specification says it may.
pub(crate) fn read(
    cache_dir: &Path,
    network: &str,
    container: &str,
    interface: &str,
) -> Result<Option<Cached>, CacheError> {
    read_file(&path(cache_dir, network, container, interface))
}

fn read_file(path: &Path) -> Result<Option<Cached>, CacheError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(error("open", path)(source)),
    };
    let mut bytes = Vec::new();
    file.take(CACHE_MAX_BYTES).read_to_end(&mut bytes).map_err(error("read", path))?;
    let cached: Option<Cached> = serde_json::from_slice(&bytes).ok();
    if cached.is_none() {
        tracing::warn!(path = %path.display(), "CNI result cache file cannot be read");
    }
    Ok(cached.filter(|cached| cached.kind == KIND))
}

pub(crate) fn remove(
    cache_dir: &Path,
    network: &str,
    container: &str,
    interface: &str,
) -> Result<(), CacheError> {
    let path = path(cache_dir, network, container, interface);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error("remove", &path)(source)),
        _ => Ok(()),
    }
}

/// Every attachment in the cache, whoever made it.
pub(crate) fn list(cache_dir: &Path) -> Result<Vec<Cached>, CacheError> {
    let dir = cache_dir.join("results");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(error("list", &dir)(source)),
    };
    let mut all = Vec::new();
    for entry in entries.take(CACHE_FILES_MAX) {
        let path = entry.map_err(error("list", &dir))?.path();
        all.extend(read_file(&path)?);
    }
    Ok(all)
}
