//! The filters of List calls: all that is given must hold. Ids match by their beginning.

use std::collections::BTreeMap;

use carpel_pod::{ContainerSnapshot, PodSnapshot, PodState};
use carpel_proto::v1;

use crate::show;

/// Whether each label asked for is there with just this value.
fn labels_hold(asked: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    asked.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether a pod is asked for.
pub(crate) fn pod(filter: Option<&v1::PodSandboxFilter>, pod: &PodSnapshot) -> bool {
    let Some(filter) = filter else { return true };
    let state = match pod.state {
        PodState::Ready => v1::PodSandboxState::SandboxReady,
        PodState::NotReady => v1::PodSandboxState::SandboxNotready,
    };
    pod.id.as_str().starts_with(&filter.id)
        && filter.state.as_ref().is_none_or(|asked| asked.state == i32::from(state))
        && labels_hold(&filter.label_selector, &pod.config.labels)
}

/// Whether a container is asked for.
pub(crate) fn container(filter: Option<&v1::ContainerFilter>, container: &ContainerSnapshot) -> bool {
    let Some(filter) = filter else { return true };
    container.id.as_str().starts_with(&filter.id)
        && container.pod_id.as_str().starts_with(&filter.pod_sandbox_id)
        && filter
            .state
            .as_ref()
            .is_none_or(|asked| asked.state == i32::from(show::container_state(&container.state)))
        && labels_hold(&filter.label_selector, &container.config.labels)
}

/// Whether a container's statistics are asked for.
pub(crate) fn container_stats(filter: Option<&v1::ContainerStatsFilter>, of: &ContainerSnapshot) -> bool {
    let Some(filter) = filter else { return true };
    of.id.as_str().starts_with(&filter.id)
        && of.pod_id.as_str().starts_with(&filter.pod_sandbox_id)
        && labels_hold(&filter.label_selector, &of.config.labels)
}

/// Whether a pod's statistics are asked for.
pub(crate) fn pod_stats(filter: Option<&v1::PodSandboxStatsFilter>, of: &PodSnapshot) -> bool {
    let Some(filter) = filter else { return true };
    of.id.as_str().starts_with(&filter.id) && labels_hold(&filter.label_selector, &of.config.labels)
}
