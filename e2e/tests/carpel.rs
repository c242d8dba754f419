//! `carpel`, the operators' command, on a real daemon: for people and, by `-o json`, for programs.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use carpel_e2e::crictl::CommandLine;
use carpel_e2e::daemon::Options;
use carpel_e2e::scenario::{self, BUSYBOX};

#[test]
fn a_pod_from_run_to_rm() {
    scenario::run_without_image(Options::default(), async |daemon| {
        daemon.mirror("images.test", &scenario::images().url());
        let carpel = CommandLine::carpel(&daemon.socket());
        carpel.ok(&["info"]);
        carpel.ok(&["pull", BUSYBOX]);
        assert!(carpel.ok(&["images"]).contains("images.test/busybox"));
        assert!(carpel.json(&["images", "-o", "json"]).to_string().contains(BUSYBOX));

        carpel.ok(&["run", "--detach", "--name", "web", BUSYBOX, "sh", "-c", "echo hello; exec sleep 10000"]);
        assert!(carpel.ok(&["pods"]).contains("web"));
        assert!(carpel.ok(&["ps"]).contains("web"));
        assert_eq!(carpel.ok(&["exec", "web", "hostname"]), "web");
        let failed = carpel.output(&["exec", "web", "sh", "-c", "exit 7"]);
        assert_eq!(failed.status.code(), Some(7), "the command's own exit code");
        assert_eq!(carpel.ok(&["logs", "web"]), "hello");
        carpel.ok(&["stop", "--time", "0", "web"]);
        carpel.ok(&["rm", "web"]);
        assert!(!carpel.ok(&["pods"]).contains("web"));

        // Without --detach: the output and the exit code of the command are those of `carpel run`.
        let output = carpel.output(&["run", "--rm", BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 3"]);
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b"out\n"[..]), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("err"), "{output:?}");
        assert!(daemon.client.list_pods(None).await.is_empty(), "and nothing stays");
    });
}

#[test]
fn logs_are_followed_to_the_end() {
    scenario::run(Options::default(), async |daemon| {
        let carpel = CommandLine::carpel(&daemon.socket());
        let script = "for i in 1 2 3 4 5; do echo $i; sleep 0.2; done";
        carpel.ok(&["run", "--detach", "--name", "count", BUSYBOX, "sh", "-c", script]);
        assert_eq!(carpel.ok(&["logs", "-f", "count"]), "1\n2\n3\n4\n5");
        carpel.ok(&["rm", "--force", "count"]);
    });
}

#[test]
fn mistakes_are_explained() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let carpel = CommandLine::carpel(&daemon.socket());
        for (arguments, word) in [
            (&["logs", "no-such"][..], "no-such"),
            (&["exec", "no-such", "true"], "no-such"),
            (&["import", "/no/such/file.tar"], "/no/such/file.tar"),
            (&["pull", "UPPER.test/Case:1"], "UPPER.test/Case"),
        ] {
            let output = carpel.output(arguments);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && errors.contains(word), "{arguments:?}: {errors}");
        }
        let nobody = CommandLine::carpel("/no/such/carpel.sock".as_ref()).output(&["pods"]);
        let errors = String::from_utf8_lossy(&nobody.stderr);
        assert!(!nobody.status.success() && errors.contains("/no/such/carpel.sock"), "{errors}");
    });
}

#[test]
fn the_node_is_checked() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let carpel = CommandLine::carpel(&daemon.socket());
        let text = carpel.output(&["check"]);
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        for word in ["overlay", "cgroup", "seccomp"] {
            assert!(text.contains(word), "`{word}` is not in:\n{text}");
        }
        let json = carpel.output(&["check", "-o", "json"]);
        assert!(serde_json::from_slice::<serde_json::Value>(&json.stdout).is_ok(), "{json:?}");
    });
}
