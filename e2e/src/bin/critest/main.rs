//! Runs critest against a daemon of its own.
//!
//! ```text
//! critest TOOLS IMAGES [--nodes N] [--websocket] [--rounds N] [GINKGO ARGUMENT…]
//! ```
//!
//! `hack/critest` calls it with the folder of the built suite and the layout of its images. A loopback registry serves the
//! images under the names the suite pulls; the daemon has a mirror for each of their registries. All rounds are on the
//! same daemon, which must have nothing left after the last. No spec is tried twice. The last line is
//! `critest: N passed, N failed, N skipped`, the sum of all rounds; the exit code tells whether any failed or anything was
//! left behind.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports to people")]

mod plan;
mod report;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::layout::Layout;
use carpel_e2e::registry::Registry;

use plan::Plan;
use report::Tally;

/// The registries the suite names.
const HOSTS: [&str; 4] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io", "public.ecr.aws"];

#[tokio::main]
async fn main() -> ExitCode {
    let plan = match Plan::parse(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(problem) => {
            eprintln!("critest: {problem}\n{}", plan::USAGE);
            return ExitCode::from(64);
        }
    };
    println!("critest: on {}", machine());
    let registry = Registry::open();
    let digest = serve(&plan.images, &registry);
    let mut daemon = Daemon::start(Options::default()).await;
    for host in HOSTS {
        daemon.mirror(host, &registry.url());
    }
    let mut sum = Tally::default();
    for number in 1..=plan.rounds {
        let began = Instant::now();
        let tally = round(&plan, &daemon, &digest, number);
        // What failed may have left pods, in the way of the next round.
        daemon.client.remove_everything().await;
        let seconds = began.elapsed().as_secs();
        println!("critest: round {number} of {} ({plan}): {tally} in {seconds} s", plan.rounds);
        if !tally.failed.is_empty() {
            keep_log(&daemon, number);
        }
        sum.add(tally);
    }
    daemon.terminate().await;
    sum.failed.extend(daemon.leftovers().into_iter().map(|what| format!("left on the machine: {what}")));
    sum.print();
    println!("critest: {sum}");
    ExitCode::from(u8::from(!sum.failed.is_empty()))
}

/// What the results depend on beside us.
fn machine() -> String {
    let kernel = rustix::system::uname();
    let cgroups = if carpel_e2e::kernel::is_cgroup_v1() { "v1" } else { "v2" };
    format!("Linux {}, cgroup {cgroups}", kernel.release().to_string_lossy())
}

/// Puts all images of a layout into the registry; returns the digest of the one that is pulled by digest.
fn serve(images: &Path, registry: &Registry) -> String {
    let images = Layout::open(images);
    for name in images.names() {
        // No two of these registries have a repository of the same name with different content.
        let (_, repository) = name.split_once('/').expect("the names are full references");
        registry.copy(images.folder(), name, repository, &["--preserve-digests"]);
    }
    let by_digest = images.names().find(|name| name.ends_with("/test-image-digest"));
    let digest = by_digest.and_then(|name| images.digest_of(name));
    digest.expect("the layout has the image pulled by digest").to_owned()
}

/// Runs the suite once.
fn round(plan: &Plan, daemon: &Daemon, digest: &str, number: usize) -> Tally {
    // critest keeps in TMPDIR what it hands to parallel nodes, and has ginkgo put the report there.
    let folder = daemon.folder().join(format!("critest-{number}"));
    std::fs::create_dir(&folder).expect("make the round's folder");
    let endpoint = format!("unix://{}", daemon.socket().display());
    let status = Command::new(plan.tools.join("critest"))
        .env("CRITEST_IMAGE_DIGEST", digest)
        .env("PATH", plan.path())
        .env("TMPDIR", &folder)
        .arg(format!("-runtime-endpoint={endpoint}"))
        .arg(format!("-image-endpoint={endpoint}"))
        .arg(format!("-ginkgo.json-report={}", report::NAME))
        .args(["-config=/dev/null", "-ginkgo.no-color"])
        .args(plan.arguments())
        .current_dir(&folder)
        .status()
        .expect("critest runs");
    let mut tally = report::read(&folder);
    if !status.success() && tally.failed.is_empty() {
        tally.failed.push(format!("the suite itself: {status}"));
    }
    if tally.is_empty() {
        tally.failed.push("no spec ran".to_owned());
    }
    // A report is some megabytes.
    std::fs::remove_dir_all(&folder).expect("remove the round's folder");
    tally
}

/// Saves the daemon's log as it is now, for the log goes with the daemon's folder.
fn keep_log(daemon: &Daemon, number: usize) {
    let kept = std::env::temp_dir().join(format!("critest-{}-round-{number}.log", std::process::id()));
    match std::fs::copy(daemon.log_path(), &kept) {
        Ok(_) => println!("critest: carpeld's log up to here: {}", kept.display()),
        Err(err) => println!("critest: carpeld's log cannot be kept: {err}\n{}", daemon.log_tail()),
    }
}
