//! Daemons and shims that are killed: pods live on, nothing is lost, and the next call works.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::path::Path;
use std::time::Duration;

use carpel_e2e::client::{Pod, eventually};
use carpel_e2e::config::{container, namespaces};
use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::kernel::processes;
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_proto::v1;
use carpel_proto::v1::{ContainerState, PodSandboxState};
use rustix::process::{Pid, Signal, kill_process};

fn kill(pid: u32) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
}

/// Everything that the daemon says about its pods and containers.
async fn view(daemon: &Daemon) -> (Vec<v1::PodSandboxStatus>, Vec<v1::ContainerStatus>) {
    let mut pods = Vec::new();
    for pod in daemon.client.list_pods(None).await {
        pods.push(daemon.client.pod_status(&pod.id).await);
    }
    let mut containers = Vec::new();
    for container in daemon.client.list_containers(None).await {
        containers.push(daemon.client.status(&container.id).await);
    }
    pods.sort_by(|one, other| one.id.cmp(&other.id));
    containers.sort_by(|one, other| one.id.cmp(&other.id));
    (pods, containers)
}

/// A pod with a container in every state.
async fn populate(daemon: &Daemon, config: v1::PodSandboxConfig) -> (Pod, String) {
    let pod = daemon.client.run_pod(config).await;
    let running = daemon.client.launch(&pod, container("running", BUSYBOX, &["sleep", "10000"])).await;
    daemon.client.create(&pod, container("created", BUSYBOX, &["sleep", "10000"])).await;
    daemon.client.run_to_end(&pod, container("exited", BUSYBOX, &["sh", "-c", "exit 4"])).await;
    (pod, running)
}

#[test]
fn a_killed_daemon_answers_as_if_nothing_had_happened() {
    scenario::run(Options::default(), async |daemon| {
        let (_, one) = populate(daemon, daemon.pod("one")).await;
        let mut shared = daemon.host_pod("shared");
        namespaces(&mut shared).pid = v1::NamespaceMode::Pod.into();
        populate(daemon, shared).await;
        let (stopped, _) = populate(daemon, daemon.pod("stopped")).await;
        daemon.client.stop_pod(&stopped.id).await;
        let before = view(daemon).await;
        let pids = processes(&one);
        let shims = daemon.shims();
        for _ in 0..5 {
            daemon.kill();
            daemon.spawn().await;
            assert_eq!(view(daemon).await, before);
            assert_eq!(daemon.client.sh(&one, "echo alive").await, "alive");
        }
        assert_eq!(processes(&one), pids, "the same processes");
        assert_eq!(daemon.shims(), shims, "the same shims");
        // Life goes on: what was created starts, what runs stops, new ones come.
        let created = before.1.iter().find(|status| {
            status.state() == ContainerState::ContainerCreated && status.log_path.contains("/one-uid")
        });
        daemon.client.start(&created.expect("one was created and not started").id).await;
        daemon.client.stop(&one, 0).await;
        daemon.client.run_pod(daemon.pod("after")).await;
    });
}

#[test]
fn what_exited_while_the_daemon_was_dead_has_its_code() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("meanwhile")).await;
        let folder = tempfile::tempdir().unwrap();
        let waits = |name: &str, code: &str| {
            let script = format!("while ! test -e /go/{name}; do sleep 0.02; done; echo said; exit {code}");
            let mut config = container(name, BUSYBOX, &["sh", "-c", &script]);
            config.mounts = vec![carpel_e2e::config::bind(folder.path(), "/go")];
            config
        };
        let three = daemon.client.launch(&pod, waits("three", "3")).await;
        let zero = daemon.client.launch(&pod, waits("zero", "0")).await;
        let killed = daemon.client.launch(&pod, container("killed", BUSYBOX, &["sleep", "10000"])).await;
        daemon.kill();
        for name in ["three", "zero"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        kill(processes(&killed)[0]);
        tokio::time::sleep(Duration::from_millis(500)).await;
        daemon.spawn().await;
        for (id, code, reason) in [(&three, 3, "Error"), (&zero, 0, "Completed"), (&killed, 137, "Error")] {
            let status = daemon.client.wait_exit(id).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (code, reason));
            assert!(status.finished_at > status.started_at && status.started_at > 0, "{status:?}");
        }
        let path = daemon.client.status(&three).await.log_path;
        assert_eq!(carpel_e2e::log::text(&carpel_e2e::log::read(Path::new(&path)), "stdout"), "said\n");
    });
}

