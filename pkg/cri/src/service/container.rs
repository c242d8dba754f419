//! Containers and what runs in them.

use std::time::Duration;

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
    pub(super) async fn create(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Result<Response<v1::CreateContainerResponse>, Status> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| invalid("config", "is required").to_status())?;
        let config = parse::container_config(config).map_err(|error| error.to_status())?;
        let id = self
            .pods
            .create_container(&request.pod_sandbox_id, config)
            .await
            .map_err(|error| error.to_status())?;
        Ok(Response::new(v1::CreateContainerResponse { container_id: id.to_string() }))
    }

    pub(super) async fn stop(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Result<Response<v1::StopContainerResponse>, Status> {
        let request = request.into_inner();
        let grace = u64::try_from(request.timeout)
            .map_err(|_| invalid("timeout", format!("{} is negative", request.timeout)).to_status())?;
        self.pods
            .stop_container(&request.container_id, Duration::from_secs(grace))
            .await
            .map_err(|error| error.to_status())?;
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    pub(super) fn containers(&self, filter: Option<&v1::ContainerFilter>) -> Vec<v1::Container> {
        self.pods
            .containers()
            .iter()
            .filter(|container| filter::container(filter, container))
            .map(|container| show::container_item(container, self.image_name(container)))
            .collect()
    }

    pub(super) async fn status_of_container(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
        let request = request.into_inner();
        let container = self.pods.find_container(&request.container_id).map_err(|error| error.to_status())?;
        let info = if request.verbose {
            info::container(&container, self.pods.runtime_spec(container.id.as_str()).await)
        } else {
            Default::default()
        };
        Ok(Response::new(v1::ContainerStatusResponse {
            status: Some(show::container_status(&container, self.image_name(&container))),
            info,
        }))
    }

    pub(super) async fn update(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Result<Response<v1::UpdateContainerResourcesResponse>, Status> {
        let request = request.into_inner();
        let linux = request.linux.ok_or_else(|| invalid("linux", "is required").to_status())?;
        let resources = parse::resources(&linux, "linux").map_err(|error| error.to_status())?;
        self.pods
            .update_resources(&request.container_id, resources)
            .await
            .map_err(|error| error.to_status())?;
        Ok(Response::new(v1::UpdateContainerResourcesResponse {}))
    }

    pub(super) async fn run_command(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Result<Response<v1::ExecSyncResponse>, Status> {
        let request = request.into_inner();
        let seconds = u64::try_from(request.timeout)
            .map_err(|_| invalid("timeout", format!("{} is negative", request.timeout)).to_status())?;
        let timeout = (seconds != 0).then(|| Duration::from_secs(seconds));
        if request.cmd.is_empty() {
            return Err(invalid("cmd", "is required").to_status());
        }
        let output = self
            .pods
            .exec_sync(&request.container_id, request.cmd, timeout)
            .await
            .map_err(|error| error.to_status())?;
        Ok(Response::new(v1::ExecSyncResponse {
            stdout: output.stdout.into(),
            stderr: output.stderr.into(),
            exit_code: output.exit_code,
        }))
    }
}
