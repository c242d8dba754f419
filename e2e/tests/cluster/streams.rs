//! What goes through the kubelet and the runtime's streaming server: logs, exec, attach, copies, forwarded ports.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

use carpel_e2e::cluster::Cluster;
use carpel_e2e::kernel::{run, status_field};
use carpel_e2e::kubelet::images::{BUSYBOX, PROBED};
use carpel_e2e::kubelet::{container, get, pod, until};
use serde_json::json;

use crate::{WAIT, sh};

pub(crate) fn checks() -> crate::Shared {
    crate::checks![
        kubectl_run_shows_the_output,
        kubectl_logs_follows_to_the_end,
        kubectl_exec_with_and_without_a_terminal,
        kubectl_attach_talks_to_the_process,
        kubectl_cp_copies_both_ways,
        kubectl_port_forward_reaches_the_pod,
        kubectl_debug_adds_a_container,
        kubectl_top_has_figures,
    ]
}

fn kubectl_run_shows_the_output(cluster: &Cluster) {
    let said = cluster.ok(&[
        "run",
        "once",
        "--image",
        BUSYBOX,
        "--restart=Never",
        "--attach",
        "--rm",
        "--quiet",
        "--",
        "sh",
        "-c",
        "sleep 1; echo hello",
    ]);
    assert!(said.starts_with("hello"), "{said}");
    // A command that fails is not an attachment that fails: no warning, and no second look at the log. It waits for
    // what only an attached client can send.
    let image = format!("--image={BUSYBOX}");
    let run = ["run", "failing", &image, "--restart=Never", "--stdin", "--rm", "--quiet", "--"];
    let mut kubectl = cluster
        .command(&run)
        .args(["sh", "-c", "read go; echo hello; exit 5"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    kubectl.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let failed = kubectl.wait_with_output().unwrap();
    let (said, warned) = (String::from_utf8_lossy(&failed.stdout), String::from_utf8_lossy(&failed.stderr));
    assert_eq!(failed.status.code(), Some(5), "{said}{warned}");
    assert!(!warned.contains("couldn't attach"), "{warned}");
}

fn kubectl_logs_follows_to_the_end(cluster: &Cluster) {
    let script = "for n in $(seq 1 200); do echo line $n; usleep 20000; done";
    cluster.apply(&pod("talker", json!({ "restartPolicy": "Never", "containers": [sh("main", script)] })));
    cluster.until(&["get", "pod", "talker"], "started", |pod| pod["status"]["phase"] != "Pending");
    let said = cluster.ok(&["logs", "--follow", "talker"]);
    let wanted: Vec<String> = (1..=200).map(|number| format!("line {number}")).collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), wanted);
    assert_eq!(cluster.ok(&["logs", "--tail=1", "talker"]), "line 200");
}

