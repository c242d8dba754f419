//! Streaming over TLS, for nodes that stream beyond loopback.
//!
//! Certificates are rotated under a running server: for each connection the files are looked at, and read again
//! when they are others than those in use. A pair that is not good leaves the old one in use.

use std::{
    error::Error,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, TryLockError},
};

use rustls::{ServerConfig, crypto::aws_lc_rs, server::WantsServerCert};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

/// Who the server says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and what leads to its authority, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// TLS cannot be spoken with these files.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read as PEM.
    #[error("read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// There is nothing in the file.
    #[error("{0} holds no certificate")]
    NoCertificate(PathBuf),
    /// Key and certificate do not fit, or are of a kind that is not known.
    #[error("use the certificate {certificate}")]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// The certificate and its key as they are now.
pub(crate) struct Identity {
    files: TlsFiles,
    current: Mutex<Current>,
    /// Held by the one who looks at the files; the others go on with what there is.
    looking: Mutex<Seen>,
}

/// The pair in use.
#[derive(Clone)]
pub(crate) struct Current {
    /// Accepts the next connection.
    pub(crate) acceptor: TlsAcceptor,
    /// The server's own certificate, without those that lead to its authority.
    pub(crate) certificate: CertificateDer<'static>,
}

/// What was seen of the files.
struct Seen {
    /// The pair in use.
    used: [Stamp; 2],
    /// The pair of which was said that it is not good.
    refused: Option<[Stamp; 2]>,
}

/// Changes when a file does: device, inode, length, and when content and inode changed. `None`: it is not there.
type Stamp = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

impl Identity {
    /// Reads the files.
    pub(crate) fn open(files: TlsFiles) -> Result<Identity, TlsError> {
        // Before they are read: what changes meanwhile is read again.
        let looking = Mutex::new(Seen { used: stamps(&files), refused: None });
        let current = Mutex::new(read(&files)?);
        Ok(Identity { files, current, looking })
    }

    /// What the next connection is met with. Waits for the disk.
    pub(crate) fn current(&self) -> Current {
        match self.looking.try_lock() {
            Ok(mut seen) => self.look(&mut seen),
            Err(TryLockError::Poisoned(seen)) => self.look(&mut seen.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files if they are others than those in use. A refused pair is tried each time, for the reason may lie
    /// elsewhere, and logged once.
    fn look(&self, seen: &mut Seen) {
        let now = stamps(&self.files);
        if now == seen.used {
            return;
        }
        let certificate = self.files.certificate.display();
        match read(&self.files) {
            Ok(current) => {
                // A configuration of its own remembers no sessions of the one before it.
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
                *seen = Seen { used: now, refused: None };
                tracing::info!(%certificate, "streaming uses the new certificate");
            }
            Err(error) if seen.refused != Some(now) => {
                seen.refused = Some(now);
                let error = &error as &dyn Error;
                tracing::warn!(error, %certificate, "streaming goes on with the old certificate");
            }
            Err(_said_before) => {}
        }
    }
}

fn stamps(files: &TlsFiles) -> [Stamp; 2] {
    [&files.certificate, &files.key].map(|path| stamp(path))
}

fn stamp(path: &Path) -> Stamp {
    let file = std::fs::metadata(path).ok()?;
    let (content, inode) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
    Some((file.dev(), file.ino(), file.size(), content, inode))
}

/// Reads the files.
fn read(files: &TlsFiles) -> Result<Current, TlsError> {
    let unreadable = |path: &PathBuf| {
        let path = path.clone();
        move |source| TlsError::File { path, source }
    };
    let certificates = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable(&files.certificate))?;
    let Some(certificate) = certificates.first().cloned() else {
        return Err(TlsError::NoCertificate(files.certificate.clone()));
    };
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(unreadable(&files.key))?;
    let config = builder()
        .and_then(|builder| builder.with_single_cert(certificates, key))
        .map_err(|source| TlsError::Unusable { certificate: files.certificate.clone(), source })?;
    Ok(Current { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
}

fn builder() -> Result<rustls::ConfigBuilder<ServerConfig, WantsServerCert>, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(versions.with_no_client_auth())
}
