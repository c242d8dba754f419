//! Writes decoded log entries to the two streams they came from, with partial entries joined.

use std::io::{self, Write};

use crate::log_format::{Event, Stream, Tag};

/// Whether each line begins with the time it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timestamps {
    Shown,
    Hidden,
}

/// One of the two outputs.
struct Side<'a> {
    writer: Box<dyn Write + 'a>,
    /// The last entry was partial, so the next one goes on in the same line.
    within_line: bool,
}

/// Where the lines go.
pub(crate) struct Printer<'a> {
    stdout: Side<'a>,
    stderr: Side<'a>,
    timestamps: Timestamps,
    current: Stream,
    tag: Tag,
    malformed: u64,
}

impl<'a> Printer<'a> {
    pub(crate) fn new(stdout: impl Write + 'a, stderr: impl Write + 'a, timestamps: Timestamps) -> Self {
        let side = |writer| Side { writer, within_line: false };
        Self {
            stdout: side(Box::new(stdout)),
            stderr: side(Box::new(stderr)),
            timestamps,
            current: Stream::Stdout,
            tag: Tag::Full,
            malformed: 0,
        }
    }

    /// To this program's own standard output and error.
    pub(crate) fn to_terminal(timestamps: Timestamps) -> Self {
        // By lines would be a system call for each.
        let buffered = |writer: Box<dyn Write>| io::BufWriter::with_capacity(32 << 10, writer);
        Self::new(buffered(Box::new(io::stdout())), buffered(Box::new(io::stderr())), timestamps)
    }

    /// Lines that were no log entries, and were left out.
    pub(crate) fn malformed(&self) -> u64 {
        self.malformed
    }

    fn side(&mut self) -> &mut Side<'a> {
        match self.current {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    pub(crate) fn event(&mut self, event: &Event<'_>) -> io::Result<()> {
        match event {
            Event::Begin(header, _) => {
                if header.stream != self.current {
                    // On a terminal both streams are one: keep their order.
                    self.side().writer.flush()?;
                    self.current = header.stream;
                }
                self.tag = header.tag;
                let timestamps = self.timestamps;
                let side = self.side();
                if timestamps == Timestamps::Shown && !side.within_line {
                    write!(side.writer, "{} ", header.timestamp)?;
                }
                Ok(())
            }
            Event::Content(content) => self.side().writer.write_all(content),
            Event::End => {
                let within_line = self.tag == Tag::Partial;
                let side = self.side();
                side.within_line = within_line;
                if within_line { Ok(()) } else { side.writer.write_all(b"\n") }
            }
            Event::Malformed => {
                self.malformed += 1;
                Ok(())
            }
        }
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stdout.writer.flush()?;
        self.stderr.writer.flush()
    }
}
