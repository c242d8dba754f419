//! As much of HTTP/1.1 as a scripted server needs: one request per connection, bodies of a known length.
//!
//! Not a server for anybody but tests: it trusts its client and answers what it is told to, lies included.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a client asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `HEAD`, …
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The query without its question mark.
    pub query: String,
    /// Headers by lower-case name.
    pub headers: BTreeMap<String, String>,
}

/// What the server does about it.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Headers besides `content-length`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How the body is sent.
    pub sending: Sending,
}

/// How a body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// Whole.
    Whole,
    /// Its first bytes only, then the connection is closed; the length header told of all of them.
    CutAfter(usize),
    /// Its first bytes only, then silence until the client goes or the server ends.
    StallAfter(usize),
    /// Whole, so many bytes at a time, with a pause after each.
    Slowly {
        /// Bytes of a piece.
        piece: usize,
        /// The pause.
        pause: Duration,
    },
}

impl Reply {
    /// A whole reply.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            body: body.into(),
            sending: Sending::Whole,
        }
    }

    /// An empty reply with a status.
    pub fn status(status: u16) -> Self {
        Self::new(status, "text/plain", "")
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Changes how the body is sent.
    #[must_use]
    pub fn sending(mut self, sending: Sending) -> Self {
        self.sending = sending;
        self
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server on a loopback port; it ends with this value.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    ended: Arc<AtomicBool>,
}

impl Server {
    /// Answers every request by the handler, each connection on a thread of its own.
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let handler: Arc<Handler> = Arc::new(handler);
        let server = Self { address, requests: Arc::clone(&requests), ended: Arc::clone(&ended) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                // A connection that died before it was accepted is the client's affair.
                let Ok(stream) = stream else { continue };
                let (handler, requests, ended) = (handler.clone(), requests.clone(), ended.clone());
                std::thread::spawn(move || serve(stream, &*handler, &requests, &ended));
            }
        });
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no thread panics while it holds the list").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the accepting thread; if that fails, nobody is listening any more.
        drop(TcpStream::connect(self.address));
    }
}

fn serve(stream: TcpStream, handler: &Handler, requests: &Mutex<Vec<Request>>, ended: &AtomicBool) {
    let mut reader = BufReader::new(stream);
    let Some(request) = read_request(&mut reader) else { return };
    requests.lock().expect("no thread panics while it holds the list").push(request.clone());
    let reply = handler(&request);
    let mut stream = reader.into_inner();
    let mut head = format!("HTTP/1.1 {} Scripted\r\nconnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("content-length: {}\r\n\r\n", reply.body.len());
    let body = if request.method == "HEAD" { &[][..] } else { &reply.body[..] };
    let sent = match reply.sending {
        Sending::Whole | Sending::Slowly { .. } => body,
        Sending::CutAfter(bytes) | Sending::StallAfter(bytes) => &body[..bytes.min(body.len())],
    };
    // A client that hangs up early is part of the game.
    if stream.write_all(head.as_bytes()).is_err() {
        return;
    }
    let (piece, pause) = match reply.sending {
        Sending::Slowly { piece, pause } => (piece, pause),
        Sending::Whole | Sending::CutAfter(_) | Sending::StallAfter(_) => (usize::MAX, Duration::ZERO),
    };
    for piece in sent.chunks(piece) {
        if stream.write_all(piece).is_err() {
            return;
        }
        std::thread::sleep(pause);
    }
    if let Sending::StallAfter(_) = reply.sending {
        stall(&mut stream, ended);
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Request { method, path, query, headers })
}

/// Keeps the connection open and silent until the client closes it.
fn stall(stream: &mut TcpStream, ended: &AtomicBool) {
    let poll = Duration::from_millis(100);
    stream.set_read_timeout(Some(poll)).expect("a positive timeout is valid");
    while !ended.load(Ordering::Relaxed) {
        match stream.read(&mut [0; 64]) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}
