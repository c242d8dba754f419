//! Whom to trust where the runtime streams over TLS.
//!
//! Carpel's daemon says on its unix socket which certificate its streaming server shows at this moment. That socket is
//! root's, and who answers on it runs the containers: exactly that certificate is trusted, whoever signed it, whatever
//! names it carries and whenever it expires, and no other. It needs no flag, and goes along with rotation. Other runtimes
//! do not say it: there the operator names whom to trust. Never is a certificate taken unseen, as crictl does when it is
//! given no flags: what is typed into a shell, and what it shows, would be whose who listens at that address.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use carpel_proto::operator;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme, WantsVerifier,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, UnixTime,
    pem::{self, PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::Code;

use super::{StreamError, timely};
use crate::client::{CallError, Client, ask};

/// For runtimes that stream over TLS.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TlsArgs {
    /// Where the runtime streams over TLS: trust these certificates and what they signed, PEM [default: the
    /// certificate that Carpel's daemon says is its own, and no other]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Name that the certificate must carry [default: the host of the streaming address]
    #[arg(long, value_name = "NAME", requires = "tls_ca", value_parser = parse_name)]
    tls_server_name: Option<ServerName<'static>>,
    /// Certificate to show to a streaming server that asks for one (Carpel's does not), PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

fn parse_name(text: &str) -> Result<ServerName<'static>, rustls_pki_types::InvalidDnsNameError> {
    ServerName::try_from(text.to_owned())
}

/// TLS could not be spoken, or not with whom it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("cannot read {path}")]
    File { path: PathBuf, source: pem::Error },
    #[error("{0} holds no certificate")]
    NoCertificate(PathBuf),
    #[error("cannot use the certificates in {path}")]
    Unusable { path: PathBuf, source: rustls::Error },
    #[error("cannot set up TLS")]
    SetUp(#[source] rustls::Error),
    #[error("cannot learn which certificate the streaming server has")]
    Ask(#[source] CallError),
    #[error("the runtime streams over TLS, and does not say by which certificate")]
    Untold,
    #[error("what listens at {address} has not the certificate that the daemon says is its own")]
    Stranger { address: String },
    #[error("the certificate of the streaming server at {address} is not trusted by {ca}")]
    Untrusted { address: String, ca: PathBuf, source: rustls::Error },
    #[error("the streaming server at {address} does not speak TLS as it should")]
    Handshake { address: String, source: io::Error },
    #[error("the streaming server at {address} does not take this client")]
    Unwelcome { address: String, source: rustls::Error },
}

impl TlsError {
    /// What to do about it.
    pub(super) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Untold => {
                "name whom to trust with --tls-ca: the authority's certificate, or the server's own"
            }
            Self::Stranger { .. } => {
                "another program may have its port: see `ss -tlnp`, and [streaming] in the daemon's config. If a proxy is \
                 meant to be there, name whom to trust with --tls-ca"
            }
            Self::Untrusted { .. } => {
                "name the certificate of the right authority with --tls-ca, and with --tls-server-name another name than \
                 the address; Carpel's own daemon needs neither"
            }
            Self::Unwelcome { .. } => {
                "it asks for a client's certificate: show one with --tls-cert and --tls-key"
            }
            Self::File { .. }
            | Self::NoCertificate(_)
            | Self::Unusable { .. }
            | Self::SetUp(_)
            | Self::Ask(_)
            | Self::Handshake { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// Connects to the streaming server at `address`, whose URL says `host`.
pub(super) async fn connect(
    client: &Client,
    args: &TlsArgs,
    host: &str,
    address: &str,
) -> Result<TlsStream<TcpStream>, StreamError> {
    let name = match &args.tls_server_name {
        Some(name) => name.clone(),
        None => ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|_| StreamError::Url(format!("https://{address}")))?,
    };
    if let Some(ca) = &args.tls_ca {
        return shake_hands(args, Trust::file(ca)?, name, address).await;
    }
    let told = told(client).await?;
    match shake_hands(args, Trust::only(told.clone()), name.clone(), address).await {
        Err(StreamError::Tls(TlsError::Stranger { .. })) => {}
        done => return done,
    }
    // It may have been rotated between the answer and the connection; the URL has not been used up.
    match self::told(client).await? {
        again if again == told => Err(TlsError::Stranger { address: address.to_owned() }.into()),
        again => shake_hands(args, Trust::only(again), name, address).await,
    }
}

/// The certificate that the daemon says its streaming server shows.
async fn told(client: &Client) -> Result<CertificateDer<'static>, TlsError> {
    match ask("read the daemon", client.operator().info(operator::InfoRequest {})).await {
        Ok(info) if !info.streaming_certificate.is_empty() => Ok(info.streaming_certificate.into()),
        // A daemon of before it was told.
        Ok(_) => Err(TlsError::Untold),
        Err(error) if error.code() == Code::Unimplemented => Err(TlsError::Untold),
        Err(error) => Err(TlsError::Ask(error)),
    }
}

async fn shake_hands(
    args: &TlsArgs,
    trust: Trust,
    name: ServerName<'static>,
    address: &str,
) -> Result<TlsStream<TcpStream>, StreamError> {
    let connector = TlsConnector::from(Arc::new(config(args, trust)?));
    let socket = super::connect(address).await?;
    timely(address, async {
        connector.connect(name, socket).await.map_err(|error| failed(args, address, error).into())
    })
    .await
}

/// What came of a connection over which TLS could not be agreed on.
fn failed(args: &TlsArgs, address: &str, error: io::Error) -> TlsError {
    let address = address.to_owned();
    match (cause(&error), &args.tls_ca) {
        (Some(source @ rustls::Error::InvalidCertificate(_)), Some(ca)) => {
            TlsError::Untrusted { address, ca: ca.clone(), source: source.clone() }
        }
        (Some(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)), None) => {
            TlsError::Stranger { address }
        }
        (Some(alert @ rustls::Error::AlertReceived(_)), _) => {
            TlsError::Unwelcome { address, source: alert.clone() }
        }
        _ => TlsError::Handshake { address, source: error },
    }
}

