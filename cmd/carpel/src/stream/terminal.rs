//! Our own terminal: raw while a session has it, as it was before on every way out.
//!
//! The state from before is kept in one place, so that the panic hook can give it back too. Signals end a
//! session in order ([`super::signals`]), which drops the [`Raw`].

use std::{
    io, panic,
    sync::{Mutex, PoisonError},
};

use rustix::{
    stdio::stdin,
    termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr},
};

/// How the terminal was before it became raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal of standard input is raw as long as this lives.
#[derive(Debug)]
pub(super) struct Raw(());

impl Raw {
    /// Every key goes to the command, Ctrl-C and Ctrl-Z too.
    pub(super) fn enter() -> io::Result<Raw> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let guard = Raw(());
        tcsetattr(stdin(), OptionalActions::Drain, &raw)?;
        Ok(guard)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back; once.
fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // A terminal that is gone needs nothing.
        let _gone = tcsetattr(stdin(), OptionalActions::Drain, &before);
    }
}

/// Has a panic give the terminal back before it is told: its message would be a staircase otherwise.
pub(crate) fn restore_on_panic() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        restore();
        tell(info);
    }));
}

/// Whether standard input is a terminal.
pub(super) fn is_input() -> bool {
    isatty(stdin())
}

/// The size of our terminal as the protocol tells it, if we have one.
pub(super) fn size_message() -> Option<String> {
    let size = tcgetwinsize(rustix::stdio::stdout()).or_else(|_| tcgetwinsize(stdin())).ok()?;
    Some(format!("{{\"Width\":{},\"Height\":{}}}\n", size.ws_col, size.ws_row))
}
