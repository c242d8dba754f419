//! A kubelet on a Carpel daemon: by itself on static pods, or as the node of a cluster.
//!
//! Nothing of it reaches the machine but pods. It has a mount namespace of its own in which the kernel settings that it
//! insists on are files, and the folder of log links that it has no option for is a tmpfs; its own folder is a shared mount,
//! so that the volumes that it mounts are the machine's too, where Carpel finds them. That is how kubelets run in
//! containers.

pub mod images;

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kernel::{self, CgroupDriver};
use crate::process::Tethered;

/// How long anything may take that a kubelet does by and by, on a machine that is busy with other tests;
/// `$CARPEL_SLOWNESS` times as long on one that is slow.
const PATIENCE: Duration = Duration::from_secs(150);

/// How old an answer of the kubelet may be that many wait for.
const FRESH: Duration = Duration::from_millis(250);

/// What a kubelet insists on (`pkg/kubelet/cm/container_manager_linux.go`), by the path below `/proc/sys`.
const TUNABLES: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// The script that prepares the mount namespace and becomes the kubelet: `sh -c SCRIPT sh TUNABLES KUBELET ARGUMENT…`.
///
/// Where the machine's mounts are shared, these would reach it: the mounts that they are made on are taken out first.
const NAMESPACE: &str = r#"
for mount in /proc "$(findmnt -no TARGET -T /var/log)"; do mount --make-private "$mount"; done
mkdir -p /var/log/containers && mount -t tmpfs kubelet /var/log/containers
tunables=$1 && shift
for path in $(cd "$tunables" && find . -type f); do mount --bind "$tunables/$path" "/proc/sys/$path"; done
exec "$@"
"#;

/// What a kubelet is started with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Everything of it is in here.
    pub folder: PathBuf,
    /// The runtime's socket.
    pub socket: PathBuf,
    /// The cgroup below which pods live; it is there, and stays. systemd's driver puts them below its root.
    pub cgroup: String,
    /// An address of this machine that is not loopback: kubelets accept no other as a node's.
    pub address: String,
    /// The node's name.
    pub name: String,
    /// The API server and its client's certificate or token; none: static pods only.
    pub kubeconfig: Option<PathBuf>,
    /// Fields of the `KubeletConfiguration` that beat the harness's.
    pub config: Value,
}

/// A kubelet.
#[derive(Debug)]
pub struct Kubelet {
    setup: Setup,
    secure_port: u16,
    read_only_port: u16,
    process: Option<Tethered>,
    /// The static pods, each with the thread that placed it.
    placed: Mutex<Vec<(ThreadId, String)>>,
    /// The last answer to `/pods`: many wait for their pod at the same time.
    listed: Mutex<Option<(Instant, Vec<Value>)>>,
}

/// A program of Kubernetes, from `$CARPEL_KUBERNETES`.
pub fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("CARPEL_KUBERNETES")
        .expect("CARPEL_KUBERNETES is not set: export it as $(hack/kubernetes)");
    PathBuf::from(folder).join(name)
}

/// A loopback port that is free now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// How many times slower than usual the machine is.
fn slowness() -> u32 {
    std::env::var("CARPEL_SLOWNESS").map_or(1, |text| text.parse().expect("CARPEL_SLOWNESS is a number"))
}

/// Tries until it gives something; panics with the last reason after [`PATIENCE`].
pub fn until<T>(what: &str, attempt: impl FnMut() -> Result<T, String>) -> T {
    until_within(PATIENCE, what, attempt)
}

/// [`until`] with a patience of one's own, for a machine that is not slow.
pub fn until_within<T>(patience: Duration, what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience * slowness();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(reason) if Instant::now() > deadline => panic!("{what} never came: {reason}"),
            Err(_) => thread::sleep(Duration::from_millis(500)),
        }
    }
}

