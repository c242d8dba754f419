//! What happened to pods and containers, for whoever listens.
//!
//! ```text
//!  owner ── publish ──▶ Events ──┬─▶ queue of subscriber 1 ── next() ──▶
//!                                └─▶ queue of subscriber 2
//! ```
//!
//! Each event carries the whole pod as it was then. A subscriber that does not keep up loses the
//! older events of a pod, never its newest: memory is bounded by [`QUEUE_MAX`] events, or one for
//! each pod if there are more pods than that.

use std::{
    collections::{HashSet, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll, Waker},
};

use futures::Stream;

use crate::{
    PodId,
    snapshot::{ContainerSnapshot, PodSnapshot},
};

/// Events that wait for a subscriber before older ones of the same pod are dropped.
pub(crate) const QUEUE_MAX: usize = 1024;

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// Rises by one with each event of this daemon.
    pub sequence: u64,
    /// What happened.
    pub kind: EventKind,
    /// To what: a container's id, or the pod's own.
    pub subject: String,
    /// When: nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// The pod afterwards; of a removed pod, before.
    pub pod: Arc<PodSnapshot>,
    /// All its containers afterwards.
    pub containers: Vec<Arc<ContainerSnapshot>>,
}

/// What happened, in CRI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// It was made.
    Created,
    /// It runs.
    Started,
    /// It ended.
    Stopped,
    /// It was removed.
    Deleted,
}

/// Where owners tell what happened.
#[derive(Debug, Default)]
pub(crate) struct Events {
    // Locked for the length of a push: publishers and subscribers never wait for each other.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sequence: u64,
    subscribers: Vec<Weak<Mutex<Queue>>>,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Arc<Event>>,
    waker: Option<Waker>,
    compact_at: usize,
}

/// A subscription. Events from its making on; it never ends.
#[derive(Debug)]
pub struct EventStream {
    queue: Arc<Mutex<Queue>>,
}

impl Events {
    /// Tells every subscriber.
    pub(crate) fn publish(
        &self,
        kind: EventKind,
        subject: String,
        at_ns: i64,
        pod: Arc<PodSnapshot>,
        containers: Vec<Arc<ContainerSnapshot>>,
    ) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.sequence += 1;
        let sequence = inner.sequence;
        let event = Arc::new(Event { sequence, kind, subject, at_ns, pod, containers });
        inner.subscribers.retain(|subscriber| match subscriber.upgrade() {
            Some(queue) => {
                push(&queue, Arc::clone(&event));
                true
            }
            None => false,
        });
    }

    pub(crate) fn subscribe(&self) -> EventStream {
        let queue = Arc::new(Mutex::new(Queue { compact_at: QUEUE_MAX, ..Queue::default() }));
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.subscribers.push(Arc::downgrade(&queue));
        EventStream { queue }
    }
}

fn push(queue: &Mutex<Queue>, event: Arc<Event>) {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    queue.events.push_back(event);
    if queue.events.len() > queue.compact_at {
        keep_newest_of_each_pod(&mut queue.events);
        // Where nothing can be dropped, do not look again at every single event.
        queue.compact_at = QUEUE_MAX.max(queue.events.len() * 2);
    }
    if let Some(waker) = queue.waker.take() {
        waker.wake();
    }
}

/// Drops every event that a later one of the same pod makes old.
fn keep_newest_of_each_pod(events: &mut VecDeque<Arc<Event>>) {
    let mut seen: HashSet<PodId> = HashSet::new();
    let mut kept: VecDeque<Arc<Event>> = VecDeque::new();
    for event in events.drain(..).rev() {
        if seen.insert(event.pod.id.clone()) {
            kept.push_front(event);
        }
    }
    *events = kept;
}

impl EventStream {
    /// The next event.
    pub async fn next(&mut self) -> Arc<Event> {
        std::future::poll_fn(|context| self.poll_event(context)).await
    }

    fn poll_event(&self, context: &mut Context<'_>) -> Poll<Arc<Event>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(event) = queue.events.pop_front() {
            if queue.events.is_empty() {
                queue.compact_at = QUEUE_MAX;
            }
            return Poll::Ready(event);
        }
        queue.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Stream for EventStream {
    type Item = Arc<Event>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Arc<Event>>> {
        self.poll_event(context).map(Some)
    }
}

#[cfg(test)]
mod tests;
