//! A connection of the daemon's: frames in, frames out, descriptors both ways.
//!
//! Nothing here waits. What cannot be sent is queued up to [`QUEUE_MAX_BYTES`]; a daemon that does
//! not read for so long loses the connection, with the events in it, and asks for a snapshot on the
//! next one. No request is read from a connection whose answers pile up.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carpel_shim_api::FDS_MAX;
use carpel_shim_api::frame::{self, FrameError, Kind};
use carpel_shim_api::message::{Event, Reply, Request};
use prost::Message;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use thiserror::Error;

/// The most that waits to be sent on one connection.
const QUEUE_MAX_BYTES: usize = 8 << 20;
/// With more than this waiting, no request is read.
const QUEUE_FULL_BYTES: usize = 1 << 20;
/// What is read at a time.
const READ_BYTES: usize = 16 << 10;
/// Descriptors that came and belong to no whole frame yet.
const FDS_WAITING_MAX: usize = 4 * FDS_MAX;

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    input: Vec<u8>,
    input_fds: VecDeque<OwnedFd>,
    output: VecDeque<Outgoing>,
    output_bytes: usize,
    /// It said `Hello`: events are for it.
    pub(crate) greeted: bool,
}

/// A frame on its way out.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// Go with the first byte.
    fds: Vec<OwnedFd>,
}

/// A request, with the descriptors that came with it.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) id: u32,
    pub(crate) request: Request,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Why a connection is over.
#[derive(Debug, Error)]
pub(crate) enum ConnectionError {
    #[error("the peer closed it")]
    Closed,
    #[error("receive")]
    Receive(#[source] Errno),
    #[error("send")]
    Send(#[source] Errno),
    #[error("a frame is malformed")]
    Frame(#[source] FrameError),
    #[error("a frame other than a request came")]
    NotARequest,
    #[error("{0} descriptors came with a frame that has {1}")]
    Fds(usize, usize),
    #[error("the peer does not read: {QUEUE_MAX_BYTES} bytes wait")]
    Stuck,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Connection {
        Connection {
            socket,
            input: Vec::new(),
            input_fds: VecDeque::new(),
            output: VecDeque::new(),
            output_bytes: 0,
            greeted: false,
        }
    }

    /// Reads what is there, once.
    pub(crate) fn receive(&mut self) -> Result<(), ConnectionError> {
        let mut chunk = [0u8; READ_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = loop {
            match rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(&mut chunk)], &mut control, flags)
            {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(e) => return Err(ConnectionError::Receive(e)),
                Ok(received) => break received,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.input_fds.extend(fds);
            }
        }
        if received.bytes == 0 {
            return Err(ConnectionError::Closed);
        }
        // Cut-off control data means lost descriptors: the frames would get the wrong ones.
        if received.flags.contains(ReturnFlags::CTRUNC) || self.input_fds.len() > FDS_WAITING_MAX {
            return Err(ConnectionError::Fds(self.input_fds.len(), FDS_MAX));
        }
        self.input.extend_from_slice(&chunk[..received.bytes]);
        Ok(())
    }

    /// The next whole request that was received.
    pub(crate) fn next_request(&mut self) -> Result<Option<Incoming>, ConnectionError> {
        let Some((header, payload)) = frame::take(&mut self.input).map_err(ConnectionError::Frame)? else {
            return Ok(None);
        };
        if self.input.is_empty() {
            // A plan with a seccomp program is tens of kilobytes; the next one may be hours away.
            self.input = Vec::new();
        }
        if header.kind != Kind::Request {
            return Err(ConnectionError::NotARequest);
        }
        if header.fds > self.input_fds.len() {
            return Err(ConnectionError::Fds(self.input_fds.len(), header.fds));
        }
        let fds = self.input_fds.drain(..header.fds).collect();
        let request = Request::decode(payload.as_slice()).map_err(|e| ConnectionError::Frame(e.into()))?;
        Ok(Some(Incoming { id: header.id, request, fds }))
    }

    /// Whether requests may be read: answers do not pile up.
    pub(crate) fn is_read(&self) -> bool {
        self.output_bytes < QUEUE_FULL_BYTES
    }

    /// Whether something waits to be sent.
    pub(crate) fn is_writing(&self) -> bool {
        !self.output.is_empty()
    }

    pub(crate) fn reply(&mut self, id: u32, reply: &Reply, fds: Vec<OwnedFd>) -> Result<(), ConnectionError> {
        self.push(Kind::Reply, id, reply, fds)
    }

    pub(crate) fn event(&mut self, event: &Event) -> Result<(), ConnectionError> {
        self.push(Kind::Event, 0, event, Vec::new())
    }

    fn push(
        &mut self,
        kind: Kind,
        id: u32,
        message: &impl Message,
        fds: Vec<OwnedFd>,
    ) -> Result<(), ConnectionError> {
        let mut bytes = Vec::new();
        frame::encode(kind, id, message, fds.len(), &mut bytes).map_err(ConnectionError::Frame)?;
        self.output_bytes += bytes.len();
        if self.output_bytes > QUEUE_MAX_BYTES {
            return Err(ConnectionError::Stuck);
        }
        self.output.push_back(Outgoing { bytes, sent: 0, fds });
        self.flush()
    }

    /// Sends what can be sent now.
    pub(crate) fn flush(&mut self) -> Result<(), ConnectionError> {
        while let Some(front) = self.output.front_mut() {
            let sent = {
                let fds: Vec<BorrowedFd<'_>> = front.fds.iter().map(AsFd::as_fd).collect();
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !fds.is_empty() {
                    control.push(SendAncillaryMessage::ScmRights(&fds));
                }
                let rest = [IoSlice::new(&front.bytes[front.sent..])];
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                rustix::net::sendmsg(&self.socket, &rest, &mut control, flags)
            };
            match sent {
                Ok(sent) => {
                    front.fds.clear();
                    front.sent += sent;
                    self.output_bytes -= sent;
                    if front.sent == front.bytes.len() {
                        self.output.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(e) => return Err(ConnectionError::Send(e)),
            }
        }
        self.output.shrink_to_fit();
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
