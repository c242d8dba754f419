//! One test: a daemon of its own, the test's steps, and the proof that nothing is left.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::busybox;
use crate::daemon::{Daemon, Options};
use crate::layout::Layout;
use crate::registry::{Access, Registry};

/// The image most containers of tests run; a mirror serves it, so that its name is the same in every run.
pub const BUSYBOX: &str = "images.test/busybox:1";

/// Starts a daemon, pulls [`BUSYBOX`], runs the steps; then removes what they left in the daemon, ends it and fails
/// the test if anything of it is still on the machine.
pub fn run(options: Options, steps: impl AsyncFnOnce(&mut Daemon)) {
    run_without_image(options, async |daemon| {
        daemon.mirror("images.test", &images().url());
        daemon.client.pull(BUSYBOX).await;
        steps(daemon).await;
    });
}

/// [`run`], with no image in the daemon and no mirror configured.
pub fn run_without_image(options: Options, steps: impl AsyncFnOnce(&mut Daemon)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("tokio starts").block_on(run_inside(options, steps));
}

/// [`run_without_image`] inside another scenario: a second daemon.
pub async fn run_inside(options: Options, steps: impl AsyncFnOnce(&mut Daemon)) {
    let mut daemon = Daemon::start(options).await;
    steps(&mut daemon).await;
    daemon.client.remove_everything().await;
    let status = daemon.terminate().await;
    assert!(status.success(), "carpeld ends with 0 on SIGTERM, not {status}");
    // The kernel takes dying network namespaces apart at its leisure, and their devices with them.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left = daemon.leftovers();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left on the machine:\n  {}", left.join("\n  "));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The registry that all tests of a program share: it has [`BUSYBOX`].
pub fn images() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let registry = Registry::http(Access::Open);
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut layout = Layout::create(folder.path());
        layout.add("busybox:1", &busybox::image());
        registry.push(&layout);
        registry
    })
}
