//! A session of exec or attach, over either transport: four pumps and an ending.
//!
//! ```text
//!  stdin ──▶ process ──▶ stdout, stderr         resize ──▶ terminal
//!            process ends ─▶ the rest of its output ─▶ outcome on the error stream ─▶ ends ─▶ close
//!            client goes  ─▶ everything is dropped: stdin ends, the terminal hangs up
//! ```

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    backend::{Process, Size, Terminal},
    channel::{Gone, Incoming, Outgoing, PIECE_BYTES},
    outcome::Outcome,
};

/// How long output is still awaited after the process has ended when nothing more comes: a child of it
/// may hold the pipe. What has come is sent whatever time the client takes.
const DRAIN: Duration = Duration::from_millis(500);
/// The most of a resize message, in bytes: two numbers and their names.
const RESIZE_MAX_BYTES: usize = 1024;

/// Which protocol the client speaks on the error stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorForm {
    /// A status object, also for success.
    Status,
    /// Text, and only for failures.
    Text,
}

/// Whether a client waits for a first sign of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// An empty message on a stream of each kind says that the process is there (WebSocket).
    Expected,
    /// Its streams were accepted one by one (SPDY).
    None,
}

/// The client's ends.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stdin: Option<Incoming>,
    pub(crate) stdout: Option<Outgoing>,
    pub(crate) stderr: Option<Outgoing>,
    pub(crate) resize: Option<Incoming>,
    pub(crate) error: Outgoing,
    pub(crate) error_form: ErrorForm,
    pub(crate) greeting: Greeting,
}

impl Client {
    /// Says that the process is there.
    pub(crate) async fn greet(&self) {
        if self.greeting == Greeting::Expected {
            for stream in
                [self.stdout.as_ref(), self.stderr.as_ref(), Some(&self.error)].into_iter().flatten()
            {
                // A client that has gone shows in what is read.
                let _gone = stream.send(Bytes::new()).await;
            }
        }
    }
}

/// Runs a session until the process has ended. Dropped when the client goes.
pub(crate) async fn run(client: Client, process: Process) {
    let Client { stdin, stdout, stderr, resize, error, error_form, greeting: _ } = client;
    // Aborted with this future: nothing outlives the session.
    let mut inward = JoinSet::new();
    match (stdin, process.stdin) {
        (Some(from), Some(to)) => drop(inward.spawn(feed(from, to))),
        (Some(from), None) => drop(inward.spawn(pass_over(from))),
        (None, _) => {}
    }
    match (resize, process.terminal) {
        (Some(sizes), Some(terminal)) => drop(inward.spawn(follow_size(sizes, terminal))),
        (Some(sizes), None) => drop(inward.spawn(pass_over(sizes))),
        (None, _) => {}
    }
    let mut outward = JoinSet::new();
    let ended = CancellationToken::new();
    for (from, to) in [(process.stdout, &stdout), (process.stderr, &stderr)] {
        if let (Some(from), Some(to)) = (from, to) {
            outward.spawn(pump(from, to.clone(), ended.clone()));
        }
    }
    let outcome = match process.exit.await {
        Ok(code) => Outcome::Exited(code),
        Err(error) => Outcome::Failed(error.to_string()),
    };
    ended.cancel();
    while outward.join_next().await.is_some() {}
    drop(inward);
    tell(&error, error_form, &outcome).await;
    for stream in [Some(&error), stdout.as_ref(), stderr.as_ref()].into_iter().flatten() {
        let _gone = stream.end().await;
    }
}

/// Tells how it ended.
pub(crate) async fn tell(error: &Outgoing, form: ErrorForm, outcome: &Outcome) {
    let text = match form {
        ErrorForm::Status => Some(outcome.status()),
        ErrorForm::Text => outcome.text(),
    };
    if let Some(text) = text {
        // A client that has gone does not want to know.
        let _gone = error.send(text).await;
    }
}

