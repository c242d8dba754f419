//! SPDY/3.1 as Kubernetes clients speak it (the Chromium project's "SPDY Protocol - Draft 3.1").
//!
//! The client opens all streams; the server answers each with a reply, then both send data frames, as many
//! as [`window`] lets them, and end with a FIN flag.

mod connection;
mod frame;
mod headers;
#[cfg(test)]
pub(crate) mod testing;
mod window;

pub(crate) use connection::{Connection, Stream, accept};
pub(crate) use window::Window;

/// For the fuzzer: frames, cut where the first byte says.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_frames(data: &[u8]) {
    let Some((&cut, data)) = data.split_first() else { return };
    let mut buffer = bytes::BytesMut::new();
    for piece in data.chunks(usize::from(cut) + 1) {
        buffer.extend_from_slice(piece);
        loop {
            match frame::take(&mut buffer) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// For the fuzzer: header blocks of one direction, each after a byte with its length. What is read can be
/// written, and is then read as the same.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_headers(mut data: &[u8]) {
    let (mut reader, mut writer, mut again) =
        (headers::HeaderReader::new(), headers::HeaderWriter::new(), headers::HeaderReader::new());
    while let Some((&length, rest)) = data.split_first() {
        let (block, rest) = rest.split_at(rest.len().min(usize::from(length)));
        data = rest;
        let Ok(pairs) = reader.read(block) else { return };
        let borrowed: Vec<(&str, &str)> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let Ok(written) = writer.write(&borrowed) else { return };
        match again.read(&written) {
            Ok(read) => assert_eq!(read, pairs),
            // Read in one block it was within the bound, and written it is as long.
            Err(error) => panic!("what was read cannot be read again: {error}"),
        }
    }
}
