//! What a container may and may not: identity, capabilities, seccomp, paths, devices, privilege.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use carpel_e2e::client::{Pod, refusal};
use carpel_e2e::config::{container, int, pod_security, profile, security};
use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::kernel::{processes, status_field};
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_proto::v1;
use carpel_proto::v1::security_profile::ProfileType;
use tonic::Code;

/// A sleeping container with a changed security context; returns its id.
async fn sleeper(
    daemon: &Daemon,
    pod: &Pod,
    name: &str,
    change: impl FnOnce(&mut v1::LinuxContainerSecurityContext),
) -> String {
    let mut config = container(name, BUSYBOX, &["sleep", "1000"]);
    change(security(&mut config));
    daemon.client.launch(pod, config).await
}

fn field(id: &str, name: &str) -> String {
    status_field(processes(id)[0], name)
}

fn set(id: &str, name: &str) -> u64 {
    u64::from_str_radix(&field(id, name), 16).expect("a capability set is hexadecimal")
}

/// Bits of capabilities by their numbers in `linux/capability.h`.
fn bits(numbers: &[u32]) -> u64 {
    numbers.iter().map(|number| 1 << number).sum()
}

/// CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP
const DEFAULT: [u32; 14] = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];

#[test]
fn capabilities_are_the_defaults_with_what_was_added_and_dropped() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("caps")).await;
        let all = u64::from_str_radix(&status_field(std::process::id(), "CapBnd"), 16).unwrap();
        let cases: [(&str, &[&str], &[&str], u64); 7] = [
            ("none", &[], &[], bits(&DEFAULT)),
            ("add", &["SYS_TIME"], &[], bits(&DEFAULT) | bits(&[25])),
            ("prefix", &["CAP_SYS_TIME"], &["cap_chown"], (bits(&DEFAULT) | bits(&[25])) & !1),
            ("drop-all", &[], &["ALL"], 0),
            ("drop-all-add", &["NET_BIND_SERVICE"], &["ALL"], bits(&[10])),
            ("add-all", &["ALL"], &[], all),
            ("add-all-drop", &["ALL"], &["CHOWN"], all & !1),
        ];
        for (name, add, drop, expected) in cases {
            let strings = |words: &[&str]| words.iter().map(ToString::to_string).collect();
            let id = sleeper(daemon, &pod, name, |context| {
                context.capabilities = Some(v1::Capability {
                    add_capabilities: strings(add),
                    drop_capabilities: strings(drop),
                    ..Default::default()
                });
            })
            .await;
            for kind in ["CapPrm", "CapEff", "CapBnd"] {
                assert_eq!(set(&id, kind), expected & all, "{name} {kind}: {:x}", set(&id, kind));
            }
            assert_eq!((set(&id, "CapInh"), set(&id, "CapAmb")), (0, 0), "{name}: nothing is inherited");
        }
        let mut config = container("bad", BUSYBOX, &["true"]);
        security(&mut config).capabilities =
            Some(v1::Capability { add_capabilities: vec!["FLY".to_owned()], ..Default::default() });
        let status = refusal("an unknown capability", daemon.client.try_create(&pod, config).await);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("FLY"), "{}", status.message());
    });
}

#[test]
fn a_user_that_is_not_root_has_no_effective_capabilities() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("user")).await;
        let id = sleeper(daemon, &pod, "user", |context| context.run_as_user = int(1000)).await;
        assert_eq!((set(&id, "CapEff"), set(&id, "CapPrm")), (0, 0));
        assert_eq!(set(&id, "CapBnd"), bits(&DEFAULT), "a setuid program may still gain them");
    });
}

