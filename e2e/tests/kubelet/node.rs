//! The node that all checks share: a daemon, a kubelet, a registry with their images.

use std::path::{Path, PathBuf};

use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::kubelet::{Kubelet, Setup, images};
use carpel_e2e::registry::Registry;
use serde_json::{Value, json};
use tokio::runtime::Handle;

/// A node.
pub(crate) struct Node {
    pub(crate) kubelet: Option<Kubelet>,
    pub(crate) daemon: Option<Daemon>,
    pub(crate) runtime: Handle,
    folder: PathBuf,
    subnet_prefix: String,
    _registry: Registry,
}

impl Node {
    /// Starts everything.
    pub(crate) fn start(runtime: &Handle) -> Self {
        let registry = images::registry();
        let daemon = runtime.block_on(async {
            let daemon = Daemon::start(Options::default()).await;
            daemon.mirror("images.test", &registry.url());
            daemon.make_bridge().await;
            daemon
        });
        let setup = Setup {
            folder: daemon.folder().join("kubelet"),
            socket: daemon.socket(),
            cgroup: daemon.cgroup("kubelet"),
            address: format!("{}1", daemon.subnet_prefix()),
            name: "node".to_owned(),
            kubeconfig: None,
            config: json!({ "containerLogMaxSize": "64Ki", "containerLogMaxFiles": 5 }),
        };
        let folder = daemon.folder().join("scratch");
        std::fs::create_dir(&folder).unwrap();
        Self {
            kubelet: Some(Kubelet::start(setup)),
            folder,
            subnet_prefix: daemon.subnet_prefix(),
            daemon: Some(daemon),
            runtime: runtime.clone(),
            _registry: registry,
        }
    }

    /// The kubelet.
    pub(crate) fn kubelet(&self) -> &Kubelet {
        self.kubelet.as_ref().expect("the node has not ended")
    }

    /// A folder for one check, to be mounted into its pods.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// What pods' addresses begin with.
    pub(crate) fn subnet_prefix(&self) -> &str {
        &self.subnet_prefix
    }

    /// Takes everything down, and fails if anything of it is still on the machine.
    pub(crate) fn end(&mut self) {
        let kubelet = self.kubelet.take().unwrap();
        kubelet.remove_all();
        let cgroups = kubelet.end();
        let mut daemon = self.daemon.take().unwrap();
        let left = self.runtime.block_on(async {
            let pods = daemon.client.list_pods(None).await;
            daemon.client.remove_everything().await;
            assert!(daemon.terminate().await.success());
            pods
        });
        assert_eq!(cgroups, [] as [PathBuf; 0], "pod cgroups are left");
        // The kubelet keeps the newest sandbox of a static pod until its own garbage collection, minutes later.
        let ready: Vec<_> = left
            .iter()
            .filter(|pod| pod.state() == carpel_proto::v1::PodSandboxState::SandboxReady)
            .collect();
        assert!(ready.is_empty(), "running pods are left: {ready:?}");
        let mut leftovers = daemon.leftovers();
        for _ in 0..100 {
            if leftovers.is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
            leftovers = daemon.leftovers();
        }
        panic!("left on the machine:\n  {}", leftovers.join("\n  "));
    }
}

/// A container that runs a shell script in busybox.
pub(crate) fn sh(name: &str, script: &str) -> Value {
    json!({ "name": name, "image": images::BUSYBOX, "command": ["sh", "-c", script] })
}

/// A container's script that waits to be ended, and ends at once when it is.
pub(crate) const WAIT: &str = "trap 'exit 0' TERM; sleep 100000 & wait";

/// A volume of a folder of this machine.
pub(crate) fn host_path(name: &str, path: &Path) -> Value {
    json!({ "name": name, "hostPath": { "path": path } })
}

/// The id of a container by its status.
pub(crate) fn id(status: &Value) -> String {
    let id = status["containerID"].as_str().unwrap_or_default();
    id.strip_prefix("carpel://").unwrap_or_else(|| panic!("{status:#} has no id of ours")).to_owned()
}

/// The text of a file, or nothing yet.
pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
