//! Containers: their life, and what they run as asked for by their config and their image.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

#[path = "containers/volumes.rs"]
mod volumes;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use carpel_e2e::client::{Pod, code, eventually, refusal};
use carpel_e2e::config::{bind, container};
use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::layout::{Image, Layout};
use carpel_e2e::registry::Registry;
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_e2e::{busybox, kernel, log};
use carpel_proto::v1;
use carpel_proto::v1::{ContainerState, Signal};
use tonic::Code;

/// The output of a container that has ended well.
async fn output(daemon: &Daemon, pod: &Pod, config: v1::ContainerConfig) -> String {
    let status = daemon.client.run_to_end(pod, config).await;
    let text = log::text(&log::read(status.log_path.as_ref()), "stdout");
    assert_eq!(status.exit_code, 0, "{status:?}: {text}");
    daemon.client.remove(&status.id).await;
    text.trim_end().to_owned()
}

/// Pulls an image of its own name.
async fn pulled(daemon: &Daemon, name: &str, image: &Image) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut layout = Layout::create(folder.path());
    layout.add(&format!("{name}:1"), image);
    let registry = Registry::open();
    registry.push(&layout);
    daemon.trust(&registry);
    let reference = registry.reference(&format!("{name}:1"));
    daemon.client.pull(&reference).await;
    reference
}

#[test]
fn a_container_goes_through_its_states() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("life")).await;
        let mut config = container("life", BUSYBOX, &["sh", "-c", "sleep 0.2; exit 3"]);
        config.labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        config.annotations = BTreeMap::from([("c".to_owned(), "d".to_owned())]);
        let id = daemon.client.create(&pod, config.clone()).await;
        let created = daemon.client.status(&id).await;
        assert_eq!(created.state(), ContainerState::ContainerCreated);
        assert!(created.created_at > 0 && created.started_at == 0 && created.finished_at == 0, "{created:?}");
        assert_eq!((&created.metadata, &created.labels), (&config.metadata, &config.labels));
        assert_eq!(created.annotations, config.annotations);
        assert_eq!(created.image.as_ref().unwrap().image, BUSYBOX);
        let image = daemon.client.image(BUSYBOX).await.unwrap();
        // What the kubelet shows as the image's id; with the digest it can be pulled by, if it was.
        assert_eq!((&created.image_ref, &created.image_id), (&image.repo_digests[0], &image.id));
        assert_eq!(created.log_path, format!("{}/life_0.log", pod.config.log_directory));

        daemon.client.start(&id).await;
        let running = daemon.client.status(&id).await;
        assert_eq!(running.state(), ContainerState::ContainerRunning);
        assert!(running.started_at >= running.created_at, "{running:?}");
        assert_eq!(code("a second start", daemon.client.try_start(&id).await), Code::FailedPrecondition);

        let exited = daemon.client.wait_exit(&id).await;
        assert_eq!((exited.exit_code, exited.reason.as_str()), (3, "Error"));
        assert!(exited.finished_at >= exited.started_at, "{exited:?}");
        assert_eq!(
            code("a start after the end", daemon.client.try_start(&id).await),
            Code::FailedPrecondition
        );
        for _ in 0..2 {
            daemon.client.stop(&id, 1).await;
        }
        for _ in 0..2 {
            daemon.client.remove(&id).await;
        }
        let request = v1::ContainerStatusRequest { container_id: id, verbose: false };
        let status = daemon.client.runtime.clone().container_status(request).await;
        assert_eq!(code("status after removal", status), Code::NotFound);
    });
}

#[test]
fn exits_have_their_codes_and_reasons() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("exits")).await;
        for (name, command, exit_code, reason) in [
            ("zero", "exit 0", 0, "Completed"),
            ("one", "exit 1", 1, "Error"),
            ("top", "exit 255", 255, "Error"),
            ("signal", "kill -USR1 $$", 138, "Error"),
        ] {
            // Through a child, since process 1 of a namespace gets no signal it does not handle.
            let script = format!("sh -c '{command}'; exit $?");
            let status =
                daemon.client.run_to_end(&pod, container(name, BUSYBOX, &["sh", "-c", &script])).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (exit_code, reason), "{name}");
        }
    });
}