#[test]
fn users_and_groups_are_the_requests() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("ids")).await;
        type Change = fn(&mut v1::LinuxContainerSecurityContext);
        let cases: [(&str, Change, [i64; 2], &[i64]); 6] = [
            ("uid", |context| context.run_as_user = int(4321), [4321, 0], &[0]),
            ("name", |context| context.run_as_username = "alice".to_owned(), [1000, 1000], &[50, 60, 1000]),
            ("uid-in-image", |context| context.run_as_user = int(1000), [1000, 1000], &[50, 60, 1000]),
            (
                "group",
                |context| (context.run_as_user, context.run_as_group) = (int(4321), int(77)),
                [4321, 77],
                &[77],
            ),
            (
                "merge",
                |context| (context.run_as_user, context.supplemental_groups) = (int(1000), vec![5000, 50]),
                [1000, 1000],
                &[50, 60, 1000, 5000],
            ),
            (
                "strict",
                |context| {
                    (context.run_as_user, context.supplemental_groups) = (int(1000), vec![5000]);
                    context.supplemental_groups_policy = v1::SupplementalGroupsPolicy::Strict.into();
                },
                [1000, 1000],
                &[1000, 5000],
            ),
        ];
        for (name, change, [uid, gid], groups) in cases {
            let id = sleeper(daemon, &pod, name, change).await;
            assert_eq!(field(&id, "Uid"), vec![uid.to_string(); 4].join("\t"), "{name}");
            assert_eq!(field(&id, "Gid"), vec![gid.to_string(); 4].join("\t"), "{name}");
            let listed: Vec<i64> =
                field(&id, "Groups").split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(listed, groups, "{name}");
            let user = daemon.client.status(&id).await.user.unwrap().linux.unwrap();
            assert_eq!((user.uid, user.gid), (uid, gid), "{name}: the status says so too");
            let mut told = user.supplemental_groups;
            told.sort_unstable();
            assert_eq!(told, groups, "{name}");
            // An exec is the same user.
            assert_eq!(daemon.client.sh(&id, "id -u; id -g").await, format!("{uid}\n{gid}"), "{name}");
        }
    });
}

#[test]
fn impossible_identities_are_refused() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("ids")).await;
        type Change = fn(&mut v1::LinuxContainerSecurityContext);
        let cases: [(&str, Change); 7] = [
            ("a group without a user", |context| context.run_as_group = int(5)),
            ("a negative user", |context| context.run_as_user = int(-1)),
            ("a user beyond 32 bits", |context| context.run_as_user = int(1 << 32)),
            ("the user that means none", |context| context.run_as_user = int(u32::MAX.into())),
            ("a negative group", |context| context.supplemental_groups = vec![-5]),
            ("an unknown name", |context| context.run_as_username = "nobody-knows".to_owned()),
            ("digits for a name", |context| context.run_as_username = "99999999999".to_owned()),
        ];
        for (name, change) in cases {
            let mut config = container("bad", BUSYBOX, &["true"]);
            change(security(&mut config));
            let status = refusal(name, daemon.client.try_create(&pod, config).await);
            assert_eq!(status.code(), Code::InvalidArgument, "{name}: {}", status.message());
        }
    });
}

#[test]
fn no_new_privileges_is_set_when_asked() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("nnp")).await;
        let yes = sleeper(daemon, &pod, "yes", |context| context.no_new_privs = true).await;
        assert_eq!(field(&yes, "NoNewPrivs"), "1");
        assert!(
            daemon.client.sh(&yes, "cat /proc/self/status").await.contains("NoNewPrivs:\t1"),
            "in an exec too"
        );
        let no = sleeper(daemon, &pod, "no", |_| {}).await;
        assert_eq!(field(&no, "NoNewPrivs"), "0");
    });
}

#[test]
fn seccomp_profiles_filter_what_they_say() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("seccomp")).await;
        let folder = tempfile::tempdir().unwrap();
        let local = folder.path().join("no-mkdir.json");
        let text = r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 88 } ] }"#;
        std::fs::write(&local, text).unwrap();
        let local = local.to_string_lossy().into_owned();

        let default = sleeper(daemon, &pod, "default", |context| {
            context.seccomp = profile(ProfileType::RuntimeDefault, "");
        })
        .await;
        let open =
            sleeper(daemon, &pod, "open", |context| context.seccomp = profile(ProfileType::Unconfined, ""))
                .await;
        let localhost = sleeper(daemon, &pod, "local", |context| {
            context.seccomp = profile(ProfileType::Localhost, &local);
        })
        .await;
        assert_eq!((field(&default, "Seccomp"), field(&open, "Seccomp")), ("2".to_owned(), "0".to_owned()));
        // A new user namespace needs no capability: it is the default profile that refuses it.
        let unshare = ["unshare", "-U", "true"];
        assert_ne!(
            daemon.client.exec(&default, &unshare).await.code,
            0,
            "the default profile holds in an exec"
        );
        assert_eq!(daemon.client.exec(&open, &unshare).await.code, 0);
        let denied = daemon.client.exec(&localhost, &["mkdir", "/tmp/x"]).await;
        assert!(
            denied.code != 0 && denied.stderr.contains("Socket operation on non-socket"),
            "ENOTSOCK: {denied:?}"
        );
        assert_eq!(daemon.client.exec(&open, &["mkdir", "/tmp/x"]).await.code, 0);

        let bad = folder.path().join("bad.json");
        std::fs::write(&bad, "{ \"defaultAction\": \"SCMP_ACT_WISH\" }").unwrap();
        for reference in ["/no/such/profile.json", &bad.to_string_lossy(), "relative.json", ""] {
            let mut config = container("bad", BUSYBOX, &["true"]);
            security(&mut config).seccomp = profile(ProfileType::Localhost, reference);
            let status = refusal(reference, daemon.client.try_create(&pod, config).await);
            assert_eq!(status.code(), Code::InvalidArgument, "{reference}: {}", status.message());
        }
    });
}

