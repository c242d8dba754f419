//! `carpel start`.

use carpel_proto::v1::StartContainerRequest;

use crate::{
    client::{Client, wait},
    failure, output,
    resolve::Census,
};

/// Start containers that were created but not started
///
/// A container starts once: what has ended is run again by making a new one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  carpel start 3f2a9c     a container that another program created")]
pub(crate) struct Args {
    /// Containers
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(crate) async fn execute(client: &Client, args: &Args) -> anyhow::Result<u8> {
    let census = Census::take(client).await?;
    let mut code = 0;
    for text in &args.containers {
        match start(client, &census, text).await {
            Ok(id) => output::print(format!("{id}\n"))?,
            Err(error) => {
                failure::report(&error);
                code = 1;
            }
        }
    }
    Ok(code)
}

async fn start(client: &Client, census: &Census, text: &str) -> anyhow::Result<String> {
    let id = census.container(text)?.id.clone();
    let request = StartContainerRequest { container_id: id.clone() };
    wait(format!("start container {text}"), client.runtime().start_container(request)).await?;
    Ok(id)
}
