//! What a container is to be.

use carpel_shim_api::PAYLOAD_MAX_BYTES;
use carpel_shim_api::plan::{ContainerPlan, PidNamespace, ProcessPlan, RootfsPlan};
use prost::Message as _;

use crate::config::{IdRange, PidMode, RunAs, Terminal, UserMode};
use crate::error::PlanError;
use crate::input::ContainerInput;
use crate::mounts::Mounts;
use crate::{cgroup, devices, mounts, path, process, resources, security, selinux, signal, user};

/// The longest id of a target container, in bytes.
const ID_MAX_BYTES: usize = 64;

/// The largest plan: what a frame carries, less what else is in it. A larger one would end the shim's
/// connection (carpel_shim_api), and with it more than this container.
const PLAN_MAX_BYTES: usize = PAYLOAD_MAX_BYTES - (64 << 10);

/// A container's plan, and what the daemon itself has to do or remember.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedContainer {
    /// For the shim.
    pub plan: ContainerPlan,
    /// The kernel's number of the signal that asks the container to stop.
    pub stop_signal: i32,
}

/// Computes a container.
///
/// # Errors
/// Something asked for is malformed, contradicts itself, or is more than the node or the pod allows;
/// the image's configuration is malformed; a part of the input is missing.
pub fn container_plan(input: &ContainerInput<'_>) -> Result<PlannedContainer, PlanError> {
    let config = input.config;
    if config.security.privileged && !input.sandbox.security.privileged {
        return Err(PlanError::PrivilegedInUnprivilegedPod);
    }
    if let Some(name) = config.cdi_devices.first() {
        return Err(PlanError::Cdi { name: name.clone() });
    }
    check_user_namespace(input)?;
    let (pid_namespace, pid_target) = pid_namespace(input)?;
    let devices = devices::plan_devices(input)?;
    let labels = selinux::of_container(input)?;
    let Mounts { mounts, folders, rootfs_propagation, pod_shm } = mounts::plan_mounts(input)?;
    let plan = ContainerPlan {
        process: process_plan(input, labels.process)?,
        rootfs: rootfs(input, folders)?,
        mounts,
        pid_namespace: pid_namespace.into(),
        pid_target,
        // A user namespace owns none of the host's, and so could not mount what it shows.
        host_cgroup_namespace: config.security.privileged && input.sandbox.namespaces.user == UserMode::Node,
        masked_paths: security::masked_paths(&config.security, input.node)?,
        readonly_paths: security::readonly_paths(&config.security)?,
        cgroup: cgroup::plan_cgroup(input, &devices)?,
        devices: devices.nodes,
        rootfs_propagation: rootfs_propagation.into(),
        pod_shm,
        mount_label: labels.mount,
    };
    let bytes = plan.encoded_len();
    if bytes > PLAN_MAX_BYTES {
        return Err(PlanError::TooLarge { bytes, max: PLAN_MAX_BYTES });
    }
    Ok(PlannedContainer { plan, stop_signal: stop_signal(input)? })
}

/// The process of an exec that says everything anew: the container's own with another command and
/// terminal. (An exec that changes nothing else needs no more than `ExecPlan::args`.)
pub fn exec_process(init: &ProcessPlan, args: Vec<Vec<u8>>, terminal: Terminal) -> ProcessPlan {
    ProcessPlan { args, terminal: terminal == Terminal::Pty, ..init.clone() }
}

/// A container has the pod's user namespace, and ids that there are in it.
fn check_user_namespace(input: &ContainerInput<'_>) -> Result<(), PlanError> {
    let of_pod = input.sandbox.namespaces.user;
    let security = &input.config.security;
    if security.user.is_some_and(|of_container| of_container != of_pod) {
        return Err(PlanError::OtherUserNamespace);
    }
    let Some(mappings) = of_pod.mappings() else { return Ok(()) };
    let check = |field, range: IdRange, id: u32| {
        let last = range.length.saturating_sub(1);
        if id <= last { Ok(()) } else { Err(PlanError::UnmappedId { field, id, last }) }
    };
    if let Some(RunAs::Uid(uid)) = security.run_as {
        check("run_as_user", mappings.uids, uid)?;
    }
    security.run_as_group.map_or(Ok(()), |gid| check("run_as_group", mappings.gids, gid))?;
    let mut groups = security.supplemental_groups.iter();
    groups.try_for_each(|gid| check("supplemental group", mappings.gids, *gid))
}

