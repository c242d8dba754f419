//! Pod sandboxes.

use std::net::IpAddr;

use carpel_pod::{PodSnapshot, PodState};
use carpel_proto::v1;
use carpel_spec::config::{IdRange, Namespaces, PidMode, PodOrNode, SandboxMetadata, UserMode};

/// An entry of `ListPodSandbox`.
pub(crate) fn pod_item(pod: &PodSnapshot) -> v1::PodSandbox {
    v1::PodSandbox {
        id: pod.id.to_string(),
        metadata: Some(metadata(&pod.config.metadata)),
        state: state(pod.state).into(),
        created_at: pod.created_at_ns,
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.config.runtime_handler.clone(),
    }
}

/// The status of a pod sandbox.
pub(crate) fn pod_status(pod: &PodSnapshot) -> v1::PodSandboxStatus {
    let mut ips = pod.ips.iter().map(IpAddr::to_string);
    v1::PodSandboxStatus {
        id: pod.id.to_string(),
        metadata: Some(metadata(&pod.config.metadata)),
        state: state(pod.state).into(),
        created_at: pod.created_at_ns,
        network: Some(v1::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace { options: Some(namespace_option(&pod.config.namespaces)) }),
        }),
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.config.runtime_handler.clone(),
    }
}

/// Who a pod sandbox is.
pub(super) fn metadata(from: &SandboxMetadata) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata {
        name: from.name.clone(),
        uid: from.uid.clone(),
        namespace: from.namespace.clone(),
        attempt: from.attempt,
    }
}

fn state(from: PodState) -> v1::PodSandboxState {
    match from {
        PodState::Ready => v1::PodSandboxState::SandboxReady,
        PodState::NotReady => v1::PodSandboxState::SandboxNotready,
    }
}

/// Told back as asked: the kubelet makes a pod anew when its network mode differs.
fn namespace_option(from: &Namespaces) -> v1::NamespaceOption {
    let mode = |from| match from {
        PodOrNode::Pod => v1::NamespaceMode::Pod,
        PodOrNode::Node => v1::NamespaceMode::Node,
    };
    let (pid, target_id) = match &from.pid {
        PidMode::Pod => (v1::NamespaceMode::Pod, String::new()),
        PidMode::Container => (v1::NamespaceMode::Container, String::new()),
        PidMode::Node => (v1::NamespaceMode::Node, String::new()),
        PidMode::Target(id) => (v1::NamespaceMode::Target, id.clone()),
    };
    v1::NamespaceOption {
        network: mode(from.network).into(),
        pid: pid.into(),
        ipc: mode(from.ipc).into(),
        target_id,
        userns_options: userns_options(from.user),
    }
}

/// Absent for the host's, as nearly all clients ask for it.
fn userns_options(from: UserMode) -> Option<v1::UserNamespace> {
    let mappings = from.mappings()?;
    Some(v1::UserNamespace {
        mode: v1::NamespaceMode::Pod.into(),
        uids: vec![id_mapping(mappings.uids)],
        gids: vec![id_mapping(mappings.gids)],
    })
}

/// Ids from 0 on inside.
pub(super) fn id_mapping(from: IdRange) -> v1::IdMapping {
    v1::IdMapping { host_id: from.host_id, container_id: 0, length: from.length }
}