#[test]
fn what_cannot_be_executed_is_a_start_error() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("start")).await;
        for (name, command, exit_code) in
            [("absent", "/no/such/program", 127), ("folder", "/etc", 126), ("data", "/etc/passwd", 126)]
        {
            // Either call may tell: a runtime that has everything ready but the exec knows it at create.
            let config = container(name, BUSYBOX, &[command]);
            match daemon.client.try_create(&pod, config).await {
                Err(status) => assert!(status.message().contains(command), "{name}: {}", status.message()),
                Ok(created) => {
                    let id = created.into_inner().container_id;
                    let status = refusal(name, daemon.client.try_start(&id).await);
                    assert!(status.message().contains(command), "{name}: {}", status.message());
                    let status = daemon.client.status(&id).await;
                    assert_eq!(status.state(), ContainerState::ContainerExited, "{name}");
                    assert_eq!(status.reason, "StartError", "{name}: {status:?}");
                    assert!([exit_code, 128].contains(&status.exit_code), "{name}: {status:?}");
                    daemon.client.remove(&id).await;
                }
            }
        }
    });
}

#[test]
fn command_arguments_environment_and_folder_merge_with_the_images() {
    scenario::run(Options::default(), async |daemon| {
        let image = busybox::image()
            .config("Entrypoint", vec!["/bin/echo", "entry"])
            .config("Cmd", vec!["cmd"])
            .config("Env", vec!["PATH=/bin", "A=image", "B=image", "EMPTY="])
            .config("WorkingDir", "/made/by/runtime");
        let image = pulled(daemon, "merge", &image).await;
        let pod = daemon.client.run_pod(daemon.host_pod("merge")).await;
        let strings = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (name, command, args, expected) in [
            ("neither", &[][..], &[][..], "entry cmd"),
            ("args", &[], &["args"], "entry args"),
            ("command", &["/bin/echo", "command"], &[], "command"),
            ("both", &["/bin/echo", "command"], &["args"], "command args"),
        ] {
            let mut config = container(name, &image, command);
            config.args = strings(args);
            assert_eq!(output(daemon, &pod, config).await, expected, "{name}");
        }
        let mut config = container(
            "env",
            &image,
            &["/bin/sh", "-c", "pwd; echo $A-$B-$C-$PATH; env | grep -c '^EMPTY=$'"],
        );
        config.envs = vec![
            v1::KeyValue { key: "A".to_owned(), value: b"config".to_vec() },
            v1::KeyValue { key: "C".to_owned(), value: b"two words = 1".to_vec() },
        ];
        let text = output(daemon, &pod, config).await;
        assert_eq!(text, "/made/by/runtime\nconfig-image-two words = 1-/bin\n1");

        let mut config = container("cwd", &image, &["/bin/sh", "-c", "pwd; printf %s \"$RAW\" | xxd -p"]);
        config.working_dir = "/tmp".to_owned();
        // An environment value is bytes, not text.
        config.envs = vec![v1::KeyValue { key: "RAW".to_owned(), value: vec![0xff, 0xfe, b'\n'] }];
        assert_eq!(output(daemon, &pod, config).await, "/tmp\nfffe0a");
    });
}

#[test]
fn users_and_groups_come_from_the_image() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("users")).await;
        for (user, expected) in [
            ("", "uid=0(root) gid=0(root) groups=0(root)"),
            ("alice", "uid=1000(alice) gid=1000(alice) groups=50(staff),60(games),1000(alice)"),
            ("1000", "uid=1000(alice) gid=1000(alice) groups=50(staff),60(games),1000(alice)"),
            ("alice:games", "uid=1000(alice) gid=60(games) groups=50(staff),60(games)"),
            ("4321", "uid=4321 gid=0(root) groups=0(root)"),
            ("4321:50", "uid=4321 gid=50(staff) groups=50(staff)"),
        ] {
            let name = format!("u{}", user.replace(':', "-"));
            let image = pulled(daemon, &name.to_lowercase(), &busybox::image().config("User", user)).await;
            assert_eq!(
                output(daemon, &pod, container(&name, &image, &["id"])).await,
                expected,
                "USER {user:?}"
            );
        }
        let image = pulled(daemon, "home", &busybox::image().config("User", "alice")).await;
        assert_eq!(
            output(daemon, &pod, container("home", &image, &["sh", "-c", "echo $HOME"])).await,
            "/home/alice"
        );
    });
}

