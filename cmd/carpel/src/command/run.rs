//! `carpel run`.
//!
//! ```text
//!  image ─► RunPodSandbox ─► CreateContainer ─► StartContainer ─► -d: print the pod's id
//!                 any step fails or Ctrl-C: remove the pod        else: follow the log to the exit, with -it
//!                                                                 be its terminal; stop or remove the pod,
//!                                                                 its exit code
//! ```

mod attached;
mod attachment;
mod config;
pub(crate) mod log_dir;
mod port;
mod volume;

use std::{ffi::OsString, future::Future};

use attachment::Attachment;
use carpel_proto::v1::{
    ContainerConfig, CreateContainerRequest, PodSandboxConfig, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StopPodSandboxRequest,
};
use serde::Serialize;

use crate::{
    cli::Format,
    client::{Client, wait},
    command::{
        Refused,
        pull::{self, PullPolicy},
    },
    failure, output,
    resolve::{Census, pod_name},
    size::{parse_bytes, parse_cpus},
    stream::{DetachKeys, TlsArgs},
};

/// Run a command in a new pod
///
/// The pod has one container. Without -d its output is shown until it ends, Ctrl-C stops it (twice: at once),
/// and the exit code is the container's. What has ended stays visible in `carpel ps -a` and `carpel logs`
/// until it is removed; with --rm it is removed at once.
///
/// With -i the command reads our standard input; with -it it has our terminal: every key is its own, Ctrl-C too,
/// and Ctrl-p Ctrl-q leave it running (`carpel attach -it` comes back).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel run --rm docker.io/library/alpine:3 echo hello
  carpel run -it --rm docker.io/library/alpine:3 sh
  carpel run -d --name web -p 8080:80 -v /srv/www:/usr/share/nginx/html:ro nginx:1
  carpel run --rm --memory 64m --cpus 0.5 --env LEVEL=debug registry.example/app:1 --its-own-flag
  carpel run --rm --host-network --privileged --entrypoint sh busybox:1 -c 'ip addr'

The exit code is 125 if the container could not be run, otherwise its own (128 + n if signal n ended it).")]
pub(crate) struct Args {
    /// Name of the pod, and its host name [default: made from the image's]
    #[arg(long, value_name = "NAME", value_parser = config::parse_name)]
    name: Option<String>,
    /// Namespace of the pod, as Kubernetes counts; nothing is isolated by it
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = config::parse_name)]
    namespace: String,
    /// Remove the pod when the command has ended
    #[arg(long, conflicts_with = "detach")]
    rm: bool,
    /// Do not wait: print the pod's id
    #[arg(long, short)]
    detach: bool,
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    isolation: IsolationArgs,
    /// Port of the node that leads to the container: [ADDRESS:]HOST:CONTAINER[/tcp|udp|sctp]
    #[arg(long, short, value_name = "PORTS", value_parser = port::parse, conflicts_with = "host_network")]
    publish: Vec<carpel_proto::v1::PortMapping>,
    /// Directory or file of the node in the container: SOURCE:TARGET[:ro,rslave,rshared]
    #[arg(long, short, value_name = "MOUNT", value_parser = volume::parse)]
    volume: Vec<carpel_proto::v1::Mount>,
    /// Limit of memory, such as 512m or 2g
    #[arg(long, short, value_name = "BYTES", value_parser = parse_bytes)]
    memory: Option<i64>,
    /// Limit of CPU, such as 0.5
    #[arg(long, value_name = "NUMBER", value_parser = parse_cpus)]
    cpus: Option<i64>,
    /// Label on pod and container
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = config::parse_pair)]
    label: Vec<(String, String)>,
    /// When to ask the registry
    #[arg(long, value_enum, value_name = "WHEN", default_value = "missing")]
    pull: PullPolicy,
    /// Runtime handler, as RuntimeClass names one
    #[arg(long, value_name = "HANDLER", default_value = "")]
    runtime: String,
    #[command(flatten)]
    logs: log_dir::LogDirArgs,
    #[command(flatten)]
    tls: TlsArgs,
    /// Reference or id
    pub(crate) image: String,
    /// Replaces the image's command; its entrypoint stays
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// The process itself.
#[derive(Debug, clap::Args)]
struct ProcessArgs {
    /// Input for the command: ours, or with -d that of `carpel attach -i`
    #[arg(long, short)]
    interactive: bool,
    /// A terminal for the command; its output is then one stream
    #[arg(long, short)]
    tty: bool,
    /// Keys that leave a terminal, with commas between them; empty: none do
    #[arg(long, value_name = "KEYS", default_value = DetachKeys::DEFAULT)]
    detach_keys: DetachKeys,
    /// Environment variable; without =VALUE, ours of that name
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    env: Vec<OsString>,
    /// Replaces the image's entrypoint
    #[arg(long, value_name = "CMD")]
    entrypoint: Option<String>,
    /// Working directory
    #[arg(long, short, value_name = "DIR", default_value = "")]
    workdir: String,
    /// User by number or name, and group by number
    #[arg(long, short, value_name = "USER[:GROUP]", value_parser = config::parse_user)]
    user: Option<config::User>,
}

