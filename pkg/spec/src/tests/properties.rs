//! What holds for every plan, whatever was asked for: hostile configurations by chance.

use std::collections::BTreeSet;

use carpel_shim_api::plan::{ContainerPlan, PidNamespace, Propagation, mount_plan::Source, user_plan::User};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use prost::Message as _;

use super::fixture::{Fixture, device, image_mount, mount};
use crate::capability;
use crate::config::*;
use crate::input::*;
use crate::{PlannedContainer, network_sysctls, sandbox_plan, sysctl};

/// Paths as an attacker would write them, among good ones.
fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        90 => "[a-z]{1,3}",
        1 => Just("..".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just(String::new()),
        1 => Just("proc".to_owned()),
        1 => Just("dev".to_owned()),
        1 => Just("...".to_owned()),
        1 => Just("a\nb".to_owned()),
        1 => Just("\0".to_owned()),
    ];
    (prop::bool::weighted(0.98), prop::collection::vec(part, 1..4))
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
}

fn mounts() -> impl Strategy<Value = Vec<MountConfig>> {
    let access = prop::sample::select(vec![
        MountAccess::ReadWrite,
        MountAccess::ReadOnly,
        MountAccess::RecursiveReadOnly,
    ]);
    let propagation = prop::sample::select(vec![
        MountPropagation::Private,
        MountPropagation::Private,
        MountPropagation::HostToContainer,
        MountPropagation::Bidirectional,
    ]);
    let host = (path(), path(), access, propagation)
        .prop_map(|(to, from, access, propagation)| MountConfig { access, propagation, ..mount(&to, &from) });
    let image = (path(), path())
        .prop_map(|(to, sub_path)| image_mount(&to, sub_path.strip_prefix('/').unwrap_or(&sub_path)));
    prop::collection::vec(prop_oneof![4 => host, 1 => image], 0..4)
}

fn pid_mode() -> impl Strategy<Value = PidMode> {
    prop_oneof![
        Just(PidMode::Pod),
        Just(PidMode::Container),
        Just(PidMode::Node),
        "[0-9a-f]{1,3}|[0-9a-f./]{0,5}".prop_map(PidMode::Target),
    ]
}

fn capability_names() -> impl Strategy<Value = Vec<String>> {
    let mut names: Vec<String> = capability::NAMES.iter().map(|name| (*name).to_owned()).collect();
    names.extend(["ALL", "CAP_SYS_ADMIN", "CAP_ALL"].map(str::to_owned));
    prop::collection::vec(prop::sample::select(names), 0..4)
}

fn security() -> impl Strategy<Value = ContainerSecurity> {
    let run_as = prop::option::of(prop_oneof![
        any::<u32>().prop_map(RunAs::Uid),
        "[a-z]{1,4}|[0-9]{1,2}|[0-9a-z:+ -]{0,4}".prop_map(RunAs::Name),
    ]);
    let flags = (prop::bool::weighted(0.2), any::<bool>(), any::<bool>());
    let names = (capability_names(), capability_names());
    let paths = (prop::collection::vec(path(), 0..2), prop::collection::vec(path(), 0..2));
    (flags, names, paths, run_as, prop::option::of(pid_mode())).prop_map(
        |((privileged, readonly_rootfs, no_new_privs), (add, drop), (masked, readonly), run_as, pid)| {
            ContainerSecurity {
                privileged,
                add_capabilities: add,
                drop_capabilities: drop,
                pid,
                run_as,
                readonly_rootfs,
                no_new_privs,
                masked_paths: masked,
                readonly_paths: readonly,
                ..ContainerSecurity::default()
            }
        },
    )
}

