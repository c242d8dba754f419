//! HTTP to one host: a pooled client with the host's own TLS settings.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::dial::Dialer;
use super::hosts::{HostsError, TlsFiles};
use super::origin::{Origin, Scheme};
use crate::config::Config;

/// Idle connections of one pull: it does not last long.
const IDLE: Duration = Duration::from_secs(30);

/// Header lines of one response.
const HEADERS_MAX: usize = 100;

pub(crate) type HttpClient = Client<HttpsConnector<Dialer>, Full<Bytes>>;

/// Makes a client for `origin`. Blocking: it reads certificate files.
pub(crate) fn build(
    origin: &Origin,
    tls: &TlsFiles,
    dial_timeout: Duration,
    config: &Config,
) -> Result<HttpClient, HostsError> {
    let limits = &config.limits;
    let dialer = Dialer::new(&config.proxies, dial_timeout);
    let tls = match origin.scheme {
        Scheme::Https => verified(origin, tls)?,
        // Never used for this host, but a plain registry may redirect to encrypted storage.
        Scheme::Http => verified(origin, &TlsFiles::default())?,
    };
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(dialer);
    Ok(Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .http1_max_buf_size(limits.header_bytes.max(16 << 10))
        .http1_max_headers(HEADERS_MAX)
        .build(connector))
}

/// The same trust without what belongs to one host only: its client certificate, and its right not to be
/// checked. For addresses that a registry sends us to.
pub(crate) fn without_secrets(tls: &TlsFiles) -> TlsFiles {
    TlsFiles { ca: tls.ca.clone(), client: Vec::new(), skip_verify: false }
}

fn verified(origin: &Origin, files: &TlsFiles) -> Result<ClientConfig, HostsError> {
    let failed = |source| HostsError::Tls { host: origin.to_string(), source };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = if files.skip_verify {
        let verifier = Arc::new(Unchecked { provider });
        builder.dangerous().with_custom_certificate_verifier(verifier)
    } else {
        builder.with_root_certificates(roots(&files.ca)?)
    };
    // TLS asks for one client certificate; of several the first pair is taken, as containerd documents it.
    match files.client.first() {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let pem = |what| HostsError::Pem { path: key.clone(), what };
            let key = PrivateKeyDer::from_pem_file(key).map_err(|_| pem("private key"))?;
            builder.with_client_auth_cert(chain, key).map_err(failed)
        }
    }
}

/// The system's certificates and the configured ones.
fn roots(files: &[std::path::PathBuf]) -> Result<RootCertStore, HostsError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::debug!(%error, "system certificates");
    }
    // A certificate of the system that rustls cannot use is no reason not to use the others.
    let (_, ignored) = roots.add_parsable_certificates(native.certs);
    if ignored > 0 {
        tracing::debug!(ignored, "system certificates that cannot be used");
    }
    for path in files {
        for certificate in certificates(path)? {
            roots
                .add(certificate)
                .map_err(|_| HostsError::Pem { path: path.clone(), what: "CA certificate" })?;
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, HostsError> {
    let failed = || HostsError::Pem { path: path.to_owned(), what: "certificate" };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|_| failed())?
        .collect::<Result<_, _>>()
        .map_err(|_| failed())?;
    if chain.is_empty() { Err(failed()) } else { Ok(chain) }
}

/// Takes any certificate, for hosts with `skip_verify`. Signatures are checked still: the peer must own the
/// certificate it shows.
#[derive(Debug)]
struct Unchecked {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
