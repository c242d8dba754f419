//! Probes of every kind in every role.

use std::path::Path;

use carpel_e2e::kubelet::{condition, container, images, pod};
use serde_json::{Value, json};

use crate::node::{Node, host_path, sh};

pub(crate) fn checks() -> crate::Shared {
    crate::checks![
        exec_probes_decide,
        http_probes_decide,
        tcp_probes_decide,
        grpc_probes_decide,
        an_exec_probe_that_hangs_fails,
        startup_probes_hold_the_others_back,
    ]
}

fn exec_probes_decide(node: &Node) {
    decide(node, "exec", &json!({ "exec": { "command": ["sh", "-c", "test ! -e /tmp/unhealthy"] } }));
}

fn http_probes_decide(node: &Node) {
    decide(node, "http", &json!({ "httpGet": { "path": "/", "port": 8080 } }));
}

fn tcp_probes_decide(node: &Node) {
    decide(node, "tcp", &json!({ "tcpSocket": { "port": 7070 } }));
}

fn grpc_probes_decide(node: &Node) {
    decide(node, "grpc", &json!({ "grpc": { "port": 9090 } }));
}

/// A pod that starts, is ready, and lives by probes of one kind; two files say what they find.
fn decide(node: &Node, kind: &str, probe: &Value) {
    let folder = node.folder(kind);
    let mut every_second = json!({ "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 5 });
    carpel_e2e::kubelet::merge(&mut every_second, probe);
    let place = |name: &str, role: &str| {
        let mut startup = every_second.clone();
        startup["failureThreshold"] = json!(60);
        let mut main = json!({
            "name": "main", "image": images::PROBED, "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }],
            "startupProbe": startup,
        });
        main[role] = every_second.clone();
        let own = folder.join(role);
        std::fs::create_dir_all(&own).unwrap();
        node.kubelet()
            .place(&pod(name, json!({ "containers": [main], "volumes": [host_path("tmp", &own)] })));
        own.join("unhealthy")
    };
    let turn = |file: &Path, healthy: bool| {
        if healthy { std::fs::remove_file(file).unwrap() } else { std::fs::write(file, "").unwrap() }
    };
    let (ready, live) = (format!("{kind}-readiness"), format!("{kind}-liveness"));
    let readiness = place(&ready, "readinessProbe");
    let liveness = place(&live, "livenessProbe");
    node.kubelet().until_ready(&ready);
    node.kubelet().until_ready(&live);
    turn(&readiness, false);
    turn(&liveness, false);
    let pod = node.kubelet().until_pod(&ready, "not ready", |pod| !condition(pod, "Ready"));
    assert!(container(&pod, "main")["state"]["running"].is_object(), "readiness does not end it");
    node.kubelet()
        .until_pod(&live, "restarted", |pod| container(pod, "main")["restartCount"].as_u64() >= Some(1));
    turn(&readiness, true);
    turn(&liveness, true);
    let pod = node.kubelet().until_ready(&ready);
    assert_eq!(container(&pod, "main")["restartCount"], 0);
    node.kubelet().until_ready(&live);
}

fn an_exec_probe_that_hangs_fails(node: &Node) {
    let mut main = sh("main", crate::node::WAIT);
    main["livenessProbe"] = json!({
        "exec": { "command": ["sleep", "1000"] }, "timeoutSeconds": 1, "periodSeconds": 1, "failureThreshold": 1,
    });
    node.kubelet().place(&pod("hanging-probe", json!({ "containers": [main] })));
    node.kubelet().until_pod("hanging-probe", "restarted", |pod| {
        container(pod, "main")["restartCount"].as_u64() >= Some(1)
    });
}

fn startup_probes_hold_the_others_back(node: &Node) {
    let folder = node.folder("slow");
    let mut main = sh("main", crate::node::WAIT);
    main["volumeMounts"] = json!([{ "name": "said", "mountPath": "/said" }]);
    let look = |file: &str| json!({ "exec": { "command": ["test", "-e", file] }, "periodSeconds": 1 });
    main["startupProbe"] = look("/said/started");
    main["startupProbe"]["failureThreshold"] = json!(200);
    // Would end it at once.
    main["livenessProbe"] = look("/said/alive");
    main["livenessProbe"]["failureThreshold"] = json!(1);
    node.kubelet()
        .place(&pod("slow", json!({ "containers": [main], "volumes": [host_path("said", &folder)] })));
    node.kubelet().until_pod("slow", "running", |pod| container(pod, "main")["state"]["running"].is_object());
    std::thread::sleep(std::time::Duration::from_secs(4));
    let pod = node.kubelet().pod("slow").unwrap();
    assert_eq!(
        (&container(&pod, "main")["restartCount"], &container(&pod, "main")["started"]),
        (&json!(0), &json!(false))
    );
    std::fs::write(folder.join("started"), "").unwrap();
    node.kubelet()
        .until_pod("slow", "restarted", |pod| container(pod, "main")["restartCount"].as_u64() >= Some(1));
}
