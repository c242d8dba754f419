//! The systemd cgroup driver: scopes in slices, and what becomes of them when anybody dies or hangs.
//!
//! It takes systemd as process 1, hence `hack/vm test --driver systemd e2e:systemd -- --ignored`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::path::{Path, PathBuf};

use carpel_e2e::client::{Pod, eventually, refusal};
use carpel_e2e::config::{container, resources};
use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::kernel::{cgroup_file, processes, processes_mentioning, run};
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_proto::v1;

const MIB: i64 = 1 << 20;

/// Where a process is, in cgroup2.
fn cgroup_of(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.trim().strip_prefix("0::").unwrap_or_else(|| panic!("not in cgroup2 alone: {text}")).to_owned()
}

fn systemctl(arguments: &[&str]) -> String {
    let output = run("systemctl", arguments);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Units of systemd's that are named after a container, in whatever state.
fn units_of(id: &str) -> String {
    systemctl(&["list-units", "--all", "--full", "--plain", "--no-legend", &format!("*{id}*")])
}

fn limited(name: &str, script: &str) -> v1::ContainerConfig {
    let mut config = container(name, BUSYBOX, &["sh", "-c", script]);
    resources(&mut config).memory_limit_in_bytes = 16 * MIB;
    config
}

async fn is_oom_killed(daemon: &Daemon, pod: &Pod, name: &str) {
    let config = limited(name, "dd if=/dev/zero of=/dev/null bs=200M count=1");
    let status = daemon.client.run_to_end(pod, config).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{name}");
    daemon.client.remove(&status.id).await;
    assert_eq!(units_of(&status.id), "", "{name}");
}

#[test]
#[ignore = "needs systemd as process 1"]
fn a_container_lives_in_a_scope_of_its_pods_slice() {
    scenario::run(Options::default(), async |daemon| {
        let runtime = daemon.client.runtime.clone().runtime_config(v1::RuntimeConfigRequest {}).await;
        let driver = runtime.unwrap().into_inner().linux.unwrap().cgroup_driver();
        assert_eq!(driver, v1::CgroupDriver::Systemd, "the kubelet asks for it");

        let config = daemon.host_pod("web");
        let slice = config.linux.as_ref().unwrap().cgroup_parent.clone();
        let pod = daemon.client.run_pod(config).await;
        let id = daemon.client.launch(&pod, limited("web", "sleep 1000")).await;
        let unit = format!("carpel-{id}.scope");
        let within = format!("/{slice}/{unit}/container");
        let init = processes(&id)[0];
        assert!(cgroup_of(init).ends_with(&within), "{}", cgroup_of(init));
        let shown = systemctl(&["show", &unit, "--property=ActiveState,Slice,Delegate,TasksMax,Description"]);
        for part in [
            "ActiveState=active",
            &format!("Slice={slice}"),
            "Delegate=yes",
            "TasksMax=infinity",
            "container web",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        // An exec is where its container is, and nothing of ours is: shims have a scope of their own.
        let inside = daemon.client.sh(&id, "cat /proc/self/cgroup").await;
        assert!(!inside.contains("scope"), "it sees its own root: {inside}");
        for shim in daemon.shims() {
            assert!(cgroup_of(shim).ends_with("-shims.scope/shims"), "{}", cgroup_of(shim));
        }
        // systemd's own work changes nothing.
        assert_eq!(cgroup_file("memory", &id, "memory.max"), (16 * MIB).to_string());
        systemctl(&["daemon-reload"]);
        systemctl(&["daemon-reexec"]);
        assert_eq!(cgroup_file("memory", &id, "memory.max"), (16 * MIB).to_string());
        assert!(cgroup_of(init).ends_with(&within));
        let second = daemon.client.launch(&pod, container("second", BUSYBOX, &["sleep", "1000"])).await;
        assert!(cgroup_of(processes(&second)[0]).contains(&format!("/{slice}/carpel-{second}.scope/")));
        let stats = v1::ContainerStatsRequest { container_id: id.clone() };
        let stats = daemon.client.runtime.clone().container_stats(stats).await.unwrap().into_inner();
        let memory = stats.stats.unwrap().memory.unwrap();
        assert!(memory.working_set_bytes.unwrap().value > 0);

        daemon.client.stop(&id, 0).await;
        daemon.client.remove(&id).await;
        assert_eq!(units_of(&id), "");
        assert_eq!(carpel_e2e::kernel::cgroups_named(&id), Vec::<PathBuf>::new());
    });
}

#[test]
#[ignore = "needs systemd as process 1"]
fn an_out_of_memory_kill_is_told_every_time() {
    let rounds = std::env::var("CARPEL_OOM_ROUNDS").map_or(20, |text| text.parse().unwrap());
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("oom")).await;
        for round in 0..rounds {
            is_oom_killed(daemon, &pod, &format!("oom-{round}")).await;
        }
        assert_eq!(processes_mentioning("carpel-shim --hold").len(), 1, "but for the shims' nothing is held");
    });
}

