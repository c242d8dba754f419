//! What controllers and the API server do with pods: scale, roll, resize, evict, delete.

use carpel_e2e::cluster::Cluster;
use carpel_e2e::kernel::{cgroup_file, is_cgroup_v1};
use carpel_e2e::kubelet::images::BUSYBOX;
use carpel_e2e::kubelet::{container, pod, until};
use serde_json::{Value, json};

use crate::{WAIT, sh};

pub(crate) fn together() -> crate::Shared {
    crate::checks![
        api_volumes_are_filled_and_follow_changes,
        a_pod_is_resized_in_place,
        evicted_pods_end_gracefully,
        a_pod_that_fills_its_disk_is_evicted,
        deleted_pods_have_their_grace,
        a_forced_deletion_leaves_nothing_running,
    ]
}

pub(crate) fn in_turn() -> crate::Shared {
    crate::checks![a_deployment_rolls, a_deployment_scales_to_fifty_and_to_nothing]
}

fn api_volumes_are_filled_and_follow_changes(cluster: &Cluster) {
    let map = |value: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "map" }, "data": { "key": value } });
    cluster.apply(&map("before"));
    cluster.apply(&json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "secret" }, "stringData": { "key": "hidden" } }));
    let mut main = sh(
        "main",
        &format!(
            "cd /all; cat map secret labels; wc -c < token; cat $TOKENS/namespace; until grep -q after /all/map; do sleep 0.5; done; echo; echo changed; {WAIT}"
        ),
    );
    main["env"] = json!([{ "name": "TOKENS", "value": "/var/run/secrets/kubernetes.io/serviceaccount" }]);
    main["volumeMounts"] = json!([{ "name": "all", "mountPath": "/all" }]);
    let volumes = json!([{ "name": "all", "projected": { "sources": [
        { "configMap": { "name": "map", "items": [{ "key": "key", "path": "map" }] } },
        { "secret": { "name": "secret", "items": [{ "key": "key", "path": "secret" }] } },
        { "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
        { "serviceAccountToken": { "path": "token", "expirationSeconds": 600 } },
    ] } }]);
    cluster.apply(&pod("api-volumes", json!({ "containers": [main], "volumes": volumes })));
    cluster.until_ready("api-volumes");
    cluster.apply(&map("after"));
    let said = until("the change in the container", || {
        let said = cluster.ok(&["logs", "api-volumes"]);
        if said.ends_with("changed") { Ok(said) } else { Err(said) }
    });
    assert!(said.starts_with("beforehiddenapp=\"api-volumes\""), "{said}");
    assert!(said.contains("\ndefault\n"), "the service account's own volume: {said}");
}

fn id(status: &Value) -> String {
    let id = status["containerID"].as_str().unwrap_or_default();
    id.strip_prefix("carpel://").unwrap_or_else(|| panic!("{status:#} has no id of ours")).to_owned()
}

fn a_pod_is_resized_in_place(cluster: &Cluster) {
    let mut main = sh("main", WAIT);
    main["resources"] = json!({ "requests": { "cpu": "10m", "memory": "32Mi" }, "limits": { "cpu": "100m", "memory": "64Mi" } });
    cluster.apply(&pod("resized", json!({ "containers": [main] })));
    let before = id(container(&cluster.until_ready("resized"), "main"));
    let limits = json!({ "cpu": "200m", "memory": "96Mi" });
    let patch = json!({ "spec": { "containers": [{ "name": "main", "resources": { "limits": limits } }] } });
    cluster.ok(&["patch", "pod", "resized", "--subresource=resize", "--patch", &patch.to_string()]);
    let pod = cluster.until(&["get", "pod", "resized"], "resized", |pod| {
        container(pod, "main")["resources"]["limits"] == limits
    });
    let status = container(&pod, "main");
    assert_eq!((id(status), &status["restartCount"]), (before.clone(), &json!(0)));
    if is_cgroup_v1() {
        assert_eq!(cgroup_file("cpu", &before, "cpu.cfs_quota_us"), "20000");
        assert_eq!(cgroup_file("memory", &before, "memory.limit_in_bytes"), (96 << 20).to_string());
    } else {
        assert_eq!(cgroup_file("cpu", &before, "cpu.max"), "20000 100000");
        assert_eq!(cgroup_file("memory", &before, "memory.max"), (96 << 20).to_string());
    }
}

/// A pod whose container says in a file that it was asked to end, and takes a second for it.
fn place_graceful(cluster: &Cluster, name: &str) -> std::path::PathBuf {
    let folder = cluster.folder(name);
    let mut main = sh(
        "main",
        "trap 'sleep 1; echo graceful > /said/end; exit 0' TERM; touch /said/up; sleep 100000 & wait",
    );
    main["volumeMounts"] = json!([{ "name": "said", "mountPath": "/said" }]);
    let volumes = json!([{ "name": "said", "hostPath": { "path": folder } }]);
    cluster.apply(&pod(
        name,
        json!({ "terminationGracePeriodSeconds": 60, "containers": [main], "volumes": volumes }),
    ));
    cluster.until_ready(name);
    until("the container's traps", || if folder.join("up").exists() { Ok(()) } else { Err(String::new()) });
    folder
}

