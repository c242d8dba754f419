//! The streaming server against Kubernetes' own clients, against clients that go away, and with many bytes.
//!
//! `CARPEL_ABANDONED_SESSIONS` and `CARPEL_STREAMED_MIB` make the long tests longer than a test run should be.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

#[path = "streaming/abandoned.rs"]
mod abandoned;
#[path = "streaming/tls.rs"]
mod tls;

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use carpel_e2e::client::{PATIENCE, Pod, eventually};
use carpel_e2e::config::container;
use carpel_e2e::crictl::CommandLine;
use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::kernel::{run, status_field};
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_proto::v1;
use sha2::{Digest as _, Sha256};

/// Runs the steps with a container that sleeps.
fn with_sleeper(steps: impl AsyncFnOnce(&mut Daemon, &Pod, &str)) {
    with_sleeper_of(Options::default(), steps);
}

/// [`with_sleeper`] of a daemon that is set up so.
fn with_sleeper_of(options: Options, steps: impl AsyncFnOnce(&mut Daemon, &Pod, &str)) {
    scenario::run(options, async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("streams")).await;
        let id = daemon.client.launch(&pod, container("sleeper", BUSYBOX, &["sleep", "100000"])).await;
        steps(daemon, &pod, &id).await;
    });
}

/// Kubernetes' client, as `hack/stream-client` builds it.
fn go_client() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/stream-client");
        let output = run(&script.to_string_lossy(), &[]);
        PathBuf::from(String::from_utf8(output.stdout).unwrap().lines().last().unwrap())
    })
}

async fn exec_url(daemon: &Daemon, id: &str, command: &[&str], stdin: bool, tty: bool) -> String {
    let request = v1::ExecRequest {
        container_id: id.to_owned(),
        cmd: command.iter().map(ToString::to_string).collect(),
        tty,
        stdin,
        stdout: true,
        stderr: !tty,
    };
    daemon.client.runtime.clone().exec(request).await.unwrap().into_inner().url
}

/// To all streams of a container, with our input.
async fn attach_url(daemon: &Daemon, id: &str, tty: bool) -> String {
    let request =
        v1::AttachRequest { container_id: id.to_owned(), stdin: true, tty, stdout: true, stderr: !tty };
    daemon.client.runtime.clone().attach(request).await.unwrap().into_inner().url
}

#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Runs a program with this input and keeps everything of it.
fn ran(command: &mut Command, input: Option<&[u8]>) -> Ran {
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let feeding = child.stdin.take().zip(input.map(<[u8]>::to_vec)).map(|(mut stdin, input)| {
        // A program that does not read all of it is no failure here.
        std::thread::spawn(move || stdin.write_all(&input).is_ok())
    });
    let output = child.wait_with_output().unwrap();
    if let Some(feeding) = feeding {
        feeding.join().unwrap();
    }
    use std::os::unix::process::ExitStatusExt;
    let code = output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal));
    Ran { code, stdout: output.stdout, stderr: output.stderr }
}

