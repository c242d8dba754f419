//! What is on disk of pods and containers, in types of its own with a version.
//!
//! A pod's record is written before anything of the pod exists, and again when it is ready and when
//! it is stopped. A container's is written before the shim makes it, before anybody is told that it is
//! made, when its limits change and when it has exited; what lies between, the shim knows. A record is
//! written to a temporary name of this write's own and renamed. It is not synced: what it speaks of
//! does not outlive the power either, but a torn record is put aside.

use std::{
    io::{self, Read, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use carpel_spec::config::{ContainerConfig, Resources, SandboxConfig};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{ContainerId, Exit, ExitReason, PodId, RecordError};

/// The version that is written.
const VERSION: u32 = 1;
/// The largest record that is read, in bytes. A configuration comes in a gRPC message of 16 MiB.
const RECORD_MAX_BYTES: u64 = 64 << 20;

/// `<root>/pods/<id>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    version: u32,
    pub(crate) id: PodId,
    pub(crate) phase: PodPhase,
    /// The boot in which the pod ran.
    pub(crate) boot_id: String,
    pub(crate) created_at_ns: i64,
    pub(crate) config: SandboxConfig,
    /// Kept for the status when the network is gone.
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) netns: Option<PathBuf>,
    /// The shim's process in that boot.
    pub(crate) shim_pid: Option<i32>,
    /// What the pod asked for or was given; absent where SELinux is off.
    #[serde(default)]
    pub(crate) selinux_level: Option<String>,
}

/// How far a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PodPhase {
    /// Something of it may exist; nobody was told of it.
    Creating,
    /// Its shim has all it needs.
    Ready,
    /// It was stopped, or is being stopped.
    NotReady,
}

/// `<root>/containers/<id>/container.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    version: u32,
    pub(crate) id: ContainerId,
    pub(crate) pod_id: PodId,
    /// Records of before there were phases are of containers that were made.
    #[serde(default)]
    pub(crate) phase: ContainerPhase,
    pub(crate) created_at_ns: i64,
    pub(crate) config: ContainerConfig,
    pub(crate) image_id: String,
    pub(crate) image_ref: String,
    /// Layers in use, as the image room names them: they must not be deleted.
    pub(crate) layers: Vec<String>,
    /// The kernel's number.
    pub(crate) stop_signal: i32,
    pub(crate) cgroup_path: String,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) resources: Resources,
    pub(crate) user: Option<UserRecord>,
    pub(crate) exit: Option<ExitOnRecord>,
}

/// How far a container is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ContainerPhase {
    /// Something of it may exist; nobody was told of it.
    Creating,
    /// The shim has made it.
    #[default]
    Created,
}

/// Who a container runs as.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UserRecord {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// How a container ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExitOnRecord {
    code: i32,
    reason: ReasonOnRecord,
    message: String,
    started_at_ns: i64,
    finished_at_ns: i64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReasonOnRecord {
    Completed,
    Error,
    OomKilled,
    StartError,
    Unknown,
}

impl From<&Exit> for ExitOnRecord {
    fn from(exit: &Exit) -> Self {
        let reason = match exit.reason {
            ExitReason::Completed => ReasonOnRecord::Completed,
            ExitReason::Error => ReasonOnRecord::Error,
            ExitReason::OomKilled => ReasonOnRecord::OomKilled,
            ExitReason::StartError => ReasonOnRecord::StartError,
            ExitReason::Unknown => ReasonOnRecord::Unknown,
        };
        ExitOnRecord {
            code: exit.code,
            reason,
            message: exit.message.clone(),
            started_at_ns: exit.started_at_ns,
            finished_at_ns: exit.finished_at_ns,
        }
    }
}

impl From<ExitOnRecord> for Exit {
    fn from(record: ExitOnRecord) -> Self {
        let reason = match record.reason {
            ReasonOnRecord::Completed => ExitReason::Completed,
            ReasonOnRecord::Error => ExitReason::Error,
            ReasonOnRecord::OomKilled => ExitReason::OomKilled,
            ReasonOnRecord::StartError => ExitReason::StartError,
            ReasonOnRecord::Unknown => ExitReason::Unknown,
        };
        Exit {
            code: record.code,
            reason,
            message: record.message,
            started_at_ns: record.started_at_ns,
            finished_at_ns: record.finished_at_ns,
        }
    }
}

