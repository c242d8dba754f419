//! A plan told as an OCI runtime spec, for people and tools that read `crictl inspect`.
//!
//! Nothing is ever carried out from it, and it cannot say all that a plan says: a seccomp program has
//! no names left, and image layers have no mount type of their own.

use std::collections::HashMap;

use carpel_shim_api::plan::{
    Capabilities, CgroupPlan, ContainerPlan, DevicePlan, DeviceRule, IdRange, MountPlan, PidNamespace,
    ProcessPlan, Propagation, Resources, SandboxPlan, mount_plan, user_plan,
};
use carpel_shim_api::record;
use oci_spec::runtime::{
    Capability, Linux, LinuxCapabilities, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType,
    LinuxHugepageLimit, LinuxIdMapping, LinuxIdMappingBuilder, LinuxMemory, LinuxNamespace,
    LinuxNamespaceType, LinuxResources, Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process,
    Root, Spec, User,
};

use crate::capability;
use crate::mounts::{NODEV, NOEXEC, NOSUID, RDONLY, STRICTATIME};

/// What a plan does not say, but a runtime spec does.
#[derive(Debug, Clone, Copy, Default)]
pub struct RuntimeSpecFacts<'a> {
    /// Path of the pod's network namespace; `None`: the host's.
    pub network_namespace: Option<&'a str>,
    /// Who the process runs as, once the shim has looked it up.
    pub user: Option<&'a record::User>,
}

/// The same container as an OCI runtime spec. The order of a set's capabilities in it is random: see
/// [`runtime_spec_json`] for a text that is always the same.
pub fn runtime_spec(plan: &ContainerPlan, sandbox: &SandboxPlan, facts: RuntimeSpecFacts<'_>) -> Spec {
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(plan.rootfs.readonly));
    let is_pod_shm = |mount: &MountPlan| plan.pod_shm && mount.destination == "/dev/shm";
    let told = |plan| if is_pod_shm(plan) { pod_shm(sandbox) } else { mount(plan) };
    let mounts: Vec<Mount> = plan.mounts.iter().map(told).collect();
    let mut spec = Spec::default();
    spec.set_version("1.2.0".to_owned())
        .set_root(Some(root))
        .set_process(Some(process(&plan.process, facts.user)))
        .set_mounts(Some(mounts))
        .set_hostname(Some(sandbox.hostname.clone()).filter(|hostname| !hostname.is_empty()))
        .set_linux(Some(linux(plan, sandbox, facts)));
    spec
}

/// [`runtime_spec`] as JSON, with sorted keys and sorted capabilities.
///
/// # Errors
/// The spec cannot be written as JSON.
pub fn runtime_spec_json(
    plan: &ContainerPlan,
    sandbox: &SandboxPlan,
    facts: RuntimeSpecFacts<'_>,
) -> Result<serde_json::Value, serde_json::Error> {
    let mut json = serde_json::to_value(runtime_spec(plan, sandbox, facts))?;
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        if let Some(set) = json.pointer_mut(&format!("/process/capabilities/{set}"))
            && let Some(names) = set.as_array_mut()
        {
            names.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        }
    }
    Ok(json)
}

fn process(plan: &ProcessPlan, user: Option<&record::User>) -> Process {
    let texts =
        |list: &[Vec<u8>]| list.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    let named = |name: &String| Some(name.clone()).filter(|name| !name.is_empty());
    let rlimits: Vec<PosixRlimit> = plan
        .rlimits
        .iter()
        .filter_map(|limit| {
            let typ = rlimit_type(limit.resource)?;
            // Nothing in it is required, so it is always built.
            PosixRlimitBuilder::default().typ(typ).soft(limit.soft).hard(limit.hard).build().ok()
        })
        .collect();
    let mut process = Process::default();
    process
        .set_terminal(Some(plan.terminal))
        .set_user(user_of(plan, user))
        .set_args(Some(texts(&plan.args)))
        .set_env(Some(texts(&plan.env)))
        .set_cwd(plan.cwd.clone().into())
        .set_capabilities(Some(capabilities(&plan.capabilities)))
        .set_rlimits(Some(rlimits))
        .set_no_new_privileges(Some(plan.no_new_privileges))
        .set_apparmor_profile(named(&plan.apparmor_profile))
        .set_selinux_label(named(&plan.selinux_label))
        .set_oom_score_adj(plan.oom_score_adj);
    process
}

fn user_of(plan: &ProcessPlan, resolved: Option<&record::User>) -> User {
    let asked = &plan.user;
    let mut user = User::default();
    if let Some(user_plan::User::Name(name)) = &asked.user {
        user.set_username(Some(name.clone()));
    }
    match resolved {
        Some(resolved) => {
            user.set_uid(resolved.uid)
                .set_gid(resolved.gid)
                .set_additional_gids(Some(resolved.groups.clone()));
        }
        None => {
            if let Some(user_plan::User::Uid(uid)) = asked.user {
                user.set_uid(uid);
            }
            if let Some(user_plan::Group::Gid(gid)) = asked.group {
                user.set_gid(gid);
            }
            user.set_additional_gids(Some(asked.supplemental_groups.clone()));
        }
    }
    user
}

