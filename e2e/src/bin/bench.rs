//! Measures CRI runtimes side by side: what each verb of a pod's life takes, and what a pod keeps.
//!
//!     bench --rounds 100 --image IMAGE --network pod|host  NAME=SOCKET,DAEMON_PID,HELPER[:HELPER…]  …
//!
//! The runtimes take turns, one whole pod each, so that the machine's drift hits all alike. A HELPER is
//! the name (`/proc/PID/comm`) of the processes that a runtime keeps for its pods. Prints a table:
//! p50 and p99 in milliseconds, memory in KiB.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program may print")]

use std::{collections::BTreeMap, fs, path::PathBuf, time::Instant};

use carpel_e2e::{client::Client, config};
use carpel_proto::v1;

/// Pods that are up at the same time when memory is measured.
const PODS: usize = 20;
/// What each container runs.
const SLEEP: [&str; 2] = ["/bin/sleep", "1000000"];

/// A runtime under test.
struct Peer {
    name: String,
    client: Client,
    daemon_pid: u32,
    helpers: Vec<String>,
    took_ms: BTreeMap<&'static str, Vec<f64>>,
}

/// What the command line says.
struct Plan {
    rounds: usize,
    image: String,
    host_network: bool,
    peers: Vec<Peer>,
}

impl Plan {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Plan, String> {
        let mut plan = Plan { rounds: 100, image: String::new(), host_network: false, peers: Vec::new() };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--rounds" => plan.rounds = value()?.parse().map_err(|error| format!("--rounds: {error}"))?,
                "--image" => plan.image = value()?,
                "--network" => plan.host_network = value()? == "host",
                peer => plan.peers.push(Peer::parse(peer)?),
            }
        }
        if plan.image.is_empty() || plan.peers.is_empty() {
            return Err("--image and at least one NAME=SOCKET,DAEMON_PID,HELPER are required".into());
        }
        Ok(plan)
    }
}

impl Peer {
    fn parse(text: &str) -> Result<Peer, String> {
        let wrong = || format!("{text:?} is not NAME=SOCKET,DAEMON_PID,HELPER[:HELPER]");
        let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
        let mut parts = rest.split(',');
        let (socket, pid, helpers) = (parts.next(), parts.next(), parts.next());
        Ok(Peer {
            name: name.to_owned(),
            client: Client::new(&PathBuf::from(socket.ok_or_else(wrong)?)),
            daemon_pid: pid.and_then(|pid| pid.parse().ok()).ok_or_else(wrong)?,
            helpers: helpers.unwrap_or_default().split(':').map(str::to_owned).collect(),
            took_ms: BTreeMap::new(),
        })
    }

    fn note(&mut self, verb: &'static str, since: Instant) -> f64 {
        let ms = since.elapsed().as_secs_f64() * 1000.0;
        self.took_ms.entry(verb).or_default().push(ms);
        ms
    }

    /// One pod from nothing to nothing.
    async fn life(&mut self, round: usize, image: &str, host_network: bool) {
        let pod_config = pod(&format!("bench-{round}"), host_network);
        let up = Instant::now();
        let since = Instant::now();
        let pod = self.client.run_pod(pod_config).await;
        self.note("1 RunPodSandbox", since);
        let since = Instant::now();
        let id = self.client.create(&pod, config::container("main", image, &SLEEP)).await;
        let created = self.note("2 CreateContainer", since);
        let since = Instant::now();
        self.client.start(&id).await;
        let started = self.note("3 StartContainer", since);
        self.took_ms.entry("4 Create+Start").or_default().push(created + started);
        self.note("5 pod up", up);
        for _ in 0..5 {
            let since = Instant::now();
            let output = self.client.exec(&id, &["/bin/true"]).await;
            assert_eq!(output.code, 0);
            self.note("6 ExecSync true", since);
        }
        let since = Instant::now();
        self.client.stop(&id, 0).await;
        self.note("7 StopContainer 0s", since);
        let since = Instant::now();
        self.client.stop_pod(&pod.id).await;
        self.client.remove_pod(&pod.id).await;
        self.note("8 Stop+Remove pod", since);
    }

