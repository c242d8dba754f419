//! Sessions over TLS: with whom there is one, and with whom there must be none.
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::{
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
    },
};

use super::{Scripted, err, output, two_pods};

/// An authority, and a certificate `own.pem` that it signed for the loopback names.
struct Authority(TempDir);

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let openssl = |words: &str| {
            let mut openssl = Command::new("openssl");
            let ran = openssl.args(words.split_whitespace()).current_dir(folder.path()).output().unwrap();
            assert!(ran.status.success(), "openssl {words}: {}", err(&ran));
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        std::fs::write(folder.path().join("ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
        openssl(&format!("req -x509 {key} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"));
        openssl(&format!("req {key} -subj /CN=own -keyout own.key -out own.csr"));
        openssl(
            "x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out own.pem",
        );
        Authority(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.path("own.pem")).unwrap()
    }
}

/// A streaming server whose every session ends at once, well.
struct Streams {
    url: String,
    _runtime: Runtime,
}

impl Streams {
    /// With an authority's certificate; `clients` must show one that is signed by that authority.
    fn serve(
        authority: &Authority,
        version: &'static SupportedProtocolVersion,
        clients: Option<&Authority>,
    ) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(&[version]).unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_file(clients.path("ca.pem")).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::from_pem_file(authority.path("own.key")).unwrap();
        let config = builder.with_single_cert(vec![authority.certificate()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let url = format!("https://{}/exec/token", listener.local_addr().unwrap());
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                // A client that goes away is what the tests are about.
                let Ok(socket) = acceptor.accept(socket).await else { continue };
                #[expect(clippy::result_large_err, reason = "it is the library that says so")]
                let v5 = |_: &Request, mut response: Response| {
                    response
                        .headers_mut()
                        .insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
                    Ok(response)
                };
                let Ok(mut session) = accept_hdr_async(socket, v5).await else { continue };
                let status = [b"\x03", &br#"{"metadata":{},"status":"Success"}"#[..]].concat();
                let _gone = futures::SinkExt::send(&mut session, Message::Binary(status.into())).await;
                let _gone = session.close(None).await;
            }
        });
        Streams { url, _runtime: runtime }
    }
}

/// A runtime that streams there, and says of its certificate what `told` says, one after the other.
fn runtime(url: &str, told: &[&Authority]) -> Scripted {
    let runtime = two_pods();
    runtime.change(|world| {
        world.streaming_url = url.to_owned();
        world.certificates = told.iter().map(|authority| authority.certificate().to_vec()).collect();
    });
    runtime
}

fn exec(runtime: &Scripted, flags: &[&str]) -> Output {
    output(runtime, &[&["exec"], flags, &["web", "true"]].concat())
}

fn succeeds(runtime: &Scripted, flags: &[&str]) {
    let ran = exec(runtime, flags);
    assert_eq!(ran.status.code(), Some(0), "{flags:?}: {}", err(&ran));
}

fn fails(runtime: &Scripted, flags: &[&str], words: &[&str]) {
    let (ran, flags) = (exec(runtime, flags), flags.join(" "));
    assert_eq!(ran.status.code(), Some(125), "{flags}: {}", err(&ran));
    for word in words {
        assert!(err(&ran).contains(word), "{flags}: {word:?} is not in {}", err(&ran));
    }
}

#[test]
fn the_certificate_that_the_daemon_tells_is_trusted_and_no_other() {
    let (own, other) = (Authority::new(), Authority::new());
    for version in [&TLS12, &TLS13] {
        let streams = Streams::serve(&own, version, None);
        succeeds(&runtime(&streams.url, &[&own]), &[]);
        // Rotated between the answer and the connection.
        succeeds(&runtime(&streams.url, &[&other, &own]), &[]);
        let stranger = runtime(&streams.url, &[&other]);
        fails(&stranger, &[], &["has not the certificate that the daemon says", "hint: ", "--tls-ca"]);
        let silent = runtime(&streams.url, &[]);
        fails(&silent, &[], &["does not say by which certificate", "hint: ", "--tls-ca"]);
    }
}

#[test]
fn the_operator_may_say_whom_to_trust() {
    let (own, other) = (Authority::new(), Authority::new());
    let streams = Streams::serve(&own, &TLS13, None);
    let silent = runtime(&streams.url, &[]);
    succeeds(&silent, &["--tls-ca", &own.text("ca.pem")]);
    succeeds(&silent, &["--tls-ca", &own.text("own.pem")]);
    succeeds(&silent, &["--tls-ca", &own.text("ca.pem"), "--tls-server-name", "localhost"]);
    fails(
        &silent,
        &["--tls-ca", &own.text("ca.pem"), "--tls-server-name", "elsewhere.test"],
        &["is not trusted by", "elsewhere.test", "--tls-server-name"],
    );
    // What the daemon says does not count then.
    let told = runtime(&streams.url, &[&own]);
    fails(&told, &["--tls-ca", &other.text("ca.pem")], &["is not trusted by", &other.text("ca.pem")]);
    fails(&told, &["--tls-ca", "/nonexistent/ca.pem"], &["cannot read /nonexistent/ca.pem"]);
    fails(&told, &["--tls-ca", &own.text("own.key")], &["own.key holds no certificate"]);
    let alone = exec(&told, &["--tls-cert", &own.text("own.pem")]);
    assert!(alone.status.code() == Some(2) && err(&alone).contains("--tls-key"), "{}", err(&alone));
}

#[test]
fn a_server_that_asks_for_a_certificate_is_shown_one() {
    let (own, clients) = (Authority::new(), Authority::new());
    for version in [&TLS12, &TLS13] {
        let streams = Streams::serve(&own, version, Some(&clients));
        let runtime = runtime(&streams.url, &[&own]);
        let shown = |authority: &Authority| [authority.text("own.pem"), authority.text("own.key")];
        let [certificate, key] = shown(&clients);
        succeeds(&runtime, &["--tls-cert", &certificate, "--tls-key", &key]);
        fails(&runtime, &[], &["does not take this client", "hint: ", "--tls-cert"]);
        let [certificate, key] = shown(&own);
        fails(&runtime, &["--tls-cert", &certificate, "--tls-key", &key], &["does not take this client"]);
        let [_, other] = shown(&clients);
        fails(&runtime, &["--tls-cert", &certificate, "--tls-key", &other], &["cannot use the certificates"]);
    }
}

#[test]
fn a_server_that_speaks_no_tls_is_told_apart() {
    let plain = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("https://{}/exec/token", plain.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        let (mut socket, _) = plain.accept().unwrap();
        std::io::Write::write_all(&mut socket, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        // Until the client has had enough.
        let _gone = std::io::copy(&mut socket, &mut std::io::sink());
    });
    let own = Authority::new();
    fails(&runtime(&url, &[&own]), &[], &["does not speak TLS as it should"]);
    serving.join().unwrap();
}
