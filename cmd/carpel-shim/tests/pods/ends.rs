//! Ends: of the daemon, of the shim, of what shares a PID namespace.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;

use carpel_shim_api::message::{ContainerState, FailureKind, reply, request};
use carpel_shim_api::plan::PidNamespace;
use carpel_shim_api::record::SOCKET_NAME;
use rustix::process::{Signal, kill_process};

use crate::daemon::Daemon;
use crate::harness::{Pod, container, is_alive, until};

#[test]
fn a_daemon_that_was_away_finds_everything_in_the_snapshot() {
    let mut pod = Pod::start();
    let create = pod.shell("c1", "echo one; while [ ! -e /stop ]; do sleep 0.01; done; echo two; exit 9");
    let pid = pod.run(create);
    until("output", || pod.log("c1").contains("one"));
    let gone = std::mem::replace(&mut pod.daemon, Daemon::connect(&pod.dir));
    drop(gone);
    let snapshot = pod.daemon.snapshot();
    assert_eq!((snapshot.containers[0].state(), snapshot.containers[0].pid), (ContainerState::Running, pid));
    assert!(snapshot.containers[0].started_at_ns > 0);
    assert_eq!(snapshot.containers[0].user.as_ref().map(|u| u.uid), Some(0));
    // It ends while nobody is there.
    let dir = pod.dir.clone();
    drop(pod.daemon.exec("c1", "stop", &["/bin/touch", "/stop"]));
    let silent = Daemon::connect_silently(&dir);
    drop(std::mem::replace(&mut pod.daemon, silent));
    until("the record", || pod.record("c1").is_some());
    pod.daemon = Daemon::connect(&dir);
    let snapshot = pod.daemon.snapshot();
    assert_eq!(snapshot.containers[0].exit, pod.record("c1"));
    assert_eq!(snapshot.containers[0].exit.as_ref().map(|e| e.exit_code), Some(9));
    assert_eq!(pod.said("c1", "stdout"), "one\ntwo\n");
    pod.shut_down();
}

#[test]
fn a_daemon_that_does_not_read_stops_nothing() {
    let mut pod = Pod::start();
    let create = pod.shell("c1", "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done");
    pod.run(create);
    // Without its trap an init process does not even get the signal.
    until("the trap", || pod.log("c1").contains("up"));
    let mut stuck = Daemon::connect(&pod.dir);
    for _ in 0..20_000 {
        stuck.send(request::Body::Snapshot(carpel_shim_api::message::Snapshot {}), &[]);
        if !is_writable(&stuck) {
            break;
        }
    }
    // Answers pile up there; here they come.
    assert_eq!(pod.daemon.snapshot().containers.len(), 1);
    pod.kill("c1", 15);
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 0);
    drop(stuck);
    pod.shut_down();
}

fn is_writable(daemon: &Daemon) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(daemon, PollFlags::OUT)], Some(&now)).expect("poll") > 0
}

#[test]
fn nonsense_on_the_socket_ends_only_its_own_connection() {
    let mut pod = Pod::start();
    let create = pod.shell("c1", "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done");
    pod.run(create);
    // Without its trap an init process does not even get the signal.
    until("the trap", || pod.log("c1").contains("up"));
    let no_request = {
        let mut frame = vec![0u8; 12];
        frame[8] = 2;
        frame
    };
    let too_many_fds = {
        let mut frame = vec![0u8; 12];
        frame[8] = 1;
        frame[10] = 3;
        frame
    };
    let not_a_message = {
        let mut frame = vec![4, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
        frame.extend([0xff; 4]);
        frame
    };
    for bytes in [vec![0xff; 64], no_request, too_many_fds, not_a_message] {
        let mut socket = UnixStream::connect(pod.dir.join(SOCKET_NAME)).expect("connect");
        socket.write_all(&bytes).expect("write");
        let mut rest = Vec::new();
        let closed = std::io::Read::read_to_end(&mut socket, &mut rest);
        assert!(closed.is_err() || rest.is_empty());
    }
    // A request that this shim does not know is answered.
    let mut daemon = Daemon::connect(&pod.dir);
    let id = 7;
    let unknown = [4u8, 0, 0, 0, id, 0, 0, 0, 1, 0, 0, 0, 0xfa, 0x0f, 1, 0];
    daemon.send_bytes(&unknown, &[]);
    let (body, _) = daemon.reply_to(u32::from(id));
    let carpel_shim_api::message::reply::Body::Failure(failure) = body else { panic!("{body:?}") };
    assert_eq!(failure.kind(), FailureKind::Unsupported);
    pod.kill("c1", 15);
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 0);
    pod.shut_down();
}