/// Bytes of every value, in no order that repeats soon.
fn noise(length: usize) -> Vec<u8> {
    (0..u32::try_from(length).unwrap()).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn commands_do_what_they_do_here_whatever_the_client() {
    with_sleeper(async |daemon, _, id| {
        let carpel = CommandLine::carpel(&daemon.socket());
        let megabyte = noise(1 << 20);
        let cases: [(&str, Option<&[u8]>); 11] = [
            ("echo out; echo err >&2", None),
            ("exit 42", None),
            ("exit 255", None),
            ("kill -9 $$", None),
            ("printf '\\000\\377\\n\\r'; printf '\\200' >&2", None),
            ("read x; echo $?", None),
            ("cat", Some(b"")),
            ("cat", Some(&megabyte)),
            ("sha256sum; sha256sum >&2; exit 3", Some(&megabyte)),
            ("head -c 10; exit 9", Some(&megabyte)),
            (
                "dd if=/dev/zero bs=4096 count=800 2>/dev/null & dd if=/dev/zero bs=4096 count=700 2>/dev/null >&2; wait",
                None,
            ),
        ];
        for (script, input) in cases {
            let here = ran(Command::new("busybox").args(["sh", "-c", script]), input);
            for transport in ["spdy", "websocket"] {
                let url = exec_url(daemon, id, &["sh", "-c", script], input.is_some(), false).await;
                let mut client = Command::new(go_client());
                client.args(["command", transport, &url]).args(input.map(|_| "-i"));
                let there = ran(&mut client, input);
                assert!(there == here, "{script} over {transport}: {} {}", summary(&there), summary(&here));
            }
            let mut command = carpel.command(&["exec"]);
            command.args(input.map(|_| "-i")).args([id, "sh", "-c", script]);
            let there = ran(&mut command, input);
            assert!(there == here, "{script} by carpel: {} {}", summary(&there), summary(&here));
        }
    });
}

fn summary(ran: &Ran) -> String {
    let start = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
    format!(
        "{:?}, {} bytes {:?}, {} bytes {:?}",
        ran.code,
        ran.stdout.len(),
        start(&ran.stdout),
        ran.stderr.len(),
        start(&ran.stderr)
    )
}

#[test]
fn terminals_frames_and_attachments_work_with_kubernetes_clients() {
    with_sleeper(async |daemon, pod, id| {
        let script =
            "until [ \"$(stty size 2>/dev/null)\" = '30 100' ]; do sleep 0.05; done; stty size; exit 8";
        for transport in ["spdy", "websocket"] {
            let url = exec_url(daemon, id, &["sh", "-c", script], false, true).await;
            let mut client = Command::new(go_client());
            let there = ran(client.args(["command", transport, &url, "-t", "-sizes", "80x24,100x30"]), None);
            assert_eq!((there.code, &there.stdout[..]), (Some(8), &b"30 100\r\n"[..]), "{}", summary(&there));

            let mut config = container(
                &format!("reader-{transport}"),
                BUSYBOX,
                &["sh", "-c", "while read x; do echo got $x; done; echo end >&2; exit 5"],
            );
            (config.stdin, config.stdin_once) = (true, true);
            let reader = daemon.client.launch(pod, config).await;
            let url = attach_url(daemon, &reader, false).await;
            let mut client = Command::new(go_client());
            let there = ran(client.args(["command", transport, &url, "-i"]), Some(b"a\nb\n"));
            assert_eq!(there.stdout, b"got a\ngot b\n", "over {transport}: {}", summary(&there));
            assert!(there.stderr.starts_with(b"end\n"), "{}", summary(&there));
            // kubectl would take the container's own code for an attachment that failed.
            assert_eq!(there.code, Some(0), "{}", summary(&there));
        }
        let url = exec_url(daemon, id, &["cat"], true, false).await;
        let there = ran(Command::new(go_client()).args(["frames", &url]), None);
        assert_eq!(there.code, Some(0), "{}", summary(&there));
        let used = ran(Command::new(go_client()).args(["command", "spdy", &url]), None);
        assert_eq!(used.code, Some(255), "a token works once: {}", summary(&used));
    });
}

/// A pod of its own network whose port 7000 answers with what `command` makes of each connection.
async fn server_pod(daemon: &Daemon, command: &str) -> Pod {
    let pod = daemon.client.run_pod(daemon.pod("server")).await;
    let id = daemon
        .client
        .launch(&pod, container("server", BUSYBOX, &["nc", "-ll", "-p", "7000", "-e", command]))
        .await;
    eventually("the pod's server listens", async || {
        // Port 7000, state LISTEN.
        let sockets = daemon.client.sh(&id, "cat /proc/net/tcp /proc/net/tcp6").await;
        sockets.lines().any(|line| line.contains(":1B58 ") && line.contains(" 0A ")).then_some(())
    })
    .await;
    pod
}

async fn forward_url(daemon: &Daemon, pod: &Pod) -> String {
    let request = v1::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![7000] };
    daemon.client.runtime.clone().port_forward(request).await.unwrap().into_inner().url
}

#[test]
fn ports_are_forwarded_for_kubernetes_clients() {
    scenario::run(Options::default(), async |daemon| {
        let pod = server_pod(daemon, "sha256sum").await;
        for transport in ["spdy", "websocket"] {
            let url = forward_url(daemon, &pod).await;
            let mut client = Command::new(go_client());
            client.args(["forward", transport, &url, "7000"]);
            digests_come_back(client);
        }
    });
}

