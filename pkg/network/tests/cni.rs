//! CNI with the reference plugins where they can show it, and with a scripted one where a plugin has to
//! misbehave. Every test has a machine of its own.

#![allow(clippy::unwrap_used, reason = "clippy sees no test in a function that tests call")]

#[path = "isolated/host.rs"]
mod host;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use carpel_network::{
    AttachError, AttachRequest, CheckError, CniConfig, CniError, DetachError, ExecError, Mode, Network,
    NetworkStatus, PluginError, PortMapping, Protocol, ResultError,
};
use host::{Host, PATIENCE, call, expect_answer, expect_silence, id, inside, isolated, request, run, serve};
use serde_json::{Value, json};

/// The reference plugins, built outside of any test's machine, which has no network.
fn reference_plugins() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hack/cni-plugins");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

fn config(host: &Host, bin_dir: PathBuf) -> CniConfig {
    CniConfig {
        conf_dir: host.path("net.d"),
        bin_dirs: vec![bin_dir],
        cache_dir: host.path("cache"),
        plugin_timeout: PATIENCE,
        ..CniConfig::default()
    }
}

async fn open(host: &Host, cni: CniConfig) -> Network {
    Network::open(host.config(Mode::Cni(cni))).await.unwrap()
}

fn configure(host: &Host, name: &str, list: &Value) {
    fs::create_dir_all(host.path("net.d")).unwrap();
    // As installers do it: a reader never sees half a file.
    let unfinished = host.path("net.d").join(".unfinished");
    fs::write(&unfinished, list.to_string()).unwrap();
    fs::rename(unfinished, host.path("net.d").join(name)).unwrap();
}

