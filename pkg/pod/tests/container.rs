//! Containers' lives, with the real shim and a real image.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "node/machine.rs"]
mod machine;

use std::{
    fs,
    time::{Duration, Instant},
};

use carpel_pod::{
    ContainerId, ContainerState, CreateError, EventKind, ExitReason, FailureKind, PodId, ShimError,
    StartError, UpdateError,
};
use carpel_spec::config::{PidMode, Resources};
use machine::{
    Machine, PATIENCE, cgroups_of, host_network, is_alive, kill, on_machine, sandbox, send, shell, until,
};
use nix::sys::signal::Signal;

/// Sleeps until it is killed, and does not hear SIGTERM.
const DEAF: &str = "trap '' TERM; while :; do sleep 1; done";
/// Sleeps until it is asked to stop.
const POLITE: &str = "trap 'exit 3' TERM; touch /ready; while :; do sleep 0.05; done";

async fn pod(machine: &Machine) -> PodId {
    machine.import_busybox().await;
    machine.host_pod("web").await
}

/// A container that runs `POLITE` and has set its trap: before, a signal would be lost on an init process.
async fn polite(machine: &Machine, pod: &PodId, name: &str) -> ContainerId {
    let id = machine.started(pod, name, POLITE).await;
    let ready = machine.path(&format!("root/containers/{id}/upper/ready"));
    until("the trap is set", async || ready.exists().then_some(())).await;
    id
}

#[test]
fn a_container_runs_logs_and_exits() {
    on_machine(|machine| async move {
        machine.import_busybox().await;
        let mut config = host_network(sandbox("web"));
        config.log_directory = Some(machine.path("logs"));
        let pod = machine.pods().run(config).await.unwrap();
        let mut config = shell("job", "echo hello; echo oops >&2; exit 7");
        config.log_path = Some("job/0.log".into());
        let id = machine.pods().create_container(pod.as_str(), config).await.unwrap();
        let created = machine.container(&id);
        assert_eq!(created.state, ContainerState::Created);
        assert!(created.image_id.starts_with("sha256:") && !created.image_ref.is_empty());
        assert_eq!(created.stop_signal, "SIGTERM");
        let spec = until("the spec is there", async || machine.pods().runtime_spec(id.as_str()).await).await;
        assert!(spec.contains("echo hello"), "{spec}");
        machine.pods().start_container(id.as_str()).await.unwrap();
        let exit = machine.exit(&id).await;
        assert_eq!((exit.code, exit.reason), (7, ExitReason::Error));
        assert!(exit.started_at_ns > 0 && exit.finished_at_ns >= exit.started_at_ns);
        let log = machine.container(&id).log_path.clone().unwrap();
        assert_eq!(log, machine.path("logs/job/0.log"));
        let text = fs::read_to_string(log).unwrap();
        assert!(text.contains(" stdout F hello\n") && text.contains(" stderr F oops\n"), "{text}");
        machine.pods().remove_container(id.as_str()).await.unwrap();
        machine.pods().remove_container(id.as_str()).await.unwrap();
        assert!(machine.pods().find_container(id.as_str()).is_err());
        machine
    });
}

#[test]
fn creations_of_one_name_join() {
    on_machine(|machine| async move {
        let pod = pod(&machine).await;
        let pods = machine.pods();
        let create = || pods.create_container(pod.as_str(), shell("a", "exit 0"));
        let (one, two) = tokio::join!(create(), create());
        let id = one.unwrap();
        assert_eq!(two.unwrap(), id);
        assert!(
            tokio::time::timeout(Duration::ZERO, pods.create_container(pod.as_str(), shell("b", "exit 0")))
                .await
                .is_err()
        );
        let b = pods.create_container(pod.as_str(), shell("b", "exit 0")).await.unwrap();
        assert_eq!(pods.containers().len(), 2);
        let other = pods.create_container(pod.as_str(), shell("b", "exit 1")).await;
        assert!(matches!(other, Err(CreateError::NameTaken { id, .. }) if id == b));
        machine
    });
}

