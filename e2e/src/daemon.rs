//! One `carpeld` with everything of its own: root, state, socket, bridge, subnet, cgroup parent.
//!
//! It can be killed, ended and started again on the same folders; pods survive that, as they do on a node.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use carpel_proto::v1;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Client, PATIENCE};
use crate::kernel::{self, CgroupDriver, CgroupParent};
use crate::registry::Registry;

/// How many daemons of tests can run beside each other.
const SLOTS: u16 = 200;

/// What a daemon does about pod networks.
#[derive(Debug, Clone, Default)]
pub enum Network {
    /// The built-in bridge, one of its own.
    #[default]
    Builtin,
    /// CNI.
    Cni {
        /// Where the configuration is.
        conf_dir: PathBuf,
        /// Where the plugins are.
        bin_dirs: Vec<PathBuf>,
    },
}

/// How a daemon is set up.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What it does about pod networks.
    pub network: Network,
    /// The network namespace it runs in; the machine's own unless given.
    pub netns: Option<PathBuf>,
    /// Where images and containers are kept; in its own folder unless given.
    pub root: Option<PathBuf>,
    /// A drop-in for its config, which beats the harness's.
    pub config: String,
}

/// A daemon.
#[derive(Debug)]
pub struct Daemon {
    /// A client of its socket.
    pub client: Client,
    slot: Slot,
    parent: CgroupParent,
    folder: tempfile::TempDir,
    root: PathBuf,
    netns: Option<PathBuf>,
    child: Option<Child>,
}

/// A number between daemons that run at the same time, and all names made from it.
#[derive(Debug)]
struct Slot {
    number: u16,
    /// Locked as long as the number is taken.
    _lock: File,
}

/// The folder with the programs under test: `$CARPEL_BIN`, or where `hack/build` puts them.
pub fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("CARPEL_BIN") {
        return folder.into();
    }
    let repository =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e is a folder of the repository");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository.join("target"), PathBuf::from);
    target.join("bin/debug")
}

/// A program under test; panics with what to do when it is not built.
pub fn program(name: &str) -> PathBuf {
    let path = programs().join(name);
    assert!(path.exists(), "{} is missing: run hack/build, or set CARPEL_BIN", path.display());
    path
}

impl Slot {
    fn take() -> Self {
        for number in 0..SLOTS {
            let lock = File::create(format!("/run/carpel-e2e.{number}.lock")).expect("lock files go to /run");
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Self { number, _lock: lock };
            }
        }
        panic!("{SLOTS} daemons of tests run already");
    }

    fn bridge(&self) -> String {
        format!("ce2e{}", self.number)
    }
}

