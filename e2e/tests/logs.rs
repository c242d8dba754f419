//! Container logs: the CRI format, and that no line is ever lost, doubled or torn.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use carpel_e2e::client::{Client, code, eventually};
use carpel_e2e::config::container;
use carpel_e2e::daemon::Options;
use carpel_e2e::log::{self, Line};
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_proto::v1;
use tonic::{Code, Response, Status};

async fn reopen(client: &Client, id: &str) -> Result<Response<v1::ReopenContainerLogResponse>, Status> {
    let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
    client.runtime.clone().reopen_container_log(request).await
}

/// The numbers that a counting container has logged, in their order.
fn numbers(lines: &[Line]) -> Vec<u64> {
    assert!(lines.iter().all(|line| !line.partial), "short lines are whole");
    lines.iter().map(|line| String::from_utf8_lossy(&line.text).parse().expect("a number")).collect()
}

/// Counts without end, a number a line.
const COUNT: [&str; 2] = ["awk", "BEGIN { for (i = 0; ; i++) { print i; if (i % 200 == 0) fflush() } }"];

#[test]
fn both_streams_are_logged_line_by_line() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("lines")).await;
        let script = "echo one; echo two >&2; printf 'no newline'; printf '\\n\\n'; printf 'three\\rfour\\n'; printf last";
        let status = daemon.client.run_to_end(&pod, container("lines", BUSYBOX, &["sh", "-c", script])).await;
        let lines = log::read(Path::new(&status.log_path));
        assert_eq!(log::text(&lines, "stdout"), "one\nno newline\n\nthree\rfour\nlast");
        assert_eq!(log::text(&lines, "stderr"), "two\n");
        assert!(lines.iter().is_sorted_by_key(|line| line.time.clone()), "times go up: {lines:?}");
        let partial: Vec<_> =
            lines.iter().filter(|line| line.partial).map(|line| line.text.as_slice()).collect();
        assert_eq!(partial, [b"last"], "only what ends without a newline: the kubelet then adds none either");
    });
}

#[test]
fn long_lines_are_split_and_bytes_are_kept() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("long")).await;
        let script = "head -c 100000 /dev/zero | tr '\\0' x; echo; head -c 16384 /dev/zero | tr '\\0' y; echo; printf '\\377\\376\\n'";
        let status = daemon.client.run_to_end(&pod, container("long", BUSYBOX, &["sh", "-c", script])).await;
        let lines = log::read(Path::new(&status.log_path));
        assert!(lines.iter().all(|line| line.text.len() <= 16384), "no record is longer than configured");
        let mut joined: Vec<Vec<u8>> = vec![Vec::new()];
        for line in &lines {
            joined.last_mut().unwrap().extend_from_slice(&line.text);
            if !line.partial {
                joined.push(Vec::new());
            }
        }
        assert_eq!(joined[0], vec![b'x'; 100_000]);
        assert_eq!(joined[1], vec![b'y'; 16384]);
        assert_eq!(joined[2], b"\xff\xfe", "bytes that are no UTF-8 stay what they are");
        let parts = lines.iter().take_while(|line| line.partial).count();
        assert_eq!(parts, 6, "100 000 bytes in records of 16 KiB: six go on, one ends");
    });
}

#[test]
fn rotation_under_load_loses_and_tears_nothing() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("rotate")).await;
        let id = daemon.client.launch(&pod, container("rotate", BUSYBOX, &COUNT)).await;
        let path = PathBuf::from(daemon.client.status(&id).await.log_path);
        let mut rotated = Vec::new();
        for turn in 0..20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let old = path.with_extension(format!("{turn}"));
            std::fs::rename(&path, &old).unwrap();
            reopen(&daemon.client, &id).await.unwrap();
            assert!(path.exists(), "the new file is there when the call returns");
            let size = old.metadata().unwrap().len();
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert_eq!(
                old.metadata().unwrap().len(),
                size,
                "nothing more comes to the old file after the call"
            );
            rotated.push(old);
        }
        daemon.client.stop(&id, 0).await;
        rotated.push(path);
        let mut all = Vec::new();
        for file in rotated {
            // Each file is whole by itself: the kubelet compresses and deletes them one by one.
            all.extend(numbers(&log::read(&file)));
        }
        assert!(all.len() > 1000, "it logged: {}", all.len());
        let expected: Vec<u64> = (0..all.len() as u64).collect();
        assert_eq!(all, expected, "every number once, in its order");
    });
}

