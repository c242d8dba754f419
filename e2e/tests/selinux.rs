//! SELinux: labels of processes and files, categories that part the pods, volumes that are given a label.
//!
//! A kernel without SELinux cannot show any of it, hence
//! `hack/vm test --lsm selinux e2e:selinux -- --ignored --test-threads=1`. What is denied is asserted where it enforces.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use carpel_e2e::client::{image_spec, refusal};
use carpel_e2e::config::{bind, container, namespaces, pod_security, security};
use carpel_e2e::daemon::Options;
use carpel_e2e::kernel::processes;
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_proto::v1;
use tonic::Code;

fn sleeper(name: &str) -> v1::ContainerConfig {
    container(name, BUSYBOX, &["sleep", "10000"])
}

fn trimmed(text: &str) -> String {
    text.trim_end_matches(['\0', '\n']).to_owned()
}

/// The label of a process.
fn label(pid: u32) -> String {
    trimmed(&fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap())
}

/// The label of a file, of a symbolic link itself.
fn label_of(path: impl AsRef<Path>) -> String {
    let mut buffer = [0u8; 256];
    let path = path.as_ref();
    let read = rustix::fs::lgetxattr(path, "security.selinux", &mut buffer[..]);
    let length = read.unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    trimmed(&String::from_utf8_lossy(&buffer[..length]))
}

/// The categories of a container's label, which must be an ordinary one.
fn level_of(label: &str) -> String {
    let level = label.strip_prefix("system_u:system_r:container_t:s0:").unwrap_or_else(|| panic!("{label}"));
    let (one, other) = level.split_once(',').unwrap();
    let number = |text: &str| text.strip_prefix('c').unwrap().parse::<u32>().unwrap();
    assert!(number(one) < number(other) && number(other) < 1024, "{label}");
    level.to_owned()
}

fn is_enforcing() -> bool {
    fs::read_to_string("/sys/fs/selinux/enforce").unwrap().trim() == "1"
}

fn option(type_: &str, level: &str) -> Option<v1::SeLinuxOption> {
    Some(v1::SeLinuxOption { r#type: type_.to_owned(), level: level.to_owned(), ..Default::default() })
}

fn relabelled(mount: v1::Mount) -> v1::Mount {
    v1::Mount { selinux_relabel: true, ..mount }
}

#[test]
#[ignore = "needs SELinux"]
fn containers_of_a_pod_share_their_categories_and_pods_do_not() {
    scenario::run(Options::default(), async |daemon| {
        let mut levels = BTreeSet::new();
        let mut first = None;
        for name in ["a", "b"] {
            let pod = daemon.client.run_pod(daemon.host_pod(name)).await;
            let mut of_pod = BTreeSet::new();
            for container in ["one", "two"] {
                let id = daemon.client.launch(&pod, sleeper(container)).await;
                of_pod.insert(label(processes(&id)[0]));
                let of_exec = daemon.client.sh(&id, "cat /proc/self/attr/current").await;
                of_pod.insert(trimmed(&of_exec));
            }
            assert_eq!(of_pod.len(), 1, "one label for all: {of_pod:?}");
            levels.insert(level_of(of_pod.first().unwrap()));
            first.get_or_insert(pod);
        }
        assert_eq!(levels.len(), 2, "{levels:?}");
        // A pod keeps its categories when the daemon is killed, and a new one has others.
        daemon.kill();
        daemon.spawn().await;
        let id = daemon.client.launch(&first.unwrap(), sleeper("three")).await;
        assert!(levels.contains(&level_of(&label(processes(&id)[0]))));
        let pod = daemon.client.run_pod(daemon.host_pod("c")).await;
        let id = daemon.client.launch(&pod, sleeper("one")).await;
        assert!(levels.insert(level_of(&label(processes(&id)[0]))), "{levels:?}");
    });
}

#[test]
#[ignore = "needs SELinux"]
fn what_is_mounted_for_a_container_has_the_label_of_its_files() {
    scenario::run(Options::default(), async |daemon| {
        let mut pod = daemon.pod("files");
        namespaces(&mut pod).pid = v1::NamespaceMode::Pod.into();
        let pod = daemon.client.run_pod(pod).await;
        let mut config = sleeper("files");
        security(&mut config).masked_paths = vec!["/sys/kernel/debug".to_owned(), "/proc/acpi".to_owned()];
        config.mounts.push(v1::Mount {
            container_path: "/model".to_owned(),
            image: Some(image_spec(BUSYBOX)),
            readonly: true,
            ..Default::default()
        });
        let id = daemon.client.launch(&pod, config).await;
        let pid = processes(&id)[0];
        let level = level_of(&label(pid));
        let root = format!("/proc/{pid}/root");
        daemon.client.sh(&id, "echo x >/file && mkdir /folder && echo x >/dev/shm/file").await;
        for path in [
            "",
            "bin/busybox",
            "file",
            "folder",
            "dev",
            "dev/null",
            "dev/pts",
            "dev/ptmx",
            "dev/shm",
            "dev/shm/file",
            "dev/mqueue",
            "sys/kernel/debug",
            "model",
            "model/bin/busybox",
        ] {
            let expected = format!("system_u:object_r:container_file_t:s0:{level}");
            assert_eq!(label_of(format!("{root}/{path}")), expected, "{path}");
        }
        for path in ["etc/resolv.conf", "etc/hostname"] {
            assert_eq!(label_of(format!("{root}/{path}")), "system_u:object_r:container_file_t:s0", "{path}");
        }
        // All of it is of use, and the first process of the shared PID namespace is one of the pod's.
        let script = "cat /etc/resolv.conf /etc/hostname >/dev/null && ls /dev/pts /dev/mqueue /sys/kernel/debug \
                      && /model/bin/busybox true && cat /file /dev/shm/file && cat /proc/1/attr/current";
        let said = daemon.client.sh(&id, script).await;
        assert!(said.contains("x\nx\n"), "{said}");
        assert!(trimmed(&said).ends_with(&label(pid)), "{said}");
    });
}

/// What a key is labelled cannot be read without a program for it, but whose keys a process may see is decided by it.
#[test]
#[ignore = "needs SELinux"]
fn session_keyrings_have_the_label_of_their_processes() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("keys")).await;
        let script = "cat /proc/keys >/keys; touch /written; exec sleep 10000";
        let mut config = container("keys", BUSYBOX, &["sh", "-c", script]);
        // Any list replaces the usual one, which has /proc/keys.
        security(&mut config).masked_paths = vec!["/proc/acpi".to_owned()];
        let id = daemon.client.launch(&pod, config).await;
        let seen = "until [ -e /written ]; do sleep 0.1; done; cat /keys";
        let of_init = daemon.client.sh(&id, seen).await;
        let of_exec = daemon.client.sh(&id, "cat /proc/keys").await;
        for (whose, keys) in [("the container's", &of_init), ("an exec's", &of_exec)] {
            let sessions = keys.lines().filter(|line| line.contains(" keyring ") && line.contains("_ses"));
            let count = sessions.count();
            assert!(count > 0, "{whose} own is hidden from it: {keys:?}");
            // Of the same user are those of the daemon and of the shim; an exec sees its container's.
            assert!(
                !is_enforcing() || count == 1 || whose == "an exec's",
                "those of others are seen: {keys:?}"
            );
        }
    });
}

