//! ExecSync: output, codes, time limits, and that nothing of it stays.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::time::{Duration, Instant};

use carpel_e2e::client::{code, eventually, refusal};
use carpel_e2e::config::container;
use carpel_e2e::daemon::Options;
use carpel_e2e::kernel::processes;
use carpel_e2e::scenario::{self, BUSYBOX};
use tonic::Code;

/// Runs the steps with a sleeping container.
fn with_sleeper(steps: impl AsyncFnOnce(&mut carpel_e2e::daemon::Daemon, &str)) {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("exec")).await;
        let mut config = container("exec", BUSYBOX, &["sleep", "10000"]);
        config.envs = vec![carpel_proto::v1::KeyValue { key: "OF".to_owned(), value: b"container".to_vec() }];
        config.working_dir = "/tmp".to_owned();
        let id = daemon.client.launch(&pod, config).await;
        steps(daemon, &id).await;
    });
}

#[test]
fn output_codes_environment_and_folder() {
    with_sleeper(async |daemon, id| {
        let output = daemon.client.exec(id, &["sh", "-c", "echo out; echo err >&2; exit 42"]).await;
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (42, "out\n", "err\n"));
        assert_eq!(daemon.client.sh(id, "pwd; echo $OF $FROM_IMAGE").await, "/tmp\ncontainer yes");
        assert_eq!(daemon.client.exec(id, &["sh", "-c", "kill -9 $$"]).await.code, 137);
        assert_eq!(
            daemon.client.exec(id, &["sh", "-c", "read x; echo \"$?\""]).await.stdout,
            "1\n",
            "no stdin"
        );
        let output = daemon.client.exec(id, &["printf", "\\377 bytes"]).await;
        assert!(output.stdout.ends_with(" bytes"));
    });
}

#[test]
fn what_cannot_be_executed_says_so() {
    with_sleeper(async |daemon, id| {
        let status = daemon.client.try_exec(id, &["/no/such/program"], 0).await;
        // The kubelet takes any error for a probe that could not run; a code of 127 would be a probe that failed.
        let status = refusal("an absent program", status);
        assert!(status.message().contains("/no/such/program"), "{}", status.message());
        assert_eq!(code("no command", daemon.client.try_exec(id, &[], 0).await), Code::InvalidArgument);
        assert_eq!(code("a stranger", daemon.client.try_exec("no-such", &["true"], 0).await), Code::NotFound);
        assert_eq!(
            code("a negative limit", daemon.client.try_exec(id, &["true"], -1).await),
            Code::InvalidArgument
        );
        daemon.client.stop(id, 0).await;
        let late = daemon.client.try_exec(id, &["true"], 0).await;
        assert_eq!(code("after the end", late), Code::FailedPrecondition);
    });
}

#[test]
fn a_time_limit_kills_the_whole_tree() {
    with_sleeper(async |daemon, id| {
        let before = processes(id);
        for script in [
            "sleep 3000",
            // Children in sessions of their own that keep the output open.
            "setsid sleep 3000 & (setsid sh -c 'sleep 3000 & sleep 3000' &) ; trap '' TERM; sleep 3000",
        ] {
            let begun = Instant::now();
            let status = refusal(script, daemon.client.try_exec(id, &["sh", "-c", script], 1).await);
            assert_eq!(status.code(), Code::DeadlineExceeded, "{}", status.message());
            assert!(begun.elapsed() >= Duration::from_secs(1), "not before its time");
            eventually("only the container's own process is left", async || {
                (processes(id) == before).then_some(())
            })
            .await;
        }
        assert_eq!(daemon.client.exec(id, &["echo", "alive"]).await.stdout, "alive\n");
    });
}

#[test]
fn a_background_child_does_not_hold_the_answer() {
    with_sleeper(async |daemon, id| {
        // It keeps stdout open for a long time after the command has ended.
        let output = daemon.client.exec(id, &["sh", "-c", "sleep 3000 & echo done"]).await;
        assert_eq!((output.code, output.stdout.as_str()), (0, "done\n"));
    });
}

#[test]
fn output_is_bounded() {
    with_sleeper(async |daemon, id| {
        let megabytes = |count: &str| ["dd", "if=/dev/zero", "bs=1048576", count].map(str::to_owned);
        let command = megabytes("count=10");
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let response = daemon.client.try_exec(id, &command, 0).await.unwrap().into_inner();
        assert_eq!(response.stdout.len(), 10 << 20, "ten megabytes come whole");
        let command = megabytes("count=64");
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let rss = || {
            let text = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
            let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap().to_owned();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        match daemon.client.try_exec(id, &command, 0).await {
            Ok(response) => assert!(response.into_inner().stdout.len() <= 16 << 20, "cut at the limit"),
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{}", status.message()),
        }
        assert!(rss() < 200 << 10, "the daemon's memory stayed bounded: {} KiB", rss());
    });
}

#[test]
fn many_at_once_all_answer() {
    with_sleeper(async |daemon, id| {
        let before = processes(id);
        let calls: Vec<_> = (0..100)
            .map(|number| {
                let (client, id) = (daemon.client.clone(), id.to_owned());
                tokio::spawn(async move {
                    client.exec(&id, &["sh", "-c", &format!("echo {number}; exit {}", number % 7)]).await
                })
            })
            .collect();
        for (number, call) in calls.into_iter().enumerate() {
            let output = call.await.unwrap();
            assert_eq!(
                (output.stdout, output.code),
                (format!("{number}\n"), i32::try_from(number % 7).unwrap())
            );
        }
        assert_eq!(processes(id), before);
    });
}

#[test]
fn execs_end_with_their_container() {
    with_sleeper(async |daemon, id| {
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let (client, id) = (daemon.client.clone(), id.to_owned());
                tokio::spawn(async move { client.try_exec(&id, &["sleep", "3000"], 0).await })
            })
            .collect();
        eventually("all of them run", async || (processes(id).len() == 21).then_some(())).await;
        daemon.client.stop(id, 0).await;
        for call in calls {
            // Killed, or the container was gone under it: an answer in any case.
            if let Ok(response) = call.await.unwrap() {
                assert_eq!(response.into_inner().exit_code, 137);
            }
        }
        assert!(carpel_e2e::kernel::processes_mentioning(id).is_empty());
    });
}

#[test]
fn a_caller_that_goes_away_takes_its_command_along() {
    with_sleeper(async |daemon, id| {
        let (client, container) = (daemon.client.clone(), id.to_owned());
        let call = tokio::spawn(async move { client.try_exec(&container, &["sleep", "3000"], 0).await });
        eventually("it runs", async || (processes(id).len() == 2).then_some(())).await;
        call.abort();
        eventually("it was killed", async || (processes(id).len() == 1).then_some(())).await;
    });
}
