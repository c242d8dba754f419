//! A cluster to play with: `hack/cluster up` runs it in the background, and `hack/cluster down` ends it by SIGTERM.
//!
//! `cluster READY`: starts the cluster, writes the path of its kubeconfig to the file READY, and waits for SIGTERM or
//! SIGINT; then takes everything down, and fails if anything is left.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use carpel_e2e::cluster::Cluster;
use tokio::signal::unix::{SignalKind, signal};

fn main() {
    let ready = PathBuf::from(std::env::args_os().nth(1).expect("usage: cluster READY"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("tokio starts");
    let cluster = Cluster::start(runtime.handle());
    let said = [cluster.kubeconfig(), cluster.daemon.socket(), cluster.daemon.folder().to_owned()];
    let said = said.map(|path| path.to_string_lossy().into_owned() + "\n").concat();
    // Whole or not at all: whoever waits reads it at once.
    std::fs::write(ready.with_extension("new"), said).expect("say that it is ready");
    std::fs::rename(ready.with_extension("new"), &ready).expect("say that it is ready");
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).expect("listen to SIGTERM");
        let mut interrupt = signal(SignalKind::interrupt()).expect("listen to SIGINT");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    cluster.end();
}
