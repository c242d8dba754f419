//! Calls that make no sense by themselves, whatever the state: to every RPC its code, and a daemon that serves on.
//!
//! Malformed pods, containers and images are with their topics: `sandbox`, `containers`, `resources`, `security`, `bad_images`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use carpel_e2e::client::{code, patient_channel, refusal};
use carpel_e2e::config::container;
use carpel_e2e::daemon::Options;
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_proto::v1;
use carpel_proto::v1::runtime_service_client::RuntimeServiceClient;
use tonic::Code;

#[test]
fn strangers_are_not_found_or_gone() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let mut runtime = daemon.client.runtime.clone();
        let too_long = "a".repeat(100_000);
        for id in ["", "no-such", "../../etc/passwd", "a\0b", too_long.as_str()] {
            let id = id.to_owned();
            let gone = |code: Code| {
                assert!([Code::NotFound, Code::InvalidArgument].contains(&code), "{id:.20}: {code:?}")
            };
            gone(code(
                "start",
                runtime.start_container(v1::StartContainerRequest { container_id: id.clone() }).await,
            ));
            gone(code(
                "status",
                runtime
                    .container_status(v1::ContainerStatusRequest {
                        container_id: id.clone(),
                        ..Default::default()
                    })
                    .await,
            ));
            gone(code(
                "pod status",
                runtime
                    .pod_sandbox_status(v1::PodSandboxStatusRequest {
                        pod_sandbox_id: id.clone(),
                        ..Default::default()
                    })
                    .await,
            ));
            gone(code(
                "exec",
                runtime
                    .exec_sync(v1::ExecSyncRequest {
                        container_id: id.clone(),
                        cmd: vec!["true".to_owned()],
                        timeout: 1,
                    })
                    .await,
            ));
            gone(code(
                "update",
                runtime
                    .update_container_resources(v1::UpdateContainerResourcesRequest {
                        container_id: id.clone(),
                        ..Default::default()
                    })
                    .await,
            ));
            gone(code(
                "reopen",
                runtime
                    .reopen_container_log(v1::ReopenContainerLogRequest { container_id: id.clone() })
                    .await,
            ));
            gone(code(
                "stats",
                runtime.container_stats(v1::ContainerStatsRequest { container_id: id.clone() }).await,
            ));
            gone(code(
                "pod stats",
                runtime.pod_sandbox_stats(v1::PodSandboxStatsRequest { pod_sandbox_id: id.clone() }).await,
            ));
        }
    });
}

#[test]
fn every_rpc_exists() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let mut runtime = daemon.client.runtime.clone();
        // What is not built yet says Unimplemented, and nothing else does.
        let known = |code: Option<Code>| assert_ne!(code, Some(Code::Unimplemented));
        known(runtime.status(v1::StatusRequest::default()).await.err().map(|status| status.code()));
        known(runtime.runtime_config(v1::RuntimeConfigRequest {}).await.err().map(|status| status.code()));
        known(
            runtime
                .list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest::default())
                .await
                .err()
                .map(|status| status.code()),
        );
        let network = v1::NetworkConfig { pod_cidr: "10.0.0.0/24".to_owned() };
        let update = v1::UpdateRuntimeConfigRequest {
            runtime_config: Some(v1::RuntimeConfig { network_config: Some(network) }),
        };
        known(runtime.update_runtime_config(update).await.err().map(|status| status.code()));
        let checkpoint = v1::CheckpointContainerRequest::default();
        let refused = code("a checkpoint", runtime.checkpoint_container(checkpoint).await);
        assert!(
            [Code::Unimplemented, Code::InvalidArgument, Code::NotFound].contains(&refused),
            "{refused:?}"
        );
    });
}

#[test]
fn streams_give_what_lists_give() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("streams")).await;
        daemon.client.create(&pod, container("one", BUSYBOX, &["true"])).await;
        let mut runtime = daemon.client.runtime.clone();
        let mut pods = runtime
            .stream_pod_sandboxes(v1::StreamPodSandboxesRequest::default())
            .await
            .unwrap()
            .into_inner();
        let mut found = Vec::new();
        while let Some(part) = pods.message().await.unwrap() {
            found.extend(part.pod_sandboxes);
        }
        assert_eq!(found, daemon.client.list_pods(None).await);
        let mut containers =
            runtime.stream_containers(v1::StreamContainersRequest::default()).await.unwrap().into_inner();
        let mut found = Vec::new();
        while let Some(part) = containers.message().await.unwrap() {
            found.extend(part.containers);
        }
        assert_eq!(found, daemon.client.list_containers(None).await);
    });
}

