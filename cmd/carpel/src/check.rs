//! stub
/// Is this node fit to run pods?
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  carpel check")]
pub(crate) struct Args {}
pub(crate) async fn execute(_: &Args, _: &crate::cli::Global) -> anyhow::Result<u8> {
    anyhow::bail!("not yet")
}
