use proptest::prelude::*;

use super::*;

fn lines(settings: Result<Vec<Setting>, LimitError>) -> Vec<String> {
    settings.unwrap().iter().map(|s| format!("{}={}", s.file, s.value)).collect()
}

#[test]
fn shares_become_the_weight_that_the_kubelet_expects() {
    for (shares, weight) in [
        (0, 1),
        (2, 1),
        (10, 4),
        (100, 17),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ] {
        assert_eq!(weight_from_shares(shares), weight, "{shares}");
    }
}

proptest! {
    #[test]
    fn more_shares_never_weigh_less(a in 0u64..300_000, b in 0u64..300_000) {
        let (low, high) = (a.min(b), a.max(b));
        prop_assert!(weight_from_shares(low) <= weight_from_shares(high));
        prop_assert!((1..=10_000).contains(&weight_from_shares(a)));
    }

    #[test]
    fn no_key_of_a_file_leads_out_of_the_folder(key in ".{0,40}") {
        let limits = Limits { unified: vec![(key.clone(), "1".to_owned())], ..Limits::default() };
        if limits.check().is_ok() {
            prop_assert!(!key.contains('/') && !key.contains("..") && !key.starts_with("cgroup."));
        }
    }
}

#[test]
fn keys_and_values_of_files_are_plain() {
    let check = |key: &str, value: &str| {
        Limits { unified: vec![(key.to_owned(), value.to_owned())], ..Limits::default() }.check()
    };
    for key in ["memory.high", "io.max", "cpu.weight.nice", "hugetlb.2MB.max"] {
        assert_eq!(check(key, "1"), Ok(()), "{key}");
    }
    for key in [
        "../../../x",
        "a/b",
        "",
        "memory",
        "memory.",
        ".max",
        "cgroup.procs",
        "cgroup.kill",
        "Memory.high",
        "a..b",
    ] {
        assert_eq!(check(key, "1"), Err(LimitError::UnifiedKey(key.to_owned())), "{key}");
    }
    for value in ["", "1\n2", "\0", &"1".repeat(5000)] {
        assert_eq!(check("memory.high", value), Err(LimitError::UnifiedValue("memory.high".to_owned())));
    }
}

#[test]
fn lists_sizes_and_numbers_are_checked() {
    let cpus = |list: &str| Limits { cpuset_cpus: Some(list.to_owned()), ..Limits::default() }.check();
    for good in ["0", "0-3", "0-3,8,10-11"] {
        assert_eq!(cpus(good), Ok(()), "{good}");
    }
    for bad in ["", ",", "0-", "-1", "a", "0-3-4", "0\n1", "12345678"] {
        assert!(cpus(bad).is_err(), "{bad:?}");
    }
    let page = |size: &str| {
        let limit = HugepageLimit { page_size: size.to_owned(), limit_bytes: 0 };
        Limits { hugepage_limits: vec![limit], ..Limits::default() }.check()
    };
    assert_eq!(page("2MB").and(page("1GB")).and(page("64KB")), Ok(()));
    for bad in ["", "MB", "2", "2M", "../2MB", "2MBx", "２MB"] {
        assert!(page(bad).is_err(), "{bad:?}");
    }
    let memory = |memory, swap| {
        let limits =
            Limits { memory_limit_bytes: Some(memory), memory_swap_limit_bytes: swap, ..Limits::default() };
        limits.check()
    };
    assert_eq!(memory(100, Some(100)).and(memory(100, Some(-1))).and(memory(-1, Some(-1))), Ok(()));
    assert_eq!(memory(100, Some(99)), Err(LimitError::SwapBelowMemory { memory: 100, swap: 99 }));
    assert_eq!(memory(-1, Some(99)), Err(LimitError::SwapWithoutMemory(99)));
    assert!(memory(-2, None).is_err());
}

#[test]
fn v2_files_say_what_v1_words_mean() {
    let limits = Limits {
        cpu_shares: Some(1024),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        cpuset_cpus: Some("0-1".to_owned()),
        memory_limit_bytes: Some(64),
        memory_swap_limit_bytes: Some(96),
        pids_limit: Some(-1),
        hugepage_limits: vec![HugepageLimit { page_size: "2MB".to_owned(), limit_bytes: 0 }],
        ..Limits::default()
    };
    let expected = [
        "cpu.weight=100",
        "cpu.max=50000 100000",
        "cpuset.cpus=0-1",
        "memory.swap.max=32",
        "memory.max=64",
        "pids.max=max",
        "hugetlb.2MB.max=0",
        "hugetlb.2MB.rsvd.max=0",
    ];
    assert_eq!(lines(v2_settings(&limits, &Current::default())), expected);
    // Alone, a period keeps the quota in force, and swap is reckoned from the memory in force.
    let alone =
        Limits { cpu_period_us: Some(50_000), memory_swap_limit_bytes: Some(100), ..Limits::default() };
    let current = Current { cpu_quota_us: Some(20_000), memory_limit_bytes: Some(60), ..Current::default() };
    assert_eq!(lines(v2_settings(&alone, &current)), ["cpu.max=20000 50000", "memory.swap.max=40"]);
    assert_eq!(v2_settings(&alone, &Current::default()), Err(LimitError::SwapWithoutMemory(100)));
}

#[test]
fn v1_writes_come_in_the_order_that_the_kernel_takes() {
    let memory = |memory, swap| Limits {
        memory_limit_bytes: Some(memory),
        memory_swap_limit_bytes: swap,
        ..Limits::default()
    };
    let limited = Current {
        memory_limit_bytes: Some(100),
        memory_swap_limit_bytes: Some(100),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
    };
    let (m, s) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
    for (limits, current, expected) in [
        // New: memory, then both.
        (memory(100, Some(100)), Current::default(), vec![format!("{m}=100"), format!("{s}=100")]),
        // Up: both first.
        (memory(200, Some(200)), limited, vec![format!("{s}=200"), format!("{m}=200")]),
        // Down: memory first.
        (memory(50, Some(50)), limited, vec![format!("{m}=50"), format!("{s}=50")]),
        // No limit is none of both.
        (memory(-1, None), limited, vec![format!("{s}=-1"), format!("{m}=-1")]),
    ] {
        assert_eq!(lines(v1_settings(&limits, &current)), expected);
    }
    let cpu = |quota, period| Limits {
        cpu_quota_us: Some(quota),
        cpu_period_us: Some(period),
        ..Limits::default()
    };
    // From half a CPU to half a CPU: never more in between.
    for (limits, first) in
        [(cpu(25_000, 50_000), "cpu.cfs_quota_us=25000"), (cpu(100_000, 200_000), "cpu.cfs_period_us=200000")]
    {
        assert_eq!(lines(v1_settings(&limits, &limited))[0], first);
    }
}
