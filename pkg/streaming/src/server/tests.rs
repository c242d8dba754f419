use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use super::*;
use crate::{Answer, Process, Streams, spdy::testing::Client as SpdyClient};

/// Commands that do what their name says, and count how many of them there are.
#[derive(Default)]
struct Commands {
    running: Arc<AtomicUsize>,
    /// Where port-forwards lead.
    target: Option<SocketAddr>,
}

struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(running: &Arc<AtomicUsize>) -> Self {
        running.fetch_add(1, Ordering::SeqCst);
        Counted(Arc::clone(running))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

type Exit = Pin<Box<dyn Future<Output = Result<i32, crate::BackendError>> + Send>>;

impl Backend for Commands {
    fn exec(&self, target: ExecTarget) -> Answer<'_, Process> {
        let counted = Counted::new(&self.running);
        let (ours, stdin) = tokio::io::duplex(1024);
        let exit: Exit = match target.command[0].as_str() {
            // Never reads its input, never ends.
            "sleep" => Box::pin(async move {
                let _kept = (counted, ours);
                std::future::pending().await
            }),
            // Ends at once, whatever its input.
            "seven" => Box::pin(async move {
                drop((counted, ours));
                Ok(7)
            }),
            other => panic!("no such command: {other}"),
        };
        Box::pin(async move {
            Ok(Process { stdin: Some(Box::new(stdin)), stdout: None, stderr: None, terminal: None, exit })
        })
    }

    fn attach(&self, _target: AttachTarget) -> Answer<'_, Process> {
        Box::pin(async { Err("no attach here".into()) })
    }

    fn connect(&self, _pod: String, _port: u16) -> Answer<'_, TcpStream> {
        let target = self.target.expect("this test forwards");
        Box::pin(async move { Ok(TcpStream::connect(target).await?) })
    }
}

async fn server(config: Config, backend: Commands) -> (Server, Arc<AtomicUsize>) {
    let running = Arc::clone(&backend.running);
    (Server::open(config, Arc::new(backend)).await.unwrap(), running)
}

fn exec(server: &Server, command: &str) -> String {
    let streams = Streams { stdin: true, stdout: false, stderr: false, tty: false };
    let command = vec![command.to_owned()];
    server.exec(ExecTarget { container: "c".into(), command, streams }).unwrap()
}

fn authority(url: &str) -> &str {
    url.split('/').nth(2).unwrap()
}

async fn websocket(url: &str, protocol: &'static str) -> WebSocketStream<TcpStream> {
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(protocol));
    let socket = TcpStream::connect(authority(url)).await.unwrap();
    client_async(request, socket).await.unwrap().0
}

async fn spdy(url: &str, protocol: &str) -> SpdyClient<TcpStream> {
    let mut socket = TcpStream::connect(authority(url)).await.unwrap();
    let path = url.splitn(4, '/').nth(3).unwrap();
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {protocol}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    SpdyClient::new(socket)
}

