//! From an HTTP request to a session: which protocol, which streams, which backend call.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming as Body;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Shared;
use crate::{
    backend::{BackendError, Process},
    command::{self, Client, ErrorForm, Greeting},
    outcome::Outcome,
    port_forward,
    socket::Presence,
    spdy,
    token::{Request as Target, Streams},
    websocket::{self, Closing, Encoding},
};

/// SPDY protocols for commands, the newest first. v1 is what a client without the header speaks.
const SPDY_COMMAND: [&str; 4] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"];
const SPDY_FORWARD: [&str; 1] = ["portforward.k8s.io"];
const PROTOCOL_HEADER: &str = "x-stream-protocol-version";
/// SPDY inside WebSocket messages, as apiservers and newer clients tunnel port-forwards.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// A protocol that both sides speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Upgrade {
    Spdy { protocol: Option<&'static str> },
    WebSocket { key: String, protocol: Option<&'static str>, encoding: Encoding },
    Tunnel { key: String },
}

/// Chooses a protocol.
pub(super) fn negotiate(verb: &str, headers: &HeaderMap) -> Result<Upgrade, &'static str> {
    let forward = match verb {
        "exec" | "attach" => false,
        "portforward" => true,
        _ => return Err("the path must begin with /exec, /attach or /portforward"),
    };
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if upgrade.eq_ignore_ascii_case("SPDY/3.1") {
        let known: &[&'static str] = if forward { &SPDY_FORWARD } else { &SPDY_COMMAND };
        let offered = offered(headers, PROTOCOL_HEADER);
        let protocol = known.iter().find(|known| offered.iter().any(|offer| offer == **known)).copied();
        if protocol.is_none() && !offered.is_empty() && !offered.iter().any(|offer| offer == "channel.k8s.io")
        {
            return Err("none of the offered stream protocols is spoken here");
        }
        return Ok(Upgrade::Spdy { protocol });
    }
    if !upgrade.eq_ignore_ascii_case("websocket") {
        return Err("an upgrade to SPDY/3.1 or websocket is required");
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|key| key.to_str().ok())
        .filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16))
        .ok_or("Sec-WebSocket-Key must be 16 bytes in base64")?
        .to_owned();
    let offered = offered(headers, header::SEC_WEBSOCKET_PROTOCOL.as_str());
    let speaks = |protocol: &str| offered.iter().any(|offer| offer == protocol);
    if forward && speaks(TUNNEL) {
        return Ok(Upgrade::Tunnel { key });
    }
    // Nobody but us ends the streams of a port-forward one by one; with exec, clients do not expect it of us.
    let closing = if forward { Closing::Both } else { Closing::Client };
    let (protocol, encoding) = [
        ("v5.channel.k8s.io", Encoding::Binary(closing)),
        ("v4.channel.k8s.io", Encoding::Binary(Closing::Nobody)),
        ("channel.k8s.io", Encoding::Binary(Closing::Nobody)),
        ("v4.base64.channel.k8s.io", Encoding::Base64),
        ("base64.channel.k8s.io", Encoding::Base64),
    ]
    .into_iter()
    .find(|(protocol, _)| speaks(protocol))
    .map_or((None, Encoding::Binary(Closing::Nobody)), |(protocol, encoding)| (Some(protocol), encoding));
    if protocol.is_none() && !offered.is_empty() {
        return Err("none of the offered websocket protocols is spoken here");
    }
    Ok(Upgrade::WebSocket { key, protocol, encoding })
}

/// The values of a header that may come several times and hold lists.
fn offered(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
        .collect()
}

impl Upgrade {
    /// The answer that switches protocols.
    pub(super) fn response(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        let accept_websocket = |headers: &mut HeaderMap, key: &str, protocol: Option<&'static str>| {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
                headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            }
            if let Some(protocol) = protocol {
                headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
            }
        };
        match self {
            Upgrade::Spdy { protocol } => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
                if let Some(protocol) = protocol {
                    headers.insert(PROTOCOL_HEADER, HeaderValue::from_static(protocol));
                }
            }
            Upgrade::WebSocket { key, protocol, .. } => accept_websocket(headers, key, *protocol),
            Upgrade::Tunnel { key } => accept_websocket(headers, key, Some(TUNNEL)),
        }
        response
    }
}

