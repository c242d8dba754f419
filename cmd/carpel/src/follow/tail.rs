//! Finds where the last lines of a log begin. A line is what the container wrote up to a newline, however
//! many partial entries it takes.

use std::{
    collections::VecDeque,
    io::{self, Read},
};

use super::CHUNK_BYTES;
use crate::log_format::{Decoder, Event, Stream, Tag};

/// More lines than this are "all"; it bounds what is remembered.
const LINES_MAX: u64 = 1 << 20;

/// Offset of the entry at which the last `lines` lines begin. Where both streams are interleaved, the rest of
/// a partial line of the other one may come along.
pub(super) fn offset(file: &mut impl Read, lines: u64) -> io::Result<u64> {
    if lines >= LINES_MAX {
        return Ok(0);
    }
    let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
    let mut starts: VecDeque<u64> = VecDeque::new();
    // Whether the last entry of each stream was partial.
    let (mut within_stdout, mut within_stderr) = (false, false);
    let mut decoder = Decoder::new(0);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut position = 0;
    loop {
        let read = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        position += read as u64;
        decoder.feed(&chunk[..read], &mut |event| {
            let Event::Begin(header, offset) = event else { return Ok(()) };
            let within_line = match header.stream {
                Stream::Stdout => &mut within_stdout,
                Stream::Stderr => &mut within_stderr,
            };
            if !*within_line {
                starts.push_back(offset);
                if starts.len() > wanted {
                    starts.pop_front();
                }
            }
            *within_line = header.tag == Tag::Partial;
            Ok(())
        })?;
    }
    Ok(starts.front().copied().unwrap_or(position))
}