#[test]
fn what_cannot_be_made_leaves_nothing() {
    on_machine(|machine| async move {
        let pod = pod(&machine).await;
        let pods = machine.pods();
        let create = async |change: &dyn Fn(&mut carpel_spec::config::ContainerConfig)| {
            let mut config = shell("a", "exit 0");
            change(&mut config);
            pods.create_container(pod.as_str(), config).await.unwrap_err()
        };
        let err = create(&|config| config.image = "carpel.test/absent:1".to_owned()).await;
        assert!(matches!(err, CreateError::ImageNotFound(_)), "{err:?}");
        let err = create(&|config| config.security.privileged = true).await;
        assert!(matches!(err, CreateError::PrivilegedNotAllowed { .. }), "{err:?}");
        let err = create(&|config| config.security.pid = Some(PidMode::Target("ab".to_owned()))).await;
        assert!(matches!(err, CreateError::PidTarget { .. }), "{err:?}");
        let err = create(&|config| config.working_dir = "../..".to_owned()).await;
        assert!(matches!(err, CreateError::Plan { .. }), "{err:?}");
        let err = create(&|config| {
            config.security.run_as = Some(carpel_spec::config::RunAs::Name("stranger".to_owned()));
        })
        .await;
        let refused = |err: &CreateError, wanted: FailureKind| match err {
            CreateError::Shim { source, .. } => {
                matches!(&**source, ShimError::Refused { kind, .. } if *kind == wanted)
            }
            _ => false,
        };
        assert!(refused(&err, FailureKind::User), "{err:?}");
        assert!(pods.containers().is_empty());
        let left = fs::read_dir(machine.path("root/containers")).unwrap().count();
        assert_eq!(left, 0, "folders are left");
        // The name is free all the same.
        machine.created(&pod, "a", "exit 0").await;
        machine
    });
}

#[test]
fn a_command_that_is_not_there_is_a_start_error() {
    on_machine(|machine| async move {
        let pod = pod(&machine).await;
        let mut config = shell("a", "");
        config.command = vec!["/bin/absent".to_owned()];
        // Whether it is found out at creation or at the start is the runtime module's choice.
        match machine.pods().create_container(pod.as_str(), config).await {
            Err(err) => assert!(matches!(err, CreateError::Shim { .. }), "{err:?}"),
            Ok(id) => {
                let err = machine.pods().start_container(id.as_str()).await.unwrap_err();
                assert!(matches!(err, StartError::Shim { .. }), "{err:?}");
                let exit = machine.exit(&id).await;
                assert_eq!((exit.code, exit.reason), (128, ExitReason::StartError));
                assert!(exit.started_at_ns > 0 && exit.finished_at_ns > 0 && exit.message.contains("absent"));
                let again = machine.pods().start_container(id.as_str()).await;
                assert!(matches!(again, Err(StartError::NotCreated(_))));
            }
        }
        machine
    });
}

#[test]
fn a_stop_asks_waits_and_kills() {
    on_machine(|machine| async move {
        let pod = pod(&machine).await;
        let asked = polite(&machine, &pod, "polite").await;
        machine.pods().stop_container(asked.as_str(), PATIENCE).await.unwrap();
        assert_eq!(machine.exit(&asked).await.code, 3);
        machine.pods().stop_container(asked.as_str(), PATIENCE).await.unwrap();
        machine.pods().stop_container(&"0".repeat(64), PATIENCE).await.unwrap();

        let deaf = machine.started(&pod, "deaf", DEAF).await;
        machine.pods().stop_container(deaf.as_str(), Duration::ZERO).await.unwrap();
        let exit = machine.exit(&deaf).await;
        assert_eq!((exit.code, exit.reason), (137, ExitReason::Error));

        let never_started = machine.created(&pod, "created", "exit 0").await;
        machine.pods().stop_container(never_started.as_str(), PATIENCE).await.unwrap();
        machine.exit(&never_started).await;
        machine
    });
}

#[test]
fn a_second_stop_shortens_and_execs_do_not_wait() {
    on_machine(|machine| async move {
        let pod = pod(&machine).await;
        let id = machine.started(&pod, "deaf", DEAF).await;
        let pods = machine.pods().clone();
        let first = tokio::spawn({
            let (pods, id) = (pods.clone(), id.clone());
            async move { pods.stop_container(id.as_str(), Duration::from_secs(3600)).await }
        });
        tokio::task::yield_now().await;
        // A larger grace extends nothing, and whoever gives up changes nothing.
        let longer = pods.stop_container(id.as_str(), Duration::from_secs(7200));
        assert!(tokio::time::timeout(Duration::from_millis(50), longer).await.is_err());
        let output =
            pods.exec_sync(id.as_str(), vec!["/bin/echo".into(), "still".into()], Some(PATIENCE)).await;
        assert_eq!(output.unwrap().stdout, b"still\n");
        assert!(matches!(machine.container(&id).state, ContainerState::Running { .. }));
        pods.stop_container(id.as_str(), Duration::from_millis(10)).await.unwrap();
        first.await.unwrap().unwrap();
        assert_eq!(machine.exit(&id).await.code, 137);
        machine
    });
}