fn fixture() -> impl Strategy<Value = Fixture> {
    let image = (
        "[0-9]{1,2}|[a-z]{1,3}|[0-9a-z:+]{0,6}",
        path(),
        prop::collection::vec(path(), 0..2),
        "[A-Z=a\0]{0,6}",
    );
    let pod = (prop::bool::weighted(0.8), pid_mode(), path(), any::<bool>());
    let node = (any::<u64>(), any::<bool>());
    (mounts(), security(), image, pod, node, path()).prop_map(
        |(mounts, security, image, pod, node, extra)| {
            let mut fixture = Fixture::new();
            let layers = vec!["/layers/m".to_owned()];
            fixture.image_mounts = (0..mounts.len()).map(|index| (index, layers.clone())).collect();
            fixture.config.mounts = mounts;
            fixture.config.security = security;
            fixture.config.devices = vec![DeviceConfig {
                container_path: "/dev/x".into(),
                host_path: "/dev/x".into(),
                permissions: "rwm".into(),
            }];
            fixture.devices = vec![vec![device(&extra, DeviceKind::Character, (10, 200))]];
            (fixture.image.user, fixture.image.working_dir, fixture.image.volumes) =
                (image.0, image.1, image.2);
            fixture.image.env.push(image.3);
            (fixture.sandbox.security.privileged, fixture.sandbox.namespaces.pid) = (pod.0, pod.1);
            fixture.sandbox.cgroup_parent = Some(format!("{}{}", pod.2, if node.1 { ".slice" } else { "" }));
            fixture.sandbox.namespaces.network = if pod.3 { PodOrNode::Pod } else { PodOrNode::Node };
            fixture.node.daemon_capabilities = node.0;
            if node.1 {
                fixture.node.cgroup_driver = CgroupDriver::Systemd;
            }
            fixture
        },
    )
}

/// All paths that the shim will follow.
fn paths(planned: &PlannedContainer) -> Vec<String> {
    let plan = &planned.plan;
    let mut paths = vec![plan.process.cwd.clone(), plan.rootfs.upper.clone(), plan.rootfs.work.clone()];
    paths.extend(plan.rootfs.lowers.iter().cloned());
    paths.extend(plan.masked_paths.iter().chain(&plan.readonly_paths).cloned());
    paths.extend(plan.devices.iter().map(|device| device.path.clone()));
    paths.push(plan.cgroup.path.clone());
    for mount in &plan.mounts {
        paths.push(mount.destination.clone());
        match &mount.source {
            Some(Source::Bind(bind)) => paths.push(bind.path.clone()),
            Some(Source::Layers(layers)) => {
                paths.extend(layers.lowers.iter().cloned());
                paths.push(format!("/{}", layers.sub_path));
            }
            Some(Source::Rootfs(part)) => paths.push(part.path.clone()),
            Some(Source::Filesystem(_)) | None => {}
        }
    }
    paths
}

fn check_paths(planned: &PlannedContainer) {
    for path in paths(planned) {
        assert!(path.starts_with('/'), "{path:?}");
        assert!(path.split('/').all(|part| part != ".."), "{path:?}");
        assert!(!path.contains('\0'), "{path:?}");
    }
}

fn check_privileges(fixture: &Fixture, plan: &ContainerPlan) {
    let security = &fixture.config.security;
    let sets = &plan.process.capabilities;
    assert_eq!(sets.bounding & !fixture.node.daemon_capabilities, 0);
    assert_eq!((sets.effective, sets.permitted), (sets.bounding, sets.bounding));
    assert_eq!((sets.inheritable, sets.ambient), (0, 0));
    let asked = security.pid == Some(PidMode::Node)
        || (security.pid.is_none() && fixture.sandbox.namespaces.pid == PidMode::Node);
    assert_eq!(plan.pid_namespace() == PidNamespace::Node, asked);
    assert_eq!(plan.host_cgroup_namespace, security.privileged);
    assert!(!security.privileged || fixture.sandbox.security.privileged);
    assert_eq!(plan.process.no_new_privileges, security.no_new_privs);
    let names_root = matches!(&security.run_as, Some(RunAs::Uid(0)))
        || matches!(&security.run_as, Some(RunAs::Name(name)) if name == "0")
        || (security.run_as.is_none() && matches!(fixture.image.user.split(':').next(), Some("" | "0")));
    assert_eq!(plan.process.user.user == Some(User::Uid(0)), names_root);
    if !security.privileged {
        check_unprivileged(plan);
    }
}

