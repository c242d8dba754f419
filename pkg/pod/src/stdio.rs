//! A container's pipes and terminals as tokio streams.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

/// The read end of a process's output. The end of a terminal reads as the end of the stream.
#[derive(Debug)]
pub struct StdioReader(AsyncFd<OwnedFd>);

/// The write end of a process's input. Dropping it closes a pipe; a terminal stays.
#[derive(Debug)]
pub struct StdioWriter(AsyncFd<OwnedFd>);

impl StdioReader {
    /// Takes over a pipe or a terminal. Must be called in a tokio runtime.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(AsyncFd::with_interest(fd, Interest::READABLE)?))
    }

    /// Reads what is there without waiting: `None` if nothing is, zero at the end.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match read(self.0.get_ref().as_fd(), buffer) {
            Ok(count) => Ok(Some(count)),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(err) => Err(err),
        }
    }
}

/// read(2), where a terminal whose other side has gone (`EIO`, pty(7)) is at its end.
fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(&fd, &mut *buffer) {
            Ok(count) => return Ok(count),
            Err(Errno::IO) => return Ok(0),
            Err(Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

impl StdioWriter {
    /// Takes over a pipe or a terminal. Must be called in a tokio runtime.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(AsyncFd::with_interest(fd, Interest::WRITABLE)?))
    }
}

impl AsyncRead for StdioReader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            match guard.try_io(|fd| read(fd.get_ref().as_fd(), room)) {
                Ok(count) => {
                    buffer.advance(count?);
                    return Poll::Ready(Ok(()));
                }
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for StdioWriter {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