impl Daemon {
    /// Prepares the folders and starts it; returns when it answers.
    pub async fn start(options: Options) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make namespaces, mounts and cgroups: run them as root"
        );
        let slot = Slot::take();
        let folder = tempfile::Builder::new().prefix("carpel-e2e-").tempdir().expect("temporary folder");
        let root = options.root.clone().unwrap_or_else(|| folder.path().join("root"));
        for part in ["certs.d", "conf.d", "logs", "netns"] {
            fs::create_dir(folder.path().join(part)).expect("make the daemon's folders");
        }
        // Named like the folder, which no other daemon ever has: what a failed test left in its cgroups stays its own.
        let name = folder.path().file_name().expect("a temporary folder has a name").to_string_lossy();
        let parent = CgroupParent::create(&name, CgroupDriver::of_tests());
        let text = config_text(&slot, folder.path(), &parent, &options);
        fs::write(folder.path().join("config.toml"), text).expect("write the config");
        fs::write(folder.path().join("conf.d/test.toml"), &options.config)
            .expect("write the config's drop-in");
        let client = Client::new(&folder.path().join("carpel.sock"));
        let netns = options.netns;
        let mut daemon = Self { client, slot, parent, folder, root, netns, child: None };
        daemon.spawn().await;
        daemon
    }

    /// Starts it again, on the same folders, and returns when it answers.
    pub async fn spawn(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        self.child = Some(self.command().spawn().expect("start carpeld"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = v1::VersionRequest::default();
            let Err(error) = self.client.runtime.clone().version(request).await else { return };
            let exited =
                self.child.as_mut().map(Child::try_wait).transpose().expect("wait for carpeld").flatten();
            if let Some(status) = exited {
                self.child = None;
                panic!("carpeld ended before it answered: {status}");
            }
            assert!(Instant::now() < deadline, "carpeld does not answer: {error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The command that starts it.
    fn command(&self) -> Command {
        let carpeld = program("carpeld");
        let mut command = match &self.netns {
            None => Command::new(carpeld),
            Some(netns) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", netns.display())).arg("--").arg(carpeld);
                command
            }
        };
        let log =
            File::options().create(true).append(true).open(self.log_path()).expect("open the daemon's log");
        command.arg("--config").arg(self.folder.path().join("config.toml"));
        command.arg("--root").arg(&self.root).arg("--state").arg(self.state());
        command.arg("--listen").arg(self.socket());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
        command
    }

    /// Kills it by SIGKILL and waits until it is gone. Its pods live on.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("kill carpeld");
        child.wait().expect("wait for carpeld");
    }

    /// Ends it by SIGTERM; returns how it exited. Its pods live on.
    pub async fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the daemon runs");
        kill_process(Pid::from_child(&child), Signal::TERM).expect("signal carpeld");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("wait for carpeld") {
                return status;
            }
            if Instant::now() >= deadline {
                child.kill().expect("kill carpeld");
                panic!("carpeld does not end on SIGTERM");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// Its folder, in which everything of it is except a root given by [`Options::root`].
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("carpel.sock")
    }

    /// Its root: images and containers.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its state: what does not outlive a reboot.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Its bridge.
    pub fn bridge(&self) -> String {
        self.slot.bridge()
    }

    /// Its IPv4 subnet up to the last byte: `10.213.7.`.
    pub fn subnet_prefix(&self) -> String {
        format!("10.213.{}.", self.slot.number)
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(120)..].join("\n")
    }

    /// The shims of its pods, by the folder on their command line.
    pub fn shims(&self) -> Vec<u32> {
        let command = format!("carpel-shim --pod-dir {}/", self.state().display());
        kernel::processes_mentioning(&command).into_iter().map(|(pid, _)| pid).collect()
    }

    /// A pod with a network of its own and a log folder.
    pub fn pod(&self, name: &str) -> v1::PodSandboxConfig {
        let uid = format!("{name}-uid-{}", self.slot.number);
        let logs = self.folder.path().join("logs").join(&uid);
        fs::create_dir_all(&logs).expect("make the pod's log folder");
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid,
                namespace: "e2e".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: logs.to_string_lossy().into_owned(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: self.parent.pod(name),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        pid: v1::NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Makes the bridge, which otherwise the first pod makes: its address ([`Self::subnet_prefix`] and `1`) is then there.
    pub async fn make_bridge(&self) {
        let pod = self.client.run_pod(self.pod("first")).await;
        self.client.stop_pod(&pod.id).await;
        self.client.remove_pod(&pod.id).await;
    }

    /// A cgroup below the daemon's for somebody else's tree, as the `cgroupRoot` of a kubelet.
    pub fn cgroup(&self, name: &str) -> String {
        self.parent.pod(name)
    }

    /// The cgroup or slice of the pods that name no parent, as its config has it.
    pub fn default_pods(&self) -> String {
        self.parent.default_pods()
    }

    /// A pod in the machine's network: the cheapest, for tests that are not about networks.
    pub fn host_pod(&self, name: &str) -> v1::PodSandboxConfig {
        let mut config = self.pod(name);
        crate::config::namespaces(&mut config).network = v1::NamespaceMode::Node.into();
        config
    }

    /// Where images of a registry host come from: containerd's `certs.d/<host>/hosts.toml`.
    pub fn hosts_toml(&self, host: &str, text: &str) {
        let folder = self.folder.path().join("certs.d").join(host);
        fs::create_dir_all(&folder).expect("make a host's folder");
        fs::write(folder.join("hosts.toml"), text).expect("write hosts.toml");
    }

    /// Has the images of a host pulled from a URL instead.
    pub fn mirror(&self, host: &str, url: &str) {
        self.hosts_toml(host, &format!("[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"));
    }

    /// Lets it pull from a registry under the registry's own name.
    pub fn trust(&self, registry: &Registry) {
        let authority =
            registry.authority().map_or(String::new(), |ca| format!("ca = \"{}\"\n", ca.display()));
        let url = registry.url();
        let text = format!(
            "server = \"{url}\"\n[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n{authority}"
        );
        self.hosts_toml(&registry.host(), &text);
    }

    /// Everything on the machine that is of this daemon, which must be nothing when its pods are gone and it has ended.
    pub fn leftovers(&self) -> Vec<String> {
        let folder = self.folder.path().to_string_lossy().into_owned();
        let mut found = crate::audit::leftovers(&folder, &self.bridge(), &self.subnet_prefix());
        let parent = self.parent.path();
        found.extend(
            kernel::processes_mentioning(&parent)
                .into_iter()
                .map(|(pid, line)| format!("process {pid}: {line}")),
        );
        found.extend(self.parent.remove().into_iter().map(|path| format!("cgroup {}", path.display())));
        found
    }

    /// Its log, of all its lives.
    pub fn log_path(&self) -> PathBuf {
        self.folder.path().join("carpeld.log")
    }
}

impl Drop for Daemon {
    /// After a failure: shows the daemon's log, and takes away by force what the test left.
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[allow(clippy::print_stderr, reason = "the test runner shows it with the failure")]
            {
                eprintln!("---- end of carpeld's log\n{}\n----", self.log_tail());
            }
        }
        if self.child.is_some() {
            self.kill();
        }
        let folder = self.folder.path().to_string_lossy().into_owned();
        crate::audit::remove_by_force(&[&folder, &self.parent.path()], &self.bridge());
        self.parent.remove_by_force();
    }
}

/// Everything that could meet another daemon on the machine is this one's own. IP forwarding stays as it is: a setting
/// of the whole machine; tests that need it have a network namespace.
fn config_text(slot: &Slot, folder: &Path, cgroups: &CgroupParent, options: &Options) -> String {
    let number = slot.number;
    let network = match &options.network {
        Network::Builtin => format!(
            "[network.builtin]\nbridge = {:?}\nip_forward = {}\n\
             subnets = [\"10.213.{number}.0/24\", \"fdca:4be1:e2e:{number:x}::/64\"]\n",
            slot.bridge(),
            options.netns.is_some(),
        ),
        Network::Cni { conf_dir, bin_dirs } => format!(
            "[network.cni]\nconf_dir = {conf_dir:?}\nbin_dirs = {bin_dirs:?}\ncache_dir = {:?}\n",
            folder.join("cni-cache")
        ),
    };
    format!(
        "[log]\nlevel = \"debug,h2=info,hyper=info,hyper_util=info,rustls=info\"\n[image]\ncerts_d = [{:?}]\n\
         [cgroups]\ndriver = {:?}\nparent = {:?}\nshims = {:?}\n[network]\nnetns_dir = {:?}\n{network}",
        folder.join("certs.d"),
        CgroupDriver::of_tests().name(),
        cgroups.default_pods(),
        cgroups.shims(),
        folder.join("netns"),
    )
}