/// Waits for the switch and runs the session to its end.
pub(super) async fn session(
    request: Request<Body>,
    upgrade: Upgrade,
    target: Target,
    presence: Presence,
    shared: Arc<Shared>,
) {
    let limit = shared.config.idle_timeout;
    let io = match hyper::upgrade::on(request).await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a streaming client went before its session"
            );
            return;
        }
    };
    let creation = shared.config.creation_timeout;
    let backend = Arc::clone(&shared.backend);
    let watched = presence.clone();
    let running = async {
        match (upgrade, target) {
            (Upgrade::Spdy { .. }, Target::PortForward { pod, .. }) => {
                port_forward::over_spdy(spdy::accept(io, presence), backend, pod, creation).await;
            }
            (Upgrade::Tunnel { .. }, Target::PortForward { pod, .. }) => {
                let (tunnel, carrier) = websocket::tunnel(io).await;
                port_forward::over_spdy(spdy::accept(tunnel, presence), backend, pod, creation).await;
                drop(carrier);
            }
            (Upgrade::WebSocket { encoding, .. }, Target::PortForward { pod, ports }) => {
                port_forward::over_websocket(io, presence, encoding, backend, pod, ports).await;
            }
            (Upgrade::Spdy { protocol }, target) => {
                command_over_spdy(spdy::accept(io, presence), protocol, target, &shared, creation).await;
            }
            (Upgrade::WebSocket { encoding, .. }, target) => {
                command_over_websocket(io, presence, encoding, target, &shared).await;
            }
            (Upgrade::Tunnel { .. }, Target::Exec(_) | Target::Attach(_)) => {}
        }
    };
    tokio::select! {
        () = running => {}
        () = watched.idle(limit) => {
            tracing::info!(limit_s = limit.as_secs(), "a streaming session was idle for too long");
        }
    }
}

fn streams(target: &Target) -> Option<Streams> {
    match target {
        Target::Exec(target) => Some(target.streams),
        Target::Attach(target) => Some(target.streams),
        Target::PortForward { .. } => None,
    }
}

async fn open(target: Target, shared: &Shared) -> Result<Process, BackendError> {
    match target {
        Target::Exec(target) => shared.backend.exec(target).await,
        Target::Attach(target) => shared.backend.attach(target).await,
        Target::PortForward { .. } => Err("a port-forward is no command".into()),
    }
}

/// Opens the process and runs the session, or tells the client why not.
async fn run(client: Client, target: Target, shared: &Shared) {
    match open(target, shared).await {
        Ok(process) => {
            client.greet().await;
            command::run(client, process).await;
        }
        Err(error) => {
            command::tell(&client.error, client.error_form, &Outcome::Failed(error.to_string())).await;
            for stream in
                [Some(&client.error), client.stdout.as_ref(), client.stderr.as_ref()].into_iter().flatten()
            {
                let _gone = stream.end().await;
            }
        }
    }
}

async fn command_over_spdy(
    mut connection: spdy::Connection,
    protocol: Option<&'static str>,
    target: Target,
    shared: &Shared,
    creation: Duration,
) {
    let Some(wanted) = streams(&target) else { return };
    let resize = wanted.tty
        && matches!(protocol, Some("v3.channel.k8s.io" | "v4.channel.k8s.io" | "v5.channel.k8s.io"));
    let form = match protocol {
        Some("v4.channel.k8s.io" | "v5.channel.k8s.io") => ErrorForm::Status,
        _ => ErrorForm::Text,
    };
    let opened = tokio::time::timeout(creation, spdy_client(&mut connection, wanted, resize, form)).await;
    let Ok(Some(client)) = opened else {
        tracing::debug!("a streaming client did not open its streams in time");
        return;
    };
    let running = run(client, target, shared);
    tokio::select! {
        () = running => connection.close().await,
        () = connection.gone() => {}
    }
}

