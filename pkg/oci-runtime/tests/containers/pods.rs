//! What the containers of a pod share.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

use carpel_shim_api::plan::{ContainerPlan, PidNamespace, SandboxPlan, Sysctl};
use carpel_sys::clone::{CloneRequest, SingleThreaded, clone_process};
use rustix::pipe::pipe;
use rustix::process::{Signal, getpid, pidfd_send_signal};

use crate::harness::{Case, Shim, wait_status};

pub(crate) const CASES: &[Case] = &[
    ("pods: names, ipc and shm are shared", shared_namespaces),
    ("pods: host ipc and uts", host_namespaces),
    ("pods: network", network),
    ("pods: sysctls", sysctls),
    ("pods: shared pid namespace", shared_pids),
    ("pods: pid namespace of a target", target_pids),
    ("pods: pid namespace of the node", node_pids),
    ("pods: the shim keeps its own view", own_view),
];

fn shared_namespaces(shim: &mut Shim) {
    shim.enter(|_| {});
    let first = shim.plan(
        "hostname; echo shared > /dev/shm/file; ipcmk -S 1 >/dev/null; df -k /dev/shm | tail -1 | \
        tr -s ' ' | cut -d' ' -f2",
    );
    assert_eq!(shim.run(&first).good(), "pod\n1024\n");
    let second = shim.plan("cat /dev/shm/file; hostname");
    assert_eq!(shim.run(&second).good(), "shared\npod\n");
    let mut own = shim.plan("ls -A /dev/shm");
    own.pod_shm = false;
    own.mounts.push(crate::harness::filesystem("/dev/shm", "tmpfs", 0, &["mode=1777"]));
    assert_eq!(shim.run(&own).good(), "");
    // One that the plan names at the same place gives way to the pod's.
    own.pod_shm = true;
    assert_eq!(shim.run(&own).good(), "file\n");
}

fn host_namespaces(shim: &mut Shim) {
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").expect("read");
    let host_ipc = fs::read_link("/proc/self/ns/ipc").expect("read");
    shim.enter(|plan| {
        plan.host_ipc = true;
        plan.host_uts = true;
    });
    let marker = PathBuf::from(format!("/dev/shm/carpel-{}", getpid()));
    fs::write(&marker, "host").expect("write");
    let plan = shim.plan(&format!("hostname; readlink /proc/self/ns/ipc; cat {}", marker.display()));
    let out = shim.run(&plan);
    fs::remove_file(&marker).expect("remove");
    assert_eq!(out.good(), format!("{host_name}{}\nhost", host_ipc.display()));
}

fn network(shim: &mut Shim) {
    let pin = shim.dir.join("netns");
    let made = carpel_sys::netns::create(&pin, || fs::read_link("/proc/thread-self/ns/net").expect("read"));
    let inode = made.expect("make a network namespace");
    let netns = carpel_sys::netns::open(&pin).expect("open").expect("is there");
    carpel_sys::netns::remove(&pin).expect("unpin");
    let plan = SandboxPlan { hostname: "net".to_owned(), shm_size_bytes: 4096, ..SandboxPlan::default() };
    shim.enter_with(&plan, vec![netns]);
    let plan = shim.plan("readlink /proc/self/ns/net; ls /sys/class/net");
    assert_eq!(shim.run(&plan).good(), format!("{}\nlo\n", inode.display()));
}

pub(crate) fn sysctls(shim: &mut Shim) {
    let host = fs::read_to_string("/proc/sys/kernel/shmmni").expect("read");
    // Looks from the host's namespace, which this process leaves.
    let (asked, ask) = pipe().expect("pipe");
    let alone = SingleThreaded::prove().expect("one thread");
    let witness = clone_process(&alone, &CloneRequest::default(), |child| {
        child.close_all_but(&[asked.as_fd()]);
        let _until_closed = rustix::io::read(&asked, &mut [0u8; 1]);
        i32::from(fs::read_to_string("/proc/sys/kernel/shmmni").expect("read") != host)
    });
    let witness = witness.expect("clone");
    let sysctl = |key: &str, value: &str| Sysctl { key: key.to_owned(), value: value.to_owned() };
    shim.enter(|plan| {
        plan.sysctls = vec![
            sysctl("kernel.shmmni", "77"),
            sysctl("kernel.sem", "100 3200 10 32"),
            sysctl("fs.mqueue.msg_max", "20"),
        ];
    });
    let plan = shim.plan(
        "cat /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/msg_max; tr -s '\\t ' ' ' < /proc/sys/kernel/sem",
    );
    assert_eq!(shim.run(&plan).good(), "77\n20\n100 3200 10 32\n");
    drop(ask);
    assert_eq!(wait_status(witness.pidfd.as_fd()), 0, "the host's is as it was");
}

