//! Execs: their streams, their ends, and the end of all that they started.

use std::fs;
use std::os::fd::AsFd;

use carpel_shim_api::message::{Create, Exec, ExecPlan, ExecRef, FailureKind, Resize, reply, request};
use carpel_shim_api::plan::user_plan::User as WantedUser;
use carpel_shim_api::plan::{PidNamespace, UserPlan};

use crate::harness::{Pod, exec, is_alive, process, read_all, read_until, until};

fn exec_ref(exec_id: &str) -> ExecRef {
    ExecRef { container_id: "c1".to_owned(), exec_id: exec_id.to_owned() }
}

fn sleeping_pod() -> Pod {
    let mut pod = Pod::start();
    let create = pod.shell("c1", "trap 'exit 0' TERM; touch /up; while :; do sleep 0.1; done");
    let upper = std::path::PathBuf::from(&create.plan.rootfs.upper);
    pod.run(create);
    // Without its trap an init process does not even get the signal.
    until("the trap", || upper.join("up").exists());
    pod
}

#[test]
fn an_exec_has_its_streams_and_its_own_end() {
    let mut pod = sleeping_pod();
    let fds = pod.daemon.exec("c1", "e1", &["/bin/sh", "-c", "echo out; echo err >&2; exit 5"]);
    assert_eq!(fds.len(), 2);
    assert_eq!((read_all(&fds[0]), read_all(&fds[1])), ("out\n".to_owned(), "err\n".to_owned()));
    assert_eq!(pod.daemon.exec_exit_of("e1"), 5);
    // With input, and a process of its own making.
    let mut with_input = exec("c1", "e2", &[]);
    with_input.stdin = true;
    with_input.stderr = false;
    with_input.plan.process = Some(process(&["/bin/sh", "-c", "cat; kill -9 $$"]));
    let (started, fds) = pod.daemon.ask_with(request::Body::Exec(with_input));
    assert!(matches!(started, reply::Body::ExecStarted(_)), "{started:?}");
    let [stdin, stdout] = <[_; 2]>::try_from(fds).expect("two streams");
    rustix::io::write(&stdin, b"through the container\n").expect("write");
    drop(stdin);
    assert_eq!(read_all(&stdout), "through the container\n");
    assert_eq!(pod.daemon.exec_exit_of("e2"), 137);
    // Both ids are free again, and the container runs still.
    pod.daemon.exec("c1", "e1", &["/bin/true"]);
    assert_eq!(pod.daemon.exec_exit_of("e1"), 0);
    assert!(pod.log("c1").is_empty());
    pod.kill("c1", 15);
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 0);
    let late = exec("c1", "e3", &["/bin/true"]);
    pod.daemon.refused_as(FailureKind::WrongState, request::Body::Exec(late));
    pod.shut_down();
}

#[test]
fn an_exec_that_cannot_run_is_told_and_leaves_nothing() {
    let mut pod = sleeping_pod();
    for (id, args) in [("e1", &["/bin/absent"][..]), ("e2", &["/etc/passwd"][..]), ("e3", &[][..])] {
        let failure = pod.daemon.refused(request::Body::Exec(exec("c1", id, args)));
        assert!(!failure.message.is_empty());
    }
    let absent = exec("c1", "e1", &["/bin/absent"]);
    let message = pod.daemon.refused_as(FailureKind::CommandNotExecutable, request::Body::Exec(absent));
    assert!(message.contains("/bin/absent"), "{message}");
    for bad in ["", "../x", "a b", ".x"] {
        let exec = exec("c1", bad, &["/bin/true"]);
        pod.daemon.refused_as(FailureKind::Invalid, request::Body::Exec(exec));
    }
    let elsewhere = exec("c2", "e1", &["/bin/true"]);
    pod.daemon.refused_as(FailureKind::NotFound, request::Body::Exec(elsewhere));
    assert_eq!(leaves(&pod), Vec::<String>::new());
    pod.shut_down();
}

/// What says who a process is.
const WHO: &str = "id -u; id -g; id -G; echo $HOME";

/// A container of a user that only its image's files know, which says who it is and sleeps.
fn named_user(pod: &Pod, id: &str) -> Create {
    let layer = pod.folder().join(format!("{id}-layer"));
    fs::create_dir_all(layer.join("etc")).expect("make a layer");
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\n";
    fs::write(layer.join("etc/passwd"), passwd).expect("write passwd");
    fs::write(layer.join("etc/group"), "root:x:0:\nlog:x:40:web\n").expect("write group");
    let mut create = pod.shell(id, &format!("{WHO}; exec sleep 1000"));
    create.plan.rootfs.lowers.insert(0, layer.display().to_string());
    create.plan.process.user = UserPlan {
        user: Some(WantedUser::Name("web".to_owned())),
        supplemental_groups: vec![50],
        merge_image_groups: true,
        ..UserPlan::default()
    };
    create
}

