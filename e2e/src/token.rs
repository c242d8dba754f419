//! A token service for the real registry: checks a password, signs a bearer token.
//!
//! ```text
//! client ── GET /v2/… ──► registry ── 401, WWW-Authenticate: Bearer realm=…/token,service=…,scope=… ──► client
//! client ── GET /token?service&scope, Basic user:password ──► here ── { "token": JWT signed RS256 } ──► client
//! client ── GET /v2/…, Bearer JWT ──► registry (checks the signature by our certificate)
//! ```

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use crate::certificates::openssl;
use crate::http::{Reply, Request, Server};
use crate::registry::{PASSWORD, USER};

const SERVICE: &str = "carpel-e2e registry";
const ISSUER: &str = "carpel-e2e tokens";

/// The running service.
#[derive(Debug)]
pub struct TokenServer {
    server: Server,
    folder: tempfile::TempDir,
}

impl TokenServer {
    /// Makes a key and starts.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("carpel-e2e-token").tempdir().expect("temporary folder");
        openssl(
            folder.path(),
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tokens -keyout token.key -out token.crt",
        );
        let der = openssl(folder.path(), "x509 -in token.crt -outform DER");
        let (key, certificate) = (folder.path().join("token.key"), STANDARD.encode(der));
        let server = Server::start(move |request| answer(request, &key, &certificate));
        Self { server, folder }
    }

    /// The `auth` part of the registry's config.
    pub fn registry_config(&self) -> String {
        format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: {SERVICE}\n    issuer: {ISSUER}\n    \
             rootcertbundle: {}/token.crt\n",
            self.server.address(),
            self.folder.path().display()
        )
    }
}

fn answer(request: &Request, key: &Path, certificate: &str) -> Reply {
    let expected = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    if request.headers.get("authorization") != Some(&expected) {
        return Reply::new(401, "application/json", r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#);
    }
    // scope=repository:NAME:pull,push, percent-encoded by some clients.
    let scopes = request.query.split('&').filter_map(|pair| pair.strip_prefix("scope=")).map(decode);
    let access: Vec<_> = scopes
        .filter_map(|scope| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            Some(json!({ "type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>() }))
        })
        .collect();
    let token = sign(&json!(access), key, certificate);
    Reply::new(200, "application/json", json!({ "token": token, "expires_in": 300 }).to_string())
}

fn sign(access: &serde_json::Value, key: &Path, certificate: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [certificate] });
    let claims = json!({
        "iss": ISSUER, "sub": USER, "aud": SERVICE, "jti": format!("{now}"), "access": access,
        "iat": now - 10, "nbf": now - 10, "exp": now + 300,
    });
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    child.stdin.take().expect("piped").write_all(signed.as_bytes()).expect("openssl reads");
    let output = child.wait_with_output().expect("openssl ends");
    assert!(output.status.success(), "openssl signs");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(output.stdout))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        bytes.push(match byte {
            b'%' => u8::try_from(digit().unwrap_or(0) * 16 + digit().unwrap_or(0)).unwrap_or(b'?'),
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
