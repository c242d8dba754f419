//! A cluster of one node: etcd, Kubernetes' control plane and metrics server, and a kubelet on a Carpel daemon.
//!
//! Everything but pods is on loopback or the bridge's own address. There is no kube-proxy: services have no address.
//! Who has the kubeconfig is an administrator.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use carpel_proto::v1::PodSandboxState;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::certificates::openssl;
use crate::daemon::{Daemon, Options};
use crate::kubelet::{Kubelet, Setup, free_port, images, program, until};
use crate::process::Tethered;
use crate::registry::Registry;

/// The name of the one node.
pub const NODE: &str = "node";

/// The administrator's token. Only this machine reaches the API server.
const TOKEN: &str = "carpel-e2e";

/// What `kubectl top` needs: the metrics server registered behind the API server, which has no client certificate for
/// it, so that figures are for everybody.
const METRICS: &str = r#"
{ "apiVersion": "v1", "kind": "List", "items": [
  { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "metrics-server", "namespace": "kube-system" },
    "spec": { "type": "ExternalName", "externalName": "localhost" } },
  { "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": { "name": "v1beta1.metrics.k8s.io" },
    "spec": { "group": "metrics.k8s.io", "version": "v1beta1", "insecureSkipTLSVerify": true,
      "groupPriorityMinimum": 100, "versionPriority": 100,
      "service": { "name": "metrics-server", "namespace": "kube-system", "port": PORT } } },
  { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "metrics" },
    "rules": [{ "apiGroups": ["metrics.k8s.io"], "resources": ["*"], "verbs": ["get", "list"] },
              { "nonResourceURLs": ["/apis/*", "/openapi/*"], "verbs": ["get"] }] },
  { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "metrics" },
    "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "metrics" },
    "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated" }] }
] }"#;

/// A cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The runtime of its node.
    pub daemon: Daemon,
    kubelet: Kubelet,
    runtime: Handle,
    folder: PathBuf,
    /// In the order in which they started.
    control_plane: Vec<Tethered>,
    _registry: Registry,
}

impl Cluster {
    /// Starts everything; returns when the node is ready and has a default service account.
    pub fn start(runtime: &Handle) -> Self {
        let registry = images::registry();
        let daemon = runtime.block_on(async {
            let daemon = Daemon::start(Options::default()).await;
            daemon.mirror("images.test", &registry.url());
            daemon.make_bridge().await;
            daemon
        });
        let folder = daemon.folder().join("cluster");
        fs::create_dir(&folder).expect("make the cluster's folder");
        let address = format!("{}1", daemon.subnet_prefix());
        let mut control_plane = start_control_plane(&folder, &address);
        let kubelet = Kubelet::start(Setup {
            folder: daemon.folder().join("kubelet"),
            socket: daemon.socket(),
            cgroup: daemon.cgroup("kubelet"),
            address,
            name: NODE.to_owned(),
            kubeconfig: Some(folder.join("kubeconfig")),
            config: json!({ "registerNode": true, "enableControllerAttachDetach": true }),
        });
        control_plane.push(start_metrics_server(&folder));
        let cluster =
            Self { daemon, kubelet, runtime: runtime.clone(), folder, control_plane, _registry: registry };
        cluster
            .until(&["get", "node", NODE], "a ready node", |node| crate::kubelet::condition(node, "Ready"));
        // Pods are refused until the controller has made it.
        cluster.until(&["get", "serviceaccount", "default"], "the service account", |account| {
            account.is_object()
        });
        cluster
    }

    /// Its kubelet.
    pub fn kubelet(&self) -> &Kubelet {
        &self.kubelet
    }