/// A server that wants a client's certificate says so by an alert, in TLS 1.3 only when something is read.
pub(super) fn unwelcome(address: &str, error: &io::Error) -> Option<TlsError> {
    match cause(error) {
        Some(alert @ rustls::Error::AlertReceived(_)) => {
            Some(TlsError::Unwelcome { address: address.to_owned(), source: alert.clone() })
        }
        _ => None,
    }
}

/// What the library said inside of an I/O error.
fn cause(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn config(args: &TlsArgs, trust: Trust) -> Result<ClientConfig, TlsError> {
    let builder = builder(Arc::clone(&trust.provider)).map_err(TlsError::SetUp)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(trust));
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate)?;
    let key =
        PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::File { path: key.clone(), source })?;
    let unusable = |source| TlsError::Unusable { path: certificate.clone(), source };
    builder.with_client_auth_cert(chain, key).map_err(unusable)
}

fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|source| TlsError::File { path: path.to_owned(), source })?;
    if read.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(read) }
}

/// Whom we trust.
#[derive(Debug)]
struct Trust {
    provider: Arc<CryptoProvider>,
    /// Whoever has the key of one of these.
    exactly: Vec<CertificateDer<'static>>,
    /// And whom these vouch for by name.
    authorities: Option<Arc<WebPkiServerVerifier>>,
}

impl Trust {
    /// In this certificate alone.
    fn only(certificate: CertificateDer<'static>) -> Trust {
        let provider = Arc::new(aws_lc_rs::default_provider());
        Trust { provider, exactly: vec![certificate], authorities: None }
    }

    /// In those of a file, and in whom they vouch for.
    fn file(path: &Path) -> Result<Trust, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let exactly = certificates(path)?;
        let unusable = |source| TlsError::Unusable { path: path.to_owned(), source };
        let mut roots = RootCertStore::empty();
        for certificate in &exactly {
            roots.add(certificate.clone()).map_err(unusable)?;
        }
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|source| unusable(rustls::Error::Other(OtherError(Arc::new(source)))))?;
        Ok(Trust { provider, exactly, authorities: Some(authorities) })
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.authorities {
            _ if self.exactly.contains(certificate) => Ok(ServerCertVerified::assertion()),
            Some(authorities) => authorities.verify_server_cert(certificate, between, name, ocsp, now),
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