/// What kubeadm clusters begin with, in both families.
fn bridge_list(host: &Host, version: &str) -> Value {
    json!({"cniVersion": version, "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": {
            "type": "host-local", "dataDir": host.path("leases"),
            "ranges": [[{"subnet": "10.240.0.0/24"}], [{"subnet": "fd00:240::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}}]})
}

/// Address leases of host-local.
fn leases(host: &Host) -> Vec<String> {
    let entries = fs::read_dir(host.path("leases/pods")).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut leases: Vec<String> = names.filter(|name| !name.starts_with("last") && name != "lock").collect();
    leases.sort();
    leases
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// An error with its causes, as a log shows it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[test]
fn reference_plugins_connect_pods_and_free_everything() {
    let plugins = reference_plugins();
    isolated(|host| async move {
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            configure(&host, "10-pods.conflist", &bridge_list(&host, version));
            let network = open(&host, config(&host, plugins.clone())).await;
            assert_eq!(network.status(), NetworkStatus::Ready, "{version}");
            let web = AttachRequest {
                port_mappings: vec![PortMapping {
                    protocol: Protocol::Tcp,
                    host_ip: None,
                    host_port: 8080,
                    container_port: 80,
                }],
                annotations: [("kubernetes.io/ingress-bandwidth".into(), "100M".into())].into(),
                ..request(1)
            };
            let a = network.attach(web).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
            let b = network.attach(request(2)).await.unwrap();
            assert_eq!(a.interfaces[0].name, "eth0");
            assert_eq!((a.ips.len(), b.ips.len(), leases(&host).len()), (2, 2, 4));
            for (a_ip, b_ip) in a.ips.iter().zip(&b.ips) {
                serve(Some(&b.netns), at(*b_ip, 7000), "b");
                expect_answer(Some(&a.netns), at(*b_ip, 7000), &format!("b {a_ip}"));
            }
            serve(Some(&a.netns), at(a.ips[0], 80), "web");
            let node = at("10.240.0.1".parse().unwrap(), 8080);
            assert!(call(Some(&b.netns), node, PATIENCE).is_ok_and(|said| said.starts_with("web ")));
            assert!(run("tc", &["qdisc"]).contains("tbf"), "no bandwidth limit was set");
            let stats = network.stats(&id(1)).await.unwrap();
            assert!(stats.iter().any(|i| i.name == "eth0" && i.rx_packets > 0));
            assert_eq!(fs::read_dir(host.path("cache/results")).unwrap().count(), 2);
            if version >= "0.4.0" {
                network.check(&id(2)).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
            }

            network.detach(&id(1)).await.unwrap();
            network.detach(&id(2)).await.unwrap();
            expect_silence(None, node);
            let traces = host.traces();
            assert!(leases(&host).is_empty(), "{:?}", leases(&host));
            assert_eq!(fs::read_dir(host.path("cache/results")).unwrap().count(), 0);
            assert!(!traces.contains("veth") && traces.contains("netns: []"), "{traces}");
            assert!(traces.contains("pins: 0") && !traces.contains(".json"), "{traces}");
        }
    });
}

#[test]
fn ptp_gives_a_pod_the_node() {
    let plugins = reference_plugins();
    isolated(|host| async move {
        let list = json!({"cniVersion": "1.0.0", "name": "pods", "type": "ptp", "ipam": {
            "type": "host-local", "dataDir": host.path("leases"), "subnet": "10.240.0.0/24",
            "routes": [{"dst": "0.0.0.0/0"}]}, "dns": {"nameservers": ["10.240.0.53"], "search": ["a.b"]}});
        configure(&host, "10-pods.conf", &list);
        let network = open(&host, config(&host, plugins)).await;
        let pod = network.attach(request(1)).await.unwrap();
        assert_eq!(
            (pod.dns.servers.as_slice(), pod.dns.searches.as_slice()),
            (&["10.240.0.53".to_owned()][..], &["a.b".to_owned()][..])
        );
        serve(Some(&pod.netns), at(pod.ips[0], 7000), "pod");
        expect_answer(None, at(pod.ips[0], 7000), "pod 10.240.0.1");
        network.detach(&id(1)).await.unwrap();
        assert!(leases(&host).is_empty());
    });
}

#[test]
fn twenty_attaches_at_once_get_twenty_addresses() {
    let plugins = reference_plugins();
    isolated(|host| async move {
        configure(&host, "10-pods.conflist", &bridge_list(&host, "1.0.0"));
        let network = open(&host, config(&host, plugins)).await;
        let attach = |number| {
            let network = network.clone();
            tokio::spawn(async move { network.attach(request(number)).await.unwrap().ips })
        };
        let attaches: Vec<_> = (0..20).map(attach).collect();
        let mut ips = Vec::new();
        for attach in attaches {
            ips.extend(attach.await.unwrap());
        }
        ips.sort_unstable();
        ips.dedup();
        assert_eq!(ips.len(), 40);
    });
}

/// A plugin whose behaviour is a file per verb, and which notes every call.
struct Scripted {
    dir: PathBuf,
}

const SCRIPT: &str = r#"#!/bin/sh
dir=$(dirname "$0")
name=$(basename "$0")
echo "$name $CNI_COMMAND $CNI_IFNAME netns=$CNI_NETNS" >> "$dir/calls"
cat > "$dir/$name.$CNI_COMMAND.stdin"
env > "$dir/$name.$CNI_COMMAND.env"
if [ -f "$dir/$name.$CNI_COMMAND.act" ]; then . "$dir/$name.$CNI_COMMAND.act"; fi
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "sandbox": "'"$CNI_NETNS"'"}],
    "ips": [{"address": "10.9.0.2/24", "interface": 0}]}'
exit 0
"#;

impl Scripted {
    fn new(host: &Host, names: &[&str]) -> Scripted {
        let dir = host.path("bin");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("script"), SCRIPT).unwrap();
        for name in names {
            // Another process writes it: a child that any thread of this one starts meanwhile would hold it open for
            // writing until it executes, and the plugin could not be (ETXTBSY).
            let mut install = Command::new("install");
            install.args(["-m", "755"]).args([dir.join("script"), dir.join(name)]);
            assert!(install.status().unwrap().success());
        }
        Scripted { dir }
    }

    fn act(&self, name: &str, verb: &str, script: &str) {
        fs::write(self.dir.join(format!("{name}.{verb}.act")), script).unwrap();
    }

    fn behave(&self, name: &str, verb: &str) {
        fs::remove_file(self.dir.join(format!("{name}.{verb}.act"))).unwrap();
    }

    /// The calls since the last question.
    fn calls(&self) -> Vec<String> {
        let path = self.dir.join("calls");
        let calls = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        calls.lines().map(str::to_owned).collect()
    }

    fn stdin(&self, name: &str, verb: &str) -> Value {
        serde_json::from_slice(&fs::read(self.dir.join(format!("{name}.{verb}.stdin"))).unwrap()).unwrap()
    }
}

fn scripted_list(version: &str, plugins: &[&str]) -> Value {
    let plugins: Vec<Value> = plugins
        .iter()
        .map(|name| json!({"type": name, "capabilities": {"portMappings": true, "dns": false}}))
        .collect();
    json!({"cniVersion": version, "name": "net", "plugins": plugins})
}

fn plugin_error(error: &AttachError) -> &PluginError {
    let AttachError::Cni { source: CniError::Plugin { source, .. }, .. } = error else {
        panic!("{error:?}");
    };
    source
}

#[test]
fn plugins_are_told_what_they_may_know() {
    isolated(|host| async move {
        let plugins = Scripted::new(&host, &["one", "two"]);
        configure(&host, "10.conflist", &scripted_list("1.0.0", &["one", "two"]));
        let network = open(&host, config(&host, plugins.dir.clone())).await;
        let port =
            PortMapping { protocol: Protocol::Udp, host_ip: None, host_port: 53, container_port: 5353 };
        let dns = carpel_network::DnsConfig { servers: vec!["10.0.0.1".into()], ..Default::default() };
        let pod = AttachRequest { port_mappings: vec![port], dns, ..request(1) };
        let attachment = network.attach(pod).await.unwrap();
        let netns = attachment.netns.to_str().unwrap().to_owned();

        let first = plugins.stdin("one", "ADD");
        let ports = json!([{"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": ""}]);
        assert_eq!(first["runtimeConfig"], json!({"portMappings": ports}), "only what it declares");
        assert_eq!((&first["name"], &first["cniVersion"]), (&json!("net"), &json!("1.0.0")));
        assert_eq!(first.get("prevResult"), None);
        assert_eq!(plugins.stdin("two", "ADD")["prevResult"]["ips"][0]["address"], "10.9.0.2/24");
        let env = fs::read_to_string(plugins.dir.join("one.ADD.env")).unwrap();
        let args = format!(
            "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=tests;K8S_POD_NAME=pod-1;\
             K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=uid-1",
            id(1)
        );
        for line in [&args, &format!("CNI_CONTAINERID={}", id(1)), &format!("CNI_NETNS={netns}")] {
            assert!(env.lines().any(|found| found == line), "{line} is not in {env}");
        }
        assert!(!env.contains("CARGO"), "the daemon's environment leaked");

        network.detach(&id(1)).await.unwrap();
        let add = |name: &str| format!("{name} ADD eth0 netns={netns}");
        let del = |name: &str| format!("{name} DEL eth0 netns={netns}");
        assert_eq!(plugins.calls(), [add("one"), add("two"), del("two"), del("one")]);
        assert_eq!(plugins.stdin("one", "DEL")["prevResult"]["ips"][0]["address"], "10.9.0.2/24");
    });
}

#[test]
fn a_misbehaving_add_is_named_and_undone() {
    isolated(|host| async move {
        let plugins = Scripted::new(&host, &["one", "two"]);
        configure(&host, "10.conflist", &scripted_list("1.0.0", &["one", "two"]));
        let cni =
            CniConfig { plugin_timeout: Duration::from_millis(1500), ..config(&host, plugins.dir.clone()) };
        let network = open(&host, cni).await;
        let before = host.traces();
        type Expect = fn(&PluginError) -> bool;
        let cases: [(&str, Expect); 8] = [
            (
                r#"echo '{"cniVersion": "1.0.0", "code": 11, "msg": "busy", "details": "come later"}'; exit 1"#,
                |e| matches!(e, PluginError::Failed { code: 11, message, .. } if message == "busy (come later)"),
            ),
            ("echo broken >&2; exit 3", |e| {
                matches!(e, PluginError::Crashed { status, stderr }
                    if status.code() == Some(3) && stderr.contains("broken"))
            }),
            ("kill -SEGV $$", |e| matches!(e, PluginError::Crashed { .. })),
            (
                "echo not json; exit 0",
                |e| matches!(e, PluginError::Result(ResultError::NotAnObject(text)) if text == "not json\n"),
            ),
            ("exit 0", |e| matches!(e, PluginError::Result(ResultError::Empty))),
            ("yes | head -c 5000000; exit 0", |e| matches!(e, PluginError::Exec(ExecError::TooMuchOutput))),
            ("yes | head -c 5000000 >&2; exit 0", |e| {
                matches!(e, PluginError::Exec(ExecError::TooMuchOutput))
            }),
            (
                "echo stuck >&2; sleep 3600 & echo $! > $dir/child; wait",
                |e| matches!(e, PluginError::Exec(ExecError::Timeout { stderr, .. }) if stderr.contains("stuck")),
            ),
        ];
        for (script, expected) in cases {
            plugins.act("two", "ADD", script);
            let error = network.attach(request(1)).await.unwrap_err();
            assert!(expected(plugin_error(&error)), "{script}: {error:?}");
            let text = chain(&error);
            assert!(text.contains("plugin two of network net: ADD"), "{text}");
            let calls: Vec<_> = plugins.calls().iter().map(|call| call[..7].to_owned()).collect();
            assert_eq!(calls, ["one ADD", "two ADD", "two DEL", "one DEL"], "{script}");
            assert_eq!(host.traces(), before, "{script}");
            assert!(network.known().is_empty());
        }
        let child = fs::read_to_string(plugins.dir.join("child")).unwrap();
        assert!(!runs(child.trim()), "the hung plugin's child survived");
    });
}

/// Whether a process is there and not only its exit status.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

#[test]
fn an_add_that_fails_half_way_frees_its_address() {
    let plugins = reference_plugins();
    isolated(|host| async move {
        let scripted = Scripted::new(&host, &["last"]);
        let mut list = bridge_list(&host, "1.0.0");
        list["plugins"].as_array_mut().unwrap().push(json!({"type": "last"}));
        configure(&host, "10.conflist", &list);
        let cni = CniConfig {
            bin_dirs: vec![plugins, scripted.dir.clone()],
            ..config(&host, host.path("nowhere"))
        };
        let network = open(&host, cni).await;
        scripted.act("last", "ADD", "exit 1");
        network.attach(request(1)).await.unwrap_err();
        assert!(leases(&host).is_empty() && network.known().is_empty());
        assert!(!host.traces().contains("veth"), "{}", host.traces());
    });
}

#[test]
fn a_failing_del_keeps_the_pod_known_until_it_works() {
    let plugins = reference_plugins();
    isolated(|host| async move {
        let scripted = Scripted::new(&host, &["last"]);
        let mut list = bridge_list(&host, "1.0.0");
        list["plugins"].as_array_mut().unwrap().push(json!({"type": "last"}));
        configure(&host, "10.conflist", &list);
        let cni = CniConfig {
            bin_dirs: vec![plugins, scripted.dir.clone()],
            ..config(&host, host.path("nowhere"))
        };
        let network = open(&host, cni.clone()).await;
        network.attach(request(1)).await.unwrap();
        scripted.act("last", "DEL", r#"echo '{"code": 100, "msg": "no"}'; exit 1"#);
        for _ in 0..2 {
            let error = network.detach(&id(1)).await.unwrap_err();
            assert!(matches!(error, DetachError::Cni { .. }), "{error:?}");
            assert_eq!((network.known(), leases(&host).len()), (vec![id(1)], 2));
            assert_eq!(network.attachment(&id(1)), None);
        }
        // A restart in between, and both the configuration and its folder are gone.
        drop(network);
        fs::remove_dir_all(host.path("net.d")).unwrap();
        let network = open(&host, cni).await;
        assert_eq!(network.known(), [id(1)]);
        assert!(network.detach(&id(1)).await.is_err());
        scripted.behave("last", "DEL");
        network.detach(&id(1)).await.unwrap();
        assert!(leases(&host).is_empty() && network.known().is_empty());
    });
}

#[test]
fn an_undo_that_fails_says_so_and_is_retried() {
    isolated(|host| async move {
        let plugins = Scripted::new(&host, &["one"]);
        configure(&host, "10.conflist", &scripted_list("1.0.0", &["one"]));
        let network = open(&host, config(&host, plugins.dir.clone())).await;
        plugins.act("one", "ADD", "exit 1");
        plugins.act("one", "DEL", "exit 1");
        let error = network.attach(request(1)).await.unwrap_err();
        assert!(matches!(error, AttachError::Leftover { .. }), "{error:?}");
        assert!(matches!(network.attach(request(1)).await, Err(AttachError::Exists(_))));
        assert_eq!(network.known(), [id(1)]);
        plugins.behave("one", "DEL");
        network.detach(&id(1)).await.unwrap();
        assert!(host.traces().contains("netns: []"));
    });
}

#[test]
fn del_works_when_the_namespace_is_gone_and_after_a_crash() {
    let plugins = reference_plugins();
    isolated(|host| async move {
        configure(&host, "10.conflist", &bridge_list(&host, "1.0.0"));
        let cni = config(&host, plugins);
        let network = open(&host, cni.clone()).await;
        let a = network.attach(request(1)).await.unwrap();
        let b = network.attach(request(2)).await.unwrap();
        network.attach(request(3)).await.unwrap();
        drop(network);
        // Pod 1: the namespace is gone, a plain file is left, as after a reboot. Pod 2: only the intent was
        // written, and everything is there. Pod 3: the record is garbage.
        run("umount", &["-l", a.netns.to_str().unwrap()]);
        let record = |number| host.path("state").join(format!("{}.json", id(number)));
        let mut intent: Value = serde_json::from_slice(&fs::read(record(2)).unwrap()).unwrap();
        intent.as_object_mut().unwrap().remove("attachment");
        fs::write(record(2), intent.to_string()).unwrap();
        fs::write(record(3), "garbage").unwrap();

        let network = open(&host, cni).await;
        assert_eq!(network.known(), [id(1), id(2), id(3)]);
        for number in 1..=3 {
            assert_eq!(network.attachment(&id(number)), None);
            network.detach(&id(number)).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        }
        assert!(leases(&host).is_empty(), "{:?}", leases(&host));
        let traces = host.traces();
        assert!(traces.contains("netns: []") && traces.contains("pins: 0"), "{traces}");
        assert!(!b.netns.exists() && !traces.contains(".json"), "{traces}");
    });
}

/// Waits until the status is as wanted.
async fn await_status(network: &Network, wanted: impl Fn(&NetworkStatus) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !wanted(&network.status()) {
        assert!(Instant::now() < deadline, "status stays {:?}", network.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn not_ready(status: &NetworkStatus, word: &str) -> bool {
    matches!(status, NetworkStatus::NotReady { reason: "NetworkPluginNotReady", message }
        if message.starts_with("cni plugin not initialized") && message.contains(word))
}

fn ready(status: &NetworkStatus) -> bool {
    *status == NetworkStatus::Ready
}

#[test]
fn status_follows_the_configuration_folder() {
    isolated(|host| async move {
        let plugins = Scripted::new(&host, &["one"]);
        let network = open(&host, config(&host, plugins.dir.clone())).await;
        assert!(not_ready(&network.status(), "no network config found"), "{:?}", network.status());
        assert!(matches!(network.attach(request(1)).await, Err(AttachError::NotReady(_))));
        assert!(network.known().is_empty());

        configure(&host, "10.conflist", &scripted_list("1.0.0", &["one"]));
        await_status(&network, ready).await;
        fs::remove_file(host.path("net.d/10.conflist")).unwrap();
        await_status(&network, |status| not_ready(status, "no network config found")).await;
        configure(&host, "10.conflist", &scripted_list("1.0.0", &["one"]));
        await_status(&network, ready).await;
        fs::rename(host.path("net.d"), host.path("moved")).unwrap();
        await_status(&network, |status| not_ready(status, "no network config found")).await;
        fs::rename(host.path("moved"), host.path("net.d")).unwrap();
        await_status(&network, ready).await;
        // Half a file, then another type of nonsense, then good again.
        fs::write(host.path("net.d/10.conflist"), "{\"cniVersion\"").unwrap();
        await_status(&network, |status| not_ready(status, "not valid JSON")).await;
        configure(&host, "10.conflist", &scripted_list("1.0.0", &["../../../../bin/sh"]));
        await_status(&network, |status| not_ready(status, "plugin type")).await;
        configure(&host, "10.conflist", &scripted_list("1.0.0", &["one"]));
        await_status(&network, ready).await;
    });
}

#[test]
fn status_is_asked_of_plugins_that_have_it() {
    isolated(|host| async move {
        let plugins = Scripted::new(&host, &["one"]);
        plugins.act("one", "STATUS", r#"echo '{"code": 50, "msg": "agent is starting"}'; exit 1"#);
        configure(&host, "10.conflist", &scripted_list("1.1.0", &["one"]));
        let network = open(&host, config(&host, plugins.dir.clone())).await;
        assert!(not_ready(&network.status(), "agent is starting"), "{:?}", network.status());
        plugins.behave("one", "STATUS");
        await_status(&network, ready).await;
    });
}

#[test]
fn check_finds_what_is_broken() {
    let plugins = reference_plugins();
    isolated(|host| async move {
        configure(&host, "10.conflist", &bridge_list(&host, "1.0.0"));
        let network = open(&host, config(&host, plugins)).await;
        let pod = network.attach(request(1)).await.unwrap();
        network.check(&id(1)).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        inside(&pod.netns, || run("ip", &["addr", "flush", "dev", "eth0"]));
        assert!(matches!(network.check(&id(1)).await, Err(CheckError::Cni { .. })));
    });
}

#[test]
fn plugins_collect_garbage_at_start_before_anybody_attaches() {
    isolated(|host| async move {
        let plugins = Scripted::new(&host, &["one", "old"]);
        // A plugin that does not know GC is no obstacle.
        plugins.act("old", "GC", r#"echo '{"code": 4, "msg": "no GC"}'; exit 1"#);
        configure(&host, "10.conflist", &scripted_list("1.1.0", &["old", "one"]));
        let cni = config(&host, plugins.dir.clone());
        let network = open(&host, cni.clone()).await;
        network.attach(request(1)).await.unwrap();
        drop(network);
        // Another runtime that shares the cache has an attachment too.
        let foreign = json!({"kind": "cniCacheV1", "containerId": "foreign", "ifName": "eth9",
            "networkName": "net", "config": "", "result": {}});
        fs::write(host.path("cache/results/net-foreign-eth9"), foreign.to_string()).unwrap();
        plugins.calls();
        plugins.act("one", "GC", "sleep 0.3");
        let network = open(&host, cni).await;
        network.attach(request(2)).await.unwrap();
        let calls = plugins.calls();
        let verbs: Vec<_> = calls.iter().map(|call| call.split(' ').take(2).collect::<Vec<_>>()).collect();
        assert_eq!(
            verbs,
            [
                ["old", "STATUS"],
                ["one", "STATUS"],
                ["old", "GC"],
                ["one", "GC"],
                ["old", "ADD"],
                ["one", "ADD"]
            ]
        );
        let valid = json!([{"containerID": id(1), "ifname": "eth0"},
            {"containerID": "foreign", "ifname": "eth9"}]);
        assert_eq!(plugins.stdin("one", "GC")["cni.dev/valid-attachments"], valid);
    });
}