fn process_plan(input: &ContainerInput<'_>, label: String) -> Result<ProcessPlan, PlanError> {
    let config = input.config;
    let seccomp = security::seccomp(input)?;
    Ok(ProcessPlan {
        args: process::args(input)?,
        env: process::env(input)?,
        cwd: process::cwd(config, &input.image.working_dir)?,
        user: user::plan_user(&config.security, &input.image.user)?,
        capabilities: security::capabilities(security::granted(&config.security, input.node)?),
        rlimits: input.node.default_rlimits.clone(),
        no_new_privileges: config.security.no_new_privs,
        oom_score_adj: resources::oom_score_adj(&config.resources)?,
        seccomp_flags: seccomp.as_ref().map_or(0, |program| program.flags),
        seccomp_bpf: seccomp.map(|program| program.to_ne_bytes()).unwrap_or_default(),
        apparmor_profile: security::apparmor_profile(&config.security, input.node)?,
        selinux_label: label,
        terminal: config.terminal == Terminal::Pty,
        umask: None,
    })
}

fn rootfs(input: &ContainerInput<'_>, folders: Vec<String>) -> Result<RootfsPlan, PlanError> {
    let parts = input.rootfs;
    if parts.lowers.is_empty() {
        return Err(PlanError::NoLayers);
    }
    let layer = |lower: &String| path::below_root("rootfs layer", lower);
    Ok(RootfsPlan {
        lowers: parts.lowers.iter().map(layer).collect::<Result<_, _>>()?,
        upper: path::below_root("rootfs upper folder", &parts.upper)?,
        work: path::below_root("rootfs work folder", &parts.work)?,
        readonly: input.config.security.readonly_rootfs,
        volatile: parts.volatile,
        folders,
    })
}

/// The container's own choice, else the pod's. A host namespace only where one of them says `Node`.
fn pid_namespace(input: &ContainerInput<'_>) -> Result<(PidNamespace, String), PlanError> {
    let of_pod = &input.sandbox.namespaces.pid;
    match input.config.security.pid.as_ref().unwrap_or(of_pod) {
        PidMode::Container => Ok((PidNamespace::Container, String::new())),
        PidMode::Node if input.sandbox.namespaces.user != UserMode::Node => {
            Err(PlanError::HostNamespaceInUserNamespace { namespace: "PID" })
        }
        PidMode::Node => Ok((PidNamespace::Node, String::new())),
        PidMode::Pod if *of_pod == PidMode::Pod => Ok((PidNamespace::Pod, String::new())),
        PidMode::Pod => Err(PlanError::NoPodPidNamespace),
        PidMode::Target(id) => {
            let is_id = (1..=ID_MAX_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit());
            if is_id {
                Ok((PidNamespace::Target, id.clone()))
            } else {
                Err(PlanError::TargetId { id: id.clone() })
            }
        }
    }
}

/// The configuration's, else the image's, else SIGTERM. An image's that is none is passed over: it
/// must still be possible to stop what was made of it.
fn stop_signal(input: &ContainerInput<'_>) -> Result<i32, PlanError> {
    if let Some(asked) = &input.config.stop_signal {
        return signal::number(asked).map_err(PlanError::StopSignal);
    }
    let of_image = input.image.stop_signal.as_deref().filter(|text| !text.is_empty());
    Ok(of_image.and_then(|text| signal::number(text).ok()).unwrap_or(signal::TERM))
}
