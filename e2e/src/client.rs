//! A CRI client that says what the tests say: run this pod, start this container, wait until it exits.
//!
//! The methods panic where the call must succeed. For calls that must fail there are the generated clients, in the
//! public fields, and [`code`].

use std::path::Path;
use std::time::{Duration, Instant};

use carpel_proto::v1;
use carpel_proto::v1::image_service_client::ImageServiceClient;
use carpel_proto::v1::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Response, Status};

/// How long anything may take that is expected to happen; far beyond what it takes on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the kubelet accepts in one message.
const MESSAGE_MAX_BYTES: usize = 16 << 20;

/// Both services of one socket.
#[derive(Debug, Clone)]
pub struct Client {
    /// The generated client of the runtime service.
    pub runtime: RuntimeServiceClient<Channel>,
    /// The generated client of the image service.
    pub images: ImageServiceClient<Channel>,
}

/// A pod that runs, and the config it was asked for with.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its id.
    pub id: String,
    /// Its config.
    pub config: v1::PodSandboxConfig,
}

/// What a command in a container did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// A lazily connected channel to a unix socket, with which any tonic client can be made.
pub fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    // The URI is never used: the connector knows the way.
    Endpoint::from_static("http://carpel.invalid").connect_with_connector_lazy(tower::service_fn(
        move |_: Uri| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        },
    ))
}

/// A channel that keeps no deadline of its own: `grpc-timeout` is the daemon's alone to keep.
pub fn patient_channel(socket: &Path) -> PatientChannel {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .http2_only(true)
        .build(tower::util::BoxCloneSyncService::new(connect))
}

/// See [`patient_channel`].
pub type PatientChannel = hyper_util::client::legacy::Client<
    tower::util::BoxCloneSyncService<Uri, TokioIo<UnixStream>, std::io::Error>,
    tonic::body::Body,
>;

/// The code of a call that must fail; panics when it did not, with what it was.
pub fn code<T: std::fmt::Debug>(what: &str, result: Result<Response<T>, Status>) -> Code {
    refusal(what, result).code()
}

/// The whole status of a call that must fail; a refusal without words is a failure too.
pub fn refusal<T: std::fmt::Debug>(what: &str, result: Result<Response<T>, Status>) -> Status {
    match result {
        Ok(response) => panic!("{what} must fail, but answered {:?}", response.into_inner()),
        Err(status) => {
            assert!(!status.message().is_empty(), "{what} failed without saying why: {status:?}");
            status
        }
    }
}

fn must<T>(what: &str, subject: &str, result: Result<Response<T>, Status>) -> T {
    match result {
        Ok(response) => response.into_inner(),
        Err(status) => panic!("{what} {subject}: {:?}: {}", status.code(), status.message()),
    }
}

/// Tries again until there is an answer; panics with `what` when there is none in [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = attempt().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "gave up waiting: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An image spec of nothing but a name.
pub fn image_spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: image.to_owned(), ..Default::default() }
}

impl Client {
    /// A client of a socket; it connects when it is first used, and again when the daemon was restarted.
    pub fn new(socket: &Path) -> Self {
        let channel = channel(socket);
        let runtime = RuntimeServiceClient::new(channel.clone());
        let images = ImageServiceClient::new(channel);
        Self {
            runtime: runtime.max_decoding_message_size(MESSAGE_MAX_BYTES),
            images: images.max_decoding_message_size(MESSAGE_MAX_BYTES),
        }
    }

    /// Pulls an image; returns the reference the kubelet gets.
    pub async fn pull(&self, image: &str) -> String {
        must("pull", image, self.try_pull(image, None).await).image_ref
    }

    /// Pulls an image with credentials, and hands over whatever comes of it.
    pub async fn try_pull(
        &self,
        image: &str,
        auth: Option<v1::AuthConfig>,
    ) -> Result<Response<v1::PullImageResponse>, Status> {
        let request = v1::PullImageRequest { image: Some(image_spec(image)), auth, sandbox_config: None };
        self.images.clone().pull_image(request).await
    }

    /// An image, if it is there.
    pub async fn image(&self, image: &str) -> Option<v1::Image> {
        let request = v1::ImageStatusRequest { image: Some(image_spec(image)), verbose: false };
        must("status of image", image, self.images.clone().image_status(request).await).image
    }

    /// All images.
    pub async fn list_images(&self) -> Vec<v1::Image> {
        must("list", "images", self.images.clone().list_images(v1::ListImagesRequest::default()).await).images
    }

    /// Removes an image.
    pub async fn remove_image(&self, image: &str) {
        let request = v1::RemoveImageRequest { image: Some(image_spec(image)) };
        must("remove image", image, self.images.clone().remove_image(request).await);
    }

    /// Runs a pod with no container in it.
    pub async fn run_pod(&self, config: v1::PodSandboxConfig) -> Pod {
        let name = config.metadata.clone().unwrap_or_default().name;
        let response = must("run pod", &name, self.try_run_pod(&config).await);
        Pod { id: response.pod_sandbox_id, config }
    }

    /// Asks for a pod and hands over whatever comes of it.
    pub async fn try_run_pod(
        &self,
        config: &v1::PodSandboxConfig,
    ) -> Result<Response<v1::RunPodSandboxResponse>, Status> {
        let request =
            v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        self.runtime.clone().run_pod_sandbox(request).await
    }

