//! Pod networks: the built-in bridge, and CNI with the real plugins.
//!
//! Tests that need forwarding, or look at what the world sees, have a node of their own: a network namespace, wired to
//! another one that plays the world. The rest share the machine's, each with its own bridge and subnet.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use carpel_e2e::client::{Pod, eventually, refusal};
use carpel_e2e::config::container;
use carpel_e2e::crictl::CommandLine;
use carpel_e2e::daemon::{Daemon, Network, Options};
use carpel_e2e::kernel::{NetNs, inside, processes};
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_e2e::{audit, busybox};
use carpel_proto::v1;
use tonic::Code;

/// A pod whose container serves its own name over HTTP on a port.
async fn server(daemon: &Daemon, config: v1::PodSandboxConfig, port: u16) -> (Pod, String, Vec<String>) {
    let pod = daemon.client.run_pod(config).await;
    let script = format!("hostname > /var/www/index.html; exec httpd -f -p {port} -h /var/www");
    let id = daemon.client.launch(&pod, container("server", BUSYBOX, &["sh", "-c", &script])).await;
    eventually("the server listens", async || {
        let address = format!("http://127.0.0.1:{port}/");
        (daemon.client.exec(&id, &["wget", "-qO-", &address]).await.code == 0).then_some(())
    })
    .await;
    let network = daemon.client.pod_status(&pod.id).await.network.unwrap_or_default();
    let mut addresses = vec![network.ip];
    addresses.extend(network.additional_ips.into_iter().map(|more| more.ip));
    (pod, id, addresses)
}

/// What a web server answers, asked from where the calling thread is.
fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    Ok(body.trim().to_owned())
}

fn tcp(container_port: i32, host_port: i32, host_ip: &str) -> v1::PortMapping {
    v1::PortMapping { container_port, host_port, host_ip: host_ip.to_owned(), ..Default::default() }
}

#[test]
fn pods_reach_each_other_and_the_host() {
    scenario::run(Options::default(), async |daemon| {
        let (_, one, one_at) = server(daemon, daemon.pod("one"), 8080).await;
        let (_, two, two_at) = server(daemon, daemon.pod("two"), 8080).await;
        assert_eq!(
            (one_at.len(), two_at.len()),
            (2, 2),
            "one IPv4 and one IPv6 address: {one_at:?} {two_at:?}"
        );
        let url = |address: &str| {
            if address.contains(':') {
                format!("http://[{address}]:8080/")
            } else {
                format!("http://{address}:8080/")
            }
        };
        for (from, to, name) in [(&one, &two_at, "two"), (&two, &one_at, "one")] {
            for address in to {
                let output = daemon.client.exec(from, &["timeout", "5", "wget", "-qO-", &url(address)]).await;
                assert_eq!(output.stdout, format!("{name}\n"), "{address}: {output:?}");
            }
        }
        for address in &one_at {
            let address =
                if address.contains(':') { format!("[{address}]:8080") } else { format!("{address}:8080") };
            assert_eq!(get(address.parse().unwrap()).unwrap(), "one", "from the host to {address}");
        }
        let gateway = format!("{}1", daemon.subnet_prefix());
        let (port, told) = who_connects(TcpListener::bind((gateway.as_str(), 0)).unwrap());
        connect(daemon, &one, &gateway, port).await;
        assert_eq!(told.recv().unwrap().ip().to_string(), one_at[0], "pod to host, by the pod's own address");
        let links = daemon
            .client
            .sh(&one, "ls /sys/class/net 2>/dev/null | sort | tr '\\n' ' '; cat /sys/class/net/lo/operstate")
            .await;
        assert!(links.starts_with("eth0 lo"), "{links}");
        assert_eq!(
            daemon.client.sh(&one, "ip route | head -1").await.split(' ').take(3).collect::<Vec<_>>(),
            ["default", "via", gateway.as_str()]
        );
    });
}

