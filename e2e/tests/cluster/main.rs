//! A cluster of one node on Carpel, driven by `kubectl`: what people and controllers do with pods.
//!
//! Each check is named for what it shows. Afterwards everything is deleted, and nothing may be left on the machine.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

mod streams;
mod workloads;

use std::process::ExitCode;

use carpel_e2e::checks::{Check, Run};
use carpel_e2e::cluster::Cluster;
use carpel_e2e::kubelet::images::BUSYBOX;
use serde_json::{Value, json};

fn main() -> ExitCode {
    let mut run = Run::from_arguments();
    let together = run.select([streams::checks(), workloads::together()].into_iter().flatten().collect());
    let in_turn = run.select(workloads::in_turn());
    if together.is_empty() && in_turn.is_empty() {
        return run.finish();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let cluster = Cluster::start(runtime.handle());
    run.together(&cluster, &together, |_| ());
    for (name, check) in in_turn {
        run.alone(name, || check(&cluster));
    }
    run.alone("nothing_is_left_behind", || cluster.end());
    run.finish()
}

/// Names functions as checks.
macro_rules! checks {
    ($($check:ident),* $(,)?) => {
        vec![$((stringify!($check), $check as fn(&carpel_e2e::cluster::Cluster))),*]
    };
}
pub(crate) use checks;

/// Checks that share the cluster.
type Shared = Vec<Check<fn(&Cluster)>>;

/// A script that waits to be ended, and ends at once when it is.
const WAIT: &str = "trap 'exit 0' TERM; sleep 100000 & wait";

/// A container that runs a shell script.
fn sh(name: &str, script: &str) -> Value {
    json!({ "name": name, "image": BUSYBOX, "command": ["sh", "-c", script] })
}
