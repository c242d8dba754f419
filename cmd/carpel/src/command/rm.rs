//! `carpel rm`.

use std::path::Path;

use carpel_proto::v1::{
    Container, ContainerState, PodSandbox, RemoveContainerRequest, RemovePodSandboxRequest,
};

use crate::{
    client::{Client, wait},
    command::{Refused, run::log_dir, stop::stop_pod},
    failure, output,
    resolve::{Census, Target},
};

/// Remove pods and containers
///
/// A pod goes with its containers; if `carpel run` made it, its logs go too. On a Kubernetes node the kubelet
/// makes its pods anew.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel rm web                a pod whose containers have ended
  carpel rm -f web             one that runs: it gets 10 seconds to end (--time)
  carpel rm --all              every pod of which nothing runs
  carpel rm -af                every pod of this node")]
pub(crate) struct Args {
    /// Also what is running
    #[arg(long, short)]
    force: bool,
    /// Every pod; without -f those of which nothing runs
    #[arg(long, short, conflicts_with = "targets")]
    all: bool,
    /// With -f: seconds that a process has to end by itself
    #[arg(long, short, value_name = "SECONDS", default_value_t = super::stop::GRACE_S)]
    time: u32,
    #[command(flatten)]
    logs: log_dir::LogDirArgs,
    /// Pods and containers
    targets: Vec<String>,
}

pub(crate) async fn execute(client: &Client, args: &Args) -> anyhow::Result<u8> {
    let census = Census::take(client).await?;
    let targets: Vec<anyhow::Result<Target>> = if args.all {
        let idle = census.pods.iter().filter(|pod| args.force || !runs(&census, pod));
        idle.map(|pod| Ok(Target::Pod(pod.clone()))).collect()
    } else if args.targets.is_empty() {
        return Err(Refused::NothingNamed.into());
    } else {
        args.targets.iter().map(|text| census.target(text).map_err(Into::into)).collect()
    };
    let mut code = 0;
    for target in targets {
        let removed = match target {
            Ok(target) => remove(client, &census, args, &target).await.map(|()| target.id().to_owned()),
            Err(error) => Err(error),
        };
        match removed {
            Ok(id) => output::print(format!("{id}\n"))?,
            Err(error) => {
                failure::report(&error);
                code = 1;
            }
        }
    }
    Ok(code)
}

fn runs(census: &Census, pod: &PodSandbox) -> bool {
    census.containers_of(&pod.id).any(|container| container.state() == ContainerState::ContainerRunning)
}

async fn remove(client: &Client, census: &Census, args: &Args, target: &Target) -> anyhow::Result<()> {
    match target {
        Target::Pod(pod) => {
            if !args.force && runs(census, pod) {
                return Err(Refused::PodRuns(pod.id.clone()).into());
            }
            let containers: Vec<&Container> = census.containers_of(&pod.id).collect();
            remove_pod(client, pod, &containers, args.time, &args.logs.log_dir).await
        }
        Target::Container(container) => {
            if container.state() == ContainerState::ContainerRunning {
                if !args.force {
                    return Err(Refused::ContainerRuns(container.id.clone()).into());
                }
                super::stop::stop_container(client, &container.id, args.time).await?;
            }
            let request = RemoveContainerRequest { container_id: container.id.clone() };
            let what = format!("remove container {}", container.id);
            wait(what, client.runtime().remove_container(request)).await?;
            Ok(())
        }
    }
}

/// Stops and removes a pod, and the logs that `carpel run` had made for it.
pub(crate) async fn remove_pod(
    client: &Client,
    pod: &PodSandbox,
    containers: &[&Container],
    grace_s: u32,
    log_root: &Path,
) -> anyhow::Result<()> {
    stop_pod(client, &pod.id, containers, grace_s).await?;
    let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
    wait(format!("remove pod {}", pod.id), client.runtime().remove_pod_sandbox(request)).await?;
    log_dir::remove_of(log_root, pod)?;
    Ok(())
}