async fn until_none(running: &AtomicUsize) {
    while running.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_one(running: &AtomicUsize) {
    while running.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_is_noticed_behind_input_that_nobody_reads() {
    let (server, running) = server(Config::default(), Commands::default()).await;
    let mut client = websocket(&exec(&server, "sleep"), "v5.channel.k8s.io").await;
    // More than the command takes, and than waits for it; less than the kernel does.
    for _ in 0..40 {
        client.send(Message::Binary([&[0][..], &[7; 1000]].concat().into())).await.unwrap();
    }
    until_one(&running).await;
    drop(client);
    until_none(&running).await;

    let mut client = spdy(&exec(&server, "sleep"), "v4.channel.k8s.io").await;
    for (stream, kind) in [(1, "error"), (3, "stdin")] {
        client.open(stream, kind).await;
        client.head().await;
    }
    for _ in 0..40 {
        client.data(3, &[7; 1000], false).await;
    }
    until_one(&running).await;
    drop(client);
    until_none(&running).await;
}

#[tokio::test]
async fn streams_that_nobody_wants_are_refused_while_the_command_runs() {
    let (server, running) = server(Config::default(), Commands::default()).await;
    let mut client = spdy(&exec(&server, "sleep"), "v4.channel.k8s.io").await;
    for (stream, kind) in [(1, "error"), (3, "stdin")] {
        client.open(stream, kind).await;
        client.head().await;
    }
    until_one(&running).await;
    // More than wait anywhere.
    for number in 0..100 {
        client.open(5 + 2 * number, "stdin").await;
        assert_eq!(client.head().await[..4], [0x80, 3, 0, 3]);
    }
    drop(client);
    until_none(&running).await;
}

#[tokio::test]
async fn an_exit_code_survives_input_that_nobody_read() {
    let (server, _running) = server(Config::default(), Commands::default()).await;
    for _ in 0..20 {
        let mut client = websocket(&exec(&server, "seven"), "v5.channel.k8s.io").await;
        for _ in 0..100 {
            // The farewell may be there already.
            if client.send(Message::Binary([&[0][..], &[7; 10_000]].concat().into())).await.is_err() {
                break;
            }
        }
        let mut status = String::new();
        while let Some(Ok(message)) = client.next().await {
            match message {
                Message::Binary(content) if content.len() > 1 && content[0] == 3 => {
                    status = String::from_utf8_lossy(&content[1..]).into_owned();
                }
                _ => {}
            }
        }
        assert!(status.contains("exit status 7"), "{status:?}");
    }
}

#[tokio::test]
async fn a_session_without_traffic_is_ended_and_one_with_traffic_is_not() {
    let idle_timeout = Duration::from_millis(400);
    let config = Config { idle_timeout, ..Config::default() };
    let (server, running) = server(config, Commands::default()).await;
    let mut client = websocket(&exec(&server, "sleep"), "v5.channel.k8s.io").await;
    until_one(&running).await;
    // Longer than the limit in all.
    for _ in 0..20 {
        client.send(Message::Ping(Bytes::new())).await.unwrap();
        tokio::time::sleep(idle_timeout / 8).await;
    }
    assert_eq!(running.load(Ordering::SeqCst), 1);
    until_none(&running).await;
}

#[tokio::test]
async fn a_client_that_opens_no_streams_or_sends_no_request_is_ended() {
    let creation_timeout = Duration::from_millis(200);
    let config = Config { creation_timeout, ..Config::default() };
    let (server, _running) = server(config, Commands::default()).await;
    let url = exec(&server, "sleep");
    let mut silent = TcpStream::connect(authority(&url)).await.unwrap();
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).await.unwrap();
    let mut idle = spdy(&url, "v4.channel.k8s.io").await;
    idle.io.read_to_end(&mut answer).await.unwrap();
}

/// Waits until the server has ended a connection on which it may have answered.
async fn until_ended(socket: &mut TcpStream) {
    // Unread bytes on its side make the end a reset.
    let _reset = socket.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn a_place_comes_back_from_clients_that_take_their_time() {
    let creation_timeout = Duration::from_millis(200);
    let config = Config { creation_timeout, connections_max: 1, ..Config::default() };
    let (server, running) = server(config, Commands::default()).await;
    let connect = async || TcpStream::connect(authority(&server.shared.base)).await.unwrap();
    // Byte by byte, for ever: each is traffic.
    let mut dribbling = connect().await;
    for byte in b"GET / HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
        if dribbling.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // One request after the other, and none that leads to a session.
    let mut asking = connect().await;
    while asking.write_all(b"GET /exec/none HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut idle = spdy(&exec(&server, "sleep"), "v4.channel.k8s.io").await;
    until_ended(&mut idle.io).await;
    let _client = websocket(&exec(&server, "sleep"), "v5.channel.k8s.io").await;
    until_one(&running).await;
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-keyout", "key", "-out", "certificate"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let tls = TlsFiles { certificate: folder.path().join("certificate"), key: folder.path().join("key") };
    let creation_timeout = Duration::from_millis(200);
    let config = Config { creation_timeout, tls: Some(tls), ..Config::default() };
    let (server, _running) = server(config, Commands::default()).await;
    for beginning in [&b""[..], &[0x16, 3, 1, 2, 0, 1]] {
        let mut silent = TcpStream::connect(authority(&server.shared.base)).await.unwrap();
        silent.write_all(beginning).await.unwrap();
        until_ended(&mut silent).await;
    }
}

/// A port that answers each connection with what it was sent, once all of it is there.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut all = Vec::new();
            socket.read_to_end(&mut all).await.unwrap();
            socket.write_all(&all).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn ports_are_forwarded_over_channels_and_half_closed() {
    let backend = Commands { target: Some(echo().await), ..Commands::default() };
    let (server, _running) = server(Config::default(), backend).await;
    let url = server.port_forward("p".into(), vec![80, 443]).unwrap();
    let mut client = websocket(&url, "v5.channel.k8s.io").await;
    let mut data = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    for (channel, text) in [(0u8, "one"), (2, "two")] {
        client.send(Message::Binary([&[channel], text.as_bytes()].concat().into())).await.unwrap();
        client.send(Message::Binary(vec![255, channel].into())).await.unwrap();
    }
    let mut ended = Vec::new();
    while let Some(Ok(message)) = client.next().await {
        if let Message::Binary(content) = message {
            match content[0] {
                255 => ended.push(content[1]),
                channel => data[usize::from(channel)].extend_from_slice(&content[1..]),
            }
        }
    }
    ended.sort_unstable();
    assert_eq!(data, [&b"\x50\0one"[..], b"\x50\0", b"\xbb\x01two", b"\xbb\x01"]);
    assert!(ended.contains(&0) && ended.contains(&2), "{ended:?}");
}

#[tokio::test]
async fn a_stream_that_the_client_breaks_off_ends_its_connection_and_no_other() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Commands { target: Some(listener.local_addr().unwrap()), ..Commands::default() };
    let (server, _running) = server(Config::default(), backend).await;
    let mut client = spdy(&server.port_forward("p".into(), Vec::new()).unwrap(), "portforward.k8s.io").await;
    let mut sockets = Vec::new();
    for number in [0u32, 1] {
        let id = number.to_string();
        for (stream, kind) in [(1, "error"), (3, "data")] {
            let headers = [("streamtype", kind), ("port", "80"), ("requestid", &id)];
            client.open_with(number * 4 + stream, &headers).await;
            client.head().await;
        }
        sockets.push(listener.accept().await.unwrap().0);
    }
    client.data(3, b"", true).await;
    client.io.write_all(&crate::spdy::testing::reset(3)).await.unwrap();
    // The far side writes without end: only an error makes it stop.
    while sockets[0].write_all(&[7; 1000]).await.is_ok() {}
    sockets[1].write_all(b"x").await.unwrap();
    loop {
        if client.head().await[..4] == [0, 0, 0, 7] {
            break;
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_leaves_no_connection_to_a_silent_pod() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Commands { target: Some(listener.local_addr().unwrap()), ..Commands::default() };
    let (server, _running) = server(Config::default(), backend).await;
    let mut client = spdy(&server.port_forward("p".into(), Vec::new()).unwrap(), "portforward.k8s.io").await;
    // A pair, and half of another.
    for (stream, kind, id) in [(1, "error", "0"), (3, "data", "0"), (5, "error", "1")] {
        client.open_with(stream, &[("streamtype", kind), ("port", "80"), ("requestid", id)]).await;
        client.head().await;
    }
    let (mut silent, _) = listener.accept().await.unwrap();
    drop(client);
    let mut byte = [0];
    assert_eq!(silent.read(&mut byte).await.unwrap_or(0), 0);
    // Not only half of it has ended: writing fails in the end.
    while silent.write_all(&byte).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn streams_that_make_no_pair_are_broken_off() {
    let backend = Commands { target: Some(echo().await), ..Commands::default() };
    let (server, _running) = server(Config::default(), backend).await;
    let mut client = spdy(&server.port_forward("p".into(), Vec::new()).unwrap(), "portforward.k8s.io").await;
    for (number, kinds, port) in
        [(0, ["error", "error"], "80"), (1, ["error", "data"], "0"), (2, ["data", "error"], "x")]
    {
        let id = number.to_string();
        for (half, kind) in (0u32..).zip(kinds) {
            let headers = [("streamtype", kind), ("port", port), ("requestid", &id)];
            client.open_with(number * 4 + half * 2 + 1, &headers).await;
            assert_eq!(client.head().await[..4], [0x80, 3, 0, 2], "accepted");
        }
        for _ in kinds {
            assert_eq!(client.head().await[..4], [0x80, 3, 0, 3], "and broken off: {kinds:?} of port {port}");
        }
    }
}

#[tokio::test]
async fn half_a_pair_is_broken_off_in_time() {
    let creation_timeout = Duration::from_millis(100);
    let config = Config { creation_timeout, ..Config::default() };
    let backend = Commands { target: Some(echo().await), ..Commands::default() };
    let (server, _running) = server(config, backend).await;
    let mut client = spdy(&server.port_forward("p".into(), Vec::new()).unwrap(), "portforward.k8s.io").await;
    client.open_with(1, &[("streamtype", "error"), ("port", "80"), ("requestid", "0")]).await;
    assert_eq!(client.head().await[..4], [0x80, 3, 0, 2], "accepted");
    assert_eq!(client.head().await[..4], [0x80, 3, 0, 3], "and broken off");
}

#[tokio::test]
async fn beyond_loopback_it_wants_tls_or_leave() {
    let address = SocketAddr::from(([0, 0, 0, 0], 0));
    let open = async |config| Server::open(config, Arc::new(Commands::default())).await;
    let refused = open(Config { address, ..Config::default() }).await.unwrap_err();
    assert!(matches!(refused, OpenError::Exposed(_)), "{refused}");
    let allowed = open(Config { address, plain_beyond_loopback: true, ..Config::default() }).await.unwrap();
    let url = allowed.port_forward("p".into(), Vec::new()).unwrap();
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    let files = TlsFiles { certificate: "/no/such.pem".into(), key: "/no/such.key".into() };
    let refused = open(Config { address, tls: Some(files), ..Config::default() }).await.unwrap_err();
    assert!(matches!(refused, OpenError::Tls(TlsError::File { .. })), "{refused}");
}
