//! Ends that nobody planned: nothing may be left.

use std::fs;
use std::os::fd::AsFd;

use carpel_sys::clone::{CloneRequest, SingleThreaded, clone_process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::pipe;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::harness::{Case, RunError, Shim, read_all, wait_status};

pub(crate) const CASES: &[Case] = &[
    ("dirty: containers die with the shim", die_with_the_shim),
    ("dirty: a killed init process", killed_init),
    ("dirty: no descriptor is left", no_descriptor_left),
];

/// Whether the process ends soon.
fn ends(pid: i32) -> bool {
    let Some(pid) = Pid::from_raw(pid) else { return false };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)).expect("poll") == 1
}

fn die_with_the_shim(shim: &mut Shim) {
    use carpel_shim_api::plan::user_plan::User as WantedUser;
    // Made here, so that they are removed here: the one that uses them does not live to do it.
    let cgroups: Vec<_> = (0..5).map(|_| shim.cgroup()).collect();
    shim.use_cgroups(cgroups);
    let alone = SingleThreaded::prove().expect("one thread");
    let (reader, writer) = pipe().expect("pipe");
    let victim = clone_process(&alone, &CloneRequest::default(), |_| {
        shim.enter(|plan| plan.shared_pid = true);
        let mut pids = vec![shim.sandbox().micro_init().expect("is there").pid];
        let mut keep = Vec::new();
        for (user, namespace) in [(0, 0), (1000, 0), (1000, 1), (1000, 2)] {
            let mut plan = shim.plan("sleep 1000");
            plan.process.user.user = Some(WantedUser::Uid(user));
            plan.pid_namespace = namespace;
            let running = shim.start(&plan).expect("runs");
            pids.push(running.process.pid);
            keep.push(running);
        }
        // One that waits for its start.
        let plan = shim.plan("true");
        let (created, running) = shim.create(&plan).expect("created");
        pids.push(running.process.pid);
        let text: Vec<String> = pids.iter().map(|pid| pid.as_raw_nonzero().to_string()).collect();
        rustix::io::write(&writer, text.join(" ").as_bytes()).expect("write");
        rustix::io::write(&writer, b"\n").expect("write");
        drop((created, keep));
        carpel_sys::signal::pause_for_ever()
    });
    let victim = victim.expect("clone");
    drop(writer);
    let mut line = Vec::new();
    let mut byte = [0u8; 1];
    while rustix::io::read(&reader, &mut byte).expect("read") == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    let pids: Vec<i32> =
        String::from_utf8(line).expect("UTF-8").split(' ').map(|pid| pid.parse().expect("a pid")).collect();
    assert_eq!(pids.len(), 6);
    pidfd_send_signal(&victim.pidfd, Signal::KILL).expect("kill");
    assert_eq!(wait_status(victim.pidfd.as_fd()), 137);
    for pid in pids {
        assert!(ends(pid), "{pid} outlives the shim");
    }
    assert_eq!(read_all(reader), "", "nobody holds the pipe any more");
}

fn killed_init(shim: &mut Shim) {
    shim.enter(|_| {});
    let plan = shim.plan("true");
    let (created, running) = shim.create(&plan).expect("created");
    assert_eq!(running.kill(), 137);
    match crate::harness::start(created) {
        Err(carpel_oci_runtime::create::StartError::Killed) => {}
        other => panic!("{other:?}"),
    }
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("read").count()
}

fn no_descriptor_left(shim: &mut Shim) {
    shim.enter(|_| {});
    let mut plan = shim.plan("true");
    let bad = {
        let mut plan = shim.plan("true");
        plan.process.cwd = "x".to_owned();
        plan
    };
    let one = |shim: &mut Shim, plan: &mut carpel_shim_api::plan::ContainerPlan| {
        shim.run(plan).good();
        assert!(matches!(shim.start(&bad), Err(RunError::Create(_))));
        plan.process.terminal = true;
        shim.run(plan).good();
        plan.process.terminal = false;
        shim.forget_cgroups();
    };
    one(shim, &mut plan);
    let before = open_descriptors();
    for _ in 0..10 {
        one(shim, &mut plan);
    }
    assert_eq!(open_descriptors(), before);
}