#[test]
fn users_that_are_none_are_refused() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("users")).await;
        for (number, user) in ["nobody-knows", "alice:no-such-group", "-1", "4294967296", "+5", " 5", "1:2:3"]
            .iter()
            .enumerate()
        {
            let name = format!("bad{number}");
            let image = pulled(daemon, &name, &busybox::image().config("User", *user)).await;
            let status =
                refusal(user, daemon.client.try_create(&pod, container(&name, &image, &["id"])).await);
            assert_eq!(status.code(), Code::InvalidArgument, "USER {user:?}: {}", status.message());
        }
        assert!(daemon.client.list_containers(None).await.is_empty());
    });
}

#[test]
fn stop_asks_first_and_kills_after_the_grace_period() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("stop")).await;
        let polite = "trap 'echo bye; exit 5' TERM; while :; do sleep 0.05; done";
        let id = daemon.client.launch(&pod, container("polite", BUSYBOX, &["sh", "-c", polite])).await;
        eventually("the trap is set", async || {
            (daemon.client.exec(&id, &["true"]).await.code == 0).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        daemon.client.stop(&id, 60).await;
        let status = daemon.client.status(&id).await;
        assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 5), "{status:?}");

        let deaf = "trap '' TERM; while :; do sleep 0.05; done";
        let id = daemon.client.launch(&pod, container("deaf", BUSYBOX, &["sh", "-c", deaf])).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        daemon.client.stop(&id, 1).await;
        let status = daemon.client.status(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"), "{status:?}");

        let id = daemon.client.launch(&pod, container("now", BUSYBOX, &["sh", "-c", deaf])).await;
        daemon.client.stop(&id, 0).await;
        assert_eq!(daemon.client.status(&id).await.exit_code, 137, "no grace at all");

        let id = daemon.client.create(&pod, container("created", BUSYBOX, &["true"])).await;
        daemon.client.stop(&id, 10).await;
        assert_eq!(daemon.client.status(&id).await.state(), ContainerState::ContainerExited, "never started");
    });
}

#[test]
fn a_second_stop_shortens_the_grace_period() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("shorten")).await;
        let deaf = "trap '' TERM; while :; do sleep 0.05; done";
        let id = daemon.client.launch(&pod, container("deaf", BUSYBOX, &["sh", "-c", deaf])).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (client, first) = (daemon.client.clone(), id.clone());
        let begun = Instant::now();
        let slow = tokio::spawn(async move { client.stop(&first, 3000).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        // A stop that waits holds nothing up.
        assert_eq!(daemon.client.exec(&id, &["echo", "alive"]).await.stdout, "alive\n");
        assert_eq!(daemon.client.status(&id).await.state(), ContainerState::ContainerRunning);
        daemon.client.stop(&id, 1).await;
        slow.await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(3000), "the first call ended with the second");
        assert_eq!(daemon.client.status(&id).await.exit_code, 137);
    });
}

#[test]
fn the_stop_signal_is_the_requests_or_the_images() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("signal")).await;
        let script = "for s in TERM USR1 USR2 QUIT; do trap \"echo $s; exit 0\" $s; done
                      trap 'echo RTMIN+3; exit 0' 37; echo ready; while :; do sleep 0.05; done";
        let usr1 = pulled(daemon, "usr1", &busybox::image().config("StopSignal", "SIGUSR1")).await;
        let rtmin = pulled(daemon, "rtmin", &busybox::image().config("StopSignal", "SIGRTMIN+3")).await;
        for (name, image, signal, expected, shown) in [
            ("default", BUSYBOX, Signal::RuntimeDefault, "TERM", Signal::Sigterm),
            ("image", &usr1, Signal::RuntimeDefault, "USR1", Signal::Sigusr1),
            ("request", &usr1, Signal::Sigusr2, "USR2", Signal::Sigusr2),
            ("real-time", &rtmin, Signal::RuntimeDefault, "RTMIN+3", Signal::Sigrtminplus3),
        ] {
            let mut config = container(name, image, &["sh", "-c", script]);
            config.stop_signal = signal.into();
            let id = daemon.client.launch(&pod, config).await;
            let path = daemon.client.status(&id).await.log_path;
            eventually("the traps are set", async || {
                std::fs::read_to_string(&path).ok().filter(|text| text.contains("ready"))
            })
            .await;
            daemon.client.stop(&id, 30).await;
            let text = log::text(&log::read(path.as_ref()), "stdout");
            assert_eq!(text, format!("ready\n{expected}\n"), "{name}");
            assert_eq!(daemon.client.status(&id).await.stop_signal(), shown, "{name}");
        }
    });
}

