//! Whole plans against files of `testdata`. `UPDATE_GOLDEN=1 cargo test -p carpel-spec` writes them anew.

use std::fmt::Write as _;
use std::path::Path;

use super::fixture::{Fixture, apparmor, device, image_mount, mount, sandbox, selinux};
use crate::capability::CONTAINERD_DEFAULT;
use crate::config::*;
use crate::input::*;
use crate::seccomp::{self, Arch, KernelVersion};
use crate::selinux::Labels;
use crate::{PlannedContainer, RuntimeSpecFacts, network_sysctls, runtime_spec_json, sandbox_plan};

fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    assert!(expected == text, "{name} differs; see it with UPDATE_GOLDEN=1 and git diff");
}

/// A plan as text. The seccomp program has a file of its own.
fn text(planned: &PlannedContainer) -> String {
    let mut planned = planned.clone();
    let process = &mut planned.plan.process;
    let mut text = String::new();
    for (name, list) in
        [("arg", std::mem::take(&mut process.args)), ("env", std::mem::take(&mut process.env))]
    {
        for entry in list {
            writeln!(text, "{name} {}", entry.escape_ascii()).unwrap();
        }
    }
    writeln!(text, "seccomp instructions {}", std::mem::take(&mut process.seccomp_bpf).len() / 8).unwrap();
    writeln!(text, "{planned:#?}").unwrap();
    text
}

fn rich() -> Fixture {
    let mut fixture = Fixture::new();
    let config = &mut fixture.config;
    config.command = vec!["/bin/sh".into(), "-c".into()];
    config.args = vec!["exec server".into()];
    config.working_dir = "/work/".into();
    config.envs.push(("LANG".into(), vec![0xff, b'x']));
    config.terminal = Terminal::Pty;
    config.stop_signal = Some("SIGRTMIN+3".into());
    config.mounts.extend([
        mount("/data/inner", "/srv/inner"),
        MountConfig { propagation: MountPropagation::HostToContainer, ..mount("/data", "/srv//data/") },
        MountConfig { access: MountAccess::RecursiveReadOnly, ..mount("/config", "/etc/web") },
        MountConfig { access: MountAccess::ReadOnly, ..mount("/etc/resolv.conf", "/srv/resolv.conf") },
        mount("/dev/shm", "/dev/shm/mine"),
        mount("/dev/termination-log", "/var/lib/kubelet/log"),
        image_mount("/model", "weights"),
    ]);
    config.devices = vec![DeviceConfig {
        container_path: "/dev/gpu0".into(),
        host_path: "/dev/gpu0".into(),
        permissions: "rw".into(),
    }];
    config.resources = Resources {
        cpu_period_us: Some(100_000),
        cpu_quota_us: Some(50_000),
        cpu_shares: Some(512),
        memory_limit_bytes: Some(64 << 20),
        memory_swap_limit_bytes: None,
        oom_score_adj: Some(900),
        cpuset_cpus: Some("0-1,3".into()),
        cpuset_mems: Some("0".into()),
        hugepage_limits: vec![("2MB".into(), 0), ("1GB".into(), 1 << 30)],
        unified: [("memory.high".into(), "60000000".into()), ("memory.oom.group".into(), "1".into())].into(),
    };
    config.security.add_capabilities = vec!["NET_ADMIN".into()];
    config.security.drop_capabilities = vec!["CAP_MKNOD".into()];
    config.security.run_as = Some(RunAs::Name("web".into()));
    config.security.run_as_group = Some(33);
    config.security.supplemental_groups = vec![44, 45];
    config.security.supplemental_groups_policy = GroupsPolicy::Strict;
    config.security.readonly_rootfs = true;
    config.security.no_new_privs = true;
    config.security.apparmor = SecurityProfile::Localhost("custom".into());
    fixture.image_mounts.insert(7, vec!["/var/lib/carpel/layers/m/fs".into()]);
    fixture.devices = vec![vec![device("/dev/gpu0", DeviceKind::Character, (195, 0))]];
    fixture.image.volumes = vec!["/cache".into(), "/data".into(), "/var//lib/web/".into()];
    fixture.sandbox.cgroup_parent = Some("/kubepods.slice/kubepods-pod7d0d.slice".into());
    fixture.node.cgroup_driver = CgroupDriver::Systemd;
    fixture.node.apparmor = apparmor();
    fixture.node.thermal_throttle_cpus = 2;
    fixture
}