    /// What `kubectl --kubeconfig` wants.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// A folder for a test's files, which pods can mount.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.join("scratch").join(name);
        fs::create_dir_all(&folder).expect("make a scratch folder");
        folder
    }

    /// The command, not yet run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        kubectl(&self.folder, arguments)
    }

    /// Runs kubectl, whatever comes of it.
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("kubectl runs")
    }

    /// Runs kubectl; its trimmed output, or its errors.
    pub fn attempt(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.output(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Runs kubectl; returns its trimmed output, panics with its errors when it fails.
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.attempt(arguments).unwrap_or_else(|errors| panic!("kubectl {}: {errors}", arguments.join(" ")))
    }

    /// Creates or changes an object.
    pub fn apply(&self, object: &Value) {
        apply(&self.folder, &object.to_string());
    }

    /// Waits until what `kubectl … -o json` shows is as asked.
    pub fn until(&self, arguments: &[&str], what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let arguments = [arguments, &["-o", "json"]].concat();
        until(&format!("{}: {what}", arguments.join(" ")), || {
            let text = self.attempt(&arguments)?;
            let object: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
            if is(&object) { Ok(object) } else { Err(format!("{:#}", object["status"])) }
        })
    }

    /// Waits until a pod and its containers are ready.
    pub fn until_ready(&self, pod: &str) -> Value {
        self.until(&["get", "pod", pod], "ready", |pod| crate::kubelet::condition(pod, "Ready"))
    }

    /// Deletes every pod and what makes them, takes the cluster down, and panics if anything of it is still on the machine.
    pub fn end(mut self) {
        for kinds in ["deployments,daemonsets,jobs", "pods"] {
            self.ok(&["delete", kinds, "--all", "--all-namespaces", "--wait=true", "--timeout=150s"]);
        }
        self.kubelet.remove_all();
        let cgroups = self.kubelet.end();
        while self.control_plane.pop().is_some() {}
        let (pods, ended) = self.runtime.block_on(async {
            let pods = self.daemon.client.list_pods(None).await;
            self.daemon.client.remove_everything().await;
            (pods, self.daemon.terminate().await)
        });
        assert!(ended.success(), "carpeld ends with 0, not {ended}");
        assert_eq!(cgroups, [] as [PathBuf; 0], "cgroups of pods are left");
        let ready: Vec<_> = pods.iter().filter(|pod| pod.state() == PodSandboxState::SandboxReady).collect();
        assert!(ready.is_empty(), "running pods are left: {ready:?}");
        // The kernel takes dying network namespaces apart at its leisure.
        until("a clean machine", || {
            let left = self.daemon.leftovers();
            if left.is_empty() { Ok(()) } else { Err(left.join("\n  ")) }
        });
    }
}

fn kubectl(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("kubectl"));
    command.arg("--kubeconfig").arg(folder.join("kubeconfig")).args(arguments);
    // Its cache of the API stays here too.
    command.env("HOME", folder).env("KUBECACHEDIR", folder.join("cache"));
    command
}

fn apply(folder: &Path, text: &str) {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let file = folder.join(format!("object-{number}.json"));
    fs::write(&file, text).expect("write an object");
    let output = kubectl(folder, &["apply", "-f", &file.to_string_lossy()]).output().expect("kubectl runs");
    assert!(output.status.success(), "kubectl apply: {}\n{text}", String::from_utf8_lossy(&output.stderr));
}

/// Starts a program with `--flag=value`s; its log is in the folder.
fn spawn(folder: &Path, program: &OsStr, flags: &[(&str, String)]) -> Tethered {
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
    let log = File::create(folder.join(format!("{name}.log"))).expect("open a log");
    let flags: Vec<OsString> = flags.iter().map(|(flag, value)| format!("--{flag}={value}").into()).collect();
    let flags: Vec<&OsStr> = flags.iter().map(OsString::as_os_str).collect();
    Tethered::spawn(&program.to_string_lossy(), &flags, &log)
}

