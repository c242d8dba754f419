//! Sessions whose clients go away in every phase leave nothing: no descriptor, thread, process or byte.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use carpel_e2e::client::eventually;
use carpel_e2e::kernel::{processes, status_field};
use carpel_proto::v1;
use rustix::net::sockopt::set_socket_linger;

use super::{Daemon, Pod, exec_url, forward_url, go_client, server_pod, with_sleeper};

/// When a client goes.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// It never comes.
    TokenUnused,
    /// It connects and says nothing.
    Connected,
    /// In the middle of its request.
    HalfRequest,
    /// After the switch to SPDY, before it opens a stream.
    SpdyWithoutStreams,
    /// In the middle of a SPDY frame.
    SpdyHalfFrame,
    /// A frame that is none.
    SpdyNonsense,
    /// While its command is being started.
    Starting,
    /// Its command reads its input.
    Reading,
    /// Its command reads nothing, and its input waits.
    Unread,
    /// Its command writes for ever, and nobody reads; the connection is reset.
    Flooded,
    /// It has ended its direction and waits no longer.
    HalfClosed,
    /// Connections into the pod are open.
    Forwarding,
    /// It is attached to a container that says nothing.
    Attached,
    /// Its command, which has a terminal, cannot be executed.
    Absent,
}

const PHASES: [Phase; 14] = [
    Phase::TokenUnused,
    Phase::Connected,
    Phase::HalfRequest,
    Phase::SpdyWithoutStreams,
    Phase::SpdyHalfFrame,
    Phase::SpdyNonsense,
    Phase::Starting,
    Phase::Reading,
    Phase::Unread,
    Phase::Flooded,
    Phase::HalfClosed,
    Phase::Forwarding,
    Phase::Attached,
    Phase::Absent,
];

/// Sessions at the same time.
const AT_ONCE: usize = 16;

/// What the daemon and the container's processes hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    shim_descriptors: usize,
    processes: usize,
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn held(daemon: &Daemon, id: &str) -> Held {
    Held {
        descriptors: descriptors(daemon.pid()),
        threads: status_field(daemon.pid(), "Threads").parse().unwrap(),
        shim_descriptors: daemon.shims().into_iter().map(descriptors).sum(),
        processes: processes(id).len(),
    }
}

