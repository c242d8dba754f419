//! What is known of each pod, in memory.
//!
//! ```text
//!   Absent ──attach──► Intent ──made──► Attached
//!      ▲                 │                  │
//!      ├──── undo ───────┴────── detach ────┘        Damaged ──detach──► Absent
//!      └──── Leaving ◄────────────────┘
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::attachment::Attachment;
use crate::netlink::Socket;
use crate::record::Record;

/// How far a pod's network is.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// There is nothing of it, here or in the kernel.
    Absent,
    /// There may be any part of it.
    Intent(Arc<Record>),
    /// There is all of it.
    Attached(Arc<Record>, Arc<Attachment>),
    /// It is off the node for everybody else; the kernel is still tidying up, and the address is not free yet.
    Leaving,
    /// There is a record that cannot be read.
    Damaged,
}

/// One pod.
#[derive(Debug)]
pub(crate) struct Pod {
    /// Held by the one attach or detach that is under way.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
    /// Written by the holder of `turn` only; read by everybody. Held for a clone, never over a wait.
    state: Mutex<State>,
    /// A socket inside the pod's namespace, opened by the first question for counters. It keeps the
    /// namespace alive, so detach closes it.
    pub(crate) counters: Mutex<Option<Socket>>,
}

impl Pod {
    fn new(state: State) -> Arc<Pod> {
        Arc::new(Pod { turn: Arc::default(), state: Mutex::new(state), counters: Mutex::new(None) })
    }

    pub(crate) fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_state(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// All pods by id. The lock is held for one map operation.
#[derive(Debug, Default)]
pub(crate) struct Pods(Mutex<HashMap<String, Arc<Pod>>>);

impl Pods {
    pub(crate) fn insert(&self, id: &str, state: State) {
        self.map().insert(id.into(), Pod::new(state));
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Pod>> {
        self.map().get(id).cloned()
    }

    /// The pod, entered as absent if it was not known.
    pub(crate) fn find_or_insert(&self, id: &str) -> Arc<Pod> {
        self.map().entry(id.into()).or_insert_with(|| Pod::new(State::Absent)).clone()
    }

    /// Forgets an absent pod. Whoever waits for its turn finds that it is not the one in the map any more.
    pub(crate) fn forget(&self, id: &str, pod: &Arc<Pod>) {
        let mut map = self.map();
        if map.get(id).is_some_and(|found| Arc::ptr_eq(found, pod)) {
            map.remove(id);
        }
    }

    pub(crate) fn is_current(&self, id: &str, pod: &Arc<Pod>) -> bool {
        self.map().get(id).is_some_and(|found| Arc::ptr_eq(found, pod))
    }

    /// Every pod of which something may exist, in order.
    pub(crate) fn known(&self) -> Vec<String> {
        let map = self.map();
        let present = map.iter().filter(|(_, pod)| !matches!(pod.state(), State::Absent | State::Leaving));
        let mut ids: Vec<String> = present.map(|(id, _)| id.clone()).collect();
        ids.sort_unstable();
        ids
    }

    /// Every pod that is leaving.
    pub(crate) fn leaving(&self) -> Vec<Arc<Pod>> {
        self.map().values().filter(|pod| matches!(pod.state(), State::Leaving)).cloned().collect()
    }

    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Pod>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
