//! What happens to pods when the kubelet or Carpel goes and comes back, and what a kubelet that asks in other ways gets.

use std::collections::BTreeMap;

use carpel_e2e::kubelet::{container, images, pod, until};
use serde_json::{Value, json};

use crate::node::{Node, WAIT, sh};
use crate::stats;

pub(crate) fn checks() -> crate::Steps {
    crate::checks![
        a_killed_carpel_keeps_its_pods,
        a_restarted_kubelet_finds_its_pods,
        a_kubelet_that_asks_otherwise_runs_pods,
        events_tell_the_kubelet_of_exits,
        summary_by_cri_has_every_figure,
        cadvisor_metrics_by_cri_name_their_pods,
        a_carpel_killed_under_events_keeps_its_pods,
        unused_images_are_collected,
    ]
}

/// The container ids and restarts of every pod that is ready.
fn running(node: &Node) -> BTreeMap<String, Vec<(String, u64)>> {
    let pods = node.kubelet().pods().unwrap();
    let steady = pods.iter().filter(|pod| pod["metadata"]["labels"]["steady"] == "yes");
    steady
        .map(|pod| {
            let statuses = pod["status"]["containerStatuses"].as_array().unwrap();
            let ids = statuses
                .iter()
                .map(|status| (crate::node::id(status), status["restartCount"].as_u64().unwrap()));
            (pod["metadata"]["name"].as_str().unwrap().to_owned(), ids.collect())
        })
        .collect()
}

/// Pods that have nothing to do with what happens.
fn place_steady(node: &Node) {
    for number in 0..5 {
        let name = format!("steady-{number}");
        let mut main = sh("main", WAIT);
        main["livenessProbe"] = json!({ "exec": { "command": ["true"] }, "periodSeconds": 1 });
        let mut steady = pod(&name, json!({ "containers": [main, sh("second", WAIT)] }));
        steady["metadata"]["labels"]["steady"] = json!("yes");
        node.kubelet().place(&steady);
    }
    for number in 0..5 {
        node.kubelet().until_ready(&format!("steady-{number}"));
    }
}

/// A pod is started, seen ready, ended and seen gone.
fn life_goes_on(node: &Node, name: &str) {
    node.kubelet().place(&pod(name, json!({ "containers": [sh("main", WAIT)] })));
    node.kubelet().until_ready(name);
    node.kubelet().remove(name);
    until("the pod's end", || node.kubelet().pod(name).map_or(Ok(()), |pod| Err(pod["status"].to_string())));
}

fn kill_carpel(node: &mut Node) {
    let daemon = node.daemon.as_mut().unwrap();
    daemon.kill();
    std::thread::sleep(std::time::Duration::from_secs(2));
    node.runtime.clone().block_on(daemon.spawn());
}

fn a_killed_carpel_keeps_its_pods(node: &mut Node) {
    place_steady(node);
    let before = running(node);
    // One that ends while nobody looks.
    let folder = node.folder("meanwhile");
    let mut main = sh("main", "until test -e /said/go; do sleep 0.1; done; exit 7");
    main["volumeMounts"] = json!([{ "name": "said", "mountPath": "/said" }]);
    let spec = json!({
        "restartPolicy": "Never", "containers": [main], "volumes": [crate::node::host_path("said", &folder)],
    });
    node.kubelet().place(&pod("meanwhile", spec));
    node.kubelet().until_ready("meanwhile");
    node.daemon.as_mut().unwrap().kill();
    std::fs::write(folder.join("go"), "").unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    node.runtime.clone().block_on(node.daemon.as_mut().unwrap().spawn());
    let ended = node.kubelet().until_pod("meanwhile", "its end", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(container(&ended, "main")["state"]["terminated"]["exitCode"], 7);
    life_goes_on(node, "after-carpel");
    assert_eq!(running(node), before, "the same containers, none restarted");
}

fn a_restarted_kubelet_finds_its_pods(node: &mut Node) {
    place_steady(node);
    let before = running(node);
    node.kubelet.as_mut().unwrap().restart(&json!({}));
    for number in 0..5 {
        node.kubelet().until_ready(&format!("steady-{number}"));
    }
    life_goes_on(node, "after-kubelet");
    assert_eq!(running(node), before, "the same containers, none restarted");
}

/// By events instead of lists, and by CRI for statistics: from here on.
///
/// Such a kubelet is not started on running pods here. It says of its cache that it is filled before it is
/// (`EventedPLEG.Start` calls `updateGlobalCache` at once, kubelet 1.36), and starts a second sandbox of each pod that it
/// looks at before it has listed it.
fn a_kubelet_that_asks_otherwise_runs_pods(node: &mut Node) {
    node.kubelet().remove_all();
    let gates = json!({ "featureGates": { "EventedPLEG": true, "PodAndContainerStatsFromCRI": true } });
    node.kubelet.as_mut().unwrap().restart(&gates);
    place_steady(node);
    let before = running(node);
    life_goes_on(node, "after-gates");
    assert_eq!(running(node), before);
}

/// A figure of the kubelet's own.
fn metric(node: &Node, name: &str) -> f64 {
    let text = node.kubelet().read("/metrics").unwrap();
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next_back()?.parse().ok());
    value.unwrap_or(0.0)
}

