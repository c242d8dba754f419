//! `carpel import`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use carpel_proto::operator::ImportImageRequest;
use serde::Serialize;
use tonic::Code;

use crate::{
    cli::Format,
    client::{Client, wait},
    output,
    table::{Table, short_id},
};

/// Take in the images of an archive
///
/// The archive is an OCI layout or what `docker save` writes, as tar, plain or compressed. CRI has no call
/// for it: this works with Carpel only.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel import app.tar
  docker save app:1 | gzip > app.tar.gz && carpel import app.tar.gz
  skopeo copy docker://registry.example/app:1 oci-archive:app.tar && carpel import app.tar")]
pub(crate) struct Args {
    /// Archive on this node
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ImportedView {
    id: String,
    tags: Vec<String>,
}

pub(crate) async fn execute(client: &Client, args: &Args, format: Format) -> anyhow::Result<u8> {
    let path = absolute(&args.file)?;
    let request = ImportImageRequest { path };
    let call = wait(format!("import {}", args.file.display()), client.operator().import_image(request)).await;
    let answer = match call {
        Err(error) if error.code() == Code::Unimplemented => {
            return Err(anyhow::Error::from(error).context("only Carpel imports archives"));
        }
        answer => answer?,
    };
    let images: Vec<ImportedView> =
        answer.images.into_iter().map(|image| ImportedView { id: image.id, tags: image.tags }).collect();
    match format {
        Format::Table => {
            let mut table = Table::new(["IMAGE ID", "TAGS"]);
            for image in &images {
                table.row([short_id(&image.id), image.tags.join(" ")]);
            }
            output::print(table.render())?;
        }
        Format::Json => output::print_json(&images)?,
    }
    Ok(0)
}

/// The path as the daemon must know it; it stands in another directory than we do.
fn absolute(file: &Path) -> anyhow::Result<String> {
    // Checked here, because a missing file is best told by the name that was typed.
    let path = file.canonicalize().with_context(|| format!("cannot open {}", file.display()))?;
    anyhow::ensure!(path.is_file(), "{} is not a file", file.display());
    match path.into_os_string().into_string() {
        Ok(path) => Ok(path),
        Err(path) => anyhow::bail!("the path {path:?} is not UTF-8: rename or move the archive"),
    }
}