async fn feed(mut from: Incoming, mut to: Box<dyn AsyncWrite + Send + Unpin>) {
    while let Some(piece) = from.next().await {
        // A process that reads no more is no failure of the session.
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
    let _closed = to.shutdown().await;
}

/// Reads what is for nobody: what comes after it on the connection may be for somebody.
async fn pass_over(mut from: Incoming) {
    while from.next().await.is_some() {}
}

async fn pump(
    mut from: Box<dyn AsyncRead + Send + Unpin>,
    to: Outgoing,
    ended: CancellationToken,
) -> Result<(), Gone> {
    let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
    loop {
        buffer.reserve(PIECE_BYTES);
        let read = from.read_buf(&mut buffer);
        let read = if ended.is_cancelled() {
            tokio::time::timeout(DRAIN, read).await.unwrap_or(Ok(0))
        } else {
            tokio::select! {
                biased;
                read = read => read,
                () = ended.cancelled() => continue,
            }
        };
        match read {
            // A terminal whose processes have all gone answers with an error, a pipe with zero.
            Ok(0) | Err(_) => return Ok(()),
            Ok(_) => to.send(buffer.split().freeze()).await?,
        }
    }
}

async fn follow_size(mut sizes: Incoming, terminal: Box<dyn Terminal>) {
    let mut pending = Vec::new();
    while let Some(piece) = sizes.next().await {
        pending.extend_from_slice(&piece);
        let (last, taken) = last_size(&pending);
        pending.drain(..taken);
        if pending.len() > RESIZE_MAX_BYTES {
            tracing::info!("a streaming client's terminal sizes are none: they are no longer followed");
            return;
        }
        if let Some(size) = last
            && let Err(error) = terminal.resize(size).await
        {
            let error = &*error as &dyn std::error::Error;
            tracing::info!(error, "a terminal was not resized: its client's is no longer followed");
            return;
        }
    }
}

/// The last whole size in `text` and how much of it was read: JSON objects, one after another, which a
/// sender may cut anywhere.
fn last_size(text: &[u8]) -> (Option<Size>, usize) {
    let mut objects = serde_json::Deserializer::from_slice(text).into_iter::<serde_json::Value>();
    let (mut last, mut taken) = (None, 0);
    while let Some(Ok(object)) = objects.next() {
        taken = objects.byte_offset();
        let number = |name: &str| object.get(name)?.as_u64().and_then(|value| u16::try_from(value).ok());
        if let (Some(width), Some(height)) = (number("Width"), number("Height")) {
            last = Some(Size { width, height });
        }
    }
    (last, taken)
}

/// For the fuzzer: a resize message.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_size(text: &[u8]) {
    let (_, taken) = last_size(text);
    assert!(taken <= text.len());
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::channel::Write;

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_gets_all_output_after_the_end() {
        const BYTES: usize = 300_000;
        let (writer, mut orders) = mpsc::channel(1);
        let out = |stream| Outgoing { stream, writer: writer.clone(), window: None };
        let (mut process_out, stdout) = tokio::io::duplex(1 << 20);
        process_out.write_all(&vec![7; BYTES]).await.unwrap();
        let process = Process {
            stdin: None,
            stdout: Some(Box::new(stdout)),
            stderr: None,
            terminal: None,
            exit: Box::pin(async { Ok(0) }),
        };
        let client = Client {
            stdin: None,
            stdout: Some(out(1)),
            stderr: None,
            resize: None,
            error: out(3),
            error_form: ErrorForm::Status,
            greeting: Greeting::None,
        };
        drop(writer);
        // A child of the process holds the pipe: `process_out` stays open.
        let session = tokio::spawn(run(client, process));
        let mut received = 0;
        while let Some(order) = orders.recv().await {
            tokio::time::sleep(Duration::from_secs(10)).await;
            if let Write::Data { stream: 1, data } = order {
                received += data.len();
            }
        }
        session.await.unwrap();
        assert_eq!(received, BYTES);
        drop(process_out);
    }

    #[test]
    fn the_last_whole_size_counts() {
        let text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Height\":30}{\"Wid";
        let (size, taken) = last_size(text);
        assert_eq!(size, Some(Size { width: 100, height: 30 }));
        assert_eq!(&text[taken..], b"{\"Wid");
        assert_eq!(last_size(b"{\"Width\":99999,\"Height\":1}").0, None);
    }
}
