//! The two runtimes under test, started alike.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use carpel_e2e::busybox;
use carpel_e2e::client::Client;
use carpel_e2e::containerd::{self, Containerd, PAUSE_IMAGE};
use carpel_e2e::daemon::{self, Daemon, Network};
use carpel_e2e::kernel::{self, NetNs};
use carpel_e2e::layout::digest;
use carpel_e2e::tar::Tar;
use serde_json::json;

use crate::life::{Mode, Took};
use crate::memory;

/// The image every container runs.
pub(crate) const IMAGE: &str = "docker.io/library/busybox:bench";

/// Where programs are that are not Carpel's.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The peer's: `hack/peers`.
    pub(crate) peers: PathBuf,
    /// The CNI plugins: `hack/cni-plugins`.
    pub(crate) plugins: PathBuf,
    /// The client of exec and port-forward: `hack/stream-client`.
    pub(crate) stream_client: PathBuf,
}

/// Docker archives, which both runtimes import.
#[derive(Debug)]
pub(crate) struct Images {
    folder: tempfile::TempDir,
}

/// A runtime under test, and what it took so far.
#[derive(Debug)]
pub(crate) struct Peer {
    /// What the table calls it.
    pub(crate) name: &'static str,
    /// A client of its socket.
    pub(crate) client: Client,
    /// Times by verb.
    pub(crate) took: Took,
    /// The daemon's resident set when it had just started, in KiB.
    pub(crate) fresh_kib: f64,
    runtime: Runtime,
    // After the daemon, which runs in it.
    netns: NetNs,
}

#[derive(Debug)]
enum Runtime {
    Carpel(Box<Daemon>),
    Containerd(Box<Containerd>),
}

impl Images {
    /// Writes the archives of busybox and pause.
    pub(crate) fn make(programs: &Programs) -> Self {
        let folder = tempfile::Builder::new().prefix("carpel-bench-images").tempdir();
        let images = Self { folder: folder.expect("temporary folder") };
        let busybox = busybox::layer(Path::new(busybox::DEBIAN)).finish();
        fs::write(images.busybox(), archive(IMAGE, &busybox, &["/bin/sh"])).expect("write an image");
        let pause = fs::read(programs.peers.join("pause")).expect("hack/peers builds pause");
        let pause = Tar::new().file("pause", 0o755, pause).finish();
        fs::write(images.pause(), archive(PAUSE_IMAGE, &pause, &["/pause"])).expect("write an image");
        images
    }

    fn busybox(&self) -> PathBuf {
        self.folder.path().join("busybox.tar")
    }

    fn pause(&self) -> PathBuf {
        self.folder.path().join("pause.tar")
    }
}

/// A docker archive of one layer.
fn archive(name: &str, layer: &[u8], command: &[&str]) -> Vec<u8> {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "created": "2026-01-01T00:00:00Z", "os": "linux", "architecture": architecture,
        "config": { "Env": ["PATH=/bin:/usr/bin"], "Entrypoint": command },
        "rootfs": { "type": "layers", "diff_ids": [digest(layer)] },
    })
    .to_string();
    let config_name = format!("{}.json", digest(config.as_bytes()).replace("sha256:", ""));
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": ["layer/layer.tar"] }]);
    Tar::new()
        .file(&config_name, 0o644, config)
        .dir("layer/", 0o755)
        .file("layer/layer.tar", 0o644, layer)
        .file("manifest.json", 0o644, manifest.to_string())
        .finish()
}