#[test]
fn ordinary_container() {
    check("container.txt", &text(&Fixture::new().plan().unwrap()));
}

#[test]
fn container_with_everything() {
    check("container-rich.txt", &text(&rich().plan().unwrap()));
}

#[test]
fn privileged_container_in_the_hosts_namespaces() {
    let mut fixture = Fixture::new().privileged();
    fixture.sandbox.namespaces = Namespaces {
        network: PodOrNode::Node,
        ipc: PodOrNode::Node,
        pid: PidMode::Node,
        user: UserMode::Node,
    };
    fixture.sandbox.hostname = String::new();
    fixture.config.mounts.push(MountConfig {
        propagation: MountPropagation::Bidirectional,
        ..mount("/var/lib/kubelet", "/var/lib/kubelet")
    });
    check("container-privileged.txt", &text(&fixture.plan().unwrap()));
}

#[test]
fn container_on_a_node_with_selinux() {
    let mut fixture = Fixture::new();
    fixture.node.selinux = selinux();
    fixture.selinux_level = Some("s0:c3,c7");
    fixture.config.mounts.push(MountConfig { selinux_relabel: true, ..mount("/data", "/srv/data") });
    check("container-selinux.txt", &text(&fixture.plan().unwrap()));
}

fn facts() -> PodFacts {
    PodFacts {
        pod_id: "9".repeat(64),
        pod_dir: "/run/carpel/pods/p".into(),
        shm_size_bytes: 64 << 20,
        shim_cgroup: "/carpel.slice/shims".into(),
        shim_oom_score_adj: -998,
        unprivileged: UnprivilegedNetwork::PortsAndPing,
        selinux: Labels::default(),
    }
}

#[test]
fn sandboxes() {
    let mut shared = sandbox();
    shared.namespaces.pid = PidMode::Pod;
    shared.sysctls = [
        ("kernel/shm_rmid_forced".into(), "1".into()),
        ("net.core.somaxconn".into(), "1024".into()),
        ("net/ipv4/ip_unprivileged_port_start".into(), "80".into()),
    ]
    .into();
    let mut host = sandbox();
    host.namespaces = Namespaces {
        network: PodOrNode::Node,
        ipc: PodOrNode::Node,
        pid: PidMode::Node,
        user: UserMode::Node,
    };
    host.hostname = String::new();
    let mut text = String::new();
    for config in [sandbox(), shared, host] {
        let selinux = crate::selinux::of_pod(&config, &selinux(), Some("s0:c3,c7")).unwrap();
        let facts = || PodFacts { selinux: selinux.clone(), ..facts() };
        writeln!(text, "{:#?}", sandbox_plan(&config, &facts()).unwrap()).unwrap();
        for sysctl in network_sysctls(&config, &facts()).unwrap() {
            writeln!(text, "network {}={}", sysctl.key, sysctl.value).unwrap();
        }
    }
    check("sandboxes.txt", &text);
}

#[test]
fn runtime_spec_of_a_container() {
    let planned = rich().plan().unwrap();
    let sandbox = sandbox_plan(&sandbox(), &facts()).unwrap();
    let user = carpel_shim_api::record::User { uid: 33, gid: 33, groups: vec![44, 45] };
    let facts = RuntimeSpecFacts { network_namespace: Some("/run/netns/p"), user: Some(&user) };
    let json = runtime_spec_json(&planned.plan, &sandbox, facts).unwrap();
    check("runtime-spec.json", &format!("{json:#}\n"));
}

#[test]
fn built_in_seccomp_program() {
    let kernel = KernelVersion { major: 6, minor: 8 };
    let profile = seccomp::default_profile();
    for (arch, name) in [(Arch::X86_64, "seccomp-x86_64.txt"), (Arch::Aarch64, "seccomp-aarch64.txt")] {
        let program = seccomp::compile(&profile, CONTAINERD_DEFAULT, arch, kernel).unwrap();
        let mut text = format!("flags {:#x}\n", program.flags);
        for (index, instruction) in program.instructions.iter().enumerate() {
            let seccomp::Instruction { code, jt, jf, k } = instruction;
            writeln!(text, "{index:4} {code:#04x} {jt:3} {jf:3} {k:#x}").unwrap();
        }
        check(name, &text);
    }
}
