//! On this host's own hierarchies, whatever they are. Needs root. Each test has a parent of its own
//! and removes it.
#![allow(clippy::unwrap_used)] // What is not there fails the test.

use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use carpel_cgroups::cgroup::Hierarchies;
use carpel_cgroups::stats::Reader;
use carpel_cgroups::{
    Access, Cgroup, CgroupPath, CreateError, DeleteError, DeviceKind, DeviceRule, Limits, Tree, seat,
};
use rustix::process::Pid;

const PATIENCE: Duration = Duration::from_secs(30);
static PARENTS: AtomicU32 = AtomicU32::new(0);

/// A parent of the test's own.
struct Parent {
    tree: Arc<Tree>,
    path: CgroupPath,
}

impl Parent {
    fn new() -> Parent {
        let number = PARENTS.fetch_add(1, Ordering::Relaxed);
        let path = format!("/carpel-test-{}-{number}", std::process::id());
        Parent { tree: Arc::new(Tree::detect().unwrap()), path: CgroupPath::parse(&path).unwrap() }
    }

    fn child(&self, name: &str) -> CgroupPath {
        self.path.child(name).unwrap()
    }

    fn cgroup(&self, name: &str, limits: &Limits) -> Cgroup {
        Cgroup::create(&self.tree, &self.child(name), limits, None).unwrap()
    }

    /// In which hierarchies it is there.
    fn traces(&self) -> usize {
        let there = |h: &&carpel_cgroups::Hierarchy| h.mount_point().join(self.path.as_relative()).exists();
        self.tree.hierarchies().iter().filter(there).count()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        if let Ok(cgroup) = Cgroup::open(&self.tree, &self.path) {
            let _none = cgroup.kill();
            let _gone = cgroup.delete(PATIENCE);
        }
    }
}

/// A shell in a cgroup, killed at the end of the test.
struct Shell(Child);

