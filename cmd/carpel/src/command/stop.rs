//! `carpel stop`.

use carpel_proto::v1::{Container, ContainerState, StopContainerRequest, StopPodSandboxRequest};

use crate::{
    client::{CallError, Client, wait},
    failure, output,
    resolve::{Census, Target},
};

/// Stop pods and containers
///
/// Each process is asked to end by the container's stop signal (SIGTERM, if the image names none), and killed
/// when its time is over. What was stopped stays visible (`carpel ps -a`, `carpel logs`) until it is removed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel stop web                 the pod with all its containers, and its network
  carpel stop --time 0 web        at once
  carpel stop web/sidecar         one container of it")]
pub(crate) struct Args {
    /// Seconds that a process has to end by itself
    #[arg(long, short, value_name = "SECONDS", default_value_t = GRACE_S)]
    time: u32,
    /// Pods and containers
    #[arg(required = true)]
    targets: Vec<String>,
}

/// What docker and podman wait, in seconds.
pub(crate) const GRACE_S: u32 = 10;

pub(crate) async fn execute(client: &Client, args: &Args) -> anyhow::Result<u8> {
    let census = Census::take(client).await?;
    let mut code = 0;
    for text in &args.targets {
        match stop(client, &census, text, args.time).await {
            Ok(id) => output::print(format!("{id}\n"))?,
            Err(error) => {
                failure::report(&error);
                code = 1;
            }
        }
    }
    Ok(code)
}

async fn stop(client: &Client, census: &Census, text: &str, grace_s: u32) -> anyhow::Result<String> {
    match census.target(text)? {
        Target::Pod(pod) => {
            let containers: Vec<&Container> = census.containers_of(&pod.id).collect();
            stop_pod(client, &pod.id, &containers, grace_s).await?;
            Ok(pod.id)
        }
        Target::Container(container) => {
            stop_container(client, &container.id, grace_s).await?;
            Ok(container.id)
        }
    }
}

/// Stops a pod. CRI knows no grace period for pods, so its containers are stopped first, all at the same
/// time.
pub(crate) async fn stop_pod(
    client: &Client,
    id: &str,
    containers: &[&Container],
    grace_s: u32,
) -> Result<(), CallError> {
    let mut stops = tokio::task::JoinSet::new();
    for container in containers {
        if container.state() == ContainerState::ContainerRunning {
            let (client, id) = (client.clone(), container.id.clone());
            stops.spawn(async move { stop_container(&client, &id, grace_s).await });
        }
    }
    for stopped in stops.join_all().await {
        stopped?;
    }
    let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    wait(format!("stop pod {id}"), client.runtime().stop_pod_sandbox(request)).await.map(drop)
}

pub(crate) async fn stop_container(client: &Client, id: &str, grace_s: u32) -> Result<(), CallError> {
    let request = StopContainerRequest { container_id: id.to_owned(), timeout: i64::from(grace_s) };
    wait(format!("stop container {id}"), client.runtime().stop_container(request)).await.map(drop)
}