#[test]
#[ignore = "needs SELinux"]
fn a_volume_is_given_a_label_only_if_that_was_asked_for() {
    scenario::run(Options::default(), async |daemon| {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["asked", "unasked"] {
            fs::create_dir_all(path(name).join("below")).unwrap();
            fs::write(path(name).join("below/file"), "content").unwrap();
        }
        fs::write(path("outside"), "x").unwrap();
        symlink(path("outside"), path("asked").join("link")).unwrap();
        let before = (label_of(path("unasked/below/file")), label_of(path("outside")));

        let with = |name: &str| {
            let mut config = sleeper(name);
            config.mounts.push(bind(&path("unasked"), "/unasked"));
            config.mounts.push(bind(&path("asked"), "/asked"));
            config
        };
        let pod = daemon.client.run_pod(daemon.host_pod("a")).await;
        let mut config = with("a");
        config.mounts.last_mut().unwrap().selinux_relabel = true;
        let a = daemon.client.launch(&pod, config).await;
        let level = level_of(&label(processes(&a)[0]));
        for name in ["asked", "asked/below", "asked/below/file", "asked/link"] {
            let expected = format!("system_u:object_r:container_file_t:s0:{level}");
            assert_eq!(label_of(path(name)), expected, "{name}");
        }
        assert_eq!((label_of(path("unasked/below/file")), label_of(path("outside"))), before);
        assert_eq!(daemon.client.sh(&a, "cat /asked/below/file").await, "content");

        // Nobody else's: neither another pod's, nor what was never given to a container.
        let other = daemon.client.run_pod(daemon.host_pod("b")).await;
        let b = daemon.client.launch(&other, with("b")).await;
        for (id, file) in
            [(&b, "/asked/below/file"), (&b, "/unasked/below/file"), (&a, "/unasked/below/file")]
        {
            let said = daemon.client.sh(id, &format!("cat {file} 2>&1; true")).await;
            let denied = said.contains("Permission denied") && !said.contains("content");
            assert_eq!(denied, is_enforcing(), "{file}: {said}");
        }

        // The node's own folders are not given away.
        let mut config = sleeper("etc");
        config.mounts.push(relabelled(bind(Path::new("/etc"), "/host-etc")));
        let before = label_of("/etc");
        let status = refusal("relabelling /etc", daemon.client.try_create(&pod, config).await);
        assert!(status.message().contains("node's own"), "{}", status.message());
        assert_eq!(label_of("/etc"), before);
        // One without labels is mounted all the same.
        let mut config = sleeper("proc");
        config.mounts.push(relabelled(bind(Path::new("/proc/fs"), "/unlabelled")));
        daemon.client.create(&pod, config).await;
    });
}

