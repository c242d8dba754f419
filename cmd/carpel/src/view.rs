//! What `-o json` prints: this program's own contract, apart from the protocol's messages. Fields may be
//! added; names and meanings stay. Times are RFC 3339 in UTC, amounts are numbers in the unit of their name,
//! what is not known is null.

use std::collections::BTreeMap;

use carpel_proto::v1::{
    Container, ContainerState, ContainerStatus, Image, PodSandbox, PodSandboxState, PodSandboxStatus,
};
use serde::Serialize;

use crate::age::rfc3339;

/// A pod sandbox.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodView {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) attempt: u32,
    /// `Ready` or `NotReady`.
    pub(crate) state: &'static str,
    pub(crate) created_at: Option<String>,
    pub(crate) ips: Vec<String>,
    pub(crate) runtime_handler: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl PodView {
    pub(crate) fn new(pod: PodSandbox, status: Option<&PodSandboxStatus>) -> Self {
        let state = match pod.state() {
            PodSandboxState::SandboxReady => "Ready",
            PodSandboxState::SandboxNotready => "NotReady",
        };
        let metadata = pod.metadata.unwrap_or_default();
        Self {
            id: pod.id,
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            attempt: metadata.attempt,
            state,
            created_at: rfc3339(pod.created_at),
            ips: status.map(ips).unwrap_or_default(),
            runtime_handler: pod.runtime_handler,
            labels: pod.labels,
            annotations: pod.annotations,
        }
    }
}

/// All addresses of a pod, the primary one first.
pub(crate) fn ips(status: &PodSandboxStatus) -> Vec<String> {
    let Some(network) = &status.network else { return Vec::new() };
    let all = std::iter::once(&network.ip).chain(network.additional_ips.iter().map(|more| &more.ip));
    all.filter(|ip| !ip.is_empty()).cloned().collect()
}

/// A container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerView {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) pod_id: String,
    pub(crate) pod_name: String,
    /// As the user wrote it, if the runtime knows.
    pub(crate) image: String,
    pub(crate) image_id: String,
    /// `Created`, `Running`, `Exited` or `Unknown`.
    pub(crate) state: &'static str,
    pub(crate) created_at: Option<String>,
    pub(crate) started_at: Option<String>,
    pub(crate) finished_at: Option<String>,
    /// Only of an exited container.
    pub(crate) exit_code: Option<i32>,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) log_path: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl ContainerView {
    pub(crate) fn new(container: Container, pod_name: &str, status: &ContainerStatus) -> Self {
        let state = status.state();
        let metadata = container.metadata.clone().unwrap_or_default();
        Self {
            name: metadata.name,
            attempt: metadata.attempt,
            pod_name: pod_name.to_owned(),
            image: image_name(&container, status),
            image_id: if container.image_id.is_empty() { container.image_ref } else { container.image_id },
            id: container.id,
            pod_id: container.pod_sandbox_id,
            state: state_name(state),
            created_at: rfc3339(container.created_at),
            started_at: rfc3339(status.started_at),
            finished_at: rfc3339(status.finished_at),
            exit_code: (state == ContainerState::ContainerExited).then_some(status.exit_code),
            reason: status.reason.clone(),
            message: status.message.clone(),
            log_path: status.log_path.clone(),
            labels: container.labels,
            annotations: container.annotations,
        }
    }
}

/// The best name there is: what the user wrote, what the runtime calls it, what the container asked for.
fn image_name(container: &Container, status: &ContainerStatus) -> String {
    let specs = [container.image.as_ref(), status.image.as_ref()];
    let written = specs.iter().flatten().map(|spec| &spec.user_specified_image);
    let called = specs.iter().rev().flatten().map(|spec| &spec.image);
    written.chain(called).find(|name| !name.is_empty()).cloned().unwrap_or_default()
}

pub(crate) fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::ContainerCreated => "Created",
        ContainerState::ContainerRunning => "Running",
        ContainerState::ContainerExited => "Exited",
        ContainerState::ContainerUnknown => "Unknown",
    }
}

/// An image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageView {
    pub(crate) id: String,
    pub(crate) tags: Vec<String>,
    pub(crate) digests: Vec<String>,
    pub(crate) size_bytes: u64,
    /// The user it runs as, by number or name; empty for root.
    pub(crate) user: String,
    pub(crate) pinned: bool,
}

impl From<Image> for ImageView {
    fn from(image: Image) -> Self {
        Self {
            id: image.id,
            tags: image.repo_tags,
            digests: image.repo_digests,
            size_bytes: image.size,
            user: image.uid.map_or(image.username, |uid| uid.value.to_string()),
            pinned: image.pinned,
        }
    }
}
