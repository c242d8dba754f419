//! A container's log in the format of the CRI.
//!
//! ```text
//!  2026-11-21T05:19:59.000000042Z stdout F the whole line
//!  2026-11-21T05:19:59.000000042Z stdout P the first 16384 bytes of a longer one
//!  2026-11-21T05:19:59.000000042Z stdout F and its rest
//! ```
//!
//! Only whole records are ever written, so that the file can be changed for another one between any
//! two writes, and a disk that fills up in the middle of one has it cut off again.
//!
//! Output that ends without a newline is a `P` record: the kubelet adds no newline of its own to it,
//! and `kubectl logs` shows the very bytes (containerd writes the same).
//!
//! A disk that refuses stops nobody: output is read on, what could not be written is counted, and a
//! record says how much it was as soon as one can be written.

mod file;
mod record;

use std::path::Path;

pub use file::OpenError;
use file::{Batch, LogFile};
use record::Header;

/// A line longer than this is split, if the daemon does not say otherwise.
pub const LINE_MAX_BYTES_DEFAULT: usize = 16 << 10;
/// What the daemon may choose: the partial line is kept in memory.
pub const LINE_MAX_BYTES_MAX: usize = 256 << 10;
/// Smaller than this makes records of more header than content.
pub const LINE_MAX_BYTES_MIN: usize = 128;

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// An open log.
#[derive(Debug)]
pub struct Log {
    file: LogFile,
    line_max_bytes: usize,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    lost: Option<Lost>,
}

/// Output that could not be written.
#[derive(Debug, Clone, Copy)]
struct Lost {
    bytes: u64,
    errno: rustix::io::Errno,
}

impl Log {
    /// Opens the file, making it and its folder if they are absent. `line_max_bytes` of zero is
    /// [`LINE_MAX_BYTES_DEFAULT`]; others are held within the bounds of this module.
    ///
    /// # Errors
    /// The path is not absolute and plain, or the file cannot be opened.
    pub fn open(path: &Path, line_max_bytes: usize) -> Result<Log, OpenError> {
        let line_max_bytes = match line_max_bytes {
            0 => LINE_MAX_BYTES_DEFAULT,
            wanted => wanted.clamp(LINE_MAX_BYTES_MIN, LINE_MAX_BYTES_MAX),
        };
        let file = LogFile::open(path)?;
        Ok(Log { file, line_max_bytes, stdout: Vec::new(), stderr: Vec::new(), lost: None })
    }

    /// Opens the path anew, for rotation; the next record goes there.
    ///
    /// # Errors
    /// As [`Log::open`]; the old file then stays in use.
    pub fn reopen(&mut self) -> Result<(), OpenError> {
        self.file.reopen()
    }

    /// Takes output: whole lines are written, what is behind the last newline waits for the rest.
    pub fn append(&mut self, stream: Stream, bytes: &[u8], now_ns: i64) {
        if !self.tell_loss(now_ns) {
            self.count(stream, bytes);
            return;
        }
        let mut carry = std::mem::take(self.carry(stream));
        let full = Header::new(now_ns, stream, true);
        let partial = Header::new(now_ns, stream, false);
        let mut out = Batch::new(&self.file);
        let mut head: &[u8] = &carry;
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|b| *b == b'\n') {
            let line = split(&mut out, &partial, head, &rest[..at], self.line_max_bytes);
            out.push(&full, line);
            head = &[];
            rest = &rest[at + 1..];
        }
        let (head, rest) = split(&mut out, &partial, head, rest, self.line_max_bytes);
        let failed = out.finish();
        // Both may borrow from the carry that they become.
        let mut kept = Vec::new();
        if head.len() == carry.len() && !carry.is_empty() {
            carry.extend_from_slice(rest);
            kept = carry;
        } else {
            kept.reserve_exact(head.len() + rest.len());
            kept.extend_from_slice(head);
            kept.extend_from_slice(rest);
        }
        *self.carry(stream) = kept;
        self.note(failed);
    }

    /// Output of this stream is at its end: what waits for a newline is written as it is.
    pub fn end(&mut self, stream: Stream, now_ns: i64) {
        let carry = std::mem::take(self.carry(stream));
        if !self.tell_loss(now_ns) {
            self.count(stream, &carry);
            return;
        }
        if carry.is_empty() {
            return;
        }
        let partial = Header::new(now_ns, stream, false);
        let mut out = Batch::new(&self.file);
        out.push(&partial, (&carry, &[]));
        let failed = out.finish();
        self.note(failed);
    }

    fn carry(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Writes a record about what was lost, if anything was. `false`: writing does not work still.
    fn tell_loss(&mut self, now_ns: i64) -> bool {
        let Some(lost) = self.lost else { return true };
        let text = format!("carpel: {} bytes of output are lost here: {}", lost.bytes, lost.errno);
        let header = Header::new(now_ns, Stream::Stderr, true);
        let mut out = Batch::new(&self.file);
        out.push(&header, (text.as_bytes(), &[]));
        match out.finish() {
            None => {
                self.lost = None;
                true
            }
            Some(_) => false,
        }
    }

    /// Counts output that is not even tried, with the line that it belongs to.
    fn count(&mut self, stream: Stream, bytes: &[u8]) {
        let carried = std::mem::take(self.carry(stream)).len();
        if let Some(lost) = &mut self.lost {
            lost.bytes = lost.bytes.saturating_add(bytes.len() as u64).saturating_add(carried as u64);
        }
    }

    fn note(&mut self, failed: Option<file::Failed>) {
        let Some(failed) = failed else { return };
        let before = self.lost.map_or(0, |lost| lost.bytes);
        self.lost = Some(Lost { bytes: before.saturating_add(failed.lost_bytes), errno: failed.errno });
    }
}

/// Writes `P` records off the front of a line (in two pieces) until the rest fits into one record.
fn split<'head: 'a, 'tail: 'a, 'a>(
    out: &mut Batch<'a>,
    partial: &'a Header,
    head: &'head [u8],
    tail: &'tail [u8],
    max_bytes: usize,
) -> (&'head [u8], &'tail [u8]) {
    let (mut head, mut tail) = (head, tail);
    while head.len() + tail.len() > max_bytes {
        let from_head = head.len().min(max_bytes);
        let (first, head_rest) = head.split_at(from_head);
        let (second, tail_rest) = tail.split_at(max_bytes - from_head);
        out.push(partial, (first, second));
        (head, tail) = (head_rest, tail_rest);
    }
    (head, tail)
}

#[cfg(test)]
mod tests;