#[test]
#[ignore = "needs SELinux"]
fn labels_that_are_asked_for_are_had_or_refused() {
    scenario::run(Options::default(), async |daemon| {
        let mut config = daemon.host_pod("asked");
        pod_security(&mut config).selinux_options = option("", "s0:c4,c5");
        pod_security(&mut config).privileged = true;
        let pod = daemon.client.run_pod(config).await;
        for (asked, privileged, expected) in [
            (None, false, "container_t:s0:c4,c5"),
            (option("spc_t", ""), false, "spc_t:s0:c4,c5"),
            (option("", "s0"), false, "container_t:s0"),
            (option("container_t", "s0:c9"), true, "container_t:s0:c9"),
            (None, true, "spc_t:s0:c4,c5"),
        ] {
            let mut config = sleeper(&expected.replace(['_', ':', ','], "-"));
            security(&mut config).selinux_options = asked;
            security(&mut config).privileged = privileged;
            config.metadata.as_mut().unwrap().attempt = u32::from(privileged);
            let id = daemon.client.launch(&pod, config).await;
            assert_eq!(label(processes(&id)[0]), format!("system_u:system_r:{expected}"));
        }
        for (type_, level, named) in
            [("", "s0,c4,c5", "s0,c4,c5"), ("carpel_e2e_absent_t", "", "carpel_e2e_absent_t")]
        {
            let mut config = sleeper("bad");
            security(&mut config).selinux_options = option(type_, level);
            let status = refusal("a label that cannot be", daemon.client.try_create(&pod, config).await);
            assert_eq!(status.code(), Code::InvalidArgument, "{}", status.message());
            assert!(status.message().contains(named), "{}", status.message());
            let mut config = daemon.host_pod("bad");
            pod_security(&mut config).selinux_options = option(type_, level);
            let status = refusal("a label that cannot be", daemon.client.try_run_pod(&config).await);
            assert_eq!(status.code(), Code::InvalidArgument, "{}", status.message());
            assert!(status.message().contains(named), "{}", status.message());
        }
        // A privileged pod that says nothing is not confined.
        let mut config = daemon.host_pod("privileged");
        pod_security(&mut config).privileged = true;
        let pod = daemon.client.run_pod(config).await;
        let mut config = sleeper("privileged");
        security(&mut config).privileged = true;
        let id = daemon.client.launch(&pod, config).await;
        assert_eq!(label(processes(&id)[0]), "system_u:system_r:spc_t:s0");
    });
}

#[test]
#[ignore = "needs SELinux"]
fn a_pod_with_a_user_namespace_is_labelled_like_any_other() {
    scenario::run(Options::default(), async |daemon| {
        let mapping = vec![v1::IdMapping { host_id: 0x0010_0000, container_id: 0, length: 65_536 }];
        let mut config = daemon.pod("mapped");
        namespaces(&mut config).userns_options = Some(v1::UserNamespace {
            mode: v1::NamespaceMode::Pod.into(),
            uids: mapping.clone(),
            gids: mapping.clone(),
        });
        let pod = daemon.client.run_pod(config).await;
        let volume = tempfile::tempdir().unwrap();
        fs::write(volume.path().join("file"), "content").unwrap();
        let mut config = sleeper("mapped");
        let mount = relabelled(bind(volume.path(), "/volume"));
        config.mounts.push(v1::Mount { uid_mappings: mapping.clone(), gid_mappings: mapping, ..mount });
        let id = daemon.client.launch(&pod, config).await;
        let pid = processes(&id)[0];
        let level = level_of(&label(pid));
        for path in ["", "bin/busybox", "dev", "dev/null", "dev/pts", "dev/shm", "dev/mqueue", "volume/file"]
        {
            let expected = format!("system_u:object_r:container_file_t:s0:{level}");
            assert_eq!(label_of(format!("/proc/{pid}/root/{path}")), expected, "{path}");
        }
        let script = "echo x >/file && echo x >/dev/shm/file && ls /dev/mqueue && cat /volume/file";
        assert_eq!(daemon.client.sh(&id, script).await, "content");
    });
}
