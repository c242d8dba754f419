//! `PodSandboxConfig`.

use carpel_proto::v1;
use carpel_spec::config::{
    DnsConfig, IdMappings, IdRange, Namespaces, PidMode, PodOrNode, PortMapping, Protocol, SandboxConfig,
    SandboxMetadata, SandboxSecurity, SecurityProfile, SelinuxOption, UserMode,
};

use super::{Invalid, absolute_path, id, ids, invalid, line, name, required, resources};

/// A pod sandbox as asked for.
pub(crate) fn sandbox_config(
    from: v1::PodSandboxConfig,
    runtime_handler: &str,
) -> Result<SandboxConfig, Invalid> {
    let metadata = required(from.metadata, "config.metadata")?;
    let linux = from.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let namespaces = namespaces(security.namespace_options.clone().unwrap_or_default())?;
    let hostname = line(&from.hostname, "config.hostname")?;
    // The kernel's limit, uname(2): __NEW_UTS_LEN.
    if hostname.len() > 64 {
        return Err(invalid("config.hostname", format!("{hostname:?} is longer than 64 bytes")));
    }
    let optional = |value: &Option<v1::LinuxContainerResources>, field| {
        value.as_ref().map(|value| resources(value, field)).transpose()
    };
    Ok(SandboxConfig {
        metadata: SandboxMetadata {
            name: name(&metadata.name, "config.metadata.name")?,
            namespace: name(&metadata.namespace, "config.metadata.namespace")?,
            uid: name(&metadata.uid, "config.metadata.uid")?,
            attempt: metadata.attempt,
        },
        hostname,
        log_directory: match from.log_directory.as_str() {
            "" => None,
            path => Some(absolute_path(path, "config.log_directory")?),
        },
        dns: from.dns_config.map(dns).transpose()?,
        port_mappings: port_mappings(&from.port_mappings)?,
        labels: from.labels,
        annotations: from.annotations,
        cgroup_parent: match linux.cgroup_parent.as_str() {
            "" => None,
            parent => Some(cgroup_parent(parent)?),
        },
        namespaces,
        security: sandbox_security(security)?,
        sysctls: linux.sysctls,
        overhead: optional(&linux.overhead, "config.linux.overhead")?,
        resources: optional(&linux.resources, "config.linux.resources")?,
        runtime_handler: line(runtime_handler, "runtime_handler")?,
    })
}

fn dns(from: v1::DnsConfig) -> Result<DnsConfig, Invalid> {
    let lines = |values: &[String], field: &str| -> Result<Vec<String>, Invalid> {
        values.iter().map(|value| name(value, field)).collect()
    };
    Ok(DnsConfig {
        servers: lines(&from.servers, "config.dns_config.servers")?,
        searches: lines(&from.searches, "config.dns_config.searches")?,
        options: lines(&from.options, "config.dns_config.options")?,
    })
}

/// Mappings without a host port are what the pod declares, not what it asks for: left out.
fn port_mappings(from: &[v1::PortMapping]) -> Result<Vec<PortMapping>, Invalid> {
    let field = "config.port_mappings";
    let port = |value: i32| {
        u16::try_from(value).map_err(|_| invalid(field, format!("{value} is not a port between 0 and 65535")))
    };
    let mut mappings = Vec::new();
    for mapping in from {
        let host_port = port(mapping.host_port)?;
        let container_port = port(mapping.container_port)?;
        if host_port == 0 {
            continue;
        }
        if container_port == 0 {
            return Err(invalid(field, format!("host port {host_port} leads to container port 0")));
        }
        let protocol = v1::Protocol::try_from(mapping.protocol)
            .map_err(|_| invalid(field, format!("{} is not a protocol", mapping.protocol)))?;
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            ip => {
                let ip: std::net::IpAddr =
                    ip.parse().map_err(|_| invalid(field, format!("{ip:?} is not an address")))?;
                Some(ip).filter(|ip| !ip.is_unspecified())
            }
        };
        let protocol = match protocol {
            v1::Protocol::Tcp => Protocol::Tcp,
            v1::Protocol::Udp => Protocol::Udp,
            v1::Protocol::Sctp => Protocol::Sctp,
        };
        mappings.push(PortMapping { protocol, container_port, host_port, host_ip });
    }
    Ok(mappings)
}

