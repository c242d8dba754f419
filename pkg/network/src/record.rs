//! What the disk remembers of a pod's network: one JSON file per pod, named by the pod's id.
//!
//! The record is written before the first side effect and removed after the last one is undone, so whatever
//! can exist in the kernel or in a plugin's store has a record. It holds all that undoing needs, because the
//! configuration may be another one by then. These types are the file format; live types are others.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::attachment::{Attachment, Interface};
use crate::request::{AttachRequest, DnsConfig, PortMapping, Protocol};

/// The only format so far. A reader refuses others rather than guess.
const VERSION: u32 = 1;
/// A record holds at most a few CNI configurations.
const RECORD_MAX_BYTES: u64 = 8 << 20;
/// More files than pods a node can have by two orders of magnitude.
const RECORDS_MAX: usize = 1 << 17;
const SUFFIX: &str = ".json";
const UNFINISHED: &str = ".tmp";

/// A pod's network: wanted, or made as well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) pod: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) netns: PathBuf,
    /// Nanoseconds since 1970: tells which address was given last.
    pub(crate) created_ns: u64,
    pub(crate) engine: EngineRecord,
    /// Absent while only the intent is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attachment: Option<AttachmentRecord>,
}

/// Who made the interfaces, with what it needs to take them away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EngineRecord {
    Builtin(BridgeRecord),
    Cni(CniRecord),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BridgeRecord {
    pub(crate) bridge: String,
    /// The end of the pair on the node.
    pub(crate) veth: String,
    pub(crate) addresses: Vec<(IpAddr, u8)>,
    pub(crate) ports: Vec<PortRecord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PortRecord {
    pub(crate) protocol: ProtocolRecord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) host_ip: Option<IpAddr>,
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProtocolRecord {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CniRecord {
    pub(crate) bin_dirs: Vec<PathBuf>,
    pub(crate) cache_dir: PathBuf,
    pub(crate) plugin_timeout_ms: u64,
    /// In the order of ADD.
    pub(crate) networks: Vec<CniNetworkRecord>,
    /// CNI_ARGS in order.
    pub(crate) args: Vec<(String, String)>,
    /// What plugins may ask for by capability.
    pub(crate) capability_args: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CniNetworkRecord {
    pub(crate) interface: String,
    /// The configuration list as it was when ADD was decided.
    pub(crate) list: serde_json::Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AttachmentRecord {
    pub(crate) interfaces: Vec<InterfaceRecord>,
    pub(crate) ips: Vec<IpAddr>,
    #[serde(default)]
    pub(crate) dns_servers: Vec<String>,
    #[serde(default)]
    pub(crate) dns_searches: Vec<String>,
    #[serde(default)]
    pub(crate) dns_options: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct InterfaceRecord {
    pub(crate) name: String,
    pub(crate) mac: String,
    pub(crate) addresses: Vec<(IpAddr, u8)>,
}

/// How much a write must survive.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Durability {
    /// The daemon's death. Enough where all side effects are in the kernel and die with the power too.
    Process,
    /// A power cut: plugins keep leases on disk.
    PowerCut,
}

/// Why a record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system failed.
    #[error("{operation} {path}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// The file is no record.
    #[error("network record {path} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A newer program wrote it, or its name and content differ.
    #[error("network record {path} has version {version} for pod {pod:?}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u32,
        /// Whose it says it is.
        pod: String,
    },
    /// Somebody filled the folder with files.
    #[error("more than {RECORDS_MAX} network records in {0}")]
    TooMany(PathBuf),
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    move |source| RecordError::Io { operation, path: path.into(), source }
}

impl Record {
    /// The intent to make what `engine` describes.
    pub(crate) fn intent(request: &AttachRequest, netns: PathBuf, engine: EngineRecord) -> Record {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Record {
            version: VERSION,
            pod: request.pod.clone(),
            name: request.name.clone(),
            namespace: request.namespace.clone(),
            uid: request.uid.clone(),
            netns,
            created_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            engine,
            attachment: None,
        }
    }

    /// The live form of a complete attachment.
    pub(crate) fn attachment(&self) -> Option<Attachment> {
        let record = self.attachment.as_ref()?;
        let interfaces = record.interfaces.iter().map(|interface| Interface {
            name: interface.name.clone(),
            mac: interface.mac.clone(),
            addresses: interface.addresses.clone(),
        });
        Some(Attachment {
            netns: self.netns.clone(),
            interfaces: interfaces.collect(),
            ips: record.ips.clone(),
            dns: DnsConfig {
                servers: record.dns_servers.clone(),
                searches: record.dns_searches.clone(),
                options: record.dns_options.clone(),
            },
        })
    }

    pub(crate) fn set_attachment(&mut self, attachment: &Attachment) {
        let interfaces = attachment.interfaces.iter().map(|interface| InterfaceRecord {
            name: interface.name.clone(),
            mac: interface.mac.clone(),
            addresses: interface.addresses.clone(),
        });
        self.attachment = Some(AttachmentRecord {
            interfaces: interfaces.collect(),
            ips: attachment.ips.clone(),
            dns_servers: attachment.dns.servers.clone(),
            dns_searches: attachment.dns.searches.clone(),
            dns_options: attachment.dns.options.clone(),
        });
    }
}

impl From<&PortMapping> for PortRecord {
    fn from(port: &PortMapping) -> Self {
        PortRecord {
            protocol: match port.protocol {
                Protocol::Tcp => ProtocolRecord::Tcp,
                Protocol::Udp => ProtocolRecord::Udp,
                Protocol::Sctp => ProtocolRecord::Sctp,
            },
            host_ip: port.host_ip,
            host_port: port.host_port,
            container_port: port.container_port,
        }
    }
}

impl From<&PortRecord> for PortMapping {
    fn from(port: &PortRecord) -> Self {
        PortMapping {
            protocol: match port.protocol {
                ProtocolRecord::Tcp => Protocol::Tcp,
                ProtocolRecord::Udp => Protocol::Udp,
                ProtocolRecord::Sctp => Protocol::Sctp,
            },
            host_ip: port.host_ip,
            host_port: port.host_port,
            container_port: port.container_port,
        }
    }
}

/// The folder of records.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    dir: PathBuf,
}

/// What the folder holds of one pod.
#[derive(Debug)]
pub(crate) enum Loaded {
    Record(Box<Record>),
    /// There is a file of this pod's name that cannot be understood.
    Damaged {
        pod: String,
        error: RecordError,
    },
}

impl Store {
    /// Makes the folder and sweeps up writes that a dead daemon left unfinished.
    pub(crate) fn open(dir: &Path) -> Result<Store, RecordError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io_error("create folder of network records", dir))?;
        Ok(Store { dir: dir.into() })
    }

    /// Everything the folder remembers.
    pub(crate) fn load(&self) -> Result<Vec<Loaded>, RecordError> {
        let mut all = Vec::new();
        let list = |source| RecordError::Io { operation: "list", path: self.dir.clone(), source };
        for entry in fs::read_dir(&self.dir).map_err(list)? {
            let entry = entry.map_err(list)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.ends_with(UNFINISHED) {
                let path = entry.path();
                fs::remove_file(&path).map_err(io_error("remove unfinished", &path))?;
                continue;
            }
            let Some(pod) = name.strip_suffix(SUFFIX).filter(|pod| is_pod_id(pod)) else { continue };
            if all.len() == RECORDS_MAX {
                return Err(RecordError::TooMany(self.dir.clone()));
            }
            all.push(match self.read(pod) {
                Ok(record) => Loaded::Record(Box::new(record)),
                Err(error) => Loaded::Damaged { pod: pod.into(), error },
            });
        }
        Ok(all)
    }

    fn read(&self, pod: &str) -> Result<Record, RecordError> {
        let path = self.path(pod);
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let mut bytes = Vec::new();
        file.take(RECORD_MAX_BYTES).read_to_end(&mut bytes).map_err(io_error("read", &path))?;
        let record: Record = serde_json::from_slice(&bytes)
            .map_err(|source| RecordError::Damaged { path: path.clone(), source })?;
        if record.version != VERSION || record.pod != pod {
            return Err(RecordError::Foreign { path, version: record.version, pod: record.pod });
        }
        Ok(record)
    }

    /// Writes the record in one step: a reader sees the old one or the new one.
    pub(crate) fn write(&self, record: &Record, durability: Durability) -> Result<(), RecordError> {
        let path = self.path(&record.pod);
        let unfinished = self.dir.join(format!("{}{UNFINISHED}", record.pod));
        let bytes = serde_json::to_vec(record)
            .map_err(|source| RecordError::Damaged { path: path.clone(), source })?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(io_error("create", &unfinished))?;
        file.write_all(&bytes).map_err(io_error("write", &unfinished))?;
        if let Durability::PowerCut = durability {
            file.sync_all().map_err(io_error("sync", &unfinished))?;
        }
        fs::rename(&unfinished, &path).map_err(io_error("rename to", &path))?;
        self.sync(durability)
    }

    /// Forgets the pod. Nothing there is a success.
    pub(crate) fn remove(&self, pod: &str, durability: Durability) -> Result<(), RecordError> {
        let path = self.path(pod);
        match fs::remove_file(&path) {
            Ok(()) => self.sync(durability),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(io_error("remove", &path)(source)),
        }
    }

    fn sync(&self, durability: Durability) -> Result<(), RecordError> {
        match durability {
            Durability::Process => Ok(()),
            Durability::PowerCut => {
                let sync = |source| RecordError::Io { operation: "sync", path: self.dir.clone(), source };
                File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(sync)
            }
        }
    }

    fn path(&self, pod: &str) -> PathBuf {
        self.dir.join(format!("{pod}{SUFFIX}"))
    }
}

/// Whether `text` is a sandbox id; nothing else may become a part of a path or a device's name.
pub(crate) fn is_pod_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