fn until_gone(cluster: &Cluster, name: &str) {
    until("the pod's end", || {
        let left = cluster.ok(&["get", "pod", name, "--ignore-not-found"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

fn evicted_pods_end_gracefully(cluster: &Cluster) {
    let folder = place_graceful(cluster, "evicted");
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "evicted", "namespace": "default" },
    });
    let file = folder.join("eviction.json");
    std::fs::write(&file, eviction.to_string()).unwrap();
    cluster.ok(&[
        "create",
        "--raw",
        "/api/v1/namespaces/default/pods/evicted/eviction",
        "-f",
        &file.to_string_lossy(),
    ]);
    until_gone(cluster, "evicted");
    assert_eq!(std::fs::read_to_string(folder.join("end")).unwrap(), "graceful\n");
}

fn a_pod_that_fills_its_disk_is_evicted(cluster: &Cluster) {
    let mut main =
        sh("main", "dd if=/dev/zero of=/full bs=1M count=8; trap 'exit 1' TERM; sleep 100000 & wait");
    main["resources"] = json!({ "limits": { "ephemeral-storage": "2Mi" } });
    cluster.apply(&pod("greedy", json!({ "containers": [main] })));
    let pod = cluster.until(&["get", "pod", "greedy"], "evicted", |pod| pod["status"]["reason"] == "Evicted");
    assert!(pod["status"]["message"].as_str().unwrap().contains("ephemeral"), "{pod:#}");
}

fn deleted_pods_have_their_grace(cluster: &Cluster) {
    let folder = place_graceful(cluster, "deleted");
    cluster.ok(&["delete", "pod", "deleted", "--grace-period=60", "--wait=true"]);
    assert_eq!(std::fs::read_to_string(folder.join("end")).unwrap(), "graceful\n");
}

fn a_forced_deletion_leaves_nothing_running(cluster: &Cluster) {
    let mut main = sh("main", "trap '' TERM; while true; do date > /said/alive; sleep 0.2; done");
    let folder = cluster.folder("forced");
    main["volumeMounts"] = json!([{ "name": "said", "mountPath": "/said" }]);
    let volumes = json!([{ "name": "said", "hostPath": { "path": folder } }]);
    cluster.apply(&pod(
        "forced",
        json!({ "terminationGracePeriodSeconds": 600, "containers": [main], "volumes": volumes }),
    ));
    let id = id(container(&cluster.until_ready("forced"), "main"));
    cluster.ok(&["delete", "pod", "forced", "--grace-period=0", "--force", "--wait=true"]);
    until("the end of its cgroup", || {
        let left = carpel_e2e::kernel::cgroups_named(&id);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

fn deployment(name: &str, replicas: u32, generation: &str) -> Value {
    let labels = json!({ "app": name });
    let mut main = sh("main", WAIT);
    main["env"] = json!([{ "name": "GENERATION", "value": generation }]);
    main["image"] = json!(BUSYBOX);
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels }, "spec": { "terminationGracePeriodSeconds": 5, "containers": [main] },
            },
        },
    })
}

fn a_deployment_rolls(cluster: &Cluster) {
    cluster.apply(&deployment("rolling", 4, "one"));
    cluster.ok(&["rollout", "status", "deployment/rolling", "--timeout=150s"]);
    cluster.apply(&deployment("rolling", 4, "two"));
    cluster.ok(&["rollout", "status", "deployment/rolling", "--timeout=150s"]);
    cluster.until(&["get", "pods", "-l", "app=rolling"], "four of the new ones", |pods| {
        let pods = pods["items"].as_array().unwrap();
        pods.len() == 4
            && pods.iter().all(|pod| {
                pod["spec"]["containers"][0]["env"][0]["value"] == "two"
                    && pod["status"]["phase"] == "Running"
            })
    });
    cluster.ok(&["delete", "deployment", "rolling", "--wait=true"]);
}

fn a_deployment_scales_to_fifty_and_to_nothing(cluster: &Cluster) {
    let pods_of =
        |name: &str| cluster.ok(&["get", "pods", "-l", &format!("app={name}"), "-o", "name"]).lines().count();
    until("the end of the other deployment", || match pods_of("rolling") {
        0 => Ok(()),
        left => Err(left.to_string()),
    });
    cluster.apply(&deployment("scaled", 0, "one"));
    cluster.ok(&["scale", "deployment/scaled", "--replicas=50"]);
    cluster.ok(&["rollout", "status", "deployment/scaled", "--timeout=300s"]);
    let shims = cluster.daemon.shims().len();
    assert!(shims >= 50, "{shims}");
    cluster.ok(&["scale", "deployment/scaled", "--replicas=0"]);
    let state = cluster.daemon.state();
    until("nothing of the fifty", || {
        let (pods, running) = (pods_of("scaled"), cluster.daemon.shims().len());
        let namespaces =
            carpel_e2e::kernel::mounts_mentioning(&state.parent().unwrap().join("netns/").to_string_lossy())
                .len();
        let left = format!("{pods} pods, {running} shims of {shims}, {namespaces} network namespaces");
        if pods == 0 && running + 50 <= shims && namespaces <= running { Ok(()) } else { Err(left) }
    });
    cluster.ok(&["delete", "deployment", "scaled", "--wait=true"]);
}
