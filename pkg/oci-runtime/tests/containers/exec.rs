//! Processes beside a container's own.

use std::fs;
use std::os::fd::AsFd;

use carpel_oci_runtime::exec::{self, ExecError};
use carpel_oci_runtime::report::Stage;
use carpel_oci_runtime::stdio::Stdio;
use carpel_shim_api::plan::user_plan::User as WantedUser;

use crate::harness::{Case, Running, Shim, read_all, shell, wait_readable, wait_status};

pub(crate) const CASES: &[Case] = &[
    ("exec: in all of the container's namespaces", namespaces),
    ("exec: user, capabilities, directory", credentials),
    ("exec: terminal", terminal),
    ("exec: failures", failures),
    ("exec: leaves no descriptor", descriptors),
    ("exec: in a container that has exited", exited),
    ("exec: in a leaf of the cgroup", leaf),
];

fn sleeper(shim: &mut Shim) -> Running {
    let mut plan = shim.plan("echo up; sleep 100");
    plan.rootfs.readonly = false;
    let running = shim.start(&plan).expect("runs");
    assert_eq!(running.line(), "up");
    running
}

pub(crate) fn namespaces(shim: &mut Shim) {
    shim.enter(|_| {});
    let running = sleeper(shim);
    let script = "for ns in mnt pid net ipc uts cgroup; do \
        [ $(readlink /proc/1/ns/$ns) = $(readlink /proc/self/ns/$ns) ] || echo $ns differs; done; \
        cat /proc/1/comm; [ $$ -gt 1 ] && echo not-first; cut -d: -f3 /proc/self/cgroup | sort -u; echo $HOME";
    let outcome = shim.exec(&running, &shell(script)).expect("runs");
    assert_eq!(outcome.good(), "sleep\nnot-first\n/\n/root\n");
    let outcome = shim.exec(&running, &shell("echo e >&2; exit 9")).expect("runs");
    assert_eq!((outcome.status, outcome.err.as_str()), (9, "e\n"));
    assert_eq!(running.kill(), 137);
}

pub(crate) fn credentials(shim: &mut Shim) {
    shim.enter(|_| {});
    let running = sleeper(shim);
    let mut plan = shell("id -u; pwd; grep -E '^Cap(Inh|Prm|Amb)' /proc/self/status | tr -d '\\t'; umask");
    plan.user.user = Some(WantedUser::Name("web".to_owned()));
    plan.cwd = "/home/web".to_owned();
    let outcome = shim.exec(&running, &plan).expect("runs");
    let none = "0000000000000000";
    assert_eq!(
        outcome.good(),
        format!("1000\n/home/web\nCapInh:{none}\nCapPrm:{none}\nCapAmb:{none}\n0022\n")
    );
    running.kill();
}

pub(crate) fn terminal(shim: &mut Shim) {
    shim.enter(|_| {});
    let running = sleeper(shim);
    let mut plan = shell("tty; exec < /dev/tty && echo controlling; read line; echo got $line");
    plan.terminal = true;
    let membership = carpel_oci_runtime::cgroup::Membership { cgroup: &running.cgroup, leaf: None };
    let container = running.process.pidfd.as_fd();
    let stdio = Stdio::Terminal;
    let request = exec::Request { container, plan: &plan, identity: None, cgroup: membership, stdio };
    let begun = exec::begin(shim.sandbox(), request).expect("begins");
    let mut execing = begun.execing;
    let started = loop {
        wait_readable(&execing);
        match execing.on_readable().expect("goes on") {
            exec::Progress::Pending(again) => execing = again,
            exec::Progress::Started(started) => break started,
        }
    };
    let console = started.console.expect("a terminal");
    // Only then, or the echo is anywhere in what it says.
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"controlling\r\n") {
        assert_eq!(rustix::io::read(&console, &mut byte).expect("goes on"), 1);
        said.extend(byte);
    }
    assert_eq!(String::from_utf8_lossy(&said), "/dev/pts/0\r\ncontrolling\r\n");
    rustix::io::write(&console, b"typed\n").expect("type");
    assert_eq!(read_all(console), "typed\r\ngot typed\r\n");
    assert_eq!(wait_status(begun.process.pidfd.as_fd()), 0);
    running.kill();
}

fn failures(shim: &mut Shim) {
    shim.enter(|_| {});
    let running = sleeper(shim);
    let failed = |change: &dyn Fn(&mut carpel_shim_api::plan::ProcessPlan)| {
        let mut plan = shell("true");
        change(&mut plan);
        match shim.exec(&running, &plan) {
            Err(ExecError::Child(failure)) => failure.stage,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(failed(&|plan| plan.args = vec![b"absent".to_vec()]), Stage::Execute);
    assert_eq!(failed(&|plan| plan.user.user = Some(WantedUser::Name("x".to_owned()))), Stage::User);
    assert_eq!(failed(&|plan| plan.cwd = "x".to_owned()), Stage::WorkingDirectory);
    assert_eq!(failed(&|plan| plan.cwd = "/proc/self/fd/3".to_owned()), Stage::WorkingDirectory);
    running.kill();
}

pub(crate) fn descriptors(shim: &mut Shim) {
    shim.enter(|_| {});
    // Not even close-on-exec ones, which the program would not get but the child would hold.
    let _open = fs::File::open("/proc/version").expect("open");
    let running = sleeper(shim);
    let outcome = shim.exec(&running, &shell("ls -1 /proc/$$/fd; true")).expect("runs");
    assert_eq!(outcome.good(), "0\n1\n2\n");
    let plan = shim.plan("ls -1 /proc/$$/fd; true");
    assert_eq!(shim.run(&plan).good(), "0\n1\n2\n");
    running.kill();
}

fn exited(shim: &mut Shim) {
    shim.enter(|_| {});
    let running = sleeper(shim);
    running.kill();
    match shim.exec(&running, &shell("true")) {
        Err(ExecError::PidNamespace(_)) => {}
        other => panic!("{other:?}"),
    }
}

fn leaf(shim: &mut Shim) {
    shim.enter(|_| {});
    let running = sleeper(shim);
    let Some(leaf) = running.cgroup.leaf("exec-1").expect("make a leaf") else { return };
    let (stdin, out) =
        (fs::File::open("/dev/null").expect("open"), fs::File::open("/dev/null").expect("open"));
    let err = out.try_clone().expect("dup");
    let stdio = Stdio::Streams { stdin: stdin.into(), stdout: out.into(), stderr: err.into() };
    let membership = carpel_oci_runtime::cgroup::Membership { cgroup: &running.cgroup, leaf: Some(&leaf) };
    let plan = shell("sleep 100 & sleep 100");
    let container = running.process.pidfd.as_fd();
    let request = exec::Request { container, plan: &plan, identity: None, cgroup: membership, stdio };
    let begun = exec::begin(shim.sandbox(), request);
    let begun = begun.expect("begins");
    wait_readable(&begun.execing);
    assert!(leaf.is_populated().expect("read"));
    leaf.kill().expect("kill");
    assert_eq!(wait_status(begun.process.pidfd.as_fd()), 137);
    assert!(leaf.delete(std::time::Duration::from_secs(5)).expect("delete"));
    assert_eq!(running.kill(), 137);
}
