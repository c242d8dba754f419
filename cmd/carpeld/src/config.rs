//! The daemon's configuration: one TOML file, drop-ins beside it, and what the command line beats.
//!
//! `config.toml` is read first, then `conf.d/*.toml` beside it in the order of their names. Tables are
//! merged key by key, other values are replaced. An unknown key is an error that names the file, the
//! line and the keys that exist there. Every default stands in [`DEFAULT_TOML`] and nowhere else; a
//! test compares it with what the code takes for absent keys.

mod load;

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use load::{ConfigError, Overrides};

/// The documented defaults, as `carpeld config default` prints them.
pub const DEFAULT_TOML: &str = include_str!("config/default.toml");

/// Where the configuration is looked for when the command line names none.
pub const DEFAULT_PATH: &str = "/etc/carpel/config.toml";

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Durable state: images, records, writable layers.
    pub root: PathBuf,
    /// Volatile state, on tmpfs: sockets, exit records.
    pub state: PathBuf,
    /// The CRI socket.
    pub listen: PathBuf,
    /// Logs.
    pub log: Log,
    /// Traces.
    pub tracing: Tracing,
    /// Pods and containers.
    pub runtime: Runtime,
    /// The cgroup tree.
    pub cgroups: Cgroups,
    /// Images.
    pub image: Image,
    /// The pods' network.
    pub network: Network,
    /// Exec, attach and port-forward.
    pub streaming: Streaming,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A `tracing` filter: `info`, `carpel_pod=debug,info`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

/// Traces.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tracing {
    /// Where spans go by OTLP over gRPC; empty: nowhere.
    pub endpoint: String,
}

/// Pods and containers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// The shim's program; empty: `carpel-shim` beside the daemon's own.
    pub shim: PathBuf,
    /// Longest log record, in bytes.
    pub log_line_max_bytes: u32,
    /// Most of both output streams together that `ExecSync` gives back, in bytes.
    pub exec_output_max_bytes: usize,
    /// Capabilities of a container that asks for none.
    pub default_capabilities: Vec<String>,
    /// Open files that a container's processes may have; clamped to what the daemon itself may.
    pub nofile: u64,
    /// Writable layers are not synced: faster, and lost with the power like the pod itself.
    pub overlay_volatile: bool,
}

/// The cgroup tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cgroups {
    /// Who makes cgroups.
    pub driver: CgroupDriver,
    /// Parent of pods that name none: a path or a slice, or [`AUTO`].
    pub parent: String,
    /// Where shims live: a path or a slice, or [`AUTO`]; empty: in the daemon's own cgroup.
    pub shims: String,
}

/// For what follows from something else.
pub const AUTO: &str = "auto";

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// systemd where it can, else Carpel itself.
    Auto,
    /// Carpel itself.
    Cgroupfs,
    /// systemd, by transient scopes.
    Systemd,
}

/// Images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Image {
    /// Folders of `<host>/hosts.toml`, in containerd's format; the first that has the host counts.
    pub certs_d: Vec<PathBuf>,
    /// Layers of one image fetched at the same time.
    pub max_concurrent_downloads: usize,
    /// A pull that receives nothing for so long is given up, in seconds.
    pub progress_timeout_s: u64,
    /// References that the kubelet's garbage collection must leave alone; `*` at the end matches any rest.
    pub pinned: Vec<String>,
}

/// The pods' network: the built-in bridge, or CNI plugins. Both given is an error; neither is CNI
/// with its defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Where network namespaces are pinned.
    pub netns_dir: PathBuf,
    /// The built-in bridge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builtin: Option<Bridge>,
    /// CNI plugins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cni: Option<Cni>,
}

/// The built-in bridge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bridge {
    /// The bridge's name.
    pub bridge: String,
    /// One IPv4 and/or one IPv6 subnet.
    pub subnets: Vec<String>,
    /// Pods reach the world by the host's address.
    pub masquerade: bool,
    /// MTU of the pods' interfaces; 0: the kernel's default.
    pub mtu: u32,
    /// IP forwarding is switched on if it is off. A setting of the whole node, and it stays.
    pub ip_forward: bool,
}

