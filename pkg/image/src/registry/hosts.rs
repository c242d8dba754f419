//! Which hosts serve a registry's images: containerd's `certs.d/<host>/hosts.toml`, read at every pull.
//!
//! ```toml
//! server = "https://registry.example"      # the registry itself; asked last
//! [host."https://mirror.example"]          # asked before it, in the order written
//!   capabilities = ["pull", "resolve"]
//!   ca = "mirror-ca.pem"
//! ```
//!
//! The format is containerd's (docs/hosts.md), so that files written for it serve here too. Credentials of
//! a pull belong to the registry: they go to `server` and to a `[host]` of the registry's own name, never to
//! a mirror. What a mirror needs stands in its `header` table.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::Deserialize;

use super::origin::Origin;
use crate::config::Limits;

/// containerd's time for a connection to be made.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Hosts of one registry, mirrors included.
const HOSTS_MAX: usize = 64;

/// Why a registry's configuration is refused. The operator's files are never skipped silently: a mirror
/// left out could mean that an image comes from somewhere else.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A file that is there cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file is larger than its bound.
    #[error("{0:?} is larger than the limit")]
    TooLarge(PathBuf),
    /// Not TOML, or not with the known keys.
    #[error("{path:?} does not parse")]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value is not understood.
    #[error("{path:?}: {key} {value:?} is not valid")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// A certificate or key does not load.
    #[error("{path:?} is no PEM file of a {what}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// TLS cannot be set up with what the files say.
    #[error("cannot set up TLS for {host}")]
    Tls {
        /// The host.
        host: String,
        /// What the TLS library says.
        #[source]
        source: rustls::Error,
    },
}

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Content by digest.
    pub(crate) pull: bool,
    /// What a tag means: only of hosts that are trusted to know.
    pub(crate) resolve: bool,
}

/// How to speak TLS with a host. Files are read when the client is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) ca: Vec<PathBuf>,
    /// Certificate and key.
    pub(crate) client: Vec<(PathBuf, PathBuf)>,
    pub(crate) skip_verify: bool,
}

/// Whose host it is: this decides about credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The registry that the image is named after.
    Registry,
    /// Somebody who has copies.
    Mirror,
}