#[test]
fn removing_a_running_container_kills_it() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("remove")).await;
        let id = daemon.client.launch(&pod, container("running", BUSYBOX, &["sleep", "1000"])).await;
        let pid = kernel::processes(&id)[0];
        daemon.client.remove(&id).await;
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        assert!(kernel::cgroups_named(&id).is_empty(), "its cgroups are gone");
    });
}

#[test]
fn lists_filter_by_all_that_the_kubelet_asks() {
    scenario::run(Options::default(), async |daemon| {
        let one = daemon.client.run_pod(daemon.host_pod("one")).await;
        let two = daemon.client.run_pod(daemon.host_pod("two")).await;
        let mut labelled = container("a", BUSYBOX, &["sleep", "1000"]);
        labelled.labels = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let a = daemon.client.launch(&one, labelled).await;
        daemon.client.create(&one, container("b", BUSYBOX, &["true"])).await;
        daemon.client.run_to_end(&two, container("c", BUSYBOX, &["true"])).await;
        let filter = v1::ContainerFilter::default;
        let state = |state: ContainerState| Some(v1::ContainerStateValue { state: state.into() });
        for (filter, expected) in [
            (filter(), 3),
            (v1::ContainerFilter { id: a.clone(), ..filter() }, 1),
            (v1::ContainerFilter { id: a[..10].to_owned(), ..filter() }, 1),
            (v1::ContainerFilter { pod_sandbox_id: one.id.clone(), ..filter() }, 2),
            (v1::ContainerFilter { state: state(ContainerState::ContainerRunning), ..filter() }, 1),
            (v1::ContainerFilter { state: state(ContainerState::ContainerExited), ..filter() }, 1),
            (
                v1::ContainerFilter {
                    label_selector: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
                    ..filter()
                },
                1,
            ),
            (v1::ContainerFilter { id: a.clone(), pod_sandbox_id: two.id.clone(), ..filter() }, 0),
        ] {
            assert_eq!(
                daemon.client.list_containers(Some(filter.clone())).await.len(),
                expected,
                "{filter:?}"
            );
        }
    });
}

#[test]
fn terminals_and_standard_input_are_as_asked() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("tty")).await;
        let script = "test -t 0 && test -t 1 && test -t 2 && tty && stat -c %t /dev/console";
        let mut config = container("tty", BUSYBOX, &["sh", "-c", script]);
        (config.tty, config.stdin) = (true, true);
        let text = output(daemon, &pod, config).await.replace('\r', "");
        assert_eq!(
            text, "/dev/pts/0\n88",
            "a terminal of its own, which is the console too (136 is a pty's major)"
        );

        let mut config = container("closed", BUSYBOX, &["sh", "-c", "read line; echo \"end: $?\""]);
        config.stdin = false;
        assert_eq!(output(daemon, &pod, config).await, "end: 1", "no stdin: end of file at once");

        let mut config = container("open", BUSYBOX, &["sh", "-c", "read line"]);
        config.stdin = true;
        let id = daemon.client.launch(&pod, config).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(
            daemon.client.status(&id).await.state(),
            ContainerState::ContainerRunning,
            "stdin waits for a client"
        );
    });
}