#[test]
fn nothing_stays_when_pods_go_and_addresses_are_used_again() {
    scenario::run(
        Options {
            config: "[network.builtin]\nsubnets = [\"10.214.0.0/29\"]\n".to_owned(),
            ..Options::default()
        },
        async |daemon| {
            // A /29 without its two ends and the gateway: five pods.
            for _ in 0..2 {
                let mut pods = Vec::new();
                let mut addresses = BTreeSet::new();
                for number in 0..5 {
                    let pod = daemon.client.run_pod(daemon.pod(&format!("pod{number}"))).await;
                    addresses.insert(daemon.client.pod_status(&pod.id).await.network.unwrap().ip);
                    pods.push(pod);
                }
                assert_eq!(addresses.len(), 5, "{addresses:?}");
                let status = refusal("a sixth pod", daemon.client.try_run_pod(&daemon.pod("sixth")).await);
                assert!(
                    status.message().contains("10.214.0.0/29"),
                    "says what is full: {}",
                    status.message()
                );
                assert_eq!(daemon.shims().len(), 5, "the refused pod left no shim");
                daemon.kill();
                daemon.spawn().await;
                refusal("a sixth pod after a restart", daemon.client.try_run_pod(&daemon.pod("sixth")).await);
                for pod in pods {
                    daemon.client.stop_pod(&pod.id).await;
                    daemon.client.remove_pod(&pod.id).await;
                }
                // Devices may die some moments after their pod; the address is not given out before they did.
                let (folder, bridge) = (daemon.folder().to_string_lossy().into_owned(), daemon.bridge());
                eventually("nothing of the pods is left", async || {
                    audit::of_networks(&folder, &bridge, "10.214.0.").is_empty().then_some(())
                })
                .await;
            }
        },
    );
}

#[test]
fn a_stopped_pod_gives_its_address_back_once() {
    scenario::run(Options::default(), async |daemon| {
        let first = daemon.client.run_pod(daemon.pod("first")).await;
        let ip = daemon.client.pod_status(&first.id).await.network.unwrap().ip;
        daemon.client.stop_pod(&first.id).await;
        let others =
            [daemon.client.run_pod(daemon.pod("a")).await, daemon.client.run_pod(daemon.pod("b")).await];
        // Stop and Remove of the first once more must not free what another pod has by now.
        daemon.client.stop_pod(&first.id).await;
        daemon.client.remove_pod(&first.id).await;
        let next = daemon.client.run_pod(daemon.pod("c")).await;
        let mut seen = BTreeSet::new();
        for pod in others.iter().chain([&next]) {
            assert!(
                seen.insert(daemon.client.pod_status(&pod.id).await.network.unwrap().ip),
                "an address twice: {seen:?}"
            );
        }
        assert!(!ip.is_empty());
    });
}

#[test]
fn host_ports_answer_on_loopback_too() {
    scenario::run(Options::default(), async |daemon| {
        let free = |_| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ports: Vec<u16> = (0..2).map(free).collect();
        let mut config = daemon.pod("ports");
        config.port_mappings = vec![tcp(8080, ports[0].into(), ""), tcp(8080, ports[1].into(), "127.0.0.1")];
        let (pod, ..) = server(daemon, config, 8080).await;
        for port in &ports {
            assert_eq!(get(SocketAddr::from(([127, 0, 0, 1], *port))).unwrap(), "ports");
        }
        let gateway: SocketAddr = format!("{}1:{}", daemon.subnet_prefix(), ports[0]).parse().unwrap();
        assert_eq!(get(gateway).unwrap(), "ports", "by any address of the host");
        let bound: SocketAddr = format!("{}1:{}", daemon.subnet_prefix(), ports[1]).parse().unwrap();
        assert!(get(bound).is_err(), "the second only by the address asked for");

        daemon.kill();
        daemon.spawn().await;
        assert_eq!(get(SocketAddr::from(([127, 0, 0, 1], ports[0]))).unwrap(), "ports", "after a restart");
        daemon.client.stop_pod(&pod.id).await;
        assert!(get(SocketAddr::from(([127, 0, 0, 1], ports[0]))).is_err(), "gone with the pod");
    });
}

#[test]
fn a_host_port_that_is_taken_is_refused() {
    scenario::run(Options::default(), async |daemon| {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let with_port = |name: &str| {
            let mut config = daemon.pod(name);
            config.port_mappings = vec![tcp(8080, port.into(), "")];
            config
        };
        daemon.client.run_pod(with_port("first")).await;
        let status = refusal("the same port", daemon.client.try_run_pod(&with_port("second")).await);
        assert!(status.message().contains(&port.to_string()), "{}", status.message());
        assert_eq!(daemon.client.list_pods(None).await.len(), 1, "the refused pod is wholly gone");
        daemon.client.run_pod(daemon.pod("third")).await;
    });
}

