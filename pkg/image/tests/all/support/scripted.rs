//! A registry that does what a test tells it, also what no registry should.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carpel_image::Digest;

use super::build::Built;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What is sent back, and what happens then.
pub(crate) enum Reply {
    /// Bytes, then the connection is closed.
    Close(Vec<u8>),
    /// Bytes, then nothing more until the server goes.
    Stall(Vec<u8>),
    /// Bytes, then these bytes again and again until the other side goes.
    Endless(Vec<u8>, Vec<u8>),
    /// Bytes, then these slowly, one at a time.
    Drip(Vec<u8>, Vec<u8>),
}

/// A status and headers and a body with its length.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut bytes = head(status, headers, Some(body.len() as u64));
    bytes.extend_from_slice(body);
    Reply::Close(bytes)
}

pub(crate) fn head(status: u16, headers: &[(&str, &str)], length: Option<u64>) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} Scripted\r\nConnection: close\r\n");
    if let Some(length) = length {
        text += &format!("Content-Length: {length}\r\n");
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "\r\n").into_bytes()
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

/// The running server.
pub(crate) struct Scripted {
    address: String,
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
}

impl Scripted {
    pub(crate) fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Scripted {
        Scripted::start_at("127.0.0.1", script)
    }

    /// At another loopback address, to be another host.
    pub(crate) fn start_at(
        address: &str,
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Scripted {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let script: Arc<Script> = Arc::new(script);
        let (log, stop) = (asked.clone(), ended.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (script, log, stop) = (script.clone(), log.clone(), stop.clone());
                std::thread::spawn(move || {
                    // The other side may go away at any moment; that is what many tests are about.
                    let _ = stream.and_then(|stream| serve(stream, &script, &log, &stop));
                });
            }
        });
        Scripted { address: address.to_owned(), port, asked, ended }
    }

    /// A well-behaved registry with one image, for scripts to begin with.
    pub(crate) fn serving(image: &Built) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
        let image = image.clone();
        move |asked| image_reply(&image, asked)
    }

    pub(crate) fn host(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Requests whose path contains the text.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.asked().iter().filter(|asked| asked.path.contains(part)).count()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect((self.address.as_str(), self.port));
    }
}

/// What a registry with that one image answers.
pub(crate) fn image_reply(image: &Built, asked: &Asked) -> Reply {
    if asked.path.contains("/manifests/") {
        return answer(200, &[("Content-Type", &image.media_type)], &image.manifest);
    }
    let found = image.blobs().into_iter().find(|blob| asked.path.contains(Digest::of(blob).as_str()));
    match found {
        Some(blob) => answer(200, &[("Content-Type", "application/octet-stream")], &blob),
        None => answer(404, &[], b"{}"),
    }
}

fn serve(
    stream: TcpStream,
    script: &Arc<Script>,
    log: &Mutex<Vec<Asked>>,
    ended: &AtomicBool,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut asked = Asked {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: HashMap::new(),
        body: String::new(),
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        asked.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    if let Some(length) = asked.header("content-length").and_then(|l| l.parse().ok()) {
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        asked.body = String::from_utf8_lossy(&body).into_owned();
    }
    log.lock().unwrap().push(asked.clone());
    let mut stream = stream;
    match script(&asked) {
        Reply::Close(bytes) => stream.write_all(&bytes),
        Reply::Stall(bytes) => {
            stream.write_all(&bytes)?;
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        }
        Reply::Endless(bytes, again) => {
            stream.write_all(&bytes)?;
            while !ended.load(Ordering::Relaxed) {
                stream.write_all(&again)?;
            }
            Ok(())
        }
        Reply::Drip(bytes, slowly) => {
            stream.write_all(&bytes)?;
            for byte in slowly {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                stream.write_all(&[byte])?;
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        }
    }
}
