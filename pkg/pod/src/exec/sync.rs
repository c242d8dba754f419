//! A command run to its end, its output kept in memory.
//!
//! ```text
//!  Exec ──▶ reading both streams, waiting for the exit ──▶ exit ──▶ draining ──▶ output
//!    └────────── the time is over, or the caller has gone ──▶ KillExec
//! ```
//!
//! The time covers all of it. What a command wrote is in its pipes when it ends; a child of it that
//! keeps them open is waited for only as long as it goes on writing, and [`DRAIN_MAX`] at most.
//!
//! Each stream is kept up to the limit while it is read, and both together when they are given back:
//! they travel in one message.

use std::{io, sync::Arc, time::Duration};

use carpel_shim_api::message::{Exec, ExecPlan};
use tokio::{
    io::AsyncReadExt,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{ExecError, ExecOutput, KillOnDrop};
use crate::{
    ContainerId,
    shim::{ExecExit, Execed, Shim, ShimError},
    stdio::StdioReader,
};

/// How long after a command's end its streams are read on when nothing more comes.
const DRAIN_IDLE: Duration = Duration::from_millis(50);
/// How long after a command's end its streams are read on in any case.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// How long the end of a killed command is waited for.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// Without a timeout, how far away the deadline is: CRI knows no longer call.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Bytes read at once.
const READ_BYTES: usize = 16 << 10;
/// Such reads at the end: a pipe holds no more than 1 MiB, pipe(7), and its writer may write on.
const REST_READS_MAX: usize = 64;

/// Runs a command. See [`crate::Pods::exec_sync`].
pub(crate) async fn run(
    shim: Arc<Shim>,
    id: ContainerId,
    command: Vec<String>,
    timeout: Option<Duration>,
    output_max_bytes: usize,
) -> Result<ExecOutput, ExecError> {
    let deadline = Instant::now() + timeout.unwrap_or(FOREVER).min(FOREVER);
    let exec_id = super::new_exec_id();
    let plan = ExecPlan { args: super::args(command), terminal: false, process: None };
    let exec = Exec {
        container_id: id.to_string(),
        exec_id: exec_id.clone(),
        plan,
        stdin: false,
        stdout: true,
        stderr: true,
    };
    // If the caller goes away from here on, the command goes too.
    let mut guard = KillOnDrop::new(&shim, &id, exec_id);
    let timed_out = || ExecError::Timeout { id: id.clone(), timeout: timeout.unwrap_or_default() };
    let started = timeout_at(deadline, shim.exec(exec, FOREVER)).await;
    let execed = match started {
        Ok(Ok(execed)) => execed,
        Ok(Err(source)) => {
            // What was refused has left nothing; what is unanswered may still start.
            guard.armed = matches!(source, ShimError::Timeout { .. });
            return Err(ExecError::Shim { id, source });
        }
        Err(_) => return Err(timed_out()),
    };
    let mut collector = Collector::new(execed, output_max_bytes)
        .map_err(|source| ExecError::Io { id: id.clone(), source })?;
    match collector.collect(deadline).await {
        Ok(Some(output)) => {
            guard.armed = false;
            Ok(output)
        }
        Ok(None) => {
            guard.armed = false;
            if let Err(err) = shim.kill_exec(&id, &guard.exec_id).await {
                tracing::warn!(container_id = %id, err = &err as &dyn std::error::Error, "killing a command failed");
            }
            // Whoever asked may look for it at once: it should be gone then.
            let _ = tokio::time::timeout(KILL_WAIT, collector.exit.wait()).await;
            Err(timed_out())
        }
        Err(CollectError::Shim(source)) => Err(ExecError::Shim { id, source }),
        Err(CollectError::Io(source)) => Err(ExecError::Io { id, source }),
    }
}

enum CollectError {
    Shim(ShimError),
    Io(io::Error),
}

struct Collector {
    stdout: Sink,
    stderr: Sink,
    max_bytes: usize,
    exit: ExecExit,
}

/// The first bytes of a stream; the rest is read and dropped, so that the writer is not held up.
struct Sink {
    reader: Option<StdioReader>,
    kept: Vec<u8>,
    max_bytes: usize,
    buffer: Vec<u8>,
}

impl Collector {
    fn new(execed: Execed, max_bytes: usize) -> io::Result<Self> {
        let mut fds = execed.fds.into_iter();
        let mut sink = || {
            let fd = fds.next().ok_or(io::ErrorKind::UnexpectedEof)?;
            let reader = Some(StdioReader::new(fd)?);
            io::Result::Ok(Sink { reader, kept: Vec::new(), max_bytes, buffer: Vec::new() })
        };
        Ok(Self { stdout: sink()?, stderr: sink()?, max_bytes, exit: execed.exit })
    }

    /// The output, or `None` if the deadline came first.
    async fn collect(&mut self, deadline: Instant) -> Result<Option<ExecOutput>, CollectError> {
        let mut exit_code = None;
        let mut drain_end = deadline;
        // Looked at here, for a stream that never pauses would always come first below.
        while Instant::now() < drain_end && (exit_code.is_none() || self.is_open()) {
            let open = self.is_open();
            tokio::select! {
                // What can be read is read, however late this task comes to it.
                biased;
                code = self.exit.wait(), if exit_code.is_none() => {
                    exit_code = Some(code.map_err(CollectError::Shim)?);
                    drain_end = deadline.min(Instant::now() + DRAIN_MAX);
                }
                read = read_either(&mut self.stdout, &mut self.stderr), if open => {
                    read.map_err(CollectError::Io)?;
                }
                () = sleep(DRAIN_IDLE), if exit_code.is_some() => break,
                () = sleep_until(drain_end) => break,
            }
        }
        let Some(exit_code) = exit_code else { return Ok(None) };
        self.stdout.read_rest().and_then(|()| self.stderr.read_rest()).map_err(CollectError::Io)?;
        Ok(Some(self.output(exit_code)))
    }

    fn is_open(&self) -> bool {
        self.stdout.reader.is_some() || self.stderr.reader.is_some()
    }

    fn output(&mut self, exit_code: i32) -> ExecOutput {
        let mut stdout = std::mem::take(&mut self.stdout.kept);
        let mut stderr = std::mem::take(&mut self.stderr.kept);
        fit(&mut stdout, &mut stderr, self.max_bytes);
        ExecOutput { stdout, stderr, exit_code }
    }
}

/// Cuts the longer one so that both together are within the limit, and both where that is not enough.
fn fit(one: &mut Vec<u8>, other: &mut Vec<u8>, max_bytes: usize) {
    let (longer, shorter) = if one.len() >= other.len() { (one, other) } else { (other, one) };
    if longer.len() + shorter.len() > max_bytes {
        // With half for the shorter one nothing is left to cut of it in the usual case: a few words.
        shorter.truncate(shorter.len().min(max_bytes / 2));
        longer.truncate(max_bytes - shorter.len());
    }
}

/// Reads once from any of those that are open; one must be. Neither comes first always.
async fn read_either(one: &mut Sink, other: &mut Sink) -> io::Result<()> {
    let (one_open, other_open) = (one.reader.is_some(), other.reader.is_some());
    tokio::select! {
        read = one.read(), if one_open => read,
        read = other.read(), if other_open => read,
        else => Ok(()),
    }
}

impl Sink {
    /// Reads once; at the end of the stream the reader goes.
    async fn read(&mut self) -> io::Result<()> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        self.buffer.resize(READ_BYTES, 0);
        let count = reader.read(&mut self.buffer).await?;
        if count == 0 {
            self.reader = None;
        }
        self.keep(count);
        Ok(())
    }

    /// Reads what is there now, without waiting.
    fn read_rest(&mut self) -> io::Result<()> {
        self.buffer.resize(READ_BYTES, 0);
        for _ in 0..REST_READS_MAX {
            let Some(reader) = &mut self.reader else { return Ok(()) };
            match reader.read_now(&mut self.buffer)? {
                None => return Ok(()),
                Some(0) => self.reader = None,
                Some(count) => self.keep(count),
            }
        }
        Ok(())
    }

    fn keep(&mut self, count: usize) {
        let keep = count.min(self.max_bytes.saturating_sub(self.kept.len()));
        self.kept.extend_from_slice(&self.buffer[..keep]);
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::PipeFlags;

    use super::*;

    #[test]
    fn both_streams_fit_together_and_the_short_one_stays_whole() {
        for (stdout, stderr, expected) in [
            (10, 10, (10, 10)),
            (100, 5, (15, 5)),
            (5, 100, (5, 15)),
            (100, 100, (10, 10)),
            (20, 0, (20, 0)),
            (20, 1, (19, 1)),
        ] {
            let (mut stdout, mut stderr) = (vec![b'o'; stdout], vec![b'e'; stderr]);
            fit(&mut stdout, &mut stderr, 20);
            assert_eq!((stdout.len(), stderr.len()), expected);
        }
    }

    #[tokio::test]
    async fn what_is_in_the_pipe_is_read_without_waiting() {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let reader = Some(StdioReader::new(reader).unwrap());
        let mut sink = Sink { reader, kept: Vec::new(), max_bytes: 4, buffer: Vec::new() };
        sink.read_rest().unwrap();
        assert!(sink.kept.is_empty() && sink.reader.is_some());
        rustix::io::write(&writer, b"last words").unwrap();
        sink.read_rest().unwrap();
        assert_eq!(sink.kept, b"last");
        drop(writer);
        // A child that another test starts just now holds the writer too, until it executes.
        for _ in 0..1000 {
            sink.read_rest().unwrap();
            if sink.reader.is_none() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("the end of the stream is not seen");
    }
}
