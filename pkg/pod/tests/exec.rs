//! Commands in running containers, and their streams.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "node/machine.rs"]
mod machine;

use std::time::{Duration, Instant};

use carpel_pod::{AttachRequest, ContainerId, ExecError, ExecRequest, ExecStreams, PodId};
use carpel_spec::config::{PidMode, StdinMode, Terminal};
use machine::{Machine, PATIENCE, host_network, is_alive, on_machine, sandbox, shell, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const IDLE: &str = "while :; do sleep 1; done";

async fn container(machine: &Machine) -> (PodId, ContainerId) {
    machine.import_busybox().await;
    let pod = machine.host_pod("web").await;
    let id = machine.started(&pod, "idle", IDLE).await;
    (pod, id)
}

fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

/// Processes of this node whose command line holds `mark`.
fn processes(mark: &str) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(mark) && is_alive(*pid)
    })
    .collect()
}

#[test]
fn output_and_exit_code_come_back() {
    on_machine(|machine| async move {
        let (_, id) = container(&machine).await;
        let output =
            machine.pods().exec_sync(id.as_str(), sh("echo out; echo err >&2; exit 5"), None).await.unwrap();
        assert_eq!(
            (output.stdout, output.stderr, output.exit_code),
            (b"out\n".to_vec(), b"err\n".to_vec(), 5)
        );
        let killed = machine.pods().exec_sync(id.as_str(), sh("kill -9 $$"), None).await.unwrap();
        assert_eq!(killed.exit_code, 137);
        let empty = machine.pods().exec_sync(id.as_str(), Vec::new(), None).await;
        assert!(matches!(empty, Err(ExecError::EmptyCommand(_))));
        let absent = machine.pods().exec_sync(id.as_str(), vec!["/absent".into()], None).await;
        assert!(matches!(absent, Err(ExecError::Shim { .. })), "{absent:?}");
        machine.pods().stop_container(id.as_str(), Duration::ZERO).await.unwrap();
        let late = machine.pods().exec_sync(id.as_str(), sh("true"), None).await;
        assert!(matches!(late, Err(ExecError::NotRunning(_))));
        machine
    });
}

#[test]
fn output_is_bounded_and_drained() {
    on_machine(|machine| async move {
        let (_, id) = container(&machine).await;
        let limit = machine.config().exec_output_max_bytes;
        let script = "dd if=/dev/zero bs=65536 count=64 2>/dev/null; echo end >&2";
        let output = machine.pods().exec_sync(id.as_str(), sh(script), Some(PATIENCE)).await.unwrap();
        assert_eq!((output.stdout.len(), output.exit_code), (limit - 4, 0), "both together");
        assert_eq!(output.stderr, b"end\n");
        machine
    });
}

#[test]
fn a_timeout_kills_the_commands_tree_and_nothing_else() {
    for pid_mode in [PidMode::Container, PidMode::Pod] {
        on_machine(move |machine| async move {
            machine.import_busybox().await;
            let mut config = host_network(sandbox("web"));
            config.namespaces.pid = pid_mode;
            let pod = machine.pods().run(config).await.unwrap();
            let id = machine.started(&pod, "idle", IDLE).await;
            // A number of seconds that marks the processes of this test among all of the node.
            let mark = format!("{}", 500_000_000 + u64::from(std::process::id()));
            let script = format!("sleep {mark} & setsid sleep {mark} & sleep {mark}");
            let result =
                machine.pods().exec_sync(id.as_str(), sh(&script), Some(Duration::from_millis(300))).await;
            assert!(matches!(result, Err(ExecError::Timeout { .. })), "{result:?}");
            until("all of it is gone", async || processes(&mark).is_empty().then_some(())).await;
            let alive = machine.pods().exec_sync(id.as_str(), sh("echo alive"), None).await.unwrap();
            assert_eq!(alive.stdout, b"alive\n");
            machine
        });
    }
}

