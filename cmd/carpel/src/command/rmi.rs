//! `carpel rmi`.

use carpel_proto::v1::{ImageSpec, RemoveImageRequest};

use crate::{
    client::{Client, wait},
    command::{Refused, pull::find},
    failure, output,
    resolve::Census,
};

/// Remove images with all their names
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel rmi docker.io/library/nginx:1.27
  carpel rmi -f 3f2a9c0e7d51        even if a container uses it; what runs goes on running")]
pub(crate) struct Args {
    /// Also an image that containers use
    #[arg(long, short)]
    force: bool,
    /// References or ids
    #[arg(required = true)]
    images: Vec<String>,
}

pub(crate) async fn execute(client: &Client, args: &Args) -> anyhow::Result<u8> {
    let census = Census::take(client).await?;
    let mut code = 0;
    for image in &args.images {
        match remove(client, &census, image, args.force).await {
            Ok(id) => output::print(format!("{id}\n"))?,
            Err(error) => {
                failure::report(&error);
                code = 1;
            }
        }
    }
    Ok(code)
}

async fn remove(client: &Client, census: &Census, name: &str, force: bool) -> anyhow::Result<String> {
    // CRI lets the removal of nothing succeed; a person has mistyped something.
    let image = find(client, name).await?.ok_or_else(|| Refused::NoImage(name.to_owned()))?;
    let users = census.containers.iter().filter(|container| {
        container.image_id == image.id
            || container.image_ref == image.id
            || image.repo_digests.contains(&container.image_ref)
    });
    let users = users.count();
    if users > 0 && !force {
        return Err(Refused::ImageUsed { image: name.to_owned(), users }.into());
    }
    let spec = ImageSpec { image: image.id.clone(), ..Default::default() };
    let request = RemoveImageRequest { image: Some(spec) };
    wait(format!("remove image {name}"), client.images().remove_image(request)).await?;
    Ok(image.id)
}