impl Kubelet {
    /// Prepares the folder and starts it; returns when it is healthy.
    pub fn start(setup: Setup) -> Self {
        let folder = &setup.folder;
        for part in ["manifests", "root", "logs", "pki", "volume-plugins"] {
            fs::create_dir_all(folder.join(part)).expect("make the kubelet's folders");
        }
        for (path, value) in TUNABLES {
            let file = folder.join("tunables").join(path);
            fs::create_dir_all(file.parent().expect("it is below a folder"))
                .expect("make the tunables' folders");
            fs::write(file, value).expect("write a tunable");
        }
        let root = text(&folder.join("root"));
        kernel::run("mount", &["--bind", &root, &root]);
        kernel::run("mount", &["--make-private", &root]);
        kernel::run("mount", &["--make-shared", &root]);
        let mut kubelet = Self {
            setup,
            secure_port: free_port(),
            read_only_port: free_port(),
            process: None,
            placed: Mutex::default(),
            listed: Mutex::default(),
        };
        kubelet.spawn();
        kubelet
    }

    /// Kills it, changes its configuration, starts it again. Pods live on.
    pub fn restart(&mut self, config: &Value) {
        self.process = None;
        merge(&mut self.setup.config, config);
        self.spawn();
    }

    fn spawn(&mut self) {
        let setup = &self.setup;
        let config = setup.folder.join("config.json");
        fs::write(&config, self.configuration().to_string()).expect("write the kubelet's config");
        let mut arguments: Vec<OsString> =
            ["--mount", "--propagation", "unchanged", "--", "sh", "-ec", NAMESPACE, "sh"]
                .map(Into::into)
                .into();
        arguments.push(setup.folder.join("tunables").into());
        arguments.push(program("kubelet").into());
        for (flag, value) in [
            ("config", text(&config)),
            ("root-dir", text(&setup.folder.join("root"))),
            ("cert-dir", text(&setup.folder.join("pki"))),
            ("hostname-override", setup.name.clone()),
            ("node-ip", setup.address.clone()),
            ("housekeeping-interval", "2s".to_owned()),
            ("v", "2".to_owned()),
        ] {
            arguments.push(format!("--{flag}={value}").into());
        }
        if let Some(kubeconfig) = &setup.kubeconfig {
            arguments.push(format!("--kubeconfig={}", kubeconfig.display()).into());
        }
        let log = File::options().create(true).append(true).open(self.log()).expect("open the kubelet's log");
        let arguments: Vec<_> = arguments.iter().map(OsString::as_os_str).collect();
        self.process = Some(Tethered::spawn("unshare", &arguments, &log));
        until("a healthy kubelet", || {
            let running = self.process.as_ref().is_some_and(Tethered::is_running);
            assert!(running, "the kubelet ended:\n{}", self.log_tail());
            self.read("/healthz").and_then(|body| if body == "ok" { Ok(()) } else { Err(body) })
        });
    }