fn rss_kib(daemon: &Daemon) -> u64 {
    status_field(daemon.pid(), "VmRSS").split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
#[allow(clippy::print_stderr, reason = "figures for whoever asked for many sessions")]
fn abandoned_sessions_leave_nothing() {
    let sessions: usize =
        std::env::var("CARPEL_ABANDONED_SESSIONS").map_or(300, |text| text.parse().unwrap());
    with_sleeper(async |daemon, _, id| {
        let server = server_pod(daemon, "cat").await;
        // Everything has been in use once before it is counted.
        abandon(daemon, &server, id, 2 * PHASES.len()).await;
        settle(daemon, id, None).await;
        let (before, rss_before) = (held(daemon, id), rss_kib(daemon));
        abandon(daemon, &server, id, sessions).await;
        kill_go_clients(daemon, id).await;
        settle(daemon, id, Some(before)).await;
        let rss = rss_kib(daemon);
        eprintln!(
            "{sessions} sessions: {before:?} before, {:?} after; RSS {rss_before} KiB, {rss} KiB",
            held(daemon, id)
        );
        assert!(rss < rss_before + (24 << 10), "the daemon grew from {rss_before} to {rss} KiB");
        assert_eq!(daemon.client.exec(id, &["echo", "alive"]).await.stdout, "alive\n");
    });
}

/// Waits until nothing is held that was not before, and no process is in the container but its own.
async fn settle(daemon: &Daemon, id: &str, before: Option<Held>) {
    let mut last = held(daemon, id);
    eventually(&format!("everything was let go: {before:?} before"), async || {
        let now = held(daemon, id);
        if now != last {
            last = now;
            return None;
        }
        let fits = before.is_none_or(|before| {
            now.descriptors <= before.descriptors
                && now.threads <= before.threads + 8
                && now.shim_descriptors <= before.shim_descriptors
        });
        (now.processes == 1 && fits).then_some(())
    })
    .await;
}

async fn abandon(daemon: &Daemon, server: &Pod, id: &str, sessions: usize) {
    let mut unused = 0;
    // For those who never get so far as to use theirs.
    let nobodys = exec_url(daemon, id, &["cat"], true, false).await;
    for chunk in (0..sessions).collect::<Vec<_>>().chunks(AT_ONCE) {
        let mut threads = Vec::new();
        for number in chunk {
            let phase = PHASES[number % PHASES.len()];
            let url = match phase {
                // No more than a tenth of those that may wait at a time: the rest of the test needs tokens too.
                Phase::TokenUnused if unused >= 100 => continue,
                Phase::Connected | Phase::HalfRequest => nobodys.clone(),
                Phase::Forwarding => forward_url(daemon, server).await,
                Phase::Starting | Phase::Unread => {
                    exec_url(daemon, id, &["sleep", "1000"], true, false).await
                }
                Phase::Flooded => exec_url(daemon, id, &["yes"], false, false).await,
                Phase::Attached => attach_url(daemon, id).await,
                Phase::Absent => exec_url(daemon, id, &["/absent"], true, true).await,
                _ => exec_url(daemon, id, &["cat"], true, false).await,
            };
            unused += usize::from(matches!(phase, Phase::TokenUnused));
            threads.push(std::thread::spawn(move || client(phase, &url)));
        }
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

async fn attach_url(daemon: &Daemon, id: &str) -> String {
    let container_id = id.to_owned();
    let request = v1::AttachRequest { container_id, stdin: false, tty: false, stdout: true, stderr: true };
    daemon.client.runtime.clone().attach(request).await.unwrap().into_inner().url
}

fn client(phase: Phase, url: &str) {
    let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    if matches!(phase, Phase::TokenUnused) {
        return;
    }
    let mut socket = TcpStream::connect(authority).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!("GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n");
    let spdy = format!("{head}Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n");
    let websocket = format!(
        "{head}Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    );
    match phase {
        Phase::TokenUnused | Phase::Connected => {}
        Phase::HalfRequest => socket.write_all(head.as_bytes()).unwrap(),
        Phase::SpdyWithoutStreams => switched(&mut socket, &spdy),
        Phase::SpdyHalfFrame => {
            switched(&mut socket, &spdy);
            socket.write_all(&[0x80, 3, 0, 1, 0, 0, 1, 0, 0, 0]).unwrap();
        }
        Phase::SpdyNonsense => {
            switched(&mut socket, &spdy);
            // A stream whose headers do not inflate.
            socket
                .write_all(&[0x80, 3, 0, 1, 0, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9])
                .unwrap();
        }
        Phase::Absent | Phase::Starting => switched(&mut socket, &websocket),
        Phase::Attached => {
            switched(&mut socket, &websocket);
            socket.read_exact(&mut [0; 3]).unwrap();
        }
        Phase::Reading => {
            switched(&mut socket, &websocket);
            message(&mut socket, &[b"\0", &[b'x'; 100][..]].concat());
            // Its command has answered: it runs.
            socket.read_exact(&mut [0; 8]).unwrap();
        }
        Phase::Unread => {
            switched(&mut socket, &websocket);
            socket.read_exact(&mut [0; 3]).unwrap();
            for _ in 0..100 {
                message(&mut socket, &[b"\0", &[b'x'; 120][..]].concat());
            }
        }
        Phase::Flooded => {
            switched(&mut socket, &websocket);
            socket.read_exact(&mut [0; 1000]).unwrap();
            set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
        }
        Phase::HalfClosed => {
            switched(&mut socket, &websocket);
            socket.shutdown(Shutdown::Write).unwrap();
        }
        Phase::Forwarding => {
            switched(&mut socket, &websocket);
            message(&mut socket, b"\0hello");
            socket.read_exact(&mut [0; 5]).unwrap();
        }
    }
}

/// Sends the request and reads the answer's head.
fn switched(socket: &mut TcpStream, request: &str) {
    socket.write_all(request.as_bytes()).unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
}

/// A binary message of less than 126 bytes (RFC 6455, section 5.2), masked by zero, which changes nothing.
fn message(socket: &mut TcpStream, content: &[u8]) {
    let length = u8::try_from(content.len()).unwrap();
    assert!(length < 126);
    socket.write_all(&[&[0x82, 0x80 | length, 0, 0, 0, 0], content].concat()).unwrap();
}

/// Real SPDY clients, killed in the middle of a session.
async fn kill_go_clients(daemon: &Daemon, id: &str) {
    for command in [&["cat"][..], &["sleep", "1000"], &["yes"]] {
        let mut clients = Vec::new();
        for _ in 0..4 {
            let url = exec_url(daemon, id, command, true, false).await;
            let mut client = std::process::Command::new(go_client());
            client.args(["command", "spdy", &url, "-i"]);
            client.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
            clients.push(client.spawn().unwrap());
        }
        eventually("their commands run", async || (processes(id).len() > 4).then_some(())).await;
        for mut client in clients {
            client.kill().unwrap();
            client.wait().unwrap();
        }
    }
}
