//! Frames and file descriptors over a shim's socket.
//!
//! ```text
//!  caller ─ send ─▶ [queue] ─ sendmsg ─▶ shim
//!         ◀ reply ─ [waiting: id → caller] ◀─ recvmsg ─ pump task ─▶ exits of execs, events
//! ```
//!
//! A request is written by its caller at once if the socket takes it, else by the pump when there is
//! room. The pump ends, and with it the connection, when the shim has gone or breaks the protocol;
//! all who wait are told so. Descriptors that this process has no room for fail their reply only.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use carpel_shim_api::{
    FDS_MAX,
    frame::{self, FrameError, Kind},
    message::{self, ExecRef, FailureKind, event, reply, request},
};
use prost::Message;
use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags,
    },
};
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{Notify, mpsc, oneshot},
};

use super::{ShimError, ShimEvent};

/// Bytes asked for by one recvmsg.
const READ_BYTES: usize = 8 << 10;
/// Sets of descriptors that came and belong to no complete frame yet.
const FD_SETS_MAX: usize = 4;
/// The most that waits for a shim that does not read. With more, requests are refused.
pub(super) const QUEUE_MAX_BYTES: usize = 16 << 20;

/// A reply and what came with it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) body: reply::Body,
    pub(super) fds: Vec<OwnedFd>,
    /// Some descriptors were lost on the way, and none is in `fds`.
    fds_lost: bool,
}

/// A request that was sent. Dropping it forgets the reply, and the request is still carried out.
#[derive(Debug)]
pub(super) struct Pending {
    name: &'static str,
    id: u32,
    inner: Arc<Inner>,
    receiver: oneshot::Receiver<Answer>,
}

/// One connection; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    inner: Arc<Inner>,
    pump: tokio::task::AbortHandle,
}

#[derive(Debug)]
struct Inner {
    socket: UnixStream,
    // Locked for the length of a sendmsg; never across an await.
    state: Mutex<State>,
    /// The queue is not empty although the socket is full.
    blocked: Notify,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    next_id: u32,
    queue: Queue,
    waiting: HashMap<u32, oneshot::Sender<Answer>>,
    execs: HashMap<String, ExecWaiter>,
    /// Of a closed connection: the execs whose end nobody will hear of.
    orphans: Vec<ExecRef>,
}

/// Who waits for an exec's end.
#[derive(Debug)]
struct ExecWaiter {
    container_id: String,
    sender: oneshot::Sender<i32>,
}

/// What the socket did not take yet.
#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Outgoing>,
    bytes: usize,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    fds: Vec<OwnedFd>,
}