fn check_unprivileged(plan: &ContainerPlan) {
    let all = u32::from(b'a');
    let rules = &plan.cgroup.device_rules;
    assert!(rules.first().is_some_and(|rule| !rule.allow && rule.kind == all && rule.major.is_none()));
    for rule in &rules[1..] {
        assert!(!rule.allow || rule.kind != all);
        assert!(rule.major.is_some() || !(rule.read || rule.write), "{rule:?}");
    }
    for mount in &plan.mounts {
        assert_ne!(mount.propagation(), Propagation::Shared);
        if let Some(Source::Filesystem(filesystem)) = &mount.source
            && matches!(filesystem.fs_type.as_str(), "sysfs" | "cgroup")
        {
            assert_eq!(mount.attributes & 1, 1, "{} is read-only", mount.destination);
        }
    }
    assert_ne!(plan.rootfs_propagation(), Propagation::Shared);
}

fn check_mounts(plan: &ContainerPlan) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for mount in &plan.mounts {
        let below = format!("{}/", mount.destination);
        assert!(!seen.iter().any(|earlier| earlier.starts_with(&below)), "{below} hides another mount");
        assert!(seen.insert(&mount.destination), "{} twice", mount.destination);
    }
}

fn check_env(plan: &ContainerPlan) {
    let mut names = BTreeSet::new();
    for entry in &plan.process.env {
        let name = entry.split(|byte| *byte == b'=').next().unwrap();
        assert!(!name.is_empty() && name.len() < entry.len() && !entry.contains(&0));
        assert!(names.insert(name));
    }
}

/// Properties of accepted plans say little if next to none is accepted.
#[test]
fn plans_are_accepted_often_enough_to_matter() {
    let mut runner = TestRunner::deterministic();
    let strategy = fixture();
    let accepted =
        (0..500).filter(|_| strategy.new_tree(&mut runner).unwrap().current().plan().is_ok()).count();
    assert!((50..450).contains(&accepted), "{accepted} of 500");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_keeps_the_container_in(fixture in fixture()) {
        if let Ok(planned) = fixture.plan() {
            check_paths(&planned);
            check_privileges(&fixture, &planned.plan);
            check_mounts(&planned.plan);
            check_env(&planned.plan);
            let again = fixture.plan().unwrap().plan.encode_to_vec();
            prop_assert_eq!(planned.plan.encode_to_vec(), again);
        }
    }

    #[test]
    fn no_sysctl_reaches_the_host(key in "(net|kernel|fs|vm)?[./a-z_+=\n0-9]{0,20}", value in "[0-9+=|/\n ]{0,6}",
                                  host_network: bool, host_ipc: bool) {
        let of = |host| if host { PodOrNode::Node } else { PodOrNode::Pod };
        let mut config = super::fixture::sandbox();
        config.namespaces.network = of(host_network);
        config.namespaces.ipc = of(host_ipc);
        config.sysctls = [(key.clone(), value.clone())].into();
        let facts = PodFacts {
            pod_id: "9".repeat(64),
            pod_dir: "/run/p".into(),
            shm_size_bytes: 1,
            shim_cgroup: String::new(),
            shim_oom_score_adj: 0,
            unprivileged: UnprivilegedNetwork::KernelDefault,
            selinux: Default::default(),
        };
        if let (Ok(plan), Ok(network)) = (sandbox_plan(&config, &facts), network_sysctls(&config, &facts)) {
            prop_assert_eq!(plan.sysctls.len() + network.len(), 1);
            prop_assert!(network.is_empty() || !host_network);
            prop_assert!(!value.contains(['+', '\n']));
            for sysctl in plan.sysctls.iter().chain(&network) {
                prop_assert_eq!(sysctl::dotted(&sysctl.key), Ok(sysctl.key.clone()));
                prop_assert!(!sysctl.key.split('.').any(|part| part.is_empty() || part.trim_matches('/').is_empty()));
            }
            prop_assert_eq!(plan.host_uts, host_network);
            prop_assert_eq!(plan.host_ipc, host_ipc);
        }
    }

    #[test]
    fn no_profile_makes_the_compiler_panic(content in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(profile) = crate::seccomp::Profile::parse(&content) {
            let kernel = crate::seccomp::KernelVersion { major: 6, minor: 8 };
            let _ = crate::seccomp::compile(&profile, 0, crate::seccomp::Arch::X86_64, kernel);
        }
    }
}
