//! A real registry on loopback: Debian's `docker-registry`, with what is in it kept in memory.
//!
//! Not a fake: for registries that stall, lie or redirect see [`crate::scripted`].

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::certificates::Authority;
use crate::layout::Layout;
use crate::process::Tethered;
use crate::token::TokenServer;

/// Who may pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// [`USER`] with [`PASSWORD`], by HTTP basic authentication.
    Basic,
    /// [`USER`] with [`PASSWORD`], who get a bearer token from a token service.
    Bearer,
}

/// The user whom a closed registry knows.
pub const USER: &str = "alice";
/// That user's password.
pub const PASSWORD: &str = "p4ss:word with spaces";

/// A running registry; it ends with this value.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    access: Access,
    authority: Option<Authority>,
    _process: Tethered,
    _tokens: Option<TokenServer>,
    /// What it reads while it runs; an open registry without TLS reads nothing, and may live in a static, which nobody drops.
    _folder: Option<tempfile::TempDir>,
}

impl Registry {
    /// A registry without TLS and open to all.
    pub fn open() -> Self {
        Self::start(Access::Open, None)
    }

    /// A registry without TLS.
    pub fn http(access: Access) -> Self {
        Self::start(access, None)
    }

    /// A registry whose certificate a private authority signed.
    pub fn https(access: Access) -> Self {
        Self::start(access, Some(Authority::new()))
    }

    /// `127.0.0.1:PORT`, the host part of its references.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// A reference to a repository here.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The certificate of its authority, if it speaks TLS.
    pub fn authority(&self) -> Option<&Path> {
        self.authority.as_ref().map(Authority::certificate)
    }

    /// Pushes every image of a layout under the names they have there; whole indexes, blobs unchanged.
    pub fn push(&self, layout: &Layout) {
        for name in layout.names() {
            self.copy(layout.folder(), name, name, &["--all", "--preserve-digests"]);
        }
    }

    /// Pushes one image of a layout under a name of its own, converted or compressed as skopeo's `options` say.
    pub fn copy(&self, layout: &Path, name: &str, as_name: &str, options: &[&str]) {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]).args(options);
        if self.access != Access::Open {
            command.arg(format!("--dest-creds={USER}:{PASSWORD}"));
        }
        command.arg(format!("oci:{}:{name}", layout.display()));
        command.arg(format!("docker://{}/{as_name}", self.address));
        let output = command.output().expect("skopeo runs (hack/install-deps test installs it)");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "skopeo copy of {name} to {as_name}: {errors}");
    }

    fn start(access: Access, authority: Option<Authority>) -> Self {
        let folder =
            tempfile::Builder::new().prefix("carpel-e2e-registry").tempdir().expect("temporary folder");
        let tokens = (access == Access::Bearer).then(TokenServer::start);
        // The port is free when we look and may be taken when the registry binds it: look again then.
        for _ in 0..5 {
            let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
            let address = listener.local_addr().expect("a bound socket has an address");
            drop(listener);
            let config = folder.path().join("registry.yml");
            let text = config_text(folder.path(), address, access, authority.as_ref(), tokens.as_ref());
            std::fs::write(&config, text).expect("write the registry's config");
            let log = std::fs::File::create(folder.path().join("log")).expect("the registry's log");
            let process = Tethered::spawn("docker-registry", &["serve".as_ref(), config.as_os_str()], &log);
            if answers(address, &process) {
                let needed = access != Access::Open || authority.is_some();
                let folder = needed.then_some(folder);
                return Self {
                    address,
                    access,
                    authority,
                    _process: process,
                    _tokens: tokens,
                    _folder: folder,
                };
            }
        }
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        panic!("docker-registry does not come up: {log}");
    }
}

fn config_text(
    folder: &Path,
    address: SocketAddr,
    access: Access,
    authority: Option<&Authority>,
    tokens: Option<&TokenServer>,
) -> String {
    let mut text = format!(
        "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
         storage: {{inmemory: {{}}, delete: {{enabled: true}}}}\nhttp:\n  addr: {address}\n"
    );
    if let Some(authority) = authority {
        let (certificate, key) = authority.server(folder);
        text += &format!("  tls: {{certificate: {}, key: {}}}\n", certificate.display(), key.display());
    }
    if access == Access::Basic {
        text += &format!("auth: {{htpasswd: {{realm: carpel-e2e, path: {}}}}}\n", htpasswd(folder).display());
    }
    if let Some(tokens) = tokens {
        text += &tokens.registry_config();
    }
    text
}

/// The registry takes bcrypt hashes only.
fn htpasswd(folder: &Path) -> PathBuf {
    let output = Command::new("htpasswd").args(["-nbB", USER, PASSWORD]).output();
    let output = output.expect("htpasswd runs (hack/install-deps test installs apache2-utils)");
    let path = folder.join("htpasswd");
    std::fs::write(&path, output.stdout).expect("write htpasswd");
    path
}

fn answers(address: SocketAddr, process: &Tethered) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline && process.is_running() {
        if TcpStream::connect(address).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Compression, Image};
    use crate::tar::Tar;

    /// skopeo's view of an image: its digest.
    fn inspect(registry: &Registry, name: &str, options: &[&str]) -> Result<String, String> {
        let reference = format!("docker://{}", registry.reference(name));
        let output = Command::new("skopeo")
            .args(["inspect", "--format", "{{.Digest}}"])
            .args(options)
            .arg(reference)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn layout(folder: &Path) -> (Layout, String) {
        let mut layout = Layout::create(folder);
        let tar = Tar::new().file("hello", 0o644, "hello").finish();
        let image = Image::new().layer(tar.clone()).layer_as(tar, Compression::Zstd);
        let written = layout.add("some/image:1", &image);
        (layout, written.manifest)
    }

    #[test]
    fn an_open_registry_keeps_digests() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, manifest) = layout(folder.path());
        let registry = Registry::open();
        registry.push(&layout);
        assert_eq!(inspect(&registry, "some/image:1", &["--tls-verify=false"]), Ok(manifest));
    }

    #[test]
    fn a_closed_registry_wants_the_password() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, manifest) = layout(folder.path());
        for access in [Access::Basic, Access::Bearer] {
            let registry = Registry::http(access);
            registry.push(&layout);
            let good = format!("--creds={USER}:{PASSWORD}");
            let answer = inspect(&registry, "some/image:1", &["--tls-verify=false", &good]);
            assert_eq!(answer.as_deref(), Ok(manifest.as_str()), "{access:?}");
            for bad in ["--no-creds", "--creds=alice:wrong"] {
                let answer = inspect(&registry, "some/image:1", &["--tls-verify=false", bad]);
                assert!(answer.is_err(), "{access:?} with {bad}: {answer:?}");
            }
        }
    }

    #[test]
    fn tls_holds_with_the_private_authority_only() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, manifest) = layout(folder.path());
        let registry = Registry::https(Access::Open);
        registry.push(&layout);
        // A folder of its own: the authority's holds keys too, which skopeo would take for a client's.
        let certificates = tempfile::tempdir().unwrap();
        std::fs::copy(registry.authority().unwrap(), certificates.path().join("ca.crt")).unwrap();
        let option = format!("--cert-dir={}", certificates.path().display());
        assert_eq!(inspect(&registry, "some/image:1", &[&option]), Ok(manifest));
        assert!(inspect(&registry, "some/image:1", &[]).is_err(), "an unknown authority was trusted");
    }
}
