//! The signals that a session heeds.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Those that end a program, and the terminal's change of size.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    resized: Signal,
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// SIGINT: Ctrl-C where the terminal is not raw.
    Interrupt,
    /// Another one that asks for the end, by its number.
    End(i32),
    /// SIGWINCH.
    Resized,
}

impl Signals {
    /// From now on they do not end the program by themselves.
    pub(super) fn listen() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            resized: signal(SignalKind::window_change())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.interrupt.recv() => Event::Interrupt,
            _ = self.terminate.recv() => Event::End(SignalKind::terminate().as_raw_value()),
            _ = self.hangup.recv() => Event::End(SignalKind::hangup().as_raw_value()),
            _ = self.quit.recv() => Event::End(SignalKind::quit().as_raw_value()),
            _ = self.resized.recv() => Event::Resized,
        }
    }
}