/// A node and a world, wired together; a daemon in the node. `192.0.2.1` is the node, `192.0.2.2` the world.
fn with_world(network: Network, steps: impl AsyncFnOnce(&mut Daemon, &NetNs, &NetNs)) {
    let (node, world) = (NetNs::create("e2e-node"), NetNs::create("e2e-world"));
    node.connect(("up0", "192.0.2.1/24"), &world, ("down0", "192.0.2.2/24"));
    node.run(&["ip", "address", "add", "2001:db8::1/64", "dev", "up0", "nodad"]);
    world.run(&["ip", "address", "add", "2001:db8::2/64", "dev", "down0", "nodad"]);
    let folder = tempfile::tempdir().unwrap();
    let options = Options { network, netns: Some(node.path()), ..Options::default() };
    scenario::run_without_image(options, async |daemon| {
        let archive = folder.path().join("busybox.tar");
        busybox::archive(&archive, BUSYBOX);
        CommandLine::carpel(&daemon.socket()).ok(&["import", &archive.to_string_lossy()]);
        steps(daemon, &node, &world).await;
    });
}

/// Takes one connection and tells who it was.
fn who_connects(listener: TcpListener) -> (u16, std::sync::mpsc::Receiver<SocketAddr>) {
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (_stream, peer) = listener.accept().unwrap();
        tell.send(peer).unwrap();
    });
    (port, told)
}

/// Connects from inside a container, until the other side hangs up.
async fn connect(daemon: &Daemon, id: &str, address: &str, port: u16) {
    let output = daemon.client.exec(id, &["nc", "-w", "5", address, &port.to_string()]).await;
    assert_eq!(output.code, 0, "to {address}:{port}: {output:?}");
}

#[test]
fn the_world_sees_the_nodes_address_and_reaches_host_ports() {
    with_world(Network::Builtin, async |daemon, _, world| {
        let mut config = daemon.pod("web");
        config.port_mappings = vec![tcp(8080, 18080, "")];
        let (_, id, addresses) = server(daemon, config, 8080).await;
        for (theirs, node) in [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")] {
            let (port, told) = who_connects(world.inside(|| TcpListener::bind((theirs, 0)).unwrap()));
            connect(daemon, &id, theirs, port).await;
            assert_eq!(told.recv().unwrap().ip().to_string(), node, "the pod's address stays inside");
        }
        for node in ["192.0.2.1:18080", "[2001:db8::1]:18080"] {
            assert_eq!(world.inside(|| get(node.parse().unwrap())).unwrap(), "web", "in by {node}");
        }
        // A pod reaches itself by the node's port as well.
        let output =
            daemon.client.exec(&id, &["timeout", "5", "wget", "-qO-", "http://192.0.2.1:18080/"]).await;
        assert_eq!(output.stdout, "web\n", "{output:?}");
        assert_eq!(addresses.len(), 2);
    });
}

