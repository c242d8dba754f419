//! Requests and limits, as the kernel has them.

use carpel_e2e::kernel::{cgroup_file, is_cgroup_v1};
use carpel_e2e::kubelet::{container, pod};
use serde_json::json;

use crate::node::{Node, WAIT, id, sh};

pub(crate) fn checks() -> crate::Shared {
    crate::checks![
        limits_reach_the_kernel_and_the_status,
        out_of_memory_is_told,
        quality_classes_reach_the_kernel,
    ]
}

fn limits_reach_the_kernel_and_the_status(node: &Node) {
    let mut main = sh("main", WAIT);
    main["resources"] = json!({
        "requests": { "cpu": "20m", "memory": "32Mi" }, "limits": { "cpu": "250m", "memory": "64Mi" },
    });
    node.kubelet().place(&pod("limits", json!({ "containers": [main.clone()] })));
    let pod = node.kubelet().until_ready("limits");
    let status = container(&pod, "main");
    let id = id(status);
    if is_cgroup_v1() {
        assert_eq!(cgroup_file("cpu", &id, "cpu.cfs_quota_us"), "25000");
        assert_eq!(cgroup_file("cpu", &id, "cpu.shares"), "20");
        assert_eq!(cgroup_file("memory", &id, "memory.limit_in_bytes"), "67108864");
    } else {
        assert_eq!(cgroup_file("cpu", &id, "cpu.max"), "25000 100000");
        assert_eq!(cgroup_file("memory", &id, "memory.max"), "67108864");
    }
    // The kubelet has these from the runtime.
    assert_eq!(status["resources"], main["resources"], "{status:#}");
    assert_eq!(pod["status"]["qosClass"], "Burstable");
}

fn out_of_memory_is_told(node: &Node) {
    let mut main = sh("main", "sleep 0.5; dd if=/dev/zero of=/dev/null bs=200M count=1");
    main["resources"] = json!({ "limits": { "memory": "32Mi" } });
    // A container whose child alone is killed goes on.
    let mut bystander = sh("bystander", WAIT);
    bystander["resources"] = json!({ "limits": { "memory": "32Mi" } });
    node.kubelet().place(&pod("oom", json!({ "containers": [main, bystander] })));
    let pod = node.kubelet().until_pod("oom", "killed and restarted", |pod| {
        container(pod, "main")["restartCount"].as_u64() >= Some(1)
            && container(pod, "main")["lastState"]["terminated"].is_object()
    });
    let last = &container(&pod, "main")["lastState"]["terminated"];
    assert_eq!((&last["reason"], &last["exitCode"]), (&json!("OOMKilled"), &json!(137)));
    assert_eq!(container(&pod, "bystander")["restartCount"], 0);
}

fn quality_classes_reach_the_kernel(node: &Node) {
    let mut guaranteed = sh("main", WAIT);
    guaranteed["resources"] = json!({ "limits": { "cpu": "20m", "memory": "32Mi" } });
    node.kubelet().place(&pod("guaranteed", json!({ "containers": [guaranteed] })));
    node.kubelet().place(&pod("best-effort", json!({ "containers": [sh("main", WAIT)] })));
    for (name, class, score) in [("guaranteed", "Guaranteed", "-997"), ("best-effort", "BestEffort", "1000")]
    {
        let pod = node.kubelet().until_ready(name);
        assert_eq!(pod["status"]["qosClass"], class);
        let id = id(container(&pod, "main"));
        let pid = carpel_e2e::kernel::processes(&id)[0];
        let told = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        // Going below what the daemon has takes a capability that root may lack here.
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        let wanted: i32 = score.parse().unwrap();
        assert!(told.trim() == score || (wanted < 0 && told == own), "{name}: {told}");
    }
}
