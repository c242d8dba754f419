//! An ordinary pod, container, image and node, to be changed by a test in the one thing it is about.

use std::collections::{BTreeMap, BTreeSet};

use carpel_shim_api::plan::Rlimit;

use crate::capability;
use crate::config::*;
use crate::input::*;
use crate::seccomp::{Arch, KernelVersion};
use crate::{PlanError, PlannedContainer, container_plan};

/// All that a container plan is made of, owned.
#[derive(Debug)]
pub(super) struct Fixture {
    pub(super) sandbox: SandboxConfig,
    pub(super) config: ContainerConfig,
    pub(super) image: ImageConfig,
    pub(super) rootfs: RootfsInput,
    pub(super) pod_files: PodFiles,
    pub(super) image_mounts: BTreeMap<usize, Vec<String>>,
    pub(super) devices: Vec<Vec<HostDevice>>,
    pub(super) host_devices: Vec<HostDevice>,
    pub(super) profile: Option<Vec<u8>>,
    pub(super) selinux_level: Option<&'static str>,
    pub(super) node: NodeFacts,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self {
            sandbox: sandbox(),
            config: container(),
            image: image(),
            rootfs: RootfsInput {
                lowers: vec!["/var/lib/carpel/layers/b/fs".into(), "/var/lib/carpel/layers/a/fs".into()],
                upper: "/var/lib/carpel/containers/c/upper".into(),
                work: "/var/lib/carpel/containers/c/work".into(),
                volatile: true,
            },
            pod_files: PodFiles {
                resolv_conf: "/run/carpel/pods/p/resolv.conf".into(),
                hostname: "/run/carpel/pods/p/hostname".into(),
                hosts: None,
            },
            image_mounts: BTreeMap::new(),
            devices: Vec::new(),
            host_devices: vec![
                device("/dev/sda", DeviceKind::Block, (8, 0)),
                device("/dev/null", DeviceKind::Character, (1, 3)),
                device("/dev/fuse", DeviceKind::Character, (10, 229)),
            ],
            profile: None,
            selinux_level: None,
            node: node(),
        }
    }

    pub(super) fn plan(&self) -> Result<PlannedContainer, PlanError> {
        container_plan(&ContainerInput {
            sandbox: &self.sandbox,
            config: &self.config,
            image: &self.image,
            container_id: "c0ffee",
            selinux_level: self.selinux_level,
            hostname: crate::effective_hostname(&self.sandbox, "node-1"),
            rootfs: &self.rootfs,
            pod_files: &self.pod_files,
            image_mounts: &self.image_mounts,
            devices: &self.devices,
            host_devices: &self.host_devices,
            seccomp: self.profile.as_deref().map_or(SeccompInput::BuiltIn, SeccompInput::Localhost),
            node: &self.node,
        })
    }

    /// The container and its pod are privileged.
    pub(super) fn privileged(mut self) -> Self {
        self.sandbox.security.privileged = true;
        self.config.security.privileged = true;
        self
    }
}

pub(super) fn sandbox() -> SandboxConfig {
    SandboxConfig {
        metadata: SandboxMetadata {
            name: "web-0".into(),
            namespace: "default".into(),
            uid: "7d0d2f54-8d0d-4d2e-9d4f-0a8b0c0d0e0f".into(),
            attempt: 0,
        },
        hostname: "web-0".into(),
        log_directory: None,
        dns: None,
        port_mappings: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        cgroup_parent: Some("/kubepods/burstable/pod7d0d2f54-8d0d-4d2e-9d4f-0a8b0c0d0e0f".into()),
        namespaces: Namespaces {
            network: PodOrNode::Pod,
            ipc: PodOrNode::Pod,
            pid: PidMode::Container,
            user: UserMode::Node,
        },
        security: SandboxSecurity::default(),
        sysctls: BTreeMap::new(),
        overhead: None,
        resources: None,
        runtime_handler: String::new(),
    }
}

