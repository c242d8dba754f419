use std::fs;

use super::*;

#[test]
fn pressure_is_read_with_and_without_its_second_line() {
    let some = "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\n";
    let pressure = Pressure::parse(some).unwrap();
    assert_eq!(pressure.some, Stall { avg10: 1.5, avg60: 0.25, avg300: 0.0, total_us: 42 });
    assert_eq!(pressure.full, Stall::default());
    let both = format!("{some}full avg10=0.50 avg60=0.00 avg300=0.00 total=7 new=1\n");
    assert_eq!(Pressure::parse(&both).unwrap().full.total_us, 7);
    for bad in ["", "full avg10=0", "some avg10=x", "some avg10"] {
        assert_eq!(Pressure::parse(bad), None, "{bad:?}");
    }
}

#[test]
fn cgroup2s_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
    fs::create_dir(dir.path().join("c")).unwrap();
    for (name, content) in [
        ("cpu.stat", "usage_usec 1500\nuser_usec 1000\n"),
        ("memory.current", "1000\n"),
        ("memory.max", "4000\n"),
        ("memory.stat", "anon 300\nfile 600\ninactive_file 250\npgfault 9\npgmajfault 2\n"),
        ("memory.swap.current", "10\n"),
        ("memory.swap.max", "100\n"),
        ("pids.current", "5\n"),
        ("cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"),
    ] {
        fs::write(dir.path().join("c").join(name), content).unwrap();
    }
    let tree = Tree::unified_at(dir.path()).unwrap();
    let path = CgroupPath::parse("/c").unwrap();
    let reader = Reader::open(&tree, &path).unwrap();
    let stats = reader.read().unwrap();
    assert_eq!(stats.cpu_usage_ns, Some(1_500_000));
    let memory = Memory {
        usage: 1000,
        working_set: 750,
        rss: 300,
        available: Some(3250),
        limit: Some(4000),
        page_faults: 9,
        major_page_faults: 2,
    };
    assert_eq!(stats.memory, Some(memory));
    assert_eq!(stats.swap, Some(Swap { usage: 10, available: Some(90) }));
    assert_eq!(stats.pids, Some(5));
    assert_eq!(stats.cpu_pressure.map(|p| p.some.total_us), Some(1));
    assert_eq!(stats.io_pressure, None);
    // The same reader sees what has changed.
    fs::write(dir.path().join("c/pids.current"), "6\n").unwrap();
    assert_eq!(reader.read().unwrap().pids, Some(6));
    fs::write(dir.path().join("c/memory.current"), "x\n").unwrap();
    assert!(matches!(reader.read(), Err(StatsError::Malformed { file: "memory.current", .. })));
    let absent = CgroupPath::parse("/d").unwrap();
    assert!(matches!(Reader::open(&tree, &absent), Err(StatsError::Gone(_))));
}
