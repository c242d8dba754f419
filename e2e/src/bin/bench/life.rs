//! One pod from nothing to nothing, each verb timed at the client.

use std::collections::BTreeMap;
use std::fs;
use std::str::FromStr;
use std::time::{Duration, Instant};

use carpel_e2e::config;
use carpel_proto::v1;
use carpel_proto::v1::security_profile::ProfileType;

use crate::peer::{IMAGE, Peer};

/// What each container runs.
const SLEEP: [&str; 2] = ["/bin/sleep", "1000000"];
/// Commands run in each pod, one right after the other.
pub(crate) const EXECS: usize = 3;
/// A pause before one more, as probes have it: the kernel forgets meanwhile what made the others fast.
const REST: Duration = Duration::from_millis(100);

/// The network of the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The node's.
    Host,
    /// Carpel's built-in bridge; CNI for the peer, which has none.
    Builtin,
    /// The same CNI plugins for both.
    Cni,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "host" => Ok(Self::Host),
            "builtin" => Ok(Self::Builtin),
            "cni" => Ok(Self::Cni),
            _ => Err(format!("--network is host, builtin or cni, not {text:?}")),
        }
    }
}

/// What is timed, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verb {
    Run,
    Create,
    Start,
    CreateAndStart,
    Up,
    Exec,
    ExecRested,
    StopContainer,
    StopPod,
    RemovePod,
    Down,
}

impl Verb {
    /// Its name in the table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Run => "RunPodSandbox",
            Self::Create => "CreateContainer",
            Self::Start => "StartContainer",
            Self::CreateAndStart => "Create + Start",
            Self::Up => "pod up (Run + Create + Start)",
            Self::Exec => "ExecSync of `true`",
            Self::ExecRested => "ExecSync of `true`, after 100 ms of rest",
            Self::StopContainer => "StopContainer, no grace",
            Self::StopPod => "StopPodSandbox",
            Self::RemovePod => "RemovePodSandbox",
            Self::Down => "Stop + Remove",
        }
    }
}

/// Milliseconds of each verb.
pub(crate) type Took = BTreeMap<Verb, Vec<f64>>;

/// Runs one pod with one container, a few commands in it, and removes it.
pub(crate) async fn run(peer: &mut Peer, mode: Mode, round: usize) {
    let client = peer.client.clone();
    let pod_config = pod(peer, mode, &format!("bench-{round}"));
    let begin = Instant::now();
    let pod = client.run_pod(pod_config).await;
    let ran = ms(begin);
    let id = client.create(&pod, container("main")).await;
    let created = ms(begin);
    client.start(&id).await;
    let started = ms(begin);
    for _ in 0..EXECS {
        exec(peer, Verb::Exec, &id).await;
    }
    tokio::time::sleep(REST).await;
    exec(peer, Verb::ExecRested, &id).await;
    let begin = Instant::now();
    client.stop(&id, 0).await;
    let stopped = ms(begin);
    client.stop_pod(&pod.id).await;
    let stopped_pod = ms(begin);
    client.remove_pod(&pod.id).await;
    let removed = ms(begin);
    for (verb, took) in [
        (Verb::Run, ran),
        (Verb::Create, created - ran),
        (Verb::Start, started - created),
        (Verb::CreateAndStart, started - ran),
        (Verb::Up, started),
        (Verb::StopContainer, stopped),
        (Verb::StopPod, stopped_pod - stopped),
        (Verb::RemovePod, removed - stopped_pod),
        (Verb::Down, removed),
    ] {
        peer.took.entry(verb).or_default().push(took);
    }
}

async fn exec(peer: &mut Peer, verb: Verb, id: &str) {
    let begin = Instant::now();
    let output = peer.client.exec(id, &["/bin/true"]).await;
    peer.took.entry(verb).or_default().push(ms(begin));
    assert_eq!(output.code, 0, "`true` in {id} of {}", peer.name);
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// A pod as the kubelet would ask for it, with the runtime's seccomp profile.
pub(crate) fn pod(peer: &Peer, mode: Mode, name: &str) -> v1::PodSandboxConfig {
    let logs = peer.logs().join(name);
    fs::create_dir_all(&logs).expect("make the pod's log folder");
    let mut pod = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("{name}-uid"),
            namespace: "bench".to_owned(),
            attempt: 0,
        }),
        log_directory: logs.to_string_lossy().into_owned(),
        linux: Some(v1::LinuxPodSandboxConfig { cgroup_parent: peer.cgroup_parent(), ..Default::default() }),
        ..Default::default()
    };
    config::pod_security(&mut pod).seccomp = config::profile(ProfileType::RuntimeDefault, "");
    let namespaces = config::namespaces(&mut pod);
    namespaces.pid = v1::NamespaceMode::Container.into();
    if mode == Mode::Host {
        namespaces.network = v1::NamespaceMode::Node.into();
    } else {
        name.clone_into(&mut pod.hostname);
    }
    pod
}

/// A container that sleeps, with a small request and a limit.
pub(crate) fn container(name: &str) -> v1::ContainerConfig {
    let mut container = config::container(name, IMAGE, &SLEEP);
    let resources = config::resources(&mut container);
    resources.cpu_shares = 102;
    resources.memory_limit_in_bytes = 128 << 20;
    resources.oom_score_adj = 900;
    config::security(&mut container).seccomp = config::profile(ProfileType::RuntimeDefault, "");
    container
}
