//! Flow control (draft 3.1, section 2.6.8): how much a side may send before the other says that it wants more.
//!
//! The clients that there are (client-go on moby/spdystream) neither open windows nor heed them. So what is sent is
//! held back only for a client that has shown that it keeps windows, by a frame about them; and what is received is
//! held back by TCP alone: the windows that we open are as wide as they can be, and are opened again long before they
//! are used up.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// What each window is until a side says otherwise, in bytes.
pub(super) const DEFAULT_BYTES: u32 = 64 << 10;
/// The widest that a window can be.
pub(super) const MAX_BYTES: u32 = 0x7fff_ffff;
/// After so much was received a window is opened again by as much.
const REOPEN_BYTES: u32 = 1 << 30;

/// A window would be wider than [`MAX_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overflow;

/// What may still be sent on a connection and on its streams.
#[derive(Debug)]
pub(super) struct Windows {
    // Held for a few additions only.
    state: Mutex<State>,
    opened: Notify,
}

#[derive(Debug)]
struct State {
    /// Whether the client keeps windows.
    kept: bool,
    /// What new streams begin with.
    initial: i64,
    /// Of all streams together. Less than nothing if more was sent before the client was known to keep windows, or if
    /// it made them smaller.
    connection: i64,
    /// Of each stream that is being sent on; `None`: the client has broken it off.
    streams: HashMap<u32, Option<i64>>,
}

/// One stream's window. Forgotten when it is dropped.
#[derive(Debug)]
pub(crate) struct Window {
    stream: u32,
    windows: Arc<Windows>,
}

