//! `OOMKilled` exactly when the kernel ended a container for its memory, every time.
//!
//! A container's end counts as one for memory if its init process was killed by the out-of-memory killer, or exits with
//! 137 because a child of it was. Not if a child was killed, or an exec, and the container ended later in another way;
//! not even if that was by a SIGKILL of ours. Each test does `CARPEL_OOM_ROUNDS` rounds, 20 unless given.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use carpel_e2e::client::{Pod, eventually};
use carpel_e2e::config::{bind, container, namespaces, resources};
use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::kernel::{cgroups_named, is_cgroup_v1, processes_mentioning};
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_proto::v1;

const MIB: i64 = 1 << 20;
/// What the containers may use.
const LIMIT: i64 = 16 * MIB;
/// Uses more, in a process of its own.
const HOG: &str = "dd if=/dev/zero of=/dev/null bs=200M count=1";
/// How an init process ends that was killed for memory.
const OOM_KILLED: (i32, &str) = (137, "OOMKilled");

fn rounds() -> usize {
    std::env::var("CARPEL_OOM_ROUNDS").map_or(20, |text| text.parse().expect("a number of rounds"))
}

fn limited(name: &str, script: &str) -> v1::ContainerConfig {
    let mut config = container(name, BUSYBOX, &["sh", "-c", script]);
    resources(&mut config).memory_limit_in_bytes = LIMIT;
    config
}

/// A container's folder in the hierarchy of the memory controller; `None` once it is gone.
fn memory_cgroup(id: &str) -> Option<PathBuf> {
    let root = if is_cgroup_v1() { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" };
    cgroups_named(id).into_iter().find(|path| path.starts_with(root))
}

/// What the kernel counted in a container's cgroup; `None` once that is gone.
fn oom_kills(id: &str) -> Option<u64> {
    let file = if is_cgroup_v1() { "memory.oom_control" } else { "memory.events" };
    let text = std::fs::read_to_string(memory_cgroup(id)?.join(file)).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).map(|count| count.parse().unwrap())
}

fn how(status: &v1::ContainerStatus) -> (i32, &str) {
    (status.exit_code, status.reason.as_str())
}

/// Runs one to its end, and removes it.
async fn end_of(daemon: &Daemon, pod: &Pod, config: v1::ContainerConfig) -> v1::ContainerStatus {
    let status = daemon.client.run_to_end(pod, config).await;
    daemon.client.remove(&status.id).await;
    status
}

/// A pod in which containers have PID namespaces of their own, and one in which they share the pod's.
async fn pods(daemon: &Daemon) -> [Pod; 2] {
    let mut shared = daemon.host_pod("shared");
    namespaces(&mut shared).pid = v1::NamespaceMode::Pod.into();
    [daemon.client.run_pod(daemon.host_pod("apart")).await, daemon.client.run_pod(shared).await]
}

#[test]
fn an_init_process_that_is_killed_for_memory() {
    scenario::run(Options::default(), async |daemon| {
        let pods = pods(daemon).await;
        for round in 0..rounds() {
            let config = limited(&format!("hog{round}"), &format!("exec {HOG}"));
            let status = end_of(daemon, &pods[round % 2], config).await;
            assert_eq!(how(&status), OOM_KILLED, "round {round}: {status:?}");
        }
    });
}

#[test]
fn a_child_that_is_killed_for_memory_is_not_the_container() {
    scenario::run(Options::default(), async |daemon| {
        let pods = pods(daemon).await;
        // What the init process does once its child is dead, and what that makes of the container.
        let ends = [
            ("exit 0", (0, "Completed")),
            ("exit 3", (3, "Error")),
            // As a shell does whose last command was killed.
            ("exit $?", OOM_KILLED),
            ("sleep 1000", (137, "Error")),
        ];
        for round in 0..rounds() {
            let (then, expected) = ends[round % ends.len()];
            let config = limited(&format!("parent{round}"), &format!("{HOG}; {then}"));
            let pod = &pods[round / ends.len() % 2];
            let id = daemon.client.launch(pod, config).await;
            if then.starts_with("sleep") {
                eventually("the child is killed", async || (oom_kills(&id) >= Some(1)).then_some(())).await;
                assert_eq!(
                    daemon.client.status(&id).await.state(),
                    v1::ContainerState::ContainerRunning,
                    "round {round}"
                );
                daemon.client.stop(&id, 0).await;
            }
            let status = daemon.client.wait_exit(&id).await;
            assert_eq!(how(&status), expected, "round {round}, {then}: {status:?}");
            daemon.client.remove(&id).await;
        }
    });
}

