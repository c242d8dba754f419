//! Measures Carpel beside containerd and runc: what each verb of a pod's life takes, what a pod keeps, and how
//! fast bytes go through exec and port-forward.
//!
//! ```text
//! bench PEERS PLUGINS CLIENT [--rounds N] [--network host|builtin|cni|none]… [--only carpel|containerd] [--pods N]
//!                            [--stream-mib N]
//! ```
//!
//! `hack/bench` calls it with the folder of the peer's programs, that of the CNI plugins and the client of streams;
//! Carpel's programs are in `$CARPEL_BIN`. For each network both daemons are started anew, each with its own folders below `$TMPDIR`, its own cgroup
//! and its own network namespace, so that no bridge, rule or setting reaches the machine. They take turns, one whole pod each,
//! so that the machine's drift hits both alike. Prints Markdown.
//!
//! Not a load test: one call at a time.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports to people")]

mod life;
mod machine;
mod memory;
mod peer;
mod streams;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use life::Mode;
use peer::{Peer, Programs};

/// What the command line says.
#[derive(Debug)]
struct Plan {
    programs: Programs,
    rounds: usize,
    pods: usize,
    modes: Vec<Mode>,
    stream_mib: usize,
    only: Option<String>,
}

const USAGE: &str = "usage: bench PEERS PLUGINS CLIENT [--rounds N] [--network host|builtin|cni|none]… \
                     [--only carpel|containerd] [--pods N] [--stream-mib N]";

impl Plan {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut folder = |what: &str| arguments.next().map(PathBuf::from).ok_or(format!("{what} is missing"));
        let programs = Programs {
            peers: folder("PEERS")?,
            plugins: folder("PLUGINS")?,
            stream_client: folder("CLIENT")?,
        };
        let mut plan =
            Self { programs, rounds: 100, pods: 20, modes: Vec::new(), stream_mib: 512, only: None };
        let mut modes = None;
        while let Some(option) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
            match (option.as_str(), value.as_str()) {
                ("--rounds", _) => plan.rounds = number(&option, &value)?,
                ("--pods", _) => plan.pods = number(&option, &value)?,
                ("--stream-mib", _) => plan.stream_mib = number(&option, &value)?,
                ("--network", "none") => _ = modes.get_or_insert_with(Vec::new),
                ("--network", _) => modes.get_or_insert_with(Vec::new).push(value.parse()?),
                ("--only", "carpel" | "containerd") => plan.only = Some(value),
                _ => return Err(format!("unknown: {option} {value}")),
            }
        }
        plan.modes = modes.unwrap_or_else(|| vec![Mode::Host, Mode::Builtin, Mode::Cni]);
        Ok(plan)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }
}

fn number(option: &str, value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(number) if (1..=10_000).contains(&number) => Ok(number),
        _ => Err(format!("{option} takes 1 to 10000, not {value:?}")),
    }
}

async fn start(plan: &Plan, mode: Mode, images: &peer::Images) -> Vec<Peer> {
    let mut peers = Vec::new();
    if plan.wants("carpel") {
        peers.push(Peer::carpel(mode, &plan.programs, images).await);
    }
    if plan.wants("containerd") {
        peers.push(Peer::containerd(mode, &plan.programs, images).await);
    }
    peers
}

/// Ends them; returns what they left on the machine.
async fn end(peers: Vec<Peer>) -> Vec<String> {
    let mut left = Vec::new();
    for peer in peers {
        left.extend(peer.end().await);
    }
    left
}

/// One network: both daemons started, measured in turns, ended. Returns what they left on the machine.
async fn measure(plan: &Plan, mode: Mode, images: &peer::Images) -> Vec<String> {
    let mut peers = start(plan, mode, images).await;
    for peer in &mut peers {
        // The first pods of a runtime pay for what is cached afterwards.
        for round in 0..3 {
            life::run(peer, mode, round).await;
        }
        peer.took.clear();
    }
    for round in 0..plan.rounds {
        for peer in &mut peers {
            life::run(peer, mode, round).await;
        }
    }
    let mut kept = Vec::new();
    for peer in &mut peers {
        kept.push(memory::measure(peer, mode, plan.pods).await);
    }
    table::print(mode, plan.rounds, plan.pods, &peers, &kept);
    end(peers).await
}

/// Streams, which know no network: both daemons started, measured in turns, ended. Returns what they left.
async fn measure_streams(plan: &Plan, images: &peer::Images) -> Vec<String> {
    let peers = start(plan, Mode::Host, images).await;
    let rates = streams::measure(&peers, &plan.programs.stream_client, plan.stream_mib).await;
    table::print_rates(plan.stream_mib, &peers, &rates);
    end(peers).await
}

async fn run(plan: &Plan) -> ExitCode {
    let images = peer::Images::make(&plan.programs);
    machine::print();
    let mut left = Vec::new();
    for mode in &plan.modes {
        left.extend(measure(plan, *mode, &images).await);
    }
    left.extend(measure_streams(plan, &images).await);
    if plan.only.is_none() {
        machine::print_sizes(&plan.programs);
    }
    left.iter().for_each(|what| eprintln!("bench: left on the machine: {what}"));
    ExitCode::from(u8::from(!left.is_empty()))
}

// One thread: on two cores a second one of the driver would compete with what is measured.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let plan = match Plan::parse(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("bench: {error}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be handled");
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be handled");
    // Dropping the run takes away by force what it had started.
    tokio::select! {
        code = run(&plan) => code,
        _ = interrupt.recv() => ExitCode::from(130),
        _ = terminate.recv() => ExitCode::from(143),
    }
}
