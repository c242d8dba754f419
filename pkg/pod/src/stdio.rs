//! A container's pipes and terminals as tokio streams.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll},
};

use rustix::io::Errno;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::unix::pipe::{Receiver, Sender},
};

/// The read end of a process's output. The end of a terminal reads as the end of the stream.
#[derive(Debug)]
pub struct StdioReader(Receiver);

/// The write end of a process's input. Dropping it closes a pipe; a terminal stays.
#[derive(Debug)]
pub struct StdioWriter(Sender);

impl StdioReader {
    /// Takes over a pipe or a terminal. Must be called in a tokio runtime.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // Unchecked, because a terminal is read like a pipe and is none.
        Ok(Self(Receiver::from_owned_fd_unchecked(fd)?))
    }

    /// Reads without waiting, past what the runtime knows of it; `None` if nothing is there.
    pub(crate) fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::read(&self.0, &mut *buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                // A terminal whose other side has gone, pty(7).
                Err(Errno::IO) => return Ok(Some(0)),
                Err(err) => return Err(err.into()),
            }
        }
    }
}

impl StdioWriter {
    /// Takes over a pipe or a terminal. Must be called in a tokio runtime.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(Sender::from_owned_fd_unchecked(fd)?))
    }
}

impl AsyncRead for StdioReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(context, buffer) {
            // A terminal whose other side has gone, pty(7).
            Poll::Ready(Err(err)) if err.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl AsyncWrite for StdioWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