fn log_tail(folder: &Path, name: &str) -> String {
    let text = fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

fn start_control_plane(folder: &Path, address: &str) -> Vec<Tethered> {
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    openssl(folder, "genrsa -out service-accounts.key 2048");
    fs::write(folder.join("tokens.csv"), format!("{TOKEN},admin,admin,system:masters\n"))
        .expect("write the tokens");
    let [clients, peers, api] = [free_port(), free_port(), free_port()];
    let etcd = format!("http://127.0.0.1:{clients}");
    let mut started = vec![spawn(
        folder,
        OsStr::new("etcd"),
        &[
            ("data-dir", path("etcd")),
            ("listen-client-urls", etcd.clone()),
            ("advertise-client-urls", etcd.clone()),
            ("listen-peer-urls", format!("http://127.0.0.1:{peers}")),
            ("log-level", "warn".to_owned()),
        ],
    )];
    started.push(spawn(
        folder,
        program("kube-apiserver").as_os_str(),
        &[
            ("etcd-servers", etcd),
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", api.to_string()),
            ("advertise-address", address.to_owned()),
            ("endpoint-reconciler-type", "none".to_owned()),
            ("cert-dir", path("certificates")),
            ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("service-account-key-file", path("service-accounts.key")),
            ("service-account-signing-key-file", path("service-accounts.key")),
            ("token-auth-file", path("tokens.csv")),
            ("authorization-mode", "RBAC".to_owned()),
            ("service-cluster-ip-range", "10.214.0.0/24".to_owned()),
            ("kubelet-preferred-address-types", "InternalIP".to_owned()),
            ("allow-privileged", "true".to_owned()),
        ],
    ));
    write_kubeconfig(folder, api);
    until("a ready API server", || {
        for (name, process) in ["etcd", "kube-apiserver"].iter().zip(&started) {
            assert!(process.is_running(), "{name} ended:\n{}", log_tail(folder, name));
        }
        let output = kubectl(folder, &["get", "--raw", "/readyz"]).output().expect("kubectl runs");
        if output.stdout == b"ok" {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    });
    let common = |name: &str| {
        vec![
            ("kubeconfig", path("kubeconfig")),
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", free_port().to_string()),
            ("cert-dir", path(name)),
            ("leader-elect", "false".to_owned()),
            ("authentication-tolerate-lookup-failure", "true".to_owned()),
        ]
    };
    let mut controllers = common("kube-controller-manager");
    controllers.push(("service-account-private-key-file", path("service-accounts.key")));
    controllers.push(("root-ca-file", path("certificates/apiserver.crt")));
    started.push(spawn(folder, program("kube-controller-manager").as_os_str(), &controllers));
    started.push(spawn(folder, program("kube-scheduler").as_os_str(), &common("kube-scheduler")));
    started
}

fn write_kubeconfig(folder: &Path, port: u16) {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "carpel",
        "clusters": [{ "name": "carpel", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true,
        } }],
        "users": [{ "name": "admin", "user": { "token": TOKEN } }],
        "contexts": [{ "name": "carpel", "context": { "cluster": "carpel", "user": "admin", "namespace": "default" } }],
    });
    fs::write(folder.join("kubeconfig"), kubeconfig.to_string()).expect("write the kubeconfig");
}

fn start_metrics_server(folder: &Path) -> Tethered {
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let port = free_port();
    let flags = [
        ("kubeconfig", path("kubeconfig")),
        ("authentication-kubeconfig", path("kubeconfig")),
        ("authorization-kubeconfig", path("kubeconfig")),
        ("authentication-tolerate-lookup-failure", "true".to_owned()),
        ("bind-address", "127.0.0.1".to_owned()),
        ("secure-port", port.to_string()),
        ("cert-dir", path("metrics-server")),
        ("kubelet-insecure-tls", "true".to_owned()),
        ("kubelet-use-node-status-port", "true".to_owned()),
        ("kubelet-preferred-address-types", "InternalIP".to_owned()),
        ("metric-resolution", "10s".to_owned()),
        ("kubelet-request-timeout", "5s".to_owned()),
    ];
    let process = spawn(folder, program("metrics-server").as_os_str(), &flags);
    apply(folder, &METRICS.replace("PORT", &port.to_string()));
    process
}