/// Collects the streams that the client must open. `None` if it goes first.
async fn spdy_client(
    connection: &mut spdy::Connection,
    wanted: Streams,
    resize: bool,
    error_form: ErrorForm,
) -> Option<Client> {
    let (mut stdin, mut stdout, mut stderr, mut error, mut sizes) = (None, None, None, None, None);
    let stderr_wanted = wanted.stderr && !wanted.tty;
    let complete = |stdin: bool, stdout: bool, stderr: bool, error: bool, sizes: bool| {
        error
            && (stdin || !wanted.stdin)
            && (stdout || !wanted.stdout)
            && (stderr || !stderr_wanted)
            && (sizes || !resize)
    };
    while !complete(stdin.is_some(), stdout.is_some(), stderr.is_some(), error.is_some(), sizes.is_some()) {
        let stream = connection.next().await?;
        let place = stream.header("streamtype").unwrap_or_default().to_owned();
        let taken = match place.as_str() {
            "stdin" => stdin.is_some() || !wanted.stdin,
            "stdout" => stdout.is_some() || !wanted.stdout,
            "stderr" => stderr.is_some() || !stderr_wanted,
            "error" => error.is_some(),
            "resize" => sizes.is_some() || !resize,
            _ => true,
        };
        if taken {
            stream.refuse().await;
            continue;
        }
        stream.accept().await;
        match place.as_str() {
            "stdin" => stdin = Some(stream.incoming),
            "stdout" => stdout = Some(stream.outgoing),
            "stderr" => stderr = Some(stream.outgoing),
            "resize" => sizes = Some(stream.incoming),
            _ => error = Some(stream.outgoing),
        }
    }
    let greeting = Greeting::None;
    Some(Client { stdin, stdout, stderr, resize: sizes, error: error?, error_form, greeting })
}

async fn command_over_websocket(
    io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    presence: Presence,
    encoding: Encoding,
    target: Target,
    shared: &Shared,
) {
    const STDIN: u8 = 0;
    const STDOUT: u8 = 1;
    const STDERR: u8 = 2;
    const ERROR: u8 = 3;
    const RESIZE: u8 = 4;
    let Some(wanted) = streams(&target) else { return };
    let mut inward = Vec::new();
    if wanted.stdin {
        inward.push(STDIN);
    }
    if wanted.tty {
        inward.push(RESIZE);
    }
    let mut connection = websocket::accept(io, presence, encoding, &inward).await;
    let client = Client {
        stdin: connection.take(STDIN),
        stdout: wanted.stdout.then(|| connection.outgoing(STDOUT)),
        stderr: (wanted.stderr && !wanted.tty).then(|| connection.outgoing(STDERR)),
        resize: connection.take(RESIZE),
        error: connection.outgoing(ERROR),
        error_form: ErrorForm::Status,
        greeting: Greeting::Expected,
    };
    let running = run(client, target, shared);
    tokio::select! {
        () = running => connection.close().await,
        () = connection.gone() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_newest_common_protocol_is_taken() {
        let offered =
            headers(&[("upgrade", "SPDY/3.1"), (PROTOCOL_HEADER, "v3.channel.k8s.io, v4.channel.k8s.io")]);
        assert_eq!(negotiate("exec", &offered), Ok(Upgrade::Spdy { protocol: Some("v4.channel.k8s.io") }));
        let old = headers(&[("upgrade", "spdy/3.1")]);
        assert_eq!(negotiate("attach", &old), Ok(Upgrade::Spdy { protocol: None }));
        let key = "AAAAAAAAAAAAAAAAAAAAAA==";
        let websocket = headers(&[
            ("upgrade", "websocket"),
            ("sec-websocket-key", key),
            ("sec-websocket-protocol", "v4.base64.channel.k8s.io"),
        ]);
        let upgrade = negotiate("exec", &websocket).unwrap();
        assert_eq!(upgrade.response().headers()["sec-websocket-protocol"], "v4.base64.channel.k8s.io");
        assert!(matches!(upgrade, Upgrade::WebSocket { encoding: Encoding::Base64, .. }));
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        for (verb, pairs) in [
            ("exec", &[][..]),
            ("shell", &[("upgrade", "SPDY/3.1")]),
            ("exec", &[("upgrade", "h2c")]),
            ("exec", &[("upgrade", "SPDY/3.1"), (PROTOCOL_HEADER, "v9.channel.k8s.io")]),
            ("exec", &[("upgrade", "websocket")]),
            ("exec", &[("upgrade", "websocket"), ("sec-websocket-key", "short")]),
            (
                "portforward",
                &[
                    ("upgrade", "websocket"),
                    ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
                    ("sec-websocket-protocol", "v9.channel.k8s.io"),
                ],
            ),
        ] {
            assert!(negotiate(verb, &headers(pairs)).is_err(), "{verb} {pairs:?}");
        }
    }
}
