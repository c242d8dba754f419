//! epoll, and what its numbers mean.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

pub(crate) use rustix::event::epoll::EventFlags;

/// Events that are taken from the kernel at a time.
const BATCH: usize = 32;

/// What an event is about. Keys are never used twice, so that an event that is late finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The listening socket.
    Listener,
    /// The signalfd.
    Signals,
    /// A daemon's connection.
    Connection(u32),
    /// A new container's init process reports.
    Init(u32),
    /// An exec's new process reports.
    Exec(u32, u32),
    /// The leaf of an exec that has ended may have emptied.
    Leaf(u32, u32),
    /// A container's stdout, or its terminal.
    Stdout(u32),
    /// A container's stderr.
    Stderr(u32),
    /// A container's stdin, while it is full.
    Stdin(u32),
    /// An attached client's stdin: bytes for the container.
    ClientStdin(u32, u32),
    /// An attached client's stdout has lost its reader.
    ClientStdout(u32, u32),
    /// An attached client's stderr has lost its reader.
    ClientStderr(u32, u32),
}

/// The longest key: two of them and a kind share 64 bits.
pub(crate) const KEY_MAX: u32 = (1 << 28) - 1;

impl Source {
    fn to_bits(self) -> u64 {
        let (kind, first, second) = match self {
            Source::Listener => (0, 0, 0),
            Source::Signals => (1, 0, 0),
            Source::Connection(key) => (2, key, 0),
            Source::Init(key) => (3, key, 0),
            Source::Exec(key, exec) => (4, key, exec),
            Source::Stdout(key) => (5, key, 0),
            Source::Stderr(key) => (6, key, 0),
            Source::Stdin(key) => (7, key, 0),
            Source::ClientStdin(key, client) => (8, key, client),
            Source::ClientStdout(key, client) => (9, key, client),
            Source::ClientStderr(key, client) => (10, key, client),
            Source::Leaf(key, exec) => (11, key, exec),
        };
        kind << 56 | u64::from(first) << 28 | u64::from(second)
    }

    fn from_bits(bits: u64) -> Option<Source> {
        let key = |shift: u64| u32::try_from(bits >> shift & u64::from(KEY_MAX)).unwrap_or(0);
        let (first, second) = (key(28), key(0));
        Some(match bits >> 56 {
            0 => Source::Listener,
            1 => Source::Signals,
            2 => Source::Connection(first),
            3 => Source::Init(first),
            4 => Source::Exec(first, second),
            5 => Source::Stdout(first),
            6 => Source::Stderr(first),
            7 => Source::Stdin(first),
            8 => Source::ClientStdin(first, second),
            9 => Source::ClientStdout(first, second),
            10 => Source::ClientStderr(first, second),
            11 => Source::Leaf(first, second),
            _ => return None,
        })
    }
}

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    pub(crate) fn new() -> Result<Poller, Errno> {
        epoll::create(epoll::CreateFlags::CLOEXEC).map(|epoll| Poller { epoll })
    }

    /// Watches a descriptor, level-triggered.
    pub(crate) fn add(&self, fd: impl AsFd, source: Source, flags: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(source.to_bits()), flags)
    }

    /// Changes what is watched for.
    pub(crate) fn modify(&self, fd: impl AsFd, source: Source, flags: EventFlags) -> Result<(), Errno> {
        epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(source.to_bits()), flags)
    }

    /// Stops watching. A child that was just cloned may hold a copy of a descriptor, which would keep
    /// the event alive past the close. Not being watched is no error.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        let _not_watched = epoll::delete(&self.epoll, fd);
    }

    /// Sleeps until something happens, or for so long.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Result<Vec<(Source, EventFlags)>, Errno> {
        let timeout = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        let mut events: Vec<epoll::Event> = Vec::with_capacity(BATCH);
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        }
        Ok(events
            .iter()
            .filter_map(|event| Some((Source::from_bits(event.data.u64())?, event.flags)))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_comes_back_from_its_number() {
        let most = KEY_MAX;
        for source in [
            Source::Listener,
            Source::Signals,
            Source::Connection(most),
            Source::Init(1),
            Source::Exec(most, most),
            Source::Stdout(7),
            Source::Stderr(most),
            Source::Stdin(0),
            Source::ClientStdin(1, 2),
            Source::ClientStdout(most, 1),
            Source::ClientStderr(1, most),
            Source::Leaf(most, most),
        ] {
            assert_eq!(Source::from_bits(source.to_bits()), Some(source));
        }
        assert_eq!(Source::from_bits(u64::MAX), None);
    }
}