impl Windows {
    pub(super) fn new() -> Arc<Windows> {
        let state = State {
            kept: false,
            initial: DEFAULT_BYTES.into(),
            connection: DEFAULT_BYTES.into(),
            streams: HashMap::new(),
        };
        Arc::new(Windows { state: Mutex::new(state), opened: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The window of a new stream.
    pub(super) fn of(self: &Arc<Self>, stream: u32) -> Arc<Window> {
        let mut state = self.state();
        let initial = state.initial;
        state.streams.insert(stream, Some(initial));
        drop(state);
        Arc::new(Window { stream, windows: Arc::clone(self) })
    }

    /// The client wants more of all streams together.
    pub(super) fn open_connection(&self, bytes: u32) -> Result<(), Overflow> {
        let mut state = self.state();
        state.kept = true;
        state.connection = widened(state.connection, bytes.into())?;
        self.opened.notify_waiters();
        Ok(())
    }

    /// The client wants more of a stream; of one that has ended it may say so late.
    pub(super) fn open_stream(&self, stream: u32, bytes: u32) -> Result<(), Overflow> {
        let mut state = self.state();
        state.kept = true;
        if let Some(Some(window)) = state.streams.get_mut(&stream) {
            *window = widened(*window, bytes.into())?;
        }
        self.opened.notify_waiters();
        Ok(())
    }

    /// The client says what streams begin with: it holds for those that are open, too.
    pub(super) fn set_initial(&self, bytes: u32) -> Result<(), Overflow> {
        let mut state = self.state();
        state.kept = true;
        let initial = widened(0, bytes.into())?;
        let change = initial - std::mem::replace(&mut state.initial, initial);
        for window in state.streams.values_mut().flatten() {
            *window = widened(*window, change)?;
        }
        self.opened.notify_waiters();
        Ok(())
    }

    /// The client takes nothing more of a stream.
    pub(super) fn break_off(&self, stream: u32) {
        if let Some(window) = self.state().streams.get_mut(&stream) {
            *window = None;
        }
        self.opened.notify_waiters();
    }
}

fn widened(window: i64, bytes: i64) -> Result<i64, Overflow> {
    let wider = window + bytes;
    if wider <= MAX_BYTES.into() { Ok(wider) } else { Err(Overflow) }
}

impl Window {
    /// How much of `wanted` bytes (not 0) may be sent now, once it is any; that much is then spent. `None`: the
    /// client has broken the stream off.
    pub(crate) async fn spend(&self, wanted: usize) -> Option<usize> {
        loop {
            // Before the look, so that no opening after it is missed.
            let mut opened = std::pin::pin!(self.windows.opened.notified());
            opened.as_mut().enable();
            let spent = self.windows.state().spend(self.stream, wanted)?;
            if spent > 0 {
                return Some(spent);
            }
            opened.await;
        }
    }
}

impl State {
    fn spend(&mut self, stream: u32, wanted: usize) -> Option<usize> {
        let window = self.streams.get_mut(&stream)?.as_mut()?;
        let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
        let spent = if self.kept { wanted.min(*window).min(self.connection).max(0) } else { wanted };
        *window = window.saturating_sub(spent);
        self.connection = self.connection.saturating_sub(spent);
        Some(usize::try_from(spent).unwrap_or_default())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.windows.state().streams.remove(&self.stream);
    }
}

/// What was received since a window was opened last.
#[derive(Debug, Default)]
pub(super) struct Received(u32);

impl Received {
    /// Counts a frame; the bytes by which the window is to be opened again, if that is now.
    pub(super) fn count(&mut self, bytes: usize) -> Option<u32> {
        self.0 = self.0.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        (self.0 >= REOPEN_BYTES).then(|| std::mem::take(&mut self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What may be sent at once; 0: it has to wait.
    async fn at_once(window: &Window, wanted: usize) -> Option<usize> {
        tokio::select! {
            biased;
            spent = window.spend(wanted) => spent,
            () = tokio::task::yield_now() => Some(0),
        }
    }

    #[tokio::test]
    async fn a_client_without_windows_is_held_back_by_nothing() {
        let windows = Windows::new();
        let window = windows.of(1);
        assert_eq!(at_once(&window, 1 << 30).await, Some(1 << 30));
        assert_eq!(at_once(&window, 1 << 30).await, Some(1 << 30));
    }

    #[tokio::test]
    async fn a_stream_and_the_connection_hold_back() {
        let windows = Windows::new();
        let (one, two) = (windows.of(1), windows.of(3));
        windows.set_initial(100).unwrap();
        assert_eq!(at_once(&one, 1000).await, Some(100), "open streams have the new window too");
        assert_eq!(at_once(&one, 1).await, Some(0));
        assert_eq!(at_once(&two, 7).await, Some(7), "one does not hold the other back");
        windows.open_stream(1, 5).unwrap();
        assert_eq!(at_once(&one, 1000).await, Some(5));
        windows.open_stream(3, MAX_BYTES - 93).unwrap();
        let left = DEFAULT_BYTES as usize - 112;
        assert_eq!(at_once(&two, 1 << 20).await, Some(left), "the connection's");
        assert_eq!(at_once(&two, 1).await, Some(0));
        windows.open_connection(2).unwrap();
        assert_eq!(at_once(&two, 10).await, Some(2));
    }

    #[tokio::test]
    async fn a_window_that_became_smaller_is_paid_back_first() {
        let windows = Windows::new();
        let window = windows.of(1);
        windows.set_initial(1000).unwrap();
        assert_eq!(at_once(&window, 600).await, Some(600));
        windows.set_initial(100).unwrap();
        windows.open_stream(1, 500).unwrap();
        assert_eq!(at_once(&window, 1).await, Some(0));
        windows.open_stream(1, 3).unwrap();
        assert_eq!(at_once(&window, 10).await, Some(3));
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_an_opening_and_of_the_end() {
        let windows = Windows::new();
        let window = windows.of(1);
        windows.set_initial(0).unwrap();
        let (spent, opened) = tokio::join!(window.spend(10), async { windows.open_stream(1, 4) });
        assert_eq!((spent, opened), (Some(4), Ok(())));
        let (spent, ()) = tokio::join!(window.spend(10), async { windows.break_off(1) });
        assert_eq!(spent, None);
    }

    #[test]
    fn no_window_is_wider_than_can_be_said() {
        let windows = Windows::new();
        let window = windows.of(1);
        assert_eq!(windows.open_stream(1, MAX_BYTES), Err(Overflow));
        assert_eq!(windows.open_connection(MAX_BYTES), Err(Overflow));
        assert_eq!(windows.set_initial(MAX_BYTES + 1), Err(Overflow));
        windows.open_stream(1, 1).unwrap();
        assert_eq!(windows.set_initial(MAX_BYTES), Err(Overflow), "1 more than the initial one");
        drop(window);
        assert_eq!(windows.open_stream(1, MAX_BYTES), Ok(()), "it has ended");
        assert!(windows.state().streams.is_empty());
    }

    #[test]
    fn windows_are_opened_again_by_what_was_received() {
        let mut received = Received::default();
        assert_eq!(received.count(REOPEN_BYTES as usize - 1), None);
        assert_eq!(received.count(10), Some(REOPEN_BYTES + 9));
        assert_eq!(received.count(0), None);
    }
}