#[test]
fn a_message_beyond_the_limit_is_refused() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let mut config = daemon.host_pod("huge");
        config.annotations = BTreeMap::from([("huge".to_owned(), "x".repeat(20 << 20))]);
        let refused = code("20 MiB", daemon.client.try_run_pod(&config).await);
        assert!(
            [Code::OutOfRange, Code::ResourceExhausted, Code::InvalidArgument].contains(&refused),
            "{refused:?}"
        );
        assert!(daemon.client.list_pods(None).await.is_empty());
    });
}

#[test]
fn noise_on_the_socket_harms_nobody() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let mut open = Vec::new();
        for noise in [
            &b""[..],
            b"GET / HTTP/1.1\r\n\r\n",
            &[0xff; 70_000],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff",
        ] {
            let mut stream = UnixStream::connect(daemon.socket()).unwrap();
            stream.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
            // Whether it is cut off while we write or answers by an error is the server's choice.
            if stream.write_all(noise).is_ok() {
                let _answer = stream.read(&mut [0; 100]);
            }
            open.push(stream);
        }
        for _ in 0..200 {
            open.push(UnixStream::connect(daemon.socket()).unwrap());
        }
        assert!(daemon.client.list_images().await.is_empty(), "it serves, with all of them still open");
    });
}

#[test]
fn the_socket_and_the_folders_are_roots_alone() {
    scenario::run_without_image(Options::default(), async |daemon| {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        for path in [daemon.socket(), daemon.root().to_owned(), daemon.state()] {
            let meta = path.metadata().unwrap();
            let mode = meta.permissions().mode() & 0o777;
            assert_eq!((meta.uid(), mode & 0o077), (0, 0), "{}: {mode:o}", path.display());
        }
    });
}

#[test]
fn a_config_that_is_wrong_is_refused_with_a_hint() {
    let carpeld = carpel_e2e::daemon::program("carpeld");
    let folder = tempfile::tempdir().unwrap();
    for (text, words) in [
        ("[image]\ncert_d = []\n", &["cert_d", "certs_d"][..]),
        ("[network]\nbuiltin = { bridge = \"x\" }\ncni = { conf_dir = \"/x\" }\n", &["builtin", "cni"]),
        ("[network.builtin]\nsubnets = [\"10.0.0.0/99\"]\n", &["10.0.0.0/99"]),
        ("root = 5\n", &["root"]),
        ("not toml", &["config.toml"]),
    ] {
        let config = folder.path().join("config.toml");
        std::fs::write(&config, text).unwrap();
        let path = config.to_string_lossy();
        // Were it taken, the daemon must not touch the machine's own folders.
        let own = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let (root, state, listen) = (own("root"), own("state"), own("socket"));
        let places = ["--root", &root, "--state", &state, "--listen", &listen];
        for arguments in [&["--config", &path][..], &["config", "check", "--config", &path]] {
            let output = std::process::Command::new(&carpeld).args(arguments).args(places).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{text:?} was taken");
            for word in words {
                assert!(errors.contains(word), "{arguments:?} with {text:?}: `{word}` is not in: {errors}");
            }
        }
    }
}

#[test]
fn a_deadline_that_passes_is_called_so() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("late")).await;
        let id = daemon.client.launch(&pod, container("idle", BUSYBOX, &["sleep", "10000"])).await;
        let origin = "http://carpel.invalid".parse().unwrap();
        let mut client = RuntimeServiceClient::with_origin(patient_channel(&daemon.socket()), origin);
        let cmd = ["sleep", "1000"].map(str::to_owned).to_vec();
        let mut request = tonic::Request::new(v1::ExecSyncRequest { container_id: id, cmd, timeout: 0 });
        request.set_timeout(Duration::from_millis(100));
        let status = refusal("a call beyond its deadline", client.exec_sync(request).await);
        assert_eq!(status.code(), Code::DeadlineExceeded, "{}", status.message());
    });
}