/// cgroupfs form: `/kubepods/burstable/pod…`, or with the systemd driver `/kubepods.slice/…`.
fn cgroup_parent(parent: &str) -> Result<String, Invalid> {
    let field = "config.linux.cgroup_parent";
    let parent = line(parent, field)?;
    // crictl's examples name a bare slice; both forms mean the same place.
    let clean = format!("/{}", parent.trim_matches('/'));
    if clean.split('/').skip(1).any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(invalid(field, format!("{parent:?} is not a clean path")));
    }
    Ok(clean)
}

#[expect(deprecated, reason = "old clients still fill these in")]
fn sandbox_security(from: v1::LinuxSandboxSecurityContext) -> Result<SandboxSecurity, Invalid> {
    let field = |name: &str| format!("config.linux.security_context.{name}");
    let user = |value: &Option<v1::Int64Value>, name: &str| {
        value.as_ref().map(|value| id(value.value, &field(name))).transpose()
    };
    let run_as_user = user(&from.run_as_user, "run_as_user")?;
    let run_as_group = user(&from.run_as_group, "run_as_group")?;
    if run_as_group.is_some() && run_as_user.is_none() {
        return Err(invalid(field("run_as_group"), "is given without run_as_user"));
    }
    Ok(SandboxSecurity {
        privileged: from.privileged,
        run_as_user,
        run_as_group,
        supplemental_groups: ids(&from.supplemental_groups, &field("supplemental_groups"))?,
        readonly_rootfs: from.readonly_rootfs,
        selinux: selinux(from.selinux_options, &field("selinux_options"))?,
        seccomp: profile(
            from.seccomp,
            &from.seccomp_profile_path,
            SecurityProfile::Unconfined,
            &field("seccomp"),
        )?,
    })
}

/// The namespaces of a sandbox.
fn namespaces(from: v1::NamespaceOption) -> Result<Namespaces, Invalid> {
    let field = "config.linux.security_context.namespace_options";
    let pod_or_node = |value: i32, name: &str| match v1::NamespaceMode::try_from(value) {
        Ok(v1::NamespaceMode::Pod) => Ok(PodOrNode::Pod),
        Ok(v1::NamespaceMode::Node) => Ok(PodOrNode::Node),
        Ok(v1::NamespaceMode::Container | v1::NamespaceMode::Target) | Err(_) => {
            Err(invalid(format!("{field}.{name}"), "must be POD or NODE"))
        }
    };
    Ok(Namespaces {
        network: pod_or_node(from.network, "network")?,
        ipc: pod_or_node(from.ipc, "ipc")?,
        pid: pid_mode(&from, field)?,
        user: user_mode(from.userns_options.as_ref(), &format!("{field}.userns_options"))?
            .unwrap_or_default(),
    })
}

/// Where processes are numbered, of a sandbox or a container.
pub(super) fn pid_mode(from: &v1::NamespaceOption, field: &str) -> Result<PidMode, Invalid> {
    match v1::NamespaceMode::try_from(from.pid) {
        Ok(v1::NamespaceMode::Pod) => Ok(PidMode::Pod),
        Ok(v1::NamespaceMode::Container) => Ok(PidMode::Container),
        Ok(v1::NamespaceMode::Node) => Ok(PidMode::Node),
        Ok(v1::NamespaceMode::Target) => {
            Ok(PidMode::Target(name(&from.target_id, &format!("{field}.target_id"))?))
        }
        Err(_) => Err(invalid(format!("{field}.pid"), format!("{} is not a namespace mode", from.pid))),
    }
}

