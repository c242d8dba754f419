//! What pods keep while they are up.

use std::fs;

use carpel_e2e::client::Pod;

use crate::life::{self, Mode};
use crate::peer::Peer;

/// Containers in each of these pods: what is kept for one must not grow with them.
pub(crate) const CONTAINERS: usize = 2;

/// The figures, memory in KiB.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Processes kept for each pod, besides the containers' own.
    pub(crate) helpers: f64,
    /// Memory that only those processes have, for each pod.
    pub(crate) private_kib: f64,
    /// Memory of those processes, what is shared divided by the sharers, for each pod.
    pub(crate) proportional_kib: f64,
    /// The daemon's resident set before these pods, after all that were measured before.
    pub(crate) idle_kib: f64,
    /// And with them.
    pub(crate) loaded_kib: f64,
}

/// Brings pods up, reads, and removes them.
pub(crate) async fn measure(peer: &Peer, mode: Mode, count: usize) -> Kept {
    let idle_kib = resident_kib(peer.pid());
    let mut pods: Vec<Pod> = Vec::new();
    for number in 0..count {
        let pod = peer.client.run_pod(life::pod(peer, mode, &format!("memory-{number}"))).await;
        for name in 0..CONTAINERS {
            peer.client.launch(&pod, life::container(&format!("c{name}"))).await;
        }
        pods.push(pod);
    }
    let helpers = peer.helpers();
    let (mut private, mut proportional) = (0.0, 0.0);
    for pid in &helpers {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a helper is there");
        private += field(&rollup, "Private_Clean:") + field(&rollup, "Private_Dirty:");
        proportional += field(&rollup, "Pss:");
    }
    let loaded_kib = resident_kib(peer.pid());
    for pod in pods {
        peer.client.stop_pod(&pod.id).await;
        peer.client.remove_pod(&pod.id).await;
    }
    #[allow(clippy::cast_precision_loss, reason = "small counts")]
    let (helpers, pods) = (helpers.len() as f64, count as f64);
    Kept {
        helpers: helpers / pods,
        private_kib: private / pods,
        proportional_kib: proportional / pods,
        idle_kib,
        loaded_kib,
    }
}

/// The resident set of a process.
pub(crate) fn resident_kib(pid: u32) -> f64 {
    field(&fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs"), "VmRSS:")
}

/// A field of a file of /proc whose values are in KiB.
fn field(text: &str, name: &str) -> f64 {
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}