#[test]
fn an_exec_that_is_killed_for_memory_is_not_the_container() {
    scenario::run(Options::default(), async |daemon| {
        let pods = pods(daemon).await;
        for round in 0..rounds() {
            // It asks for no memory meanwhile: one that forks is sometimes the kernel's second victim.
            let script = "mkfifo /end && read word </end && exit $word";
            let id = daemon.client.launch(&pods[round % 2], limited(&format!("quiet{round}"), script)).await;
            let output = daemon.client.exec(&id, &["sh", "-c", &format!("exec {HOG}")]).await;
            assert_eq!(output.code, 137, "round {round}: {output:?}");
            let status = daemon.client.status(&id).await;
            assert_eq!(status.state(), v1::ContainerState::ContainerRunning, "round {round}: {status:?}");
            let expected = if round / 2 % 2 == 0 {
                daemon.client.stop(&id, 0).await;
                (137, "Error")
            } else {
                // What the init process's end leaves of this is not looked at.
                daemon.client.exec(&id, &["sh", "-c", "until test -p /end; do :; done; echo 0 >/end"]).await;
                (0, "Completed")
            };
            let status = daemon.client.wait_exit(&id).await;
            assert_eq!(how(&status), expected, "round {round}: {status:?}");
            daemon.client.remove(&id).await;
        }
    });
}

#[test]
fn a_stop_that_races_with_the_kill() {
    scenario::run(Options::default(), async |daemon| {
        let pods = pods(daemon).await;
        let mut killed_for_memory = 0;
        let id = daemon.client.launch(&pods[0], limited("usual", &format!("exec {HOG}"))).await;
        let started = Instant::now();
        daemon.client.wait_exit(&id).await;
        let usual = started.elapsed();
        for round in 0..rounds() {
            let config = limited(&format!("race{round}"), &format!("exec {HOG}"));
            let id = daemon.client.launch(&pods[round % 2], config).await;
            // From long before its end to long after, however fast the machine is.
            let step = u32::try_from(round % 20).unwrap();
            tokio::time::sleep(usual * step * step / 60).await;
            daemon.client.stop(&id, 0).await;
            let status = daemon.client.status(&id).await;
            assert_eq!(status.exit_code, 137, "round {round}: {status:?}");
            // The kernel counts none that was dying of another signal.
            if let Some(count) = oom_kills(&id) {
                let expected = if count > 0 { "OOMKilled" } else { "Error" };
                assert_eq!(status.reason, expected, "round {round}, {count} counted: {status:?}");
            }
            assert!(["OOMKilled", "Error"].contains(&status.reason.as_str()), "round {round}: {status:?}");
            killed_for_memory += usize::from(status.reason == "OOMKilled");
            daemon.client.remove(&id).await;
        }
        assert!(killed_for_memory > 0, "no stop came late enough for the kernel to be first");
    });
}

#[test]
fn an_end_that_races_with_the_kill() {
    scenario::run(Options::default(), async |daemon| {
        let pods = pods(daemon).await;
        for round in 0..rounds() {
            // From well below the limit to well beyond it: some just end, some are killed just before their end.
            let kib = 13 * 1024 + (round % 40) * 128;
            let script = format!("exec dd if=/dev/zero of=/dev/null bs={kib}K count=1");
            let id =
                daemon.client.launch(&pods[round / 40 % 2], limited(&format!("brink{round}"), &script)).await;
            let status = daemon.client.wait_exit(&id).await;
            let expected = match oom_kills(&id) {
                Some(0) => (0, "Completed"),
                Some(_) => OOM_KILLED,
                None if status.exit_code == 0 => (0, "Completed"),
                None => OOM_KILLED,
            };
            assert_eq!(how(&status), expected, "round {round}, {kib} KiB: {status:?}");
            daemon.client.remove(&id).await;
        }
    });
}