impl PodRecord {
    pub(crate) fn new(id: PodId, boot_id: String, created_at_ns: i64, config: SandboxConfig) -> Self {
        let phase = PodPhase::Creating;
        PodRecord {
            version: VERSION,
            id,
            phase,
            boot_id,
            created_at_ns,
            config,
            ips: Vec::new(),
            netns: None,
            shim_pid: None,
            selinux_level: None,
        }
    }
}

/// What a new container's record says, but for what only the shim can tell.
#[derive(Debug)]
pub(crate) struct NewContainerRecord {
    pub(crate) id: ContainerId,
    pub(crate) pod_id: PodId,
    pub(crate) created_at_ns: i64,
    pub(crate) config: ContainerConfig,
    pub(crate) image_id: String,
    pub(crate) image_ref: String,
    pub(crate) layers: Vec<String>,
    pub(crate) stop_signal: i32,
    pub(crate) cgroup_path: String,
    pub(crate) log_path: Option<PathBuf>,
}

impl From<NewContainerRecord> for ContainerRecord {
    fn from(new: NewContainerRecord) -> Self {
        ContainerRecord {
            version: VERSION,
            id: new.id,
            pod_id: new.pod_id,
            phase: ContainerPhase::Creating,
            created_at_ns: new.created_at_ns,
            resources: new.config.resources.clone(),
            config: new.config,
            image_id: new.image_id,
            image_ref: new.image_ref,
            layers: new.layers,
            stop_signal: new.stop_signal,
            cgroup_path: new.cgroup_path,
            log_path: new.log_path,
            user: None,
            exit: None,
        }
    }
}

/// A record with a version.
pub(crate) trait Versioned {
    fn version(&self) -> u32;
}

impl Versioned for PodRecord {
    fn version(&self) -> u32 {
        self.version
    }
}

impl Versioned for ContainerRecord {
    fn version(&self) -> u32 {
        self.version
    }
}

/// The writes of one record. Each is decided in its owner's turn and made on some thread, in any
/// order: what was decided last is what stays.
#[derive(Debug, Clone, Default)]
pub(crate) struct Writes(Arc<WriteOrder>);

#[derive(Debug, Default)]
struct WriteOrder {
    decided: AtomicU64,
    // Held for the length of a write, by threads that may block.
    made: Mutex<u64>,
}

/// A write that was decided.
#[derive(Debug)]
pub(crate) struct Write<T> {
    order: Arc<WriteOrder>,
    number: u64,
    path: PathBuf,
    record: T,
}

impl Writes {
    pub(crate) fn decide<T: Serialize>(&self, path: PathBuf, record: T) -> Write<T> {
        let number = self.0.decided.fetch_add(1, Ordering::Relaxed) + 1;
        Write { order: Arc::clone(&self.0), number, path, record }
    }
}

impl<T: Serialize> Write<T> {
    /// Makes it, unless a later one was made. Blocks: to be called off the runtime's threads.
    pub(crate) fn make(self) -> Result<(), RecordError> {
        let mut made = self.order.made.lock().unwrap_or_else(PoisonError::into_inner);
        if *made > self.number {
            return Ok(());
        }
        write(&self.path, &self.record)?;
        *made = self.number;
        Ok(())
    }
}

/// Writes a record. Blocks: to be called off the runtime's threads.
pub(crate) fn write(path: &Path, record: &impl Serialize) -> Result<(), RecordError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let failed = |source| RecordError { action: "write", path: path.to_owned(), source };
    let bytes = serde_json::to_vec(record).map_err(|err| failed(err.into()))?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
    let written = std::fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(&bytes))
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|err| {
        // Nothing half-written is left behind; if that fails too, the first failure is what counts.
        let _ = std::fs::remove_file(&temporary);
        failed(err)
    })
}

/// Reads a record of a version that this daemon knows. Blocks.
pub(crate) fn read<T: DeserializeOwned + Versioned>(path: &Path) -> Result<T, RecordError> {
    let failed = |source| RecordError { action: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(RECORD_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > RECORD_MAX_BYTES {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let record: T = serde_json::from_slice(&bytes).map_err(|err| failed(err.into()))?;
    if record.version() > VERSION {
        let newer = format!("version {} of a later release, not {VERSION}", record.version());
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, newer)));
    }
    Ok(record)
}

/// Removes a record; one that is absent is no error. Blocks.
pub(crate) fn remove(path: &Path) -> Result<(), RecordError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RecordError { action: "remove", path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
