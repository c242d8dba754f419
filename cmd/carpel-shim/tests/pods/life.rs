//! A container's life: made, started, ended, deleted.

use carpel_shim_api::message::{ContainerState, FailureKind, Kill, PullDown, Update, request};
use carpel_shim_api::plan::Resources;

use crate::daemon::Daemon;
use crate::harness::{Pod, container, is_alive, until};

#[test]
fn a_container_runs_and_its_end_is_told_once_its_record_is_written() {
    let mut pod = Pod::start();
    let create = pod.shell("c1", "echo hello; echo oops >&2; exit 7");
    pod.create(create);
    let created = pod.daemon.snapshot();
    assert!(created.ready);
    assert_eq!(created.containers[0].state(), ContainerState::Created);
    pod.start_container("c1");
    let exit = pod.daemon.exit_of("c1");
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (7, 0, false));
    assert!(exit.started_at_ns > 0 && exit.finished_at_ns >= exit.started_at_ns);
    assert_eq!(pod.record("c1"), Some(exit.clone()));
    assert_eq!(pod.said("c1", "stdout"), "hello\n");
    assert_eq!(pod.said("c1", "stderr"), "oops\n");
    let after = pod.daemon.snapshot();
    assert_eq!(after.containers[0].state(), ContainerState::Exited);
    assert_eq!(after.containers[0].exit, Some(exit));
    assert_eq!(after.containers[0].pid, 0);
    pod.delete("c1");
    assert_eq!(pod.record("c1"), None);
    assert!(carpel_cgroups::Cgroup::open(crate::harness::tree(), &pod.cgroup_path("c1")).is_err());
    assert!(pod.daemon.snapshot().containers.is_empty());
    // Again, and of one that never was: no error.
    pod.delete("c1");
    pod.shut_down();
}

#[test]
fn signals_end_a_container_with_their_number() {
    let mut pod = Pod::start();
    for (id, signal, code) in [("c9", 9, 137), ("c15", 15, 143), ("c37", 37, 0)] {
        // 37 is SIGRTMIN+3, which stops systemd.
        let script = "trap 'exit 143' TERM; trap 'exit 0' 37; echo up; while :; do sleep 0.1; done";
        let create = pod.shell(id, script);
        pod.run(create);
        until("the script", || pod.log(id).contains("up"));
        pod.kill(id, signal);
        let exit = pod.daemon.exit_of(id);
        assert_eq!(exit.exit_code, code, "{id}");
        assert_eq!(exit.signal, if signal == 9 { 9 } else { 0 });
        // A signal to what has exited is no error.
        pod.kill(id, 15);
    }
    let bad = Kill { container_id: "c9".to_owned(), signal: 65, all: false };
    pod.daemon.refused_as(FailureKind::Invalid, request::Body::Kill(bad));
    pod.shut_down();
}

#[test]
fn what_cannot_be_executed_is_told_and_recorded_with_128() {
    let mut pod = Pod::start();
    let create = pod.command("c1", &["/bin/no-such-command"]);
    pod.create(create);
    let message =
        pod.daemon.refused_as(FailureKind::CommandNotExecutable, request::Body::Start(container("c1")));
    assert!(message.contains("no-such-command"), "{message}");
    let exit = pod.daemon.exit_of("c1");
    assert_eq!((exit.exit_code, exit.message), (128, message));
    // It never ran, and that is how it is known again as a start that failed.
    assert!(exit.started_at_ns == 0 && exit.finished_at_ns > 0);
    assert_eq!(pod.record("c1").map(|r| (r.exit_code, r.started_at_ns)), Some((128, 0)));
    assert!(pod.log_path("c1").exists());
    pod.delete("c1");
    pod.shut_down();
}

#[test]
fn a_container_that_cannot_be_made_leaves_nothing() {
    let mut pod = Pod::start();
    let mut create = pod.shell("c1", "true");
    create.plan.rootfs.lowers = vec!["/nowhere/at/all".to_owned()];
    let failure = pod.daemon.refused(request::Body::Create(create));
    assert!(failure.message.contains("/nowhere/at/all"), "{}", failure.message);
    assert!(pod.daemon.snapshot().containers.is_empty());
    assert!(carpel_cgroups::Cgroup::open(crate::harness::tree(), &pod.cgroup_path("c1")).is_err());
    // The id is free again.
    assert_eq!(pod.finish("c1", "exit 3").exit_code, 3);
    let again = pod.shell("c1", "true");
    pod.daemon.refused_as(FailureKind::AlreadyExists, request::Body::Create(again));
    for (id, path) in [("../x", "/carpel-test-x/c"), ("", "/carpel-test-x/c"), ("c2", "/a/../b")] {
        let mut bad = pod.shell("c2", "true");
        bad.container_id = id.to_owned();
        bad.plan.cgroup.path = path.to_owned();
        pod.daemon.refused_as(FailureKind::Invalid, request::Body::Create(bad));
    }
    pod.shut_down();
}

