//! Runs critest against a daemon of its own: `critest TOOLS IMAGES [GINKGO ARGUMENT…]`.
//!
//! `hack/critest` calls it with the folder of the built suite and the layout of its images. A loopback registry serves the
//! images under the names the suite pulls; the daemon has a mirror for each of their registries. The last line is
//! `critest: N passed, N failed, N skipped`; the exit code tells whether any failed or anything was left behind.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports to people")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::layout::Layout;
use carpel_e2e::registry::Registry;
use serde_json::Value;

/// The registries the suite names.
const HOSTS: [&str; 4] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io", "public.ecr.aws"];

/// What became of the specs that the arguments selected.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    skipped: Vec<String>,
    failed: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(tools), Some(images)) =
        (arguments.next().map(PathBuf::from), arguments.next().map(PathBuf::from))
    else {
        eprintln!("usage: critest TOOLS IMAGES [GINKGO ARGUMENT…]");
        return ExitCode::from(64);
    };
    let arguments: Vec<String> = arguments.collect();

    let registry = Registry::open();
    let images = Layout::open(&images);
    let digest = images.names().find(|name| name.ends_with("/test-image-digest"));
    let digest =
        digest.and_then(|name| images.digest_of(name)).expect("the layout has the image pulled by digest");
    for name in images.names() {
        // No two of these registries have a repository of the same name with different content.
        let (_, repository) = name.split_once('/').expect("the names are full references");
        registry.copy(images.folder(), name, repository, &["--preserve-digests"]);
    }
    let mut daemon = Daemon::start(Options::default()).await;
    for host in HOSTS {
        daemon.mirror(host, &registry.url());
    }
    let report = daemon.folder().join("report.json");
    let endpoint = format!("unix://{}", daemon.socket().display());
    let status = Command::new(tools.join("critest"))
        .env("CRITEST_IMAGE_DIGEST", digest)
        .arg(format!("-runtime-endpoint={endpoint}"))
        .arg(format!("-image-endpoint={endpoint}"))
        .arg(format!("-ginkgo.json-report={}", report.display()))
        .args(["-config=/dev/null", "-ginkgo.no-color"])
        .args(&arguments)
        .current_dir(daemon.folder())
        .status()
        .expect("critest runs");

    let tally = tally(&report);
    for (what, names) in [("failed", &tally.failed), ("skipped", &tally.skipped)] {
        names.iter().for_each(|name| println!("critest: {what}: {name}"));
    }
    let mut failed = tally.failed.len();
    if !status.success() && failed == 0 {
        println!("critest: failed: the suite itself: {status}");
        failed += 1;
    }
    if failed > 0 {
        println!("---- end of carpeld's log\n{}\n----", daemon.log_tail());
    }
    // The suite leaves nothing behind; neither may the daemon.
    daemon.client.remove_everything().await;
    daemon.terminate().await;
    let left = daemon.leftovers();
    left.iter().for_each(|what| println!("critest: failed: left on the machine: {what}"));
    failed += usize::from(!left.is_empty());
    println!("critest: {} passed, {failed} failed, {} skipped", tally.passed, tally.skipped.len());
    ExitCode::from(u8::from(failed > 0))
}

/// Reads ginkgo's report. A spec that the arguments did not select is "skipped" there too, but without a reason.
fn tally(report: &Path) -> Tally {
    let mut tally = Tally::default();
    let Ok(bytes) = std::fs::read(report) else { return tally };
    let report: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let specs = report.as_array().into_iter().flatten();
    for spec in specs.flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten()) {
        let containers = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten();
        let mut name: Vec<&str> = containers.filter_map(Value::as_str).collect();
        name.extend(spec["LeafNodeText"].as_str());
        let name = name.join(" ");
        let reason = spec["Failure"]["Message"].as_str().unwrap_or_default();
        let is_spec = spec["LeafNodeType"] == "It";
        match spec["State"].as_str().unwrap_or_default() {
            "passed" if is_spec => tally.passed += 1,
            "passed" => {}
            "skipped" | "pending" if reason.is_empty() => {}
            "skipped" | "pending" => tally.skipped.push(format!("{name}: {reason}")),
            state => tally.failed.push(format!("{name}: {state}: {reason}")),
        }
    }
    tally
}
