//! Clients that joined a container's streams.
//!
//! Each has pipes of its own. A client that does not keep up with output loses some: what does not
//! fit into its pipe at once is dropped. Input waits: as long as the container does not read, no more
//! is taken from a client.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use crate::log::Stream;

/// What is read from a client at a time, and the most that waits for the container.
const INPUT_BYTES: usize = 4 << 10;

/// A client's ends of its pipes that are the shim's.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// The end that the client's input is read from.
    pub(crate) stdin: Option<OwnedFd>,
    /// Input that the container has not taken yet.
    pub(crate) pending: Vec<u8>,
    /// Where output goes.
    pub(crate) stdout: Option<OwnedFd>,
    /// Where errors go.
    pub(crate) stderr: Option<OwnedFd>,
}

/// What became of a client's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// Read, or nothing there.
    Open,
    /// The container does not take it: wait for room.
    Full,
    /// The client has closed it.
    End,
}

impl Client {
    /// Sends output. `false`: the client's end is closed, and so is ours now.
    pub(crate) fn send(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        let end = self.output(stream);
        let Some(pipe) = end.as_ref() else { return true };
        match rustix::io::write(pipe, bytes) {
            // A short write, or none: the client is slow, the rest is lost to it.
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => {
                *end = None;
                false
            }
        }
    }

    pub(crate) fn output(&mut self, stream: Stream) -> &mut Option<OwnedFd> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Whether nothing connects it with the container any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.stdin.is_none() && self.pending.is_empty() && self.stdout.is_none() && self.stderr.is_none()
    }

    /// Moves input from the client to the container, once.
    pub(crate) fn forward(&mut self, sink: impl AsFd) -> Input {
        if !self.flush(&sink) {
            return Input::Full;
        }
        let Some(stdin) = self.stdin.as_ref() else { return Input::End };
        let mut chunk = [0u8; INPUT_BYTES];
        match rustix::io::read(stdin, &mut chunk) {
            Ok(0) => Input::End,
            Ok(n) => {
                self.pending.extend_from_slice(&chunk[..n]);
                if self.flush(&sink) { Input::Open } else { Input::Full }
            }
            Err(Errno::AGAIN | Errno::INTR) => Input::Open,
            Err(_) => Input::End,
        }
    }

    /// Writes what waits. `false`: the container took no more.
    fn flush(&mut self, sink: impl AsFd) -> bool {
        while !self.pending.is_empty() {
            match rustix::io::write(&sink, &self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                // The container has closed its stdin: input is for nobody.
                Err(_) => self.pending = Vec::new(),
            }
        }
        self.pending = Vec::new();
        true
    }
}