impl Shell {
    fn new(cgroup: &Cgroup, script: &str) -> Shell {
        // It waits for a line, so that all that it starts is in the cgroup, too.
        let child = Command::new("/bin/sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        cgroup.join(pid, Hierarchies::All).unwrap();
        let mut shell = Shell(child);
        std::io::Write::write_all(&mut shell.0.stdin.take().unwrap(), b"go\n").unwrap();
        shell
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        self.0.wait().unwrap()
    }

    fn first_line(&mut self) -> String {
        let mut line = String::new();
        let mut reader = std::io::BufReader::new(self.0.stdout.as_mut().unwrap());
        std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn what_is_set_is_what_another_library_reads() {
    let parent = Parent::new();
    let limits = Limits {
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        memory_limit_bytes: Some(64 << 20),
        memory_swap_limit_bytes: Some(64 << 20),
        pids_limit: Some(42),
        cpuset_cpus: Some("0".to_owned()),
        ..Limits::default()
    };
    let cgroup = parent.cgroup("c", &limits);
    let path = cgroup.path().as_relative();
    let oracle = cgroups_rs::fs::Cgroup::load(cgroups_rs::fs::hierarchies::auto(), path);
    let cpu: &cgroups_rs::fs::cpu::CpuController = oracle.controller_of().unwrap();
    let memory: &cgroups_rs::fs::memory::MemController = oracle.controller_of().unwrap();
    let pids: &cgroups_rs::fs::pid::PidController = oracle.controller_of().unwrap();
    let cpuset: &cgroups_rs::fs::cpuset::CpuSetController = oracle.controller_of().unwrap();
    let shares = if parent.tree.is_unified() { carpel_cgroups::limits::weight_from_shares(512) } else { 512 };
    assert_eq!(cpu.shares().unwrap(), shares);
    assert_eq!((cpu.cfs_quota().unwrap(), cpu.cfs_period().unwrap()), (50_000, 100_000));
    assert_eq!(memory.memory_stat().limit_in_bytes, 64 << 20);
    assert_eq!(pids.get_pid_max().unwrap(), cgroups_rs::fs::MaxValue::Value(42));
    assert_eq!(cpuset.cpuset().cpus, [(0, 0)]);

    cgroup
        .update(&Limits {
            memory_limit_bytes: Some(128 << 20),
            memory_swap_limit_bytes: Some(128 << 20),
            pids_limit: Some(-1),
            cpu_quota_us: Some(-1),
            ..Limits::default()
        })
        .unwrap();
    assert_eq!(memory.memory_stat().limit_in_bytes, 128 << 20);
    assert_eq!(pids.get_pid_max().unwrap(), cgroups_rs::fs::MaxValue::Max);
    assert_eq!(cpu.cfs_quota().unwrap(), -1);
    // All or none: a CPU that is not there.
    let failing = Limits {
        memory_limit_bytes: Some(32 << 20),
        pids_limit: Some(3),
        cpuset_cpus: Some("999".to_owned()),
        cpu_shares: Some(77),
        ..Limits::default()
    };
    cgroup.update(&failing).unwrap_err();
    assert_eq!(cpu.shares().unwrap(), shares);
    assert_eq!(memory.memory_stat().limit_in_bytes, 128 << 20);
    assert_eq!(pids.get_pid_max().unwrap(), cgroups_rs::fs::MaxValue::Max);
    assert_eq!(cpuset.cpuset().cpus, [(0, 0)]);
    cgroup.delete(PATIENCE).unwrap();
}

#[test]
fn nothing_is_left_of_a_cgroup_that_was_deleted_or_not_made() {
    let parent = Parent::new();
    let cgroup = parent.cgroup("c", &Limits::default());
    assert_eq!(parent.traces(), parent.tree.hierarchies().len());
    cgroup.delete(PATIENCE).unwrap();
    assert_eq!(parent.traces(), 0);
    cgroup.delete(PATIENCE).unwrap();
    let failing = Limits { cpuset_cpus: Some("999".to_owned()), ..Limits::default() };
    let error = Cgroup::create(&parent.tree, &parent.child("c"), &failing, None).unwrap_err();
    assert!(matches!(error, CreateError::Apply(..)), "{error:?}");
    assert_eq!(parent.traces(), 0);
}

#[test]
fn only_an_empty_cgroup_is_removed_as_empty() {
    let parent = Parent::new();
    let cgroup = parent.cgroup("c", &Limits::default());
    let mut shell = Shell::new(&cgroup, "exec sleep 1000");
    assert!(!cgroup.remove_if_empty());
    assert_eq!(parent.traces(), parent.tree.hierarchies().len());
    shell.0.kill().unwrap();
    shell.wait();
    until("its end everywhere", || cgroup.remove_if_empty());
    assert_eq!(parent.traces(), 0);
    assert!(cgroup.remove_if_empty(), "it is gone already");
}

#[test]
fn a_parent_that_is_not_ours_stays() {
    let tree = Arc::new(Tree::detect().unwrap());
    let foreign = CgroupPath::parse(&format!("/test-of-carpel-{}", std::process::id())).unwrap();
    let cgroup = Cgroup::ensure(&tree, &foreign).unwrap();
    let child = foreign.child("c").unwrap();
    Cgroup::create(&tree, &child, &Limits::default(), None).unwrap().delete(PATIENCE).unwrap();
    for hierarchy in tree.hierarchies() {
        assert!(hierarchy.mount_point().join(foreign.as_relative()).exists());
    }
    cgroup.delete(PATIENCE).unwrap();
}

#[test]
fn everything_in_a_cgroup_is_killed_and_then_it_can_go() {
    let parent = Parent::new();
    let cgroup = parent.cgroup("c", &Limits::default());
    let mut shell = Shell::new(&cgroup, "setsid sleep 1000 & sleep 1000 & echo up; wait");
    assert_eq!(shell.first_line(), "up");
    until("its children", || cgroup.procs().unwrap().len() == 3);
    assert!(cgroup.is_populated().unwrap());
    assert!(matches!(cgroup.delete(Duration::ZERO), Err(DeleteError::Busy { .. })));
    // It is in use, so it is not taken over either.
    let again = Cgroup::create(&parent.tree, &parent.child("c"), &Limits::default(), None);
    assert!(matches!(again, Err(CreateError::Occupied { .. })), "{again:?}");
    cgroup.freeze(PATIENCE).unwrap();
    cgroup.kill().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&shell.wait()), Some(9));
    until("its end", || !cgroup.is_populated().unwrap());
    cgroup.delete(PATIENCE).unwrap();
    cgroup.kill().unwrap();
}

#[test]
fn a_frozen_process_stands_still_until_it_is_thawed() {
    let parent = Parent::new();
    let cgroup = parent.cgroup("c", &Limits::default());
    let mut shell = Shell::new(&cgroup, "while :; do :; done");
    let reader = Reader::open(&parent.tree, cgroup.path()).unwrap();
    until("CPU time", || reader.read().unwrap().cpu_usage_ns.unwrap() > 1_000_000);
    cgroup.freeze(PATIENCE).unwrap();
    let before = reader.read().unwrap().cpu_usage_ns;
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(reader.read().unwrap().cpu_usage_ns, before);
    cgroup.thaw().unwrap();
    until("more CPU time", || reader.read().unwrap().cpu_usage_ns > before);
    cgroup.signal(15).unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&shell.wait()), Some(15));
    cgroup.delete(PATIENCE).unwrap();
}