fn container() -> ContainerConfig {
    let masked = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"];
    let readonly = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
    ContainerConfig {
        name: "web".into(),
        attempt: 0,
        image: "sha256:0".into(),
        user_specified_image: "registry.example/web:1".into(),
        command: Vec::new(),
        args: Vec::new(),
        working_dir: String::new(),
        envs: vec![("POD_NAME".into(), b"web-0".to_vec())],
        mounts: vec![mount("/etc/hosts", "/var/lib/kubelet/pods/p/etc-hosts")],
        devices: Vec::new(),
        cdi_devices: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        log_path: None,
        stdin: StdinMode::Closed,
        terminal: Terminal::Pipes,
        resources: Resources::default(),
        security: ContainerSecurity {
            masked_paths: masked.map(str::to_owned).to_vec(),
            readonly_paths: readonly.map(str::to_owned).to_vec(),
            seccomp: SecurityProfile::RuntimeDefault,
            apparmor: SecurityProfile::RuntimeDefault,
            ..ContainerSecurity::default()
        },
        stop_signal: None,
    }
}

fn image() -> ImageConfig {
    ImageConfig {
        env: vec!["PATH=/usr/bin:/bin".into(), "LANG=C.UTF-8".into()],
        entrypoint: vec!["/entrypoint".into()],
        cmd: vec!["serve".into(), "--port=80".into()],
        user: "1000:1000".into(),
        working_dir: "/srv".into(),
        volumes: Vec::new(),
        stop_signal: Some("SIGQUIT".into()),
        labels: BTreeMap::from([("org.example".into(), "1".into())]),
    }
}

fn node() -> NodeFacts {
    NodeFacts {
        cgroup: CgroupLayout::V2,
        cgroup_driver: CgroupDriver::Cgroupfs,
        cgroup_parent_default: "/carpel".into(),
        scope_prefix: "carpel".into(),
        swap_limits: SwapLimits::Present,
        default_capabilities: capability::CONTAINERD_DEFAULT,
        daemon_capabilities: capability::ALL,
        default_rlimits: vec![Rlimit { resource: 7, soft: 1_048_576, hard: 1_048_576 }],
        arch: Arch::X86_64,
        kernel: KernelVersion { major: 6, minor: 8 },
        apparmor: AppArmor::Absent,
        selinux: Selinux::Absent,
        thermal_throttle_cpus: 0,
    }
}

pub(super) fn apparmor() -> AppArmor {
    let loaded = BTreeSet::from(["carpel-default".to_owned(), "custom".to_owned()]);
    AppArmor::Enabled { default_profile: Some("carpel-default".into()), loaded }
}

pub(super) fn selinux() -> Selinux {
    let label = |role: &str, type_: &str| SelinuxOption {
        user: "system_u".into(),
        role: role.into(),
        type_: type_.into(),
        level: "s0".into(),
    };
    Selinux::Enabled(Box::new(SelinuxContexts {
        process: label("system_r", "container_t"),
        file: label("object_r", "container_file_t"),
        privileged: Some(label("system_r", "spc_t")),
    }))
}

pub(super) fn mount(container_path: &str, host_path: &str) -> MountConfig {
    MountConfig {
        container_path: container_path.into(),
        source: MountSource::Host(host_path.into()),
        access: MountAccess::ReadWrite,
        propagation: MountPropagation::Private,
        selinux_relabel: false,
        id_mappings: None,
    }
}

pub(super) fn image_mount(container_path: &str, sub_path: &str) -> MountConfig {
    MountConfig {
        source: MountSource::Image { image: "model".into(), sub_path: sub_path.into() },
        access: MountAccess::ReadOnly,
        ..mount(container_path, "/")
    }
}

pub(super) fn device(path: &str, kind: DeviceKind, (major, minor): (u32, u32)) -> HostDevice {
    HostDevice { path: path.into(), kind, major, minor, mode: 0o660, uid: 0, gid: 6 }
}