#[test]
fn an_abandoned_stop_goes_on() {
    on_machine(|machine| async move {
        let pod = pod(&machine).await;
        let id = machine.started(&pod, "deaf", DEAF).await;
        let stop = machine.pods().stop_container(id.as_str(), Duration::from_millis(200));
        assert!(tokio::time::timeout(Duration::from_millis(20), stop).await.is_err());
        assert_eq!(machine.exit(&id).await.code, 137);
        machine
    });
}

#[test]
fn running_containers_are_removed_with_all_they_hold() {
    on_machine(|machine| async move {
        let pod = pod(&machine).await;
        let id = machine.started(&pod, "deaf", DEAF).await;
        let (pid, folder) = (machine.pid(&id), machine.path(&format!("root/containers/{id}")));
        let cgroup = machine.container(&id).cgroup_path.clone();
        assert!(folder.exists() && is_alive(pid) && !cgroups_of(&cgroup).is_empty());
        machine.pods().remove_container(id.as_str()).await.unwrap();
        assert!(!folder.exists() && !is_alive(pid) && cgroups_of(&cgroup).is_empty());
        // The whole pod at once, while something runs in it.
        let other = machine.started(&pod, "other", DEAF).await;
        let pid = machine.pid(&other);
        machine.pods().stop(pod.as_str()).await.unwrap();
        assert!(!is_alive(pid));
        let exit = machine.exit(&other).await;
        assert_eq!((exit.code, exit.reason, exit.message.as_str()), (137, ExitReason::Error, ""));
        machine.pods().remove(pod.as_str()).await.unwrap();
        assert!(machine.pods().find_container(other.as_str()).is_err());
        machine
    });
}

#[test]
fn a_killed_shim_takes_its_containers_along() {
    on_machine(|machine| async move {
        let pod = pod(&machine).await;
        let done = machine.started(&pod, "done", "exit 5").await;
        machine.exit(&done).await;
        let running = machine.started(&pod, "running", DEAF).await;
        let waiting = machine.created(&pod, "waiting", "exit 0").await;
        let pid = machine.pid(&running);
        kill(machine.pods().find_pod(pod.as_str()).unwrap().shim_pid.unwrap());
        let exit = machine.exit(&running).await;
        assert_eq!((exit.code, exit.reason), (137, ExitReason::Error));
        assert!(exit.message.contains("shim") && exit.started_at_ns > 0);
        machine.exit(&waiting).await;
        assert_eq!(machine.exit(&done).await.code, 5);
        assert!(!is_alive(pid));
        assert!(cgroups_of(&machine.container(&running).cgroup_path).is_empty());
        let created = machine.pods().create_container(pod.as_str(), shell("late", "exit 0")).await;
        assert!(matches!(created, Err(CreateError::PodNotReady(_))));
        machine.pods().remove_container(running.as_str()).await.unwrap();
        machine.pods().stop(pod.as_str()).await.unwrap();
        machine.pods().remove(pod.as_str()).await.unwrap();
        machine
    });
}

