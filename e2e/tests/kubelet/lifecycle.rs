//! Containers' lives: order of start and end, restarts, hooks, grace, last words.

use std::path::Path;
use std::time::Duration;

use carpel_e2e::kubelet::{condition, container, pod, until};
use serde_json::json;

use crate::node::{Node, WAIT, host_path, read, sh};

pub(crate) fn checks() -> crate::Shared {
    crate::checks![
        init_containers_run_in_order,
        sidecars_start_first_and_end_last,
        failed_containers_restart_with_back_off,
        restart_policies_are_kept,
        post_start_and_pre_stop_hooks_run,
        a_failed_post_start_hook_restarts,
        termination_grace_is_given,
        a_container_that_ignores_its_end_is_killed,
        termination_messages_are_reported,
        start_errors_are_reported,
        environment_and_working_folder_are_set,
    ]
}

fn init_containers_run_in_order(node: &Node) {
    let folder = node.folder("init");
    let step = |name: &str, script: &str| {
        let mut container = sh(name, script);
        container["volumeMounts"] = json!([{ "name": "said", "mountPath": "/said" }]);
        container
    };
    node.kubelet().place(&pod(
        "init",
        json!({
            "volumes": [host_path("said", &folder)],
            "initContainers": [
                step("first", "sleep 0.5; echo first >> /said/order"),
                // Fails once, and is run again before the next.
                step("second", "echo second >> /said/order; test $(grep -c second /said/order) = 2"),
                step("third", "echo third >> /said/order"),
            ],
            "containers": [step("main", &format!("echo main >> /said/order; {WAIT}"))],
        }),
    ));
    let pod = node.kubelet().until_ready("init");
    assert_eq!(read(&folder.join("order")), "first\nsecond\nsecond\nthird\nmain\n");
    assert!(condition(&pod, "Initialized"));
    for name in ["first", "second", "third"] {
        assert_eq!(container(&pod, name)["state"]["terminated"]["reason"], "Completed", "{name}");
    }
    assert_eq!(container(&pod, "second")["restartCount"], 1);
}

fn sidecars_start_first_and_end_last(node: &Node) {
    let folder = node.folder("sidecars");
    let step = |name: &str, more: serde_json::Value| {
        let script = format!(
            "echo {name} starts >> /said/order; trap 'echo {name} ends >> /said/order; exit 0' TERM; touch /tmp/up; sleep 100000 & wait"
        );
        let mut container = sh(name, &script);
        container["volumeMounts"] = json!([{ "name": "said", "mountPath": "/said" }]);
        carpel_e2e::kubelet::merge(&mut container, &more);
        container
    };
    let up = json!({ "exec": { "command": ["test", "-e", "/tmp/up"] }, "periodSeconds": 1 });
    let sidecar = json!({ "restartPolicy": "Always", "startupProbe": up });
    node.kubelet().place(&pod(
        "sidecars",
        json!({
            "terminationGracePeriodSeconds": 20,
            "volumes": [host_path("said", &folder)],
            "initContainers": [step("one", sidecar.clone()), step("two", sidecar)],
            "containers": [step("main", json!({}))],
        }),
    ));
    let pod = node.kubelet().until_ready("sidecars");
    for name in ["one", "two"] {
        assert_eq!(container(&pod, name)["started"], true, "{name}");
        assert!(container(&pod, name)["state"]["running"].is_object(), "{name}");
    }
    assert_eq!(read(&folder.join("order")), "one starts\ntwo starts\nmain starts\n");
    node.kubelet().remove("sidecars");
    let said = until("the end of the sidecars", || {
        let said = read(&folder.join("order"));
        if said.contains("one ends") { Ok(said) } else { Err(said) }
    });
    assert!(said.ends_with("main ends\ntwo ends\none ends\n"), "{said}");
}

