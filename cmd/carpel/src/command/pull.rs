//! `carpel pull`, and making sure of an image for `carpel run`.

use std::io::{self, BufRead, Read};

use anyhow::Context;
use carpel_proto::v1::{AuthConfig, Image, ImageSpec, ImageStatusRequest, PullImageRequest};
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    cli::Format,
    client::{CallError, Client, ask, wait},
    output, progress,
    table::short_id,
};

/// Longest password that is read; tokens of cloud registries have some kilobytes.
const PASSWORD_MAX_BYTES: u64 = 64 << 10;

/// Fetch an image from its registry
///
/// How registries are reached (mirrors, plain HTTP, private CAs) is the runtime's configuration; for Carpel
/// it is /etc/carpel/certs.d/<registry>/hosts.toml.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel pull docker.io/library/nginx:1.27
  carpel pull docker.io/library/nginx@sha256:<digest>
  carpel pull --username robot --password-stdin registry.example/app:1 < token

It prints the id of the image.")]
pub(crate) struct Args {
    /// User at a private registry
    #[arg(long, short, value_name = "NAME", requires = "password_stdin")]
    username: Option<String>,
    /// Read the password from the first line of standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Image reference: registry, repository, and tag or digest
    image: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PullView<'a> {
    reference: &'a str,
    id: String,
    tags: Vec<String>,
    size_bytes: Option<u64>,
    elapsed_ms: u64,
}

pub(crate) async fn execute(client: &Client, args: &Args, format: Format) -> anyhow::Result<u8> {
    let auth = args.username.as_ref().map(|name| credentials(name)).transpose()?;
    let since = Instant::now();
    let id = pull(client, &args.image, auth).await?;
    let elapsed_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    match format {
        Format::Table => output::print(format!("{id}\n"))?,
        Format::Json => {
            let image = find(client, &id).await?.unwrap_or_default();
            output::print_json(&PullView {
                reference: &args.image,
                id,
                tags: image.repo_tags,
                size_bytes: (image.size > 0).then_some(image.size),
                elapsed_ms,
            })?;
        }
    }
    Ok(0)
}

fn credentials(username: &str) -> anyhow::Result<AuthConfig> {
    let mut password = String::new();
    io::stdin()
        .lock()
        .take(PASSWORD_MAX_BYTES)
        .read_line(&mut password)
        .context("cannot read the password from standard input")?;
    password.truncate(password.trim_end_matches(['\r', '\n']).len());
    anyhow::ensure!(!password.is_empty(), "there is no password on standard input");
    Ok(AuthConfig { username: username.to_owned(), password, ..Default::default() })
}

/// Pulls, with progress on a terminal, and returns what the runtime calls the image.
async fn pull(client: &Client, image: &str, auth: Option<AuthConfig>) -> Result<String, CallError> {
    let spec = ImageSpec { image: image.to_owned(), ..Default::default() };
    let request = PullImageRequest { image: Some(spec), auth, sandbox_config: None };
    let mut images = client.images();
    let call = wait(format!("pull {image}"), images.pull_image(request));
    Ok(progress::during_pull(client, image, call).await?.image_ref)
}

/// When `carpel run` asks the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PullPolicy {
    /// If the image is not on this node
    Missing,
    /// Each time: the tag may have moved
    Always,
    /// Not at all
    Never,
}

/// Makes sure of the image, and returns what the runtime calls it.
pub(crate) async fn ensure(client: &Client, image: &str, policy: PullPolicy) -> anyhow::Result<String> {
    if policy != PullPolicy::Always
        && let Some(found) = find(client, image).await?
    {
        return Ok(found.id);
    }
    if policy == PullPolicy::Never {
        return Err(super::Refused::NoImage(image.to_owned()).into());
    }
    let id = pull(client, image, None).await?;
    output::say(&format!("pulled {image} ({})", short_id(&id)));
    Ok(id)
}

/// The image of this reference or id, if it is on this node.
pub(crate) async fn find(client: &Client, image: &str) -> Result<Option<Image>, CallError> {
    let spec = ImageSpec { image: image.to_owned(), ..Default::default() };
    let request = ImageStatusRequest { image: Some(spec), verbose: false };
    Ok(ask(format!("look up image {image}"), client.images().image_status(request)).await?.image)
}
