//! Containers.

use super::pod::id_mapping;
use carpel_pod::{ContainerSnapshot, ContainerState, Exit, ExitReason};
use carpel_proto::v1;
use carpel_spec::config::{
    ContainerConfig, MountAccess, MountConfig, MountPropagation, MountSource, Resources,
};

/// An entry of `ListContainers`. `image_name` is what people call its image.
pub(crate) fn container_item(container: &ContainerSnapshot, image_name: String) -> v1::Container {
    let config = &container.config;
    v1::Container {
        id: container.id.to_string(),
        pod_sandbox_id: container.pod_id.to_string(),
        metadata: Some(metadata(config)),
        image: Some(image_spec(config, image_name)),
        image_ref: container.image_ref.clone(),
        state: state(&container.state).into(),
        created_at: container.created_at_ns,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        image_id: container.image_id.clone(),
    }
}

/// The status of a container.
pub(crate) fn container_status(container: &ContainerSnapshot, image_name: String) -> v1::ContainerStatus {
    let config = &container.config;
    let (started_at, exit) = match &container.state {
        ContainerState::Created | ContainerState::Unknown => (0, None),
        ContainerState::Running { started_at_ns, .. } => (*started_at_ns, None),
        // The kubelet wants times also of a container whose command could not be executed.
        ContainerState::Exited(exit) if exit.reason == ExitReason::StartError => {
            (exit.finished_at_ns, Some(exit))
        }
        ContainerState::Exited(exit) => (exit.started_at_ns, Some(exit)),
    };
    let (finished_at, exit_code, reason, message) = exit.map(ending).unwrap_or_default();
    v1::ContainerStatus {
        id: container.id.to_string(),
        metadata: Some(metadata(config)),
        state: state(&container.state).into(),
        created_at: container.created_at_ns,
        started_at,
        finished_at,
        exit_code,
        image: Some(image_spec(config, image_name)),
        image_ref: container.image_ref.clone(),
        reason,
        message,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.iter().map(mount).collect(),
        log_path: container
            .log_path
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default(),
        resources: Some(v1::ContainerResources {
            linux: Some(linux_resources(&container.resources)),
            windows: None,
        }),
        image_id: container.image_id.clone(),
        user: Some(v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: container.user.uid.into(),
                gid: container.user.gid.into(),
                supplemental_groups: container.user.groups.iter().map(|&group| group.into()).collect(),
            }),
        }),
        stop_signal: super::signal_number(&container.stop_signal),
    }
}

fn ending(exit: &Exit) -> (i64, i32, String, String) {
    (exit.finished_at_ns, exit.code, exit.reason.as_str().to_owned(), exit.message.clone())
}

/// Name and attempt.
pub(super) fn metadata(config: &ContainerConfig) -> v1::ContainerMetadata {
    v1::ContainerMetadata { name: config.name.clone(), attempt: config.attempt }
}

fn image_spec(config: &ContainerConfig, image: String) -> v1::ImageSpec {
    v1::ImageSpec {
        image,
        user_specified_image: config.user_specified_image.clone(),
        ..v1::ImageSpec::default()
    }
}

/// CRI's word for a container's state.
pub(crate) fn state(from: &ContainerState) -> v1::ContainerState {
    match from {
        ContainerState::Created => v1::ContainerState::ContainerCreated,
        ContainerState::Running { .. } => v1::ContainerState::ContainerRunning,
        ContainerState::Exited(_) => v1::ContainerState::ContainerExited,
        ContainerState::Unknown => v1::ContainerState::ContainerUnknown,
    }
}

/// The kubelet finds the termination message's file by these.
fn mount(from: &MountConfig) -> v1::Mount {
    let (host_path, image, image_sub_path) = match &from.source {
        MountSource::Host(path) => (path.to_string_lossy().into_owned(), None, String::new()),
        MountSource::Image { image, sub_path } => (
            String::new(),
            Some(v1::ImageSpec { image: image.clone(), ..v1::ImageSpec::default() }),
            sub_path.clone(),
        ),
    };
    let propagation = match from.propagation {
        MountPropagation::Private => v1::MountPropagation::PropagationPrivate,
        MountPropagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        MountPropagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    v1::Mount {
        container_path: from.container_path.clone(),
        host_path,
        readonly: from.access != MountAccess::ReadWrite,
        selinux_relabel: from.selinux_relabel,
        propagation: propagation.into(),
        recursive_read_only: from.access == MountAccess::RecursiveReadOnly,
        uid_mappings: from.id_mappings.iter().map(|ids| id_mapping(ids.uids)).collect(),
        gid_mappings: from.id_mappings.iter().map(|ids| id_mapping(ids.gids)).collect(),
        image,
        image_sub_path,
        ..v1::Mount::default()
    }
}

/// Limits that are in force; what was not given is zero.
pub(crate) fn linux_resources(from: &Resources) -> v1::LinuxContainerResources {
    let signed = |value: Option<u64>| value.map_or(0, |value| i64::try_from(value).unwrap_or(i64::MAX));
    v1::LinuxContainerResources {
        cpu_period: signed(from.cpu_period_us),
        cpu_quota: from.cpu_quota_us.unwrap_or_default(),
        cpu_shares: signed(from.cpu_shares),
        memory_limit_in_bytes: from.memory_limit_bytes.unwrap_or_default(),
        oom_score_adj: from.oom_score_adj.unwrap_or_default().into(),
        cpuset_cpus: from.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: from.cpuset_mems.clone().unwrap_or_default(),
        hugepage_limits: from
            .hugepage_limits
            .iter()
            .map(|(page_size, limit)| v1::HugepageLimit { page_size: page_size.clone(), limit: *limit })
            .collect(),
        unified: from.unified.clone(),
        memory_swap_limit_in_bytes: from.memory_swap_limit_bytes.unwrap_or_default(),
    }
}
