//! Frames, sans-IO (draft 3.1, sections 2.2 and 2.6).
//!
//! ```text
//!  control  1│version:15│type:16 │ flags:8│length:24 │ payload
//!  data     0│stream:31          │ flags:8│length:24 │ payload
//! ```

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

/// The largest data frame that is taken; larger ones end the connection.
pub(super) const DATA_MAX_BYTES: usize = 1 << 20;
/// The largest control frame that is taken.
pub(super) const CONTROL_MAX_BYTES: usize = 64 << 10;
/// The protocol's version number in control frames.
const VERSION: u16 = 3;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// The setting that says what the windows of streams begin with.
const INITIAL_WINDOW_SIZE: u32 = 7;

/// The flag that ends a direction of a stream.
const FIN: u8 = 1;

/// `RST_STREAM`: the frame is for a stream that is not open.
pub(super) const INVALID_STREAM: u32 = 2;
/// `RST_STREAM`: no more streams are taken.
pub(super) const REFUSED_STREAM: u32 = 3;
/// `RST_STREAM`: a window was opened too wide.
pub(super) const FLOW_CONTROL_ERROR: u32 = 7;

/// A frame from the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A new stream, its header block still compressed.
    Open { stream: u32, block: Bytes, fin: bool },
    /// A piece of a stream.
    Data { stream: u32, data: Bytes, fin: bool },
    /// More headers, or a reply to a stream of ours: the block must be read for the compression's state.
    Headers { block: Bytes },
    /// A stream is broken off.
    Reset { stream: u32 },
    /// To be sent back as it is.
    Ping { id: u32 },
    /// The client opens no more streams.
    GoAway,
    /// What the windows of streams begin with, in bytes.
    InitialWindow { bytes: u32 },
    /// The client takes so many bytes more of a stream, or of stream 0: of all together.
    Window { stream: u32, bytes: u32 },
    /// Nothing to do for us.
    Ignored,
}

/// Why bytes are no frame.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum FrameError {
    #[error("a frame of {0} bytes is over the limit")]
    TooLong(usize),
    #[error("SPDY version {0} is not spoken here")]
    Version(u16),
    #[error("a control frame of type {kind} with {length} bytes is cut short")]
    Short { kind: u16, length: usize },
}

/// Takes the next whole frame off `buffer`; `None` if more bytes are needed.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(&[a, b, c, d, flags, l0, l1, l2]) = buffer.first_chunk::<8>() else { return Ok(None) };
    let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
    let control = a & 0x80 != 0;
    if length > if control { CONTROL_MAX_BYTES } else { DATA_MAX_BYTES } {
        return Err(FrameError::TooLong(length));
    }
    if buffer.len() < 8 + length {
        return Ok(None);
    }
    buffer.advance(8);
    let payload = buffer.split_to(length).freeze();
    let fin = flags & FIN != 0;
    if !control {
        let stream = u32::from_be_bytes([a, b, c, d]);
        return Ok(Some(Frame::Data { stream, data: payload, fin }));
    }
    let version = u16::from_be_bytes([a & 0x7f, b]);
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    control_frame(u16::from_be_bytes([c, d]), fin, payload).map(Some)
}

fn control_frame(kind: u16, fin: bool, mut payload: Bytes) -> Result<Frame, FrameError> {
    let length = payload.len();
    let mut number = || {
        if payload.len() < 4 { Err(FrameError::Short { kind, length }) } else { Ok(payload.get_u32()) }
    };
    match kind {
        SYN_STREAM => {
            let stream = number()? & 0x7fff_ffff;
            // The stream that this one belongs to, its priority and credential slot: of no use here.
            number()?;
            if payload.len() < 2 {
                return Err(FrameError::Short { kind, length });
            }
            payload.advance(2);
            Ok(Frame::Open { stream, block: payload, fin })
        }
        SYN_REPLY | HEADERS => {
            number()?;
            Ok(Frame::Headers { block: payload })
        }
        RST_STREAM => Ok(Frame::Reset { stream: number()? & 0x7fff_ffff }),
        PING => Ok(Frame::Ping { id: number()? }),
        GOAWAY => Ok(Frame::GoAway),
        SETTINGS => {
            let short = FrameError::Short { kind, length };
            let count = number()? as usize;
            if count > payload.len() / 8 {
                return Err(short);
            }
            Ok(initial_window(&payload[..count * 8])
                .map_or(Frame::Ignored, |bytes| Frame::InitialWindow { bytes }))
        }
        WINDOW_UPDATE => {
            Ok(Frame::Window { stream: number()? & 0x7fff_ffff, bytes: number()? & 0x7fff_ffff })
        }
        // Section 2.2.1 wants unknown types to be passed over.
        _ => Ok(Frame::Ignored),
    }
}

/// The one setting that changes something here: of its values the first counts (section 2.6.4).
fn initial_window(settings: &[u8]) -> Option<u32> {
    settings.chunks_exact(8).find_map(|setting| {
        let (id, value) = (u32::from_be_bytes([0, setting[1], setting[2], setting[3]]), &setting[4..]);
        (id == INITIAL_WINDOW_SIZE)
            .then(|| value.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    })
}

fn control_head(kind: u16, length: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + length);
    frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    frame
}

