//! A kubelet on Carpel, with static pods: what nodes ask of a runtime, as the kubelet sees it come out.
//!
//! One kubelet runs all pods at the same time. Afterwards it is restarted under them, with other ways of asking
//! (events instead of lists, statistics by CRI); then Carpel is killed under it. Each check is named for what it shows.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

mod lifecycle;
mod logs;
mod network;
mod node;
mod probes;
mod recovery;
mod resources;
mod security;
mod stats;
mod volumes;

use std::process::ExitCode;

use carpel_e2e::checks::{Check, Run};

use crate::node::Node;

fn main() -> ExitCode {
    let mut run = Run::from_arguments();
    let together = run.select(
        [
            lifecycle::checks(),
            probes::checks(),
            resources::checks(),
            volumes::checks(),
            network::checks(),
            security::checks(),
            logs::checks(),
            stats::checks(),
        ]
        .into_iter()
        .flatten()
        .collect(),
    );
    let afterwards = run.select(recovery::checks());
    if together.is_empty() && afterwards.is_empty() {
        return run.finish();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut node = Node::start(runtime.handle());
    run.together(&node, &together, |node| node.kubelet().remove_own());
    for (name, check) in afterwards {
        run.alone(name, || check(&mut node));
    }
    run.alone("nothing_is_left_behind", || node.end());
    run.finish()
}

/// Names functions as checks.
macro_rules! checks {
    ($($check:ident),* $(,)?) => {
        vec![$((stringify!($check), $check)),*]
    };
}
pub(crate) use checks;

/// Checks that share the node.
type Shared = Vec<Check<fn(&Node)>>;
/// Checks that change it.
type Steps = Vec<Check<fn(&mut Node)>>;