#[test]
fn a_daemon_that_is_asked_to_end_leaves_the_pods_running() {
    scenario::run(Options::default(), async |daemon| {
        let (_, running) = populate(daemon, daemon.pod("drained")).await;
        let pids = processes(&running);
        // A call under way is answered before the daemon goes.
        let (client, id) = (daemon.client.clone(), running.clone());
        let call =
            tokio::spawn(
                async move { client.try_exec(&id, &["sh", "-c", "sleep 0.5; echo finished"], 0).await },
            );
        tokio::time::sleep(Duration::from_millis(200)).await;
        let status = daemon.terminate().await;
        assert!(status.success(), "{status}");
        let output = call.await.unwrap().expect("the call was answered").into_inner();
        assert_eq!(&output.stdout[..], b"finished\n");
        assert!(!daemon.socket().exists(), "nobody answers any more");
        assert_eq!(processes(&running), pids);
        daemon.spawn().await;
        assert_eq!(daemon.client.sh(&running, "echo alive").await, "alive");
    });
}

#[test]
fn a_killed_shim_takes_its_pod_along_cleanly() {
    scenario::run(Options::default(), async |daemon| {
        let other = daemon.client.run_pod(daemon.host_pod("other")).await;
        let survivor =
            daemon.client.launch(&other, container("survivor", BUSYBOX, &["sleep", "10000"])).await;
        let others = daemon.shims();
        for shared_pid in [false, true] {
            for daemon_too in [false, true] {
                let mut config = daemon.pod(&format!("pod-{shared_pid}-{daemon_too}"));
                if shared_pid {
                    namespaces(&mut config).pid = v1::NamespaceMode::Pod.into();
                }
                let (pod, running) = populate(daemon, config).await;
                daemon.client.exec(&running, &["sh", "-c", "sleep 10000 >/dev/null 2>&1 &"]).await;
                let shim = daemon.shims().into_iter().find(|pid| !others.contains(pid)).unwrap();
                if daemon_too {
                    daemon.kill();
                }
                kill(shim);
                if daemon_too {
                    daemon.spawn().await;
                }
                let status = daemon.client.wait_exit(&running).await;
                assert_eq!(status.exit_code, 137, "{status:?}");
                assert!(status.finished_at > 0 && !status.reason.is_empty(), "{status:?}");
                eventually("its processes are dead", async || {
                    carpel_e2e::kernel::processes_mentioning(&running).is_empty().then_some(())
                })
                .await;
                eventually("the pod is not ready", async || {
                    let state = daemon.client.pod_status(&pod.id).await.state();
                    (state == PodSandboxState::SandboxNotready).then_some(())
                })
                .await;
                daemon.client.stop(&running, 10).await;
                daemon.client.stop_pod(&pod.id).await;
                daemon.client.remove_pod(&pod.id).await;
                assert!(carpel_e2e::kernel::cgroups_named(&running).is_empty());
            }
        }
        assert_eq!(daemon.client.sh(&survivor, "echo alive").await, "alive", "other pods never noticed");
    });
}