#[test]
fn many_at_once() {
    const AT_ONCE: usize = 10;
    scenario::run(Options::default(), async |daemon| {
        let pods = pods(daemon).await;
        for turn in 0..rounds().div_ceil(AT_ONCE) {
            let mut launches = Vec::new();
            for number in 0..AT_ONCE {
                let (client, pod) = (daemon.client.clone(), pods[number % 2].clone());
                // Every other one goes on, and must not be taken for one that was killed.
                let (script, expected) = match number / 2 % 2 {
                    0 => (format!("exec {HOG}"), OOM_KILLED),
                    _ => ("exit 4".to_owned(), (4, "Error")),
                };
                let config = limited(&format!("many{turn}-{number}"), &script);
                let launch = tokio::spawn(async move { client.launch(&pod, config).await });
                launches.push((launch, expected));
            }
            for (launch, expected) in launches {
                let status = daemon.client.wait_exit(&launch.await.unwrap()).await;
                assert_eq!(how(&status), expected, "turn {turn}: {status:?}");
                daemon.client.remove(&status.id).await;
            }
        }
    });
}

/// Waits until nothing runs in a container, without asking the daemon.
async fn dead(id: &str) {
    eventually("it is dead", async || processes_mentioning(id).is_empty().then_some(())).await;
}

#[test]
fn a_daemon_that_was_away_learns_it() {
    scenario::run(Options::default(), async |daemon| {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..rounds() {
            let pod = daemon.client.run_pod(daemon.host_pod("away")).await;
            let gate = folder.path().join(format!("go{round}"));
            let script = format!("while ! test -e /go/go{round}; do sleep 0.01; done; exec {HOG}");
            let mut config = limited("away", &script);
            config.mounts = vec![bind(folder.path(), "/go")];
            let id = daemon.client.launch(&pod, config).await;
            if round % 2 == 0 {
                daemon.kill();
                std::fs::write(&gate, "").unwrap();
                dead(&id).await;
            } else {
                // It dies while the daemon does, or while the next one starts.
                std::fs::write(&gate, "").unwrap();
                tokio::time::sleep(Duration::from_millis(round as u64 % 25)).await;
                daemon.kill();
            }
            daemon.spawn().await;
            let status = daemon.client.wait_exit(&id).await;
            assert_eq!(how(&status), OOM_KILLED, "round {round}: {status:?}");
            // And the next one reads it from its own record.
            daemon.kill();
            daemon.spawn().await;
            assert_eq!(how(&daemon.client.status(&id).await), OOM_KILLED, "round {round}, told again");
            daemon.client.stop_pod(&pod.id).await;
            daemon.client.remove_pod(&pod.id).await;
        }
    });
}

/// Sets the limit of the cgroup that a container's is in, as the kubelet does for a pod.
fn limit_pod_of(id: &str, bytes: i64) {
    let container = memory_cgroup(id).expect("it runs");
    let file = if is_cgroup_v1() { "memory.limit_in_bytes" } else { "memory.max" };
    let path = container.parent().expect("it is in the pod's").join(file);
    std::fs::write(&path, bytes.to_string()).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
}

#[test]
fn the_limit_can_be_the_pods() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("whole")).await;
        let quiet = daemon.client.launch(&pod, container("quiet", BUSYBOX, &["sleep", "10000"])).await;
        limit_pod_of(&quiet, LIMIT);
        for round in 0..rounds() {
            let command = format!("exec {HOG}");
            let config = container(&format!("hog{round}"), BUSYBOX, &["sh", "-c", &command]);
            let status = end_of(daemon, &pod, config).await;
            assert_eq!(how(&status), OOM_KILLED, "round {round}: {status:?}");
        }
        let status = daemon.client.status(&quiet).await;
        assert_eq!(status.state(), v1::ContainerState::ContainerRunning, "{status:?}");
        daemon.client.stop(&quiet, 0).await;
        let status = daemon.client.wait_exit(&quiet).await;
        assert_eq!(how(&status), (137, "Error"), "{status:?}");
    });
}