/// Whose ids a sandbox's or a container's users and groups are; `None`: nothing was said of it.
pub(super) fn user_mode(from: Option<&v1::UserNamespace>, field: &str) -> Result<Option<UserMode>, Invalid> {
    let Some(from) = from else { return Ok(None) };
    match v1::NamespaceMode::try_from(from.mode) {
        Ok(v1::NamespaceMode::Node) if from.uids.is_empty() && from.gids.is_empty() => {
            Ok(Some(UserMode::Node))
        }
        Ok(v1::NamespaceMode::Node) => Err(invalid(field, "mode NODE has ids of its own")),
        Ok(v1::NamespaceMode::Pod) => {
            let mappings =
                id_mappings(&from.uids, &from.gids, [&format!("{field}.uids"), &format!("{field}.gids")])?;
            Ok(Some(UserMode::Pod(mappings)))
        }
        Ok(v1::NamespaceMode::Container | v1::NamespaceMode::Target) | Err(_) => {
            Err(invalid(format!("{field}.mode"), "must be POD or NODE"))
        }
    }
}

/// The ids of a user namespace.
pub(super) fn id_mappings(
    uids: &[v1::IdMapping],
    gids: &[v1::IdMapping],
    [uids_field, gids_field]: [&str; 2],
) -> Result<IdMappings, Invalid> {
    Ok(IdMappings { uids: id_range(uids, uids_field)?, gids: id_range(gids, gids_field)? })
}

/// One range that begins with 0 inside is what Kubernetes gives, and all that CRI runtimes take.
fn id_range(from: &[v1::IdMapping], field: &str) -> Result<IdRange, Invalid> {
    let [mapping] = from else {
        return Err(invalid(field, format!("has {} mappings; exactly one is supported", from.len())));
    };
    let v1::IdMapping { host_id, container_id, length } = *mapping;
    if container_id != 0 {
        return Err(invalid(field, format!("maps container id {container_id} first; it must be 0")));
    }
    // The last id of all means "no id" (credentials(7)).
    if length == 0 || host_id.checked_add(length).is_none() {
        let what = format!("{length} ids from host id {host_id} on are not between 0 and {}", u32::MAX - 1);
        return Err(invalid(field, what));
    }
    Ok(IdRange { host_id, length })
}

/// A security profile, in the present form or the deprecated one; `absent` where neither is given: for
/// AppArmor that is the runtime's default (kubernetes/kubernetes#51746), for seccomp it is none.
pub(super) fn profile(
    from: Option<v1::SecurityProfile>,
    deprecated: &str,
    absent: SecurityProfile,
    field: &str,
) -> Result<SecurityProfile, Invalid> {
    use v1::security_profile::ProfileType;
    let Some(profile) = from else {
        return match deprecated {
            "" => Ok(absent),
            "unconfined" => Ok(SecurityProfile::Unconfined),
            "runtime/default" | "docker/default" => Ok(SecurityProfile::RuntimeDefault),
            other => match other.strip_prefix("localhost/") {
                Some(reference) => Ok(SecurityProfile::Localhost(name(reference, field)?)),
                None => Err(invalid(field, format!("{other:?} is not a profile"))),
            },
        };
    };
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::RuntimeDefault) => Ok(SecurityProfile::RuntimeDefault),
        Ok(ProfileType::Unconfined) => Ok(SecurityProfile::Unconfined),
        Ok(ProfileType::Localhost) => {
            let reference = name(&profile.localhost_ref, &format!("{field}.localhost_ref"))?;
            let reference = reference.strip_prefix("localhost/").unwrap_or(&reference).to_owned();
            Ok(SecurityProfile::Localhost(reference))
        }
        Err(_) => Err(invalid(field, format!("{} is not a profile type", profile.profile_type))),
    }
}

/// An SELinux label; one with no part given is none.
pub(super) fn selinux(
    from: Option<v1::SeLinuxOption>,
    field: &str,
) -> Result<Option<SelinuxOption>, Invalid> {
    let Some(from) = from else { return Ok(None) };
    let option = SelinuxOption {
        user: line(&from.user, field)?,
        role: line(&from.role, field)?,
        type_: line(&from.r#type, field)?,
        level: line(&from.level, field)?,
    };
    Ok(Some(option).filter(|option| *option != SelinuxOption::default()))
}
