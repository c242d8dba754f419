//! Frames: how messages are told apart on a stream socket.
//!
//! ```text
//!  0        4        8      10     11     12
//!  ├ length ┼─── id ─┼ kind ┼ fds ─┼ zero ┤ payload (prost) …
//! ```
//!
//! All numbers are little-endian. The descriptors that belong to a frame are attached to its first
//! byte, so a receiver that keeps descriptors in the order of their arrival takes `fds` of them when
//! a frame is complete.

use prost::Message;
use thiserror::Error;

use crate::{FDS_MAX, PAYLOAD_MAX_BYTES};

/// The size of [`Header`] on the wire, in bytes.
pub const HEADER_BYTES: usize = 12;

/// What a frame's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`crate::message::Request`], daemon to shim.
    Request,
    /// [`crate::message::Reply`], shim to daemon, with the id of its request.
    Reply,
    /// [`crate::message::Event`], shim to daemon; its id is zero.
    Event,
}

/// A frame's first twelve bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of payload that follow.
    pub length: usize,
    /// Chosen by the requester, repeated in the reply. Zero for events.
    pub id: u32,
    /// What the payload is.
    pub kind: Kind,
    /// How many file descriptors came with the frame.
    pub fds: usize,
}

/// Why bytes are not a frame.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// The payload would be larger than [`PAYLOAD_MAX_BYTES`].
    #[error("a frame of {0} bytes is over the limit of {PAYLOAD_MAX_BYTES}")]
    TooLong(usize),
    /// More descriptors than [`FDS_MAX`].
    #[error("a frame with {0} file descriptors is over the limit of {FDS_MAX}")]
    TooManyFds(usize),
    /// No such kind of frame.
    #[error("unknown kind of frame {0}")]
    UnknownKind(u16),
    /// The payload is not the message that its kind promises.
    #[error("the payload of a frame does not decode")]
    Payload(#[from] prost::DecodeError),
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// An unknown kind, or a length or count over the limits of this crate.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let [l0, l1, l2, l3, i0, i1, i2, i3, k0, k1, fds, _] = *bytes;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let kind = match u16::from_le_bytes([k0, k1]) {
            1 => Kind::Request,
            2 => Kind::Reply,
            3 => Kind::Event,
            other => return Err(FrameError::UnknownKind(other)),
        };
        let fds = usize::from(fds);
        if length > PAYLOAD_MAX_BYTES {
            return Err(FrameError::TooLong(length));
        }
        if fds > FDS_MAX {
            return Err(FrameError::TooManyFds(fds));
        }
        Ok(Header { length, id: u32::from_le_bytes([i0, i1, i2, i3]), kind, fds })
    }
}

/// Appends a whole frame to `out`.
///
/// # Errors
/// A message over [`PAYLOAD_MAX_BYTES`] or more than [`FDS_MAX`] descriptors; `out` is then unchanged.
pub fn encode(
    kind: Kind,
    id: u32,
    message: &impl Message,
    fds: usize,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let length = message.encoded_len();
    if length > PAYLOAD_MAX_BYTES {
        return Err(FrameError::TooLong(length));
    }
    if fds > FDS_MAX {
        return Err(FrameError::TooManyFds(fds));
    }
    let kind: u16 = match kind {
        Kind::Request => 1,
        Kind::Reply => 2,
        Kind::Event => 3,
    };
    out.reserve(HEADER_BYTES + length);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.push(u8::try_from(fds).unwrap_or(u8::MAX));
    out.push(0);
    message.encode_raw(out);
    Ok(())
}

/// Takes the next whole frame off the front of `buffer`; `None` if more bytes are needed.
///
/// # Errors
/// As [`Header::decode`]; the connection is then beyond repair and must be closed.
pub fn take(buffer: &mut Vec<u8>) -> Result<Option<(Header, Vec<u8>)>, FrameError> {
    let Some(head) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let header = Header::decode(head)?;
    let end = HEADER_BYTES + header.length;
    if buffer.len() < end {
        return Ok(None);
    }
    let payload = buffer[HEADER_BYTES..end].to_vec();
    buffer.drain(..end);
    Ok(Some((header, payload)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Hello, Request, request};

    fn hello() -> Request {
        Request { body: Some(request::Body::Hello(Hello { version: 1, version_oldest: 1 })) }
    }

    #[test]
    fn a_frame_comes_back_whole_whatever_the_cuts() {
        let mut wire = Vec::new();
        encode(Kind::Request, 7, &hello(), 2, &mut wire).unwrap();
        encode(Kind::Request, 8, &hello(), 0, &mut wire).unwrap();
        let mut buffer = Vec::new();
        let mut seen = Vec::new();
        for byte in wire {
            buffer.push(byte);
            while let Some((header, payload)) = take(&mut buffer).unwrap() {
                assert_eq!(Request::decode(payload.as_slice()).unwrap(), hello());
                seen.push((header.id, header.fds, header.kind));
            }
        }
        assert_eq!(seen, [(7, 2, Kind::Request), (8, 0, Kind::Request)]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn what_is_over_a_limit_is_refused_before_it_is_stored() {
        let mut head = [0u8; HEADER_BYTES];
        head[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        head[8] = 1;
        assert_eq!(Header::decode(&head), Err(FrameError::TooLong(u32::MAX as usize)));
        head[..4].fill(0);
        head[10] = 255;
        assert_eq!(Header::decode(&head), Err(FrameError::TooManyFds(255)));
        head[8] = 9;
        assert_eq!(Header::decode(&head), Err(FrameError::UnknownKind(9)));
    }
}