    /// Memory with many pods up, KiB: private and proportional for each pod, resident for the daemon.
    async fn memory(&mut self, image: &str, host_network: bool) -> [(&'static str, f64); 5] {
        let idle = rss_kib(self.daemon_pid);
        let mut pods = Vec::new();
        for number in 0..PODS {
            let pod = self.client.run_pod(pod(&format!("memory-{number}"), host_network)).await;
            for name in ["one", "two"] {
                self.client.launch(&pod, config::container(name, image, &SLEEP)).await;
            }
            pods.push(pod);
        }
        let (mut private, mut proportional, mut count) = (0.0, 0.0, 0);
        for pid in processes(&self.helpers) {
            let (uss, pss) = rollup_kib(pid);
            private += uss;
            proportional += pss;
            count += 1;
        }
        let loaded = rss_kib(self.daemon_pid);
        for pod in pods {
            self.client.stop_pod(&pod.id).await;
            self.client.remove_pod(&pod.id).await;
        }
        let each = |sum: f64| sum / PODS as f64;
        [
            ("helper processes a pod (of 2 containers)", each(f64::from(count))),
            ("private KiB a pod", each(private)),
            ("proportional KiB a pod", each(proportional)),
            ("daemon RSS KiB, idle", idle),
            ("daemon RSS KiB, 20 pods", loaded),
        ]
    }
}

fn pod(name: &str, host_network: bool) -> v1::PodSandboxConfig {
    let logs = std::env::temp_dir().join("carpel-bench-logs").join(name);
    fs::create_dir_all(&logs).expect("make a log folder");
    let mut pod = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("{name}-uid"),
            namespace: "bench".to_owned(),
            attempt: 0,
        }),
        log_directory: logs.to_string_lossy().into_owned(),
        linux: Some(v1::LinuxPodSandboxConfig::default()),
        ..v1::PodSandboxConfig::default()
    };
    let options = config::namespaces(&mut pod);
    options.pid = v1::NamespaceMode::Container.into();
    if host_network {
        options.network = v1::NamespaceMode::Node.into();
    } else {
        pod.hostname = name.to_owned();
    }
    pod
}

/// The processes with one of these names.
fn processes(names: &[String]) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("read /proc");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|comm| names.iter().any(|name| name == comm.trim()))
        })
        .collect()
}

/// Private and proportional memory of a process (proc_pid_smaps_rollup).
fn rollup_kib(pid: u32) -> (f64, f64) {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?.trim_start_matches(':').split_whitespace().next()?.parse().ok()
            })
            .unwrap_or(0.0)
    };
    (field("Private_Clean") + field("Private_Dirty"), field("Pss"))
}

fn rss_kib(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    text.lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
        .expect("a process has a resident set")
}

/// The value below which `percent` of the samples lie.
fn percentile(samples: &mut [f64], percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[(samples.len() * percent / 100).min(samples.len() - 1)]
}

fn report(plan: &mut Plan, memory: &[Vec<(&'static str, f64)>]) {
    print!("{:42}", "");
    for peer in &plan.peers {
        print!("{:>24}", peer.name);
    }
    println!();
    let verbs: Vec<&'static str> = plan.peers[0].took_ms.keys().copied().collect();
    for verb in verbs {
        print!("{verb:42}");
        for peer in &mut plan.peers {
            let samples = peer.took_ms.get_mut(verb).expect("every peer did every verb");
            let (p50, p99) = (percentile(samples, 50), percentile(samples, 99));
            print!("{:>24}", format!("{p50:.2} / {p99:.2} ms"));
        }
        println!();
    }
    for (row, (name, _)) in memory[0].iter().enumerate() {
        print!("{name:42}");
        for values in memory {
            print!("{:>24.1}", values[row].1);
        }
        println!();
    }
}

#[tokio::main]
async fn main() {
    let mut plan = match Plan::parse(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(error) => panic!("bench: {error}"),
    };
    for peer in &mut plan.peers {
        // The first pods of a runtime pay for what is cached afterwards.
        for round in 0..3 {
            peer.life(round, &plan.image, plan.host_network).await;
        }
        peer.took_ms.clear();
    }
    for round in 0..plan.rounds {
        for peer in &mut plan.peers {
            peer.life(round, &plan.image, plan.host_network).await;
        }
    }
    let mut memory = Vec::new();
    for peer in &mut plan.peers {
        memory.push(peer.memory(&plan.image, plan.host_network).await.to_vec());
    }
    report(&mut plan, &memory);
}
