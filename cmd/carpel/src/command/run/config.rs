//! From arguments to the protocol's configuration of a pod and its container. No input or output, but for the
//! one random number.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use anyhow::Context;
use carpel_proto::v1::{
    Capability, ContainerConfig, ContainerMetadata, ImageSpec, Int64Value, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    SecurityProfile, security_profile::ProfileType,
};

use super::{Args, log_dir};
use crate::image_names::workload_name;

/// Marks pods of `carpel run`, so that `carpel rm` knows whose logs it may remove.
pub(crate) const RUN_LABEL: &str = "io.carpel.run";

/// What the kubelet masks in a container that is not privileged (`ProcMount: Default`).
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Period of the CPU quota in microseconds, the kernel's default.
const CPU_PERIOD_US: i64 = 100_000;

/// Who the process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum User {
    Number { uid: i64, gid: Option<i64> },
    Name { name: String, gid: Option<i64> },
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ArgumentError {
    #[error("a name has 1 to 63 small letters, digits and dashes, and no dash at its ends (RFC 1123)")]
    Name,
    #[error("expected KEY=VALUE")]
    Pair,
    #[error("expected USER or USER:GROUP, the group by number")]
    User,
    #[error("environment variable {0:?} has no name before its =")]
    Variable(OsString),
}

pub(super) fn parse_name(text: &str) -> Result<String, ArgumentError> {
    let valid = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if valid { Ok(text.to_owned()) } else { Err(ArgumentError::Name) }
}

pub(super) fn parse_pair(text: &str) -> Result<(String, String), ArgumentError> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(ArgumentError::Pair),
    }
}

pub(super) fn parse_user(text: &str) -> Result<User, ArgumentError> {
    let number = |text: &str| text.parse::<u32>().map(i64::from).map_err(|_| ArgumentError::User);
    let (user, gid) = match text.split_once(':') {
        Some((user, group)) => (user, Some(number(group)?)),
        None => (text, None),
    };
    if user.is_empty() {
        return Err(ArgumentError::User);
    }
    match number(user) {
        Ok(uid) => Ok(User::Number { uid, gid }),
        Err(_) => Ok(User::Name { name: user.to_owned(), gid }),
    }
}

/// The variables in order; one without a value is taken from our own environment, and left out if we have
/// none of that name.
pub(super) fn environment(arguments: &[OsString]) -> Result<Vec<KeyValue>, ArgumentError> {
    let mut variables = Vec::new();
    for argument in arguments {
        let bytes = argument.as_bytes();
        let (key, value) = match bytes.iter().position(|&b| b == b'=') {
            Some(equals) => (&bytes[..equals], Some(OsStr::from_bytes(&bytes[equals + 1..]).to_owned())),
            None => (bytes, std::env::var_os(argument)),
        };
        let key = str::from_utf8(key).ok().filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| ArgumentError::Variable(argument.clone()))?;
        if let Some(value) = value {
            variables.push(KeyValue { key: key.to_owned(), value: value.into_vec() });
        }
    }
    Ok(variables)
}

/// A new uid, as Kubernetes gives each pod one.
pub(super) fn random_uid() -> anyhow::Result<String> {
    const SOURCE: &str = "/proc/sys/kernel/random/uuid";
    Ok(fs::read_to_string(SOURCE).with_context(|| format!("cannot read {SOURCE}"))?.trim().to_owned())
}

pub(super) fn generated_name(image: &str, uid: &str) -> String {
    let suffix: String = uid.chars().take(6).collect();
    format!("{}-{suffix}", workload_name(image))
}

pub(super) fn pod(args: &Args, name: &str, uid: &str) -> anyhow::Result<PodSandboxConfig> {
    let isolation = &args.isolation;
    let metadata = PodSandboxMetadata {
        name: name.to_owned(),
        uid: uid.to_owned(),
        namespace: args.namespace.clone(),
        attempt: 0,
    };
    Ok(PodSandboxConfig {
        log_directory: log_dir::of(&args.logs.log_dir, &metadata)?,
        metadata: Some(metadata),
        // With the node's network the node's name stays.
        hostname: if isolation.host_network { String::new() } else { name.to_owned() },
        port_mappings: args.publish.clone(),
        labels: labels(args),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(isolation.host_network)),
                privileged: isolation.privileged,
                seccomp: Some(seccomp(isolation.privileged)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    })
}

pub(super) fn container(args: &Args, image_id: &str, envs: Vec<KeyValue>) -> ContainerConfig {
    let name = workload_name(&args.image);
    ContainerConfig {
        log_path: format!("{name}.log"),
        metadata: Some(ContainerMetadata { name, attempt: 0 }),
        image: Some(ImageSpec {
            image: image_id.to_owned(),
            user_specified_image: args.image.clone(),
            ..Default::default()
        }),
        command: args.process.entrypoint.iter().cloned().collect(),
        args: args.command.clone(),
        working_dir: args.process.workdir.clone(),
        envs,
        mounts: args.volume.clone(),
        labels: labels(args),
        tty: args.process.tty,
        stdin: args.process.interactive,
        // In the background the next client may go on where the last one left off.
        stdin_once: args.process.interactive && !args.detach && !args.process.tty,
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(args)),
            security_context: Some(security(args)),
        }),
        ..Default::default()
    }
}

fn labels(args: &Args) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = args.label.iter().cloned().collect();
    labels.insert(RUN_LABEL.to_owned(), "true".to_owned());
    labels
}

fn namespaces(host_network: bool) -> NamespaceOption {
    let network = if host_network { NamespaceMode::Node } else { NamespaceMode::Pod };
    NamespaceOption {
        network: network.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

fn seccomp(privileged: bool) -> SecurityProfile {
    let profile = if privileged { ProfileType::Unconfined } else { ProfileType::RuntimeDefault };
    SecurityProfile { profile_type: profile.into(), localhost_ref: String::new() }
}

fn resources(args: &Args) -> LinuxContainerResources {
    LinuxContainerResources {
        memory_limit_in_bytes: args.memory.unwrap_or(0),
        cpu_quota: args.cpus.unwrap_or(0),
        cpu_period: if args.cpus.is_some() { CPU_PERIOD_US } else { 0 },
        ..Default::default()
    }
}

fn security(args: &Args) -> LinuxContainerSecurityContext {
    let isolation = &args.isolation;
    let paths = |paths: &[&str]| {
        let unmasked = isolation.privileged;
        paths.iter().filter(|_| !unmasked).map(|path| (*path).to_owned()).collect()
    };
    let (uid, username, gid) = match &args.process.user {
        None => (None, String::new(), None),
        Some(User::Number { uid, gid }) => (Some(*uid), String::new(), *gid),
        Some(User::Name { name, gid }) => (None, name.clone(), *gid),
    };
    LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: isolation.cap_add.clone(),
            drop_capabilities: isolation.cap_drop.clone(),
            ..Default::default()
        }),
        privileged: isolation.privileged,
        namespace_options: Some(namespaces(isolation.host_network)),
        run_as_user: uid.map(|value| Int64Value { value }),
        run_as_username: username,
        run_as_group: gid.map(|value| Int64Value { value }),
        readonly_rootfs: isolation.read_only,
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(seccomp(isolation.privileged)),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