/// The head of a data frame; the data follows.
pub(super) fn data_head(stream: u32, length: usize, fin: bool) -> [u8; 8] {
    let [a, b, c, d] = (stream & 0x7fff_ffff).to_be_bytes();
    let [_, l0, l1, l2] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [a, b, c, d, if fin { FIN } else { 0 }, l0, l1, l2]
}

/// The answer that accepts a stream.
pub(super) fn reply(stream: u32, block: &[u8]) -> Vec<u8> {
    let mut frame = control_head(SYN_REPLY, 4 + block.len());
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(block);
    frame
}

/// Breaks a stream off.
pub(super) fn reset(stream: u32, status: u32) -> Vec<u8> {
    let mut frame = control_head(RST_STREAM, 8);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&status.to_be_bytes());
    frame
}

/// Answers a ping.
pub(super) fn ping(id: u32) -> Vec<u8> {
    let mut frame = control_head(PING, 4);
    frame.extend_from_slice(&id.to_be_bytes());
    frame
}

/// Says what the windows of streams begin with.
pub(super) fn settings(initial_window: u32) -> Vec<u8> {
    let mut frame = control_head(SETTINGS, 12);
    for number in [1, INITIAL_WINDOW_SIZE, initial_window] {
        frame.extend_from_slice(&number.to_be_bytes());
    }
    frame
}

/// Opens a window by so many bytes: a stream's, or with stream 0 the connection's.
pub(super) fn window_update(stream: u32, bytes: u32) -> Vec<u8> {
    let mut frame = control_head(WINDOW_UPDATE, 8);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&bytes.to_be_bytes());
    frame
}

/// Says that the connection ends, all being well.
pub(super) fn go_away(last_stream: u32) -> Vec<u8> {
    let mut frame = control_head(GOAWAY, 8);
    frame.extend_from_slice(&last_stream.to_be_bytes());
    frame.extend_from_slice(&0u32.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_whole_whatever_the_cuts() {
        let mut wire = Vec::new();
        wire.extend_from_slice(&data_head(5, 3, true));
        wire.extend_from_slice(b"abc");
        wire.extend_from_slice(&ping(9));
        wire.extend_from_slice(&reset(5, 1));
        wire.extend_from_slice(&settings(70_000));
        wire.extend_from_slice(&window_update(5, 0x7fff_ffff));
        wire.extend_from_slice(&go_away(5));
        let mut buffer = BytesMut::new();
        let mut frames = Vec::new();
        for byte in wire {
            buffer.extend_from_slice(&[byte]);
            frames.extend(take(&mut buffer).unwrap());
        }
        let data = Frame::Data { stream: 5, data: Bytes::from_static(b"abc"), fin: true };
        let ping = Frame::Ping { id: 9 };
        let (settings, window) =
            (Frame::InitialWindow { bytes: 70_000 }, Frame::Window { stream: 5, bytes: 0x7fff_ffff });
        assert_eq!(frames, [data, ping, Frame::Reset { stream: 5 }, settings, window, Frame::GoAway]);
    }

    #[test]
    fn settings_are_counted_before_they_are_believed() {
        let frame = |count: u32, settings: &[[u32; 2]]| {
            let mut frame = control_head(SETTINGS, 4 + settings.len() * 8);
            let numbers = [&[count][..], settings.as_flattened()].concat();
            numbers.iter().for_each(|number| frame.extend_from_slice(&number.to_be_bytes()));
            take(&mut BytesMut::from(&frame[..]))
        };
        for (count, settings) in [(u32::MAX, &[][..]), (1, &[]), (2, &[[7, 1]])] {
            let length = 4 + settings.len() * 8;
            assert_eq!(frame(count, settings), Err(FrameError::Short { kind: SETTINGS, length }));
        }
        assert_eq!(frame(0, &[[7, 1]]), Ok(Some(Frame::Ignored)));
        // Its flags do not count, nor what other settings say, nor what the same one says again.
        let several = [[4, 9], [0x0100_0007, 5], [7, 6]];
        assert_eq!(frame(3, &several), Ok(Some(Frame::InitialWindow { bytes: 5 })));
    }

    #[test]
    fn what_is_too_long_is_refused_by_its_head_alone() {
        for head in [[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], [0, 0, 0, 1, 0, 0xff, 0xff, 0xff]] {
            assert_eq!(take(&mut BytesMut::from(&head[..])), Err(FrameError::TooLong(0xff_ffff)));
        }
    }

    #[test]
    fn what_is_cut_short_or_of_another_version_is_refused() {
        for kind in [SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, HEADERS, WINDOW_UPDATE] {
            let frame = control_head(kind, 0);
            assert_eq!(take(&mut BytesMut::from(&frame[..])), Err(FrameError::Short { kind, length: 0 }));
        }
        let version = [0x80, 2, 0, 1, 0, 0, 0, 0];
        assert_eq!(take(&mut BytesMut::from(&version[..])), Err(FrameError::Version(2)));
        let unknown = control_head(99, 0);
        assert_eq!(take(&mut BytesMut::from(&unknown[..])), Ok(Some(Frame::Ignored)));
    }
}
