//! Work that is done once for everybody who asks for it at the same time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};

type Work<T> = Shared<BoxFuture<'static, T>>;

struct Flight<T: Clone, N> {
    serial: u64,
    /// Weak: work that nobody waits for is dropped, and with it whatever it was doing.
    work: WeakShared<BoxFuture<'static, T>>,
    notes: N,
}

struct Table<K, T: Clone, N> {
    flights: HashMap<K, Flight<T, N>>,
    serial: u64,
}

/// Work under way, by key. `N` is what can be seen of it from outside.
pub(super) struct Flights<K, T: Clone, N> {
    table: Arc<Mutex<Table<K, T, N>>>,
}

/// A place in a flight.
pub(super) struct Joined<T: Clone, N> {
    pub(super) work: Work<T>,
    pub(super) notes: N,
    /// Whether the flight began with this call.
    pub(super) leads: bool,
}

impl<K, T: Clone, N> Default for Flights<K, T, N> {
    fn default() -> Self {
        Flights { table: Arc::new(Mutex::new(Table { flights: HashMap::new(), serial: 0 })) }
    }
}

fn lock<K, T: Clone, N>(table: &Mutex<Table<K, T, N>>) -> MutexGuard<'_, Table<K, T, N>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K, T, N> Flights<K, T, N>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
    N: Clone + Send + 'static,
{
    /// Joins the flight of that key, or begins one.
    pub(super) fn join(&self, key: K, begin: impl FnOnce() -> (N, BoxFuture<'static, T>)) -> Joined<T, N> {
        let mut table = lock(&self.table);
        if let Some(flight) = table.flights.get(&key)
            && let Some(work) = flight.work.upgrade()
        {
            return Joined { work, notes: flight.notes.clone(), leads: false };
        }
        // Left by work that was dropped.
        table.flights.retain(|_, flight| flight.work.upgrade().is_some());
        table.serial += 1;
        let serial = table.serial;
        let (notes, work) = begin();
        let (home, own) = (self.table.clone(), key.clone());
        let work = async move {
            let outcome = work.await;
            // Who comes later must not get an old answer.
            let mut table = lock(&home);
            if table.flights.get(&own).is_some_and(|flight| flight.serial == serial) {
                table.flights.remove(&own);
            }
            outcome
        };
        let work = work.boxed().shared();
        if let Some(weak) = work.downgrade() {
            table.flights.insert(key, Flight { serial, work: weak, notes: notes.clone() });
        }
        Joined { work, notes, leads: true }
    }

    /// What can be seen of all flights.
    pub(super) fn notes(&self) -> Vec<N> {
        let table = lock(&self.table);
        let alive = table.flights.values().filter(|flight| flight.work.upgrade().is_some());
        alive.map(|flight| flight.notes.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn work_survives_its_first_waiter_and_is_done_once() {
        let flights: Flights<u8, u8, ()> = Flights::default();
        let runs = Arc::new(AtomicUsize::new(0));
        let (release, gate) = tokio::sync::oneshot::channel::<()>();
        let counter = runs.clone();
        let first = flights.join(1, move || {
            let work = async move {
                counter.fetch_add(1, Ordering::Relaxed);
                gate.await.unwrap();
                7
            };
            ((), work.boxed())
        });
        let second = flights.join(1, || unreachable!("there is a flight"));
        assert!(first.leads && !second.leads);
        let waiter = tokio::spawn(first.work);
        tokio::task::yield_now().await;
        waiter.abort();
        assert!(waiter.await.is_err());
        release.send(()).unwrap();
        assert_eq!(second.work.await, 7);
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        let third = flights.join(1, || ((), async { 8 }.boxed()));
        assert_eq!(third.work.await, 8);
    }

    #[tokio::test]
    async fn work_without_waiters_is_dropped() {
        let flights: Flights<u8, u8, ()> = Flights::default();
        let (held, gone) = tokio::sync::oneshot::channel::<()>();
        let joined = flights.join(1, move || {
            let work = async move {
                std::future::pending::<()>().await;
                drop(held);
                1
            };
            ((), work.boxed())
        });
        drop(joined);
        assert!(gone.await.is_err());
        assert!(flights.notes().is_empty());
    }
}