    /// Stops a pod.
    pub async fn stop_pod(&self, id: &str) {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        must("stop pod", id, self.runtime.clone().stop_pod_sandbox(request).await);
    }

    /// Removes a pod.
    pub async fn remove_pod(&self, id: &str) {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        must("remove pod", id, self.runtime.clone().remove_pod_sandbox(request).await);
    }

    /// The status of a pod.
    pub async fn pod_status(&self, id: &str) -> v1::PodSandboxStatus {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let response = must("status of pod", id, self.runtime.clone().pod_sandbox_status(request).await);
        response.status.expect("a pod's status holds a status")
    }

    /// The pods that a filter lets through.
    pub async fn list_pods(&self, filter: Option<v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
        let request = v1::ListPodSandboxRequest { filter };
        must("list", "pods", self.runtime.clone().list_pod_sandbox(request).await).items
    }

    /// The containers that a filter lets through.
    pub async fn list_containers(&self, filter: Option<v1::ContainerFilter>) -> Vec<v1::Container> {
        let request = v1::ListContainersRequest { filter };
        must("list", "containers", self.runtime.clone().list_containers(request).await).containers
    }

    /// Creates a container; returns its id.
    pub async fn create(&self, pod: &Pod, config: v1::ContainerConfig) -> String {
        let name = config.metadata.clone().unwrap_or_default().name;
        must("create container", &name, self.try_create(pod, config).await).container_id
    }

    /// Asks for a container and hands over whatever comes of it.
    pub async fn try_create(
        &self,
        pod: &Pod,
        config: v1::ContainerConfig,
    ) -> Result<Response<v1::CreateContainerResponse>, Status> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        self.runtime.clone().create_container(request).await
    }

    /// Starts a container.
    pub async fn start(&self, id: &str) {
        must("start container", id, self.try_start(id).await);
    }

    /// Starts a container and hands over whatever comes of it.
    pub async fn try_start(&self, id: &str) -> Result<Response<v1::StartContainerResponse>, Status> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().start_container(request).await
    }

    /// Creates and starts a container; returns its id.
    pub async fn launch(&self, pod: &Pod, config: v1::ContainerConfig) -> String {
        let id = self.create(pod, config).await;
        self.start(&id).await;
        id
    }

    /// Creates and starts a container and waits until it has exited.
    pub async fn run_to_end(&self, pod: &Pod, config: v1::ContainerConfig) -> v1::ContainerStatus {
        let id = self.launch(pod, config).await;
        self.wait_exit(&id).await
    }

    /// Stops a container.
    pub async fn stop(&self, id: &str, grace_seconds: i64) {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: grace_seconds };
        must("stop container", id, self.runtime.clone().stop_container(request).await);
    }

    /// Removes a container.
    pub async fn remove(&self, id: &str) {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        must("remove container", id, self.runtime.clone().remove_container(request).await);
    }

    /// The status of a container.
    pub async fn status(&self, id: &str) -> v1::ContainerStatus {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let response = must("status of container", id, self.runtime.clone().container_status(request).await);
        response.status.expect("a container's status holds a status")
    }

    /// Waits until a container has exited.
    pub async fn wait_exit(&self, id: &str) -> v1::ContainerStatus {
        eventually(&format!("container {id} exits"), async || {
            let status = self.status(id).await;
            (status.state() == v1::ContainerState::ContainerExited).then_some(status)
        })
        .await
    }

    /// Runs a command in a container, without a time limit of the runtime's.
    pub async fn exec(&self, id: &str, command: &[&str]) -> ExecOutput {
        let response = must("exec in", id, self.try_exec(id, command, 0).await);
        ExecOutput {
            code: response.exit_code,
            stdout: String::from_utf8_lossy(&response.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&response.stderr).into_owned(),
        }
    }

    /// Runs a shell script in a container and returns its output; the script must succeed.
    pub async fn sh(&self, id: &str, script: &str) -> String {
        let output = self.exec(id, &["/bin/sh", "-c", script]).await;
        assert_eq!(output.code, 0, "`{script}` failed: {}{}", output.stdout, output.stderr);
        output.stdout.trim_end().to_owned()
    }

    /// Runs a command in a container and hands over whatever comes of it.
    pub async fn try_exec(
        &self,
        id: &str,
        command: &[&str],
        timeout_seconds: i64,
    ) -> Result<Response<v1::ExecSyncResponse>, Status> {
        let request = v1::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(ToString::to_string).collect(),
            timeout: timeout_seconds,
        };
        self.runtime.clone().exec_sync(request).await
    }

    /// Stops and removes every pod, as the kubelet does with what it does not know; nothing may be left listed.
    pub async fn remove_everything(&self) {
        for pod in self.list_pods(None).await {
            self.stop_pod(&pod.id).await;
            self.remove_pod(&pod.id).await;
        }
        let containers = self.list_containers(None).await;
        assert!(containers.is_empty(), "containers outlived their pods: {containers:?}");
        let pods = self.list_pods(None).await;
        assert!(pods.is_empty(), "pods outlived their removal: {pods:?}");
    }
}