/// What an exec says on its stdout; it must end well.
fn output_of(pod: &mut Pod, exec: Exec) -> String {
    let exec_id = exec.exec_id.clone();
    let (reply, fds) = pod.daemon.ask_with(request::Body::Exec(exec));
    assert!(matches!(reply, reply::Body::ExecStarted(_)), "{reply:?}");
    let (out, err) = (read_all(&fds[0]), read_all(&fds[1]));
    assert_eq!((pod.daemon.exec_exit_of(&exec_id), err.as_str()), (0, ""));
    out
}

#[test]
fn an_exec_is_who_its_container_is_though_the_users_file_is_masked() {
    let mut pod = Pod::start();
    let mut create = named_user(&pod, "c1");
    create.plan.masked_paths = vec!["/etc/passwd".to_owned(), "/etc/group".to_owned()];
    pod.run(create);
    let who = "1000\n1001\n1001 40 50\n/home/web\n";
    until("the container's own words", || pod.said("c1", "stdout") == who);
    let script = format!("{WHO}; cat /etc/passwd /etc/group");
    let asked = exec("c1", "e1", &["/bin/sh", "-c", &script]);
    assert_eq!(output_of(&mut pod, asked), who);
    pod.kill("c1", 9);
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 137);
    pod.shut_down();
}

#[test]
fn an_exec_is_who_its_container_is_though_the_users_file_was_changed() {
    let mut pod = Pod::start();
    let create = named_user(&pod, "c1");
    pod.run(create);
    let as_user = |exec_id: &str, user: &str, script: &str| {
        let mut asked = exec("c1", exec_id, &[]);
        let mut own = process(&["/bin/sh", "-c", script]);
        own.user.user = Some(WantedUser::Name(user.to_owned()));
        asked.plan.process = Some(own);
        asked
    };
    let who = "1000\n1001\n1001 40 50\n/home/web\n";
    // What would make it root, then what no user can be read from.
    let grown =
        "echo web:x:0:0::/evil: >> /etc/passwd; sed -i /1000/d /etc/passwd; echo x:x:60:web > /etc/group";
    let changes = [grown, "rm /etc/passwd /etc/group; mkdir /etc/passwd /etc/group"];
    for (index, change) in changes.into_iter().enumerate() {
        let changing = as_user(&format!("change-{index}"), "root", change);
        assert_eq!(output_of(&mut pod, changing), "");
        let asked = exec("c1", &format!("own-{index}"), &["/bin/sh", "-c", WHO]);
        assert_eq!(output_of(&mut pod, asked), who, "{change}");
        // The files did change: a process that is not the container's own is looked up in them.
        let anew = as_user(&format!("anew-{index}"), "web", WHO);
        if change == grown {
            assert_eq!(output_of(&mut pod, anew), "0\n0\n0\n/evil\n");
        } else {
            pod.daemon.refused_as(FailureKind::User, request::Body::Exec(anew));
        }
    }
    pod.kill("c1", 9);
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 137);
    pod.shut_down();
}

/// The cgroups below the container's.
fn leaves(pod: &Pod) -> Vec<String> {
    let Some(v2) = crate::harness::tree().v2() else { return Vec::new() };
    let dir = v2.mount_point().join(pod.cgroup_path("c1").as_relative());
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("the container's cgroup")
        .filter_map(Result::ok)
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn killing_an_exec_kills_its_tree_and_nothing_else() {
    let mut pod = sleeping_pod();
    // The child has a session of its own, is an orphan, and holds the pipe.
    let script = "setsid sh -c 'echo child; sleep 1000' & exit 3";
    let fds = pod.daemon.exec("c1", "e1", &["/bin/sh", "-c", script]);
    read_until(&fds[0], "child\n");
    assert_eq!(pod.daemon.exec_exit_of("e1"), 3);
    let other = pod.daemon.exec("c1", "e2", &["/bin/sh", "-c", "echo other; sleep 1000"]);
    read_until(&other[0], "other\n");
    let before = pod.cgroup("c1").procs().expect("processes").len();
    pod.daemon.done(request::Body::KillExec(exec_ref("e1")));
    // The end of file, because nobody holds the pipe any more.
    assert_eq!(read_all(&fds[0]), "");
    until("the child's end", || pod.cgroup("c1").procs().is_ok_and(|p| p.len() < before));
    until("its cgroup's end", || leaves(&pod) == ["exec-e2"]);
    pod.daemon.done(request::Body::KillExec(exec_ref("e2")));
    assert_eq!(pod.daemon.exec_exit_of("e2"), 137);
    assert_eq!(read_all(&other[0]), "");
    // One that is gone, or never was, is no error.
    pod.daemon.done(request::Body::KillExec(exec_ref("e2")));
    pod.kill("c1", 15);
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 0);
    pod.shut_down();
}