fn in_namespace(mut plan: ContainerPlan, namespace: PidNamespace) -> ContainerPlan {
    plan.pid_namespace = namespace as i32;
    plan
}

fn shared_pids(shim: &mut Shim) {
    shim.enter(|plan| plan.shared_pid = true);
    let init = shim.sandbox().micro_init().expect("a micro-init").pid;
    let status = fs::read_to_string(format!("/proc/{init}/status")).expect("read");
    for expected in
        ["Uid:\t65535\t65535\t65535\t65535", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"]
    {
        assert!(status.contains(expected), "{status}");
    }
    let plan = shim.plan(
        "cat /proc/1/comm; ls /proc/1/root 2>&1; readlink /proc/1/exe; cat /proc/1/fd/2 2>&1; \
        orphan=$(sh -c 'sleep 0.1 > /dev/null & echo $!'); while [ -e /proc/$orphan ]; do sleep 0.05; done; \
        echo reaped; kill -9 1; echo $?; echo done; sleep 100",
    );
    let first = shim.start(&in_namespace(plan, PidNamespace::Pod)).expect("runs");
    let mut lines = Vec::new();
    loop {
        let line = first.line();
        if line == "done" {
            break;
        }
        lines.push(line);
    }
    assert_eq!(lines[0], "carpel-init");
    // Its root and descriptors are closed to others, by ptrace(2)'s rules.
    assert!(lines.iter().filter(|line| line.contains("Permission denied")).count() >= 2, "{lines:?}");
    // The orphan was reaped, and nothing in there can kill the first process.
    assert_eq!(lines[lines.len() - 2..], ["reaped", "0"], "{lines:?}");
    let second = shim.plan("echo $$; cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
    let out = shim.run(&in_namespace(second, PidNamespace::Pod)).good();
    assert!(!out.starts_with("1\n") && out.contains("sleep 100"), "{out}");
    // With the first process all others go.
    let micro_init = shim.sandbox().micro_init().expect("a micro-init").pidfd.as_fd();
    pidfd_send_signal(micro_init, Signal::KILL).expect("kill");
    assert_eq!(wait_status(first.process.pidfd.as_fd()), 137);
    assert_eq!(wait_status(micro_init), 137);
}

fn target_pids(shim: &mut Shim) {
    shim.enter(|_| {});
    let target = shim.plan("echo up; sleep 100");
    let target = shim.start(&target).expect("runs");
    assert_eq!(target.line(), "up");
    let debugger = shim.plan("cat /proc/1/cmdline | tr '\\0' ' '; echo; echo $$");
    let debugger = in_namespace(debugger, PidNamespace::Target);
    let pidfd = target.process.pidfd.as_fd();
    let (created, running) = match shim.create_with(&debugger, Some(pidfd)) {
        Ok(made) => made,
        Err(error) => panic!("{error:?}"),
    };
    crate::harness::start(created).expect("started");
    let out = running.finish().good();
    assert!(out.starts_with("sleep 100"), "{out}");
    assert_ne!(out.lines().last(), Some("1"));
    assert_eq!(target.kill(), 137);
    // One that is gone cannot be joined.
    let result = shim.create_with(&debugger, Some(target.process.pidfd.as_fd()));
    assert!(matches!(result, Err(crate::harness::RunError::Create(_))));
}

fn node_pids(shim: &mut Shim) {
    let me = getpid();
    shim.enter(|_| {});
    let plan = shim.plan(&format!("cat /proc/{me}/comm; ls -d /proc/{me}/root 2>&1; ls /proc/{me}/fd/ 2>&1"));
    let outcome = shim.run(&in_namespace(plan, PidNamespace::Node));
    assert!(outcome.out.starts_with("containers"), "{outcome:?}");
    // The shim is there to be seen, but what it has open is not.
    assert!(outcome.out.contains("Permission denied"), "{outcome:?}");
}

fn own_view(shim: &mut Shim) {
    let before: Vec<_> = ["mnt", "pid", "cgroup"]
        .iter()
        .map(|ns| fs::read_link(format!("/proc/self/ns/{ns}")).expect("read"))
        .collect();
    shim.enter(|plan| plan.shared_pid = true);
    let plan = shim.plan("true");
    shim.run(&plan).good();
    let after: Vec<_> = ["mnt", "pid", "cgroup"]
        .iter()
        .map(|ns| fs::read_link(format!("/proc/self/ns/{ns}")).expect("read"))
        .collect();
    assert_eq!(before, after);
    let children = fs::read_link("/proc/self/ns/pid_for_children").expect("read");
    assert_eq!(children, before[1]);
    assert!(shim.dir.is_dir(), "the host's paths are still there");
}
