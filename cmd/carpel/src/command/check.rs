//! `carpel check`.

use crate::{check, cli::Global};

pub(crate) use check::Args;

pub(crate) async fn execute(args: &Args, global: &Global) -> anyhow::Result<u8> {
    check::execute(args, global).await
}