fn kubectl_exec_with_and_without_a_terminal(cluster: &Cluster) {
    cluster.apply(&pod("exec", json!({ "containers": [sh("main", WAIT)] })));
    cluster.until_ready("exec");
    assert_eq!(cluster.ok(&["exec", "exec", "--", "echo", "a  b"]), "a  b");
    let failed = cluster.output(&["exec", "exec", "--", "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!(failed.status.code(), Some(42));
    assert_eq!(failed.stdout, b"out\n");
    assert!(failed.stderr.starts_with(b"err\n"), "{}", String::from_utf8_lossy(&failed.stderr));
    // Standard input, to its end.
    let mut child = cluster
        .command(&["exec", "-i", "exec", "--", "sha256sum"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"abc").unwrap();
    let mut sum = String::new();
    child.stdout.take().unwrap().read_to_string(&mut sum).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(sum.starts_with("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"), "{sum}");
    // A terminal: script(1) gives kubectl one. Its size comes when the process may run already, as by every runtime.
    // Until then stty says nothing, and calls that success.
    let size = "tty; n=0; until [ \"$(stty size 2>/dev/null)\" = \"33 77\" ] || [ $n = 600 ]; \
                do n=$((n+1)); usleep 50000; done; stty size; exit 3";
    let kubectl = cluster.command(&[]);
    let words: Vec<_> = [kubectl.get_program()]
        .into_iter()
        .chain(kubectl.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    let line = format!("stty cols 77 rows 33; {} exec -it exec -- sh -c '{size}'", words.join(" "));
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("/dev/pts/0") && said.contains("33 77"), "{said}");
    assert_eq!(output.status.code(), Some(3), "{said}");
}

fn kubectl_attach_talks_to_the_process(cluster: &Cluster) {
    let mut main = sh("main", "echo ready; while read line; do echo \"got $line\"; done; echo end of input");
    main["stdin"] = json!(true);
    main["stdinOnce"] = json!(true);
    cluster.apply(&pod("attach", json!({ "restartPolicy": "Never", "containers": [main] })));
    cluster.until_ready("attach");
    let mut child = cluster
        .command(&["attach", "-i", "attach"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").unwrap();
    drop(stdin);
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(said.contains("got one\ngot two\nend of input\n"), "{said}");
    cluster.until(&["get", "pod", "attach"], "succeeded", |pod| pod["status"]["phase"] == "Succeeded");
}

/// How much is copied: a gigabyte, or as many MiB as `$CARPEL_CP_MIB` says.
fn copied_mib() -> usize {
    std::env::var("CARPEL_CP_MIB").map_or(1024, |mib| mib.parse().expect("CARPEL_CP_MIB is a number"))
}

/// The most memory the daemon ever had, in KiB.
fn peak_kib(cluster: &Cluster) -> u64 {
    let peak = status_field(cluster.daemon.pid(), "VmHWM");
    peak.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number and kB")
}

fn kubectl_cp_copies_both_ways(cluster: &Cluster) {
    cluster.apply(&pod("cp", json!({ "containers": [sh("main", WAIT)] })));
    cluster.until_ready("cp");
    let folder = cluster.folder("cp");
    let text = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let size = format!("{}M", copied_mib());
    run("sh", &["-c", &format!("head -c {size} /dev/urandom > {}", text("there"))]);
    let before = peak_kib(cluster);
    cluster.ok(&["cp", &text("there"), "default/cp:/tmp/copied", "--retries=0"]);
    cluster.ok(&["cp", "default/cp:/tmp/copied", &text("back"), "--retries=0"]);
    run("cmp", &[&text("there"), &text("back")]);
    // What the other checks do meanwhile counts too.
    let grown = peak_kib(cluster) - before;
    assert!(grown < 64 << 10, "the daemon's memory grew by {grown} KiB");
    std::fs::remove_dir_all(&folder).unwrap();
}

fn kubectl_port_forward_reaches_the_pod(cluster: &Cluster) {
    cluster.apply(&pod("forwarded", json!({ "containers": [{ "name": "main", "image": PROBED }] })));
    cluster.until_ready("forwarded");
    let mut child = cluster
        .command(&["port-forward", "--address=127.0.0.1", "pod/forwarded", ":8080"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let address =
        first.strip_prefix("Forwarding from ").and_then(|rest| rest.split(" -> ").next()).unwrap().to_owned();
    let url = format!("http://{address}/");
    for _ in 0..20 {
        assert_eq!(until("an answer", || get(&url)), "probed\n");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

fn kubectl_debug_adds_a_container(cluster: &Cluster) {
    let mut main = sh("main", "exec sleep 98765");
    main["name"] = json!("target");
    cluster.apply(&pod("debugged", json!({ "containers": [main] })));
    cluster.until_ready("debugged");
    // It shares the target's processes.
    let script = "ps | grep 'sleep [9]8765'; hostname";
    cluster.ok(&[
        "debug",
        "debugged",
        "--image",
        BUSYBOX,
        "--target=target",
        "--container=debugger",
        "--attach=false",
        "--profile=general",
        "--",
        "sh",
        "-c",
        script,
    ]);
    let pod = cluster.until(&["get", "pod", "debugged"], "debugged", |pod| {
        container(pod, "debugger")["state"]["terminated"].is_object()
    });
    assert_eq!(container(&pod, "debugger")["state"]["terminated"]["exitCode"], 0);
    let said = cluster.ok(&["logs", "debugged", "-c", "debugger"]);
    assert!(said.contains("sleep 98765") && said.ends_with("debugged"), "{said}");
}

fn kubectl_top_has_figures(cluster: &Cluster) {
    cluster.apply(&pod("busy", json!({ "containers": [sh("main", "while true; do usleep 100; done")] })));
    cluster.until_ready("busy");
    let line = until("the pod's figures", || cluster.attempt(&["top", "pod", "busy", "--no-headers"]));
    let words: Vec<&str> = line.split_whitespace().collect();
    let figure =
        |word: &str, unit: &str| word.strip_suffix(unit).and_then(|number| number.parse::<u64>().ok());
    assert_eq!(words[0], "busy");
    assert!(figure(words[1], "m") > Some(0) && figure(words[2], "Mi").is_some(), "{line}");
    let line = until("the node's figures", || cluster.attempt(&["top", "node", "--no-headers"]));
    assert!(line.starts_with("node "), "{line}");
}
