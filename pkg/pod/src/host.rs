//! What a container's configuration names on the host: devices and mounts' sources.
//!
//! A path of a client's can lie on a dead network file system, where a stat(2) never comes back. So
//! all looking is done on a thread of its own with a deadline; a thread that hangs costs no more
//! than itself, and a client that comes again meets an error, not another thread: a path that hung
//! is left alone for [`AVOID`].

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use carpel_spec::{
    config::{ContainerConfig, DeviceConfig, MountSource},
    input::{DeviceKind, HostDevice},
};

use crate::FileError;

/// How long the host may take to answer about all paths of a container.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a path that hung is not looked at again.
const AVOID: Duration = Duration::from_secs(60);
/// The most paths that are remembered to have hung.
const AVOIDED_MAX: usize = 1024;
/// The most device nodes of one container, and the most entries of folders looked at for them.
const DEVICES_MAX: usize = 4096;
/// How deep a folder of devices is looked into.
const DEPTH_MAX: usize = 8;
/// Parts of `/dev` that are no devices of the host's to give away.
const NOT_DEVICES: [&str; 6] =
    ["/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/console", "/dev/.udev"];

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// For each device of the configuration, the nodes that it stands for.
    pub(crate) devices: Vec<Vec<HostDevice>>,
    /// All nodes of the host, for a privileged container.
    pub(crate) host_devices: Vec<HostDevice>,
}

/// Why the host has not what was asked for.
#[derive(Debug)]
pub(crate) enum HostError {
    /// It said no.
    File(FileError),
    /// It did not answer in time.
    Timeout { path: PathBuf, waited: Duration },
}

/// Looks at the host. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    // Locked for the length of a map operation.
    hung: Arc<Mutex<HashMap<PathBuf, Instant>>>,
}

impl Host {
    /// Looks up all that `config` names.
    pub(crate) async fn look(&self, config: &ContainerConfig) -> Result<Found, HostError> {
        let sources: Vec<PathBuf> = config
            .mounts
            .iter()
            .filter_map(|mount| match &mount.source {
                MountSource::Host(path) => Some(path.clone()),
                MountSource::Image { .. } => None,
            })
            .collect();
        let devices = config.devices.clone();
        let privileged = config.security.privileged;
        if sources.is_empty() && devices.is_empty() && !privileged {
            return Ok(Found::default());
        }
        self.refuse_hung(sources.iter().chain(devices.iter().map(|device| &device.host_path)))?;
        let at = Arc::new(Mutex::new(PathBuf::new()));
        let progress = Arc::clone(&at);
        let look = tokio::task::spawn_blocking(move || look(&sources, &devices, privileged, &progress));
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(Ok(found)) => found.map_err(HostError::File),
            Ok(Err(join)) => {
                let path = lock(&at).clone();
                Err(HostError::File(FileError { action: "look at", path, source: io::Error::other(join) }))
            }
            Err(_) => {
                let path = lock(&at).clone();
                self.remember(path.clone());
                Err(HostError::Timeout { path, waited: PATIENCE })
            }
        }
    }

    fn refuse_hung<'a>(&self, paths: impl Iterator<Item = &'a PathBuf>) -> Result<(), HostError> {
        let mut hung = lock(&self.hung);
        hung.retain(|_, at| at.elapsed() < AVOID);
        for path in paths {
            if hung.contains_key(path) {
                return Err(HostError::Timeout { path: path.clone(), waited: PATIENCE });
            }
        }
        Ok(())
    }

    fn remember(&self, path: PathBuf) {
        let mut hung = lock(&self.hung);
        if hung.len() < AVOIDED_MAX {
            hung.insert(path, Instant::now());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Blocks, perhaps for ever; `at` tells where.
fn look(
    sources: &[PathBuf],
    devices: &[DeviceConfig],
    privileged: bool,
    at: &Mutex<PathBuf>,
) -> Result<Found, FileError> {
    for source in sources {
        lock(at).clone_from(source);
        match fs::metadata(source) {
            Ok(_) => {}
            // The shim makes the folder, as containerd and CRI-O do.
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(source_error) => {
                return Err(FileError {
                    action: "look at mount source",
                    path: source.clone(),
                    source: source_error,
                });
            }
        }
    }
    let mut found = Found::default();
    for device in devices {
        lock(at).clone_from(&device.host_path);
        let mut nodes = Vec::new();
        collect(&device.host_path, &device.container_path, 0, &mut nodes)?;
        found.devices.push(nodes);
    }
    if privileged {
        lock(at).clone_from(&PathBuf::from("/dev"));
        collect(Path::new("/dev"), "/dev", 0, &mut found.host_devices)?;
    }
    Ok(found)
}

/// A node, or all nodes in a folder. What a link leads to counts at the top only.
fn collect(host: &Path, container: &str, depth: usize, nodes: &mut Vec<HostDevice>) -> Result<(), FileError> {
    let failed = |source| FileError { action: "look at device", path: host.to_owned(), source };
    let metadata = if depth == 0 { fs::metadata(host) } else { fs::symlink_metadata(host) };
    let metadata = match metadata {
        Ok(metadata) => metadata,
        // A node of a folder may go while it is looked at.
        Err(err) if depth > 0 && err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(failed(err)),
    };
    if nodes.len() >= DEVICES_MAX {
        return Err(failed(io::Error::new(io::ErrorKind::QuotaExceeded, "too many devices")));
    }
    let kind = metadata.file_type();
    if kind.is_dir() && depth < DEPTH_MAX {
        for entry in fs::read_dir(host).map_err(failed)?.take(DEVICES_MAX) {
            let entry = entry.map_err(failed)?;
            let (path, name) = (entry.path(), entry.file_name());
            let Some(name) = name.to_str() else { continue };
            if !NOT_DEVICES.iter().any(|skipped| path == Path::new(skipped)) {
                collect(&path, &format!("{container}/{name}"), depth + 1, nodes)?;
            }
        }
        return Ok(());
    }
    let kind = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => DeviceKind::Character,
        (_, true) => DeviceKind::Block,
        (false, false) if depth > 0 => return Ok(()),
        (false, false) => {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is not a device")));
        }
    };
    let device = metadata.rdev();
    nodes.push(HostDevice {
        path: container.to_owned(),
        kind,
        major: rustix::fs::major(device),
        minor: rustix::fs::minor(device),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(path: &str, container: &str) -> Result<Vec<HostDevice>, FileError> {
        let mut nodes = Vec::new();
        collect(Path::new(path), container, 0, &mut nodes)?;
        Ok(nodes)
    }

    #[test]
    fn a_device_is_a_node_or_a_folder_of_nodes() {
        let null = nodes("/dev/null", "/dev/nothing").unwrap();
        assert_eq!(null.len(), 1);
        assert_eq!((null[0].major, null[0].minor, null[0].kind), (1, 3, DeviceKind::Character));
        assert_eq!(null[0].path, "/dev/nothing");
        let all = nodes("/dev", "/dev").unwrap();
        assert!(all.iter().any(|device| device.path == "/dev/zero"));
        assert!(!all.iter().any(|device| device.path.starts_with("/dev/pts")));
        assert!(nodes("/etc/passwd", "/dev/x").is_err());
        assert!(nodes("/dev/absent", "/dev/x").is_err());
    }
}
