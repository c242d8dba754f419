//! cgroup2's files, on a folder tree that looks like it: there may be no real one with controllers.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::*;

const FILES: &[(&str, &str)] = &[
    ("cpu.weight", "100\n"),
    ("cpu.max", "max 100000\n"),
    ("cpuset.cpus", "\n"),
    ("memory.max", "max\n"),
    ("memory.swap.max", "max\n"),
    ("memory.high", "max\n"),
    ("memory.events", "low 0\noom 2\noom_kill 3\n"),
    ("pids.max", "max\n"),
    ("cgroup.events", "populated 1\nfrozen 0\n"),
    ("cgroup.freeze", "0\n"),
];

fn tree(dir: &Path) -> (Arc<Tree>, CgroupPath) {
    fs::write(dir.join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
    let path = CgroupPath::parse("/pods/c").unwrap();
    let folder = dir.join("pods/c");
    fs::create_dir_all(&folder).unwrap();
    for (name, content) in FILES {
        fs::write(folder.join(name), content).unwrap();
    }
    (Arc::new(Tree::unified_at(dir).unwrap()), path)
}

fn contents(dir: &Path) -> Vec<String> {
    FILES.iter().map(|(name, _)| fs::read_to_string(dir.join("pods/c").join(name)).unwrap()).collect()
}

#[test]
fn all_limits_are_set_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, path) = tree(dir.path());
    let cgroup = Cgroup::open(&tree, &path).unwrap();
    let limits = Limits {
        cpu_shares: Some(2048),
        cpu_quota_us: Some(10_000),
        memory_limit_bytes: Some(1 << 20),
        memory_swap_limit_bytes: Some(1 << 20),
        unified: vec![("memory.high".to_owned(), "900000".to_owned())],
        ..Limits::default()
    };
    cgroup.update(&limits).unwrap();
    let read = |name: &str| fs::read_to_string(dir.path().join("pods/c").join(name)).unwrap();
    assert_eq!(read("cpu.weight"), "174");
    assert_eq!(read("cpu.max"), "10000");
    assert_eq!((read("memory.max"), read("memory.swap.max")), ("1048576".to_owned(), "0".to_owned()));
    assert_eq!(read("memory.high"), "900000");
    let before = contents(dir.path());
    // The last of them has no file.
    let failing = Limits {
        cpu_shares: Some(4),
        cpuset_cpus: Some("0".to_owned()),
        pids_limit: Some(7),
        unified: vec![("memory.nothing".to_owned(), "1".to_owned())],
        ..Limits::default()
    };
    let error = cgroup.update(&failing).unwrap_err();
    assert!(matches!(error, UpdateError::Apply(_, ApplyError::Write(_))), "{error:?}");
    let trimmed = |all: Vec<String>| all.iter().map(|s| s.trim().to_owned()).collect::<Vec<_>>();
    assert_eq!(trimmed(contents(dir.path())), trimmed(before));
}

#[test]
fn a_controller_that_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, path) = tree(dir.path());
    let cgroup = Cgroup::open(&tree, &path).unwrap();
    let huge = |limit_bytes| Limits {
        hugepage_limits: vec![crate::HugepageLimit { page_size: "2MB".to_owned(), limit_bytes }],
        ..Limits::default()
    };
    // Nothing allowed, and nothing there: as asked.
    cgroup.update(&huge(0)).unwrap();
    let error = cgroup.update(&huge(1 << 21)).unwrap_err();
    assert!(matches!(
        &error,
        UpdateError::Apply(_, ApplyError::NoController { controller, .. }) if controller == "hugetlb"
    ));
    let rdma = Limits { unified: vec![("rdma.max".to_owned(), "x".to_owned())], ..Limits::default() };
    assert!(cgroup.update(&rdma).is_err());
}

#[test]
fn events_and_the_freezer_are_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, path) = tree(dir.path());
    let cgroup = Cgroup::open(&tree, &path).unwrap();
    assert_eq!(cgroup.oom_kills().unwrap(), 3);
    assert!(cgroup.is_populated().unwrap());
    // It never says that it is frozen, so it is thawed again.
    let slow = cgroup.freeze(std::time::Duration::from_millis(5));
    assert!(matches!(slow, Err(crate::FreezeError::Slow(..))));
    assert_eq!(fs::read_to_string(dir.path().join("pods/c/cgroup.freeze")).unwrap(), "0");
}

#[test]
fn v1s_largest_number_is_no_limit() {
    assert_eq!(v1_limit("9223372036854771712\n"), None);
    assert_eq!(v1_limit("max\n"), None);
    assert_eq!(v1_limit("4096\n"), Some(4096));
}
