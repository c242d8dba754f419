//! How long the built-in bridge takes per pod: attach and detach, percentiles over many pods, in namespaces
//! of its own. Run as root: `cargo run --release -p carpel-network --example attach_time [PODS] [AT_ONCE]`.

use std::io::Write;
use std::time::{Duration, Instant};

use carpel_network::{AttachRequest, BridgeConfig, Config, Mode, Network, PortMapping, Protocol};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

fn main() {
    let mut args = std::env::args().skip(1);
    let mut number = |otherwise: usize| args.next().and_then(|arg| arg.parse().ok()).unwrap_or(otherwise);
    let (pods, at_once) = (number(200), number(1));
    // Before any other thread exists, so that all of them are inside.
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("run as root");
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).expect("private mounts");
    let dir = tempfile::tempdir().expect("a temporary folder");
    mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), none).expect("a tmpfs");
    let config = Config {
        netns_dir: dir.path().join("netns"),
        state_dir: dir.path().join("state"),
        mode: Mode::Builtin(BridgeConfig::default()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(config, pods, at_once));
}

fn request(number: usize) -> AttachRequest {
    let port = number as u16 + 10_000;
    AttachRequest {
        pod: format!("{number:08x}{}", "5eed".repeat(14)),
        port_mappings: match number % 2 {
            0 => Vec::new(),
            _ => vec![PortMapping {
                protocol: Protocol::Tcp,
                host_ip: None,
                host_port: port,
                container_port: 80,
            }],
        },
        ..AttachRequest::default()
    }
}

async fn measure(config: Config, pods: usize, at_once: usize) {
    let network = Network::open(config).await.expect("the network opens");
    // The first pod makes the bridge and the table.
    network.attach(request(pods)).await.expect("attach");
    let begun = Instant::now();
    let attached = timed(pods, at_once, |number| {
        let network = network.clone();
        async move { drop(network.attach(request(number)).await.expect("attach")) }
    })
    .await;
    report("attach", &attached, begun.elapsed());
    let begun = Instant::now();
    let asked = timed(pods, at_once, |number| {
        let network = network.clone();
        async move { drop(network.stats(&request(number).pod).await.expect("stats")) }
    })
    .await;
    report("stats (first)", &asked, begun.elapsed());
    let begun = Instant::now();
    let asked = timed(pods, at_once, |number| {
        let network = network.clone();
        async move { drop(network.stats(&request(number).pod).await.expect("stats")) }
    })
    .await;
    report("stats", &asked, begun.elapsed());
    let begun = Instant::now();
    let detached = timed(pods, at_once, |number| {
        let network = network.clone();
        async move { network.detach(&request(number).pod).await.expect("detach") }
    })
    .await;
    report("detach", &detached, begun.elapsed());
}

async fn timed<F: Future<Output = ()> + Send + 'static>(
    pods: usize,
    at_once: usize,
    mut work: impl FnMut(usize) -> F,
) -> Vec<Duration> {
    let mut times = Vec::new();
    let numbers: Vec<usize> = (0..pods).collect();
    for chunk in numbers.chunks(at_once.max(1)) {
        let tasks: Vec<_> = chunk
            .iter()
            .map(|number| {
                let work = work(*number);
                tokio::spawn(async move {
                    let begun = Instant::now();
                    work.await;
                    begun.elapsed()
                })
            })
            .collect();
        for task in tasks {
            times.push(task.await.expect("a task"));
        }
    }
    times.sort_unstable();
    times
}

fn report(what: &str, times: &[Duration], all: Duration) {
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let (p50, p99) = (at(50), at(99));
    let _ = writeln!(std::io::stdout(), "{what:14} p50 {p50:?}  p99 {p99:?}  all {all:?}");
}