#[test]
fn what_an_exec_left_behind_frees_its_cgroup_when_it_ends() {
    let mut pod = sleeping_pod();
    // An orphan in the container's own PID namespace is its init's child: nobody tells the shim of its end.
    let script = "setsid sh -c 'echo child; exec sleep 1' & exit 3";
    let fds = pod.daemon.exec("c1", "e1", &["/bin/sh", "-c", script]);
    read_until(&fds[0], "child\n");
    assert_eq!(pod.daemon.exec_exit_of("e1"), 3);
    let fds_before = fds_of(pod.shim_pid());
    assert_eq!(read_all(&fds[0]), "");
    until("its cgroup's end", || leaves(&pod).is_empty());
    until("no descriptor left", || fds_of(pod.shim_pid()) < fds_before);
    pod.shut_down();
}

#[test]
fn five_hundred_quick_execs_leave_nothing() {
    let mut pod = sleeping_pod();
    let fds_before = fds_of(pod.shim_pid());
    for round in 0..50 {
        let ids: Vec<String> = (0..10).map(|n| format!("e{round}-{n}")).collect();
        let asked: Vec<(u32, &String)> = ids
            .iter()
            .map(|id| (pod.daemon.send(request::Body::Exec(exec("c1", id, &["/bin/true"])), &[]), id))
            .collect();
        for (request, id) in asked {
            assert!(matches!(pod.daemon.reply_to(request).0, reply::Body::ExecStarted(_)));
            assert_eq!(pod.daemon.exec_exit_of(id), 0);
        }
    }
    until("an empty cgroup", || leaves(&pod).is_empty());
    until("no descriptor left", || fds_of(pod.shim_pid()) == fds_before);
    pod.shut_down();
}

fn fds_of(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count()
}

#[test]
fn an_exec_on_a_terminal_hangs_up_with_its_client_and_is_resized() {
    let mut pod = sleeping_pod();
    let mut on_terminal = exec("c1", "e1", &["/bin/sh", "-c", "echo ready; read x; stty size; sleep 1000"]);
    on_terminal.plan = ExecPlan { terminal: true, ..on_terminal.plan };
    on_terminal.stdin = true;
    let (started, mut fds) = pod.daemon.ask_with(request::Body::Exec(on_terminal));
    let reply::Body::ExecStarted(started) = started else { panic!("not started: {started:?}") };
    assert_eq!(fds.len(), 1);
    let console = fds.remove(0);
    read_until(&console, "ready");
    let size = Resize { container_id: "c1".to_owned(), exec_id: "e1".to_owned(), width: 123, height: 45 };
    pod.daemon.done(request::Body::Resize(size.clone()));
    rustix::io::write(console.as_fd(), b"\n").expect("write");
    read_until(&console, "45 123");
    drop(console);
    assert_eq!(pod.daemon.exec_exit_of("e1"), 128 + 1);
    assert!(!is_alive(started.pid));
    pod.daemon.refused_as(FailureKind::NotFound, request::Body::Resize(size));
    pod.shut_down();
}

#[test]
fn an_exec_that_a_deletion_overtakes_is_answered() {
    let mut pod = Pod::start_with(|plan| plan.shared_pid = true);
    // In a shared PID namespace an init process is reaped before the execs beside it are.
    for _ in 0..10 {
        let mut create = pod.shell("c1", "sleep 1000");
        create.plan.pid_namespace = PidNamespace::Pod.into();
        pod.run(create);
        let asked: Vec<u32> = (0..8)
            .map(|n| {
                let exec = exec("c1", &format!("e{n}"), &["/bin/sleep", "1000"]);
                pod.daemon.send(request::Body::Exec(exec), &[])
            })
            .collect();
        pod.kill("c1", 9);
        assert_eq!(pod.daemon.exit_of("c1").exit_code, 137);
        pod.delete("c1");
        for request in asked {
            let (answer, _) = pod.daemon.reply_to(request);
            assert!(matches!(answer, reply::Body::ExecStarted(_) | reply::Body::Failure(_)), "{answer:?}");
        }
    }
    pod.shut_down();
}