/// include/uapi/asm-generic/resource.h.
fn rlimit_type(resource: u32) -> Option<PosixRlimitType> {
    const TYPES: [PosixRlimitType; 16] = [
        PosixRlimitType::RlimitCpu,
        PosixRlimitType::RlimitFsize,
        PosixRlimitType::RlimitData,
        PosixRlimitType::RlimitStack,
        PosixRlimitType::RlimitCore,
        PosixRlimitType::RlimitRss,
        PosixRlimitType::RlimitNproc,
        PosixRlimitType::RlimitNofile,
        PosixRlimitType::RlimitMemlock,
        PosixRlimitType::RlimitAs,
        PosixRlimitType::RlimitLocks,
        PosixRlimitType::RlimitSigpending,
        PosixRlimitType::RlimitMsgqueue,
        PosixRlimitType::RlimitNice,
        PosixRlimitType::RlimitRtprio,
        PosixRlimitType::RlimitRttime,
    ];
    TYPES.get(usize::try_from(resource).ok()?).copied()
}

fn capabilities(plan: &Capabilities) -> LinuxCapabilities {
    let of = |set: u64| {
        let names = capability::NAMES.iter().enumerate().filter(|(number, _)| set & (1 << number) != 0);
        Some(names.filter_map(|(_, name)| name.parse::<Capability>().ok()).collect())
    };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(of(plan.bounding))
        .set_effective(of(plan.effective))
        .set_permitted(of(plan.permitted))
        .set_inheritable(of(plan.inheritable))
        .set_ambient(of(plan.ambient));
    sets
}

fn mount(plan: &MountPlan) -> Mount {
    let mut options: Vec<String> = Vec::new();
    let (typ, source) = match &plan.source {
        Some(mount_plan::Source::Bind(bind)) => {
            options.push(if bind.recursive { "rbind" } else { "bind" }.to_owned());
            ("bind", bind.path.clone())
        }
        Some(mount_plan::Source::Filesystem(filesystem)) => {
            options.extend(filesystem.options.iter().cloned());
            (filesystem.fs_type.as_str(), filesystem.fs_type.clone())
        }
        Some(mount_plan::Source::Layers(layers)) => {
            options.push(format!("lowerdir={}", layers.lowers.join(":")));
            ("overlay", "overlay".to_owned())
        }
        Some(mount_plan::Source::Rootfs(part)) => {
            options.push("bind".to_owned());
            ("bind", part.path.clone())
        }
        None => ("none", String::new()),
    };
    let flags = [
        (NOSUID, "nosuid"),
        (NODEV, "nodev"),
        (NOEXEC, "noexec"),
        (STRICTATIME, "strictatime"),
        (RDONLY, "ro"),
    ];
    options.extend(
        flags.iter().filter(|(bit, _)| plan.attributes & bit != 0).map(|(_, name)| (*name).to_owned()),
    );
    if plan.idmapped {
        options.push("ridmap".to_owned());
    }
    if plan.attributes_recursive & RDONLY != 0 {
        options.push("rro".to_owned());
    }
    let propagation = plan.propagation();
    options.extend(propagation_name(propagation).map(|name| format!("r{name}")));
    let mut mount = Mount::default();
    mount
        .set_destination(plan.destination.clone().into())
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options));
    mount
}

fn pod_shm(sandbox: &SandboxPlan) -> Mount {
    let source = if sandbox.host_ipc { "/dev/shm".to_owned() } else { format!("{}/shm", sandbox.pod_dir) };
    let options = ["rbind", "nosuid", "nodev", "noexec"].map(str::to_owned).to_vec();
    let mut mount = Mount::default();
    mount
        .set_destination("/dev/shm".into())
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options));
    mount
}

fn propagation_name(propagation: Propagation) -> Option<&'static str> {
    match propagation {
        Propagation::Inherit => None,
        Propagation::Private => Some("private"),
        Propagation::Slave => Some("slave"),
        Propagation::Shared => Some("shared"),
    }
}

fn linux(plan: &ContainerPlan, sandbox: &SandboxPlan, facts: RuntimeSpecFacts<'_>) -> Linux {
    let propagation = propagation_name(plan.rootfs_propagation()).map(|name| format!("r{name}"));
    let sysctl: HashMap<String, String> =
        sandbox.sysctls.iter().map(|sysctl| (sysctl.key.clone(), sysctl.value.clone())).collect();
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(plan, sandbox, facts)))
        .set_devices(Some(plan.devices.iter().map(device).collect()))
        .set_cgroups_path(Some(plan.cgroup.path.clone().into()))
        .set_resources(Some(resources(&plan.cgroup)))
        .set_rootfs_propagation(propagation)
        .set_mount_label(Some(plan.mount_label.clone()).filter(|label| !label.is_empty()))
        .set_masked_paths(Some(plan.masked_paths.clone()))
        .set_readonly_paths(Some(plan.readonly_paths.clone()))
        .set_sysctl(Some(sysctl).filter(|sysctl| !sysctl.is_empty()))
        .set_uid_mappings(sandbox.id_mappings.map(|ids| vec![id_mapping(&ids.uids)]))
        .set_gid_mappings(sandbox.id_mappings.map(|ids| vec![id_mapping(&ids.gids)]));
    linux
}

