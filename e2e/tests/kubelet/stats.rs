//! The kubelet's figures, as they come without a feature gate: containers' by CRI, pods' by the kubelet's own look at
//! cgroups. Networks' and processes' come by CRI alone, which `recovery` switches on.

use carpel_e2e::kubelet::{pod, until};
use serde_json::{Value, json};

use crate::node::{Node, sh};

pub(crate) fn checks() -> crate::Shared {
    crate::checks![summary_has_every_figure, resource_metrics_have_every_figure]
}

/// A busy container with a limit, from which every figure can be told.
pub(crate) fn place(node: &Node, name: &str) {
    let script = "dd if=/dev/zero of=/written bs=1M count=3; trap 'exit 0' TERM; while true; do wget -qO- http://127.0.0.1:1 2>/dev/null; sleep 0.05; done";
    let mut main = sh("main", script);
    main["resources"] = json!({ "limits": { "memory": "64Mi", "cpu": "500m" }, "requests": { "cpu": "1m" } });
    main["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    node.kubelet()
        .place(&pod(name, json!({ "containers": [main], "volumes": [{ "name": "v", "emptyDir": {} }] })));
    node.kubelet().until_ready(name);
}

/// Waits for the summary to have figures above zero at all the given paths of a pod.
pub(crate) fn until_figures(node: &Node, name: &str, paths: &[&str]) -> Value {
    let full = format!("{name}-node");
    until("every figure of /stats/summary", || {
        let body = node.kubelet().read("/stats/summary")?;
        let summary: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        let pods = summary["pods"].as_array().ok_or("no pods")?;
        let pod = pods.iter().find(|pod| pod["podRef"]["name"] == full.as_str()).ok_or("no such pod")?;
        let missing: Vec<&&str> = paths
            .iter()
            .filter(|path| pod.pointer(path).and_then(Value::as_f64).is_none_or(|figure| figure <= 0.0))
            .collect();
        if missing.is_empty() { Ok(pod.clone()) } else { Err(format!("{missing:?} missing in {pod:#}")) }
    })
}

/// Figures of a container and its pod that are above zero in a container that works.
pub(crate) const FIGURES: [&str; 20] = [
    "/containers/0/cpu/usageNanoCores",
    "/containers/0/cpu/usageCoreNanoSeconds",
    "/containers/0/memory/availableBytes",
    "/containers/0/memory/usageBytes",
    "/containers/0/memory/workingSetBytes",
    "/containers/0/memory/rssBytes",
    "/containers/0/memory/pageFaults",
    "/containers/0/rootfs/availableBytes",
    "/containers/0/rootfs/capacityBytes",
    "/containers/0/rootfs/usedBytes",
    "/containers/0/rootfs/inodes",
    "/containers/0/rootfs/inodesUsed",
    "/containers/0/logs/usedBytes",
    "/containers/0/logs/capacityBytes",
    "/cpu/usageNanoCores",
    "/cpu/usageCoreNanoSeconds",
    "/memory/workingSetBytes",
    "/memory/usageBytes",
    "/volume/0/capacityBytes",
    "/ephemeral-storage/usedBytes",
];

fn summary_has_every_figure(node: &Node) {
    place(node, "figures");
    let pod = until_figures(node, "figures", &FIGURES);
    let used = pod["containers"][0]["rootfs"]["usedBytes"].as_u64().unwrap();
    assert!((3 << 20..4 << 20).contains(&used), "the container wrote 3 MiB: {used}");
    let summary: Value = serde_json::from_str(&node.kubelet().read("/stats/summary").unwrap()).unwrap();
    for path in [
        "/node/runtime/imageFs/capacityBytes",
        "/node/runtime/imageFs/usedBytes",
        "/node/runtime/containerFs/capacityBytes",
    ] {
        assert!(
            summary["node"].pointer(&path["/node".len()..]).and_then(Value::as_u64) > Some(0),
            "{path}: {summary:#}"
        );
    }
}

fn resource_metrics_have_every_figure(node: &Node) {
    place(node, "metrics");
    until("every figure of /metrics/resource", || {
        let text = node.kubelet().read("/metrics/resource")?;
        let labels = "{container=\"main\",namespace=\"default\",pod=\"metrics-node\"}";
        let of_pod = "{namespace=\"default\",pod=\"metrics-node\"}";
        let wanted = [
            format!("container_cpu_usage_seconds_total{labels}"),
            format!("container_memory_working_set_bytes{labels}"),
            format!("container_start_time_seconds{labels}"),
            format!("pod_cpu_usage_seconds_total{of_pod}"),
            format!("pod_memory_working_set_bytes{of_pod}"),
        ];
        let missing: Vec<&String> = wanted.iter().filter(|name| !has_figure(&text, name)).collect();
        if missing.is_empty() && text.contains("resource_scrape_error 0") {
            Ok(())
        } else {
            Err(format!("{missing:?} missing in\n{text}"))
        }
    });
}

/// Whether a metric stands in an exposition with a value above zero.
pub(crate) fn has_figure(text: &str, metric: &str) -> bool {
    let values = text
        .lines()
        .filter_map(|line| line.strip_prefix(metric)?.split_whitespace().next()?.parse::<f64>().ok());
    values.into_iter().any(|value| value > 0.0)
}