#[test]
fn a_restart_sees_what_ended_meanwhile() {
    on_machine(|mut machine: Machine| async move {
        let pod = pod(&machine).await;
        let before = machine.started(&pod, "before", "exit 4").await;
        machine.exit(&before).await;
        let running = polite(&machine, &pod, "running").await;
        let ending = machine.started(&pod, "ending", "while [ ! -e /go ]; do sleep 0.02; done; exit 6").await;
        let created = machine.created(&pod, "created", "exit 8").await;
        let snapshot = machine.container(&running);
        let go = format!("/proc/{}/root/go", machine.pid(&ending));
        machine.crash().await;
        fs::write(go, "").unwrap();
        let record = machine.path(&format!("state/pods/{pod}/exits/{ending}"));
        until("the shim recorded the exit", async || record.exists().then_some(())).await;
        machine.start().await;

        assert_eq!(machine.exit(&ending).await.code, 6);
        let exit = machine.exit(&before).await;
        assert_eq!((exit.code, exit.reason), (4, ExitReason::Error));
        let after = machine.container(&running);
        assert_eq!((&after.state, &after.image_ref), (&snapshot.state, &snapshot.image_ref));
        assert_eq!((&after.config, after.created_at_ns), (&snapshot.config, snapshot.created_at_ns));
        assert_eq!(machine.container(&created).state, ContainerState::Created);
        machine.pods().start_container(created.as_str()).await.unwrap();
        assert_eq!(machine.exit(&created).await.code, 8);
        let output = machine.pods().exec_sync(running.as_str(), vec!["/bin/true".into()], None).await;
        assert_eq!(output.unwrap().exit_code, 0);
        machine.pods().stop_container(running.as_str(), PATIENCE).await.unwrap();
        assert_eq!(machine.exit(&running).await.code, 3);
        machine
    });
}

#[test]
fn a_restart_after_the_shim_was_killed_ends_what_it_ran() {
    on_machine(|mut machine: Machine| async move {
        let pod = pod(&machine).await;
        let running = machine.started(&pod, "running", DEAF).await;
        let (pid, shim) =
            (machine.pid(&running), machine.pods().find_pod(pod.as_str()).unwrap().shim_pid.unwrap());
        machine.crash().await;
        kill(shim);
        until("the shim is gone", async || (!is_alive(shim)).then_some(())).await;
        machine.start().await;
        assert_eq!(machine.exit(&running).await.code, 137);
        assert!(!is_alive(pid));
        machine
    });
}

#[test]
fn a_silent_shim_holds_up_nothing_but_its_own_pod() {
    on_machine(|mut machine: Machine| async move {
        let silent = pod(&machine).await;
        let other = machine.host_pod("other").await;
        let of_silent = polite(&machine, &silent, "a").await;
        let of_other = polite(&machine, &other, "a").await;
        let running = machine.container(&of_silent).state.clone();
        let shim = machine.pods().find_pod(silent.as_str()).unwrap().shim_pid.unwrap();
        machine.crash().await;
        send(shim, Signal::SIGSTOP);
        machine.start().await;
        assert_eq!(machine.container(&of_silent).state, ContainerState::Unknown);
        assert!(matches!(machine.container(&of_other).state, ContainerState::Running { .. }));
        machine.pods().stop_container(of_other.as_str(), PATIENCE).await.unwrap();
        send(shim, Signal::SIGCONT);
        until("the shim has told", async || (machine.container(&of_silent).state == running).then_some(()))
            .await;
        machine.pods().stop_container(of_silent.as_str(), PATIENCE).await.unwrap();
        assert_eq!(machine.exit(&of_silent).await.code, 3);
        machine
    });
}

#[test]
fn a_container_whose_record_is_damaged_is_ended() {
    on_machine(|mut machine: Machine| async move {
        let pod = pod(&machine).await;
        let damaged = machine.started(&pod, "damaged", DEAF).await;
        let other = machine.started(&pod, "other", DEAF).await;
        let pid = machine.pid(&damaged);
        machine.crash().await;
        let folder = machine.path(&format!("root/containers/{damaged}"));
        fs::write(folder.join("container.json"), "{").unwrap();
        machine.start().await;
        until("it is dead and gone", async || (!is_alive(pid) && !folder.exists()).then_some(())).await;
        assert!(machine.pods().find_container(damaged.as_str()).is_err());
        assert!(is_alive(machine.pid(&other)));
        assert_eq!(fs::read_dir(machine.path("root/quarantine")).unwrap().count(), 1);
        // Its name is free.
        machine.started(&pod, "damaged", "exit 0").await;
        machine
    });
}

/// Makes a record say that its container was being made.
fn unmake(machine: &Machine, id: &ContainerId) -> std::path::PathBuf {
    let folder = machine.path(&format!("root/containers/{id}"));
    let path = folder.join("container.json");
    let record = fs::read_to_string(&path).unwrap();
    let creating = record.replacen("\"phase\":\"created\"", "\"phase\":\"creating\"", 1);
    assert_ne!(record, creating, "a record says how far its container is");
    fs::write(&path, creating).unwrap();
    folder
}