#[test]
#[ignore = "needs systemd as process 1"]
fn scopes_outlive_the_daemon_and_end_with_their_containers() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("stays")).await;
        let id = daemon.client.launch(&pod, container("stays", BUSYBOX, &["sleep", "1000"])).await;
        let hog = daemon
            .client
            .launch(
                &pod,
                limited(
                    "hog",
                    "until [ -e /go ]; do sleep 0.1; done; dd if=/dev/zero of=/dev/null bs=200M count=1",
                ),
            )
            .await;
        let (init, shims) = (processes(&id)[0], daemon.shims());
        daemon.kill();
        daemon.spawn().await;
        assert_eq!((processes(&id)[0], daemon.shims()), (init, shims), "nobody was touched");
        // What ends now is told as well as ever: the shim holds the scope, not the daemon.
        daemon.client.sh(&hog, "touch /go").await;
        let status = daemon.client.wait_exit(&hog).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
        // A new pod's shim joins the old one's scope, and new containers get theirs.
        let second = daemon.client.run_pod(daemon.host_pod("second")).await;
        let other = daemon.client.launch(&second, container("other", BUSYBOX, &["sleep", "1000"])).await;
        assert!(cgroup_of(processes(&other)[0]).contains(&format!("carpel-{other}.scope")));
        for shim in daemon.shims() {
            assert!(cgroup_of(shim).ends_with("-shims.scope/shims"), "{}", cgroup_of(shim));
        }
        // Without its shim a container ends, and its scope with it.
        let shim = daemon.client.pod_status(&second.id).await;
        assert_eq!(shim.state(), v1::PodSandboxState::SandboxReady);
        let pid = daemon.shims().into_iter().max().unwrap();
        run("kill", &["-9", &pid.to_string()]);
        eventually("the scope of a container without a shim ends", async || {
            units_of(&other).is_empty().then_some(())
        })
        .await;
    });
}

#[test]
#[ignore = "needs systemd as process 1"]
fn what_systemd_cannot_do_is_told_and_leaves_nothing() {
    scenario::run(Options::default(), async |daemon| {
        let mut path = daemon.host_pod("path");
        path.linux.as_mut().unwrap().cgroup_parent = "/kubepods/pod1".to_owned();
        let status = refusal("a path is no slice", daemon.client.try_run_pod(&path).await);
        assert!(status.message().contains("slice"), "{}", status.message());

        let pod = daemon.client.run_pod(daemon.host_pod("bus")).await;
        // systemctl itself asks systemd directly.
        run("systemctl", &["kill", "--signal=STOP", "dbus.service"]);
        let refused = daemon.client.try_create(&pod, container("late", BUSYBOX, &["sleep", "1000"])).await;
        run("systemctl", &["kill", "--signal=CONT", "dbus.service"]);
        let status = refusal("a bus that stands still", refused);
        assert!(status.message().contains(".scope"), "{}", status.message());
        assert!(daemon.client.list_containers(None).await.is_empty());
        assert_eq!(std::fs::read_dir(daemon.root().join("containers")).unwrap().count(), 0);
        let id = daemon.client.launch(&pod, container("now", BUSYBOX, &["sleep", "1000"])).await;
        assert!(Path::new(&format!("/sys/fs/cgroup{}", cgroup_of(processes(&id)[0]))).is_dir());

        run("systemctl", &["restart", "dbus.service"]);
        let again = daemon.client.try_create(&pod, container("again", BUSYBOX, &["sleep", "1000"])).await;
        // The first call may meet the old connection as it ends.
        if again.is_err() {
            daemon.client.launch(&pod, container("again", BUSYBOX, &["sleep", "1000"])).await;
        }
    });
}