/// Starts the Go client, which forwards until its input ends; returns it and the local port.
fn forwarding(mut client: Command) -> (Child, u16) {
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(client.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (client, line.trim().parse().unwrap())
}

/// Forwards, by the Go client with these arguments, eight connections at once to a pod that answers with digests.
fn digests_come_back(client: Command) {
    let (mut client, port) = forwarding(client);
    let connections: Vec<_> = (0..8usize)
        .map(|number| {
            std::thread::spawn(move || {
                let content = noise(300_000 * number + 1);
                let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.write_all(&content).unwrap();
                socket.shutdown(Shutdown::Write).unwrap();
                let mut answer = String::new();
                socket.read_to_string(&mut answer).unwrap();
                assert_eq!(answer, format!("{}  -\n", hex::encode(Sha256::digest(&content))));
            })
        })
        .collect();
    connections.into_iter().for_each(|connection| connection.join().unwrap());
    drop(client.stdin.take());
    assert!(client.wait().unwrap().success());
}

#[test]
fn a_forwarded_connection_ends_when_the_pod_ends_it() {
    scenario::run(Options::default(), async |daemon| {
        let pod = server_pod(daemon, "hostname").await;
        for transport in ["spdy", "websocket"] {
            let url = forward_url(daemon, &pod).await;
            let mut client = Command::new(go_client());
            client.args(["forward", transport, &url, "7000"]);
            let (mut client, port) = forwarding(client);
            for _ in 0..20 {
                // The client's direction stays open.
                let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut answer = String::new();
                socket.read_to_string(&mut answer).unwrap();
                assert_eq!(answer, "server\n", "over {transport}");
            }
            drop(client.stdin.take());
            assert!(client.wait().unwrap().success(), "over {transport}");
        }
    });
}

/// Sends so many MiB through something that gives them back, and compares the digests; returns MiB per second.
fn round_trip(
    mib: usize,
    mut to: impl Write + Send + 'static,
    mut from: impl Read,
    end: impl FnOnce() + Send + 'static,
) -> f64 {
    let since = Instant::now();
    let sending = std::thread::spawn(move || {
        let (piece, mut sent) = (noise(1 << 20), Sha256::new());
        for _ in 0..mib {
            to.write_all(&piece).unwrap();
            sent.update(&piece);
        }
        drop(to);
        end();
        sent.finalize()
    });
    let (mut received, mut buffer, mut bytes) = (Sha256::new(), vec![0; 1 << 18], 0);
    loop {
        let read = from.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        bytes += read;
        received.update(&buffer[..read]);
    }
    assert_eq!(bytes, mib << 20);
    assert_eq!(sending.join().unwrap(), received.finalize());
    mib as f64 / since.elapsed().as_secs_f64()
}

#[test]
#[allow(clippy::print_stderr, reason = "a figure for whoever asked for many bytes")]
fn many_bytes_come_back_as_they_went_and_stay_nowhere() {
    let mib = std::env::var("CARPEL_STREAMED_MIB").map_or(48, |text| text.parse().unwrap());
    with_sleeper(async |daemon, _, id| {
        let peak = || -> u64 {
            status_field(daemon.pid(), "VmHWM").split_whitespace().next().unwrap().parse().unwrap()
        };
        let url = exec_url(daemon, id, &["cat"], true, false).await;
        assert_eq!(
            ran(Command::new(go_client()).args(["command", "spdy", &url, "-i"]), Some(b"x")).code,
            Some(0)
        );
        let before = peak();
        let carpel = CommandLine::carpel(&daemon.socket());
        for (name, mut command) in [
            ("spdy", {
                let url = exec_url(daemon, id, &["cat"], true, false).await;
                let mut command = Command::new(go_client());
                command.args(["command", "spdy", &url, "-i"]);
                command
            }),
            ("carpel", carpel.command(&["exec", "-i", id, "cat"])),
        ] {
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            let rate = round_trip(mib, stdin, stdout, || {});
            assert!(child.wait().unwrap().success(), "{name}");
            eprintln!(
                "exec over {name}: {rate:.0} MiB/s there and back, peak {} KiB over {before}",
                peak() - before
            );
        }
        let pod = server_pod(daemon, "cat").await;
        let url = forward_url(daemon, &pod).await;
        let mut client = Command::new(go_client());
        client.args(["forward", "spdy", &url, "7000"]);
        let (mut client, port) = forwarding(client);
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (to, end) = (socket.try_clone().unwrap(), socket.try_clone().unwrap());
        let rate = round_trip(mib, to, &socket, move || end.shutdown(Shutdown::Write).unwrap());
        eprintln!(
            "port-forward over spdy: {rate:.0} MiB/s there and back, peak {} KiB over {before}",
            peak() - before
        );
        drop(client.stdin.take());
        assert!(client.wait().unwrap().success());
        assert!(peak() - before < 32 << 10, "the daemon's memory grew by {} KiB", peak() - before);
    });
}

#[test]
fn a_client_may_ask_for_more_than_a_container_has() {
    with_sleeper(async |daemon, pod, _| {
        // None of them has a stdin; the client has input, more than waits anywhere.
        let input = noise(1 << 20);
        for (name, container_tty, client_tty) in
            [("pipes", false, false), ("terminal", true, false), ("none", false, true)]
        {
            for transport in ["spdy", "websocket"] {
                let script = "while [ ! -e /end ]; do echo out; sleep 0.05; done; exit 3";
                let mut config = container(&format!("{name}-{transport}"), BUSYBOX, &["sh", "-c", script]);
                config.tty = container_tty;
                let id = daemon.client.launch(pod, config).await;
                let url = attach_url(daemon, &id, client_tty).await;
                let mut client = Command::new(go_client());
                client.args(["command", transport, &url, "-i"]);
                if client_tty {
                    client.args(["-t", "-sizes", "80x24,100x30"]);
                }
                let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
                let (mut stdin, input) = (child.stdin.take().unwrap(), input.clone());
                let feeding = std::thread::spawn(move || stdin.write_all(&input).unwrap());
                let (mut output, mut line) = (BufReader::new(child.stdout.take().unwrap()), String::new());
                output.read_line(&mut line).unwrap();
                assert_eq!(line.trim_end(), "out", "{name} over {transport}");
                feeding.join().unwrap();
                daemon.client.sh(&id, "touch /end").await;
                output.read_to_string(&mut line).unwrap();
                assert_eq!(child.wait().unwrap().code(), Some(0), "{name} over {transport}: {line}");
            }
        }
    });
}

#[test]
fn an_attached_client_that_reads_gets_all_of_a_burst() {
    with_sleeper(async |daemon, pod, _| {
        const BYTES: usize = 900_000;
        for transport in ["spdy", "websocket"] {
            let script = format!("read go; dd if=/dev/zero bs={BYTES} count=1 2>/dev/null; read end");
            let mut config = container(&format!("burst-{transport}"), BUSYBOX, &["sh", "-c", &script]);
            config.stdin = true;
            let id = daemon.client.launch(pod, config).await;
            let url = attach_url(daemon, &id, false).await;
            let mut client = Command::new(go_client());
            let there = ran(client.args(["command", transport, &url, "-i"]), Some(b"go\nend\n"));
            assert_eq!((there.code, there.stdout.len()), (Some(0), BYTES), "over {transport}");
        }
    });
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    scenario::run(Options::default(), async |daemon| {
        let carpel = CommandLine::carpel(&daemon.socket());
        let lines = 200_000;
        let script =
            format!("read go; i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo $i; done; sleep 1000");
        carpel.ok(&["run", "-d", "-i", "--host-network", "--name", "writer", BUSYBOX, "sh", "-c", &script]);
        let attach = |stdin: bool| {
            let mut command = carpel.command(&["attach"]);
            command.args(stdin.then_some("-i")).arg("writer");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        };
        let idle: Vec<_> = (0..20).map(|_| attach(false)).collect();
        let mut reader = attach(true);
        reader.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let mut output = BufReader::new(reader.stdout.take().unwrap());
        let mut first = String::new();
        output.read_line(&mut first).unwrap();
        // The container gets to its end whatever the clients do; its log has every line.
        eventually("everything was written", async || {
            let log = carpel.output(&["logs", "--tail", "1", "writer"]);
            (log.stdout == format!("{lines}\n").into_bytes()).then_some(())
        })
        .await;
        assert_eq!(carpel.ok(&["logs", "writer"]).lines().count(), lines);
        for mut child in idle.into_iter().chain([reader]) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        carpel.ok(&["rm", "-f", "writer"]);
    });
}