#[test]
fn host_ports_carry_udp() {
    with_world(Network::Builtin, async |daemon, _, world| {
        let mut config = daemon.pod("udp");
        let mapping = v1::PortMapping { protocol: v1::Protocol::Udp.into(), ..tcp(5300, 15300, "") };
        config.port_mappings = vec![mapping];
        let pod = daemon.client.run_pod(config).await;
        let id = daemon.client.launch(&pod, container("pod", BUSYBOX, &["sleep", "1000"])).await;
        let namespace = PathBuf::from(format!("/proc/{}/ns/net", processes(&id)[0]));
        let echo = inside(&namespace, || UdpSocket::bind("0.0.0.0:5300").unwrap());
        let echoing = std::thread::spawn(move || {
            let mut buffer = [0; 16];
            loop {
                let (length, from) = echo.recv_from(&mut buffer).unwrap();
                if &buffer[..length] == b"end" {
                    return;
                }
                echo.send_to(&buffer[..length], from).unwrap();
            }
        });
        let socket = world.inside(|| UdpSocket::bind("192.0.2.2:0").unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let answer = eventually("an answer by UDP", async || {
            socket.send_to(b"hello", "192.0.2.1:15300").unwrap();
            let mut buffer = [0; 16];
            socket.recv_from(&mut buffer).ok().map(|(length, from)| (buffer[..length].to_vec(), from))
        })
        .await;
        assert_eq!(answer, (b"hello".to_vec(), "192.0.2.1:15300".parse().unwrap()));
        socket.send_to(b"end", "192.0.2.1:15300").unwrap();
        echoing.join().unwrap();
    });
}

// === CNI ===

/// The reference plugins, as `hack/cni-plugins` builds them.
fn plugins() -> PathBuf {
    let folder = std::env::var_os("CARPEL_CNI_PLUGINS");
    folder.expect("CARPEL_CNI_PLUGINS is not set: export it as $(hack/cni-plugins)").into()
}

/// A CNI network in a folder: a configuration list and a folder for plugins of the test's own.
fn cni(folder: &Path, list: &str) -> Network {
    let (conf_dir, own) = (folder.join("net.d"), folder.join("bin"));
    std::fs::create_dir_all(&conf_dir).unwrap();
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(conf_dir.join("10-test.conflist"), list.replace("FOLDER", &folder.to_string_lossy()))
        .unwrap();
    Network::Cni { conf_dir, bin_dirs: vec![own, plugins()] }
}

/// Puts a shell script among the plugins.
fn plugin(folder: &Path, name: &str, script: &str) {
    let path = folder.join("bin").join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{}\n", script.replace("FOLDER", &folder.to_string_lossy())))
        .unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

const BRIDGE: &str = r#"{ "cniVersion": "1.0.0", "name": "test", "plugins": [
  { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables", "hairpinMode": true,
    "ipam": { "type": "host-local", "dataDir": "FOLDER/ipam", "ranges": [[{ "subnet": "10.215.0.0/24" }], [{ "subnet": "fdca:4be1:c::/64" }]],
              "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] } },
  { "type": "portmap", "backend": "nftables", "capabilities": { "portMappings": true } } ] }"#;

/// A plugin that notes what it was called with and passes on the previous result.
const NOTE: &str = r#"
input=$(cat)
{ echo "$CNI_COMMAND"; env | grep ^CNI_ | sort; echo "$input"; } > FOLDER/called-$CNI_COMMAND
if [ "$CNI_COMMAND" = ADD ]; then echo "$input" | jq .prevResult; fi"#;

#[test]
fn the_real_plugins_make_a_network() {
    let folder = tempfile::tempdir().unwrap();
    with_world(cni(folder.path(), BRIDGE), async |daemon, node, world| {
        node.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        let mut config = daemon.pod("web");
        config.port_mappings = vec![tcp(8080, 18080, "")];
        let (pod, id, addresses) = server(daemon, config, 8080).await;
        assert!(
            addresses[0].starts_with("10.215.0.") && addresses[1].starts_with("fdca:4be1:c:"),
            "{addresses:?}"
        );
        let (_, other, _) = server(daemon, daemon.pod("other"), 8080).await;
        let url = format!("http://{}:8080/", addresses[0]);
        assert_eq!(daemon.client.exec(&other, &["timeout", "5", "wget", "-qO-", &url]).await.stdout, "web\n");
        assert_eq!(world.inside(|| get("192.0.2.1:18080".parse().unwrap())).unwrap(), "web", "portMappings");
        let (port, told) = who_connects(world.inside(|| TcpListener::bind("192.0.2.2:0").unwrap()));
        connect(daemon, &id, "192.0.2.2", port).await;
        assert_eq!(told.recv().unwrap().ip().to_string(), "192.0.2.1", "masquerade");

        daemon.kill();
        daemon.spawn().await;
        let again = daemon.client.pod_status(&pod.id).await.network.unwrap();
        assert_eq!(again.ip, addresses[0], "the result was kept");
        daemon.client.stop_pod(&pod.id).await;
        assert!(world.inside(|| get("192.0.2.1:18080".parse().unwrap())).is_err(), "the port is gone");
    });
}

#[test]
fn plugins_are_told_who_the_pod_is_and_what_it_wants() {
    let list = r#"{ "cniVersion": "1.0.0", "name": "test", "plugins": [
      { "type": "ptp", "ipam": { "type": "host-local", "dataDir": "FOLDER/ipam", "subnet": "10.216.0.0/24" } },
      { "type": "note", "custom": [1, "two"], "capabilities": { "portMappings": true, "bandwidth": true, "dns": true } } ] }"#;
    let shared = tempfile::tempdir().unwrap();
    let folder = shared.path().to_owned();
    with_world(cni(&folder, list), async |daemon, _, _| {
        plugin(&folder, "note", NOTE);
        let mut config = daemon.pod("noted");
        config.port_mappings = vec![tcp(80, 18080, "192.0.2.1")];
        config.dns_config =
            Some(v1::DnsConfig { servers: vec!["192.0.2.53".to_owned()], ..Default::default() });
        config.annotations.insert("kubernetes.io/ingress-bandwidth".to_owned(), "10M".to_owned());
        let pod = daemon.client.run_pod(config).await;
        let called = |verb: &str| std::fs::read_to_string(folder.join(format!("called-{verb}"))).unwrap();
        let add = called("ADD");
        for expected in [
            "K8S_POD_NAMESPACE=e2e",
            "K8S_POD_NAME=noted",
            &format!("K8S_POD_INFRA_CONTAINER_ID={}", pod.id),
            &format!("CNI_CONTAINERID={}", pod.id),
            "CNI_IFNAME=eth0",
            "IgnoreUnknown=",
        ] {
            assert!(add.contains(expected), "{expected} is not in {add}");
        }
        let input: serde_json::Value = serde_json::from_str(&add[add.find('{').unwrap()..]).unwrap();
        let runtime = &input["runtimeConfig"];
        assert_eq!(runtime["portMappings"][0]["hostPort"], 18080, "{runtime}");
        assert_eq!(runtime["portMappings"][0]["hostIP"], "192.0.2.1", "{runtime}");
        assert_eq!(runtime["bandwidth"]["ingressRate"], 10_000_000, "{runtime}");
        assert_eq!(runtime["dns"]["servers"][0], "192.0.2.53", "{runtime}");
        assert_eq!(
            input["custom"],
            serde_json::json!([1, "two"]),
            "what the runtime does not know it passes on"
        );
        assert_eq!(input["name"], "test");

        // DEL is told the result of ADD, after a restart too.
        daemon.kill();
        daemon.spawn().await;
        daemon.client.stop_pod(&pod.id).await;
        let del = called("DEL");
        let input: serde_json::Value = serde_json::from_str(&del[del.find('{').unwrap()..]).unwrap();
        assert!(
            input["prevResult"]["ips"][0]["address"].as_str().unwrap().starts_with("10.216.0."),
            "{input}"
        );
        assert_eq!(input["runtimeConfig"]["portMappings"][0]["hostPort"], 18080);
    });
}

