//! Single rules of a container plan, each with what is refused.

use carpel_shim_api::plan::{ContainerPlan, MountPlan, PidNamespace, Propagation, mount_plan::Source};

use super::fixture::{Fixture, device, image_mount, mount};
use crate::PlanError;
use crate::capability::{self, CONTAINERD_DEFAULT};
use crate::config::*;
use crate::error::*;
use crate::input::*;
use crate::seccomp::KernelVersion;

fn plan(change: impl FnOnce(&mut Fixture)) -> Result<ContainerPlan, PlanError> {
    let mut fixture = Fixture::new();
    change(&mut fixture);
    fixture.plan().map(|planned| planned.plan)
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn destinations(plan: &ContainerPlan) -> Vec<&str> {
    plan.mounts.iter().map(|mount| mount.destination.as_str()).collect()
}

#[test]
fn commands_merge_with_the_images() {
    let check = |entrypoint: &[&str], cmd: &[&str], command: &[&str], args: &[&str], expect: Option<&str>| {
        let planned = plan(|fixture| {
            fixture.image.entrypoint = strings(entrypoint);
            fixture.image.cmd = strings(cmd);
            fixture.config.command = strings(command);
            fixture.config.args = strings(args);
        });
        let joined = |plan: ContainerPlan| String::from_utf8(plan.process.args.join(&b' ')).unwrap();
        let what = format!("{entrypoint:?} {cmd:?} {command:?} {args:?}");
        match (planned, expect) {
            (Ok(plan), Some(expect)) => assert_eq!(joined(plan), expect, "{what}"),
            (Err(PlanError::NoCommand), None) => {}
            (other, _) => panic!("{what}: {other:?}"),
        }
    };
    check(&["e"], &["c"], &[], &[], Some("e c"));
    check(&["e"], &["c"], &[], &["a"], Some("e a"));
    check(&["e"], &["c"], &["x"], &[], Some("x"));
    check(&["e"], &["c"], &["x"], &["a"], Some("x a"));
    check(&[], &["c"], &[], &[], Some("c"));
    check(&[], &[], &[], &["a"], Some("a"));
    check(&[""], &["c"], &[], &[], Some("c"));
    check(&[], &[], &[], &[], None);
    check(&["e"], &["c"], &[""], &[], None);
    assert!(matches!(plan(|f| f.config.args = strings(&["a\0b"])), Err(PlanError::Nul { .. })));
}

#[test]
fn environment_keeps_bytes_and_the_last_value() {
    let planned = plan(|fixture| {
        fixture.image.env = strings(&["A=1", "NOVALUE", "=x", "B=2=3", "A=4", "NUL=\0", "HOSTNAME=image"]);
        fixture.config.envs =
            vec![("B".into(), vec![0xfe]), ("C".into(), Vec::new()), ("C".into(), b"=".to_vec())];
    });
    let env = planned.unwrap().process.env;
    let expect: [&[u8]; 5] = [
        b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        b"HOSTNAME=image",
        b"A=4",
        b"B=\xfe",
        b"C==",
    ];
    assert_eq!(env, expect);
    for name in ["", "A=B", "A\0"] {
        let planned = plan(|fixture| fixture.config.envs = vec![(name.into(), Vec::new())]);
        assert!(matches!(planned, Err(PlanError::EnvName { .. })), "{name:?}");
    }
    assert!(plan(|fixture| fixture.config.envs = vec![("A".into(), vec![0])]).is_err());
    let host = plan(|fixture| fixture.sandbox.namespaces.network = PodOrNode::Node).unwrap();
    assert!(host.process.env.contains(&b"HOSTNAME=node-1".to_vec()));
}

#[test]
fn a_plan_that_no_shim_would_take_is_refused() {
    let large = plan(|fixture| fixture.config.envs = vec![("A".into(), vec![b'x'; 5 << 20])]);
    assert!(matches!(large, Err(PlanError::TooLarge { .. })));
    assert!(plan(|fixture| fixture.config.envs = vec![("A".into(), vec![b'x'; 3 << 20])]).is_ok());
}

#[test]
fn working_directories() {
    let check = |asked: &str, image: &str| {
        plan(|fixture| {
            fixture.config.working_dir = asked.into();
            fixture.image.working_dir = image.into();
        })
        .map(|plan| plan.process.cwd)
    };
    assert_eq!(check("", "").unwrap(), "/");
    assert_eq!(check("", "/a/./b/").unwrap(), "/a/b");
    assert_eq!(check("/c", "/a").unwrap(), "/c");
    for bad in ["a", "/a/../b", "/a\n", "/a\0"] {
        assert!(check(bad, "").is_err(), "{bad:?}");
        assert!(check("", bad).is_err(), "{bad:?}");
    }
}

#[test]
fn hostile_users_of_images_never_become_root() {
    for user in
        ["00", "+0", "-1", "1:", ":1", "4294967295", "4294967296", "99999999999999999999", " 0", "0x0"]
    {
        assert!(matches!(plan(|f| f.image.user = user.into()), Err(PlanError::User { .. })), "{user:?}");
    }
    let group = plan(|fixture| fixture.config.security.run_as_group = Some(5));
    assert!(matches!(group, Err(PlanError::GroupWithoutUser)));
}

#[test]
fn capabilities_are_those_granted_and_never_inheritable() {
    let sets = |security: ContainerSecurity| {
        plan(|fixture| fixture.config.security = security).unwrap().process.capabilities
    };
    let ordinary = sets(ContainerSecurity::default());
    assert_eq!((ordinary.bounding, ordinary.effective), (CONTAINERD_DEFAULT, CONTAINERD_DEFAULT));
    assert_eq!((ordinary.inheritable, ordinary.ambient), (0, 0));
    let all = ContainerSecurity { add_capabilities: strings(&["ALL"]), ..ContainerSecurity::default() };
    assert_eq!(sets(all).permitted, capability::ALL);
    let mut fixture = Fixture::new().privileged();
    fixture.node.daemon_capabilities = 0b1011;
    fixture.config.security.drop_capabilities = strings(&["ALL"]);
    let privileged = fixture.plan().unwrap().plan.process.capabilities;
    assert_eq!((privileged.bounding, privileged.inheritable, privileged.ambient), (0b1011, 0, 0));
    let unknown = plan(|fixture| fixture.config.security.add_capabilities = strings(&["NOPE"]));
    assert!(matches!(unknown, Err(PlanError::Capability { action: "add", .. })));
}

#[test]
fn privileged_containers_need_a_privileged_pod() {
    let planned = plan(|fixture| fixture.config.security.privileged = true);
    assert!(matches!(planned, Err(PlanError::PrivilegedInUnprivilegedPod)));
    let plan = Fixture::new().privileged().plan().unwrap().plan;
    assert!(
        plan.process.seccomp_bpf.is_empty() && plan.masked_paths.is_empty() && plan.readonly_paths.is_empty()
    );
    assert!(plan.host_cgroup_namespace);
    let nodes: Vec<&str> = plan.devices.iter().map(|device| device.path.as_str()).collect();
    assert_eq!(nodes, ["/dev/sda", "/dev/fuse"], "null is one of the default nodes");
    let sysfs = plan.mounts.iter().find(|mount| mount.destination == "/sys").unwrap();
    assert_eq!(sysfs.attributes & 1, 0, "writable");
}

#[test]
fn pid_namespaces_are_those_asked_for() {
    let check = |pod: PidMode, own: Option<PidMode>| {
        plan(|fixture| {
            fixture.sandbox.namespaces.pid = pod;
            fixture.config.security.pid = own;
        })
        .map(|plan| (plan.pid_namespace(), plan.pid_target))
    };
    let none = String::new;
    assert_eq!(check(PidMode::Container, None).unwrap(), (PidNamespace::Container, none()));
    assert_eq!(check(PidMode::Pod, None).unwrap(), (PidNamespace::Pod, none()));
    assert_eq!(check(PidMode::Pod, Some(PidMode::Container)).unwrap(), (PidNamespace::Container, none()));
    assert_eq!(check(PidMode::Node, None).unwrap(), (PidNamespace::Node, none()));
    let target = |id: &str| check(PidMode::Container, Some(PidMode::Target(id.into())));
    assert_eq!(target("c0ffee").unwrap(), (PidNamespace::Target, "c0ffee".to_owned()));
    assert!(matches!(check(PidMode::Container, Some(PidMode::Pod)), Err(PlanError::NoPodPidNamespace)));
    for id in ["", "../x", "xyz", &"a".repeat(65)] {
        assert!(target(id).is_err(), "{id:?}");
    }
}

#[test]
fn stop_signals_by_precedence() {
    let check = |asked: Option<&str>, image: Option<&str>| {
        let mut fixture = Fixture::new();
        fixture.config.stop_signal = asked.map(str::to_owned);
        fixture.image.stop_signal = image.map(str::to_owned);
        fixture.plan().map(|planned| planned.stop_signal)
    };
    assert_eq!(check(Some("SIGINT"), Some("SIGQUIT")).unwrap(), 2);
    assert_eq!(check(None, Some("SIGRTMIN+3")).unwrap(), 37);
    assert_eq!(check(None, Some("3")).unwrap(), 3);
    assert_eq!(check(None, None).unwrap(), 15);
    assert_eq!(check(None, Some("SIGNONSENSE")).unwrap(), 15);
    assert!(check(Some("SIGNONSENSE"), None).is_err());
}

#[test]
fn mounts_stand_parents_first_and_clients_replace_ours() {
    let planned = plan(|fixture| {
        fixture.config.mounts = vec![
            mount("/a/b/c", "/1"),
            mount("/a/b", "/2"),
            mount("/a/./b/", "/3"),
            mount("/sys", "/sys"),
            mount("/etc/hostname", "/4"),
            mount("/z", "/5"),
        ];
    })
    .unwrap();
    assert_eq!(
        destinations(&planned),
        [
            "/proc",
            "/dev",
            "/sys",
            "/z",
            "/dev/pts",
            "/dev/mqueue",
            "/dev/shm",
            "/etc/resolv.conf",
            "/a/b",
            "/etc/hostname",
            "/sys/fs/cgroup",
            "/a/b/c"
        ]
    );
    let source = |path: &str| match &planned.mounts.iter().find(|m| m.destination == path).unwrap().source {
        Some(Source::Bind(bind)) => bind.path.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(source("/a/b"), "/3", "the later one is what would be seen");
    assert_eq!(source("/etc/hostname"), "/4");
    assert!(planned.pod_shm);
    let own_dev = plan(|fixture| fixture.config.mounts = vec![mount("/dev", "/dev")]).unwrap();
    assert!(!destinations(&own_dev).contains(&"/dev/pts") && !own_dev.pod_shm);
}

#[test]
fn mounts_that_would_fool_the_container_or_us_are_refused() {
    for (container, host) in [
        ("/", "/srv"),
        ("//.", "/srv"),
        ("a", "/srv"),
        ("/a/../..", "/srv"),
        ("/a", "srv"),
        ("/a", "/srv/../etc"),
        ("/a", ""),
        ("/a\n", "/srv"),
        ("/proc", "/srv"),
        ("/proc/self/attr", "/srv"),
        ("/proc/sys", "/srv"),
        ("/proc//self", "/proc/self"),
    ] {
        assert!(plan(|f| f.config.mounts = vec![mount(container, host)]).is_err(), "{container:?} {host:?}");
    }
    for (container, host) in
        [("/proc", "/proc"), ("/proc/meminfo", "/var/lib/lxcfs/meminfo"), ("/process", "/srv")]
    {
        assert!(plan(|f| f.config.mounts = vec![mount(container, host)]).is_ok(), "{container:?}");
    }
    let many = plan(|f| f.config.mounts = (0..5000).map(|i| mount(&format!("/m{i}"), "/srv")).collect());
    assert!(matches!(many, Err(PlanError::TooMany { .. })));
}

#[test]
fn propagation_and_recursive_read_only() {
    let one = |access, propagation, kernel: KernelVersion| {
        let mut fixture = Fixture::new();
        fixture.node.kernel = kernel;
        fixture.config.mounts = vec![MountConfig { access, propagation, ..mount("/a", "/srv") }];
        fixture.plan().map(|planned| planned.plan)
    };
    let new = KernelVersion { major: 6, minor: 8 };
    let old = KernelVersion { major: 5, minor: 11 };
    let private = one(MountAccess::RecursiveReadOnly, MountPropagation::Private, new).unwrap();
    assert_eq!(private.rootfs_propagation(), Propagation::Private);
    let slave = one(MountAccess::ReadOnly, MountPropagation::HostToContainer, new).unwrap();
    assert_eq!(slave.rootfs_propagation(), Propagation::Slave);
    let problem = |planned: Result<ContainerPlan, PlanError>| match planned {
        Err(PlanError::Mount { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        problem(one(MountAccess::RecursiveReadOnly, MountPropagation::HostToContainer, new)),
        MountProblem::RecursiveReadOnlyPropagation
    );
    assert_eq!(
        problem(one(MountAccess::RecursiveReadOnly, MountPropagation::Private, old)),
        MountProblem::RecursiveReadOnlyKernel
    );
    assert_eq!(
        problem(one(MountAccess::ReadWrite, MountPropagation::Bidirectional, new)),
        MountProblem::BidirectionalUnprivileged
    );
}

#[test]
fn image_mounts_are_read_only_and_need_their_layers() {
    let one = |config: MountConfig, layers: &[&str]| {
        plan(|fixture| {
            fixture.config.mounts = vec![config];
            fixture.image_mounts.insert(0, strings(layers));
        })
    };
    assert!(one(image_mount("/m", "a/b"), &["/l"]).is_ok());
    assert!(matches!(one(image_mount("/m", ""), &[]), Err(PlanError::ImageMountMissing { .. })));
    for sub_path in ["/abs", "..", "a/../b", "a\0"] {
        assert!(one(image_mount("/m", sub_path), &["/l"]).is_err(), "{sub_path:?}");
    }
    let writable = MountConfig { access: MountAccess::ReadWrite, ..image_mount("/m", "") };
    assert!(one(writable, &["/l"]).is_err());
    assert!(one(image_mount("/m", ""), &["/l/../.."]).is_err());
    assert!(one(image_mount("/proc/self", ""), &["/l"]).is_err());
}

#[test]
fn volumes_of_an_image_are_folders_and_on_a_read_only_root_mounts() {
    let check = |readonly: bool, volumes: &[&str]| {
        let mut fixture = Fixture::new();
        fixture.config.security.readonly_rootfs = readonly;
        fixture.config.mounts.push(mount("/mine", "/srv"));
        fixture.image.volumes = strings(volumes);
        fixture.plan().map(|planned| {
            let folders = planned.plan.rootfs.folders;
            let mounts = planned.plan.mounts.into_iter().enumerate();
            let volume = |(place, mount): (usize, MountPlan)| match mount.source {
                Some(Source::Rootfs(part)) => {
                    assert_eq!((&part.path, mount.attributes), (&mount.destination, 0));
                    Some((place, part.path))
                }
                _ => None,
            };
            (mounts.filter_map(volume).collect::<Vec<_>>(), folders)
        })
    };
    let at = |place: usize, path: &str| (place, path.to_owned());
    let volumes =
        ["/data/", "data", "/mine", "/mine/below", "/dev/x", "/proc", "/etc/hosts", "/srv//web", "srv"];
    let (mounts, folders) = check(false, &volumes).unwrap();
    assert!(mounts.is_empty(), "{mounts:?}");
    assert_eq!(folders, ["/data", "/srv", "/srv/web"]);
    let only = |(mounts, folders): (Vec<_>, Vec<String>)| {
        assert!(folders.is_empty(), "{folders:?}");
        mounts
    };
    let mounts = only(check(true, &volumes).unwrap());
    assert_eq!(mounts, [at(0, "/data"), at(1, "/srv"), at(2, "/srv/web")]);
    // Before all other mounts, parents first, and also where something is mounted below.
    let mounts = only(check(true, &["/a/deep/down", "/z", "/etc"]).unwrap());
    assert_eq!(mounts, [at(0, "/etc"), at(1, "/z"), at(2, "/a/deep/down")]);
    let many: Vec<String> = (0..129).map(|number| format!("/{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for readonly in [false, true] {
        for bad in ["/../../../etc", "../etc", "/", "/a/../b", "", ".", "/a\0b"] {
            assert!(check(readonly, &[bad]).is_err(), "{bad:?}");
        }
        assert!(check(readonly, &many[1..]).is_ok());
        assert!(matches!(check(readonly, &many), Err(PlanError::TooMany { count: 129, .. })));
    }
}

#[test]
fn devices_are_only_those_given() {
    let one = |permissions: &str, nodes: Vec<HostDevice>| {
        plan(|fixture| {
            fixture.config.devices = vec![DeviceConfig {
                container_path: "/dev/x".into(),
                host_path: "/dev/sdb".into(),
                permissions: permissions.into(),
            }];
            fixture.devices = vec![nodes];
        })
    };
    let node = || vec![device("/dev/x", DeviceKind::Block, (8, 16))];
    let planned = one("r", node()).unwrap();
    let last = planned.cgroup.device_rules.last().unwrap();
    assert_eq!(
        (last.major, last.minor, last.read, last.write, last.mknod),
        (Some(8), Some(16), true, false, false)
    );
    let first = planned.cgroup.device_rules.first().unwrap();
    assert!(!first.allow && first.kind == u32::from(b'a') && first.read && first.write && first.mknod);
    for permissions in ["", "rx", "RW", "rwm "] {
        assert!(one(permissions, node()).is_err(), "{permissions:?}");
    }
    assert!(matches!(one("r", Vec::new()), Err(PlanError::DeviceMissing { .. })));
    assert!(one("r", vec![device("/dev/../etc/x", DeviceKind::Block, (8, 16))]).is_err());
    assert!(matches!(plan(|f| f.config.cdi_devices = strings(&["a/b=c"])), Err(PlanError::Cdi { .. })));
}

#[test]
fn cgroups_are_below_the_pods() {
    let check = |driver: CgroupDriver, parent: Option<&str>| {
        plan(|fixture| {
            fixture.sandbox.cgroup_parent = parent.map(str::to_owned);
            fixture.node.cgroup_driver = driver;
            if driver == CgroupDriver::Systemd {
                fixture.node.cgroup_parent_default = "carpel.slice".into();
            }
        })
        .map(|plan| plan.cgroup.path)
    };
    let (cgroupfs, systemd) = (CgroupDriver::Cgroupfs, CgroupDriver::Systemd);
    assert_eq!(check(cgroupfs, Some("/a/pod1/")).unwrap(), "/a/pod1/c0ffee");
    assert_eq!(check(cgroupfs, Some("/")).unwrap(), "/c0ffee");
    assert_eq!(check(cgroupfs, None).unwrap(), "/carpel/c0ffee");
    for parent in ["/kubepods.slice/kubepods-pod1_2.slice", "kubepods-pod1_2.slice"] {
        assert_eq!(
            check(systemd, Some(parent)).unwrap(),
            "/kubepods.slice/kubepods-pod1_2.slice/carpel-c0ffee.scope/container"
        );
    }
    assert_eq!(check(systemd, None).unwrap(), "/carpel.slice/carpel-c0ffee.scope/container");
    assert_eq!(
        check(systemd, Some("a-b.c-d.slice")).unwrap(),
        "/a.slice/a-b.c.slice/a-b.c-d.slice/carpel-c0ffee.scope/container"
    );
    assert_eq!(check(cgroupfs, Some("/a.slice/pod1")).unwrap(), "/a.slice/pod1/c0ffee");
    for bad in ["/a/../b", "..", "/a:b", "/a\n", "/a\0", "/kubepods.slice/kubepods-pod1_2.slice", "a.slice"] {
        assert!(check(cgroupfs, Some(bad)).is_err(), "{bad:?}");
    }
    let long = format!("{}.slice", "a".repeat(250));
    for bad in [
        "/kubepods/pod1",
        "/a.slice/b",
        "/.slice",
        "/",
        "-.slice",
        "a--b.slice",
        "-a.slice",
        "a-.slice",
        "a b.slice",
        "ä.slice",
        &long,
    ] {
        assert!(check(systemd, Some(bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn limits_are_checked() {
    let limits = |change: fn(&mut Resources)| {
        plan(|fixture| change(&mut fixture.config.resources)).map(|plan| plan.cgroup.resources)
    };
    assert_eq!(limits(|r| r.cpu_shares = Some(1)).unwrap().cpu_shares, Some(2));
    assert_eq!(limits(|r| r.cpu_shares = Some(u64::MAX)).unwrap().cpu_shares, Some(262_144));
    assert_eq!(limits(|r| r.memory_limit_bytes = Some(9)).unwrap().memory_swap_limit_bytes, Some(9));
    assert_eq!(limits(|r| r.memory_limit_bytes = Some(-1)).unwrap().memory_swap_limit_bytes, Some(-1));
    let unlimited_swap = limits(|r| {
        r.memory_limit_bytes = Some(9);
        r.memory_swap_limit_bytes = Some(-1);
    });
    assert_eq!(unlimited_swap.unwrap().memory_swap_limit_bytes, Some(-1));
    let refused: [fn(&mut Resources); 16] = [
        |r| r.cpu_quota_us = Some(999),
        |r| r.cpu_quota_us = Some(-2),
        |r| r.cpu_period_us = Some(999),
        |r| r.cpu_period_us = Some(1_000_001),
        |r| r.memory_limit_bytes = Some(-2),
        |r| (r.memory_limit_bytes, r.memory_swap_limit_bytes) = (Some(9), Some(8)),
        |r| (r.memory_limit_bytes, r.memory_swap_limit_bytes) = (Some(-1), Some(8)),
        |r| r.oom_score_adj = Some(1001),
        |r| r.cpuset_cpus = Some("0-".into()),
        |r| r.cpuset_cpus = Some("3-1".into()),
        |r| r.cpuset_mems = Some("0\n".into()),
        |r| r.cpuset_mems = Some("0,,1".into()),
        |r| r.hugepage_limits = vec![("2M".into(), 1)],
        |r| r.hugepage_limits = vec![("../2MB".into(), 1)],
        |r| r.hugepage_limits = vec![("2MB".into(), 1), ("2MB".into(), 2)],
        |r| r.unified = [("memory.high".into(), "1\u{1b}".into())].into(),
    ];
    for (index, change) in refused.into_iter().enumerate() {
        assert!(limits(change).is_err(), "case {index}");
    }
}

#[test]
fn unified_names_files_of_the_cgroups_own_folder() {
    let check = |key: &str, layout: CgroupLayout| {
        plan(|fixture| {
            fixture.node.cgroup = layout;
            fixture.config.resources.unified = [(key.to_owned(), "1".to_owned())].into();
        })
    };
    for key in ["memory.high", "hugetlb.2MB.rsvd.max", "cgroup.max.depth", "io.max"] {
        assert!(check(key, CgroupLayout::V2).is_ok(), "{key}");
        assert!(matches!(check(key, CgroupLayout::Hybrid), Err(PlanError::UnifiedWithoutV2)), "{key}");
    }
    for key in [
        "../../../x",
        "a/b",
        "",
        ".",
        "..",
        "memory",
        "memory.",
        ".high",
        "a..b",
        "cgroup.procs",
        "cgroup.kill",
        "a.b\n",
    ] {
        assert!(check(key, CgroupLayout::V2).is_err(), "{key:?}");
    }
}

#[test]
fn a_pod_without_a_host_name_has_the_nodes() {
    let mut fixture = Fixture::new();
    fixture.sandbox.hostname = String::new();
    assert_eq!(crate::effective_hostname(&fixture.sandbox, "node-1"), "node-1");
    fixture.sandbox.hostname = "web".into();
    assert_eq!(crate::effective_hostname(&fixture.sandbox, "node-1"), "web");
}