#[test]
fn a_killed_shim_takes_its_containers_along() {
    let mut pod = Pod::start_with(|plan| plan.shared_pid = true);
    let mut shared = pod.shell("c1", "sleep 1000 & sleep 1000");
    shared.plan.pid_namespace = PidNamespace::Pod.into();
    let own = pod.shell("c2", "sleep 1000 & sleep 1000");
    let created = pod.shell("c3", "true");
    let pids = [pod.run(shared), pod.run(own), pod.create(created)];
    let cgroup = pod.cgroup("c2");
    until("children", || cgroup.procs().is_ok_and(|p| p.len() >= 2));
    pod.kill_shim();
    for pid in pids {
        until("a container's end", || !is_alive(pid));
    }
    until("everything's end", || !cgroup.is_populated().expect("readable"));
}

#[test]
fn signals_of_a_service_manager_are_passed_over() {
    let mut pod = Pod::start();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill_process(pod.process.pid, signal).expect("send");
    }
    assert_eq!(pod.finish("c1", "exit 3").exit_code, 3);
    pod.shut_down();
}

#[test]
fn a_shared_pid_namespace_outlives_its_containers_and_reaps() {
    let mut pod = Pod::start_with(|plan| plan.shared_pid = true);
    let snapshot = pod.daemon.snapshot();
    assert!(snapshot.init_pid > 0 && is_alive(snapshot.init_pid));
    // An orphan of the first container becomes the micro-init's child, and dies with the container.
    let mut first = pod.shell("c1", "sh -c 'sleep 1000 & echo orphan' ; sh -c 'true & true'; sleep 1000");
    let mut second =
        pod.shell("c2", "while ! ps | grep -q 'slee[p]'; do sleep 0.01; done; echo sees it; sleep 1000");
    first.plan.pid_namespace = PidNamespace::Pod.into();
    second.plan.pid_namespace = PidNamespace::Pod.into();
    pod.run(first);
    pod.run(second);
    until("the other container's processes", || pod.log("c2").contains("sees it"));
    until("the orphan", || pod.log("c1").contains("orphan"));
    let cgroup = pod.cgroup("c1");
    pod.kill("c1", 9);
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 137);
    until("the orphan's end", || !cgroup.is_populated().expect("readable"));
    pod.delete("c1");
    assert!(is_alive(snapshot.init_pid));
    // No zombie stays: the micro-init has reaped the orphans.
    let children = format!("/proc/{0}/task/{0}/children", snapshot.init_pid);
    until("no zombies", || fs::read_to_string(&children).is_ok_and(|c| c.trim().is_empty()));
    // A container that joins the namespace of another one.
    let mut third = pod.shell("c3", "kill -0 1 && exit 5");
    third.plan.pid_namespace = PidNamespace::Target.into();
    third.plan.pid_target = "c2".to_owned();
    pod.run(third);
    assert_eq!(pod.daemon.exit_of("c3").exit_code, 5);
    pod.shut_down();
    until("the micro-init's end", || !is_alive(snapshot.init_pid));
}

#[test]
fn a_writer_outside_of_the_container_does_not_hold_the_shim() {
    let mut pod = Pod::start();
    let create = pod.command("c1", &["/bin/sleep", "1000"]);
    let pid = pod.run(create);
    // Into the container's output, for as long as somebody reads it.
    let pipe = fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/1")).expect("its stdout");
    let mut writer = std::process::Command::new("/usr/bin/yes").stdout(pipe).spawn().expect("yes");
    until("foreign output", || pod.log("c1").contains(" y\n"));
    pod.kill("c1", 9);
    // It ends all the same, and closes the pipe.
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 137);
    let ended = writer.wait().expect("wait");
    assert!(!ended.success());
    pod.delete("c1");
    pod.shut_down();
}

#[test]
fn a_container_that_was_not_made_is_removed_when_its_cgroup_lets_go() {
    // A process in one hierarchy of version 1 only, where the shim does not look for whom to kill.
    let tree = crate::harness::tree();
    let Some(v1) = tree.hierarchies().iter().find(|h| !h.is_v2()) else { return };
    let mut pod = Pod::start();
    let mut create = pod.command("c1", &["/bin/true"]);
    create.plan.rootfs.lowers = vec!["/absent".to_owned()];
    // Enough to do first for somebody to come in.
    let dir = v1.mount_point().join(pod.cgroup_path("c1").as_relative());
    let mut sleeper = std::process::Command::new("/bin/sleep").arg("1000").spawn().expect("sleep");
    let pid = sleeper.id().to_string();
    let mut tries = 0;
    let asked = loop {
        let asked = pod.daemon.send(request::Body::Create(create.clone()), &[]);
        let mut is_in = false;
        for _ in 0..100_000 {
            is_in = fs::write(dir.join("cgroup.procs"), &pid).is_ok();
            if is_in {
                break;
            }
        }
        if is_in {
            break asked;
        }
        assert!(matches!(pod.daemon.reply_to(asked).0, reply::Body::Failure(_)));
        tries += 1;
        assert!(tries < 100, "never fast enough");
    };
    // Longer than the moment in which a killed process lets go. The shim serves others meanwhile.
    for _ in 0..20 {
        pod.daemon.snapshot();
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(dir.exists());
    sleeper.kill().expect("kill");
    sleeper.wait().expect("wait");
    assert!(matches!(pod.daemon.reply_to(asked).0, reply::Body::Failure(_)));
    assert!(!dir.exists());
    // Nothing is in the way of another try.
    pod.run(pod.command("c1", &["/bin/true"]));
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 0);
    pod.shut_down();
}

