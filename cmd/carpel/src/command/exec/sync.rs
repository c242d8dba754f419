//! `carpel exec` by the call that answers when the command has ended.

use std::{io, io::Write};

use carpel_proto::v1::ExecSyncRequest;
use serde::Serialize;
use tonic::Code;

use super::{Args, exit_code};
use crate::{
    cli::Format,
    client::{Client, wait},
    failure, output,
};

/// The exit code of timeout(1) for a command that took too long.
const TIMED_OUT: u8 = 124;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecView {
    container_id: String,
    exit_code: i32,
    stdout: String,
    stderr: String,
}

pub(super) async fn execute(client: &Client, id: String, args: Args, format: Format) -> anyhow::Result<u8> {
    let request = ExecSyncRequest {
        container_id: id.clone(),
        cmd: args.command,
        timeout: i64::from(args.timeout.unwrap_or(0)),
    };
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
