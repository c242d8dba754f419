//! How fast bytes go through exec and port-forward: Kubernetes' own client on one side, a process in a pod on the other.
//!
//! The client and the process are the same for both runtimes, and take their part of the machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use carpel_e2e::client::{PATIENCE, Pod, eventually};
use carpel_e2e::config;
use carpel_e2e::kernel;
use carpel_proto::v1;

use crate::life::{self, Mode};
use crate::peer::{IMAGE, Peer};

/// How often each way is measured.
pub(crate) const ROUNDS: usize = 5;
/// Ports of the pod, which has the daemon's network: one sends, the other receives.
const SENDS: u16 = 7000;
const RECEIVES: u16 = 7001;

/// How the client talks to the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Transport {
    Spdy,
    WebSocket,
}

/// What is measured, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    ExecOut(Transport),
    ExecIn(Transport),
    ForwardOut,
    ForwardIn,
}

pub(crate) const WAYS: [Way; 6] = [
    Way::ExecOut(Transport::Spdy),
    Way::ExecOut(Transport::WebSocket),
    Way::ExecIn(Transport::Spdy),
    Way::ExecIn(Transport::WebSocket),
    Way::ForwardOut,
    Way::ForwardIn,
];

impl Transport {
    /// As the client's argument has it.
    fn name(self) -> &'static str {
        match self {
            Self::Spdy => "spdy",
            Self::WebSocket => "websocket",
        }
    }
}

impl Way {
    /// Whether a runtime has it.
    fn is_of(self, peer: &Peer) -> bool {
        match self {
            Self::ExecOut(Transport::WebSocket) | Self::ExecIn(Transport::WebSocket) => {
                peer.speaks_websocket()
            }
            Self::ExecOut(Transport::Spdy)
            | Self::ExecIn(Transport::Spdy)
            | Self::ForwardOut
            | Self::ForwardIn => true,
        }
    }

    /// Its name in the table.
    pub(crate) fn title(self) -> String {
        match self {
            Self::ExecOut(transport) => format!("exec, output, {}", transport.name()),
            Self::ExecIn(transport) => format!("exec, input, {}", transport.name()),
            Self::ForwardOut => "port-forward, from the pod, spdy".to_owned(),
            Self::ForwardIn => "port-forward, to the pod, spdy".to_owned(),
        }
    }
}

/// MiB per second of each way.
pub(crate) type Rates = BTreeMap<Way, Vec<f64>>;

/// Measures all ways in turns; returns the rates of each peer.
pub(crate) async fn measure(peers: &[Peer], client: &Path, mib: usize) -> Vec<Rates> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let zeros = folder.path().join("zeros");
    File::create(&zeros).and_then(|file| file.set_len((mib as u64) << 20)).expect("make a file of zeros");
    let mut streams = Vec::new();
    for peer in peers {
        streams.push(Streams::prepare(peer, client, mib, &zeros).await);
    }
    let mut rates = vec![Rates::new(); streams.len()];
    for round in 0..=ROUNDS {
        for way in WAYS {
            let pairs = streams.iter().zip(&mut rates);
            for (streams, rates) in pairs.filter(|(streams, _)| way.is_of(streams.peer)) {
                let seconds = streams.seconds(way).await;
                // The first round is for what is slow once.
                if round > 0 {
                    rates.entry(way).or_default().push(mib as f64 / seconds);
                }
            }
        }
    }
    rates
}

/// One runtime's pod with something at the other end of each way.
struct Streams<'a> {
    peer: &'a Peer,
    client: &'a Path,
    zeros: &'a Path,
    pod: Pod,
    container: String,
    mib: usize,
}

/// A command that reads so much.
fn taken(mib: usize) -> String {
    format!("dd bs=1M count={mib} iflag=fullblock of=/dev/null")
}

/// A command that writes so much.
fn zeros_of(mib: usize) -> String {
    format!("dd if=/dev/zero bs=1M count={mib} 2>/dev/null")
}