#[test]
fn reopening_what_does_not_log_is_refused() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("reopen")).await;
        let status = daemon.client.run_to_end(&pod, container("ended", BUSYBOX, &["true"])).await;
        assert_eq!(
            code("reopen after the end", reopen(&daemon.client, &status.id).await),
            Code::FailedPrecondition
        );
        assert_eq!(code("reopen of a stranger", reopen(&daemon.client, "no-such").await), Code::NotFound);
    });
}

#[test]
fn logs_go_on_while_the_daemon_is_dead() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("dead")).await;
        let id = daemon.client.launch(&pod, container("dead", BUSYBOX, &COUNT)).await;
        let path = PathBuf::from(daemon.client.status(&id).await.log_path);
        let length = || path.metadata().unwrap().len();
        for _ in 0..3 {
            daemon.kill();
            let before = length();
            eventually("the log grows without the daemon", async || (length() > before).then_some(())).await;
            daemon.spawn().await;
        }
        daemon.client.stop(&id, 0).await;
        let all = numbers(&log::read(&path));
        assert_eq!(all, (0..all.len() as u64).collect::<Vec<u64>>(), "every number once, in its order");
    });
}

#[test]
fn what_a_container_wrote_last_is_in_its_log() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("last")).await;
        // Two megabytes at once, then the end: all of it is in the pipe or behind it when the process goes.
        let script = "seq 1 300000; echo end >&2";
        for turn in 0..3 {
            let name = format!("last{turn}");
            let status =
                daemon.client.run_to_end(&pod, container(&name, BUSYBOX, &["sh", "-c", script])).await;
            let lines = log::read(Path::new(&status.log_path));
            let found: BTreeSet<&[u8]> = lines
                .iter()
                .filter(|line| line.stream == "stdout")
                .map(|line| line.text.as_slice())
                .collect();
            assert_eq!(found.len(), 300_000, "turn {turn}");
            assert_eq!(log::text(&lines, "stderr"), "end\n");
        }
    });
}

#[test]
fn a_container_without_a_log_runs() {
    scenario::run(Options::default(), async |daemon| {
        let mut config = daemon.host_pod("silent");
        config.log_directory = String::new();
        let pod = daemon.client.run_pod(config).await;
        let mut config = container("silent", BUSYBOX, &["sh", "-c", "seq 1 100000; echo x >&2"]);
        config.log_path = String::new();
        let status = daemon.client.run_to_end(&pod, config).await;
        assert_eq!((status.exit_code, status.log_path.as_str()), (0, ""));
    });
}

#[test]
fn a_full_log_disk_blocks_neither_the_container_nor_its_end() {
    let disk = carpel_e2e::kernel::Tmpfs::mount("size=256k");
    scenario::run(Options::default(), async |daemon| {
        let mut config = daemon.host_pod("full");
        config.log_directory = disk.path().to_string_lossy().into_owned();
        let pod = daemon.client.run_pod(config).await;
        let status =
            daemon.client.run_to_end(&pod, container("full", BUSYBOX, &["seq", "1", "300000"])).await;
        assert_eq!(status.exit_code, 0, "{status:?}");
        let other = daemon.client.run_to_end(&pod, container("other", BUSYBOX, &["true"])).await;
        assert_eq!(other.exit_code, 0, "the next one starts although the disk is full: {other:?}");
    });
}