#[test]
fn containers_that_were_being_made_are_taken_back() {
    on_machine(|mut machine: Machine| async move {
        let pod = pod(&machine).await;
        let known = machine.created(&pod, "known", "exit 3").await;
        let running = machine.started(&pod, "running", DEAF).await;
        let kept = machine.created(&pod, "kept", "exit 5").await;
        let (pid, cgroup) = (machine.pid(&running), machine.container(&known).cgroup_path.clone());
        assert!(!cgroups_of(&cgroup).is_empty());
        machine.crash().await;
        let known_folder = unmake(&machine, &known);
        let running_folder = unmake(&machine, &running);
        // The daemon ended between its record and the shim's Create.
        let absent = ContainerId::try_from("ab".repeat(32)).unwrap();
        let absent_folder = machine.path(&format!("root/containers/{absent}"));
        fs::create_dir(&absent_folder).unwrap();
        let record = fs::read_to_string(known_folder.join("container.json")).unwrap();
        let record = record.replace(known.as_str(), absent.as_str()).replace("\"known\"", "\"absent\"");
        fs::write(absent_folder.join("container.json"), record).unwrap();
        machine.start().await;
        for id in [&known, &running, &absent] {
            assert!(machine.pods().find_container(id.as_str()).is_err());
        }
        // The names are free at once.
        for name in ["known", "running", "absent"] {
            let again = machine.started(&pod, name, "exit 7").await;
            assert!(![&known, &running, &absent].contains(&&again));
            assert_eq!(machine.exit(&again).await.code, 7);
        }
        for folder in [known_folder, running_folder, absent_folder] {
            until("the files are gone", async || (!folder.exists()).then_some(())).await;
        }
        assert!(!is_alive(pid), "its files go when it is dead");
        assert!(cgroups_of(&cgroup).is_empty(), "the shim has forgotten it");
        machine.pods().start_container(kept.as_str()).await.unwrap();
        assert_eq!(machine.exit(&kept).await.code, 5);
        assert_eq!(fs::read_dir(machine.path("root/quarantine")).unwrap().count(), 0);
        machine
    });
}

#[test]
fn files_of_a_damaged_container_stay_until_its_shim_has_let_go() {
    on_machine(|mut machine: Machine| async move {
        let pod = pod(&machine).await;
        let damaged = machine.started(&pod, "damaged", DEAF).await;
        let (pid, shim) =
            (machine.pid(&damaged), machine.pods().find_pod(pod.as_str()).unwrap().shim_pid.unwrap());
        machine.crash().await;
        let folder = machine.path(&format!("root/containers/{damaged}"));
        fs::write(folder.join("container.json"), "{").unwrap();
        send(shim, Signal::SIGSTOP);
        machine.start().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(folder.exists() && is_alive(pid), "the shim was not heard yet");
        send(shim, Signal::SIGCONT);
        until("it is gone", async || (!folder.exists()).then_some(())).await;
        assert!(!is_alive(pid));
        machine
    });
}

#[test]
fn a_pod_whose_shim_hangs_can_be_removed() {
    on_machine(|machine| async move {
        let pod = pod(&machine).await;
        let id = machine.started(&pod, "a", DEAF).await;
        let (pid, shim) =
            (machine.pid(&id), machine.pods().find_pod(pod.as_str()).unwrap().shim_pid.unwrap());
        send(shim, Signal::SIGSTOP);
        machine.pods().stop(pod.as_str()).await.unwrap();
        assert!(!is_alive(pid) && !is_alive(shim));
        assert_eq!(machine.exit(&id).await.code, 137);
        machine
    });
}

#[test]
fn limits_change_all_or_none() {
    on_machine(|machine| async move {
        let pod = pod(&machine).await;
        let mut config = shell("a", DEAF);
        config.resources =
            Resources { cpu_shares: Some(512), memory_limit_bytes: Some(64 << 20), ..Resources::default() };
        let id = machine.pods().create_container(pod.as_str(), config).await.unwrap();
        machine.pods().start_container(id.as_str()).await.unwrap();
        let new = Resources { memory_limit_bytes: Some(96 << 20), ..Resources::default() };
        machine.pods().update_resources(id.as_str(), new).await.unwrap();
        let live = machine.container(&id).resources.clone();
        assert_eq!((live.cpu_shares, live.memory_limit_bytes), (Some(512), Some(96 << 20)));
        let bad = Resources { cpu_period_us: Some(1), ..Resources::default() };
        let err = machine.pods().update_resources(id.as_str(), bad).await.unwrap_err();
        assert!(matches!(err, UpdateError::Plan { .. }));
        assert_eq!(machine.container(&id).resources, live);
        let stats = machine.pods().container_stats(id.as_str()).await.unwrap();
        let memory = stats.usage.unwrap().memory.unwrap();
        assert!(memory.available_bytes.unwrap() > 64 << 20, "the kernel has the new limit: {memory:?}");
        machine.pods().stop_container(id.as_str(), Duration::ZERO).await.unwrap();
        let late = machine.pods().update_resources(id.as_str(), Resources::default()).await;
        assert!(matches!(late, Err(UpdateError::NotAlive(_))));
        machine
    });
}

