//! A `containerd` with runc, everything of its own as [`crate::daemon::Daemon`] has it: what Carpel is measured beside, and a
//! second CRI runtime for clients that must work with any.
//!
//! Not a general harness: it is started once and ended; programs are those of `hack/peers`. What cannot be given to it
//! (`/run/containerd/fifo`, `/var/lib/cni/results`, `/run/runc`) is used as it is and taken away when it is empty.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use carpel_proto::v1;
use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Client, PATIENCE, eventually};
use crate::kernel::{self, CgroupDriver, CgroupParent};

/// The name of the image its pods' pause containers run.
pub const PAUSE_IMAGE: &str = "registry.k8s.io/pause:3.10.1";

/// Folders outside its own that it or its plugins make.
const SHARED_FOLDERS: [&str; 6] = [
    "/run/containerd/s",
    "/run/containerd/fifo",
    "/run/containerd",
    "/run/runc",
    "/var/lib/cni/results",
    "/var/lib/cni",
];

/// How it is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of containerd, its shim and runc.
    pub programs: PathBuf,
    /// Where the CNI configuration is.
    pub conf_dir: PathBuf,
    /// Where the CNI plugins are.
    pub plugins: PathBuf,
    /// The network namespace it runs in; the machine's own unless given.
    pub netns: Option<PathBuf>,
}

/// A containerd.
#[derive(Debug)]
pub struct Containerd {
    /// A client of its socket.
    pub client: Client,
    options: Options,
    parent: CgroupParent,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Containerd {
    /// Starts it; returns when it answers.
    pub async fn start(options: Options) -> Self {
        let folder = tempfile::Builder::new().prefix("carpel-peer-").tempdir().expect("temporary folder");
        let parent =
            CgroupParent::create(&format!("carpel-peer-{}", std::process::id()), CgroupDriver::Cgroupfs);
        fs::write(folder.path().join("config.toml"), config_text(folder.path(), &options))
            .expect("write the config");
        let client = Client::new(&folder.path().join("containerd.sock"));
        let mut containerd = Self { client, options, parent, folder, child: None };
        containerd.child = Some(containerd.command().spawn().expect("start containerd"));
        containerd.wait_until_it_answers().await;
        containerd
    }

    async fn wait_until_it_answers(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.client.runtime.clone().version(v1::VersionRequest::default()).await {
            let exited = self.child.as_mut().and_then(|child| child.try_wait().expect("wait for containerd"));
            assert!(exited.is_none(), "containerd ended before it answered:\n{}", self.log_tail());
            assert!(Instant::now() < deadline, "containerd does not answer: {error}\n{}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn command(&self) -> Command {
        let containerd = self.options.programs.join("containerd");
        let mut command = match &self.options.netns {
            None => Command::new(containerd),
            Some(netns) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", netns.display())).arg("--").arg(containerd);
                command
            }
        };
        let log = File::create(self.log_path()).expect("open containerd's log");
        command.arg("--config").arg(self.folder.path().join("config.toml"));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
        command
    }

    /// Imports a docker archive and returns when CRI knows the image of that name.
    pub async fn import(&self, archive: &Path, image: &str) {
        let archive = archive.to_string_lossy();
        let socket = self.socket();
        let ctr = self.options.programs.join("ctr");
        let arguments = ["--address", &socket.to_string_lossy(), "--namespace", "k8s.io", "images", "import"];
        kernel::run(&ctr.to_string_lossy(), &[&arguments[..], &[&archive]].concat());
        // CRI's own index follows containerd's events.
        eventually(&format!("containerd knows {image}"), async || self.client.image(image).await).await;
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("containerd runs").id()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("containerd.sock")
    }

    /// The cgroup its pods are to be below.
    pub fn cgroup_parent(&self) -> String {
        self.parent.path()
    }

    /// A folder of its own for the logs of a pod.
    pub fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// The processes that it keeps for its pods: shims, and the pause containers below them.
    pub fn helpers(&self) -> Vec<u32> {
        let own = self.folder.path().to_string_lossy().into_owned();
        let shims = kernel::processes_mentioning(&own).into_iter();
        let shims = shims.filter(|(_, command)| command.contains("containerd-shim-runc-v2"));
        let pods = kernel::processes_mentioning(&self.parent.path()).into_iter();
        let pauses = pods.filter(|(_, command)| command.trim() == "/pause");
        shims.chain(pauses).map(|(pid, _)| pid).collect()
    }

    /// Ends it by SIGTERM, after its pods were removed; returns what is left of it on the machine.
    pub async fn terminate(mut self) -> Vec<String> {
        let mut child = self.child.take().expect("containerd runs");
        kill_process(Pid::from_child(&child), Signal::TERM).expect("signal containerd");
        let waiting = async || child.try_wait().expect("wait for containerd");
        eventually("containerd ends on SIGTERM", waiting).await;
        // Its own mounts go with its end, the last shim a moment after its pod.
        let folder = self.folder.path().to_string_lossy().into_owned();
        eventually("containerd's shims end", async || {
            kernel::processes_mentioning(&folder).is_empty().then_some(())
        })
        .await;
        let mounts = kernel::mounts_mentioning(&folder).into_iter();
        let mut left: Vec<String> = mounts.map(|mount| format!("mount {}", mount.display())).collect();
        left.extend(self.parent.remove().into_iter().map(|path| format!("cgroup {}", path.display())));
        left
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("containerd.log")
    }
}

impl Drop for Containerd {
    /// Takes away by force what is left of it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[allow(clippy::print_stderr, reason = "it belongs to the failure's message")]
            {
                eprintln!("---- end of containerd's log\n{}\n----", self.log_tail());
            }
        }
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill containerd");
            child.wait().expect("wait for containerd");
        }
        let folder = self.folder.path().to_string_lossy().into_owned();
        crate::audit::remove_by_force(&[&folder, &self.parent.path()], "");
        self.parent.remove();
        for folder in SHARED_FOLDERS {
            // Somebody else's if it is not empty, and absent if it was not needed.
            fs::remove_dir(folder).unwrap_or_default();
        }
    }
}

/// The defaults, but for places, names, and an OOM score that needs a capability this machine's root may lack.
fn config_text(folder: &Path, options: &Options) -> String {
    let own = |name: &str| folder.join(name);
    let program = |name: &str| options.programs.join(name);
    format!(
        "version = 3\nroot = {root:?}\nstate = {state:?}\n\
         [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {ttrpc:?}\n\
         [plugins.'io.containerd.internal.v1.opt']\npath = {opt:?}\n\
         [plugins.'io.containerd.nri.v1.nri']\nsocket_path = {nri:?}\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = {PAUSE_IMAGE:?}\n\
         [plugins.'io.containerd.cri.v1.runtime']\n\
         restrict_oom_score_adj = true\nnetns_mounts_under_state_dir = true\n\
         [plugins.'io.containerd.cri.v1.runtime'.cni]\nconf_dir = {conf:?}\nbin_dirs = [{plugins:?}]\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n\
         runtime_type = 'io.containerd.runc.v2'\nruntime_path = {shim:?}\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n\
         BinaryName = {runc:?}\nSystemdCgroup = false\nRoot = {runc_root:?}\n",
        root = own("root"),
        state = own("state"),
        socket = own("containerd.sock"),
        ttrpc = own("containerd.ttrpc"),
        opt = own("opt"),
        nri = own("nri.sock"),
        conf = options.conf_dir,
        plugins = options.plugins,
        shim = program("containerd-shim-runc-v2"),
        runc = program("runc"),
        runc_root = own("runc"),
    )
}
