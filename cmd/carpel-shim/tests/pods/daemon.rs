//! The daemon's side of a shim's socket.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use carpel_shim_api::frame::{self, Kind};
use carpel_shim_api::message::{
    Event, Failure, FailureKind, Hello, Reply, Request, Snapshot, SnapshotReply, event, reply, request,
};
use carpel_shim_api::record::{ExitRecord, SOCKET_NAME};
use prost::Message;
use rustix::event::PollFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::harness::{exec, wait_for};

/// A connection to a shim.
pub(crate) struct Daemon {
    socket: UnixStream,
    input: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    replies: BTreeMap<u32, (reply::Body, Vec<OwnedFd>)>,
    pub(crate) events: VecDeque<event::Body>,
    last_id: u32,
}

impl Daemon {
    /// Connects and says hello.
    pub(crate) fn connect(pod_dir: &Path) -> Daemon {
        let mut daemon = Daemon::connect_silently(pod_dir);
        match daemon.ask(request::Body::Hello(Hello { version: 1, version_oldest: 1 })) {
            reply::Body::Hello(hello) => assert_eq!(hello.version, 1),
            other => panic!("no hello: {other:?}"),
        }
        daemon
    }

    pub(crate) fn connect_silently(pod_dir: &Path) -> Daemon {
        Daemon {
            socket: UnixStream::connect(pod_dir.join(SOCKET_NAME)).expect("connect"),
            input: Vec::new(),
            fds: VecDeque::new(),
            replies: BTreeMap::new(),
            events: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Sends a request and does not wait.
    pub(crate) fn send(&mut self, body: request::Body, fds: &[BorrowedFd<'_>]) -> u32 {
        self.last_id += 1;
        let mut bytes = Vec::new();
        let request = Request { body: Some(body) };
        frame::encode(Kind::Request, self.last_id, &request, fds.len(), &mut bytes).expect("encode");
        self.send_bytes(&bytes, fds);
        self.last_id
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let sent =
            rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent.expect("send"), bytes.len());
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn ask(&mut self, body: request::Body) -> reply::Body {
        self.ask_with(body).0
    }

    pub(crate) fn ask_with(&mut self, body: request::Body) -> (reply::Body, Vec<OwnedFd>) {
        let id = self.send(body, &[]);
        self.reply_to(id)
    }

    pub(crate) fn reply_to(&mut self, id: u32) -> (reply::Body, Vec<OwnedFd>) {
        loop {
            if let Some(reply) = self.replies.remove(&id) {
                return reply;
            }
            assert!(self.receive(), "the shim has closed the connection");
        }
    }

    #[track_caller]
    pub(crate) fn done(&mut self, body: request::Body) {
        match self.ask(body) {
            reply::Body::Done(_) => {}
            other => panic!("not done: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, body: request::Body) -> Failure {
        match self.ask(body) {
            reply::Body::Failure(failure) => failure,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn refused_as(&mut self, kind: FailureKind, body: request::Body) -> String {
        let failure = self.refused(body);
        assert_eq!(failure.kind(), kind, "{}", failure.message);
        failure.message
    }

    pub(crate) fn snapshot(&mut self) -> SnapshotReply {
        match self.ask(request::Body::Snapshot(Snapshot {})) {
            reply::Body::Snapshot(snapshot) => snapshot,
            other => panic!("no snapshot: {other:?}"),
        }
    }

    /// Waits for the event of a container's end.
    pub(crate) fn exit_of(&mut self, id: &str) -> ExitRecord {
        loop {
            let at = self.events.iter().position(
                |event| matches!(event, event::Body::ContainerExited(e) if e.exit.container_id == id),
            );
            if let Some(event::Body::ContainerExited(exited)) = at.and_then(|at| self.events.remove(at)) {
                return exited.exit;
            }
            assert!(self.receive(), "the shim has closed the connection");
        }
    }

    /// Waits for the event of an exec's end.
    pub(crate) fn exec_exit_of(&mut self, exec_id: &str) -> i32 {
        loop {
            let at = self
                .events
                .iter()
                .position(|event| matches!(event, event::Body::ExecExited(e) if e.exec_id == exec_id));
            if let Some(event::Body::ExecExited(exited)) = at.and_then(|at| self.events.remove(at)) {
                return exited.exit_code;
            }
            assert!(self.receive(), "the shim has closed the connection");
        }
    }

    /// Starts an exec; the fds are those of its streams.
    pub(crate) fn exec(&mut self, container_id: &str, exec_id: &str, args: &[&str]) -> Vec<OwnedFd> {
        match self.ask_with(request::Body::Exec(exec(container_id, exec_id, args))) {
            (reply::Body::ExecStarted(started), fds) => {
                assert!(started.pid > 0);
                fds
            }
            (other, _) => panic!("no exec: {other:?}"),
        }
    }

    /// Closes the connection, as a daemon that dies.
    pub(crate) fn hang_up(&mut self, instead: UnixStream) {
        self.socket = instead;
    }

    /// Waits for bytes. `false`: the end of the connection.
    pub(crate) fn receive(&mut self) -> bool {
        wait_for(self.socket.as_fd(), PollFlags::IN, "the shim");
        let mut chunk = [0u8; 65536];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut chunk)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        let Ok(received) = received else { return false };
        self.input.extend_from_slice(&chunk[..received.bytes]);
        while let Some((header, payload)) = frame::take(&mut self.input).expect("a frame") {
            let fds = self.fds.drain(..header.fds).collect();
            match header.kind {
                Kind::Reply => {
                    let body = Reply::decode(payload.as_slice()).expect("a reply").body.expect("a body");
                    self.replies.insert(header.id, (body, fds));
                }
                Kind::Event => {
                    let body = Event::decode(payload.as_slice()).expect("an event").body.expect("a body");
                    self.events.push_back(body);
                }
                Kind::Request => panic!("the shim asks"),
            }
        }
        received.bytes > 0
    }
}

impl AsFd for Daemon {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
