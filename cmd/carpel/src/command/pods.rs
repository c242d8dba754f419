//! `carpel pods`.

use carpel_proto::v1::{PodSandboxState, PodSandboxStatus, PodSandboxStatusRequest};
use tonic::Code;

use crate::{
    age,
    cli::Format,
    client::{Client, ask},
    output,
    resolve::Census,
    table::{Table, short_id},
    view::{self, PodView},
};

/// List pods
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel pods                 every pod, the newest first
  carpel pods --ready         without those that were stopped
  carpel pods -q              ids only, one per line
  carpel pods -o json | jq -r '.[] | select(.namespace == \"kube-system\") | .name'")]
pub(crate) struct Args {
    /// Only pods that are ready
    #[arg(long)]
    ready: bool,
    /// Print whole ids and nothing else
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) async fn execute(client: &Client, args: &Args, format: Format) -> anyhow::Result<u8> {
    let mut pods = Census::take(client).await?.pods;
    pods.retain(|pod| !args.ready || pod.state() == PodSandboxState::SandboxReady);
    if args.quiet {
        let ids: String = pods.iter().map(|pod| format!("{}\n", pod.id)).collect();
        output::print(ids)?;
        return Ok(0);
    }
    let now = age::now_ns();
    let mut table = Table::new(["POD ID", "NAME", "NAMESPACE", "STATE", "IP", "CREATED"]);
    let mut views = Vec::new();
    for pod in pods {
        let status = status(client, &pod.id).await?;
        let created_at = pod.created_at;
        let view = PodView::new(pod, status.as_ref());
        table.row([
            short_id(&view.id),
            view.name.clone(),
            view.namespace.clone(),
            view.state.to_owned(),
            status.map(|status| view::ips(&status).join(",")).unwrap_or_default(),
            age::ago(created_at, now),
        ]);
        views.push(view);
    }
    match format {
        Format::Table => output::print(table.render())?,
        Format::Json => output::print_json(&views)?,
    }
    Ok(0)
}

/// The pod's status; nothing if it was removed since it was listed.
async fn status(client: &Client, id: &str) -> anyhow::Result<Option<PodSandboxStatus>> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    match ask(format!("read the status of pod {id}"), client.runtime().pod_sandbox_status(request)).await {
        Ok(answer) => Ok(answer.status),
        Err(error) if error.code() == Code::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
