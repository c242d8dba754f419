use std::{
    io::{Read, Write},
    os::unix::net::UnixStream as Socket,
    thread::JoinHandle,
};

use carpel_shim_api::{
    frame::Header,
    message::{ContainerRef, Done, Event, ExecExited, ExecStarted, Failure, Reply},
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A connection, and the other end of its socket for a thread that plays the shim.
fn connected(
    shim: impl FnOnce(Socket) + Send + 'static,
) -> (Connection, mpsc::UnboundedReceiver<ShimEvent>, JoinHandle<()>) {
    let (ours, theirs) = Socket::pair().unwrap();
    let (sender, events) = mpsc::unbounded_channel();
    let shim = std::thread::spawn(move || shim(theirs));
    (Connection::new(ours, sender).unwrap(), events, shim)
}

fn start(id: &str) -> request::Body {
    request::Body::Start(ContainerRef { container_id: id.to_owned() })
}

fn receive(socket: &mut Socket, buffer: &mut Vec<u8>) -> Header {
    loop {
        if let Some((header, payload)) = frame::take(buffer).unwrap() {
            message::Request::decode(payload.as_slice()).unwrap();
            return header;
        }
        let mut bytes = [0; 4096];
        let count = socket.read(&mut bytes).unwrap();
        assert!(count > 0, "the connection ended");
        buffer.extend_from_slice(&bytes[..count]);
    }
}

fn reply(socket: &mut Socket, id: u32, body: Option<reply::Body>, fds: usize) {
    let mut wire = Vec::new();
    frame::encode(Kind::Reply, id, &Reply { body }, fds, &mut wire).unwrap();
    socket.write_all(&wire).unwrap();
}

fn done() -> Option<reply::Body> {
    Some(reply::Body::Done(Done {}))
}

#[tokio::test]
async fn replies_find_their_requests_in_any_order() {
    let (connection, _events, shim) = connected(|mut socket| {
        let mut buffer = Vec::new();
        let one = receive(&mut socket, &mut buffer);
        let two = receive(&mut socket, &mut buffer);
        let failure = Failure { kind: FailureKind::NotFound.into(), message: "no such thing".to_owned() };
        reply(&mut socket, two.id, Some(reply::Body::Failure(failure)), 0);
        reply(&mut socket, one.id, done(), 0);
    });
    let one = connection.send("Start", start("a"), Vec::new()).unwrap();
    let two = connection.send("Start", start("b"), Vec::new()).unwrap();
    assert!(matches!(one.reply(PATIENCE).await.unwrap().body, reply::Body::Done(_)));
    let err = two.reply(PATIENCE).await.unwrap_err();
    assert!(matches!(err, ShimError::Refused { kind: FailureKind::NotFound, .. }), "{err}");
    shim.join().unwrap();
}

#[tokio::test]
async fn descriptors_come_with_their_frame() {
    let (connection, _events, shim) = connected(|mut socket| {
        let header = receive(&mut socket, &mut Vec::new());
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let body = Some(reply::Body::ExecStarted(ExecStarted { pid: 7 }));
        let mut wire = Vec::new();
        frame::encode(Kind::Reply, header.id, &Reply { body }, 1, &mut wire).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [reader.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        // The descriptors travel with the first byte, the rest comes later.
        let first = [IoSlice::new(&wire[..1])];
        rustix::net::sendmsg(&socket, &first, &mut control, SendFlags::empty()).unwrap();
        socket.write_all(&wire[1..]).unwrap();
        rustix::io::write(&writer, b"x").unwrap();
    });
    let answer = connection.send("Exec", start("a"), Vec::new()).unwrap().reply(PATIENCE).await.unwrap();
    assert_eq!(answer.fds.len(), 1);
    shim.join().unwrap();
    let mut byte = [0; 1];
    assert_eq!(rustix::io::read(&answer.fds[0], &mut byte).unwrap(), 1);
}

#[tokio::test]
async fn an_exit_before_the_reply_is_kept() {
    let (connection, _events, shim) = connected(|mut socket| {
        let header = receive(&mut socket, &mut Vec::new());
        let exited = ExecExited { container_id: "a".to_owned(), exec_id: "e".to_owned(), exit_code: 3 };
        let event = Event { body: Some(event::Body::ExecExited(exited)) };
        let mut wire = Vec::new();
        frame::encode(Kind::Event, 0, &event, 0, &mut wire).unwrap();
        socket.write_all(&wire).unwrap();
        reply(&mut socket, header.id, done(), 0);
    });
    let exit = connection.expect_exec("a", "e");
    connection.send("Exec", start("a"), Vec::new()).unwrap().reply(PATIENCE).await.unwrap();
    assert_eq!(exit.await.unwrap(), 3);
    shim.join().unwrap();
}

#[tokio::test]
async fn what_the_socket_does_not_take_is_sent_when_it_does() {
    const REQUESTS: u32 = 64;
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (connection, _events, shim) = connected(move |mut socket| {
        wait.recv().unwrap();
        let mut buffer = Vec::new();
        for number in 1..=REQUESTS {
            let header = receive(&mut socket, &mut buffer);
            assert_eq!(header.id, number, "the order is kept");
            reply(&mut socket, header.id, done(), 0);
        }
    });
    // Far more than a socket holds.
    let large = "x".repeat(64 << 10);
    let pending: Vec<Pending> =
        (0..REQUESTS).map(|_| connection.send("Start", start(&large), Vec::new()).unwrap()).collect();
    assert!(!connection.inner.lock().queue.frames.is_empty());
    go.send(()).unwrap();
    for pending in pending {
        assert!(matches!(pending.reply(PATIENCE).await.unwrap().body, reply::Body::Done(_)));
    }
    shim.join().unwrap();
}

#[tokio::test]
async fn a_shim_that_goes_or_breaks_the_protocol_is_gone_for_all() {
    let breaches: [fn(&mut Socket); 4] = [
        |_| {},
        |socket| socket.write_all(&[0xff; 64]).unwrap(),
        // Three descriptors are promised and none is sent.
        |socket| reply(socket, 1, done(), 3),
        |socket| reply(socket, 1, None, 0),
    ];
    for breach in breaches {
        let (connection, mut events, shim) = connected(move |mut socket| {
            receive(&mut socket, &mut Vec::new());
            breach(&mut socket);
        });
        let exit = connection.expect_exec("a", "e");
        let pending = connection.send("Start", start("a"), Vec::new()).unwrap();
        assert!(matches!(pending.reply(PATIENCE).await, Err(ShimError::Gone)));
        assert!(exit.await.is_err());
        assert!(matches!(events.recv().await, Some(ShimEvent::Gone)));
        assert!(matches!(connection.send("Start", start("a"), Vec::new()), Err(ShimError::Gone)));
        shim.join().unwrap();
    }
}

#[tokio::test]
async fn silence_is_a_timeout_of_this_request_only() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (connection, _events, shim) = connected(move |mut socket| {
        let mut buffer = Vec::new();
        let first = receive(&mut socket, &mut buffer);
        wait.recv().unwrap();
        let second = receive(&mut socket, &mut buffer);
        reply(&mut socket, first.id, done(), 0);
        reply(&mut socket, second.id, done(), 0);
    });
    let late = connection.send("Start", start("a"), Vec::new()).unwrap();
    let err = late.reply(Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(err, ShimError::Timeout { request: "Start", .. }), "{err}");
    go.send(()).unwrap();
    let second = connection.send("Start", start("b"), Vec::new()).unwrap();
    second.reply(PATIENCE).await.unwrap();
    shim.join().unwrap();
}

#[tokio::test]
async fn lost_descriptors_are_the_failure_of_their_reply_only() {
    let (connection, _events, shim) = connected(|mut socket| {
        let mut buffer = Vec::new();
        let first = receive(&mut socket, &mut buffer);
        let (reader, _writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let body = Some(reply::Body::ExecStarted(ExecStarted { pid: 7 }));
        let mut wire = Vec::new();
        frame::encode(Kind::Reply, first.id, &Reply { body }, FDS_MAX, &mut wire).unwrap();
        // More than the receiver has room for, which is rounded up: the kernel cuts the message short, as it does where
        // the receiver has too many files open.
        let fds = [reader.as_fd(); 2 * FDS_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2 * FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        rustix::net::sendmsg(&socket, &[IoSlice::new(&wire)], &mut control, SendFlags::empty()).unwrap();
        let second = receive(&mut socket, &mut buffer);
        reply(&mut socket, second.id, done(), 0);
    });
    let lost = connection.send("Exec", start("a"), Vec::new()).unwrap().reply(PATIENCE).await;
    assert!(matches!(lost, Err(ShimError::Descriptors { request: "Exec" })), "{lost:?}");
    connection.send("Start", start("a"), Vec::new()).unwrap().reply(PATIENCE).await.unwrap();
    shim.join().unwrap();
}

#[tokio::test]
async fn a_shim_that_never_reads_costs_bounded_memory() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (connection, _events, shim) = connected(move |_socket| wait.recv().unwrap());
    let large = "x".repeat(64 << 10);
    let stuck = loop {
        match connection.send("Start", start(&large), Vec::new()) {
            Ok(abandoned) => drop(abandoned),
            Err(err) => break err,
        }
        assert!(connection.inner.lock().queue.bytes <= QUEUE_MAX_BYTES + (65 << 10));
        assert!(connection.inner.lock().waiting.is_empty(), "what nobody waits for is forgotten");
    };
    assert!(matches!(stuck, ShimError::Stuck { request: "Start", .. }), "{stuck}");
    go.send(()).unwrap();
    shim.join().unwrap();
}
