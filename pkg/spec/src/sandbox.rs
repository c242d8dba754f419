//! What a pod sandbox is to be.

use std::collections::BTreeMap;

use carpel_shim_api::plan::{self, IdMappings, SandboxPlan, Sysctl};

use crate::config::{IdRange, PidMode, PodOrNode, SandboxConfig};
use crate::error::{HostnameProblem, PlanError};
use crate::input::{PodFacts, UnprivilegedNetwork};
use crate::{path, sysctl};

/// The longest host name: the kernel's `__NEW_UTS_LEN`.
const HOSTNAME_MAX_BYTES: usize = 64;
/// The most sysctls of a pod.
const SYSCTLS_MAX: usize = 256;

/// Computes what the containers of a pod share.
///
/// # Errors
/// The host name or a sysctl is malformed, or a sysctl would change a namespace of the host; the pod
/// asks to be in a container's PID namespace.
pub fn sandbox_plan(config: &SandboxConfig, facts: &PodFacts) -> Result<SandboxPlan, PlanError> {
    check_hostname(config)?;
    let host_uts = config.namespaces.network == PodOrNode::Node;
    let shared_pid = match config.namespaces.pid {
        PidMode::Pod => true,
        PidMode::Container | PidMode::Node => false,
        PidMode::Target(_) => return Err(PlanError::SandboxTargetPid),
    };
    let id_mappings = id_mappings(config)?;
    Ok(SandboxPlan {
        pod_id: facts.pod_id.clone(),
        pod_dir: path::below_root("pod folder", &facts.pod_dir)?,
        host_uts,
        host_ipc: config.namespaces.ipc == PodOrNode::Node,
        shared_pid,
        hostname: if host_uts { String::new() } else { config.hostname.clone() },
        shm_size_bytes: facts.shm_size_bytes,
        sysctls: checked_sysctls(config, |namespace| namespace != sysctl::Namespace::Network)?,
        shim_cgroup: facts.shim_cgroup.clone(),
        shim_oom_score_adj: facts.shim_oom_score_adj,
        id_mappings,
        mount_label: facts.selinux.mount.clone(),
        process_label: facts.selinux.process.clone(),
    })
}

/// The ids of the pod's user namespace. The host's processes and IPC objects would be nobody's in there;
/// the host's network is of use all the same (KEP-5607).
fn id_mappings(config: &SandboxConfig) -> Result<Option<IdMappings>, PlanError> {
    let Some(mappings) = config.namespaces.user.mappings() else { return Ok(None) };
    let refused = |namespace| Err(PlanError::HostNamespaceInUserNamespace { namespace });
    if config.namespaces.pid == PidMode::Node {
        return refused("PID");
    }
    if config.namespaces.ipc == PodOrNode::Node {
        return refused("IPC");
    }
    let range = |range: IdRange| plan::IdRange { host_id: range.host_id, length: range.length };
    Ok(Some(IdMappings { uids: range(mappings.uids), gids: range(mappings.gids) }))
}

/// Sysctls of the pod's network namespace, sorted by name: what was asked for, and what an
/// unprivileged process may do unless something else was asked for. Empty in the host's network.
///
/// # Errors
/// As for [`sandbox_plan`].
pub fn network_sysctls(config: &SandboxConfig, facts: &PodFacts) -> Result<Vec<Sysctl>, PlanError> {
    let mut sysctls = checked_sysctls(config, |namespace| namespace == sysctl::Namespace::Network)?;
    let own = config.namespaces.network == PodOrNode::Pod;
    if own && facts.unprivileged == UnprivilegedNetwork::PortsAndPing {
        for (key, value) in [
            ("net.ipv4.ip_unprivileged_port_start", "0"),
            // The kernel's largest group id here, GID_T_MAX: net/ipv4/sysctl_net_ipv4.c.
            ("net.ipv4.ping_group_range", "0 2147483647"),
        ] {
            if !sysctls.iter().any(|sysctl| sysctl.key == key) {
                sysctls.push(Sysctl { key: key.to_owned(), value: value.to_owned() });
            }
        }
        sysctls.sort_by(|a, b| a.key.cmp(&b.key));
    }
    Ok(sysctls)
}

/// The host name that the pod's containers see. A client may leave it out (`crictl` does): then it is
/// the node's, with a network of the pod's own too.
pub fn effective_hostname<'a>(config: &'a SandboxConfig, node_hostname: &'a str) -> &'a str {
    match config.namespaces.network {
        PodOrNode::Pod if !config.hostname.is_empty() => &config.hostname,
        PodOrNode::Node | PodOrNode::Pod => node_hostname,
    }
}

/// All sysctls are checked each time, so that no call passes over what another would refuse.
fn checked_sysctls(
    config: &SandboxConfig,
    wanted: impl Fn(sysctl::Namespace) -> bool,
) -> Result<Vec<Sysctl>, PlanError> {
    if config.sysctls.len() > SYSCTLS_MAX {
        let (what, count, max) = ("sysctls", config.sysctls.len(), SYSCTLS_MAX);
        return Err(PlanError::TooMany { what, count, max });
    }
    let mut seen = BTreeMap::new();
    for (key, value) in &config.sysctls {
        let failed = |source| PlanError::Sysctl { key: key.clone(), source };
        let namespace = sysctl::check(key, value, &config.namespaces).map_err(failed)?;
        let dotted = sysctl::dotted(key).map_err(failed)?;
        if seen.insert(dotted, (namespace, value)).is_some() {
            return Err(failed(sysctl::SysctlError::Twice));
        }
    }
    let of_those = seen.into_iter().filter(|(_, (namespace, _))| wanted(*namespace));
    Ok(of_those.map(|(key, (_, value))| Sysctl { key, value: value.clone() }).collect())
}

fn check_hostname(config: &SandboxConfig) -> Result<(), PlanError> {
    let hostname = &config.hostname;
    let character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let problem = match config.namespaces.network {
        PodOrNode::Pod | PodOrNode::Node if hostname.len() > HOSTNAME_MAX_BYTES => HostnameProblem::TooLong,
        PodOrNode::Pod | PodOrNode::Node if !hostname.chars().all(character) => HostnameProblem::Character,
        PodOrNode::Pod | PodOrNode::Node => return Ok(()),
    };
    Err(PlanError::Hostname { hostname: hostname.clone(), problem })
}