#[test]
fn volumes_are_mounted_as_asked() {
    scenario::run(Options::default(), async |daemon| {
        let host = tempfile::tempdir().unwrap();
        std::fs::write(host.path().join("file"), "from host").unwrap();
        std::os::unix::fs::symlink(host.path(), host.path().join("link")).unwrap();
        let pod = daemon.client.run_pod(daemon.host_pod("volumes")).await;
        let mut config = container("volumes", BUSYBOX, &["sleep", "1000"]);
        let readonly = |mount: v1::Mount| v1::Mount { readonly: true, ..mount };
        config.mounts = vec![
            bind(host.path(), "/data"),
            readonly(bind(host.path(), "/read")),
            readonly(bind(&host.path().join("file"), "/one/file")),
            bind(&host.path().join("link"), "/through-link"),
            bind(&host.path().join("not/there/yet"), "/made"),
            // Over what the runtime mounts itself.
            bind(&host.path().join("file"), "/etc/hosts"),
        ];
        let id = daemon.client.launch(&pod, config).await;
        assert_eq!(
            daemon.client.sh(&id, "cat /data/file /read/file /one/file /through-link/file /etc/hosts").await,
            "from host".repeat(5)
        );
        daemon.client.sh(&id, "echo written > /data/new && echo x > /made/x").await;
        assert_eq!(std::fs::read_to_string(host.path().join("new")).unwrap(), "written\n");
        assert!(host.path().join("not/there/yet/x").exists(), "a missing host folder is made");
        for path in ["/read/new", "/one/file"] {
            let output = daemon.client.exec(&id, &["sh", "-c", &format!("echo x > {path}")]).await;
            assert!(output.stderr.contains("Read-only file system"), "{path}: {output:?}");
        }
        let mounts = daemon.client.status(&id).await.mounts;
        assert_eq!(mounts.len(), 6);
        assert!(mounts.iter().any(|mount| mount.container_path == "/read" && mount.readonly), "{mounts:?}");
    });
}

#[test]
fn mounts_propagate_as_asked() {
    scenario::run(Options::default(), async |daemon| {
        let host = tempfile::tempdir().unwrap();
        let path = host.path().to_string_lossy().into_owned();
        kernel::run("mount", &["--bind", &path, &path]);
        kernel::run("mount", &["--make-shared", &path]);
        for name in ["early", "late", "inside"] {
            std::fs::create_dir(host.path().join(name)).unwrap();
        }
        let pod = daemon
            .client
            .run_pod({
                let mut config = daemon.host_pod("propagation");
                carpel_e2e::config::pod_security(&mut config).privileged = true;
                config
            })
            .await;
        let mut ids = Vec::new();
        for (name, propagation) in [
            ("private", v1::MountPropagation::PropagationPrivate),
            ("slave", v1::MountPropagation::PropagationHostToContainer),
            ("shared", v1::MountPropagation::PropagationBidirectional),
        ] {
            let mut config = container(name, BUSYBOX, &["sleep", "1000"]);
            carpel_e2e::config::security(&mut config).privileged = true;
            config.mounts = vec![v1::Mount { propagation: propagation.into(), ..bind(host.path(), "/m") }];
            ids.push(daemon.client.launch(&pod, config).await);
        }
        kernel::run("mount", &["-t", "tmpfs", "carpel-e2e", &format!("{path}/late")]);
        std::fs::write(host.path().join("late/file"), "").unwrap();
        let sees = async |id: &str, file: &str| daemon.client.exec(id, &["test", "-e", file]).await.code == 0;
        let seen = [
            sees(&ids[0], "/m/late/file").await,
            sees(&ids[1], "/m/late/file").await,
            sees(&ids[2], "/m/late/file").await,
        ];
        for id in &ids {
            daemon.client.sh(id, "mount -t tmpfs inside /m/inside && touch /m/inside/file").await;
            let outside = host.path().join("inside/file").exists();
            if outside {
                daemon.client.sh(id, "umount /m/inside").await;
            }
            assert_eq!(outside, id == &ids[2], "only the bidirectional one shows on the host");
        }
        kernel::run("umount", &[&format!("{path}/late")]);
        daemon.client.remove_pod(&pod.id).await;
        kernel::run("umount", &[&path]);
        assert_eq!(seen, [false, true, true], "private, host to container, bidirectional");
    });
}

#[test]
fn propagation_needs_a_source_that_propagates() {
    scenario::run(Options::default(), async |daemon| {
        let disk = kernel::Tmpfs::mount("size=1m");
        kernel::run("mount", &["--make-private", &disk.path().to_string_lossy()]);
        let mut pod = daemon.host_pod("propagation");
        carpel_e2e::config::pod_security(&mut pod).privileged = true;
        let pod = daemon.client.run_pod(pod).await;
        for propagation in
            [v1::MountPropagation::PropagationHostToContainer, v1::MountPropagation::PropagationBidirectional]
        {
            let mut config = container("bad", BUSYBOX, &["true"]);
            carpel_e2e::config::security(&mut config).privileged = true;
            config.mounts = vec![v1::Mount { propagation: propagation.into(), ..bind(disk.path(), "/m") }];
            let status = refusal("a private source", daemon.client.try_create(&pod, config).await);
            assert!(status.message().contains(&*disk.path().to_string_lossy()), "{}", status.message());
        }
    });
}

