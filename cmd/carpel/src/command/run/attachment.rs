//! `carpel run -i` and `-it`: our input, or our terminal, for the new container.

use carpel_proto::v1::AttachRequest;

use super::{Args, Workload, attached};
use crate::{
    client::{Client, ask},
    command::{
        exec::signal_code,
        logs::wait_for_exit,
        stop::{GRACE_S, stop_container},
    },
    output,
    stream::{
        self, Channels, DetachKeys, StreamError, TlsArgs,
        session::{self, Ending, Local},
    },
};

/// What of ours the container is to have.
#[derive(Debug)]
pub(super) enum Input {
    Nothing,
    /// Our standard input; the output comes from the log.
    Stdin,
    /// Our terminal.
    Terminal(DetachKeys),
}

/// A container that has it.
#[derive(Debug)]
pub(super) enum Attachment {
    Input(Channels),
    Terminal(Channels, DetachKeys),
}

impl Input {
    pub(super) fn of(args: &Args) -> Result<Input, StreamError> {
        if args.detach {
            return Ok(Input::Nothing);
        }
        let process = &args.process;
        match Local::of(process.interactive, process.tty, process.detach_keys.clone())? {
            Local::Output { .. } => Ok(Input::Nothing),
            Local::Streams => Ok(Input::Stdin),
            Local::Terminal(keys) => Ok(Input::Terminal(keys)),
        }
    }

    /// Joins a container that has not started, so that its first words are heard. Runtimes other than Carpel
    /// refuse that, and are asked again after the start.
    pub(super) async fn join_early(
        &self,
        client: &Client,
        tls: &TlsArgs,
        container: &str,
    ) -> Option<Attachment> {
        self.join(client, tls, container).await.unwrap_or(None)
    }

    /// Joins a container.
    pub(super) async fn join(
        &self,
        client: &Client,
        tls: &TlsArgs,
        container: &str,
    ) -> anyhow::Result<Option<Attachment>> {
        let tty = match self {
            Input::Nothing => return Ok(None),
            Input::Stdin => false,
            Input::Terminal(_) => true,
        };
        let request = AttachRequest {
            container_id: container.to_owned(),
            stdin: true,
            tty,
            stdout: tty,
            stderr: false,
        };
        let answer = ask("attach to the container", client.runtime().attach(request)).await?;
        let channels = stream::open(client, tls, &answer.url).await?.ready().await?;
        Ok(Some(match self {
            Input::Terminal(keys) => Attachment::Terminal(channels, keys.clone()),
            Input::Nothing | Input::Stdin => Attachment::Input(channels),
        }))
    }
}

/// Is the container's terminal until it ends. `None`: the keys were pressed that leave it.
pub(super) async fn sit_at(
    client: &Client,
    workload: &Workload,
    channels: Channels,
    keys: DetachKeys,
) -> anyhow::Result<Option<u8>> {
    match session::run(channels, Local::Terminal(keys)).await {
        Ok(Ending::Detached) => Ok(None),
        Ok(Ending::Exited(_)) => {
            Ok(Some(attached::code(wait_for_exit(client, &workload.container_id).await?)))
        }
        Ok(Ending::Signalled(number)) => {
            stop_container(client, &workload.container_id, GRACE_S).await?;
            Ok(Some(signal_code(number)))
        }
        Err(error) => {
            output::say("the terminal's session broke off: the container is stopped");
            stop_container(client, &workload.container_id, GRACE_S).await?;
            Err(error)
        }
    }
}