#[test]
fn a_plugin_that_fails_leaves_no_pod_and_no_address() {
    let list = r#"{ "cniVersion": "1.0.0", "name": "test", "plugins": [
      { "type": "ptp", "ipam": { "type": "host-local", "dataDir": "FOLDER/ipam", "subnet": "10.217.0.0/24" } },
      { "type": "fails" } ] }"#;
    let shared = tempfile::tempdir().unwrap();
    let folder = shared.path().to_owned();
    with_world(cni(&folder, list), async |daemon, _, _| {
        for (case, script, words) in [
            (
                "an error",
                r#"[ "$CNI_COMMAND" = DEL ] || { echo '{ "code": 50, "msg": "no luck", "details": "today" }'; exit 1; }"#,
                &["no luck", "today"][..],
            ),
            ("a death", r#"[ "$CNI_COMMAND" = DEL ] || kill -9 $$"#, &["fails"]),
            ("nonsense", r#"[ "$CNI_COMMAND" = DEL ] || echo 'not json'"#, &["fails"]),
            ("too much", r#"[ "$CNI_COMMAND" = DEL ] || head -c 100000000 /dev/zero"#, &["fails"]),
        ] {
            plugin(&folder, "fails", script);
            let status = refusal(case, daemon.client.try_run_pod(&daemon.pod("unlucky")).await);
            for word in words {
                assert!(status.message().contains(word), "{case}: `{word}` is not in: {}", status.message());
            }
            assert!(daemon.client.list_pods(None).await.is_empty(), "{case} left a pod");
            assert!(daemon.shims().is_empty(), "{case} left a shim");
            assert_eq!(leases(&folder), 0, "{case} left an address");
        }
    });
}

/// The addresses that host-local has given out.
fn leases(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder.join("ipam/test")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("10.")).count()
}

#[test]
fn a_plugin_that_hangs_is_killed_in_time() {
    let list = r#"{ "cniVersion": "1.0.0", "name": "test", "plugins": [ { "type": "hangs" } ] }"#;
    let folder = tempfile::tempdir().unwrap();
    let network = cni(folder.path(), list);
    // A child of it as well, which holds its output open.
    plugin(
        folder.path(),
        "hangs",
        "[ \"$CNI_COMMAND\" = DEL ] && exit 0; sleep 3217 & echo $! > FOLDER/child; sleep 3217",
    );
    let options =
        Options { network, config: "[network.cni]\nplugin_timeout_s = 1\n".to_owned(), ..Options::default() };
    scenario::run(options, async |daemon| {
        let status = refusal("a hanging plugin", daemon.client.try_run_pod(&daemon.pod("hanging")).await);
        assert!(status.message().contains("hangs"), "{}", status.message());
        assert_ne!(status.code(), Code::InvalidArgument);
        assert!(daemon.client.list_pods(None).await.is_empty());
        let child = std::fs::read_to_string(folder.path().join("child")).unwrap();
        eventually("its child is dead", async || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
            (state.is_empty() || state.contains(") Z ")).then_some(())
        })
        .await;
        // Others were never held up.
        let pod = daemon.client.run_pod(daemon.host_pod("host")).await;
        assert_eq!(daemon.client.run_to_end(&pod, container("true", BUSYBOX, &["true"])).await.exit_code, 0);
    });
}