/// The usual chain of a node without a network of its own: bridge, addresses from a range, masquerade.
fn write_cni(folder: &Path, subnet: &str) -> PathBuf {
    let conf_dir = folder.join("net.d");
    fs::create_dir_all(&conf_dir).expect("make the CNI folder");
    let conflist = json!({
        "cniVersion": "1.0.0", "name": "bench",
        "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": true,
            "ipMasq": true, "ipMasqBackend": "nftables", "hairpinMode": true,
            "ipam": {
                "type": "host-local", "dataDir": folder.join("ipam"),
                "ranges": [[{ "subnet": subnet }]], "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    });
    fs::write(conf_dir.join("10-bench.conflist"), conflist.to_string()).expect("write the CNI config");
    conf_dir
}

impl Peer {
    /// Carpel, from `$CARPEL_BIN`.
    pub(crate) async fn carpel(mode: Mode, programs: &Programs, images: &Images) -> Self {
        let netns = NetNs::create("carpel-bench");
        let network = match mode {
            Mode::Host | Mode::Builtin => Network::Builtin,
            Mode::Cni => Network::Cni {
                conf_dir: write_cni(&images.folder.path().join("carpel"), "10.99.1.0/24"),
                bin_dirs: vec![programs.plugins.clone()],
            },
        };
        let options = daemon::Options {
            network,
            netns: Some(netns.path()),
            // The harness's own is for tests that failed.
            config: "[log]\nlevel = \"info\"\n".to_owned(),
            ..Default::default()
        };
        let daemon = Daemon::start(options).await;
        let fresh_kib = memory::resident_kib(daemon.pid());
        let socket = daemon.socket().to_string_lossy().into_owned();
        let archive = images.busybox().to_string_lossy().into_owned();
        let carpel = daemon::program("carpel").to_string_lossy().into_owned();
        kernel::run(&carpel, &["--address", &socket, "import", &archive]);
        let client = daemon.client.clone();
        let runtime = Runtime::Carpel(Box::new(daemon));
        Self { name: "Carpel", client, took: Took::default(), fresh_kib, runtime, netns }
    }

    /// containerd and runc.
    pub(crate) async fn containerd(mode: Mode, programs: &Programs, images: &Images) -> Self {
        let netns = NetNs::create("carpel-bench-peer");
        let options = containerd::Options {
            programs: programs.peers.clone(),
            conf_dir: write_cni(&images.folder.path().join(format!("containerd-{mode:?}")), "10.99.2.0/24"),
            plugins: programs.plugins.clone(),
            netns: Some(netns.path()),
        };
        let containerd = Containerd::start(options).await;
        let fresh_kib = memory::resident_kib(containerd.pid());
        containerd.import(&images.pause(), PAUSE_IMAGE).await;
        containerd.import(&images.busybox(), IMAGE).await;
        let client = containerd.client.clone();
        let runtime = Runtime::Containerd(Box::new(containerd));
        Self {
            name: "containerd 2.3.4, runc 1.4.1",
            client,
            took: Took::default(),
            fresh_kib,
            runtime,
            netns,
        }
    }

    /// The network namespace that the daemon runs in.
    pub(crate) fn netns(&self) -> PathBuf {
        self.netns.path()
    }

    /// Whether its streams can be had over WebSocket by `v5.channel.k8s.io`, the only protocol that Kubernetes' client
    /// speaks; containerd 2.3.4 ends at `v4`.
    pub(crate) fn speaks_websocket(&self) -> bool {
        match &self.runtime {
            Runtime::Carpel(_) => true,
            Runtime::Containerd(_) => false,
        }
    }

    /// The daemon's process id.
    pub(crate) fn pid(&self) -> u32 {
        match &self.runtime {
            Runtime::Carpel(daemon) => daemon.pid(),
            Runtime::Containerd(containerd) => containerd.pid(),
        }
    }

    /// The processes kept for pods, besides the containers' own.
    pub(crate) fn helpers(&self) -> Vec<u32> {
        match &self.runtime {
            Runtime::Carpel(daemon) => daemon.shims(),
            Runtime::Containerd(containerd) => containerd.helpers(),
        }
    }

    /// The cgroup pods are to be below.
    pub(crate) fn cgroup_parent(&self) -> String {
        match &self.runtime {
            Runtime::Carpel(daemon) => daemon.pod("any").linux.unwrap_or_default().cgroup_parent,
            Runtime::Containerd(containerd) => containerd.cgroup_parent(),
        }
    }

    /// The folder of pods' logs.
    pub(crate) fn logs(&self) -> PathBuf {
        match &self.runtime {
            Runtime::Carpel(daemon) => daemon.folder().join("logs"),
            Runtime::Containerd(containerd) => containerd.logs(),
        }
    }

    /// Removes its pods and ends it; returns what it left on the machine.
    pub(crate) async fn end(self) -> Vec<String> {
        self.client.remove_everything().await;
        match self.runtime {
            Runtime::Carpel(mut daemon) => {
                daemon.terminate().await;
                // The last shim ends a moment after it answered.
                tokio::time::sleep(Duration::from_millis(100)).await;
                daemon.leftovers()
            }
            Runtime::Containerd(containerd) => containerd.terminate().await,
        }
    }
}
