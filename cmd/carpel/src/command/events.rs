//! `carpel events`.

use carpel_proto::v1::{ContainerEventResponse, ContainerEventType, GetEventsRequest};
use serde::Serialize;

use crate::{
    age::rfc3339,
    cli::Format,
    client::{Client, ask},
    output,
    table::{printable, short_id},
};

/// Show what happens to pods and containers, as it happens
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel events                      until Ctrl-C
  carpel events -o json | jq -c 'select(.event == \"Stopped\")'     one JSON value per line")]
pub(crate) struct Args {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventView {
    time: Option<String>,
    /// `Created`, `Started`, `Stopped` or `Deleted`.
    event: &'static str,
    /// `pod` or `container`.
    kind: &'static str,
    /// Of the pod or container.
    id: String,
    /// Of the container; of the pod, if the event is the pod's.
    name: String,
    pod_id: String,
    pod_name: String,
    namespace: String,
    /// Of a container that has stopped.
    exit_code: Option<i32>,
    reason: String,
}

pub(crate) async fn execute(client: &Client, _args: &Args, format: Format) -> anyhow::Result<u8> {
    let mut runtime = client.runtime();
    let mut stream = ask("watch events", runtime.get_container_events(GetEventsRequest {})).await?;
    loop {
        let Some(event) = stream.message().await.map_err(broken)? else {
            anyhow::bail!("the runtime ended the stream of events");
        };
        let view = EventView::from(event);
        match format {
            Format::Table => output::print(view.line())?,
            Format::Json => output::print_json_line(&view)?,
        }
    }
}

fn broken(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the stream of events broke: {} ({:?})", status.message(), status.code())
}

impl From<ContainerEventResponse> for EventView {
    fn from(event: ContainerEventResponse) -> Self {
        let name = match event.container_event_type() {
            ContainerEventType::ContainerCreatedEvent => "Created",
            ContainerEventType::ContainerStartedEvent => "Started",
            ContainerEventType::ContainerStoppedEvent => "Stopped",
            ContainerEventType::ContainerDeletedEvent => "Deleted",
        };
        let pod = event.pod_sandbox_status.unwrap_or_default();
        let metadata = pod.metadata.unwrap_or_default();
        let container = event.containers_statuses.into_iter().find(|status| status.id == event.container_id);
        let stopped = event.container_event_type == i32::from(ContainerEventType::ContainerStoppedEvent);
        let is_pod = event.container_id == pod.id;
        let container = container.unwrap_or_default();
        let container_name = container.metadata.unwrap_or_default().name;
        Self {
            time: rfc3339(event.created_at),
            event: name,
            kind: if is_pod { "pod" } else { "container" },
            id: event.container_id,
            name: if is_pod { metadata.name.clone() } else { container_name },
            pod_id: pod.id,
            pod_name: metadata.name,
            namespace: metadata.namespace,
            exit_code: (stopped && !is_pod).then_some(container.exit_code),
            reason: container.reason,
        }
    }
}

impl EventView {
    fn line(&self) -> String {
        let mut line = format!(
            "{}  {:<9} {:<9} {:<13}  {}/{}",
            self.time.as_deref().unwrap_or("-"),
            self.kind,
            self.event,
            short_id(&self.id),
            printable(&self.namespace),
            printable(&self.pod_name),
        );
        if self.kind == "container" {
            line.push_str(&format!("/{}", printable(&self.name)));
        }
        if let Some(code) = self.exit_code {
            line.push_str(&format!("  {} ({code})", printable(&self.reason)));
        }
        line.push('\n');
        line
    }
}