#[test]
fn a_stop_succeeds_only_when_the_address_is_free() {
    let list = r#"{ "cniVersion": "1.0.0", "name": "test", "plugins": [
      { "type": "ptp", "ipam": { "type": "host-local", "dataDir": "FOLDER/ipam", "subnet": "10.218.0.0/24" } },
      { "type": "stubborn" } ] }"#;
    let shared = tempfile::tempdir().unwrap();
    let folder = shared.path().to_owned();
    with_world(cni(&folder, list), async |daemon, _, _| {
        plugin(
            &folder,
            "stubborn",
            "[ \"$CNI_COMMAND\" = ADD ] && { jq .prevResult; exit 0; }; [ -e FOLDER/willing ] || { echo '{ \"code\": 11, \"msg\": \"not now\" }'; exit 1; }",
        );
        let pod = daemon.client.run_pod(daemon.pod("stubborn")).await;
        let id = daemon.client.launch(&pod, container("c", BUSYBOX, &["sleep", "1000"])).await;
        let request = || v1::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        for restart in [false, true] {
            if restart {
                daemon.kill();
                daemon.spawn().await;
            }
            let status = refusal("a stop", daemon.client.runtime.clone().stop_pod_sandbox(request()).await);
            assert!(status.message().contains("not now"), "{}", status.message());
            assert_eq!(
                daemon.client.status(&id).await.state(),
                v1::ContainerState::ContainerExited,
                "containers are dead"
            );
            assert_eq!(
                daemon.client.list_pods(None).await.len(),
                1,
                "the pod is still known: it has an address"
            );
        }
        std::fs::write(folder.join("willing"), "").unwrap();
        daemon.client.stop_pod(&pod.id).await;
        assert_eq!(leases(&folder), 0);
    });
}

#[test]
fn a_configuration_that_names_a_path_for_a_plugin_is_not_run() {
    let list = r#"{ "cniVersion": "1.0.0", "name": "test", "plugins": [ { "type": "../escape" } ] }"#;
    let folder = tempfile::tempdir().unwrap();
    let network = cni(folder.path(), list);
    plugin(folder.path(), "../escape", "touch FOLDER/ran");
    scenario::run(Options { network, ..Options::default() }, async |daemon| {
        refusal("a plugin by path", daemon.client.try_run_pod(&daemon.pod("escape")).await);
        assert!(!folder.path().join("ran").exists());
    });
}