#[test]
fn a_session_is_killed_with_its_descendants_and_nothing_else() {
    let parent = Parent::new();
    let cgroup = parent.cgroup("c", &Limits::default());
    let script = "setsid sh -c 'setsid sleep 1000 & sleep 1000 & echo $$; wait' & sleep 1000";
    let mut shell = Shell::new(&cgroup, script);
    let leader = Pid::from_raw(shell.first_line().parse().unwrap()).unwrap();
    until("all of them", || cgroup.procs().unwrap().len() == 5);
    cgroup.kill_session(leader).unwrap();
    until("the rest", || cgroup.procs().unwrap().len() == 2);
    assert!(shell.0.try_wait().unwrap().is_none());
    cgroup.kill().unwrap();
    shell.wait();
    cgroup.delete(PATIENCE).unwrap();
}

#[test]
fn want_of_memory_is_counted() {
    let parent = Parent::new();
    let limits = Limits {
        memory_limit_bytes: Some(8 << 20),
        memory_swap_limit_bytes: Some(8 << 20),
        ..Limits::default()
    };
    let cgroup = parent.cgroup("c", &limits);
    assert_eq!(cgroup.oom_kills().unwrap(), 0);
    let mut shell = Shell::new(&cgroup, "x=0123456789abcdef; while :; do x=$x$x; done");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&shell.wait()), Some(9));
    assert!(cgroup.oom_kills().unwrap() > 0);
    cgroup.delete(PATIENCE).unwrap();
}

#[test]
fn usage_is_that_of_the_processes() {
    let parent = Parent::new();
    let limits = Limits { memory_limit_bytes: Some(256 << 20), ..Limits::default() };
    let cgroup = parent.cgroup("c", &limits);
    let reader = Reader::open(&parent.tree, cgroup.path()).unwrap();
    let mut shell = Shell::new(&cgroup, "echo up; sleep 1000 & wait");
    assert_eq!(shell.first_line(), "up");
    until("two processes", || reader.read().unwrap().pids == Some(2));
    // The kernel adds up what each CPU has counted now and then only.
    until("memory", || reader.read().unwrap().memory.is_some_and(|m| m.usage > 0 && m.page_faults > 0));
    let stats = reader.read().unwrap();
    let memory = stats.memory.unwrap();
    assert!(stats.cpu_usage_ns.unwrap() > 0);
    assert!(memory.working_set <= memory.usage);
    assert_eq!(memory.limit, Some(256 << 20));
    assert!(memory.available.is_some_and(|a| a <= 256 << 20));
    cgroup.kill().unwrap();
    shell.wait();
    cgroup.delete(PATIENCE).unwrap();
    assert!(matches!(
        Reader::open(&parent.tree, cgroup.path()),
        Err(carpel_cgroups::stats::StatsError::Gone(_))
    ));
    // Kept descriptors tell it, too.
    assert!(matches!(reader.read(), Err(carpel_cgroups::stats::StatsError::Gone(_))));
}

