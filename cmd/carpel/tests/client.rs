//! The program itself against a runtime that answers from memory: what goes over the socket, what comes out
//! of the program, with which exit code. The real daemon is met in the tests of the whole system.
#![forbid(unsafe_code)]
#![allow(missing_docs, unreachable_pub, reason = "a test has no users")]

#[path = "client/scripted.rs"]
mod scripted;
#[path = "client/tls.rs"]
mod tls;

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
};

use carpel_proto::v1::ContainerState;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use scripted::{Scripted, World};
use serde_json::{Value, json};

/// `carpel` with these arguments, asking that runtime.
fn carpel(runtime: &Scripted, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carpel"));
    command.env("CARPEL_ADDRESS", format!("unix://{}", runtime.socket().display()));
    command.env("CARPEL_LOG_DIR", runtime.dir().join("logs"));
    command.args(arguments);
    command
}

fn output(runtime: &Scripted, arguments: &[&str]) -> Output {
    carpel(runtime, arguments).output().expect("run carpel")
}

/// Standard output of a command that succeeds.
fn success(runtime: &Scripted, arguments: &[&str]) -> String {
    let output = output(runtime, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", err(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json_of(runtime: &Scripted, arguments: &[&str]) -> Value {
    serde_json::from_str(&success(runtime, arguments)).expect("JSON")
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Two pods: `web` with a running container, `job` with one that has ended.
fn two_pods() -> Scripted {
    let runtime = Scripted::serve();
    runtime.change(|world| {
        world.add_pod("aa11", "web");
        world.add_container("c1aa", "aa11", "nginx", ContainerState::ContainerRunning);
        world.add_pod("aa22", "job");
        world.add_container("c2bb", "aa22", "job", ContainerState::ContainerExited);
        world.exit_code = 3;
    });
    runtime
}

#[test]
fn tables_are_for_people() {
    let runtime = two_pods();
    let pods = success(&runtime, &["pods"]);
    assert!(pods.starts_with("POD ID   NAME   NAMESPACE   STATE"), "{pods}");
    assert!(pods.contains("aa11     web    default     Ready   10.88.0.7   "), "{pods}");
    let running = success(&runtime, &["ps"]);
    assert!(running.contains("nginx") && !running.contains("c2bb"), "{running}");
    let all = success(&runtime, &["ps", "-a"]);
    assert!(all.contains("Error (3) "), "{all}");
    assert_eq!(success(&runtime, &["ps", "-aq", "--pod", "job"]), "c2bb\n");
}

#[test]
fn json_is_for_programs() {
    let runtime = two_pods();
    let pods = json_of(&runtime, &["pods", "-o", "json"]);
    let web = pods.as_array().unwrap().iter().find(|pod| pod["name"] == "web").unwrap();
    assert_eq!(web["id"], "aa11");
    assert_eq!(web["state"], "Ready");
    assert_eq!(web["ips"], json!(["10.88.0.7"]));
    assert_eq!(web["createdAt"], "2023-11-14T22:13:20.000000000Z");
    let containers = json_of(&runtime, &["-o", "json", "ps", "-a"]);
    let ended = containers.as_array().unwrap().iter().find(|one| one["id"] == "c2bb").unwrap();
    assert_eq!((&ended["exitCode"], &ended["podName"]), (&json!(3), &json!("job")));
    let running = containers.as_array().unwrap().iter().find(|one| one["id"] == "c1aa").unwrap();
    assert_eq!(running["exitCode"], Value::Null);
    let images = json_of(&runtime, &["images", "-o", "json"]);
    assert_eq!(images[0]["tags"], json!(["registry.test/app:1"]));
    let inspected = json_of(&runtime, &["inspect", "c1"]);
    assert_eq!(inspected["status"]["state"], "CONTAINER_RUNNING");
    assert_eq!(inspected["info"], json!({"pid": 7}));
}

#[test]
fn ids_may_be_shortened_as_long_as_they_are_clear() {
    let runtime = two_pods();
    assert_eq!(success(&runtime, &["stop", "aa1"]), "aa11\n");
    let ambiguous = output(&runtime, &["stop", "aa"]);
    assert_eq!(ambiguous.status.code(), Some(1));
    let text = err(&ambiguous);
    assert!(
        text.contains("default/web") && text.contains("default/job") && text.contains("hint: "),
        "{text}"
    );
    let unknown = output(&runtime, &["logs", "zz"]);
    assert!(err(&unknown).contains("no container has the name or id \"zz\""), "{}", err(&unknown));
    assert!(unknown.stdout.is_empty());
}

#[test]
fn an_exec_ends_as_its_command_did() {
    let runtime = two_pods();
    runtime.change(|world| world.exit_code = 42);
    let ran = output(&runtime, &["exec", "--sync", "web", "tool", "--its-flag"]);
    assert_eq!(ran.status.code(), Some(42));
    assert_eq!(ran.stdout, b"tool --its-flag\n");
    assert_eq!(err(&ran), "to stderr\n");
    // Too late, and not at all, are not exit codes of the command.
    let late = output(&runtime, &["exec", "--timeout", "1", "web", "sleep"]);
    assert_eq!(late.status.code(), Some(124), "{}", err(&late));
    let absent = output(&runtime, &["exec", "nobody", "tool"]);
    assert_eq!(absent.status.code(), Some(125));
}

#[test]
fn what_is_wrong_with_the_socket_comes_with_advice() {
    let runtime = Scripted::serve();
    let at = |address: &str| {
        let output = output(&runtime, &["--address", address, "pods"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        err(&output)
    };
    let text = at("/nonexistent/carpel.sock");
    assert!(text.contains("/nonexistent/carpel.sock") && text.contains("systemctl start carpeld"), "{text}");
    let stale = runtime.dir().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(at(stale.to_str().unwrap()).contains("leftover"));
    assert!(at("tcp://127.0.0.1:1").contains("not the address of a unix socket"));
}

#[test]
fn what_a_runtime_does_not_offer_is_said() {
    let runtime = Scripted::serve();
    let archive = runtime.dir().join("app.tar");
    fs::write(&archive, "x").unwrap();
    let import = output(&runtime, &["import", archive.to_str().unwrap()]);
    assert_eq!(import.status.code(), Some(1));
    assert!(err(&import).contains("only Carpel imports archives"), "{}", err(&import));
    let events = output(&runtime, &["events"]);
    assert!(err(&events).contains("does not offer this"), "{}", err(&events));
    // And a runtime without the operator's service still tells what it is.
    let info = json_of(&runtime, &["info", "-o", "json"]);
    assert_eq!((&info["runtimeName"], &info["daemon"]), (&json!("scripted"), &Value::Null));
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let runtime = two_pods();
    runtime.change(|world| {
        for number in 0..2_000 {
            world.add_pod(&format!("f{number:04}"), &format!("filler-{number}"));
        }
    });
    // More than a pipe holds, into a pipe that nobody reads.
    let mut child =
        carpel(&runtime, &["pods", "-q"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), err(&ended).as_str()), (Some(0), ""));
}

fn entry(text: &str) -> String {
    format!("2026-01-02T03:04:05.000000006Z stdout F {text}\n")
}

#[test]
fn logs_follow_through_rotation_to_the_end() {
    let runtime = two_pods();
    let log = runtime.dir().join("c1aa.log");
    fs::write(&log, entry("old") + &entry("one")).unwrap();
    runtime.change(|world| world.log_path = log.to_str().unwrap().into());
    assert_eq!(success(&runtime, &["logs", "--tail", "1", "web"]), "one\n");

    let mut child =
        carpel(&runtime, &["logs", "-f", "--tail", "1", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    fs::rename(&log, runtime.dir().join("c1aa.log.1")).unwrap();
    fs::write(&log, entry("two")).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "two");
    fs::File::options().append(true).open(&log).unwrap().write_all(entry("three").as_bytes()).unwrap();
    runtime.change(|world| world.end("c1aa"));
    assert_eq!(lines.next().unwrap().unwrap(), "three");
    assert!(lines.next().is_none());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_foreground_run_shows_the_log_and_ends_as_the_container_did() {
    let runtime = Scripted::serve();
    runtime.change(|world| {
        world.exit_code = 7;
        world.output = entry("hello");
    });
    let ran = output(&runtime, &["run", "--rm", "-p", "8080:80", "registry.test/app:1", "x", "-y"]);
    assert_eq!((ran.status.code(), ran.stdout.as_slice()), (Some(7), &b"hello\n"[..]), "{}", err(&ran));
    runtime.look(|world| {
        assert!(world.pods.is_empty(), "--rm removes the pod");
        assert_eq!(world.pulled, Vec::<String>::new(), "the image was there");
        let pod = world.pod_configs.first().unwrap();
        assert_eq!(pod.port_mappings[0].host_port, 8080);
        assert_eq!(world.container_configs.first().unwrap().args, ["x", "-y"]);
    });
    assert_eq!(fs::read_dir(runtime.dir().join("logs")).unwrap().count(), 0, "its logs went with it");
}

#[test]
fn a_background_run_stays_and_is_removed_by_force() {
    let runtime = Scripted::serve();
    runtime.change(|world| world.runs_on = true);
    let id = success(&runtime, &["run", "-d", "--name", "web", "registry.test/new:1"]);
    runtime.look(|world| assert_eq!(world.pulled, ["registry.test/new:1"]));
    let again = output(&runtime, &["run", "-d", "--name", "web", "registry.test/new:1"]);
    assert_eq!(again.status.code(), Some(125));
    assert!(err(&again).contains("there is a pod \"web\" already"), "{}", err(&again));
    let refused = output(&runtime, &["rm", "web"]);
    assert!(
        err(&refused).contains("has running containers") && err(&refused).contains("-f"),
        "{}",
        err(&refused)
    );
    assert_eq!(success(&runtime, &["rm", "-f", "web"]), id);
    runtime.look(|world| assert!(world.pods.is_empty() && world.containers.is_empty()));
    assert_eq!(fs::read_dir(runtime.dir().join("logs")).unwrap().count(), 0);
}

#[test]
fn a_run_that_fails_leaves_nothing() {
    let runtime = Scripted::serve();
    runtime.change(|world| world.start_fails = true);
    let failed = output(&runtime, &["run", "-d", "registry.test/app:1"]);
    assert_eq!(failed.status.code(), Some(125));
    assert!(err(&failed).contains("cannot start the container: no such file"), "{}", err(&failed));
    runtime.look(|world| assert!(world.pods.is_empty()));
    assert_eq!(fs::read_dir(runtime.dir().join("logs")).unwrap().count(), 0);
}

#[test]
fn an_interrupt_stops_the_container_in_the_foreground() {
    let runtime = Scripted::serve();
    runtime.change(|world| {
        world.runs_on = true;
        world.output = entry("ready");
    });
    let mut child =
        carpel(&runtime, &["run", "--rm", "registry.test/app:1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(World::STOPPED_CODE));
    runtime.look(|world| assert!(world.pods.is_empty()));
}

#[test]
fn images_in_use_and_unknown_ones_are_not_removed() {
    let runtime = two_pods();
    let used = output(&runtime, &["rmi", "registry.test/app:1"]);
    assert!(err(&used).contains("used by 2 containers"), "{}", err(&used));
    let unknown = output(&runtime, &["rmi", "registry.test/none:1"]);
    assert!(err(&unknown).contains("there is no image"), "{}", err(&unknown));
    assert_eq!(success(&runtime, &["rmi", "-f", "registry.test/app:1"]), "sha256:app\n");
    assert_eq!(json_of(&runtime, &["images", "-o", "json"]), json!([]));
}

#[test]
fn a_password_goes_to_the_runtime_and_nowhere_else() {
    let runtime = Scripted::serve();
    let mut child = carpel(&runtime, &["pull", "-u", "robot", "--password-stdin", "registry.test/private:1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"s3cret\n").unwrap();
    let pulled = child.wait_with_output().unwrap();
    assert!(pulled.status.success(), "{}", err(&pulled));
    assert!(!String::from_utf8_lossy(&pulled.stdout).contains("s3cret") && !err(&pulled).contains("s3cret"));
    runtime.look(|world| assert_eq!(world.password, "s3cret"));
}

#[test]
fn the_check_up_needs_no_runtime() {
    let runtime = Scripted::serve();
    let checked = output(&runtime, &["check", "--address", "/nonexistent.sock", "-o", "json"]);
    let report: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    let findings = report["findings"].as_array().unwrap();
    for name in ["kernel", "overlayfs", "cgroups", "seccomp", "veth", "image store", "volatile state"] {
        assert!(findings.iter().any(|finding| finding["name"] == name), "{name} is not in {report}");
    }
    let missing = findings.iter().any(|finding| finding["status"] == "missing");
    assert_eq!(report["fit"], json!(!missing));
    assert_eq!(checked.status.code(), Some(i32::from(missing)));
}
