//! Pods' networks and names.

use carpel_e2e::kubelet::{free_port, get, images, pod, until};
use serde_json::json;

use crate::node::{Node, WAIT, sh};

pub(crate) fn checks() -> crate::Shared {
    crate::checks![
        pods_reach_each_other,
        host_network_is_the_hosts,
        host_ports_answer,
        names_and_hosts_files_are_the_kubelets,
    ]
}

fn server(name: &str) -> serde_json::Value {
    json!({ "name": name, "image": images::PROBED })
}

fn pods_reach_each_other(node: &Node) {
    node.kubelet().place(&pod("server", json!({ "containers": [server("main")] })));
    let served = node.kubelet().until_ready("server");
    let address = served["status"]["podIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with(node.subnet_prefix()), "{address}");
    let addresses = served["status"]["podIPs"].as_array().unwrap();
    assert_eq!(addresses.len(), 2, "IPv4 and IPv6: {addresses:?}");
    let v6 = addresses[1]["ip"].as_str().unwrap();
    let script = format!(
        "until wget -qO- http://{address}:8080; do sleep 0.2; done; until wget -qO- 'http://[{v6}]:8080'; do sleep 0.2; done; {WAIT}"
    );
    node.kubelet().place(&pod("client", json!({ "containers": [sh("main", &script)] })));
    let client = node.kubelet().until_ready("client");
    until("two answers", || {
        let said = node.kubelet().output(&client, "main");
        if said == "probed\nprobed\n" { Ok(()) } else { Err(said) }
    });
}

fn host_network_is_the_hosts(node: &Node) {
    let script = format!("ls /sys/class/net; hostname; {WAIT}");
    node.kubelet()
        .place(&pod("host-network", json!({ "hostNetwork": true, "containers": [sh("main", &script)] })));
    let pod = node.kubelet().until_ready("host-network");
    let said = until("interfaces", || {
        let said = node.kubelet().output(&pod, "main");
        if said.lines().count() > 2 { Ok(said) } else { Err(said) }
    });
    let bridge = node.daemon.as_ref().unwrap().bridge();
    assert!(said.lines().any(|line| line == bridge), "{said}");
    assert_eq!(pod["status"]["podIP"], pod["status"]["hostIP"]);
}

fn host_ports_answer(node: &Node) {
    let (tcp, other) = (free_port(), free_port());
    let mut main = server("main");
    main["ports"] = json!([
        { "containerPort": 8080, "hostPort": tcp },
        { "containerPort": 8080, "hostPort": other, "hostIP": "127.0.0.1", "name": "local" },
    ]);
    node.kubelet().place(&pod("host-ports", json!({ "containers": [main] })));
    node.kubelet().until_ready("host-ports");
    let address = format!("{}1", node.subnet_prefix());
    for url in [
        format!("http://127.0.0.1:{tcp}"),
        format!("http://{address}:{tcp}"),
        format!("http://127.0.0.1:{other}"),
    ] {
        assert_eq!(until(&url, || get(&url)), "probed\n");
    }
    node.kubelet().remove("host-ports");
    let url = format!("http://127.0.0.1:{tcp}");
    until("a closed port", || get(&url).map_or(Ok(()), Err));
}

fn names_and_hosts_files_are_the_kubelets(node: &Node) {
    let script = format!("hostname; cat /etc/hosts /etc/resolv.conf; {WAIT}");
    let spec = json!({
        "hostname": "named", "subdomain": "sub", "dnsPolicy": "None",
        "dnsConfig": { "nameservers": ["192.0.2.53"], "searches": ["a.test", "b.test"], "options": [{ "name": "ndots", "value": "3" }] },
        "hostAliases": [{ "ip": "192.0.2.7", "hostnames": ["alias.test"] }],
        "containers": [sh("main", &script)],
    });
    node.kubelet().place(&pod("names", spec));
    let pod = node.kubelet().until_ready("names");
    let said = until("the files", || {
        let said = node.kubelet().output(&pod, "main");
        if said.contains("ndots") { Ok(said) } else { Err(said) }
    });
    let address = pod["status"]["podIP"].as_str().unwrap();
    assert!(said.starts_with("named\n"), "{said}");
    for part in
        ["192.0.2.7\talias.test", "nameserver 192.0.2.53", "search a.test b.test", "options ndots:3", address]
    {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
}