#[test]
fn verbs_out_of_their_time_are_refused() {
    let mut pod = Pod::bare();
    let early = pod.shell("c1", "true");
    pod.daemon.refused_as(FailureKind::WrongState, request::Body::Create(early));
    let mut pod = Pod::start();
    let plan = carpel_shim_api::plan::SandboxPlan::default();
    pod.daemon.refused_as(FailureKind::WrongState, request::Body::Sandbox(plan));
    let create = pod.shell("c1", "sleep 1000");
    pod.daemon.refused_as(FailureKind::NotFound, request::Body::Start(container("c1")));
    pod.run(create);
    pod.daemon.refused_as(FailureKind::WrongState, request::Body::Start(container("c1")));
    pod.daemon.refused_as(FailureKind::WrongState, request::Body::Delete(container("c1")));
    pod.kill("c1", 9);
    pod.daemon.exit_of("c1");
    pod.daemon.refused_as(FailureKind::WrongState, request::Body::Start(container("c1")));
    let update = Update { container_id: "c1".to_owned(), resources: Resources::default() };
    pod.daemon.refused_as(FailureKind::WrongState, request::Body::Update(update));
    pod.shut_down();
}

#[test]
fn a_container_that_was_never_started_is_killed_by_its_deletion() {
    let mut pod = Pod::start();
    let create = pod.shell("c1", "true");
    let pid = pod.create(create);
    assert!(is_alive(pid));
    pod.delete("c1");
    assert!(!is_alive(pid));
    assert!(pod.daemon.snapshot().containers.is_empty());
    assert_eq!(pod.record("c1"), None);
    pod.shut_down();
}

#[test]
fn limits_are_set_and_changed() {
    let mut pod = Pod::start();
    let mut create = pod.shell("c1", "sleep 1000");
    create.plan.cgroup.resources =
        Resources { pids_limit: Some(50), memory_limit_bytes: Some(64 << 20), ..Resources::default() };
    pod.run(create);
    let stats = |pod: &Pod| {
        let reader = carpel_cgroups::stats::Reader::open(crate::harness::tree(), &pod.cgroup_path("c1"));
        reader.expect("open").read().expect("read")
    };
    assert_eq!(stats(&pod).memory.and_then(|m| m.limit), Some(64 << 20));
    let resources = Resources { memory_limit_bytes: Some(128 << 20), ..Resources::default() };
    pod.daemon.done(request::Body::Update(Update { container_id: "c1".to_owned(), resources }));
    assert_eq!(stats(&pod).memory.and_then(|m| m.limit), Some(128 << 20));
    let resources = Resources { cpuset_cpus: Some("../x".to_owned()), ..Resources::default() };
    let update = Update { container_id: "c1".to_owned(), resources };
    pod.daemon.refused_as(FailureKind::Invalid, request::Body::Update(update));
    pod.shut_down();
}

#[test]
fn a_memory_hog_is_recorded_as_killed_for_want_of_memory() {
    let mut pod = Pod::start();
    let mut create = pod.shell("c1", "x=0123456789abcdef; while :; do x=$x$x; done");
    create.plan.cgroup.resources = Resources {
        memory_limit_bytes: Some(16 << 20),
        memory_swap_limit_bytes: Some(16 << 20),
        ..Resources::default()
    };
    pod.run(create);
    let exit = pod.daemon.exit_of("c1");
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!(exit.exit_code, 137);
    pod.delete("c1");
    pod.shut_down();
}

#[test]
fn all_containers_stop_and_their_records_stay() {
    let mut pod = Pod::start();
    for id in ["c1", "c2"] {
        let create = pod.shell(id, "sleep 1000");
        pod.run(create);
    }
    let create = pod.shell("c3", "true");
    pod.create(create);
    pod.daemon.done(request::Body::StopAll(PullDown {}));
    for (id, started) in [("c1", true), ("c2", true), ("c3", false)] {
        let record = pod.record(id).expect("a record");
        assert_eq!((record.exit_code, record.signal), (137, 9));
        assert_eq!(record.started_at_ns > 0, started);
    }
    assert_eq!(pod.daemon.snapshot().containers.len(), 3);
    // And again, of nothing.
    pod.daemon.done(request::Body::StopAll(PullDown {}));
    assert_eq!(pod.finish("c4", "exit 4").exit_code, 4);
    pod.shut_down();
}

#[test]
fn requests_may_be_sent_ahead_and_from_several_connections() {
    let mut pod = Pod::start();
    let (one, two) = (pod.shell("c1", "exit 1"), pod.shell("c2", "exit 2"));
    let mut other = Daemon::connect(&pod.dir);
    let ids =
        [pod.daemon.send(request::Body::Create(one), &[]), pod.daemon.send(request::Body::Create(two), &[])];
    for id in ids {
        pod.daemon.reply_to(id);
    }
    let first = other.send(request::Body::Start(container("c1")), &[]);
    let second = pod.daemon.send(request::Body::Start(container("c2")), &[]);
    other.reply_to(first);
    pod.daemon.reply_to(second);
    for daemon in [&mut other, &mut pod.daemon] {
        assert_eq!(daemon.exit_of("c1").exit_code, 1);
        assert_eq!(daemon.exit_of("c2").exit_code, 2);
    }
    pod.shut_down();
}
