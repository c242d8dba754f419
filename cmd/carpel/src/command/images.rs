//! `carpel images`.

use carpel_proto::v1::ListImagesRequest;

use crate::{
    cli::Format,
    client::{Client, ask},
    image_names::split_tag,
    output, size,
    table::{Table, short_id},
    view::ImageView,
};

/// List images
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel images
  carpel images -q                                      whole ids only
  carpel images -o json | jq 'map(.sizeBytes) | add'    bytes of all images, shared layers counted each time")]
pub(crate) struct Args {
    /// Print whole ids and nothing else
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) async fn execute(client: &Client, args: &Args, format: Format) -> anyhow::Result<u8> {
    let answer = ask("list images", client.images().list_images(ListImagesRequest::default())).await?;
    let mut images: Vec<ImageView> = answer.images.into_iter().map(ImageView::from).collect();
    images.sort_by(|a, b| (&a.tags, &a.id).cmp(&(&b.tags, &b.id)));
    if args.quiet {
        let ids: String = images.iter().map(|image| format!("{}\n", image.id)).collect();
        output::print(ids)?;
        return Ok(0);
    }
    match format {
        Format::Table => output::print(table(&images).render())?,
        Format::Json => output::print_json(&images)?,
    }
    Ok(0)
}

/// One row for each name; an image without a tag is known by its digest.
fn table(images: &[ImageView]) -> Table<4> {
    let mut table = Table::new(["IMAGE", "TAG", "IMAGE ID", "SIZE"]);
    for image in images {
        let unnamed = String::new();
        let names: Vec<&String> = match (image.tags.as_slice(), image.digests.first()) {
            ([], digest) => vec![digest.unwrap_or(&unnamed)],
            (tags, _) => tags.iter().collect(),
        };
        for name in names {
            let (repository, tag) = split_tag(name);
            table.row([
                repository.to_owned(),
                tag.to_owned(),
                short_id(&image.id),
                size::human(image.size_bytes),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_of_an_image_has_a_row() {
        let image = |tags: &[&str], digests: &[&str]| ImageView {
            id: "sha256:0123456789abcdef0123".into(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            digests: digests.iter().map(|digest| (*digest).to_owned()).collect(),
            size_bytes: 1 << 20,
            user: String::new(),
            pinned: false,
        };
        let text = table(&[
            image(&["r:5000/a:1", "r:5000/a:2"], &["r:5000/a@sha256:ff"]),
            image(&[], &["b@sha256:ee"]),
            image(&[], &[]),
        ])
        .render();
        assert_eq!(
            text,
            "IMAGE      TAG   IMAGE ID        SIZE\n\
             r:5000/a   1     0123456789abc   1.00 MiB\n\
             r:5000/a   2     0123456789abc   1.00 MiB\n\
             b          -     0123456789abc   1.00 MiB\n\
             -          -     0123456789abc   1.00 MiB\n"
        );
    }
}
