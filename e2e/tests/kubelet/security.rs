//! Security contexts and shared namespaces.

use carpel_e2e::kubelet::{container, pod, until};
use serde_json::{Value, json};

use crate::node::{Node, WAIT, sh};

pub(crate) fn checks() -> crate::Shared {
    crate::checks![
        users_and_groups_are_those_asked_for,
        hardened_containers_are_hardened,
        run_as_non_root_refuses_root,
        processes_are_shared_when_asked,
        sysctls_are_the_pods_own,
        users_are_the_pods_own_when_asked,
    ]
}

fn told(node: &Node, name: &str, spec: Value) -> String {
    node.kubelet().place(&pod(name, spec));
    let pod = node.kubelet().until_ready(name);
    until("the container's last word", || {
        let said = node.kubelet().output(&pod, "main");
        if said.ends_with("the end\n") { Ok(said) } else { Err(said) }
    })
}

fn users_and_groups_are_those_asked_for(node: &Node) {
    let mut main = sh("main", &format!("id; touch /v/mine; ls -ln /v; echo the end; {WAIT}"));
    main["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    let security =
        json!({ "runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000, "supplementalGroups": [4000] });
    let volumes = json!([{ "name": "v", "emptyDir": {} }]);
    let spec = |policy: &str| {
        let mut security = security.clone();
        security["supplementalGroupsPolicy"] = json!(policy);
        json!({ "securityContext": security, "containers": [main.clone()], "volumes": volumes.clone() })
    };
    let merged = told(node, "users-merge", spec("Merge"));
    assert!(merged.contains("uid=1000(alice) gid=2000") && merged.contains("50(staff)"), "{merged}");
    assert!(merged.contains("3000") && merged.contains("4000"), "{merged}");
    assert!(merged.contains("1000     3000"), "fsGroup owns what is made in the volume: {merged}");
    let strict = told(node, "users-strict", spec("Strict"));
    assert!(strict.contains("4000") && !strict.contains("staff"), "{strict}");
    let pod = node.kubelet().pod("users-strict").unwrap();
    let user = &container(&pod, "main")["user"]["linux"];
    assert_eq!((&user["uid"], &user["gid"]), (&json!(1000), &json!(2000)), "{pod:#}");
}

fn hardened_containers_are_hardened(node: &Node) {
    let mut main = sh(
        "main",
        &format!("touch /x; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; echo the end; {WAIT}"),
    );
    main["securityContext"] = json!({
        "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] }, "seccompProfile": { "type": "RuntimeDefault" },
    });
    let said = told(node, "hardened", json!({ "containers": [main] }));
    assert!(said.contains("CapEff:\t0000000000000400\n"), "{said}");
    assert!(said.contains("NoNewPrivs:\t1\n") && said.contains("Seccomp:\t2\n"), "{said}");
}

fn run_as_non_root_refuses_root(node: &Node) {
    let mut main = sh("main", WAIT);
    main["securityContext"] = json!({ "runAsNonRoot": true });
    node.kubelet().place(&pod("no-root", json!({ "containers": [main] })));
    let pod = node.kubelet().until_pod("no-root", "refused", |pod| {
        container(pod, "main")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
    let message = container(&pod, "main")["state"]["waiting"]["message"].to_string();
    assert!(message.contains("runAsNonRoot"), "{message}");
}

fn processes_are_shared_when_asked(node: &Node) {
    let other = sh("other", "exec sleep 54321");
    let main = sh(
        "main",
        &format!(
            "until pgrep -f 'sleep 54321' || ps | grep -q 'sleep [5]4321'; do sleep 0.2; done; echo the end; {WAIT}"
        ),
    );
    let said =
        told(node, "shared-processes", json!({ "shareProcessNamespace": true, "containers": [other, main] }));
    assert!(said.ends_with("the end\n"), "{said}");
    let main = sh("main", &format!("ls -d /proc/{}; echo the end; {WAIT}", std::process::id()));
    let said =
        told(node, "host-processes", json!({ "hostPID": true, "hostIPC": true, "containers": [main] }));
    assert!(said.starts_with("/proc/"), "{said}");
}

fn sysctls_are_the_pods_own(node: &Node) {
    let main =
        sh("main", &format!("cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo the end; {WAIT}"));
    let spec = json!({
        "securityContext": { "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "77" }] },
        "containers": [main],
    });
    assert_eq!(told(node, "sysctls", spec), "77\nthe end\n");
}

fn users_are_the_pods_own_when_asked(node: &Node) {
    let script = format!("cat /proc/self/uid_map; touch /v/mine; ls -ln /v; echo the end; {WAIT}");
    let mut main = sh("main", &script);
    main["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    let volumes = json!([{ "name": "v", "emptyDir": {} }]);
    let spec = json!({ "hostUsers": false, "containers": [main], "volumes": volumes });
    let said = told(node, "own-users", spec);
    let map: Vec<u32> =
        said.lines().next().unwrap().split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert!(map[0] == 0 && map[1] >= 65536 && map[2] == 65536, "{said}");
    // Its root is the volume's root too: the volume is idmapped.
    assert!(said.lines().any(|line| line.contains(" 0        0 ") && line.ends_with("mine")), "{said}");
}
