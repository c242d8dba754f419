//! Requests that wait for their client: each under a random token that works once.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;

/// Requests that may wait at the same time.
const WAITING_MAX: usize = 1000;
/// How long a request waits for its client.
const LIFE: Duration = Duration::from_secs(60);
/// Random bytes of a token.
const TOKEN_BYTES: usize = 24;

/// Which streams a session has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// Client to process.
    pub stdin: bool,
    /// Process to client.
    pub stdout: bool,
    /// Process to client.
    pub stderr: bool,
    /// A terminal: stdout and stderr are one.
    pub tty: bool,
}

/// A command to run in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecTarget {
    /// The container's id.
    pub container: String,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Its streams.
    pub streams: Streams,
}

/// A container to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachTarget {
    /// The container's id.
    pub container: String,
    /// The streams that the client opens, because it asked for them.
    pub streams: Streams,
    /// Those of the container that are joined: it may have no stdin, and whether it has a terminal is not the client's
    /// to say.
    pub joined: Streams,
}

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Exec(ExecTarget),
    Attach(AttachTarget),
    PortForward { pod: String, ports: Vec<u16> },
}

/// No token can be given.
#[derive(Debug, Error)]
pub enum TokenError {
    /// Too many requests wait for their clients.
    #[error("{WAITING_MAX} streaming requests wait for their clients already")]
    TooMany,
    /// The kernel has no random bytes to give.
    #[error("draw a token")]
    Random(#[source] std::io::Error),
}

/// The requests that wait.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    // Held for the length of an insertion or removal only.
    waiting: Mutex<HashMap<String, (Instant, Request)>>,
}

impl Tokens {
    /// Keeps `request` under a new token.
    pub(crate) fn insert(&self, request: Request) -> Result<String, TokenError> {
        let token = random_token().map_err(TokenError::Random)?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING_MAX {
            waiting.retain(|_, (since, _)| since.elapsed() < LIFE);
        }
        if waiting.len() >= WAITING_MAX {
            return Err(TokenError::TooMany);
        }
        waiting.insert(token.clone(), (Instant::now(), request));
        Ok(token)
    }

    /// Gives a request to the client that knows its token, once.
    pub(crate) fn take(&self, token: &str) -> Option<Request> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, request) = waiting.remove(token)?;
        (since.elapsed() < LIFE).then_some(request)
    }
}

fn random_token() -> std::io::Result<String> {
    let mut bytes = [0u8; TOKEN_BYTES];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request::PortForward { pod: "p".into(), ports: Vec::new() }
    }

    #[test]
    fn a_token_works_once() {
        let tokens = Tokens::default();
        let token = tokens.insert(request()).unwrap();
        assert_eq!(tokens.take("other"), None);
        assert_eq!(tokens.take(&token), Some(request()));
        assert_eq!(tokens.take(&token), None);
    }

    #[test]
    fn requests_that_wait_are_bounded_and_old_ones_make_room() {
        let tokens = Tokens::default();
        let first = tokens.insert(request()).unwrap();
        for _ in 1..WAITING_MAX {
            tokens.insert(request()).unwrap();
        }
        assert!(matches!(tokens.insert(request()), Err(TokenError::TooMany)));
        let long_ago = Instant::now().checked_sub(LIFE).unwrap();
        tokens.waiting.lock().unwrap().get_mut(&first).unwrap().0 = long_ago;
        tokens.insert(request()).unwrap();
        assert_eq!(tokens.take(&first), None);
    }
}