fn id_mapping(range: &IdRange) -> LinuxIdMapping {
    // Nothing in it is required, so it is always built.
    LinuxIdMappingBuilder::default().host_id(range.host_id).size(range.length).build().unwrap_or_default()
}

/// Those that are not the host's. The pod's are held by its shim, so they have no path but the network's.
fn namespaces(
    plan: &ContainerPlan,
    sandbox: &SandboxPlan,
    facts: RuntimeSpecFacts<'_>,
) -> Vec<LinuxNamespace> {
    let kinds = [
        (LinuxNamespaceType::Pid, plan.pid_namespace() != PidNamespace::Node),
        (LinuxNamespaceType::Ipc, !sandbox.host_ipc),
        (LinuxNamespaceType::Uts, !sandbox.host_uts),
        (LinuxNamespaceType::Mount, true),
        (LinuxNamespaceType::User, sandbox.id_mappings.is_some()),
        (LinuxNamespaceType::Cgroup, !plan.host_cgroup_namespace),
        (LinuxNamespaceType::Network, facts.network_namespace.is_some()),
    ];
    let own = kinds.into_iter().filter(|(_, own)| *own);
    own.map(|(kind, _)| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        if kind == LinuxNamespaceType::Network {
            namespace.set_path(facts.network_namespace.map(Into::into));
        }
        namespace
    })
    .collect()
}

fn device_type(kind: u32) -> LinuxDeviceType {
    match u8::try_from(kind) {
        Ok(b'b') => LinuxDeviceType::B,
        Ok(b'c') => LinuxDeviceType::C,
        Ok(b'p') => LinuxDeviceType::P,
        Ok(_) | Err(_) => LinuxDeviceType::A,
    }
}

fn device(plan: &DevicePlan) -> LinuxDevice {
    let mut device = LinuxDevice::default();
    device
        .set_path(plan.path.clone().into())
        .set_typ(device_type(plan.kind))
        .set_major(plan.major.into())
        .set_minor(plan.minor.into())
        .set_file_mode(Some(plan.mode))
        .set_uid(Some(plan.uid))
        .set_gid(Some(plan.gid));
    device
}

fn device_rule(rule: &DeviceRule) -> LinuxDeviceCgroup {
    let access: String = [(rule.read, 'r'), (rule.write, 'w'), (rule.mknod, 'm')]
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, c)| c)
        .collect();
    let mut cgroup = LinuxDeviceCgroup::default();
    cgroup
        .set_allow(rule.allow)
        .set_typ(Some(device_type(rule.kind)))
        .set_major(rule.major.map(Into::into))
        .set_minor(rule.minor.map(Into::into))
        .set_access(Some(access));
    cgroup
}

fn resources(cgroup: &CgroupPlan) -> LinuxResources {
    let Resources { hugepage_limits, unified, .. } = &cgroup.resources;
    let mut resources = LinuxResources::default();
    resources
        .set_devices(Some(cgroup.device_rules.iter().map(device_rule).collect()))
        .set_memory(Some(memory(&cgroup.resources)))
        .set_cpu(Some(cpu(&cgroup.resources)));
    if !hugepage_limits.is_empty() {
        let limit = |limit: &carpel_shim_api::plan::HugepageLimit| {
            let mut hugepage = LinuxHugepageLimit::default();
            let bytes = i64::try_from(limit.limit_bytes).unwrap_or(i64::MAX);
            hugepage.set_page_size(limit.page_size.clone()).set_limit(bytes);
            hugepage
        };
        resources.set_hugepage_limits(Some(hugepage_limits.iter().map(limit).collect()));
    }
    if !unified.is_empty() {
        let files = unified.iter().map(|file| (file.key.clone(), file.value.clone()));
        resources.set_unified(Some(files.collect()));
    }
    resources
}

fn memory(plan: &Resources) -> LinuxMemory {
    let mut memory = LinuxMemory::default();
    memory.set_limit(plan.memory_limit_bytes).set_swap(plan.memory_swap_limit_bytes);
    memory
}

fn cpu(plan: &Resources) -> LinuxCpu {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(plan.cpu_shares)
        .set_quota(plan.cpu_quota_us)
        .set_period(plan.cpu_period_us)
        .set_cpus(plan.cpuset_cpus.clone())
        .set_mems(plan.cpuset_mems.clone());
    cpu
}
