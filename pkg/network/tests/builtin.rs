//! The built-in bridge on machines of its own: connectivity, host ports, and that nothing is left.

#![allow(clippy::unwrap_used, reason = "clippy sees no test in a function that tests call")]

#[path = "isolated/host.rs"]
mod host;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use carpel_network::{
    AttachError, Attachment, BridgeConfig, Config, HostError, Mode, Network, NetworkStatus, PlanError,
    PortError, PortMapping, Protocol, Subnet, TeardownError,
};
use host::{
    Host, PATIENCE, call, echo, expect_answer, expect_silence, id, inside, isolated, request, run, serve,
    serve_echo,
};

fn bridge() -> BridgeConfig {
    BridgeConfig {
        bridge: "carpelt0".into(),
        subnets: vec![subnet("10.250.0.0/24"), subnet("fd00:250::/64")],
        ..BridgeConfig::default()
    }
}

fn subnet(text: &str) -> Subnet {
    text.parse().unwrap()
}

fn builtin(host: &Host) -> Config {
    host.config(Mode::Builtin(bridge()))
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn local(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn v4(pod: &Attachment) -> IpAddr {
    pod.ips[0]
}

fn tcp(host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { protocol: Protocol::Tcp, host_ip: None, host_port, container_port }
}

#[test]
fn two_pods_reach_each_other_and_the_node_and_leave_nothing() {
    isolated(|host| async move {
        let before = host.traces();
        let network = Network::open(builtin(&host)).await.unwrap();
        assert_eq!(network.status(), NetworkStatus::Ready);
        let a = network.attach(request(1)).await.unwrap();
        let b = network.attach(request(2)).await.unwrap();
        assert_eq!(a.ips, ["10.250.0.2".parse::<IpAddr>().unwrap(), "fd00:250::2".parse().unwrap()]);
        assert_eq!(a.interfaces[0].name, "eth0");
        for ip in ["10.250.0.1", "fd00:250::1"] {
            serve(None, at(ip.parse().unwrap(), 7000), "node");
        }
        for (a_ip, b_ip) in a.ips.iter().zip(&b.ips) {
            serve(Some(&b.netns), at(*b_ip, 7000), "b");
            expect_answer(Some(&a.netns), at(*b_ip, 7000), &format!("b {a_ip}"));
            let gateway = if a_ip.is_ipv4() { "10.250.0.1" } else { "fd00:250::1" };
            expect_answer(None, at(*b_ip, 7000), &format!("b {gateway}"));
            expect_answer(Some(&a.netns), at(gateway.parse().unwrap(), 7000), &format!("node {a_ip}"));
        }
        serve(Some(&a.netns), local("127.0.0.1:7001"), "loopback");
        expect_answer(Some(&a.netns), local("127.0.0.1:7001"), "loopback 127.0.0.1");
        assert!(run("nft", &["list", "ruleset"]).contains("masquerade"));
        assert_eq!(network.known(), [id(1), id(2)]);
        assert_eq!(*network.attachment(&id(1)).unwrap(), a);

        let in_use = network.teardown_host().await.unwrap_err();
        assert!(matches!(in_use, TeardownError::InUse(pods) if pods == [id(1), id(2)]));
        for number in [1, 2, 2] {
            network.detach(&id(number)).await.unwrap();
        }
        assert!(network.known().is_empty() && network.attachment(&id(1)).is_none());
        assert!(host.traces().contains("netns: []"), "{}", host.traces());
        network.settle().await;
        assert!(!host.traces().contains("veth"), "{}", host.traces());
        network.teardown_host().await.unwrap();
        assert_eq!(without_folders(&host.traces()), without_folders(&before));
    });
}

/// The empty folders that an opened network has made do not count.
fn without_folders(traces: &str) -> String {
    traces.replace("netns: []\n", "").replace("state: []\n", "")
}

#[test]
fn host_ports_are_reached_from_everywhere_and_capture_nothing_else() {
    isolated(|host| async move {
        let neighbour = host.neighbour();
        let network = Network::open(builtin(&host)).await.unwrap();
        let web = network
            .attach(carpel_network::AttachRequest {
                port_mappings: vec![
                    tcp(8080, 80),
                    PortMapping { protocol: Protocol::Udp, ..tcp(8080, 53) },
                    PortMapping { host_ip: "192.0.2.1".parse().ok(), ..tcp(8081, 80) },
                    tcp(0, 99),
                ],
                ..request(1)
            })
            .await
            .unwrap();
        let other = network.attach(request(2)).await.unwrap();
        for ip in &web.ips {
            serve(Some(&web.netns), at(*ip, 80), "web");
        }
        serve_echo(&web.netns, at(v4(&web), 53));
        serve(Some(&neighbour), local("192.0.2.2:8080"), "neighbour");
        inside(&neighbour, || run("ip", &["route", "add", "default", "via", "192.0.2.1"]));

        // From the node by every address of its own, from a neighbour, from another pod, from the pod itself.
        for address in ["127.0.0.1:8080", "192.0.2.1:8080", "10.250.0.1:8080", "[fd00:250::1]:8080"] {
            let said = call(None, local(address), PATIENCE);
            assert!(said.is_ok_and(|said| said.starts_with("web ")), "{address}");
        }
        expect_answer(Some(&neighbour), local("192.0.2.1:8080"), "web 192.0.2.2");
        for pod in [&other, &web] {
            for address in ["192.0.2.1:8080", "[fd00:250::1]:8080"] {
                let said = call(Some(&pod.netns), local(address), PATIENCE);
                assert!(said.is_ok_and(|said| said.starts_with("web ")), "{address} from {:?}", pod.ips);
            }
        }
        for from in [None, Some(other.netns.as_path()), Some(web.netns.as_path()), Some(neighbour.as_path())]
        {
            echo(from, local("192.0.2.1:8080")).unwrap();
        }
        // Bound to one address of the node.
        expect_answer(Some(&neighbour), local("192.0.2.1:8081"), "web 192.0.2.2");
        expect_silence(None, local("10.250.0.1:8081"));
        // The same port elsewhere is not ours (CVE-2025-67499), and the node's address hides the pod's.
        expect_answer(Some(&other.netns), local("192.0.2.2:8080"), "neighbour 192.0.2.1");

        network.detach(&id(1)).await.unwrap();
        expect_silence(Some(&neighbour), local("192.0.2.1:8080"));
        assert!(!run("nft", &["list", "ruleset"]).contains("8080"));
    });
}

#[test]
fn a_udp_client_of_a_host_port_follows_it_to_the_next_pod() {
    isolated(|host| async move {
        let neighbour = host.neighbour();
        let network = Network::open(builtin(&host)).await.unwrap();
        let with_port = |number| carpel_network::AttachRequest {
            port_mappings: vec![PortMapping { protocol: Protocol::Udp, ..tcp(53, 53) }],
            ..request(number)
        };
        let client = inside(&neighbour, || std::net::UdpSocket::bind("192.0.2.2:5353").unwrap());
        client.connect("192.0.2.1:53").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        for number in 1..=2 {
            let pod = network.attach(with_port(number)).await.unwrap();
            serve_echo(&pod.netns, at(v4(&pod), 53));
            // From one port always: for the kernel it is one connection.
            client.send(b"hello").unwrap();
            client.recv(&mut [0; 16]).unwrap_or_else(|error| panic!("pod {number}: {error}"));
            network.detach(&id(number)).await.unwrap();
            network.settle().await;
        }
    });
}

#[test]
fn a_pod_does_not_reach_the_node_s_loopback() {
    isolated(|host| async move {
        let network = Network::open(builtin(&host)).await.unwrap();
        let pod = network.attach(request(1)).await.unwrap();
        serve(None, local("127.0.0.1:7000"), "secret");
        inside(&pod.netns, || {
            // What an attacker with NET_ADMIN in the pod would do.
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            run("ip", &["addr", "del", "127.0.0.1/8", "dev", "lo"]);
            run("ip", &["route", "add", "127.0.0.1/32", "via", "10.250.0.1", "src", "10.250.0.2"]);
        });
        expect_silence(Some(&pod.netns), local("127.0.0.1:7000"));
        expect_answer(None, local("127.0.0.1:7000"), "secret 127.0.0.1");
        // The same attack does get there without the guard, so it is the guard that holds.
        run("nft", &["flush", "chain", "inet", "carpel-carpelt0", "guard"]);
        expect_answer(Some(&pod.netns), local("127.0.0.1:7000"), "secret 10.250.0.2");
    });
}

#[test]
fn router_advertisements_of_pods_count_nowhere() {
    isolated(|host| async move {
        let network = Network::open(builtin(&host)).await.unwrap();
        let pod = network.attach(request(1)).await.unwrap();
        let setting = |device: &str| {
            let path = format!("/proc/sys/net/ipv6/conf/{device}/accept_ra");
            std::fs::read_to_string(path).unwrap().trim().to_owned()
        };
        let veth = format!("veth{}", &id(1)[..11]);
        assert_eq!([setting("carpelt0"), setting(&veth)], ["0", "0"]);
        assert_eq!(inside(&pod.netns, || setting("eth0")), "0");
        // Nor does the node have an address of its own on the pod's device, once it has had time for it.
        echo_until_up(&pod);
        assert!(!run("ip", &["-6", "-br", "addr", "show", "dev", &veth]).contains("fe80"));
    });
}

/// Traffic over the pod's device: both ends are up and the kernel has done what it does then.
fn echo_until_up(pod: &Attachment) {
    serve(Some(&pod.netns), at(pod.ips[1], 7000), "pod");
    expect_answer(None, at(pod.ips[1], 7000), "pod fd00:250::1");
}

#[test]
fn twenty_attaches_at_once_get_twenty_addresses() {
    isolated(|host| async move {
        let network = Network::open(builtin(&host)).await.unwrap();
        let attaches: Vec<_> = (0..20)
            .map(|number| {
                let network = network.clone();
                tokio::spawn(async move { network.attach(request(number)).await.unwrap() })
            })
            .collect();
        let mut ips = Vec::new();
        for attach in attaches {
            ips.extend(attach.await.unwrap().ips);
        }
        ips.sort_unstable();
        ips.dedup();
        assert_eq!(ips.len(), 40);
    });
}

#[test]
fn an_exhausted_subnet_is_named_and_recovers() {
    isolated(|host| async move {
        let config = BridgeConfig { subnets: vec![subnet("10.250.0.0/29")], ..bridge() };
        let network = Network::open(host.config(Mode::Builtin(config))).await.unwrap();
        for number in 0..5 {
            network.attach(request(number)).await.unwrap();
        }
        let before = host.traces();
        let error = network.attach(request(9)).await.unwrap_err();
        assert!(matches!(error, AttachError::Plan { source: PlanError::Exhausted(_), .. }), "{error:?}");
        assert_eq!(host.traces(), before);
        network.detach(&id(3)).await.unwrap();
        let again = network.attach(request(9)).await.unwrap();
        assert_eq!(again.ips, ["10.250.0.5".parse::<IpAddr>().unwrap()]);
    });
}

#[test]
fn a_taken_host_port_is_refused_with_its_holder() {
    isolated(|host| async move {
        let network = Network::open(builtin(&host)).await.unwrap();
        let with_port =
            |number| carpel_network::AttachRequest { port_mappings: vec![tcp(80, 80)], ..request(number) };
        network.attach(with_port(1)).await.unwrap();
        let before = host.traces();
        let error = network.attach(with_port(2)).await.unwrap_err();
        let AttachError::Plan { source: PlanError::Port(PortError::Taken { port: 80, holder, .. }), .. } =
            error
        else {
            panic!("{error:?}");
        };
        assert_eq!(holder, id(1));
        assert_eq!(host.traces(), before);
        network.detach(&id(1)).await.unwrap();
        network.attach(with_port(2)).await.unwrap();
    });
}

#[test]
fn a_restart_keeps_pods_addresses_and_ports() {
    isolated(|host| async move {
        let network = Network::open(builtin(&host)).await.unwrap();
        let with_port =
            |number| carpel_network::AttachRequest { port_mappings: vec![tcp(80, 80)], ..request(number) };
        let pod = network.attach(with_port(1)).await.unwrap();
        drop(network);
        let network = Network::open(builtin(&host)).await.unwrap();
        assert_eq!(*network.attachment(&id(1)).unwrap(), pod);
        serve(Some(&pod.netns), at(v4(&pod), 80), "pod");
        expect_answer(None, local("127.0.0.1:80"), "pod 10.250.0.1");
        assert!(network.attach(with_port(2)).await.is_err(), "the port was given twice");
        assert_ne!(network.attach(request(3)).await.unwrap().ips, pod.ips);
        assert!(matches!(network.attach(request(1)).await, Err(AttachError::Exists(_))));
        network.detach(&id(1)).await.unwrap();
        expect_silence(None, local("127.0.0.1:80"));
    });
}

/// Rewrites a record as a daemon that died would have left it.
fn forge(host: &Host, number: u32, change: impl FnOnce(&mut serde_json::Value)) {
    let path = host.path("state").join(format!("{}.json", id(number)));
    let mut record = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut record);
    std::fs::write(path, record.to_string()).unwrap();
}

#[test]
fn what_a_killed_daemon_left_half_made_is_known_and_detached() {
    isolated(|host| async move {
        let network = Network::open(builtin(&host)).await.unwrap();
        network.attach(request(9)).await.unwrap();
        network.detach(&id(9)).await.unwrap();
        network.settle().await;
        let before = host.traces();
        for number in 1..=4 {
            let port_mappings = vec![tcp(100 + number as u16, 80)];
            network.attach(carpel_network::AttachRequest { port_mappings, ..request(number) }).await.unwrap();
        }
        drop(network);
        let intent = |record: &mut serde_json::Value| {
            record.as_object_mut().unwrap().remove("attachment");
        };
        // Pod 1: only the intent is on disk, everything was made. Pod 2: the pair was not made. Pod 3: nothing
        // was made. Pod 4: the record is garbage, and there is an unfinished write.
        (1..=3).for_each(|number| forge(&host, number, intent));
        let pin = |number: u32| host.path("netns").join(format!("carpel-{}", &id(number)[..20]));
        run("ip", &["link", "del", &format!("veth{}", &id(2)[..11])]);
        run("ip", &["link", "del", &format!("veth{}", &id(3)[..11])]);
        carpel_sys::netns::remove(&pin(3)).unwrap();
        std::fs::write(host.path("state").join(format!("{}.json", id(4))), "{").unwrap();
        std::fs::write(host.path("state").join(format!("{}.tmp", id(5))), "{").unwrap();

        let network = Network::open(builtin(&host)).await.unwrap();
        assert_eq!(network.known(), (1..=4).map(id).collect::<Vec<_>>());
        for number in 1..=4 {
            assert_eq!(network.attachment(&id(number)), None);
            network.detach(&id(number)).await.unwrap();
        }
        network.settle().await;
        assert!(network.known().is_empty());
        assert_eq!(host.traces(), before);
    });
}

#[test]
fn a_namespace_that_somebody_holds_open_loses_its_devices_too() {
    isolated(|host| async move {
        let network = Network::open(builtin(&host)).await.unwrap();
        let pod = network.attach(request(1)).await.unwrap();
        let held = carpel_sys::netns::open(&pod.netns).unwrap();
        network.detach(&id(1)).await.unwrap();
        assert!(network.known().is_empty());
        // The same pod again waits for the end of the first.
        let again = network.attach(request(1)).await.unwrap();
        assert_ne!(again.ips, pod.ips);
        network.detach(&id(1)).await.unwrap();
        network.settle().await;
        assert!(!host.traces().contains("veth") && !host.traces().contains(".json"), "{}", host.traces());
        drop(held);
    });
}

#[test]
fn a_daemon_killed_while_a_pod_leaves_finishes_later() {
    isolated(|host| async move {
        let network = Network::open(builtin(&host)).await.unwrap();
        let with_port =
            |number| carpel_network::AttachRequest { port_mappings: vec![tcp(80, 80)], ..request(number) };
        let pod = network.attach(with_port(1)).await.unwrap();
        let held = carpel_sys::netns::open(&pod.netns).unwrap();
        network.detach(&id(1)).await.unwrap();
        // Its port is free at once, and both records are on disk when the next daemon starts.
        let second = network.attach(with_port(2)).await.unwrap();
        let next = Network::open(builtin(&host)).await.unwrap();
        assert_eq!(next.known(), [id(1), id(2)]);
        serve(Some(&second.netns), at(v4(&second), 80), "second");
        expect_answer(None, local("127.0.0.1:80"), "second 10.250.0.1");
        next.detach(&id(1)).await.unwrap();
        expect_answer(None, local("127.0.0.1:80"), "second 10.250.0.1");
        drop(held);
    });
}

#[test]
fn after_a_reboot_a_pod_is_known_but_not_attached() {
    isolated(|host| async move {
        let network = Network::open(builtin(&host)).await.unwrap();
        let pod = network.attach(request(1)).await.unwrap();
        drop(network);
        run("umount", &["-l", pod.netns.to_str().unwrap()]);
        run("ip", &["link", "del", "carpelt0"]);
        run("nft", &["flush", "ruleset"]);
        let network = Network::open(builtin(&host)).await.unwrap();
        assert_eq!((network.known(), network.attachment(&id(1))), (vec![id(1)], None));
        network.detach(&id(1)).await.unwrap();
        network.settle().await;
        let traces = host.traces();
        assert!(
            traces.contains("netns: []") && traces.contains("pins: 0") && !traces.contains(".json"),
            "{traces}"
        );
    });
}

#[test]
fn a_failed_attach_is_undone() {
    isolated(|host| async move {
        let network = Network::open(builtin(&host)).await.unwrap();
        network.attach(request(9)).await.unwrap();
        let before = host.traces();
        for (key, value) in [
            ("net.ipv4.no_such_setting", "1"),
            ("net.ipv4.ip_forward", "many"),
            ("kernel.shmmax", "1"),
            ("net/../kernel/shmmax", "1"),
        ] {
            let request = carpel_network::AttachRequest {
                sysctls: vec![(key.into(), value.into())],
                port_mappings: vec![tcp(80, 80)],
                ..request(1)
            };
            let error = network.attach(request).await.unwrap_err();
            assert!(matches!(error, AttachError::Bridge(_)), "{error:?}");
            assert_eq!(host.traces(), before, "{key}");
        }
        let error = network.attach(carpel_network::AttachRequest { pod: "../x".into(), ..request(1) }).await;
        assert!(matches!(error, Err(AttachError::PodId(_))));
    });
}

#[test]
fn sysctls_are_written_inside_the_pod_only() {
    isolated(|host| async move {
        let network = Network::open(builtin(&host)).await.unwrap();
        let sysctls = vec![
            ("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned()),
            ("net.ipv4.conf.eth0.rp_filter".to_owned(), "2".to_owned()),
        ];
        let pod = network.attach(carpel_network::AttachRequest { sysctls, ..request(1) }).await.unwrap();
        let read = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
        assert_eq!(inside(&pod.netns, read).trim(), "80");
        assert_eq!(read().trim(), "1024");
    });
}

#[test]
fn several_bridges_share_a_machine() {
    isolated(|host| async move {
        let other = BridgeConfig {
            bridge: "carpelt1".into(),
            subnets: vec![subnet("10.251.0.0/24")],
            ..BridgeConfig::default()
        };
        let second = Config { state_dir: host.path("state2"), ..host.config(Mode::Builtin(other)) };
        let first = Network::open(builtin(&host)).await.unwrap();
        let second = Network::open(second).await.unwrap();
        let a = first.attach(request(1)).await.unwrap();
        let b = second.attach(request(2)).await.unwrap();
        serve(Some(&b.netns), at(v4(&b), 7000), "b");
        // Through the node, and masqueraded as anything that leaves the subnet.
        expect_answer(Some(&a.netns), at(v4(&b), 7000), "b 10.251.0.1");
        first.detach(&id(1)).await.unwrap();
        first.teardown_host().await.unwrap();
        expect_answer(None, at(v4(&b), 7000), "b 10.251.0.1");
        second.detach(&id(2)).await.unwrap();
        second.teardown_host().await.unwrap();
    });
}

#[test]
fn a_removed_bridge_or_table_is_made_again() {
    isolated(|host| async move {
        let network = Network::open(builtin(&host)).await.unwrap();
        network.attach(request(1)).await.unwrap();
        network.detach(&id(1)).await.unwrap();
        run("ip", &["link", "del", "carpelt0"]);
        let pod = network.attach(request(2)).await.unwrap();
        serve(Some(&pod.netns), at(v4(&pod), 7000), "pod");
        expect_answer(None, at(v4(&pod), 7000), "pod 10.250.0.1");
        run("nft", &["flush", "ruleset"]);
        network.attach(request(3)).await.unwrap();
        assert!(run("nft", &["list", "ruleset"]).contains("masquerade"), "the table was not made again");
        run("nft", &["flush", "ruleset"]);
        network.detach(&id(2)).await.unwrap();
        network.detach(&id(3)).await.unwrap();
    });
}

#[test]
fn a_node_that_is_already_used_otherwise_is_left_alone() {
    isolated(|host| async move {
        run("ip", &["link", "add", "carpelt0", "type", "veth", "peer", "name", "lan1"]);
        let network = Network::open(builtin(&host)).await.unwrap();
        let before = host.traces();
        let error = network.attach(request(1)).await.unwrap_err();
        assert!(is_host_error(&error, |e| matches!(e, HostError::NotABridge { kind, .. } if kind == "veth")));
        assert_eq!(host.traces(), before);
        run("ip", &["link", "set", "carpelt0", "name", "lan"]);
        run("ip", &["addr", "add", "10.250.0.77/16", "dev", "lan"]);
        let error = network.attach(request(1)).await.unwrap_err();
        assert!(is_host_error(&error, |e| matches!(e, HostError::Overlap { .. })), "{error:?}");
        assert!(network.known().is_empty());
    });
}

fn is_host_error(error: &AttachError, is: impl Fn(&HostError) -> bool) -> bool {
    let source = std::error::Error::source(error);
    source.and_then(|source| source.downcast_ref::<HostError>()).is_some_and(is)
}

#[test]
fn counters_are_the_pod_s() {
    isolated(|host| async move {
        let network = Network::open(builtin(&host)).await.unwrap();
        let pod = network.attach(request(1)).await.unwrap();
        let before = network.stats(&id(1)).await.unwrap();
        assert_eq!(before.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["eth0"]);
        serve(Some(&pod.netns), at(v4(&pod), 7000), "pod");
        expect_answer(None, at(v4(&pod), 7000), "pod 10.250.0.1");
        let after = network.stats(&id(1)).await.unwrap();
        assert!(after[0].rx_bytes > before[0].rx_bytes && after[0].tx_packets > before[0].tx_packets);
        network.detach(&id(1)).await.unwrap();
        assert!(network.stats(&id(1)).await.is_err());
    });
}

#[test]
fn without_masquerade_and_forwarding_the_node_stays_as_it_is() {
    isolated(|host| async move {
        let config = BridgeConfig { masquerade: false, subnets: vec![subnet("10.250.0.0/24")], ..bridge() };
        let forbidden = BridgeConfig { ip_forward: false, ..config.clone() };
        let network = Network::open(host.config(Mode::Builtin(forbidden))).await.unwrap();
        let pod = network.attach(request(1)).await.unwrap();
        serve(Some(&pod.netns), at(v4(&pod), 7000), "pod");
        expect_answer(None, at(v4(&pod), 7000), "pod 10.250.0.1");
        network.detach(&id(1)).await.unwrap();
        network.settle().await;
        let read = |path: &Path| std::fs::read_to_string(path).unwrap().trim().to_owned();
        assert_eq!(read(Path::new("/proc/sys/net/ipv4/ip_forward")), "0");
        drop(network);

        let neighbour = host.neighbour();
        inside(&neighbour, || run("ip", &["route", "add", "10.250.0.0/24", "via", "192.0.2.1"]));
        serve(Some(&neighbour), local("192.0.2.2:7000"), "neighbour");
        let network = Network::open(host.config(Mode::Builtin(config))).await.unwrap();
        let pod = network.attach(request(1)).await.unwrap();
        expect_answer(Some(&pod.netns), local("192.0.2.2:7000"), "neighbour 10.250.0.2");
        // No IPv6 subnet: the node speaks none with pods.
        assert_eq!(read(Path::new("/proc/sys/net/ipv6/conf/carpelt0/disable_ipv6")), "1");
    });
}