#[test]
fn an_orphan_on_the_host_is_reaped_and_dies_with_its_container() {
    let mut pod = Pod::start();
    let mut create =
        pod.shell("c1", "sh -c 'sleep 0.2 & exit 0'; sh -c 'sleep 1000 & exit 0'; echo done; sleep 1000");
    create.plan.pid_namespace = PidNamespace::Node.into();
    pod.run(create);
    until("output", || pod.log("c1").contains("done"));
    let children = format!("/proc/{0}/task/{0}/children", pod.shim_pid());
    // The init process and the long orphan; the short one is reaped.
    until("the short orphan's end", || {
        fs::read_to_string(&children).is_ok_and(|c| c.split_whitespace().count() == 2)
    });
    pod.kill("c1", 9);
    pod.daemon.exit_of("c1");
    pod.delete("c1");
    until("no children", || fs::read_to_string(&children).is_ok_and(|c| c.trim().is_empty()));
    pod.shut_down();
}

#[test]
fn a_shim_whose_folder_is_gone_leaves() {
    let mut pod = Pod::start();
    let create = pod.shell("c1", "sleep 1000");
    let pid = pod.run(create);
    fs::remove_dir_all(&pod.dir).expect("remove the pod's folder");
    let (one, _other) = UnixStream::pair().expect("pair");
    pod.daemon.hang_up(one);
    assert_eq!(pod.wait(), Some(0));
    assert!(!is_alive(pid));
}

#[test]
fn a_running_shim_is_small() {
    // With others beside it, as on a node: its program's pages are shared then.
    let others = [Pod::start(), Pod::start()];
    let mut pod = Pod::start();
    let create = pod.shell("c1", "echo hello; while :; do sleep 0.05; done");
    pod.run(create);
    until("output", || pod.log("c1").contains("hello"));
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.shim_pid())).expect("smaps");
    let kib = |key: &str| -> u64 {
        let line = rollup.lines().find_map(|l| l.strip_prefix(key)).expect("a line");
        line.trim().trim_end_matches("kB").trim().parse().expect("a number")
    };
    let private = kib("Private_Clean:") + kib("Private_Dirty:");
    eprintln!(
        "this build of the shim: {private} KiB private, {} KiB of them written, {} KiB proportional",
        kib("Private_Dirty:"),
        kib("Pss:")
    );
    drop(others);
    // The unoptimised, dynamic build of a test is many times the shipped one; this finds leaks of
    // whole buffers, the figure itself is measured on the shipped build.
    assert!(private < 8 << 10, "{private} KiB");
    pod.kill("c1", 9);
    pod.daemon.exit_of("c1");
    pod.daemon.done(request::Body::Delete(container("c1")));
    pod.shut_down();
}

#[test]
fn a_shim_lives_in_the_cgroup_that_it_is_given_and_its_containers_do_not() {
    let own = format!("/carpel-test-shims-{}", std::process::id());
    let path = carpel_cgroups::CgroupPath::parse(&own).expect("a path");
    let mut pods = [
        Pod::start_with(|plan| plan.shim_cgroup = own.clone()),
        Pod::start_with(|plan| plan.shim_cgroup = own.clone()),
    ];
    let cgroup = carpel_cgroups::Cgroup::open(crate::harness::tree(), &path).expect("the shims' cgroup");
    for pod in &mut pods {
        let create = pod.shell("c1", "sleep 1000");
        let pid = pod.run(create);
        let places = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroups");
        let hierarchies = crate::harness::tree().hierarchies().len();
        let shims = places(pod.shim_pid()).lines().filter(|l| l.ends_with(&own)).count();
        assert_eq!(shims, hierarchies);
        let inside = pod.cgroup_path("c1").to_string();
        assert_eq!(places(pid).lines().filter(|l| l.ends_with(&inside)).count(), hierarchies);
        pod.shut_down();
    }
    cgroup.delete(std::time::Duration::from_secs(10)).expect("it is empty and ours to remove");
}
