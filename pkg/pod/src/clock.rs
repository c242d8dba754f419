//! The time, for records and people.

use std::sync::atomic::{AtomicI64, Ordering};

use rustix::time::ClockId;

/// Nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> i64 {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

/// Gives out creation times: no two are the same, and a later one is always greater, whatever the
/// node's clock does. The kubelet sorts attempts by them.
#[derive(Debug, Default)]
pub(crate) struct CreationClock {
    last_ns: AtomicI64,
}

impl CreationClock {
    /// Now, or one nanosecond after the last answer.
    pub(crate) fn next_ns(&self) -> i64 {
        let now = now_ns();
        let step = |last: i64| Some(now.max(last + 1));
        match self.last_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step) {
            Ok(last) | Err(last) => now.max(last + 1),
        }
    }

    /// Every answer from now on is greater than `at_ns`.
    pub(crate) fn pass(&self, at_ns: i64) {
        self.last_ns.fetch_max(at_ns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creation_times_rise_even_when_the_clock_goes_back() {
        let clock = CreationClock::default();
        let future = now_ns() + 1_000_000_000_000;
        clock.pass(future);
        assert_eq!(clock.next_ns(), future + 1);
        assert_eq!(clock.next_ns(), future + 2);
    }
}