/// One host, ready to be asked.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) origin: Origin,
    /// Path of the API: `/v2`, or what `override_path` says. No slash at the end.
    pub(crate) path: String,
    pub(crate) capabilities: Capabilities,
    pub(crate) tls: TlsFiles,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) dial_timeout: Duration,
    pub(crate) role: Role,
    /// The registry's name, if the host must be told whose copy is wanted (`?ns=`).
    pub(crate) namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<String>,
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: Option<bool>,
    header: Option<BTreeMap<String, OneOrMany>>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
    // Maps are sorted by name; the spans say in which order the tables stand, which is that of asking.
    #[serde(default)]
    host: BTreeMap<toml::Spanned<String>, Table>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: Option<bool>,
    header: Option<BTreeMap<String, OneOrMany>>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    /// A file with certificate and key.
    One(String),
    /// Such files, or pairs of certificate and key.
    Many(Vec<CertificateAndKey>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CertificateAndKey {
    Both(String),
    Pair(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

/// The hosts to ask for images of `registry`, in order. Blocking.
pub(crate) fn load(registry: &str, folders: &[PathBuf], limits: &Limits) -> Result<Vec<Host>, HostsError> {
    for name in folder_names(registry) {
        for folder in folders {
            let path = folder.join(&name).join("hosts.toml");
            if let Some(text) = read(&path, limits.hosts_file_bytes)? {
                return parse(registry, &text, &path);
            }
        }
    }
    Ok(vec![default_host(registry)])
}

/// Where a registry's file may be: under its name, under its name with the colon written in a way that is
/// good for file systems, under the name for all.
fn folder_names(registry: &str) -> Vec<String> {
    let mut names = vec![registry.to_owned()];
    if let Some((host, port)) = registry.rsplit_once(':') {
        names.insert(0, format!("{host}_{port}_"));
    }
    names.push("_default".to_owned());
    names
}

fn read(path: &Path, max: u64) -> Result<Option<String>, HostsError> {
    let failed = |source| HostsError::Read { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) => {
            use std::io::ErrorKind::{NotADirectory, NotFound};
            return match error.kind() {
                NotFound | NotADirectory => Ok(None),
                _ => Err(failed(error)),
            };
        }
    };
    let mut text = String::new();
    file.take(max + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > max { Err(HostsError::TooLarge(path.to_owned())) } else { Ok(Some(text)) }
}

/// The registry itself, as it is without any file.
fn default_host(registry: &str) -> Host {
    Host {
        origin: Origin::of_registry(registry),
        path: "/v2".to_owned(),
        capabilities: Capabilities { pull: true, resolve: true },
        tls: TlsFiles::default(),
        headers: Vec::new(),
        dial_timeout: DIAL_TIMEOUT,
        role: Role::Registry,
        namespace: None,
    }
}

fn parse(registry: &str, text: &str, path: &Path) -> Result<Vec<Host>, HostsError> {
    let failed = |source| HostsError::Toml { path: path.to_owned(), source: Box::new(source) };
    let mut file: File = toml::from_str(text).map_err(failed)?;
    if file.host.len() >= HOSTS_MAX {
        let value = file.host.len().to_string();
        return Err(HostsError::Value { path: path.to_owned(), key: "number of hosts", value });
    }
    let mut hosts = Vec::new();
    let itself = Origin::of_registry(registry);
    let mut tables: Vec<(toml::Spanned<String>, Table)> =
        std::mem::take(&mut file.host).into_iter().collect();
    tables.sort_by_key(|(name, _)| name.span().start);
    for (name, table) in tables {
        let mut host = host(name.get_ref(), table, path)?;
        if host.origin.same_host(&itself) {
            host.role = Role::Registry;
        }
        hosts.push(host);
    }
    let server = file.server.take();
    let table = Table {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        header: file.header,
        override_path: file.override_path,
        dial_timeout: file.dial_timeout,
    };
    let address = server.unwrap_or_else(|| itself.to_string());
    hosts.push(Host { role: Role::Registry, ..host(&address, table, path)? });
    for host in &mut hosts {
        if !host.origin.same_host(&itself) {
            host.namespace = Some(registry.to_owned());
        }
    }
    // The registry often is listed once more by its own name: asking it twice brings nothing.
    let last = hosts.len() - 1;
    if hosts[..last].iter().any(|h| h.origin == hosts[last].origin && h.path == hosts[last].path) {
        hosts.pop();
    }
    Ok(hosts)
}

fn host(address: &str, table: Table, path: &Path) -> Result<Host, HostsError> {
    let invalid = |key, value: &str| HostsError::Value {
        path: path.to_owned(),
        key,
        value: value.chars().take(256).collect(),
    };
    let (origin, url_path) = Origin::parse(address).ok_or_else(|| invalid("host", address))?;
    let mut api = url_path.trim_end_matches('/').to_owned();
    if !table.override_path.unwrap_or(false) && !api.ends_with("/v2") {
        api.push_str("/v2");
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let beside = |name: String| folder.join(name);
    let capabilities = match table.capabilities {
        None => Capabilities { pull: true, resolve: true },
        Some(names) => {
            let known = ["pull", "resolve", "push", "referrers"];
            if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
                return Err(invalid("capability", unknown));
            }
            let has = |name: &str| names.iter().any(|n| n == name);
            Capabilities { pull: has("pull"), resolve: has("resolve") }
        }
    };
    let client = match table.client {
        None => Vec::new(),
        Some(Client::One(both)) => vec![(beside(both.clone()), beside(both))],
        Some(Client::Many(many)) => {
            let pair = |entry| match entry {
                CertificateAndKey::Both(both) => Ok((beside(both.clone()), beside(both))),
                CertificateAndKey::Pair(pair) => match <[String; 2]>::try_from(pair) {
                    Ok([certificate, key]) => Ok((beside(certificate), beside(key))),
                    Err(pair) => Err(invalid("client", &pair.join(", "))),
                },
            };
            many.into_iter().map(pair).collect::<Result<_, _>>()?
        }
    };
    let dial_timeout = match table.dial_timeout {
        None => DIAL_TIMEOUT,
        Some(text) => duration(&text).ok_or_else(|| invalid("dial_timeout", &text))?,
    };
    let ca = table.ca.map(OneOrMany::into_vec).unwrap_or_default().into_iter().map(beside).collect();
    Ok(Host {
        origin,
        path: api,
        capabilities,
        tls: TlsFiles { ca, client, skip_verify: table.skip_verify.unwrap_or(false) },
        headers: headers(table.header.unwrap_or_default()).map_err(|name| invalid("header", &name))?,
        dial_timeout,
        role: Role::Mirror,
        namespace: None,
    })
}

/// Header lines; the error is the name of the one that is none.
fn headers(table: BTreeMap<String, OneOrMany>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut headers = Vec::new();
    for (name, values) in table {
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| name.clone())?;
        for value in values.into_vec() {
            let mut value = HeaderValue::from_str(&value).map_err(|_| name.clone())?;
            value.set_sensitive(true);
            headers.push((parsed.clone(), value));
        }
    }
    Ok(headers)
}

/// Go's notation for durations, as far as it makes sense for a time to connect.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok().filter(|d| !d.is_zero() && *d <= Duration::from_secs(3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(registry: &str, text: &str) -> Result<Vec<Host>, HostsError> {
        parse(registry, text, Path::new("/etc/certs.d/x/hosts.toml"))
    }

    #[test]
    fn containerds_example_is_read() {
        let hosts = parsed(
            "docker.io",
            r#"
            server = "https://registry-1.docker.io"
            [host."https://zz-mirror.example"]
              capabilities = ["pull"]
              ca = ["ca.crt", "/abs/ca.crt"]
              client = [["a.pem", "a.key"], ["b.pem", "b.key"]]
              dial_timeout = "500ms"
              [host."https://zz-mirror.example".header]
                x-one = "1"
                x-two = ["2", "3"]
            [host."http://aa-mirror.example:5000/prefix"]
              skip_verify = true
            [host."https://api.example/v2/inner"]
              override_path = true
            "#,
        )
        .unwrap();
        assert_eq!(hosts.len(), 4);
        assert_eq!(hosts[0].origin.to_string(), "https://zz-mirror.example");
        assert_eq!(hosts[0].capabilities, Capabilities { pull: true, resolve: false });
        assert_eq!(hosts[0].tls.ca[0], Path::new("/etc/certs.d/x/ca.crt"));
        assert_eq!(hosts[0].tls.ca[1], Path::new("/abs/ca.crt"));
        assert_eq!(hosts[0].tls.client.len(), 2);
        assert_eq!(hosts[0].headers.len(), 3);
        assert_eq!(hosts[0].dial_timeout, Duration::from_millis(500));
        assert_eq!(hosts[0].namespace.as_deref(), Some("docker.io"));
        assert_eq!(hosts[0].role, Role::Mirror);
        assert_eq!(hosts[1].path, "/prefix/v2");
        assert!(hosts[1].tls.skip_verify);
        assert_eq!(hosts[2].path, "/v2/inner");
        assert_eq!(hosts[3].role, Role::Registry);
        assert_eq!(hosts[3].namespace, None);
    }

    #[test]
    fn the_registry_is_asked_last_and_once() {
        let hosts = parsed("r.io", "[host.\"https://r.io\"]\nca = \"c\"").unwrap();
        assert_eq!(hosts.len(), 1);
        assert_eq!(hosts[0].role, Role::Registry);
        let hosts = parsed("r.io", "[host.\"https://m.io\"]").unwrap();
        assert_eq!(hosts[1].origin.to_string(), "https://r.io");
        assert_eq!(hosts[1].role, Role::Registry);
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in [
            "serve = \"x\"",
            "[host.\"ftp://m.io\"]",
            "[host.\"https://m.io\"]\ncapabilities = [\"fly\"]",
            "[host.\"https://m.io\"]\ndial_timeout = \"soon\"",
            "[host.\"https://m.io\"]\nclient = [[\"a\"]]",
            "[host.\"https://m.io\".header]\n\"a b\" = \"c\"",
            "server = \"https://u:p@m.io\"",
            "not toml",
        ] {
            assert!(parsed("r.io", bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn loopback_is_plain_http_by_default() {
        let scheme = |registry: &str| default_host(registry).origin.to_string();
        assert_eq!(scheme("localhost:5000"), "http://localhost:5000");
        assert_eq!(scheme("127.0.0.1:5000"), "http://127.0.0.1:5000");
        assert_eq!(scheme("docker.io"), "https://registry-1.docker.io");
        assert_eq!(scheme("r.io:5000"), "https://r.io:5000");
        assert_eq!(scheme("127.0.0.1.evil.io"), "https://127.0.0.1.evil.io");
    }
}
