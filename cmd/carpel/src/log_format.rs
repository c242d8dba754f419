//! The CRI's log format, decoded from a stream of bytes in constant memory.
//!
//! ```text
//!  2026-01-02T03:04:05.000000006Z stdout F the end of a line
//!  └────────── header ──────────┘      │   └── content: any bytes, of any length
//!                                      └ F: the line ends here;  P: it goes on in the next entry
//! ```
//!
//! After the F or P more tags may follow, divided by `:`; they are ignored, as the kubelet does
//! (k8s.io/cri-client, `pkg/logs`). Only the header is ever buffered, and its length is bounded: a file that
//! is no log costs nothing.

use std::io;

/// A time in RFC 3339 with nanoseconds and an offset (35), a stream, tags, and room for tags to come.
const HEADER_MAX_BYTES: usize = 256;

/// Where a container wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Whether an entry ends its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    Full,
    Partial,
}

/// What stands before the content of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    pub(crate) timestamp: &'a str,
    pub(crate) stream: Stream,
    pub(crate) tag: Tag,
}

/// What a decoder finds, in this order: `Begin`, any number of `Content`, `End`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// An entry begins; the number is its offset in the input.
    Begin(Header<'a>, u64),
    /// Some of the entry's content.
    Content(&'a [u8]),
    /// The entry's newline.
    End,
    /// A line that is no entry, once for each; it is skipped.
    Malformed,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Header,
    Content,
    /// The rest of a malformed line.
    Skip,
}

/// Takes bytes in pieces of any size. For input that starts at an entry.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    header: Vec<u8>,
    /// Offset of the next byte that is fed.
    offset: u64,
    entry_offset: u64,
}

impl Decoder {
    /// A decoder of input whose first byte has this offset.
    pub(crate) fn new(offset: u64) -> Self {
        Self { state: State::Header, header: Vec::new(), offset, entry_offset: offset }
    }

    /// Decodes `bytes`, and gives `sink` what is in them.
    ///
    /// # Errors
    /// Those of `sink`, after which the decoder must not be used.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        sink: &mut dyn FnMut(Event<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = match self.state {
                State::Header => self.feed_header(rest, sink)?,
                State::Content | State::Skip => self.feed_content(rest, sink)?,
            };
            self.offset += used as u64;
            rest = &rest[used..];
        }
        Ok(())
    }

    fn feed_header(
        &mut self,
        bytes: &[u8],
        sink: &mut dyn FnMut(Event<'_>) -> io::Result<()>,
    ) -> io::Result<usize> {
        let mut spaces = self.header.iter().filter(|&&b| b == b' ').count();
        for (index, &byte) in bytes.iter().enumerate() {
            if byte == b'\n' {
                // An entry without content may lack the blank after its tag.
                self.begin(sink)?;
                if self.state == State::Content {
                    sink(Event::End)?;
                }
                self.next_entry(index + 1);
                return Ok(index + 1);
            }
            if byte == b' ' {
                spaces += 1;
                if spaces == 3 {
                    self.begin(sink)?;
                    return Ok(index + 1);
                }
            }
            self.header.push(byte);
            if self.header.len() > HEADER_MAX_BYTES {
                self.state = State::Skip;
                sink(Event::Malformed)?;
                return Ok(index + 1);
            }
        }
        Ok(bytes.len())
    }

    fn begin(&mut self, sink: &mut dyn FnMut(Event<'_>) -> io::Result<()>) -> io::Result<()> {
        if let Some(header) = parse_header(&self.header) {
            self.state = State::Content;
            sink(Event::Begin(header, self.entry_offset))
        } else {
            self.state = State::Skip;
            sink(Event::Malformed)
        }
    }

    fn feed_content(
        &mut self,
        bytes: &[u8],
        sink: &mut dyn FnMut(Event<'_>) -> io::Result<()>,
    ) -> io::Result<usize> {
        let end = bytes.iter().position(|&b| b == b'\n');
        let content = &bytes[..end.unwrap_or(bytes.len())];
        if self.state == State::Content {
            if !content.is_empty() {
                sink(Event::Content(content))?;
            }
            if end.is_some() {
                sink(Event::End)?;
            }
        }
        let used = end.map_or(bytes.len(), |end| end + 1);
        if end.is_some() {
            self.next_entry(used);
        }
        Ok(used)
    }

    fn next_entry(&mut self, used: usize) {
        self.state = State::Header;
        self.header.clear();
        self.entry_offset = self.offset + used as u64;
    }
}

/// Reads `TIME STREAM TAG[:TAG…]`.
fn parse_header(header: &[u8]) -> Option<Header<'_>> {
    let text = std::str::from_utf8(header).ok()?;
    let mut words = text.split(' ');
    let (timestamp, stream, tags) = (words.next()?, words.next()?, words.next()?);
    let stream = match stream {
        "stdout" => Stream::Stdout,
        "stderr" => Stream::Stderr,
        _ => return None,
    };
    let tag = match tags.split(':').next()? {
        "F" => Tag::Full,
        "P" => Tag::Partial,
        _ => return None,
    };
    is_timestamp(timestamp).then_some(Header { timestamp, stream, tag })
}

/// The shape of RFC 3339; a whole check would cost more than all the rest of the decoding.
fn is_timestamp(text: &str) -> bool {
    let bytes = text.as_bytes();
    (20..=35).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_digit() || b"-:.+TZ".contains(b))
        && bytes[4] == b'-'
        && bytes[10] == b'T'
        && bytes[13] == b':'
}

#[cfg(test)]
mod tests;
