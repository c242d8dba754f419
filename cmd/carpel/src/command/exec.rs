//! `carpel exec`.

use std::{io, io::Write};

use carpel_proto::v1::ExecSyncRequest;
use serde::Serialize;
use tonic::Code;

use crate::{
    cli::Format,
    client::{Client, wait},
    failure, output,
    resolve::Census,
};

/// The exit code of timeout(1) for a command that took too long.
const TIMED_OUT: u8 = 124;

/// Run a command in a running container
///
/// The command gets no input, and its output comes at its end (the runtime keeps at most some megabytes of
/// it). Its exit code is that of `carpel exec`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel exec web nginx -t
  carpel exec web sh -c 'ps | wc -l'        there is a shell only if the image has one
  carpel exec --timeout 5 web/sidecar /bin/probe || echo \"failed with $?\"

The exit code is 124 if the time was up, and 125 if the command could not be run at all.")]
pub(crate) struct Args {
    /// Kill the command after so many seconds; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u32,
    /// Container, or pod with a single container
    container: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecView {
    container_id: String,
    exit_code: i32,
    stdout: String,
    stderr: String,
}

pub(crate) async fn execute(client: &Client, args: Args, format: Format) -> anyhow::Result<u8> {
    let census = Census::take(client).await?;
    let id = census.container(&args.container)?.id.clone();
    let request =
        ExecSyncRequest { container_id: id.clone(), cmd: args.command, timeout: i64::from(args.timeout) };
    let what = format!("run the command in container {}", args.container);
    let answer = match wait(what, client.runtime().exec_sync(request)).await {
        Ok(answer) => answer,
        Err(error) if error.code() == Code::DeadlineExceeded => {
            failure::report(&error.into());
            return Ok(TIMED_OUT);
        }
        Err(error) => return Err(error.into()),
    };
    match format {
        Format::Table => {
            output::print(&answer.stdout)?;
            // Its own standard error may be closed: the exit code still tells.
            let _unheard = io::stderr().write_all(&answer.stderr);
        }
        Format::Json => output::print_json(&ExecView {
            container_id: id,
            exit_code: answer.exit_code,
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
        })?,
    }
    Ok(exit_code(answer.exit_code))
}

/// A container's exit code as our own; what does not fit is a failure too.
pub(crate) fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(255)
}