#[test]
fn a_child_that_holds_the_pipe_does_not_hold_up_the_call() {
    on_machine(|machine| async move {
        let (_, id) = container(&machine).await;
        let start = Instant::now();
        let output =
            machine.pods().exec_sync(id.as_str(), sh("echo first; sleep 1000 & exit 2"), None).await.unwrap();
        assert_eq!((output.stdout, output.exit_code), (b"first\n".to_vec(), 2));
        assert!(start.elapsed() < Duration::from_secs(900));
        let chatty = sh("(while :; do echo x; sleep 0.01; done) & exit 3");
        assert_eq!(machine.pods().exec_sync(id.as_str(), chatty, None).await.unwrap().exit_code, 3);
        machine
    });
}

#[test]
fn a_caller_that_goes_away_ends_its_command() {
    on_machine(|machine| async move {
        let (_, id) = container(&machine).await;
        let mark = format!("{}", 600_000_000 + u64::from(std::process::id()));
        let call = machine.pods().exec_sync(id.as_str(), vec!["/bin/sleep".into(), mark.clone()], None);
        let seen = async { until("it runs", async || (!processes(&mark).is_empty()).then_some(())).await };
        tokio::select! {
            result = call => panic!("it ended: {result:?}"),
            () = seen => {}
        }
        until("it is killed", async || processes(&mark).is_empty().then_some(())).await;
        machine
    });
}

#[test]
fn a_session_has_streams_and_an_end() {
    on_machine(|machine| async move {
        let (_, id) = container(&machine).await;
        let streams = ExecStreams::Pipes { stdin: true, stdout: true, stderr: false };
        let request = ExecRequest { command: vec!["/bin/cat".into()], streams };
        let mut session = machine.pods().exec(id.as_str(), request).await.unwrap();
        let mut stdin = session.stdin.take().unwrap();
        assert!(session.stderr.is_none());
        stdin.write_all(b"through the pipe").await.unwrap();
        drop(stdin);
        let mut text = String::new();
        session.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "through the pipe");
        assert_eq!(session.process.wait().await.unwrap(), 0);
        assert_eq!(session.process.wait().await.unwrap(), 0, "the end is told again");

        let request = ExecRequest { command: sh("sleep 1000"), streams };
        let mut session = machine.pods().exec(id.as_str(), request).await.unwrap();
        session.process.kill().await.unwrap();
        assert_eq!(session.process.wait().await.unwrap(), 137);
        machine
    });
}

#[test]
fn a_terminal_has_a_size_and_ends() {
    on_machine(|machine| async move {
        let (_, id) = container(&machine).await;
        let request = ExecRequest { command: sh("read line; stty size; exit 4"), streams: ExecStreams::Pty };
        let mut session = machine.pods().exec(id.as_str(), request).await.unwrap();
        session.process.resize(123, 45).await.unwrap();
        let mut stdin = session.stdin.take().unwrap();
        stdin.write_all(b"go\n").await.unwrap();
        let mut text = String::new();
        session.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
        assert!(text.contains("45 123"), "{text:?}");
        assert_eq!(session.process.wait().await.unwrap(), 4);
        machine
    });
}

#[test]
fn attaching_joins_a_containers_streams() {
    on_machine(|machine| async move {
        machine.import_busybox().await;
        let pod = machine.host_pod("web").await;
        let mut config = shell("echo", "while read line; do echo got $line; done");
        config.stdin = StdinMode::Once;
        config.terminal = Terminal::Pipes;
        let id = machine.pods().create_container(pod.as_str(), config).await.unwrap();
        machine.pods().start_container(id.as_str()).await.unwrap();
        let request = AttachRequest { stdin: true, stdout: true, stderr: false };
        let mut session = machine.pods().attach(id.as_str(), request).await.unwrap();
        let mut stdin = session.stdin.take().unwrap();
        stdin.write_all(b"one\n").await.unwrap();
        let mut stdout = session.stdout.take().unwrap();
        let mut buffer = [0; 8];
        stdout.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"got one\n");
        drop(stdin);
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).await.unwrap();
        assert_eq!(machine.exit(&id).await.code, 0);
        machine
    });
}