/// What it may reach.
#[derive(Debug, clap::Args)]
struct IsolationArgs {
    /// The node's network in place of one of its own
    #[arg(long)]
    host_network: bool,
    /// Every capability, device and path of the node: as root without a container
    #[arg(long)]
    privileged: bool,
    /// The image's files cannot be changed
    #[arg(long)]
    read_only: bool,
    /// Capability beyond the usual ones, or ALL
    #[arg(long, value_name = "NAME")]
    cap_add: Vec<String>,
    /// Capability to go without, or ALL
    #[arg(long, value_name = "NAME")]
    cap_drop: Vec<String>,
}

/// What was made for one `run`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Workload {
    pod_id: String,
    container_id: String,
    name: String,
    log_path: std::path::PathBuf,
}

pub(crate) async fn execute(client: &Client, args: Args, format: Format) -> anyhow::Result<u8> {
    let input = attachment::Input::of(&args)?;
    let uid = config::random_uid()?;
    let name = args.name.clone().unwrap_or_else(|| config::generated_name(&args.image, &uid));
    refuse_taken_name(client, &args.namespace, &name).await?;
    let envs = config::environment(&args.process.env)?;
    let mut interrupts = attached::Interrupts::listen()?;
    let image_id = tokio::select! {
        image = pull::ensure(client, &args.image, args.pull) => image?,
        () = interrupts.next() => return Ok(attached::INTERRUPTED),
    };
    let pod = config::pod(&args, &name, &uid)?;
    let container = config::container(&args, &image_id, envs);
    log_dir::create(&args.logs.log_dir, &pod.log_directory)?;

    let launched = launch(client, &args, pod.clone(), container, &input, &mut interrupts).await?;
    let Some((workload, attachment)) = launched else { return Ok(attached::INTERRUPTED) };
    if args.detach {
        match format {
            Format::Table => output::print(format!("{}\n", workload.pod_id))?,
            Format::Json => output::print_json(&workload)?,
        }
        return Ok(0);
    }
    let outcome = match attachment {
        None => attached::attend(client, &workload, None, &mut interrupts).await,
        Some(Attachment::Input(channels)) => {
            attached::attend(client, &workload, Some(channels), &mut interrupts).await
        }
        Some(Attachment::Terminal(channels, keys)) => {
            match attachment::sit_at(client, &workload, channels, keys).await {
                Ok(Some(code)) => Ok(code),
                Ok(None) => {
                    output::say(&format!("left {name}; `carpel attach -it {name}` comes back to it"));
                    return Ok(0);
                }
                Err(error) => Err(error),
            }
        }
    };
    let cleaned = clean_up(client, &workload.pod_id, &pod, args.rm, &args.logs).await;
    let code = outcome?;
    cleaned?;
    Ok(code)
}

