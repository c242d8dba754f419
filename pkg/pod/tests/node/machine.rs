//! A machine of its own for one test: fresh network and mount namespaces, folders and cgroups, with
//! the real shim, images and the built-in bridge.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use carpel_image::Images;
use carpel_network::{BridgeConfig, Mode, Network};
use carpel_pod::{
    CgroupDriver, Config, ContainerId, ContainerSnapshot, ContainerState, Exit, PodId, Pods, Rlimit,
};
use carpel_spec::config::{
    ContainerConfig, ContainerSecurity, Namespaces, PidMode, PodOrNode, Resources, SandboxConfig,
    SandboxMetadata, SandboxSecurity, SecurityProfile, StdinMode, Terminal, UserMode,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
};
use sha2::{Digest, Sha256};

/// Long enough for a loaded machine; only a failing test waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The tag of the image of Debian's busybox.
pub(crate) const BUSYBOX: &str = "carpel.test/busybox:1";

/// The machine, and the daemon's rooms on it.
pub(crate) struct Machine {
    dir: tempfile::TempDir,
    cgroup: String,
    /// Outlives restarts: it is not what these tests are about.
    images: Images,
    rooms: Option<Rooms>,
}

struct Rooms {
    network: Network,
    pods: Pods,
}

/// Runs the test on a machine of its own, and checks that it leaves nothing behind.
pub(crate) fn on_machine<F>(test: impl FnOnce(Machine) -> F + Send + 'static)
where
    F: Future<Output = Machine>,
{
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("tests need root");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        let cgroup = format!("/carpel-test-{}-{number}", std::process::id());
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let watched = KillOnPanic { state: root.join("state"), cgroup: cgroup.clone() };
        runtime.block_on(async {
            let config =
                carpel_image::Config { root: root.join("images"), ..carpel_image::Config::default() };
            let images = Images::open(config).await.unwrap();
            let mut machine = Machine { dir, cgroup: cgroup.clone(), images, rooms: None };
            machine.start().await;
            let mut machine = test(machine).await;
            machine.take_down().await;
        });
        drop(watched);
        assert_eq!(shims_below(&root), Vec::<i32>::new(), "shims are left");
        assert_eq!(cgroups_of(&cgroup), Vec::<PathBuf>::new(), "cgroups are left");
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A test that fails must not leave shims running: without their folder they end by themselves only
/// when nobody is connected.
struct KillOnPanic {
    state: PathBuf,
    cgroup: String,
}

impl Drop for KillOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for pid in shims_below(&self.state) {
                kill(pid);
            }
            // Their containers die with them, each in its own time.
            std::thread::sleep(Duration::from_millis(200));
            for cgroup in cgroups_of(&self.cgroup) {
                for child in fs::read_dir(&cgroup).unwrap().flatten() {
                    let _ = fs::remove_dir(child.path());
                }
                let _ = fs::remove_dir(&cgroup);
            }
        }
    }
}

impl Machine {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn pods(&self) -> &Pods {
        &self.rooms.as_ref().unwrap().pods
    }

    pub(crate) fn network(&self) -> &Network {
        &self.rooms.as_ref().unwrap().network
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            root: self.path("root"),
            state: self.path("state"),
            shim: shim_program().to_owned(),
            shim_cgroup: String::new(),
            cgroup_parent: self.cgroup.clone(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            log_line_max_bytes: 16 << 10,
            exec_output_max_bytes: 1 << 20,
            default_rlimits: vec![Rlimit { resource: 7, soft: 1024, hard: 1024 }],
            default_capabilities: ["CHOWN", "KILL", "SETUID", "SETGID"].map(str::to_owned).to_vec(),
            overlay_volatile: true,
        }
    }