#[test]
fn the_verbose_status_keeps_the_environment_to_itself() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("secrets")).await;
        let mut config = container("secrets", BUSYBOX, &["sleep", "1000"]);
        config.envs = vec![v1::KeyValue { key: "TOKEN".to_owned(), value: b"s3cr3t".to_vec() }];
        let id = daemon.client.create(&pod, config).await;
        let info = eventually("the runtime spec is written", async || {
            let request = v1::ContainerStatusRequest { container_id: id.clone(), verbose: true };
            let answer = daemon.client.runtime.clone().container_status(request).await.unwrap();
            let info = answer.into_inner().info["info"].clone();
            info.contains("ociVersion").then_some(info)
        })
        .await;
        assert!(!info.contains("s3cr3t"), "{info}");
    });
}

#[test]
fn malformed_containers_are_refused() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("malformed")).await;
        let mut cases: Vec<(&str, Code, v1::ContainerConfig)> = Vec::new();
        let mut case = |name, code, change: &dyn Fn(&mut v1::ContainerConfig)| {
            let mut config = container("malformed", BUSYBOX, &["true"]);
            change(&mut config);
            cases.push((name, code, config));
        };
        let bad = Code::InvalidArgument;
        case("no metadata", bad, &|config| config.metadata = None);
        case("no name", bad, &|config| config.metadata.as_mut().unwrap().name.clear());
        case("no image", bad, &|config| config.image = None);
        case("an absent image", Code::NotFound, &|config| {
            config.image = Some(carpel_e2e::client::image_spec("no.test/such:1"))
        });
        case("a log path that climbs", bad, &|config| config.log_path = "../../etc/cron.d/x".to_owned());
        case("an absolute log path", bad, &|config| config.log_path = "/etc/passwd".to_owned());
        case("a relative working folder", bad, &|config| config.working_dir = "tmp".to_owned());
        case("a mount on a relative path", bad, &|config| {
            config.mounts = vec![bind("/tmp".as_ref(), "data")]
        });
        case("a mount of a relative path", bad, &|config| {
            config.mounts = vec![bind("tmp".as_ref(), "/data")]
        });
        case("a mount over the root", bad, &|config| config.mounts = vec![bind("/tmp".as_ref(), "/")]);
        case("an environment name with =", bad, &|config| {
            config.envs = vec![v1::KeyValue { key: "A=B".to_owned(), value: Vec::new() }];
        });
        case("an environment value with a zero byte", bad, &|config| {
            config.envs = vec![v1::KeyValue { key: "A".to_owned(), value: b"a\0b".to_vec() }];
        });
        case("a command with a zero byte", bad, &|config| config.command = vec!["a\0b".to_owned()]);
        case("a device that is none", bad, &|config| {
            config.devices = vec![v1::Device {
                host_path: "/etc/passwd".to_owned(),
                container_path: "/dev/x".to_owned(),
                permissions: "rwm".to_owned(),
            }];
        });
        case("device permissions that are none", bad, &|config| {
            config.devices = vec![v1::Device {
                host_path: "/dev/null".to_owned(),
                container_path: "/dev/x".to_owned(),
                permissions: "rwx".to_owned(),
            }];
        });
        for (name, expected, config) in cases {
            let status = refusal(name, daemon.client.try_create(&pod, config).await);
            assert_eq!(status.code(), expected, "{name}: {}", status.message());
            assert!(daemon.client.list_containers(None).await.is_empty(), "{name} left a container");
        }
        let stranger = Pod { id: "no-such-pod".to_owned(), config: pod.config.clone() };
        let refused = daemon.client.try_create(&stranger, container("x", BUSYBOX, &["true"])).await;
        assert_eq!(code("a stranger's container", refused), Code::NotFound);
        daemon.client.create(&pod, container("taken", BUSYBOX, &["true"])).await;
        let mut again = container("taken", BUSYBOX, &["false"]);
        again.labels.insert("different".to_owned(), String::new());
        assert_eq!(code("a taken name", daemon.client.try_create(&pod, again).await), Code::AlreadyExists);
    });
}
