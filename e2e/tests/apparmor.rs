//! AppArmor: the default profile and its denials, profiles of the node's own, containers without one.
//!
//! A kernel without AppArmor cannot show any of it, hence `hack/vm test e2e:apparmor -- --ignored --test-threads=1`:
//! one after the other, because the kernel's profiles are all daemons', and a test here removes the default one.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use carpel_e2e::client::refusal;
use carpel_e2e::config::{bind, container, pod_security, profile, security};
use carpel_e2e::daemon::Options;
use carpel_e2e::kernel::processes;
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_proto::v1::security_profile::ProfileType;
use tonic::Code;

const DEFAULT: &str = "carpel-default (enforce)";

/// The profile that a process is in.
fn confinement(pid: u32) -> String {
    let path = format!("/proc/{pid}/attr/current");
    std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{path}: {err}")).trim().to_owned()
}

fn parser(action: &str, text: &str) {
    let mut child = Command::new("apparmor_parser").arg(action).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "apparmor_parser {action} of {text}");
}

#[test]
#[ignore = "needs AppArmor"]
fn a_container_that_says_nothing_is_in_the_default_profile() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("default")).await;
        let mut config = container("default", BUSYBOX, &["sleep", "1000"]);
        // What else would keep it out is off, so that it is the profile that does.
        let context = security(&mut config);
        context.masked_paths.clear();
        context.readonly_paths.clear();
        context.capabilities.get_or_insert_default().add_capabilities.push("ALL".to_owned());
        // The container's own /sys is read-only.
        config.mounts.push(bind(Path::new("/sys/kernel"), "/sys/kernel"));
        let id = daemon.client.launch(&pod, config).await;
        assert_eq!(confinement(processes(&id)[0]), DEFAULT);
        // An exec is confined like its container.
        assert_eq!(daemon.client.sh(&id, "cat /proc/self/attr/current").await.trim(), DEFAULT);
        for (denied, script) in [
            ("mounting", "mount -t tmpfs none /tmp"),
            ("settings of the kernel", "echo 1 >/proc/sys/vm/drop_caches"),
            ("its triggers", "echo h >/proc/sysrq-trigger"),
            ("files of /proc", "echo 0 >/proc/timer_list"),
            ("kernel memory", "head -c 1 /proc/kcore"),
            ("settings in /sys", "echo 0 >/sys/kernel/mm/ksm/run"),
            ("security modules", "cat /sys/kernel/security/lsm"),
        ] {
            let said = daemon.client.sh(&id, &format!("{{ {script}; }} 2>&1 && echo allowed; true")).await;
            assert!(!said.contains("allowed"), "{denied}: {said}");
            assert!(said.to_lowercase().contains("denied"), "{denied}: {said}");
        }
        // Signals and tracing go on inside, files are as before, and processes can look at each other.
        let said = daemon
            .client
            .sh(&id, "sleep 100 & kill $! && echo x >/tmp/f && cat /proc/1/cmdline /tmp/f")
            .await;
        assert!(said.contains("sleep") && said.contains('x'), "{said}");
        // The host can end it: the runtime's signal arrives.
        daemon.client.stop(&id, 0).await;
        assert_eq!(daemon.client.status(&id).await.exit_code, 137);
    });
}

#[test]
#[ignore = "needs AppArmor"]
fn a_default_profile_that_was_removed_comes_back() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("again")).await;
        for round in ["first", "second"] {
            let config = container(round, BUSYBOX, &["sleep", "1000"]);
            let id = daemon.client.launch(&pod, config).await;
            assert_eq!(confinement(processes(&id)[0]), DEFAULT, "{round}");
            daemon.client.remove(&id).await;
            parser("-R", "profile carpel-default {}");
        }
    });
}

#[test]
#[ignore = "needs AppArmor"]
fn a_profile_of_the_node_confines_container_and_execs() {
    let text = "profile carpel-e2e-readonly flags=(attach_disconnected) { file, network, capability, signal, \
                ptrace, deny /tmp/** w, }";
    parser("-Kr", text);
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("named")).await;
        let named = "carpel-e2e-readonly";
        let mut config = container("named", BUSYBOX, &["sleep", "1000"]);
        security(&mut config).apparmor = profile(ProfileType::Localhost, named);
        let id = daemon.client.launch(&pod, config).await;
        assert_eq!(confinement(processes(&id)[0]), format!("{named} (enforce)"));
        let said = daemon.client.sh(&id, "echo x >/tmp/f; cat /proc/self/attr/current; true").await;
        assert_eq!(said.trim(), format!("{named} (enforce)"));
        let said = daemon.client.sh(&id, "test -e /tmp/f && echo written; true").await;
        assert_eq!(said, "", "a write was denied");

        // The deprecated field says the same.
        let mut config = container("old", BUSYBOX, &["sleep", "1000"]);
        #[allow(deprecated)]
        security(&mut config).apparmor_profile.push_str("localhost/carpel-e2e-readonly");
        let id = daemon.client.launch(&pod, config).await;
        assert_eq!(confinement(processes(&id)[0]), format!("{named} (enforce)"));

        let mut config = container("absent", BUSYBOX, &["sleep", "1000"]);
        security(&mut config).apparmor = profile(ProfileType::Localhost, "carpel-e2e-absent");
        let status = refusal("a profile that is not loaded", daemon.client.try_create(&pod, config).await);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("carpel-e2e-absent"), "{}", status.message());
    });
    parser("-R", text);
}

#[test]
#[ignore = "needs AppArmor"]
fn unconfined_and_privileged_containers_are_in_no_profile() {
    scenario::run(Options::default(), async |daemon| {
        let mut pod = daemon.host_pod("free");
        pod_security(&mut pod).privileged = true;
        let pod = daemon.client.run_pod(pod).await;
        let mut unconfined = container("unconfined", BUSYBOX, &["sleep", "1000"]);
        security(&mut unconfined).apparmor = profile(ProfileType::Unconfined, "");
        let mut privileged = container("privileged", BUSYBOX, &["sleep", "1000"]);
        security(&mut privileged).privileged = true;
        security(&mut privileged).apparmor = profile(ProfileType::RuntimeDefault, "");
        for config in [unconfined, privileged] {
            let id = daemon.client.launch(&pod, config).await;
            assert_eq!(confinement(processes(&id)[0]), "unconfined");
            assert_eq!(daemon.client.sh(&id, "cat /proc/self/attr/current").await.trim(), "unconfined");
        }
    });
}