fn events_tell_the_kubelet_of_exits(node: &mut Node) {
    assert!(
        metric(node, "kubelet_evented_pleg_connection_success_count") >= 1.0,
        "the kubelet listens to events"
    );
    node.kubelet()
        .place(&pod("short", json!({ "restartPolicy": "Never", "containers": [sh("main", "exit 9")] })));
    let ended = node.kubelet().until_pod("short", "its end", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(container(&ended, "main")["state"]["terminated"]["exitCode"], 9);
    life_goes_on(node, "by-events");
    // The latency of events is measured for each that came.
    let heard = metric(node, "kubelet_evented_pleg_connection_latency_seconds_count");
    assert!(heard >= 5.0, "created, started and stopped, of containers and sandboxes: {heard}");
}

fn summary_by_cri_has_every_figure(node: &mut Node) {
    stats::place(node, "by-cri");
    let mut figures = stats::FIGURES.to_vec();
    figures.extend(["/network/rxBytes", "/network/txBytes", "/process_stats/process_count"]);
    let pod = stats::until_figures(node, "by-cri", &figures);
    assert_eq!(pod["network"]["name"], "eth0");
}

/// `/metrics/cadvisor` is made of Carpel's metrics then.
fn cadvisor_metrics_by_cri_name_their_pods(node: &mut Node) {
    stats::place(node, "exposed");
    let of_container = "container=\"main\"";
    until("every figure of /metrics/cadvisor", || {
        let text = node.kubelet().read("/metrics/cadvisor")?;
        let has = |(name, label): &(&str, &str)| {
            text.lines().any(|line| {
                let value =
                    line.rsplit_once("} ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
                line.starts_with(&format!("{name}{{"))
                    && [label, "namespace=\"default\"", "pod=\"exposed-node\""]
                        .iter()
                        .all(|label| line.contains(label))
                    && value > Some(0.0)
            })
        };
        let wanted = [
            ("container_cpu_usage_seconds_total", of_container),
            ("container_memory_working_set_bytes", of_container),
            ("container_memory_usage_bytes", of_container),
            ("container_fs_usage_bytes", of_container),
            ("container_processes", of_container),
            ("container_file_descriptors", of_container),
            ("container_start_time_seconds", of_container),
            ("container_spec_memory_limit_bytes", of_container),
            ("container_network_receive_bytes_total", "interface=\"eth0\""),
            ("container_network_transmit_bytes_total", "interface=\"eth0\""),
        ];
        let missing: Vec<_> = wanted.iter().filter(|wanted| !has(wanted)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} missing in\n{text}")) }
    });
}

fn a_carpel_killed_under_events_keeps_its_pods(node: &mut Node) {
    let before = running(node);
    kill_carpel(node);
    // A kubelet whose stream of events fails five times at once goes back to lists.
    life_goes_on(node, "events-again");
    assert_eq!(running(node), before);
}

fn unused_images_are_collected(node: &mut Node) {
    let names = |node: &Node| -> Vec<String> {
        let client = &node.daemon.as_ref().unwrap().client;
        let images = node.runtime.block_on(client.list_images());
        images.into_iter().flat_map(|image| image.repo_tags).collect()
    };
    place_steady(node);
    node.runtime.block_on(async { node.daemon.as_ref().unwrap().client.pull(images::GARBAGE).await });
    assert!(names(node).contains(&images::GARBAGE.to_owned()));
    // A node that has less room for images than it wants frees what it can. Static pods it does not evict.
    let greedy: Value = json!({
        "evictionHard": { "imagefs.available": "1Pi" }, "imageMinimumGCAge": "1s",
        "featureGates": { "EventedPLEG": false, "PodAndContainerStatsFromCRI": false },
    });
    node.kubelet.as_mut().unwrap().restart(&greedy);
    until("the end of an image nobody uses", || {
        let names = names(node);
        if names.contains(&images::GARBAGE.to_owned()) { Err(format!("{names:?}")) } else { Ok(()) }
    });
    assert!(names(node).contains(&images::BUSYBOX.to_owned()), "an image in use stays");
}