fn failed_containers_restart_with_back_off(node: &Node) {
    node.kubelet().place(&pod("crash", json!({ "containers": [sh("main", "echo crashing; exit 3")] })));
    let pod = node.kubelet().until_pod("crash", "three restarts and a back-off", |pod| {
        let main = container(pod, "main");
        main["restartCount"].as_u64() >= Some(3) && main["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    let last = &container(&pod, "main")["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(3), &json!("Error")));
    assert!(node.kubelet().output(&pod, "main").contains("crashing\n"));
}

fn restart_policies_are_kept(node: &Node) {
    for (name, policy, script) in [
        ("never", "Never", "exit 5"),
        ("on-failure", "OnFailure", "test -e /once/more || { touch /once/more; exit 1; }"),
    ] {
        let mut main = sh("main", script);
        main["volumeMounts"] = json!([{ "name": "once", "mountPath": "/once" }]);
        node.kubelet().place(&pod(
            name,
            json!({
                "restartPolicy": policy, "containers": [main], "volumes": [{ "name": "once", "emptyDir": {} }],
            }),
        ));
    }
    let pod = node.kubelet().until_pod("never", "failed", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(container(&pod, "main")["state"]["terminated"]["exitCode"], 5);
    assert_eq!(container(&pod, "main")["restartCount"], 0);
    let pod =
        node.kubelet().until_pod("on-failure", "succeeded", |pod| pod["status"]["phase"] == "Succeeded");
    assert_eq!(container(&pod, "main")["restartCount"], 1);
}

fn post_start_and_pre_stop_hooks_run(node: &Node) {
    let folder = node.folder("hooks");
    let mut main =
        sh("main", "trap 'echo term >> /said/order; exit 0' TERM; touch /said/up; sleep 100000 & wait");
    main["volumeMounts"] = json!([{ "name": "said", "mountPath": "/said" }]);
    let hook = |script: &str| json!({ "exec": { "command": ["sh", "-c", script] } });
    main["lifecycle"] = json!({
        "postStart": hook("echo post-start >> /said/order"),
        "preStop": hook("sleep 0.5; echo pre-stop >> /said/order"),
    });
    let spec = json!({
        "terminationGracePeriodSeconds": 20, "containers": [main], "volumes": [host_path("said", &folder)],
    });
    node.kubelet().place(&pod("hooks", spec));
    node.kubelet().until_ready("hooks");
    until_there(&folder.join("up"));
    assert_eq!(read(&folder.join("order")), "post-start\n");
    node.kubelet().remove("hooks");
    let said = until("the end of the container", || {
        let said = read(&folder.join("order"));
        if said.contains("term") { Ok(said) } else { Err(said) }
    });
    assert_eq!(said, "post-start\npre-stop\nterm\n", "the signal comes after the hook");
}

fn a_failed_post_start_hook_restarts(node: &Node) {
    let mut main = sh("main", WAIT);
    main["lifecycle"] = json!({ "postStart": { "exec": { "command": ["false"] } } });
    node.kubelet().place(&pod("bad-hook", json!({ "containers": [main] })));
    node.kubelet()
        .until_pod("bad-hook", "restarted", |pod| container(pod, "main")["restartCount"].as_u64() >= Some(1));
}

/// Until its script has set its traps, a container knows nothing of an end.
fn until_there(file: &Path) {
    until("a sign of the container", || if file.exists() { Ok(()) } else { Err("none".to_owned()) });
}

fn termination_grace_is_given(node: &Node) {
    let folder = node.folder("grace");
    let mut main = sh(
        "main",
        "trap 'sleep 1.5; echo graceful >> /said/end; exit 0' TERM; touch /said/up; sleep 100000 & wait",
    );
    main["volumeMounts"] = json!([{ "name": "said", "mountPath": "/said" }]);
    let spec = json!({
        "terminationGracePeriodSeconds": 30, "containers": [main], "volumes": [host_path("said", &folder)],
    });
    node.kubelet().place(&pod("grace", spec));
    node.kubelet().until_ready("grace");
    until_there(&folder.join("up"));
    node.kubelet().remove("grace");
    until("a graceful end", || {
        if read(&folder.join("end")) == "graceful\n" { Ok(()) } else { Err("none".into()) }
    });
}

fn a_container_that_ignores_its_end_is_killed(node: &Node) {
    let folder = node.folder("stubborn");
    let mut main = sh(
        "main",
        "trap 'echo asked >> /said/asked' TERM; while true; do date >> /said/alive; sleep 0.1; done",
    );
    main["volumeMounts"] = json!([{ "name": "said", "mountPath": "/said" }]);
    let spec = json!({
        "terminationGracePeriodSeconds": 1, "containers": [main], "volumes": [host_path("said", &folder)],
    });
    node.kubelet().place(&pod("stubborn", spec));
    node.kubelet().until_ready("stubborn");
    until_there(&folder.join("alive"));
    node.kubelet().remove("stubborn");
    until_there(&folder.join("asked"));
    until("silence", || {
        let length = || std::fs::metadata(folder.join("alive")).unwrap().len();
        let before = length();
        std::thread::sleep(Duration::from_secs(2));
        if length() == before { Ok(()) } else { Err("it still runs".to_owned()) }
    });
    assert_eq!(read(&folder.join("asked")), "asked\n");
}

fn termination_messages_are_reported(node: &Node) {
    let fallback = json!("FallbackToLogsOnError");
    let mut to_log = sh("to-log", "echo the last; echo words; exit 1");
    to_log["terminationMessagePolicy"] = fallback.clone();
    let mut both = sh("both", "echo in the log; echo -n in the file > /dev/termination-log; exit 1");
    both["terminationMessagePolicy"] = fallback;
    let mut elsewhere = sh("elsewhere", "echo -n at its own path > /tmp/words");
    elsewhere["terminationMessagePath"] = json!("/tmp/words");
    let long = sh("long", "yes | head -c 10000 > /dev/termination-log");
    let spec = json!({ "restartPolicy": "Never", "containers": [to_log, both, elsewhere, long] });
    node.kubelet().place(&pod("last-words", spec));
    let pod = node.kubelet().until_pod("last-words", "ended", |pod| pod["status"]["phase"] == "Failed");
    let message = |name: &str| container(&pod, name)["state"]["terminated"]["message"].clone();
    assert_eq!(message("to-log"), "the last\nwords\n");
    assert_eq!(message("both"), "in the file");
    assert_eq!(message("elsewhere"), "at its own path");
    // The kubelet shares 12 KiB among the containers of a pod.
    assert_eq!(message("long").as_str().unwrap().len(), 12 * 1024 / 4);
}

fn start_errors_are_reported(node: &Node) {
    let mut absent = sh("absent", "");
    absent["command"] = json!(["/no/such/program"]);
    let spec = json!({ "restartPolicy": "Never", "containers": [absent] });
    node.kubelet().place(&pod("no-program", spec));
    let mut no_image = sh("main", "true");
    no_image["image"] = json!("images.test/no-such-image:1");
    node.kubelet().place(&pod("no-image", json!({ "containers": [no_image] })));
    let pod = node.kubelet().until_pod("no-program", "told", |pod| {
        let state = &container(pod, "absent")["state"];
        state["waiting"]["message"].is_string() || state["terminated"]["message"].is_string()
    });
    let state = container(&pod, "absent")["state"].to_string();
    assert!(state.contains("/no/such/program"), "{state}");
    node.kubelet().until_pod("no-image", "told", |pod| {
        let waiting = &container(pod, "main")["state"]["waiting"];
        let reason = waiting["reason"].as_str().unwrap_or_default();
        matches!(reason, "ErrImagePull" | "ImagePullBackOff")
            && waiting["message"].as_str().unwrap_or_default().contains("no-such-image")
    });
}

fn environment_and_working_folder_are_set(node: &Node) {
    let field = |path: &str| json!({ "fieldRef": { "fieldPath": path } });
    let mut main = sh("main", &format!("pwd; env; {WAIT}"));
    main["workingDir"] = json!("/tmp/made");
    main["resources"] = json!({ "limits": { "memory": "64Mi", "cpu": "500m" }, "requests": { "cpu": "1m" } });
    main["env"] = json!([
        { "name": "PLAIN", "value": "a  b=c" },
        { "name": "DERIVED", "value": "<$(PLAIN)>" },
        { "name": "POD", "valueFrom": field("metadata.name") },
        { "name": "ADDRESS", "valueFrom": field("status.podIP") },
        { "name": "LIMIT", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory" } } },
    ]);
    node.kubelet().place(&pod("environment", json!({ "containers": [main] })));
    let pod = node.kubelet().until_ready("environment");
    let address = pod["status"]["podIP"].as_str().unwrap();
    let said = until("the environment", || {
        let said = node.kubelet().output(&pod, "main");
        if said.contains("LIMIT=") { Ok(said) } else { Err(said) }
    });
    assert!(said.starts_with("/tmp/made\n"), "{said}");
    for line in
        ["PLAIN=a  b=c", "DERIVED=<a  b=c>", "POD=environment-node", "LIMIT=67108864", "FROM_IMAGE=yes"]
    {
        assert!(said.lines().any(|said| said == line), "{line} is not in\n{said}");
    }
    assert!(said.contains(&format!("ADDRESS={address}\n")), "{said}");
}