#[test]
fn a_leaf_is_killed_by_itself() {
    let parent = Parent::new();
    let cgroup = parent.cgroup("c", &Limits::default());
    let Some(leaf) = cgroup.leaf("exec-1").unwrap() else {
        assert!(parent.tree.v2().is_none());
        return;
    };
    assert!(cgroup.leaf("exec-1").is_err());
    assert!(cgroup.leaf("../x").is_err());
    let mut outside = Shell::new(&cgroup, "sleep 1000");
    let mut inside = Shell::new(&cgroup, "setsid sleep 1000 & echo up; wait");
    let pids = inside.0.id();
    rustix::io::write(
        rustix::fs::openat(leaf.dir(), "cgroup.procs", rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty())
            .unwrap(),
        pids.to_string().as_bytes(),
    )
    .unwrap();
    assert!(leaf.is_populated().unwrap());
    assert!(!leaf.delete(Duration::ZERO).unwrap());
    leaf.kill().unwrap();
    inside.wait();
    assert!(outside.0.try_wait().unwrap().is_none());
    assert!(leaf.delete(PATIENCE).unwrap());
    cgroup.kill().unwrap();
    outside.wait();
    cgroup.delete(PATIENCE).unwrap();
}

#[test]
fn devices_that_no_rule_names_cannot_be_opened() {
    let parent = Parent::new();
    let all = Access::none().with_read(true).with_write(true).with_mknod(true);
    let null =
        DeviceRule { allow: true, kind: DeviceKind::Char, major: Some(1), minor: Some(3), access: all };
    let cgroup = Cgroup::create(&parent.tree, &parent.child("c"), &Limits::default(), Some(&[null])).unwrap();
    let script = "head -c1 /dev/null && echo null; head -c1 /dev/zero >/dev/null 2>&1 || echo no zero";
    let mut shell = Shell::new(&cgroup, &format!("({script}) | tr '\\n' ' '; echo"));
    assert_eq!(shell.first_line(), "null no zero");
    shell.wait();
    cgroup.delete(PATIENCE).unwrap();
}

#[test]
fn a_device_program_is_taken_by_the_kernel_and_decides() {
    let parent = Parent::new();
    let cgroup = parent.cgroup("c", &Limits::default());
    let Some(dir) = cgroup.v2_dir() else { return };
    let rule = |minor: u32| DeviceRule {
        allow: true,
        kind: DeviceKind::Char,
        major: Some(1),
        minor: Some(minor),
        access: Access::ALL,
    };
    // Replacing leaves one program, and the new one decides.
    for rules in [vec![rule(3), rule(5)], vec![rule(3)]] {
        carpel_cgroups::devices::set_program(dir, &rules).unwrap();
        assert_eq!(carpel_sys::bpf::cgroup_device_programs(dir.as_fd()).unwrap().len(), 1);
    }
    let script = "head -c1 /dev/null && echo null; head -c1 /dev/zero >/dev/null 2>&1 || echo no zero";
    let mut shell = Shell::new(&cgroup, &format!("({script}) | tr '\\n' ' '; echo"));
    assert_eq!(shell.first_line(), "null no zero");
    shell.wait();
    cgroup.delete(PATIENCE).unwrap();
}

#[test]
fn a_process_steps_aside_into_a_child() {
    let parent = Parent::new();
    let Some(v2) = parent.tree.v2() else { panic!("this host has no cgroup2 hierarchy at all") };
    let procs = |path: &CgroupPath| {
        std::fs::read_to_string(v2.mount_point().join(path.as_relative()).join("cgroup.procs")).unwrap()
    };
    let cgroup = parent.cgroup("scope", &Limits::default());
    let shell = Shell::new(&cgroup, "sleep 600");
    let pid = Pid::from_child(&shell.0);
    seat(&parent.tree, cgroup.path(), "hold", pid).unwrap();
    seat(&parent.tree, cgroup.path(), "hold", pid).unwrap();
    assert!(procs(&cgroup.path().child("hold").unwrap()).lines().any(|line| line == pid.to_string()));
    assert!(!procs(cgroup.path()).lines().any(|line| line == pid.to_string()));
    let absent = seat(&parent.tree, &parent.child("absent"), "hold", pid).unwrap_err();
    assert!(absent.is_absent(), "{absent:?}");
    assert!(!seat(&parent.tree, cgroup.path(), "..", pid).unwrap_err().is_absent());
    cgroup.kill().unwrap();
    cgroup.delete(PATIENCE).unwrap();
}
