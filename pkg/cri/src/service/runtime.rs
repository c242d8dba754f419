//! CRI's `RuntimeService`: which method is answered where.

use carpel_network::{NetworkStatus, Subnet};
use carpel_proto::v1::{self, runtime_service_server::RuntimeService};
use tonic::{Request, Response, Status, codegen::BoxStream};

use super::{RuntimeServer, chunk};
use crate::{
    info,
    parse::{Invalid, invalid},
    show,
    status::{ToStatus, chain},
};

type Answer<T> = Result<Response<T>, Status>;

/// The version of the `Version` call itself, which has never changed.
const KUBE_API_VERSION: &str = "0.1.0";
/// The version of CRI.
const CRI_VERSION: &str = "v1";
/// What nodes report as `containerRuntimeVersion`.
const RUNTIME_NAME: &str = "carpel";

#[tonic::async_trait]
impl RuntimeService for RuntimeServer {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        Ok(Response::new(v1::VersionResponse {
            version: KUBE_API_VERSION.to_owned(),
            runtime_name: RUNTIME_NAME.to_owned(),
            runtime_version: self.facts.version.clone(),
            runtime_api_version: CRI_VERSION.to_owned(),
        }))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let network = self.network.status();
        let (ready, reason, message) = match &network {
            NetworkStatus::Ready => (true, String::new(), String::new()),
            NetworkStatus::NotReady { reason, message } => (false, reason.to_string(), message.to_string()),
        };
        let condition = |kind: &str, status, reason, message| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status,
            reason,
            message,
        };
        let conditions = vec![
            condition("RuntimeReady", true, String::new(), String::new()),
            condition("NetworkReady", ready, reason, message),
        ];
        let handler = v1::RuntimeHandler {
            // The default handler has no name.
            name: String::new(),
            features: Some(v1::RuntimeHandlerFeatures {
                recursive_read_only_mounts: true,
                user_namespaces: self.pods.supports_user_namespaces(),
            }),
        };
        let info = match request.into_inner().verbose {
            true => info::daemon(&self.facts, self.pods.apparmor()),
            false => Default::default(),
        };
        Ok(Response::new(v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions }),
            info,
            runtime_handlers: vec![handler],
            features: Some(v1::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: self.pods.supports_user_namespaces(),
                mount_options: false,
            }),
        }))
    }

    async fn runtime_config(
        &self,
        _: Request<v1::RuntimeConfigRequest>,
    ) -> Answer<v1::RuntimeConfigResponse> {
        let driver =
            if self.facts.systemd_cgroups { v1::CgroupDriver::Systemd } else { v1::CgroupDriver::Cgroupfs };
        let linux = v1::LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
        Ok(Response::new(v1::RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config.and_then(|config| config.network_config);
        let cidrs = pod_cidrs(config.map(|config| config.pod_cidr).unwrap_or_default().as_str())
            .map_err(|error| error.to_status())?;
        self.network.set_pod_cidrs(&cidrs).await;
        Ok(Response::new(v1::UpdateRuntimeConfigResponse {}))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        self.run_sandbox(request).await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        self.pods.stop(&request.into_inner().pod_sandbox_id).await.map_err(|error| error.to_status())?;
        Ok(Response::new(v1::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        self.pods.remove(&request.into_inner().pod_sandbox_id).await.map_err(|error| error.to_status())?;
        Ok(Response::new(v1::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        self.sandbox_status(request)
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let items = self.sandboxes(request.into_inner().filter.as_ref());
        Ok(Response::new(v1::ListPodSandboxResponse { items }))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Answer<BoxStream<v1::StreamPodSandboxesResponse>> {
        let items = self.sandboxes(request.into_inner().filter.as_ref());
        Ok(chunk::stream(items, |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes }))
    }

    /// The pod's own cgroup is the kubelet's; there is nothing of ours to change, but the pod must be there.
    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        self.pods.find_pod(&request.into_inner().pod_sandbox_id).map_err(|error| error.to_status())?;
        Ok(Response::new(v1::UpdatePodSandboxResourcesResponse {}))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        self.create(request).await
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        self.pods
            .start_container(&request.into_inner().container_id)
            .await
            .map_err(|error| error.to_status())?;
        Ok(Response::new(v1::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        self.stop(request).await
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        self.pods
            .remove_container(&request.into_inner().container_id)
            .await
            .map_err(|error| error.to_status())?;
        Ok(Response::new(v1::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let containers = self.containers(request.into_inner().filter.as_ref());
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Answer<BoxStream<v1::StreamContainersResponse>> {
        let containers = self.containers(request.into_inner().filter.as_ref());
        Ok(chunk::stream(containers, |containers| v1::StreamContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        self.status_of_container(request).await
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        self.update(request).await
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        self.pods.reopen_log(&request.into_inner().container_id).await.map_err(|error| error.to_status())?;
        Ok(Response::new(v1::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        self.run_command(request).await
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        self.exec_url(request)
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        self.attach_url(request)
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Answer<v1::PortForwardResponse> {
        self.port_forward_url(request)
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Answer<v1::ContainerStatsResponse> {
        self.stats_of_container(request).await
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        let stats = self.stats_of_containers(request.into_inner().filter).await;
        Ok(Response::new(v1::ListContainerStatsResponse { stats }))
    }

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Answer<BoxStream<v1::StreamContainerStatsResponse>> {
        let stats = self.stats_of_containers(request.into_inner().filter).await;
        Ok(chunk::stream(stats, |container_stats| v1::StreamContainerStatsResponse { container_stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Answer<v1::PodSandboxStatsResponse> {
        self.stats_of_sandbox(request).await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        let stats = self.stats_of_sandboxes(request.into_inner().filter).await;
        Ok(Response::new(v1::ListPodSandboxStatsResponse { stats }))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Answer<BoxStream<v1::StreamPodSandboxStatsResponse>> {
        let stats = self.stats_of_sandboxes(request.into_inner().filter).await;
        Ok(chunk::stream(stats, |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Answer<v1::ListMetricDescriptorsResponse> {
        Ok(Response::new(v1::ListMetricDescriptorsResponse { descriptors: show::metric_descriptors() }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Answer<v1::ListPodSandboxMetricsResponse> {
        let pod_metrics = show::pod_metrics(&self.pods.metrics().await);
        Ok(Response::new(v1::ListPodSandboxMetricsResponse { pod_metrics }))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Answer<BoxStream<v1::StreamPodSandboxMetricsResponse>> {
        let metrics = show::pod_metrics(&self.pods.metrics().await);
        // A container alone has some sixty of them, each with all of its labels.
        Ok(chunk::stream_by(10, metrics, |pod_sandbox_metrics| v1::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }))
    }

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Answer<BoxStream<v1::ContainerEventResponse>> {
        Ok(self.event_stream())
    }
}

/// "a,b" where the cluster has two families.
fn pod_cidrs(text: &str) -> Result<Vec<Subnet>, Invalid> {
    text.split(',')
        .map(str::trim)
        .filter(|cidr| !cidr.is_empty())
        .map(|cidr| {
            cidr.parse().map_err(|error| {
                invalid("runtime_config.network_config.pod_cidr", format!("{cidr:?}: {}", chain(&error)))
            })
        })
        .collect()
}
