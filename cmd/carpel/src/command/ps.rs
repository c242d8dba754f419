//! `carpel ps`.

use carpel_proto::v1::{ContainerState, ContainerStatus};

use crate::{
    age,
    cli::Format,
    client::Client,
    command::logs::container_status,
    output,
    resolve::Census,
    table::{Table, short_id},
    view::{ContainerView, state_name},
};

/// List containers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel ps                   what runs
  carpel ps -a                what has ended too, with its exit code
  carpel ps --pod web         the containers of one pod
  carpel ps -a -o json | jq -r '.[] | select(.exitCode != 0) | .name'")]
pub(crate) struct Args {
    /// Also containers that do not run
    #[arg(long, short)]
    all: bool,
    /// Only containers of this pod
    #[arg(long, short, value_name = "POD")]
    pod: Option<String>,
    /// Print whole ids and nothing else
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) async fn execute(client: &Client, args: &Args, format: Format) -> anyhow::Result<u8> {
    let census = Census::take(client).await?;
    let pod_id = args.pod.as_ref().map(|pod| census.pod(pod).map(|pod| pod.id.clone())).transpose()?;
    let wanted = census.containers.iter().filter(|container| {
        let running = container.state() == ContainerState::ContainerRunning;
        (args.all || running) && pod_id.as_ref().is_none_or(|id| *id == container.pod_sandbox_id)
    });
    if args.quiet {
        let ids: String = wanted.map(|container| format!("{}\n", container.id)).collect();
        output::print(ids)?;
        return Ok(0);
    }
    let now = age::now_ns();
    let mut table = Table::new(["CONTAINER ID", "NAME", "POD", "IMAGE", "STATUS", "CREATED"]);
    let mut views = Vec::new();
    for container in wanted {
        // It may have been removed since it was listed.
        let Some(status) = container_status(client, &container.id).await? else { continue };
        let pod_name = census.pod_name(&container.pod_sandbox_id);
        let view = ContainerView::new(container.clone(), pod_name, &status);
        table.row([
            short_id(&view.id),
            view.name.clone(),
            view.pod_name.clone(),
            short_image(&view.image),
            status_text(&status, now),
            age::ago(container.created_at, now),
        ]);
        views.push(view);
    }
    match format {
        Format::Table => output::print(table.render())?,
        Format::Json => output::print_json(&views)?,
    }
    Ok(0)
}

/// An image that is known by its id only is shown by the beginning of it.
fn short_image(image: &str) -> String {
    if image.starts_with("sha256:") { short_id(image) } else { image.to_owned() }
}

/// What people ask first: since when it runs, or how it ended.
fn status_text(status: &ContainerStatus, now_ns: i64) -> String {
    match status.state() {
        ContainerState::ContainerRunning => {
            format!("Running for {}", age::span(age::since(status.started_at, now_ns)))
        }
        ContainerState::ContainerExited => {
            let reason = if status.reason.is_empty() { "Exited" } else { status.reason.as_str() };
            format!("{reason} ({}) {}", status.exit_code, age::ago(status.finished_at, now_ns))
        }
        state @ (ContainerState::ContainerCreated | ContainerState::ContainerUnknown) => {
            state_name(state).to_owned()
        }
    }
}
