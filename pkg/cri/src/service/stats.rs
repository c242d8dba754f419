//! Statistics.

use carpel_proto::v1;
use tonic::{Request, Response, Status};

use super::RuntimeServer;
use crate::{filter, show, status::ToStatus};

impl RuntimeServer {
    pub(super) async fn stats_of_container(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Result<Response<v1::ContainerStatsResponse>, Status> {
        let id = request.into_inner().container_id;
        let stats = self.pods.container_stats(&id).await.map_err(|error| error.to_status())?;
        Ok(Response::new(v1::ContainerStatsResponse { stats: Some(show::container_stats(&stats)) }))
    }

    pub(super) async fn stats_of_containers(
        &self,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Vec<v1::ContainerStats> {
        let stats = self
            .pods
            .all_container_stats(|container| filter::container_stats(filter.as_ref(), container))
            .await;
        stats.iter().map(show::container_stats).collect()
    }

    pub(super) async fn stats_of_sandbox(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Result<Response<v1::PodSandboxStatsResponse>, Status> {
        let id = request.into_inner().pod_sandbox_id;
        let stats = self.pods.pod_stats(&id).await.map_err(|error| error.to_status())?;
        Ok(Response::new(v1::PodSandboxStatsResponse { stats: Some(show::pod_stats(&stats)) }))
    }

    pub(super) async fn stats_of_sandboxes(
        &self,
        filter: Option<v1::PodSandboxStatsFilter>,
    ) -> Vec<v1::PodSandboxStats> {
        let stats = self.pods.all_pod_stats(|pod| filter::pod_stats(filter.as_ref(), pod)).await;
        stats.iter().map(show::pod_stats).collect()
    }
}
