//! Debian's `docker-registry` on a loopback port, and pushing into it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use carpel_image::Digest;
use serde_json::Value;

use super::build::Built;

pub(crate) const USER: &str = "carpel";
pub(crate) const PASSWORD: &str = "open sesame";
/// bcrypt of the password, which the registry wants.
const HTPASSWD: &str = "carpel:$2b$05$KN3igGiaF1ikkPIPsOtXk.uzj1Oca6ocFFPsN4Ntla5MSQGqA4S52\n";

/// A running registry. It is killed when it goes out of scope.
pub(crate) struct Registry {
    child: Child,
    port: u16,
}

/// How a registry is set up.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    pub(crate) passwords: bool,
    /// Certificate and key.
    pub(crate) tls: Option<(&'a Path, &'a Path)>,
    pub(crate) client_ca: Option<&'a Path>,
}

impl Registry {
    /// Starts one over the storage in `folder`, which several may share.
    pub(crate) fn start(folder: &Path, setup: &Setup<'_>) -> Registry {
        for _ in 0..20 {
            if let Some(registry) = Registry::try_start(folder, setup) {
                return registry;
            }
        }
        panic!("docker-registry does not start");
    }

    fn try_start(folder: &Path, setup: &Setup<'_>) -> Option<Registry> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let storage = folder.join("storage");
        std::fs::create_dir_all(&storage).unwrap();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            storage.display()
        );
        if let Some((certificate, key)) = setup.tls {
            config +=
                &format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display());
            if let Some(ca) = setup.client_ca {
                config += &format!("    clientcas: [{}]\n", ca.display());
            }
        }
        if setup.passwords {
            let file = folder.join("htpasswd");
            std::fs::write(&file, HTPASSWD).unwrap();
            config += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display());
        }
        let file = folder.join(format!("config-{port}.yml"));
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(folder.join(format!("log-{port}"))).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", file.to_str().unwrap()])
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut registry = Registry { child, port };
        for _ in 0..500 {
            // Another process may have taken the port in between.
            if registry.child.try_wait().unwrap().is_some() {
                return None;
            }
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(registry);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    pub(crate) fn plain(folder: &Path) -> Registry {
        Registry::start(folder, &Setup::default())
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Pushes an image to `name:tag`, over plain http without credentials.
    pub(crate) fn push(&self, name: &str, tag: &str, image: &Built) {
        for blob in image.blobs() {
            self.push_blob(name, &blob);
        }
        self.push_manifest(name, tag, &image.media_type, &image.manifest);
    }

    pub(crate) fn push_blob(&self, name: &str, blob: &[u8]) {
        let begun = self.call("POST", &format!("/v2/{name}/blobs/uploads/"), "application/octet-stream", b"");
        let location = begun.lines().find_map(|l| l.strip_prefix("Location: ")).expect("an upload location");
        let path = location.trim().split_once(&self.host()).map_or(location, |(_, path)| path).trim();
        let joint = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{joint}digest={}", Digest::of(blob));
        let answer = self.call("PUT", &path, "application/octet-stream", blob);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }

    pub(crate) fn push_manifest(&self, name: &str, tag: &str, media_type: &str, manifest: &[u8]) {
        let answer = self.call("PUT", &format!("/v2/{name}/manifests/{tag}"), media_type, manifest);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }

    pub(crate) fn push_index(&self, name: &str, tag: &str, index: &Value) -> Digest {
        let bytes = serde_json::to_vec(index).unwrap();
        self.push_manifest(name, tag, super::build::OCI_INDEX, &bytes);
        Digest::of(&bytes)
    }

    fn call(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\r\n",
            self.host(),
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A private CA, a server certificate for the loopback names and a client certificate, by `openssl`.
pub(crate) struct Certificates {
    pub(crate) folder: PathBuf,
}

impl Certificates {
    pub(crate) fn make(folder: &Path) -> Certificates {
        std::fs::create_dir_all(folder).unwrap();
        let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let openssl = |arguments: &[&str]| super::run("openssl", arguments);
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let ca = [
            "req",
            "-x509",
            "-days",
            "2",
            "-subj",
            "/CN=test ca",
            "-keyout",
            &at("ca.key"),
            "-out",
            &at("ca.pem"),
        ];
        openssl(&[&ca[..1], &key[..], &ca[1..]].concat());
        let extensions = at("ext");
        std::fs::write(&extensions, "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
        for name in ["server", "client"] {
            let (own_key, csr, pem) =
                (at(&format!("{name}.key")), at(&format!("{name}.csr")), at(&format!("{name}.pem")));
            let subject = format!("/CN={name}");
            openssl(&[&["req"], &key[..], &["-subj", &subject, "-keyout", &own_key, "-out", &csr]].concat());
            openssl(&[
                "x509",
                "-req",
                "-days",
                "2",
                "-in",
                &csr,
                "-CA",
                &at("ca.pem"),
                "-CAkey",
                &at("ca.key"),
                "-CAcreateserial",
                "-extfile",
                &extensions,
                "-out",
                &pem,
            ]);
        }
        Certificates { folder: folder.to_owned() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}