    /// Opens the rooms, as a daemon's start does.
    pub(crate) async fn start(&mut self) {
        let bridge = BridgeConfig {
            bridge: "carpelt0".into(),
            subnets: vec!["10.251.0.0/24".parse().unwrap()],
            ..BridgeConfig::default()
        };
        let network = carpel_network::Config {
            netns_dir: self.path("netns"),
            state_dir: self.path("network"),
            mode: Mode::Builtin(bridge),
        };
        let network = Network::open(network).await.unwrap();
        let pods = Pods::open(self.config(), self.images.clone(), network.clone()).await.unwrap();
        self.rooms = Some(Rooms { network, pods });
    }

    /// Drops the rooms without stopping anything, as the daemon's end does.
    pub(crate) async fn crash(&mut self) {
        self.rooms = None;
        // Owners end at their next turn; whatever they hold of the rooms goes then.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    pub(crate) async fn restart(&mut self) {
        self.crash().await;
        self.start().await;
    }

    async fn take_down(&mut self) {
        for pod in self.pods().pods() {
            self.pods().remove(pod.id.as_str()).await.unwrap();
        }
        assert!(self.pods().pods().is_empty() && self.pods().containers().is_empty());
        assert_eq!(self.network().known(), Vec::<String>::new(), "attachments are left");
        self.network().teardown_host().await.unwrap();
        for folder in ["state/pods", "root/pods", "root/containers"] {
            let left: Vec<_> = fs::read_dir(self.path(folder)).unwrap().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
        self.crash().await;
    }

    /// Makes the busybox image available.
    pub(crate) async fn import_busybox(&self) {
        let archive = self.path("busybox.tar");
        write_busybox(&self.path("busybox"), &archive);
        let images = self.images.import(archive).await.unwrap();
        assert_eq!(images.len(), 1);
    }

    /// A pod in the host's network.
    pub(crate) async fn host_pod(&self, name: &str) -> PodId {
        self.pods().run(host_network(sandbox(name))).await.unwrap()
    }

    /// A container that runs a shell script.
    pub(crate) async fn created(&self, pod: &PodId, name: &str, script: &str) -> ContainerId {
        self.pods().create_container(pod.as_str(), shell(name, script)).await.unwrap()
    }

    /// As `created`, and started.
    pub(crate) async fn started(&self, pod: &PodId, name: &str, script: &str) -> ContainerId {
        let id = self.created(pod, name, script).await;
        self.pods().start_container(id.as_str()).await.unwrap();
        id
    }

    /// How many cgroups there are of containers in pods that name no parent.
    pub(crate) fn container_cgroups(&self) -> usize {
        let folder = cgroups_of(&self.cgroup).into_iter().next();
        let entries = folder.map(|folder| fs::read_dir(folder).unwrap().flatten());
        entries.into_iter().flatten().filter(|entry| entry.file_type().unwrap().is_dir()).count()
    }

    pub(crate) fn container(&self, id: &ContainerId) -> std::sync::Arc<ContainerSnapshot> {
        self.pods().find_container(id.as_str()).unwrap()
    }

    /// Waits until a container has exited.
    pub(crate) async fn exit(&self, id: &ContainerId) -> Exit {
        until("a container exits", async || match &self.container(id).state {
            ContainerState::Exited(exit) => Some(exit.clone()),
            _ => None,
        })
        .await
    }

    /// The pid of a container's init process.
    pub(crate) fn pid(&self, id: &ContainerId) -> i32 {
        match self.container(id).state {
            ContainerState::Running { pid, .. } => pid,
            ref state => panic!("container is not running: {state:?}"),
        }
    }
}

/// Waits until something is so.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn sandbox(name: &str) -> SandboxConfig {
    SandboxConfig {
        metadata: SandboxMetadata {
            name: name.to_owned(),
            namespace: "tests".to_owned(),
            uid: format!("uid-{name}"),
            attempt: 0,
        },
        hostname: name.to_owned(),
        log_directory: None,
        dns: None,
        port_mappings: Vec::new(),
        labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        annotations: BTreeMap::new(),
        cgroup_parent: None,
        namespaces: Namespaces {
            network: PodOrNode::Pod,
            ipc: PodOrNode::Pod,
            pid: PidMode::Container,
            user: UserMode::Node,
        },
        security: SandboxSecurity::default(),
        sysctls: BTreeMap::new(),
        overhead: None,
        resources: None,
        runtime_handler: String::new(),
    }
}