#[test]
fn masked_and_readonly_paths_hold() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("paths")).await;
        let id = sleeper(daemon, &pod, "paths", |context| {
            context.masked_paths =
                ["/proc/kcore", "/etc/passwd", "/var", "/no/such/path"].map(str::to_owned).to_vec();
            context.readonly_paths = ["/proc/sys", "/tmp", "/no/such/path"].map(str::to_owned).to_vec();
        })
        .await;
        assert_eq!(daemon.client.sh(&id, "cat /etc/passwd /proc/kcore | wc -c; ls -A /var").await, "0");
        for write in ["echo x > /var/x", "echo x > /tmp/x", "echo 1 > /proc/sys/kernel/domainname"] {
            let output = daemon.client.exec(&id, &["sh", "-c", write]).await;
            assert!(output.stderr.contains("Read-only file system"), "{write}: {output:?}");
        }
        assert_eq!(
            daemon.client.sh(&id, "echo x > /root/x && cat /root/x").await,
            "x",
            "the rest is as ever"
        );
    });
}

#[test]
fn a_readonly_root_leaves_the_usual_places_writable() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("readonly")).await;
        let id = sleeper(daemon, &pod, "readonly", |context| context.readonly_rootfs = true).await;
        let output = daemon.client.exec(&id, &["touch", "/new"]).await;
        assert!(output.stderr.contains("Read-only file system"), "{output:?}");
        daemon.client.sh(&id, "echo x > /dev/shm/x && echo x > /dev/null").await;
    });
}

#[test]
fn an_ordinary_container_sees_only_its_own_devices_and_cgroups() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("ordinary")).await;
        let id = sleeper(daemon, &pod, "ordinary", |_| {}).await;
        let nodes = daemon.client.sh(&id, "cd /dev && ls -1 | sort | tr '\\n' ' '").await;
        for node in ["full", "null", "ptmx", "pts", "random", "shm", "stdin", "tty", "urandom", "zero"] {
            assert!(nodes.split(' ').any(|name| name == node), "{node} is not in {nodes}");
        }
        for stranger in ["vda", "sda", "mem", "kmsg", "loop0"] {
            assert!(!nodes.split(' ').any(|name| name == stranger), "{stranger} is in {nodes}");
        }
        // MKNOD is a default capability; opening what it made is not allowed.
        let open = "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem";
        let output = daemon.client.exec(&id, &["sh", "-c", open]).await;
        assert!(output.stderr.contains("Operation not permitted"), "{output:?}");
        daemon.client.sh(&id, "mknod /tmp/zero c 1 5 && head -c 1 /tmp/zero > /dev/null").await;
        let output = daemon
            .client
            .exec(&id, &["sh", "-c", "mkdir /sys/fs/cgroup/x 2>&1 || mount -o remount,rw /sys"])
            .await;
        assert_ne!(output.code, 0, "sysfs and the cgroup tree are read-only: {output:?}");
        let descriptors = daemon.client.sh(&id, "ls /proc/1/fd | tr '\\n' ' '").await;
        assert_eq!(descriptors, "0 1 2", "nothing of the runtime is left open in it");
        // No path into the host: neither its root nor the runtime's mounts are visible.
        let mounts = daemon.client.sh(&id, "cat /proc/self/mountinfo").await;
        assert!(!mounts.contains("shims") && !mounts.contains("carpel.sock"), "{mounts}");
    });
}

#[test]
fn devices_are_given_as_asked() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("devices")).await;
        let mut config = container("devices", BUSYBOX, &["sleep", "1000"]);
        let device = |host: &str, inside: &str, permissions: &str| v1::Device {
            host_path: host.to_owned(),
            container_path: inside.to_owned(),
            permissions: permissions.to_owned(),
        };
        config.devices =
            vec![device("/dev/kmsg", "/dev/deep/log", "r"), device("/dev/zero", "/dev/my-zero", "rwm")];
        let id = daemon.client.launch(&pod, config).await;
        daemon.client.sh(&id, "head -c 1 /dev/my-zero >/dev/null && test -c /dev/deep/log").await;
        assert_eq!(
            daemon
                .client
                .sh(&id, "dd if=/dev/deep/log of=/dev/null bs=8192 count=1 2>/dev/null; echo read")
                .await,
            "read"
        );
        let output = daemon.client.exec(&id, &["sh", "-c", "echo x > /dev/deep/log"]).await;
        assert!(output.stderr.contains("Operation not permitted"), "read only: {output:?}");
    });
}

