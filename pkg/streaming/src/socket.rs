//! A client's socket, under whatever it speaks: it knows when it was last used, and tells that its client has
//! gone even while nobody reads it.
//!
//! A client that went while the kernel's buffers were full is the exception: its end waits behind what it sent,
//! until its own kernel gives up (some minutes) and keepalive finds nobody there.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use rustix::net::{Shutdown, sockopt};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// A connection without traffic is asked for a sign of life after this time: a client whose end never reached us
/// is found out.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// Between two such questions.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// Questions without an answer until the connection is given up.
const KEEPALIVE_TRIES: u32 = 6;

/// The socket as hyper, TLS and the protocols see it.
#[derive(Debug)]
pub(crate) struct Socket {
    tcp: Arc<TcpStream>,
    used: Arc<LastUse>,
}

/// When the socket was last used.
#[derive(Debug)]
struct LastUse {
    epoch: Instant,
    /// Milliseconds after `epoch`.
    at: AtomicU64,
}

/// What is known of the client from outside the protocol.
#[derive(Debug, Clone)]
pub(crate) struct Presence {
    tcp: Option<Arc<TcpStream>>,
    used: Arc<LastUse>,
}

impl LastUse {
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn note(&self) {
        self.at.store(self.now(), Ordering::Relaxed);
    }
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream) -> Socket {
        // Small pieces of a terminal must not wait for each other; without keepalive, a client that vanished is
        // found out later. Neither is worth refusing it.
        let _slower = tcp.set_nodelay(true);
        let _later = sockopt::set_socket_keepalive(&tcp, true)
            .and_then(|()| sockopt::set_tcp_keepidle(&tcp, KEEPALIVE_AFTER))
            .and_then(|()| sockopt::set_tcp_keepintvl(&tcp, KEEPALIVE_EVERY))
            .and_then(|()| sockopt::set_tcp_keepcnt(&tcp, KEEPALIVE_TRIES));
        let used = LastUse { epoch: Instant::now(), at: AtomicU64::new(0) };
        Socket { tcp: Arc::new(tcp), used: Arc::new(used) }
    }

    pub(crate) fn presence(&self) -> Presence {
        Presence { tcp: Some(Arc::clone(&self.tcp)), used: Arc::clone(&self.used) }
    }
}

impl Presence {
    /// Of a client that is no socket: it is there as long as it is read.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn unknown() -> Presence {
        Presence { tcp: None, used: Arc::new(LastUse { epoch: Instant::now(), at: AtomicU64::new(0) }) }
    }

    /// Resolves when the client has closed its end, though what it sent before may still be unread.
    pub(crate) async fn gone(&self) {
        match &self.tcp {
            // Nobody asks for the priority events themselves, so only the end of reading (EPOLLRDHUP and
            // EPOLLHUP, epoll_ctl(2)) makes the socket ready in this sense.
            Some(tcp) => drop(tcp.ready(Interest::PRIORITY).await),
            None => std::future::pending().await,
        }
    }

    /// Resolves when nothing has gone either way for this time.
    pub(crate) async fn idle(&self, limit: Duration) {
        loop {
            // It may have been used after this look at the clock.
            let quiet = self.used.now().saturating_sub(self.used.at.load(Ordering::Relaxed));
            let quiet = Duration::from_millis(quiet);
            match limit.checked_sub(quiet) {
                Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
                Some(_) | None => return,
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            match self.tcp.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    self.used.note();
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Socket {
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            match send(&self.tcp) {
                Ok(sent) => {
                    self.used.note();
                    return Poll::Ready(Ok(sent));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |tcp| tcp.try_write(data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |tcp| tcp.try_write_vectored(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(rustix::net::shutdown(&*self.tcp, Shutdown::Write)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_used_at_this_very_moment_is_not_idle() {
        let presence = Presence::unknown();
        // What another thread notes between the two looks that `idle` takes.
        presence.used.at.store(presence.used.now() + 1000, Ordering::Relaxed);
        tokio::select! {
            biased;
            () = presence.idle(Duration::from_secs(3600)) => panic!("taken for idle"),
            () = tokio::task::yield_now() => {}
        }
    }
}