    fn configuration(&self) -> Value {
        let Setup { folder, socket, cgroup, config, address, .. } = &self.setup;
        let driver = CgroupDriver::of_tests();
        let cgroup_root = if driver == CgroupDriver::Systemd { "/" } else { cgroup };
        let mut all = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{}", socket.display()),
            "staticPodPath": folder.join("manifests"), "podLogsDir": folder.join("logs"),
            "volumePluginDir": folder.join("volume-plugins"),
            "address": address, "port": self.secure_port, "readOnlyPort": self.read_only_port, "healthzPort": 0,
            "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
            "authorization": { "mode": "AlwaysAllow" },
            "cgroupDriver": driver.name(), "cgroupRoot": cgroup_root, "failCgroupV1": false, "failSwapOn": false,
            "enforceNodeAllocatable": [], "evictionHard": { "memory.available": "1Mi" }, "oomScoreAdj": 0,
            "makeIPTablesUtilChains": false, "serializeImagePulls": false, "registryPullQPS": 0,
            "imageGCHighThresholdPercent": 100, "enableControllerAttachDetach": false,
            // What otherwise happens by and by happens soon.
            "syncFrequency": "2s", "fileCheckFrequency": "1s", "volumeStatsAggPeriod": "3s",
            "containerLogMonitorInterval": "3s", "nodeStatusUpdateFrequency": "2s",
            "crashLoopBackOff": { "maxContainerRestartPeriod": "2s" },
        });
        merge(&mut all, config);
        all
    }

    /// Writes a static pod, or a new version of one.
    pub fn place(&self, pod: &Value) {
        let name = pod["metadata"]["name"].as_str().expect("a pod has a name");
        // The kubelet reads what appears; it must appear whole.
        let scratch = self.setup.folder.join(format!("{name}.json"));
        fs::write(&scratch, pod.to_string()).expect("write a manifest");
        fs::rename(&scratch, self.manifest(name)).expect("place a manifest");
        self.placed().push((thread::current().id(), name.to_owned()));
    }

    fn placed(&self) -> MutexGuard<'_, Vec<(ThreadId, String)>> {
        self.placed.lock().expect("no thread panics while it holds the list")
    }

    /// Takes the static pods away that this thread placed.
    pub fn remove_own(&self) {
        for (_, name) in self.placed().extract_if(.., |(thread, _)| *thread == thread::current().id()) {
            // Some are gone, by the check itself.
            fs::remove_file(self.manifest(&name)).unwrap_or_default();
        }
    }

    /// Takes a static pod away.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.manifest(name)).expect("remove a manifest");
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.setup.folder.join("manifests").join(format!("{name}.json"))
    }

    /// Takes all static pods away, and waits until nothing of them is left.
    pub fn remove_all(&self) {
        for entry in fs::read_dir(self.setup.folder.join("manifests")).expect("list the manifests").flatten()
        {
            fs::remove_file(entry.path()).expect("remove a manifest");
        }
        until("a node without pods", || {
            let pods = self.pods()?.len();
            let folders = fs::read_dir(self.setup.folder.join("root/pods")).map_or(0, Iterator::count);
            let mounts = kernel::mounts_mentioning(&text(&self.setup.folder.join("root/pods"))).len();
            let clean = pods + folders + mounts == 0;
            clean.then_some(()).ok_or(format!("{pods} pods, {folders} pod folders, {mounts} mounts are left"))
        });
    }

    /// A GET of the read-only port: `/pods`, `/stats/summary`, `/metrics/resource`, …
    pub fn read(&self, path: &str) -> Result<String, String> {
        get(&format!("http://{}:{}{path}", self.setup.address, self.read_only_port))
    }

    /// A GET of the authenticated port: `/containerLogs/…`.
    pub fn read_secure(&self, path: &str) -> Result<String, String> {
        get(&format!("https://{}:{}{path}", self.setup.address, self.secure_port))
    }

    /// All pods with their statuses, as they are or were a moment ago.
    pub fn pods(&self) -> Result<Vec<Value>, String> {
        let mut listed = self.listed.lock().expect("no thread panics while it lists pods");
        if let Some((at, pods)) = &*listed
            && at.elapsed() < FRESH
        {
            return Ok(pods.clone());
        }
        let pods = self.list()?;
        *listed = Some((Instant::now(), pods.clone()));
        Ok(pods)
    }

    fn list(&self) -> Result<Vec<Value>, String> {
        let body = self.read("/pods")?;
        let mut list: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// A static pod with its status.
    pub fn pod(&self, name: &str) -> Result<Value, String> {
        let full = format!("{name}-{}", self.setup.name);
        let pod = self.pods()?.into_iter().find(|pod| pod["metadata"]["name"] == full.as_str());
        pod.ok_or(format!("the kubelet knows no pod {full}"))
    }

    /// Waits for a static pod to be as asked; panics with its status and the kubelet's last words about it otherwise.
    pub fn until_pod(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        until(&format!("{name}: {what}"), || {
            let pod = self.pod(name)?;
            if is(&pod) { Ok(pod) } else { Err(format!("{:#}\n{}", pod["status"], self.log_of(name))) }
        })
    }

    /// Waits until a static pod and all its containers are ready.
    pub fn until_ready(&self, name: &str) -> Value {
        self.until_pod(name, "ready", |pod| condition(pod, "Ready"))
    }

    /// The log file of a container, as the kubelet names it.
    pub fn log_folder(&self, pod: &Value, container: &str) -> PathBuf {
        let metadata = &pod["metadata"];
        let field = |name: &str| metadata[name].as_str().unwrap_or_default().to_owned();
        let folder = format!("{}_{}_{}", field("namespace"), field("name"), field("uid"));
        self.setup.folder.join("logs").join(folder).join(container)
    }

    /// What a container of a static pod has said, in all its runs.
    pub fn output(&self, pod: &Value, container: &str) -> String {
        let mut files: Vec<PathBuf> = fs::read_dir(self.log_folder(pod, container))
            .map_or_else(|_| Vec::new(), |entries| entries.flatten().map(|entry| entry.path()).collect());
        files.sort();
        files.iter().map(|file| crate::log::text(&crate::log::read(file), "stdout")).collect()
    }

    /// The folder of a pod's volumes of a plugin: `empty-dir`, `projected`.
    pub fn volumes(&self, pod: &Value, plugin: &str) -> PathBuf {
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        self.setup.folder.join("root/pods").join(uid).join(format!("volumes/kubernetes.io~{plugin}"))
    }

    /// The kubelet's last lines about something.
    pub fn log_of(&self, word: &str) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(word)).collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn log(&self) -> PathBuf {
        self.setup.folder.join("kubelet.log")
    }

    /// The cgroups of pods that are still there though the pods are gone. The kubelet's own ones go.
    pub fn end(mut self) -> Vec<PathBuf> {
        self.process = None;
        if CgroupDriver::of_tests() == CgroupDriver::Systemd {
            let mut left = kernel::stop_slice("kubepods");
            left.retain(|path| {
                !path.ends_with("kubepods-burstable.slice") && !path.ends_with("kubepods-besteffort.slice")
            });
            return left;
        }
        let cgroup = self.setup.cgroup.trim_start_matches('/').to_owned();
        for name in ["kubepods/burstable", "kubepods/besteffort", "kubepods"] {
            kernel::remove_cgroup(&format!("{cgroup}/{name}"));
        }
        kernel::cgroups_named("kubepods").into_iter().filter(|path| text(path).contains(&cgroup)).collect()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.process = None;
        let root = text(&self.setup.folder.join("root"));
        for mount in kernel::mounts_mentioning(&root).iter().rev() {
            kernel::run("umount", &["--lazy", &text(mount)]);
        }
    }
}

/// A pod with a spec; what the kubelet wants to be said is said.
pub fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": { "app": name } },
        "spec": { "terminationGracePeriodSeconds": 2 },
    });
    merge(&mut pod["spec"], &spec);
    pod
}

/// Whether a condition of a pod holds.
pub fn condition(pod: &Value, kind: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == kind && one["status"] == "True"))
}

/// The status of a container of a pod: ordinary, init or ephemeral.
pub fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut all = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    all.find(|status| status["name"] == name).unwrap_or(&Value::Null)
}

/// Merges JSON objects deeply; everything else is replaced.
pub fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => into.clone_from(from),
    }
}

/// A GET by curl(1) that takes any certificate.
pub fn get(url: &str) -> Result<String, String> {
    let patience = (20 * slowness()).to_string();
    let output = Command::new("curl").args(["-sSkf", "--max-time", &patience, url]).output();
    let output = output.expect("curl runs (hack/install-deps installs it)");
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(words(&output.stdout)) } else { Err(words(&output.stderr)) }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
