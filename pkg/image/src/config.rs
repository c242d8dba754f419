//! What the operator sets, and every bound of the crate in one place.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

/// Settings of an [`Images`](crate::Images). Plain data: the program reads its own file and fills this in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Directory that holds everything: made with mode 0700 if absent. Never empty in a config that is used.
    pub root: PathBuf,
    /// Directories searched in turn for `<registry host>/hosts.toml`.
    pub certs_d: Vec<PathBuf>,
    /// Layers downloaded and unpacked at the same time, over all pulls.
    pub max_concurrent_downloads: usize,
    /// How long a transfer may make no progress before it is given up. Zero means five minutes.
    pub progress_timeout: Duration,
    /// Images never to be removed by the kubelet's garbage collection: normalised references, with an
    /// optional `*` at the end.
    pub pinned: Vec<String>,
    /// Proxies between this node and registries.
    pub proxies: Proxies,
    /// Bounds on what registries and images may ask of this machine.
    pub limits: Limits,
}

/// Proxies between this node and registries. Hosts of this very machine are never asked through one.
#[derive(Clone, Default, PartialEq)]
pub struct Proxies {
    pub(crate) http: String,
    pub(crate) https: String,
    pub(crate) no: String,
}

/// A proxy that cannot be used. Its address may hold a password, so it is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proxy for {0} registries is not given as http://[user:password@]host[:port]")]
pub struct ProxyError(&'static str);

impl Proxies {
    /// `http` is for registries that speak plain http, `https` for the others: `http://[user:password@]host[:port]`,
    /// or empty for none. `no` are the hosts, domains, addresses and networks that are asked directly,
    /// comma-separated; `*` for all.
    ///
    /// # Errors
    /// An address is not of this form.
    pub fn new(http: String, https: String, no: String) -> Result<Proxies, ProxyError> {
        for (kind, address) in [("http", &http), ("https", &https)] {
            let uri: Option<Uri> = address.parse().ok();
            let is_http =
                |uri: Uri| uri.authority().is_some() && matches!(uri.scheme_str(), None | Some("http"));
            if !address.is_empty() && !uri.is_some_and(is_http) {
                return Err(ProxyError(kind));
            }
        }
        Ok(Proxies { http, https, no })
    }

    /// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` for what these do not name, and `NO_PROXY`; or the same in lower
    /// case, as curl and Go programs take them.
    ///
    /// # Errors
    /// See [`Proxies::new`].
    pub fn from_env() -> Result<Proxies, ProxyError> {
        let first = |names: &[&str]| {
            let mut values = names.iter().filter_map(|name| std::env::var(name).ok());
            values.find(|value| !value.is_empty()).unwrap_or_default()
        };
        Proxies::new(
            first(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]),
            first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
            first(&["NO_PROXY", "no_proxy"]),
        )
    }
}

/// A proxy's URL may hold a password: only what is asked directly is shown.
impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxies").field("no", &self.no).finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            root: PathBuf::new(),
            certs_d: vec![PathBuf::from("/etc/carpel/certs.d")],
            // containerd's default for the same setting.
            max_concurrent_downloads: 3,
            progress_timeout: Duration::from_secs(300),
            pinned: Vec::new(),
            proxies: Proxies::default(),
            limits: Limits::default(),
        }
    }
}

/// Bounds on hostile or broken input. Each is checked before memory or disk is spent.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a manifest or index. The distribution specification lets registries refuse beyond 4 MiB.
    pub manifest_bytes: u64,
    /// Bytes of an image config.
    pub config_bytes: u64,
    /// Layers in one image. The kernel takes at most 500 lower directories (`OVL_MAX_STACK`, fs/overlayfs).
    pub layers: usize,
    /// Descriptors in one index.
    pub index_entries: usize,
    /// Bytes of one compressed layer.
    pub layer_compressed_bytes: u64,
    /// Bytes one layer may inflate to, as tar stream, and bytes of file content it may write.
    pub layer_bytes: u64,
    /// How many times its compressed size a layer may inflate to. Checked beyond `ratio_free_bytes` only:
    /// small runs of zeros compress a thousandfold and harm nobody.
    pub layer_ratio: u64,
    /// Inflated bytes below which `layer_ratio` is not asked.
    pub ratio_free_bytes: u64,
    /// Entries in one layer.
    pub layer_entries: u64,
    /// Components of a path in a layer.
    pub path_depth: usize,
    /// Bytes of a path in a layer: the kernel's `PATH_MAX`.
    pub path_bytes: usize,
    /// Bytes of one PAX extended header, or of one GNU long name.
    pub pax_bytes: u64,
    /// Bytes of names and values of extended attributes of one entry.
    pub xattr_bytes: usize,
    /// Pieces of data in one sparse file.
    pub sparse_pieces: usize,
    /// Base-two logarithm of the largest zstd window: 27 is 128 MiB, what `zstd -d` takes by default.
    pub zstd_window_log: u32,
    /// Bytes of one response head.
    pub header_bytes: usize,
    /// Redirects followed for one request.
    pub redirects: usize,
    /// Bytes of a token server's answer.
    pub token_bytes: u64,
    /// Bytes of a `hosts.toml`.
    pub hosts_file_bytes: u64,
    /// Tries of one request to one host: connection failures, broken transfers, 429 and 5xx are tried again.
    pub attempts: u32,
    /// Pause after the first failed try; doubled after each further one.
    pub retry_pause: Duration,
    /// The longest pause, also when the registry asks for a longer one by `Retry-After`.
    pub retry_pause_max: Duration,
    /// Bytes that count as progress within one `progress_timeout`; fewer is a stall.
    pub progress_bytes: u64,
    /// Entries at the top of an archive that is imported.
    pub archive_entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        Limits {
            manifest_bytes: 4 * MIB,
            config_bytes: 8 * MIB,
            layers: 500,
            index_entries: 10_000,
            layer_compressed_bytes: 256 * GIB,
            layer_bytes: 512 * GIB,
            layer_ratio: 200,
            ratio_free_bytes: 256 * MIB,
            layer_entries: 10_000_000,
            path_depth: 256,
            path_bytes: 4096,
            pax_bytes: MIB,
            xattr_bytes: MIB as usize,
            sparse_pieces: 1 << 16,
            zstd_window_log: 27,
            header_bytes: 64 << 10,
            redirects: 10,
            token_bytes: MIB,
            hosts_file_bytes: MIB,
            attempts: 5,
            retry_pause: Duration::from_millis(500),
            retry_pause_max: Duration::from_secs(30),
            progress_bytes: 4 << 10,
            archive_entries: 100_000,
        }
    }
}