/// The runtime itself would take the same name again, since the pods differ in their uid; people would not.
async fn refuse_taken_name(client: &Client, namespace: &str, name: &str) -> anyhow::Result<()> {
    let census = Census::take(client).await?;
    let taken = census.pods.iter().any(|pod| {
        pod_name(pod) == name && pod.metadata.as_ref().is_some_and(|metadata| metadata.namespace == namespace)
    });
    if taken { Err(Refused::NameTaken(name.to_owned()).into()) } else { Ok(()) }
}

/// Makes the pod and starts its container. Nothing is left if that fails, or if it is interrupted, which is
/// the case without a result.
async fn launch(
    client: &Client,
    args: &Args,
    pod: PodSandboxConfig,
    container: ContainerConfig,
    input: &attachment::Input,
    interrupts: &mut attached::Interrupts,
) -> anyhow::Result<Option<(Workload, Option<Attachment>)>> {
    let name = pod.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
    let request = RunPodSandboxRequest { config: Some(pod.clone()), runtime_handler: args.runtime.clone() };
    // A call under way is never given up: only its answer tells what there is to remove.
    let sandbox = wait(format!("make pod {name}"), client.runtime().run_pod_sandbox(request)).await;
    let pod_id = match sandbox {
        Ok(sandbox) => sandbox.pod_sandbox_id,
        Err(error) => {
            if let Err(leftover) = log_dir::remove(&args.logs.log_dir, &pod.log_directory) {
                failure::report(&leftover.into());
            }
            return Err(error.into());
        }
    };
    let log_path = std::path::Path::new(&pod.log_directory).join(&container.log_path);
    let started = start(client, &args.tls, &pod_id, pod.clone(), container, input).await;
    let interrupted = interrupts.seen();
    match started {
        Ok((container_id, attachment)) if !interrupted => {
            Ok(Some((Workload { pod_id, container_id, name, log_path }, attachment)))
        }
        started => {
            if let Err(error) = clean_up(client, &pod_id, &pod, true, &args.logs).await {
                // The first failure is the one to return.
                failure::report(&error.context("cannot take back what was made"));
            }
            started?;
            Ok(None)
        }
    }
}

async fn start(
    client: &Client,
    tls: &TlsArgs,
    pod_id: &str,
    pod: PodSandboxConfig,
    container: ContainerConfig,
    input: &attachment::Input,
) -> anyhow::Result<(String, Option<Attachment>)> {
    let request = CreateContainerRequest {
        pod_sandbox_id: pod_id.to_owned(),
        config: Some(container),
        sandbox_config: Some(pod),
    };
    let created = wait("create the container", client.runtime().create_container(request)).await?;
    let early = input.join_early(client, tls, &created.container_id).await;
    let request = StartContainerRequest { container_id: created.container_id.clone() };
    wait("start the container", client.runtime().start_container(request)).await?;
    let attachment = match early {
        Some(attachment) => Some(attachment),
        None => input.join(client, tls, &created.container_id).await?,
    };
    Ok((created.container_id, attachment))
}

/// Gives back what the pod holds, its network above all, and with `remove` forgets it too.
async fn clean_up(
    client: &Client,
    pod_id: &str,
    pod: &PodSandboxConfig,
    remove: bool,
    logs: &log_dir::LogDirArgs,
) -> anyhow::Result<()> {
    let stop = StopPodSandboxRequest { pod_sandbox_id: pod_id.to_owned() };
    wait(format!("stop pod {pod_id}"), client.runtime().stop_pod_sandbox(stop)).await?;
    if remove {
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod_id.to_owned() };
        wait(format!("remove pod {pod_id}"), client.runtime().remove_pod_sandbox(request)).await?;
        log_dir::remove(&logs.log_dir, &pod.log_directory)?;
    }
    Ok(())
}

/// Awaits without caring about the output.
async fn quietly<T>(work: impl Future<Output = anyhow::Result<T>>) {
    if let Err(error) = work.await {
        failure::report(&error);
    }
}
