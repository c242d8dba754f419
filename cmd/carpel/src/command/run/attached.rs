//! `carpel run` without -d: from the start of the container to its exit.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Context;
use carpel_proto::v1::ContainerStatus;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};

use super::{Workload, quietly};
use crate::{
    client::Client,
    command::{
        exec::exit_code,
        logs::{Log, wait_for_exit},
        stop::{GRACE_S, stop_container},
    },
    follow::{Ended, Timestamps, Until},
    output,
    stream::{Channels, session},
};

/// Exit code after an interrupt that came before the container ran: 128 + SIGINT.
pub(super) const INTERRUPTED: u8 = 130;

/// Ctrl-C and SIGTERM, from the first moment on: whatever they hit is taken back in order.
pub(super) struct Interrupts {
    seen: Arc<AtomicBool>,
    signals: mpsc::Receiver<()>,
}

impl Interrupts {
    pub(super) fn listen() -> anyhow::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let seen = Arc::new(AtomicBool::new(false));
        let (sender, signals) = mpsc::channel(4);
        let flag = seen.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                flag.store(true, Ordering::Release);
                // A full channel holds enough of them already.
                if let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(()) {
                    return;
                }
            }
        });
        Ok(Self { seen, signals })
    }

    /// Whether there was one.
    pub(super) fn seen(&self) -> bool {
        self.seen.load(Ordering::Acquire)
    }

    /// The next one.
    pub(super) async fn next(&mut self) {
        if self.signals.recv().await.is_none() {
            std::future::pending().await
        }
    }
}

/// Shows what the container writes until it ends, stops it when asked to, and returns its exit code. Output comes
/// from the log, which has all of it however slow we are; `input` is for our standard input.
pub(super) async fn attend(
    client: &Client,
    workload: &Workload,
    input: Option<Channels>,
    interrupts: &mut Interrupts,
) -> anyhow::Result<u8> {
    // Ends with this function.
    let mut feeding = JoinSet::new();
    if let Some(channels) = input {
        feeding.spawn(session::feed(channels));
    }
    let ended = Ended::default();
    let log = Log { path: workload.log_path.clone(), tail: None, timestamps: Timestamps::Hidden };
    let mut copy = tokio::spawn(log.copy(Until::Ended(ended.clone())));
    let mut copied = None;
    let exited = {
        let exit = wait_for_exit(client, &workload.container_id);
        tokio::pin!(exit);
        let mut graces = [GRACE_S, 0].into_iter();
        loop {
            tokio::select! {
                exited = &mut exit => break exited,
                () = interrupts.next() => {
                    match graces.next() {
                        Some(grace_s) => stop_aside(client, workload, grace_s),
                        None => anyhow::bail!("given up: container {} does not end", workload.container_id),
                    }
                }
                // Whoever read our output has gone, or the log cannot be read: nobody watches any more.
                outcome = &mut copy, if copied.is_none() => {
                    copied = Some(outcome?);
                    stop_aside(client, workload, GRACE_S);
                }
            }
        }
    };
    ended.set();
    match copied {
        Some(outcome) => outcome?,
        None => copy.await??,
    }
    Ok(code(exited?))
}

/// Asks the container to end; that it did is seen by who waits for its exit.
fn stop_aside(client: &Client, workload: &Workload, grace_s: u32) {
    let (client, id) = (client.clone(), workload.container_id.clone());
    tokio::spawn(quietly(async move { Ok(stop_container(&client, &id, grace_s).await?) }));
}

pub(super) fn code(status: Option<ContainerStatus>) -> u8 {
    let Some(status) = status else {
        output::say("the container was removed by someone else before it ended");
        return 137;
    };
    if status.reason == "OOMKilled" {
        output::say("the container was killed: it used more memory than its limit (--memory)");
    }
    exit_code(status.exit_code)
}
