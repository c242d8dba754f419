//! A private certificate authority, made by `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority nobody trusts unless told to.
#[derive(Debug)]
pub struct Authority {
    folder: tempfile::TempDir,
    certificate: PathBuf,
}

impl Authority {
    /// Makes a key and a certificate.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("carpel-e2e-ca").tempdir().expect("temporary folder");
        openssl(
            folder.path(),
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=carpel-e2e \
             -keyout ca.key -out ca.crt",
        );
        let certificate = folder.path().join("ca.crt");
        Self { folder, certificate }
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Makes a certificate for `127.0.0.1` and `localhost` in a folder; returns it and its key.
    pub fn server(&self, folder: &Path) -> (PathBuf, PathBuf) {
        std::fs::write(folder.join("san"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").expect("write san");
        openssl(
            folder,
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost \
             -keyout server.key -out server.csr",
        );
        let ca = self.folder.path().display();
        openssl(
            folder,
            &format!(
                "x509 -req -in server.csr -CA {ca}/ca.crt -CAkey {ca}/ca.key -CAcreateserial -days 2 \
                 -extfile san -out server.crt"
            ),
        );
        (folder.join("server.crt"), folder.join("server.key"))
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs openssl in a folder with arguments that hold no blanks.
pub fn openssl(folder: &Path, arguments: &str) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(folder).output();
    let output = output.expect("openssl runs (hack/install-deps test installs it)");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments}: {errors}");
    output.stdout
}