#[test]
fn a_frozen_shim_holds_nobody_else_up() {
    scenario::run(Options::default(), async |daemon| {
        let (_, stuck) = populate(daemon, daemon.host_pod("stuck")).await;
        let shim = daemon.shims()[0];
        let pid = Pid::from_raw(i32::try_from(shim).unwrap()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        let (client, id) = (daemon.client.clone(), stuck.clone());
        let waiting = tokio::spawn(async move { client.try_exec(&id, &["echo", "late"], 0).await });
        let (_, other) = populate(daemon, daemon.host_pod("other")).await;
        assert_eq!(daemon.client.sh(&other, "echo alive").await, "alive");
        assert_eq!(daemon.client.list_containers(None).await.len(), 6, "lists wait for no shim");
        assert_eq!(daemon.client.status(&stuck).await.state(), ContainerState::ContainerRunning);
        kill_process(pid, Signal::CONT).unwrap();
        let output = waiting.await.unwrap().expect("answered when the shim goes on").into_inner();
        assert_eq!(&output.stdout[..], b"late\n");
    });
}

/// Runs a pod and starts containers in it until a call fails.
async fn fill(client: carpel_e2e::client::Client, config: v1::PodSandboxConfig) {
    let Ok(pod) = client.try_run_pod(&config).await else { return };
    let pod = Pod { id: pod.into_inner().pod_sandbox_id, config };
    for number in 0..50 {
        let config = container(&format!("c{number}"), BUSYBOX, &["sleep", "10000"]);
        let Ok(created) = client.try_create(&pod, config).await else { return };
        if client.try_start(&created.into_inner().container_id).await.is_err() {
            return;
        }
    }
}

/// Whatever the daemon says runs does run, and nothing else.
async fn states_are_true(daemon: &Daemon) {
    for container in daemon.client.list_containers(None).await {
        let status = daemon.client.status(&container.id).await;
        let alive = !carpel_e2e::kernel::processes_mentioning(&container.id).is_empty();
        match status.state() {
            ContainerState::ContainerRunning => assert!(alive, "running, but nothing runs: {status:?}"),
            ContainerState::ContainerExited => assert!(!alive, "exited, but something runs: {status:?}"),
            ContainerState::ContainerCreated => {}
            ContainerState::ContainerUnknown => panic!("a state nobody knows: {status:?}"),
        }
    }
}

#[test]
fn kills_at_any_moment_leave_all_or_nothing() {
    scenario::run(Options::default(), async |daemon| {
        let turns = std::env::var("CARPEL_RACE_ROUNDS").map_or(12, |text| text.parse().unwrap());
        for turn in 0_u64..turns {
            let (client, config) = (daemon.client.clone(), daemon.pod(&format!("turn{turn}")));
            let name = config.metadata.clone().unwrap();
            let work = tokio::spawn(fill(client, config));
            tokio::time::sleep(Duration::from_millis(3 + turn % 12 * 7)).await;
            daemon.kill();
            work.await.unwrap();
            daemon.spawn().await;
            states_are_true(daemon).await;
            // The kubelet's next step: the same pod again, or away with what is there.
            let pods = daemon.client.list_pods(None).await;
            for pod in pods.iter().filter(|pod| pod.metadata.as_ref() == Some(&name)) {
                daemon.client.stop_pod(&pod.id).await;
                daemon.client.remove_pod(&pod.id).await;
            }
            let again = daemon.client.run_pod(daemon.pod(&format!("turn{turn}"))).await;
            daemon.client.stop_pod(&again.id).await;
            daemon.client.remove_pod(&again.id).await;
        }
    });
}

#[test]
fn damaged_records_do_not_stop_the_start() {
    scenario::run(Options::default(), async |daemon| {
        populate(daemon, daemon.host_pod("kept")).await;
        daemon.kill();
        let mut damaged = 0;
        for base in [daemon.root().to_owned(), daemon.state()] {
            for entry in walk(&base) {
                let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if (name.ends_with(".json") || name.ends_with(".redb") || name.contains("record"))
                    && damaged < 4
                {
                    let length = entry.metadata().unwrap().len();
                    std::fs::File::options().write(true).open(&entry).unwrap().set_len(length / 2).unwrap();
                    damaged += 1;
                }
            }
        }
        assert!(damaged > 0, "there are records to damage");
        daemon.spawn().await;
        // It serves; what the damage took is not asked of it.
        daemon.client.list_pods(None).await;
        daemon.client.pull(BUSYBOX).await;
        let pod = daemon.client.run_pod(daemon.host_pod("after")).await;
        let status = daemon.client.run_to_end(&pod, container("after", BUSYBOX, &["true"])).await;
        assert_eq!(status.exit_code, 0);
    });
}

/// The regular files below a folder, except what is in images.
fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir()
            && !["rootfs", "fs", "layers", "upper", "work"].iter().any(|name| entry.file_name() == *name)
        {
            files.extend(walk(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files
}

#[test]
fn several_daemons_run_beside_each_other() {
    scenario::run(Options::default(), async |first| {
        let (pod, running) = populate(first, first.pod("first")).await;
        scenario::run_inside(Options::default(), async |second| {
            assert!(second.client.list_pods(None).await.is_empty(), "each sees its own");
            second.mirror("images.test", &scenario::images().url());
            second.client.pull(BUSYBOX).await;
            populate(second, second.pod("first")).await;
            first.kill();
            assert_eq!(second.client.list_pods(None).await.len(), 1);
            first.spawn().await;
        })
        .await;
        assert_eq!(first.client.pod_status(&pod.id).await.state(), PodSandboxState::SandboxReady);
        assert_eq!(first.client.sh(&running, "echo alive").await, "alive");
    });
}