pub(crate) fn host_network(mut config: SandboxConfig) -> SandboxConfig {
    config.namespaces.network = PodOrNode::Node;
    config.hostname = String::new();
    config
}

pub(crate) fn shell(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        name: name.to_owned(),
        attempt: 0,
        image: BUSYBOX.to_owned(),
        user_specified_image: BUSYBOX.to_owned(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        args: Vec::new(),
        working_dir: String::new(),
        envs: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        cdi_devices: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        log_path: None,
        stdin: StdinMode::Closed,
        terminal: Terminal::Pipes,
        resources: Resources::default(),
        security: ContainerSecurity {
            seccomp: SecurityProfile::RuntimeDefault,
            ..ContainerSecurity::default()
        },
        stop_signal: None,
    }
}

pub(crate) fn kill(pid: i32) {
    send(pid, Signal::SIGKILL);
}

pub(crate) fn send(pid: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// Whether a process is there and not merely waiting to be reaped.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Processes that were started with a pod's folder below `folder`.
pub(crate) fn shims_below(folder: &Path) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let folder = folder.to_str().unwrap();
    pids.filter(|pid| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.starts_with("carpel-shim\0") && command.contains(folder) && is_alive(*pid)
    })
    .collect()
}

/// Cgroups of this name in any hierarchy.
pub(crate) fn cgroups_of(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let name = name.trim_start_matches('/');
    let hierarchies = fs::read_dir(root).unwrap().flatten().map(|entry| entry.path());
    hierarchies.chain([root.to_owned()]).map(|at| at.join(name)).filter(|path| path.exists()).collect()
}

/// `$CARPEL_SHIM`, else the one in `$CARPEL_BIN`, else one that is built here.
fn shim_program() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        if let Some(shim) = std::env::var_os("CARPEL_SHIM") {
            return shim.into();
        }
        if let Some(folder) = std::env::var_os("CARPEL_BIN") {
            return Path::new(&folder).join("carpel-shim");
        }
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shim");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "-q", "-p", "carpel-shim", "--target-dir"]).arg(&target);
        assert!(cargo.status().unwrap().success(), "building the shim failed");
        target.join("debug/carpel-shim")
    })
}

/// An archive in the format of `docker save`, of one layer: Debian's static busybox.
fn write_busybox(work: &Path, archive: &Path) {
    let rootfs = work.join("rootfs");
    for folder in ["bin", "etc", "tmp", "dev", "proc", "sys", "root"] {
        fs::create_dir_all(rootfs.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static is installed");
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|name| *name != "busybox") {
        fs::hard_link(rootfs.join("bin/busybox"), rootfs.join("bin").join(applet)).unwrap();
    }
    fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
        .unwrap();
    fs::write(rootfs.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").unwrap();
    tar(&rootfs, &work.join("layer.tar"), &["."]);
    let diff_id = hex(&Sha256::digest(fs::read(work.join("layer.tar")).unwrap()));
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux",
            "config":{{"Cmd":["/bin/sh"],"Env":["PATH=/bin"]}},
            "rootfs":{{"type":"layers","diff_ids":["sha256:{diff_id}"]}}}}"#
    );
    fs::write(work.join("config.json"), config).unwrap();
    let manifest = format!(r#"[{{"Config":"config.json","RepoTags":["{BUSYBOX}"],"Layers":["layer.tar"]}}]"#);
    fs::write(work.join("manifest.json"), manifest).unwrap();
    tar(work, archive, &["manifest.json", "config.json", "layer.tar"]);
}

fn tar(folder: &Path, to: &Path, what: &[&str]) {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(folder).args(["--numeric-owner", "--owner=0", "--group=0", "-cf"]).arg(to).args(what);
    assert!(tar.status().unwrap().success());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
