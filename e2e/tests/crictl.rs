//! `crictl`, the operators' client, drives the whole life of pods.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use carpel_e2e::crictl::CommandLine;
use carpel_e2e::daemon::Options;
use carpel_e2e::scenario::{self, BUSYBOX};
use serde_json::json;

#[test]
fn the_whole_life_of_a_pod() {
    scenario::run_without_image(Options::default(), async |daemon| {
        daemon.mirror("images.test", &scenario::images().url());
        let crictl = CommandLine::crictl(&daemon.socket());
        assert!(crictl.ok(&["version"]).contains("RuntimeName:  carpel"));
        let conditions = &crictl.json(&["info"])["status"]["conditions"];
        assert!(
            conditions.as_array().unwrap().iter().all(|condition| condition["status"] == true),
            "{conditions}"
        );

        crictl.ok(&["pull", BUSYBOX]);
        assert_eq!(crictl.json(&["images", "-o", "json"])["images"][0]["repoTags"], json!([BUSYBOX]));
        assert!(crictl.ok(&["inspecti", BUSYBOX]).contains("sha256:"));
        crictl.ok(&["imagefsinfo"]);

        let write = |name: &str, value: serde_json::Value| {
            let path = daemon.folder().join(name);
            std::fs::write(&path, value.to_string()).unwrap();
            path.to_string_lossy().into_owned()
        };
        let logs = daemon.folder().join("logs/crictl");
        std::fs::create_dir_all(&logs).unwrap();
        let pod = write(
            "pod.json",
            json!({
                "metadata": { "name": "crictl", "namespace": "e2e", "uid": "crictl-uid" },
                "hostname": "crictl", "log_directory": logs, "linux": {},
            }),
        );
        let container = write(
            "container.json",
            json!({
                "metadata": { "name": "main" }, "image": { "image": BUSYBOX }, "log_path": "main.log",
                "command": ["sh", "-c", "echo started; exec sleep 10000"], "linux": {},
            }),
        );
        let pod_id = crictl.ok(&["runp", &pod]);
        let id = crictl.ok(&["create", &pod_id, &container, &pod]);
        crictl.ok(&["start", &id]);
        assert_eq!(crictl.json(&["pods", "-o", "json"])["items"][0]["state"], "SANDBOX_READY");
        assert_eq!(crictl.json(&["ps", "-o", "json"])["containers"][0]["id"], json!(id));
        assert_eq!(crictl.json(&["inspect", &id])["status"]["state"], "CONTAINER_RUNNING");
        assert!(crictl.json(&["inspect", &id])["info"]["pid"].as_u64().unwrap() > 1);
        let ip = crictl.json(&["inspectp", &pod_id])["status"]["network"]["ip"].clone();
        assert!(ip.as_str().unwrap().starts_with(&daemon.subnet_prefix()), "{ip}");
        assert_eq!(crictl.ok(&["exec", "--sync", &id, "hostname"]), "crictl");
        assert_eq!(crictl.ok(&["logs", &id]), "started");
        crictl.ok(&["update", "--memory", "67108864", &id]);
        assert_eq!(crictl.json(&["stats", "-o", "json", &id])["stats"][0]["attributes"]["id"], json!(id));
        assert_eq!(crictl.json(&["statsp", "-o", "json"])["stats"].as_array().unwrap().len(), 1);

        crictl.ok(&["stop", "--timeout", "0", &id]);
        assert_eq!(crictl.json(&["inspect", &id])["status"]["exitCode"], 137);
        crictl.ok(&["rm", &id]);
        crictl.ok(&["stopp", &pod_id]);
        crictl.ok(&["rmp", &pod_id]);
        assert_eq!(crictl.json(&["pods", "-o", "json"])["items"], json!([]));
        crictl.ok(&["rmi", BUSYBOX]);
        assert_eq!(crictl.json(&["images", "-o", "json"])["images"], json!([]));
    });
}

#[test]
fn mistakes_are_explained() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let crictl = CommandLine::crictl(&daemon.socket());
        for (arguments, word) in [
            (&["inspect", "no-such"][..], "no-such"),
            (&["inspectp", "no-such"], "no-such"),
            (&["start", "no-such"], "no-such"),
            (&["exec", "--sync", "no-such", "true"], "no-such"),
            (&["pull", "UPPER.test/Case:1"], "UPPER.test/Case"),
        ] {
            let output = crictl.output(arguments);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && errors.contains(word), "{arguments:?}: {errors}");
        }
    });
}
