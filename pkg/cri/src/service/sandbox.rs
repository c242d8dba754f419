//! Pod sandboxes.

use std::sync::Arc;

use carpel_pod::PodSnapshot;
use carpel_proto::v1;
use tonic::{Request, Response, Status};

use super::RuntimeServer;
use crate::{
    filter, info,
    parse::{self, invalid},
    show,
    status::ToStatus,
};

impl RuntimeServer {
    pub(super) async fn run_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Result<Response<v1::RunPodSandboxResponse>, Status> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| invalid("config", "is required").to_status())?;
        let config =
            parse::sandbox_config(config, &request.runtime_handler).map_err(|error| error.to_status())?;
        let id = self.pods.run(config).await.map_err(|error| error.to_status())?;
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id: id.to_string() }))
    }

    pub(super) fn sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Result<Response<v1::PodSandboxStatusResponse>, Status> {
        let request = request.into_inner();
        let pod = self.pods.find_pod(&request.pod_sandbox_id).map_err(|error| error.to_status())?;
        let containers = self.pods.containers();
        let containers_statuses = containers
            .iter()
            .filter(|container| container.pod_id == pod.id)
            .map(|container| show::container_status(container, self.image_name(container)))
            .collect();
        Ok(Response::new(v1::PodSandboxStatusResponse {
            status: Some(show::pod_status(&pod)),
            info: if request.verbose { info::pod(&pod) } else { Default::default() },
            containers_statuses,
            timestamp: show::now_ns(),
        }))
    }

    pub(super) fn sandboxes(&self, filter: Option<&v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
        let pods: Vec<Arc<PodSnapshot>> = self.pods.pods();
        pods.iter().filter(|pod| filter::pod(filter, pod)).map(|pod| show::pod_item(pod)).collect()
    }
}