/// Why the pump ended.
#[derive(Debug, thiserror::Error)]
enum PumpError {
    #[error("the shim closed its connection")]
    Closed,
    #[error("the socket of a shim failed")]
    Socket(#[from] io::Error),
    #[error("a shim broke the protocol")]
    Frame(#[from] FrameError),
    #[error("a shim sent a message without content")]
    Empty,
    #[error("a shim sent a request")]
    Request,
    #[error("a frame has other file descriptors than it says")]
    Fds,
}

impl Connection {
    pub(super) fn new(
        socket: std::os::unix::net::UnixStream,
        events: mpsc::UnboundedSender<ShimEvent>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = UnixStream::from_std(socket)?;
        let inner = Arc::new(Inner {
            socket,
            state: Mutex::new(State { next_id: 1, ..State::default() }),
            blocked: Notify::new(),
        });
        let pump = tokio::spawn(pump(Arc::clone(&inner), events)).abort_handle();
        Ok(Connection { inner, pump })
    }

    /// Sends a request. The order of calls is the order on the wire.
    pub(super) fn send(
        &self,
        name: &'static str,
        body: request::Body,
        fds: Vec<OwnedFd>,
    ) -> Result<Pending, ShimError> {
        let request = message::Request { body: Some(body) };
        let mut state = self.inner.lock();
        if state.closed {
            return Err(ShimError::Gone);
        }
        if state.queue.bytes > QUEUE_MAX_BYTES {
            return Err(ShimError::Stuck { request: name, bytes: state.queue.bytes });
        }
        let id = state.next_id;
        let mut bytes = Vec::new();
        frame::encode(Kind::Request, id, &request, fds.len(), &mut bytes)
            .map_err(|source| ShimError::Frame { request: name, source })?;
        state.next_id = id.wrapping_add(1).max(1);
        let (sender, receiver) = oneshot::channel();
        state.waiting.insert(id, sender);
        state.queue.push(Outgoing { bytes, written: 0, fds });
        match flush(&self.inner.socket, &mut state.queue) {
            Ok(true) => {}
            Ok(false) => self.inner.blocked.notify_one(),
            // The pump reads what the shim said last, then sees the end too and tells everybody.
            Err(err) => tracing::debug!(%err, request = name, "sending to a shim failed"),
        }
        drop(state);
        Ok(Pending { name, id, inner: Arc::clone(&self.inner), receiver })
    }

    /// From now on the exit of this exec is kept for the receiver.
    pub(super) fn expect_exec(&self, container_id: &str, exec_id: &str) -> oneshot::Receiver<i32> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.inner.lock();
        if !state.closed {
            let waiter = ExecWaiter { container_id: container_id.to_owned(), sender };
            state.execs.insert(exec_id.to_owned(), waiter);
        }
        receiver
    }

    pub(super) fn forget_exec(&self, exec_id: &str) {
        self.inner.lock().execs.remove(exec_id);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }

    /// The execs that somebody waited for when this connection was closed; told once.
    pub(super) fn take_orphans(&self) -> Vec<ExecRef> {
        std::mem::take(&mut self.inner.lock().orphans)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Pending {
    /// Waits for the reply.
    pub(super) async fn reply(mut self, limit: Duration) -> Result<Answer, ShimError> {
        let answer = match tokio::time::timeout(limit, &mut self.receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => return Err(ShimError::Gone),
            Err(_) => return Err(ShimError::Timeout { request: self.name, after: limit }),
        };
        match answer.body {
            reply::Body::Failure(failure) => Err(ShimError::Refused {
                kind: FailureKind::try_from(failure.kind).unwrap_or(FailureKind::Internal),
                message: failure.message,
            }),
            _ if answer.fds_lost => Err(ShimError::Descriptors { request: self.name }),
            _ => Ok(answer),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Without this, every request to a shim that never answers would be remembered for ever.
        self.inner.lock().waiting.remove(&self.id);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody gets a reply any more.
    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.queue = Queue::default();
        state.waiting.clear();
        let execs = std::mem::take(&mut state.execs).into_iter();
        let awaited = execs.filter(|(_, waiter)| !waiter.sender.is_closed());
        let orphan =
            |(exec_id, waiter): (String, ExecWaiter)| ExecRef { container_id: waiter.container_id, exec_id };
        state.orphans = awaited.map(orphan).collect();
    }
}

impl Queue {
    fn push(&mut self, frame: Outgoing) {
        self.bytes += frame.bytes.len();
        self.frames.push_back(frame);
    }
}

/// Writes what the socket takes: `false` if it is full and more waits.
fn flush(socket: &UnixStream, queue: &mut Queue) -> io::Result<bool> {
    while let Some(out) = queue.frames.front_mut() {
        // Descriptors travel with the first byte only.
        let fds: Vec<_> =
            if out.written == 0 { out.fds.iter().map(AsFd::as_fd).collect() } else { Vec::new() };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::INVAL.into());
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let bytes = [IoSlice::new(&out.bytes[out.written..])];
        match rustix::net::sendmsg(socket, &bytes, &mut control, flags) {
            Ok(count) => {
                out.written += count;
                queue.bytes -= count;
                out.fds.clear();
                if out.written == out.bytes.len() {
                    queue.frames.pop_front();
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(false),
            Err(err) => return Err(err.into()),
        }
    }
    Ok(true)
}

/// Reads until the shim has gone, and writes what callers could not.
async fn pump(inner: Arc<Inner>, events: mpsc::UnboundedSender<ShimEvent>) {
    let mut incoming = Incoming::default();
    let end = loop {
        let step = tokio::select! {
            step = read_some(&inner, &mut incoming, &events) => step,
            step = write_blocked(&inner) => step,
        };
        if let Err(err) = step {
            break err;
        }
    };
    match end {
        PumpError::Closed => tracing::debug!("a shim closed its connection"),
        err => tracing::warn!(err = &err as &dyn std::error::Error, "a shim's connection was closed"),
    }
    inner.close();
    // The owner may have ended before: then nobody needs to know.
    let _ = events.send(ShimEvent::Gone);
}

async fn write_blocked(inner: &Inner) -> Result<(), PumpError> {
    // Looked at each time, for this may be given up and begun anew at any await.
    while inner.lock().queue.frames.is_empty() {
        inner.blocked.notified().await;
    }
    loop {
        inner.socket.writable().await?;
        let written = inner.socket.try_io(Interest::WRITABLE, || {
            match flush(&inner.socket, &mut inner.lock().queue)? {
                true => Ok(()),
                false => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        match written {
            Ok(()) => return Ok(()),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
            Err(err) => return Err(err.into()),
        }
    }
}

/// What came and is not taken apart yet.
#[derive(Debug, Default)]
struct Incoming {
    bytes: Vec<u8>,
    fds: VecDeque<FdSet>,
}

/// The descriptors of one frame: recvmsg never joins those of two sendmsg.
#[derive(Debug)]
enum FdSet {
    Whole(Vec<OwnedFd>),
    /// Not all could be installed here (recvmsg(2), `MSG_CTRUNC`); those that were are closed.
    CutShort,
}

/// What one recvmsg brought.
enum Received {
    Some,
    End,
    TooManyFds,
}

async fn read_some(
    inner: &Inner,
    incoming: &mut Incoming,
    events: &mpsc::UnboundedSender<ShimEvent>,
) -> Result<(), PumpError> {
    inner.socket.readable().await?;
    match inner.socket.try_io(Interest::READABLE, || incoming.receive(&inner.socket)) {
        Ok(Received::Some) => {}
        Ok(Received::End) => return Err(PumpError::Closed),
        Ok(Received::TooManyFds) => return Err(PumpError::Fds),
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        Err(err) => return Err(err.into()),
    }
    while let Some((header, payload)) = frame::take(&mut incoming.bytes)? {
        let fds = match header.fds {
            0 => FdSet::Whole(Vec::new()),
            _ => incoming.fds.pop_front().ok_or(PumpError::Fds)?,
        };
        if matches!(&fds, FdSet::Whole(fds) if fds.len() != header.fds) {
            return Err(PumpError::Fds);
        }
        deliver(inner, header.kind, header.id, &payload, fds, events)?;
    }
    Ok(())
}

impl Incoming {
    fn receive(&mut self, socket: &UnixStream) -> io::Result<Received> {
        let start = self.bytes.len();
        self.bytes.resize(start + READ_BYTES, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut into = [IoSliceMut::new(&mut self.bytes[start..])];
        let received = rustix::net::recvmsg(socket, &mut into, &mut control, flags);
        self.bytes.truncate(start + received.as_ref().map_or(0, |message| message.bytes));
        let message = received?;
        let mut fds = Vec::new();
        for control in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = control {
                fds.extend(some);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            tracing::warn!("file descriptors from a shim were lost: this process has too many open");
            self.fds.push_back(FdSet::CutShort);
        } else if !fds.is_empty() {
            self.fds.push_back(FdSet::Whole(fds));
        }
        if self.fds.len() > FD_SETS_MAX {
            return Ok(Received::TooManyFds);
        }
        Ok(if message.bytes == 0 { Received::End } else { Received::Some })
    }
}

fn deliver(
    inner: &Inner,
    kind: Kind,
    id: u32,
    payload: &[u8],
    fds: FdSet,
    events: &mpsc::UnboundedSender<ShimEvent>,
) -> Result<(), PumpError> {
    match kind {
        Kind::Request => Err(PumpError::Request),
        Kind::Reply => {
            let reply = message::Reply::decode(payload).map_err(FrameError::from)?;
            let body = reply.body.ok_or(PumpError::Empty)?;
            let (fds, fds_lost) = match fds {
                FdSet::Whole(fds) => (fds, false),
                FdSet::CutShort => (Vec::new(), true),
            };
            if let Some(waiting) = inner.lock().waiting.remove(&id) {
                // Whoever asked may have given up.
                let _ = waiting.send(Answer { body, fds, fds_lost });
            }
            Ok(())
        }
        Kind::Event => {
            let event = message::Event::decode(payload).map_err(FrameError::from)?;
            match event.body {
                Some(event::Body::ContainerExited(exited)) => {
                    let _ = events.send(ShimEvent::Exited(exited.exit));
                }
                Some(event::Body::ExecExited(exited)) => {
                    if let Some(waiting) = inner.lock().execs.remove(&exited.exec_id) {
                        let _ = waiting.sender.send(exited.exit_code);
                    }
                }
                // A newer shim tells more than we know of.
                None => {}
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
