//! A client of the API of Kubernetes 1.32, from a crate that is not ours, runs a pod: what is new since is optional.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::collections::HashMap;

use carpel_e2e::client::{channel, eventually};
use carpel_e2e::daemon::Options;
use carpel_e2e::scenario::{self, BUSYBOX};
use k8s_cri::v1;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;

#[test]
fn an_older_client_runs_a_pod() {
    scenario::run_without_image(Options::default(), async |daemon| {
        daemon.mirror("images.test", &scenario::images().url());
        let channel = channel(&daemon.socket());
        let mut images = ImageServiceClient::new(channel.clone());
        let mut runtime = RuntimeServiceClient::new(channel);
        let version = runtime.version(v1::VersionRequest::default()).await.unwrap().into_inner();
        assert_eq!(version.runtime_api_version, "v1");
        let image = v1::ImageSpec { image: BUSYBOX.to_owned(), ..Default::default() };
        let pull = v1::PullImageRequest { image: Some(image.clone()), ..Default::default() };
        let pulled = images.pull_image(pull).await.unwrap().into_inner().image_ref;
        let listed = images.list_images(v1::ListImagesRequest::default()).await.unwrap().into_inner().images;
        assert_eq!(listed[0].id, pulled);

        let logs = daemon.folder().join("logs/old");
        std::fs::create_dir_all(&logs).unwrap();
        let config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "old".to_owned(),
                uid: "old-uid".to_owned(),
                namespace: "e2e".to_owned(),
                attempt: 0,
            }),
            hostname: "old".to_owned(),
            log_directory: logs.to_string_lossy().into_owned(),
            labels: HashMap::from([("age".to_owned(), "old".to_owned())]),
            linux: Some(v1::LinuxPodSandboxConfig::default()),
            ..Default::default()
        };
        let run = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let pod = runtime.run_pod_sandbox(run).await.unwrap().into_inner().pod_sandbox_id;
        let create = v1::CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(v1::ContainerConfig {
                metadata: Some(v1::ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
                image: Some(image),
                command: vec!["sh".to_owned(), "-c".to_owned(), "echo $KEY; exit 6".to_owned()],
                // Text in 1.32, bytes today: the same on the wire.
                envs: vec![v1::KeyValue { key: "KEY".to_owned(), value: "wert".to_owned() }],
                log_path: "main.log".to_owned(),
                ..Default::default()
            }),
            sandbox_config: Some(config),
        };
        let id = runtime.create_container(create).await.unwrap().into_inner().container_id;
        runtime.start_container(v1::StartContainerRequest { container_id: id.clone() }).await.unwrap();
        let status = eventually("it exits", async || {
            let request = v1::ContainerStatusRequest { container_id: id.clone(), verbose: true };
            let status = runtime.container_status(request).await.unwrap().into_inner().status.unwrap();
            (status.state() == v1::ContainerState::ContainerExited).then_some(status)
        })
        .await;
        assert_eq!((status.exit_code, status.reason.as_str()), (6, "Error"));
        let lines = carpel_e2e::log::read(&logs.join("main.log"));
        assert_eq!(carpel_e2e::log::text(&lines, "stdout"), "wert\n");

        runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await.unwrap();
        runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: pod }).await.unwrap();
        let left =
            runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
        assert!(left.is_empty());
    });
}