#[test]
fn a_privileged_container_has_it_all_in_a_privileged_pod_only() {
    scenario::run(Options::default(), async |daemon| {
        let mut config = daemon.host_pod("privileged");
        pod_security(&mut config).privileged = true;
        let pod = daemon.client.run_pod(config).await;
        let id = sleeper(daemon, &pod, "privileged", |context| {
            context.privileged = true;
            context.masked_paths = vec!["/proc/kcore".to_owned()];
        })
        .await;
        let all = u64::from_str_radix(&status_field(std::process::id(), "CapBnd"), 16).unwrap();
        assert_eq!(set(&id, "CapEff"), all);
        assert_eq!(field(&id, "Seccomp"), "0");
        assert_eq!(daemon.client.sh(&id, "test -e /dev/kmsg && echo all devices").await, "all devices");
        daemon
            .client
            .sh(&id, "mount -t tmpfs x /mnt 2>/dev/null || (mkdir -p /mnt && mount -t tmpfs x /mnt)")
            .await;
        let sysfs = daemon.client.sh(&id, "grep ' /sys ' /proc/self/mounts").await;
        assert!(sysfs.contains(" rw,"), "sysfs is writable: {sysfs}");

        let plain = daemon.client.run_pod(daemon.host_pod("plain")).await;
        let mut config = container("bad", BUSYBOX, &["true"]);
        security(&mut config).privileged = true;
        let status = refusal("privileged in a plain pod", daemon.client.try_create(&plain, config).await);
        assert_eq!(status.code(), Code::InvalidArgument, "{}", status.message());
    });
}

#[test]
fn links_of_the_image_never_lead_to_the_host() {
    scenario::run(Options::default(), async |daemon| {
        use carpel_e2e::{busybox, layout::Layout, registry::Registry, tar::Tar};
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().to_string_lossy().into_owned();
        std::fs::write(outside.path().join("file"), "untouched").unwrap();
        let registry = Registry::open();
        let folder = tempfile::tempdir().unwrap();
        let mut layout = Layout::create(folder.path());
        let file = format!("{target}/file");
        let cases: [(&str, Tar, &str); 7] = [
            ("proc", Tar::new().symlink("proc", &target), "/tmp"),
            ("sys", Tar::new().symlink("sys", &target), "/tmp"),
            ("dev", Tar::new().symlink("dev", &target), "/tmp"),
            ("console", Tar::new().symlink("dev/console", &format!("{target}/console")), "/tmp"),
            ("null", Tar::new().symlink("dev/null", &file), "/tmp"),
            ("passwd", Tar::new().symlink("etc/passwd", &file), "/tmp"),
            ("workdir", Tar::new().symlink("work", &target), "/work/made"),
        ];
        for (name, tar, workdir) in &cases {
            // The base without the entry that the upper layer replaces.
            let hide = Tar::new().file(&format!(".wh.{name}"), 0o644, "").finish();
            let base = busybox::image().layer(hide).layer(tar.clone().finish());
            layout.add(&format!("{name}:1"), &base.config("WorkingDir", *workdir));
        }
        registry.push(&layout);
        daemon.trust(&registry);
        let pod = daemon.client.run_pod(daemon.host_pod("links")).await;
        for (name, ..) in &cases {
            let image = registry.reference(&format!("{name}:1"));
            daemon.client.pull(&image).await;
            let mut config = container(name, &image, &["sh", "-c", "echo x > /dev/null; :"]);
            config.tty = *name == "console";
            config.mounts = vec![carpel_e2e::config::bind("/usr".as_ref(), "/work/volume")];
            // Refused with a reason, or run confined: both are right.
            match daemon.client.try_create(&pod, config).await {
                Ok(created) => {
                    let id = created.into_inner().container_id;
                    if daemon.client.try_start(&id).await.is_ok() {
                        daemon.client.wait_exit(&id).await;
                    }
                    daemon.client.remove(&id).await;
                }
                Err(status) => assert!(!status.message().is_empty(), "{name}"),
            }
            let names: Vec<_> =
                std::fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, ["file"], "{name} made something on the host");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "untouched", "{name} wrote to the host");
        }
    });
}
