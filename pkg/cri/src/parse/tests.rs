use std::path::Path;

use carpel_proto::v1;
use carpel_spec::config::{
    GroupsPolicy, MountAccess, MountPropagation, PidMode, PodOrNode, Protocol, RunAs, SecurityProfile,
    StdinMode,
};

use super::*;

fn pod() -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "u-1".into(),
            namespace: "default".into(),
            attempt: 2,
        }),
        ..v1::PodSandboxConfig::default()
    }
}

fn container() -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: "busybox".into(), ..v1::ImageSpec::default() }),
        ..v1::ContainerConfig::default()
    }
}

fn security(change: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> v1::ContainerConfig {
    let mut context = v1::LinuxContainerSecurityContext::default();
    change(&mut context);
    let linux = v1::LinuxContainerConfig { security_context: Some(context), resources: None };
    v1::ContainerConfig { linux: Some(linux), ..container() }
}

fn sandbox_security(change: impl FnOnce(&mut v1::LinuxSandboxSecurityContext)) -> v1::PodSandboxConfig {
    let mut context = v1::LinuxSandboxSecurityContext::default();
    change(&mut context);
    let linux = v1::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
    v1::PodSandboxConfig { linux: Some(linux), ..pod() }
}

fn with_mount(mount: v1::Mount) -> v1::ContainerConfig {
    v1::ContainerConfig { mounts: vec![mount], ..container() }
}

fn host_mount() -> v1::Mount {
    v1::Mount { container_path: "/data".into(), host_path: "/srv".into(), ..v1::Mount::default() }
}

/// The field that is blamed.
fn blamed<T: std::fmt::Debug>(outcome: Result<T, Invalid>) -> String {
    outcome.expect_err("must be refused").field
}

#[test]
fn a_bare_pod_has_its_own_namespaces_and_nothing_else() {
    let config = sandbox_config(pod(), "").unwrap();
    assert_eq!((config.metadata.name.as_str(), config.metadata.attempt), ("web", 2));
    assert_eq!(config.namespaces.network, PodOrNode::Pod);
    assert_eq!(config.namespaces.pid, PidMode::Pod);
    assert_eq!((config.cgroup_parent, config.log_directory, config.dns), (None, None, None));
    assert_eq!(config.security.seccomp, SecurityProfile::Unconfined);
}

#[test]
fn bad_pods_are_refused_by_field() {
    let config = |change: &dyn Fn(&mut v1::PodSandboxConfig)| {
        let mut config = pod();
        change(&mut config);
        blamed(sandbox_config(config, ""))
    };
    assert_eq!(config(&|pod| pod.metadata = None), "config.metadata");
    assert_eq!(config(&|pod| pod.metadata.as_mut().unwrap().uid.clear()), "config.metadata.uid");
    assert_eq!(config(&|pod| pod.hostname = "h".repeat(65)), "config.hostname");
    for path in ["var/log", "/var/log/../../etc", "/var/log\n", "/var\0"] {
        assert_eq!(config(&|pod| pod.log_directory = path.into()), "config.log_directory", "{path:?}");
    }
    for server in ["", "10.0.0.1\noptions evil"] {
        let dns = v1::DnsConfig { servers: vec![server.into()], ..v1::DnsConfig::default() };
        assert_eq!(config(&|pod| pod.dns_config = Some(dns.clone())), "config.dns_config.servers");
    }
    for parent in ["/a/../b", "/a//b", "/./a"] {
        let linux = v1::LinuxPodSandboxConfig { cgroup_parent: parent.into(), ..Default::default() };
        assert_eq!(config(&|pod| pod.linux = Some(linux.clone())), "config.linux.cgroup_parent", "{parent}");
    }
}

#[test]
fn cgroup_parents_are_made_absolute() {
    for (given, expected) in [("/kubepods/pod1", "/kubepods/pod1"), ("kubepods", "/kubepods"), ("/a/", "/a")]
    {
        let linux = v1::LinuxPodSandboxConfig { cgroup_parent: given.into(), ..Default::default() };
        let config = sandbox_config(v1::PodSandboxConfig { linux: Some(linux), ..pod() }, "").unwrap();
        assert_eq!(config.cgroup_parent.as_deref(), Some(expected));
    }
}

#[test]
fn only_mappings_with_a_host_port_are_kept() {
    let mapping = |container_port, host_port, host_ip: &str| v1::PortMapping {
        protocol: v1::Protocol::Udp.into(),
        container_port,
        host_port,
        host_ip: host_ip.into(),
    };
    let parsed = |mapping| {
        sandbox_config(v1::PodSandboxConfig { port_mappings: vec![mapping], ..pod() }, "")
            .map(|config| config.port_mappings)
    };
    assert!(parsed(mapping(80, 0, "")).unwrap().is_empty());
    let kept = parsed(mapping(53, 5353, "0.0.0.0")).unwrap();
    assert_eq!((kept[0].protocol, kept[0].host_port, kept[0].host_ip), (Protocol::Udp, 5353, None));
    for bad in
        [mapping(0, 80, ""), mapping(70_000, 80, ""), mapping(80, -1, ""), mapping(80, 80, "localhost")]
    {
        assert_eq!(blamed(parsed(bad)), "config.port_mappings");
    }
}

#[test]
fn namespaces_take_only_what_they_can_be() {
    let option = |change: &dyn Fn(&mut v1::NamespaceOption)| {
        let mut options = v1::NamespaceOption::default();
        change(&mut options);
        sandbox_config(sandbox_security(|context| context.namespace_options = Some(options)), "")
    };
    let field = "config.linux.security_context.namespace_options";
    let node: i32 = v1::NamespaceMode::Node.into();
    assert_eq!(option(&|o| o.network = node).unwrap().namespaces.network, PodOrNode::Node);
    assert_eq!(blamed(option(&|o| o.network = 1)), format!("{field}.network"));
    assert_eq!(blamed(option(&|o| o.ipc = 3)), format!("{field}.ipc"));
    assert_eq!(blamed(option(&|o| o.pid = 9)), format!("{field}.pid"));
    assert_eq!(blamed(option(&|o| o.pid = 3)), format!("{field}.target_id"));
}

fn id_mapping(container_id: u32, host_id: u32, length: u32) -> v1::IdMapping {
    v1::IdMapping { host_id, container_id, length }
}

fn userns(mode: v1::NamespaceMode, uids: &[v1::IdMapping], gids: &[v1::IdMapping]) -> v1::UserNamespace {
    v1::UserNamespace { mode: mode.into(), uids: uids.to_vec(), gids: gids.to_vec() }
}

#[test]
fn a_user_namespace_has_one_range_from_zero() {
    let parsed = |options: v1::UserNamespace| {
        let option = v1::NamespaceOption { userns_options: Some(options), ..v1::NamespaceOption::default() };
        sandbox_config(sandbox_security(|context| context.namespace_options = Some(option)), "")
            .map(|config| config.namespaces.user)
    };
    use v1::NamespaceMode::{Container, Node, Pod, Target};
    let (good, other) = (id_mapping(0, 65_536, 65_536), id_mapping(0, 131_072, 1));
    let kept = parsed(userns(Pod, &[good], &[other])).unwrap().mappings().unwrap();
    assert_eq!((kept.uids.host_id, kept.uids.length), (65_536, 65_536));
    assert_eq!((kept.gids.host_id, kept.gids.length), (131_072, 1));
    assert_eq!(parsed(userns(Node, &[], &[])).unwrap().mappings(), None);
    let field = "config.linux.security_context.namespace_options.userns_options";
    for (options, blame) in [
        (userns(Pod, &[], &[]), ".uids"),
        (userns(Pod, &[good], &[]), ".gids"),
        (userns(Pod, &[good, good], &[good]), ".uids"),
        (userns(Pod, &[id_mapping(1, 1000, 10)], &[good]), ".uids"),
        (userns(Pod, &[good], &[id_mapping(0, 1000, 0)]), ".gids"),
        (userns(Pod, &[id_mapping(0, u32::MAX, 1)], &[good]), ".uids"),
        (userns(Pod, &[id_mapping(0, 2, u32::MAX)], &[good]), ".uids"),
        (userns(Node, &[good], &[good]), ""),
        (userns(Container, &[], &[]), ".mode"),
        (userns(Target, &[], &[]), ".mode"),
    ] {
        assert_eq!(blamed(parsed(options)), format!("{field}{blame}"));
    }
    assert!(parsed(userns(Pod, &[id_mapping(0, 1, u32::MAX - 1)], &[good])).is_ok());
}

#[test]
fn an_idmapped_mount_has_both_mappings() {
    let good = id_mapping(0, 65_536, 65_536);
    let parsed = |uids: &[v1::IdMapping], gids: &[v1::IdMapping]| {
        let mount = v1::Mount {
            container_path: "/a".into(),
            host_path: "/b".into(),
            uid_mappings: uids.to_vec(),
            gid_mappings: gids.to_vec(),
            ..v1::Mount::default()
        };
        container_config(v1::ContainerConfig { mounts: vec![mount], ..container() })
    };
    assert!(parsed(&[good], &[good]).unwrap().mounts[0].id_mappings.is_some());
    assert!(parsed(&[], &[]).unwrap().mounts[0].id_mappings.is_none());
    assert_eq!(blamed(parsed(&[good], &[])), "config.mounts[0].gidMappings");
    assert_eq!(blamed(parsed(&[good, good], &[good])), "config.mounts[0].uidMappings");
}

#[test]
fn a_group_needs_a_user() {
    let group = Some(v1::Int64Value { value: 5 });
    let refused = sandbox_config(sandbox_security(|context| context.run_as_group = group), "");
    assert_eq!(blamed(refused), "config.linux.security_context.run_as_group");
    let refused = container_config(security(|context| context.run_as_group = group));
    assert_eq!(blamed(refused), "config.linux.security_context.run_as_group");
    let named = container_config(security(|context| {
        context.run_as_group = group;
        context.run_as_username = "nobody".into();
    }))
    .unwrap();
    assert_eq!(
        (named.security.run_as, named.security.run_as_group),
        (Some(RunAs::Name("nobody".into())), Some(5))
    );
}

#[test]
fn ids_never_wrap() {
    for value in [-1, i64::from(u32::MAX), i64::from(u32::MAX) + 1, i64::MIN] {
        let user = Some(v1::Int64Value { value });
        let refused = container_config(security(|context| context.run_as_user = user));
        assert_eq!(blamed(refused), "config.linux.security_context.run_as_user", "{value}");
        let refused = container_config(security(|context| context.supplemental_groups = vec![value]));
        assert_eq!(blamed(refused), "config.linux.security_context.supplemental_groups", "{value}");
    }
}

#[test]
fn environment_values_are_bytes() {
    let env = |key: &str, value: &[u8]| {
        let pair = v1::KeyValue { key: key.into(), value: value.to_vec() };
        container_config(v1::ContainerConfig { envs: vec![pair], ..container() }).map(|config| config.envs)
    };
    assert_eq!(env("A", b"\xff\n=").unwrap(), [("A".to_owned(), b"\xff\n=".to_vec())]);
    for (key, value) in [("", &b"x"[..]), ("A=B", b"x"), ("A\0", b"x"), ("A", b"x\0y")] {
        assert_eq!(blamed(env(key, value)), "config.envs");
    }
}

#[test]
fn mounts_say_how_far_read_only_goes() {
    let parsed = |mount| container_config(with_mount(mount)).map(|config| config.mounts[0].clone());
    assert_eq!(parsed(host_mount()).unwrap().access, MountAccess::ReadWrite);
    let readonly = v1::Mount { readonly: true, ..host_mount() };
    assert_eq!(parsed(readonly.clone()).unwrap().access, MountAccess::ReadOnly);
    let recursive = v1::Mount { recursive_read_only: true, ..readonly };
    assert_eq!(parsed(recursive.clone()).unwrap().access, MountAccess::RecursiveReadOnly);
    for bad in [
        v1::Mount { readonly: false, ..recursive.clone() },
        v1::Mount { propagation: v1::MountPropagation::PropagationHostToContainer.into(), ..recursive },
    ] {
        assert_eq!(blamed(parsed(bad)), "config.mounts[0].recursive_read_only");
    }
}

#[test]
fn bidirectional_mounts_are_for_privileged_containers() {
    let mount = v1::Mount { propagation: 2, ..host_mount() };
    assert_eq!(blamed(container_config(with_mount(mount.clone()))), "config.mounts[0].propagation");
    let privileged =
        v1::ContainerConfig { mounts: vec![mount], ..security(|context| context.privileged = true) };
    assert_eq!(container_config(privileged).unwrap().mounts[0].propagation, MountPropagation::Bidirectional);
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for path in ["../0.log", "a/../../b", "/abs.log", "a\nb"] {
        let config = v1::ContainerConfig { log_path: path.into(), ..container() };
        assert_eq!(blamed(container_config(config)), "config.log_path", "{path:?}");
    }
    let config = v1::ContainerConfig { log_path: "main/0.log".into(), ..container() };
    assert_eq!(container_config(config).unwrap().log_path.as_deref(), Some(Path::new("main/0.log")));
    for host_path in ["", "srv", "/srv/../etc"] {
        let mount = v1::Mount { host_path: host_path.into(), ..host_mount() };
        assert_eq!(
            blamed(container_config(with_mount(mount))),
            "config.mounts[0].host_path",
            "{host_path:?}"
        );
    }
    let image = v1::ImageSpec { image: "data".into(), ..v1::ImageSpec::default() };
    let mount = v1::Mount {
        container_path: "/d".into(),
        image: Some(image),
        image_sub_path: "../x".into(),
        ..v1::Mount::default()
    };
    assert_eq!(blamed(container_config(with_mount(mount))), "config.mounts[0].image_sub_path");
}

#[test]
#[expect(deprecated, reason = "old clients still fill these in")]
fn profiles_come_in_two_forms() {
    let profile = |profile: Option<v1::SecurityProfile>, old: &str| {
        container_config(security(|context| {
            context.seccomp = profile.clone();
            context.seccomp_profile_path = old.into();
        }))
        .map(|config| config.security.seccomp)
    };
    let new = |profile_type, reference: &str| {
        Some(v1::SecurityProfile { profile_type, localhost_ref: reference.into() })
    };
    assert_eq!(profile(None, "").unwrap(), SecurityProfile::Unconfined);
    assert_eq!(profile(None, "runtime/default").unwrap(), SecurityProfile::RuntimeDefault);
    assert_eq!(profile(None, "localhost//p.json").unwrap(), SecurityProfile::Localhost("/p.json".into()));
    assert_eq!(profile(new(0, ""), "unconfined").unwrap(), SecurityProfile::RuntimeDefault);
    assert_eq!(profile(new(2, "localhost//p"), "").unwrap(), SecurityProfile::Localhost("/p".into()));
    assert!(profile(new(2, ""), "").is_err());
    assert!(profile(new(7, ""), "").is_err());
    assert!(profile(None, "nonsense").is_err());
}

#[test]
#[expect(deprecated, reason = "old clients still fill these in")]
fn apparmor_is_the_default_where_nothing_is_said() {
    let profile = |profile: Option<v1::SecurityProfile>, old: &str| {
        container_config(security(|context| {
            context.apparmor = profile.clone();
            context.apparmor_profile = old.into();
        }))
        .map(|config| config.security.apparmor)
    };
    let new = |profile_type, reference: &str| {
        Some(v1::SecurityProfile { profile_type, localhost_ref: reference.into() })
    };
    assert_eq!(profile(None, "").unwrap(), SecurityProfile::RuntimeDefault);
    assert_eq!(profile(None, "runtime/default").unwrap(), SecurityProfile::RuntimeDefault);
    assert_eq!(profile(None, "unconfined").unwrap(), SecurityProfile::Unconfined);
    assert_eq!(profile(None, "localhost/web").unwrap(), SecurityProfile::Localhost("web".into()));
    assert_eq!(profile(new(1, ""), "localhost/web").unwrap(), SecurityProfile::Unconfined);
    assert_eq!(profile(new(2, "web"), "").unwrap(), SecurityProfile::Localhost("web".into()));
    assert!(profile(None, "localhost/").is_err());
}

#[test]
fn limits_of_zero_are_not_given() {
    let zero = resources(&v1::LinuxContainerResources::default(), "r").unwrap();
    assert_eq!((zero.memory_limit_bytes, zero.cpu_quota_us, zero.cpuset_cpus), (None, None, None));
    assert_eq!(zero.oom_score_adj, Some(0));
    let given = v1::LinuxContainerResources { cpu_quota: -1, memory_limit_in_bytes: 5, ..Default::default() };
    let given = resources(&given, "r").unwrap();
    assert_eq!((given.cpu_quota_us, given.memory_limit_bytes), (Some(-1), Some(5)));
    for bad in [
        v1::LinuxContainerResources { cpu_shares: -1, ..Default::default() },
        v1::LinuxContainerResources { memory_limit_in_bytes: -2, ..Default::default() },
        v1::LinuxContainerResources { oom_score_adj: 1001, ..Default::default() },
        v1::LinuxContainerResources { cpuset_cpus: "0\n1".into(), ..Default::default() },
    ] {
        assert!(resources(&bad, "r").is_err(), "{bad:?}");
    }
}

#[test]
fn the_rest_of_a_container_comes_over_as_it_is() {
    let config = container_config(v1::ContainerConfig {
        stdin: true,
        stdin_once: true,
        stop_signal: v1::Signal::Sigrtminplus3.into(),
        ..security(|context| {
            context.supplemental_groups_policy = v1::SupplementalGroupsPolicy::Strict.into();
            context.capabilities = Some(v1::Capability {
                add_capabilities: vec!["CAP_NET_ADMIN".into(), "sys_time".into()],
                drop_capabilities: vec!["all".into()],
                add_ambient_capabilities: Vec::new(),
            });
        })
    })
    .unwrap();
    assert_eq!(config.stdin, StdinMode::Once);
    assert_eq!(config.stop_signal.as_deref(), Some("SIGRTMIN+3"));
    assert_eq!(config.security.supplemental_groups_policy, GroupsPolicy::Strict);
    assert_eq!(config.security.add_capabilities, ["NET_ADMIN", "SYS_TIME"]);
    assert_eq!(config.security.drop_capabilities, ["ALL"]);
}

#[test]
fn a_pull_needs_a_reference_and_keeps_its_secrets() {
    let pull = |image: &str, auth| {
        let image = Some(v1::ImageSpec { image: image.into(), ..v1::ImageSpec::default() });
        pull_request(v1::PullImageRequest { image, auth, sandbox_config: None })
    };
    assert_eq!(blamed(pull("", None)), "image.image");
    assert_eq!(blamed(pull("busybox:no tag", None)), "image.image");
    let auth = v1::AuthConfig { auth: "s3cret!!".into(), ..v1::AuthConfig::default() };
    let refused = pull("busybox", Some(auth)).unwrap_err();
    assert_eq!(refused.field, "auth");
    assert!(!refused.to_string().contains("s3cret"));
    assert!(pull("busybox", None).unwrap().auth.is_none());
}
