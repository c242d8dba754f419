//! `carpel inspect`.

use std::collections::BTreeMap;

use carpel_proto::v1::{ContainerStatusRequest, ImageSpec, ImageStatusRequest, PodSandboxStatusRequest};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::{
    client::{Client, ask},
    output,
    protojson::to_json,
    resolve::{Census, ResolveError, Target},
};

/// Show everything the runtime tells about a pod, container or image, as JSON
///
/// `status` is the answer of the protocol, `info` what the runtime adds for people.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel inspect web | jq .status.network
  carpel inspect --type container web | jq .status.mounts
  carpel inspect docker.io/library/nginx:1 | jq .info")]
pub(crate) struct Args {
    /// What kind of thing it is [default: the first that fits of pod, container, image]
    #[arg(long = "type", value_enum, value_name = "KIND")]
    kind: Option<InspectKind>,
    /// Pod, container or image
    subject: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InspectKind {
    Pod,
    Container,
    Image,
}

pub(crate) async fn execute(client: &Client, args: &Args) -> anyhow::Result<u8> {
    let text = &args.subject;
    let answer = match args.kind {
        Some(InspectKind::Pod) => pod(client, &Census::take(client).await?.pod(text)?.id).await?,
        Some(InspectKind::Container) => {
            container(client, &Census::take(client).await?.container(text)?.id).await?
        }
        Some(InspectKind::Image) => {
            image(client, text).await?.ok_or_else(|| super::Refused::NoImage(text.clone()))?
        }
        None => match Census::take(client).await?.target(text) {
            Ok(Target::Pod(found)) => pod(client, &found.id).await?,
            Ok(Target::Container(found)) => container(client, &found.id).await?,
            Err(ResolveError::NotFound { .. }) => image(client, text).await?.ok_or_else(|| {
                ResolveError::NotFound { kind: "pod, container or image", text: text.clone() }
            })?,
            Err(ambiguous) => return Err(ambiguous.into()),
        },
    };
    output::print_json(&answer)?;
    Ok(0)
}

async fn pod(client: &Client, id: &str) -> anyhow::Result<Value> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
    let answer =
        ask(format!("read the status of pod {id}"), client.runtime().pod_sandbox_status(request)).await?;
    let status = to_json("PodSandboxStatus", &answer.status.unwrap_or_default())?;
    Ok(json!({ "status": status, "info": expand(answer.info) }))
}

async fn container(client: &Client, id: &str) -> anyhow::Result<Value> {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let answer =
        ask(format!("read the status of container {id}"), client.runtime().container_status(request)).await?;
    let status = to_json("ContainerStatus", &answer.status.unwrap_or_default())?;
    Ok(json!({ "status": status, "info": expand(answer.info) }))
}

async fn image(client: &Client, name: &str) -> anyhow::Result<Option<Value>> {
    let spec = ImageSpec { image: name.to_owned(), ..Default::default() };
    let request = ImageStatusRequest { image: Some(spec), verbose: true };
    let answer = ask(format!("look up image {name}"), client.images().image_status(request)).await?;
    let Some(image) = answer.image else { return Ok(None) };
    Ok(Some(json!({ "status": to_json("Image", &image)?, "info": expand(answer.info) })))
}

/// The runtime's own details. Values are JSON texts by custom; one that is not stays a text, and a single
/// entry `info` is not nested once more, as crictl shows it.
fn expand(info: BTreeMap<String, String>) -> Value {
    let mut members: Map<String, Value> = info
        .into_iter()
        .map(|(key, text)| {
            let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
            (key, value)
        })
        .collect();
    if members.len() == 1
        && let Some(inner) = members.remove("info")
    {
        return inner;
    }
    Value::Object(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_unpacked() {
        let info = |entries: &[(&str, &str)]| {
            expand(entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(info(&[]), json!({}));
        assert_eq!(info(&[("info", "{\"pid\": 7}")]), json!({"pid": 7}));
        assert_eq!(info(&[("info", "{}"), ("pid", "7")]), json!({"info": {}, "pid": 7}));
        assert_eq!(info(&[("other", "no {json")]), json!({"other": "no {json"}));
    }
}