/// CNI plugins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cni {
    /// Folder of network configurations; the first by name counts.
    pub conf_dir: PathBuf,
    /// Folders of plugins.
    pub bin_dirs: Vec<PathBuf>,
    /// libcni's folder of cached results.
    pub cache_dir: PathBuf,
    /// A plugin that takes longer is killed, in seconds.
    pub plugin_timeout_s: u64,
}

/// Exec, attach and port-forward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Streaming {
    /// Where clients are served; the kubelet is on this node. Port 0: any.
    pub address: SocketAddr,
    /// Certificate and key, PEM, to serve over TLS; empty: in the clear. `carpel` needs no flag to trust it: the
    /// daemon tells it on its socket.
    pub tls_cert_file: PathBuf,
    /// See `tls_cert_file`.
    pub tls_key_file: PathBuf,
    /// In the clear also on an address that others than this node can reach.
    pub allow_plain: bool,
    /// A session in which nothing is sent for so long is ended, in seconds.
    pub idle_timeout_s: u64,
    /// How long a client may take to open its session, in seconds.
    pub creation_timeout_s: u64,
}

// === defaults: the values of default.toml ===

impl Default for Config {
    fn default() -> Self {
        Config {
            root: "/var/lib/carpel".into(),
            state: "/run/carpel".into(),
            listen: "/run/carpel/carpel.sock".into(),
            log: Log::default(),
            tracing: Tracing::default(),
            runtime: Runtime::default(),
            cgroups: Cgroups::default(),
            image: Image::default(),
            network: Network::default(),
            streaming: Streaming::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { level: "info".into(), format: LogFormat::Text }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Runtime {
            shim: PathBuf::new(),
            log_line_max_bytes: 16384,
            exec_output_max_bytes: (16 << 20) - (64 << 10),
            default_capabilities: [
                "CHOWN",
                "DAC_OVERRIDE",
                "FSETID",
                "FOWNER",
                "MKNOD",
                "NET_RAW",
                "SETGID",
                "SETUID",
                "SETFCAP",
                "SETPCAP",
                "NET_BIND_SERVICE",
                "SYS_CHROOT",
                "KILL",
                "AUDIT_WRITE",
            ]
            .map(str::to_owned)
            .to_vec(),
            nofile: 1_048_576,
            overlay_volatile: true,
        }
    }
}

impl Default for Cgroups {
    fn default() -> Self {
        Cgroups { driver: CgroupDriver::Auto, parent: AUTO.into(), shims: AUTO.into() }
    }
}

impl Default for Image {
    fn default() -> Self {
        Image {
            certs_d: vec!["/etc/carpel/certs.d".into(), "/etc/containerd/certs.d".into()],
            max_concurrent_downloads: 3,
            progress_timeout_s: 300,
            pinned: Vec::new(),
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Network { netns_dir: "/run/netns".into(), builtin: None, cni: None }
    }
}

impl Default for Streaming {
    fn default() -> Self {
        Streaming {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls_cert_file: PathBuf::new(),
            tls_key_file: PathBuf::new(),
            allow_plain: false,
            idle_timeout_s: 4 * 3600,
            creation_timeout_s: 30,
        }
    }
}

impl Default for Bridge {
    fn default() -> Self {
        Bridge {
            bridge: "carpel0".into(),
            subnets: vec!["10.117.0.0/16".into(), "fdca:47be:117::/64".into()],
            masquerade: true,
            mtu: 0,
            ip_forward: true,
        }
    }
}

impl Default for Cni {
    fn default() -> Self {
        Cni {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into()],
            cache_dir: "/var/lib/cni".into(),
            plugin_timeout_s: 120,
        }
    }
}
