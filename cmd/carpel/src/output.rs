//! Standard output: data only. A reader that goes away early is no failure, and never a panic.

use std::io::{self, Write};

use serde::Serialize;

/// Whoever read standard output has closed it.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub(crate) struct Closed;

/// Standard output cannot be written: a full disk, say.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
struct WriteError(#[source] io::Error);

/// Tells the reader that left from a failure.
pub(crate) fn classify(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe { Closed.into() } else { WriteError(error).into() }
}

/// Writes `bytes` as they are.
pub(crate) fn print(bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes.as_ref()).and_then(|()| stdout.flush()).map_err(classify)
}

/// Writes one JSON value over several lines.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    print(text)
}

/// Writes one JSON value on one line, for streams of them.
pub(crate) fn print_json_line(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    print(text)
}

/// Says something to the person at the terminal. If nobody hears it, no data is lost.
pub(crate) fn say(text: &str) {
    let _unheard = io::stderr().write_all(format!("carpel: {text}\n").as_bytes());
}