impl<'a> Streams<'a> {
    async fn prepare(peer: &'a Peer, client: &'a Path, mib: usize, zeros: &'a Path) -> Self {
        let pod = peer.client.run_pod(life::pod(peer, Mode::Host, "streams")).await;
        // The other side counts: not every runtime tells it that the client has ended its direction.
        let receive = format!("{} 2>/dev/null; echo", taken(mib));
        let send = format!("exec nc -ll -p {SENDS} -e sh -c '{}'", zeros_of(mib));
        let receive = format!("exec nc -ll -p {RECEIVES} -e sh -c '{receive}'");
        let mut container = String::new();
        for (name, script) in [("sends", send), ("receives", receive)] {
            let config = config::container(name, IMAGE, &["/bin/sh", "-c", &script]);
            container = peer.client.launch(&pod, config).await;
        }
        let streams = Self { peer, client, zeros, pod, container, mib };
        for port in [SENDS, RECEIVES] {
            let connect = || TcpStream::connect(("127.0.0.1", port)).ok();
            eventually("the pod's ports are open", async || kernel::inside(&peer.netns(), connect)).await;
        }
        streams
    }

    async fn seconds(&self, way: Way) -> f64 {
        match way {
            Way::ExecOut(transport) => {
                let url = self.exec_url(&["sh", "-c", &zeros_of(self.mib)], false).await;
                self.run(&["command", transport.name(), &url], Stdio::null())
            }
            Way::ExecIn(transport) => {
                // It fails unless all of it comes.
                let mib = self.mib;
                let counted = format!("{} 2>&1 | grep -q '^{mib}+0 records in'", taken(mib));
                let url = self.exec_url(&["sh", "-c", &counted], true).await;
                let zeros = File::open(self.zeros).expect("open the zeros");
                self.run(&["command", transport.name(), &url, "-i"], zeros.into())
            }
            Way::ForwardOut => self.forward(SENDS).await,
            Way::ForwardIn => self.forward(RECEIVES).await,
        }
    }

    async fn exec_url(&self, command: &[&str], stdin: bool) -> String {
        let request = v1::ExecRequest {
            container_id: self.container.clone(),
            cmd: command.iter().map(ToString::to_string).collect(),
            tty: false,
            stdin,
            stdout: true,
            stderr: true,
        };
        self.peer.client.runtime.clone().exec(request).await.expect("a URL for exec").into_inner().url
    }

    /// The client, to be started in the runtime's network namespace.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.client);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// From the client's start to its end.
    fn run(&self, arguments: &[&str], input: Stdio) -> f64 {
        let mut command = self.command(arguments);
        let begin = Instant::now();
        let status = kernel::inside(&self.peer.netns(), || command.stdin(input).status());
        let status = status.expect("start the client of streams");
        assert!(status.success(), "{arguments:?} of {}: {status}", self.peer.name);
        begin.elapsed().as_secs_f64()
    }

    /// From the connection to the forwarded port to its end.
    async fn forward(&self, port: u16) -> f64 {
        let request =
            v1::PortForwardRequest { pod_sandbox_id: self.pod.id.clone(), port: vec![i32::from(port)] };
        let answer = self.peer.client.runtime.clone().port_forward(request).await;
        let url = answer.expect("a URL for port-forward").into_inner().url;
        let mut command = self.command(&["forward", "spdy", &url, &port.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let netns = self.peer.netns();
        let mut client = kernel::inside(&netns, || command.spawn()).expect("start the client of streams");
        let mut line = String::new();
        let said = BufReader::new(client.stdout.take().expect("its output")).read_line(&mut line);
        let local: u16 = said.ok().and_then(|_| line.trim().parse().ok()).expect("the forwarded port");
        let begin = Instant::now();
        let socket = kernel::inside(&netns, || TcpStream::connect(("127.0.0.1", local)));
        let through = socket.and_then(|socket| self.through(&socket, port)).expect("use the forwarded port");
        let took = begin.elapsed().as_secs_f64();
        assert_eq!(through, self.mib << 20, "through the forwarded port of {}", self.peer.name);
        // Its input ends, and so does it.
        drop(client.stdin.take());
        assert!(client.wait().is_ok_and(|status| status.success()), "the client of streams");
        took
    }

    /// Sends or receives all; returns how many bytes it was.
    fn through(&self, mut socket: &TcpStream, port: u16) -> io::Result<usize> {
        socket.set_read_timeout(Some(PATIENCE))?;
        let (mut piece, mut through) = (vec![0; 1 << 20], 0);
        if port == SENDS {
            loop {
                match socket.read(&mut piece)? {
                    0 => return Ok(through),
                    read => through += read,
                }
            }
        }
        for _ in 0..self.mib {
            socket.write_all(&piece)?;
        }
        // The other side answers when it has read everything.
        socket.read_exact(&mut piece[..1])?;
        Ok(self.mib << 20)
    }
}
