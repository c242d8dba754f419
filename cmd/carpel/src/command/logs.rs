//! `carpel logs`, and what else follows a container to its end.

use std::{path::PathBuf, time::Duration};

use carpel_proto::v1::{ContainerState, ContainerStatus, ContainerStatusRequest};
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::{
    client::{CallError, Client, ask},
    follow::{self, Ended, FollowError, Printer, Timestamps, Until},
    output,
    resolve::Census,
};

/// Show what a container wrote
///
/// Its standard output comes to standard output and its standard error to standard error. The log is a file
/// on this node; a part of it that was rotated away is not shown.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel logs web                    everything so far
  carpel logs -f --tail 20 web       the last 20 lines, then what comes, until the container ends
  carpel logs -t web/sidecar         with times; a pod of several containers needs the container's name")]
pub(crate) struct Args {
    /// Wait for more until the container ends
    #[arg(long, short)]
    follow: bool,
    /// Only the last so many lines
    #[arg(long, short = 'n', value_name = "LINES")]
    tail: Option<u64>,
    /// Begin each line with the time it was written
    #[arg(long, short)]
    timestamps: bool,
    /// Container, or pod with a single container
    container: String,
}

/// How often the state of a container is asked for while it runs: soon at first, for short commands.
const ASK_EVERY: [Duration; 5] = [
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
];

/// How long a daemon may be away while a container is followed: containers outlive its restart.
const RESTART_LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn execute(client: &Client, args: &Args) -> anyhow::Result<u8> {
    let census = Census::take(client).await?;
    let container = census.container(&args.container)?;
    let Some(status) = container_status(client, &container.id).await? else {
        anyhow::bail!("container {} was removed just now", container.id);
    };
    if status.log_path.is_empty() {
        anyhow::bail!(
            "the runtime keeps no log of container {}: it was created without a log path",
            status.id
        );
    }
    let timestamps = if args.timestamps { Timestamps::Shown } else { Timestamps::Hidden };
    let log = Log { path: status.log_path.into(), tail: args.tail, timestamps };
    if !args.follow {
        return log.copy(Until::EndOfFile).await.map(|()| 0);
    }
    let ended = Ended::default();
    let copy = log.copy(Until::Ended(ended.clone()));
    tokio::pin!(copy);
    tokio::select! {
        copied = &mut copy => return copied.map(|()| 0),
        exited = wait_for_exit(client, &status.id) => {
            ended.set();
            exited?;
        }
    }
    copy.await.map(|()| 0)
}

/// A container's log, and how it is to be shown.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    pub(crate) tail: Option<u64>,
    pub(crate) timestamps: Timestamps,
}

impl Log {
    /// Copies the log to our own output. The work is on a thread of its own and goes on if this is dropped.
    pub(crate) async fn copy(self, until: Until) -> anyhow::Result<()> {
        let copied = tokio::task::spawn_blocking(move || {
            let mut printer = Printer::to_terminal(self.timestamps);
            let outcome = follow::copy(&self.path, self.tail, &until, &mut printer);
            outcome.map(|()| printer.malformed())
        });
        let malformed = copied.await?.map_err(|error: FollowError| {
            if error.is_closed_output() { output::Closed.into() } else { anyhow::Error::from(error) }
        })?;
        if malformed > 0 {
            output::say(&format!(
                "{malformed} lines of the log were left out: they are not in the CRI's format"
            ));
        }
        Ok(())
    }
}

/// The status of a container; nothing if there is none of this id.
pub(crate) async fn container_status(
    client: &Client,
    id: &str,
) -> Result<Option<ContainerStatus>, CallError> {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    match ask(format!("read the status of container {id}"), client.runtime().container_status(request)).await
    {
        Ok(answer) => Ok(answer.status),
        Err(error) if error.code() == Code::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits until the container has ended: its last status, or nothing if it was removed meanwhile.
pub(crate) async fn wait_for_exit(client: &Client, id: &str) -> Result<Option<ContainerStatus>, CallError> {
    let mut intervals = ASK_EVERY.into_iter();
    let mut every = ASK_EVERY[0];
    let mut last_answer = Instant::now();
    loop {
        match container_status(client, id).await {
            Ok(None) => return Ok(None),
            Ok(Some(status)) => {
                last_answer = Instant::now();
                match status.state() {
                    ContainerState::ContainerExited => return Ok(Some(status)),
                    ContainerState::ContainerCreated
                    | ContainerState::ContainerRunning
                    | ContainerState::ContainerUnknown => {}
                }
            }
            Err(error) if error.code() == Code::Unavailable && last_answer.elapsed() < RESTART_LIMIT => {}
            Err(error) => return Err(error),
        }
        every = intervals.next().unwrap_or(every);
        sleep(every).await;
    }
}