#[test]
fn statistics_are_there_for_all_that_run() {
    on_machine(|machine| async move {
        machine.import_busybox().await;
        let pod = machine.pods().run(sandbox("web")).await.unwrap();
        let script = "dd if=/dev/zero of=/data bs=1024 count=512; while :; do :; done";
        let busy = machine.started(&pod, "busy", script).await;
        let done = machine.started(&pod, "done", "exit 0").await;
        machine.exit(&done).await;
        let stats = until("the writable layer is measured", async || {
            let all = machine.pods().all_container_stats(|_| true).await;
            assert_eq!(all.len(), 2);
            let of_done = all.iter().find(|stats| stats.container.id == done).unwrap();
            assert!(of_done.usage.is_none());
            let of_busy = all.into_iter().find(|stats| stats.container.id == busy).unwrap();
            let rate = of_busy.usage.as_ref()?.cpu?.rate_nano_cores;
            (rate.is_some_and(|rate| rate > 0) && of_busy.writable_layer.is_some()).then_some(of_busy)
        })
        .await;
        let usage = stats.usage.unwrap();
        assert!(usage.cpu.unwrap().usage_ns > 0 && usage.memory.unwrap().working_set_bytes > 0);
        let pod_stats = machine.pods().pod_stats(pod.as_str()).await.unwrap();
        assert_eq!(pod_stats.containers.len(), 1);
        assert_eq!(pod_stats.network[0].name, "eth0");
        machine
    });
}

#[test]
fn events_tell_a_pods_whole_life() {
    on_machine(|machine| async move {
        machine.import_busybox().await;
        let mut events = machine.pods().events();
        let pod = machine.host_pod("web").await;
        let id = machine.started(&pod, "a", "exit 0").await;
        machine.exit(&id).await;
        machine.pods().remove(pod.as_str()).await.unwrap();
        let mut seen = Vec::new();
        while seen.last() != Some(&(EventKind::Deleted, pod.to_string())) {
            let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap();
            assert_eq!(event.pod.id, pod);
            if event.kind == EventKind::Stopped && event.subject == id.as_str() {
                assert!(matches!(event.containers[0].state, ContainerState::Exited(_)));
            }
            seen.push((event.kind, event.subject.clone()));
        }
        let of = |subject: &str| -> Vec<EventKind> {
            seen.iter().filter(|(_, name)| name == subject).map(|(kind, _)| *kind).collect()
        };
        let life = [EventKind::Created, EventKind::Started, EventKind::Stopped, EventKind::Deleted];
        assert_eq!(of(id.as_str()), life);
        assert_eq!(of(pod.as_str()), life);
        machine
    });
}

#[test]
fn out_of_memory_is_told() {
    on_machine(|machine| async move {
        let pod = pod(&machine).await;
        let mut config = shell("hungry", "exec tail /dev/zero");
        config.resources.memory_limit_bytes = Some(16 << 20);
        let id = machine.pods().create_container(pod.as_str(), config).await.unwrap();
        machine.pods().start_container(id.as_str()).await.unwrap();
        let exit = machine.exit(&id).await;
        assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled));
        machine
    });
}

#[test]
fn short_lives_are_seen_whole() {
    on_machine(|machine| async move {
        let pod = pod(&machine).await;
        let start = Instant::now();
        for number in 0..10 {
            let id = machine.started(&pod, &format!("a{number}"), "exit 9").await;
            let exit = machine.exit(&id).await;
            assert_eq!((exit.code, exit.reason), (9, ExitReason::Error));
            machine.pods().remove_container(id.as_str()).await.unwrap();
        }
        println!("create, start, exit, remove: {:?} each", start.elapsed() / 10);
        machine
    });
}
