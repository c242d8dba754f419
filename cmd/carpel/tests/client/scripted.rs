//! A runtime without containers: it keeps what it is told and answers what a test wrote into its [`World`].

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use carpel_proto::{
    operator::{
        self,
        operator_server::{Operator, OperatorServer},
    },
    v1::{
        self, Container, ContainerConfig, ContainerMetadata, ContainerState, ContainerStatus, Image,
        ImageSpec, PodSandbox, PodSandboxConfig, PodSandboxMetadata, PodSandboxNetworkStatus,
        PodSandboxStatus,
        image_service_server::{ImageService, ImageServiceServer},
        runtime_service_server::{RuntimeService, RuntimeServiceServer},
    },
};
use tempfile::TempDir;
use tokio::{net::UnixListener, runtime::Runtime};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// 2023-11-14T22:13:20Z.
const CREATED_NS: i64 = 1_700_000_000_000_000_000;

/// What the runtime knows, and how it behaves.
#[derive(Default)]
pub struct World {
    pub pods: Vec<PodSandbox>,
    pub containers: Vec<Container>,
    pub images: Vec<Image>,
    /// Of every container that has ended, and of every exec.
    pub exit_code: i32,
    /// Of every container, unless it was created here.
    pub log_path: String,
    /// What a container that is started writes to its log.
    pub output: String,
    /// Containers that are started run until they are stopped.
    pub runs_on: bool,
    pub start_fails: bool,
    pub pulled: Vec<String>,
    pub password: String,
    pub pod_configs: Vec<PodSandboxConfig>,
    pub container_configs: Vec<ContainerConfig>,
    /// Where execs are streamed.
    pub streaming_url: String,
    /// What the streaming server's certificate is said to be, by one answer after the other and the last one for ever.
    /// Empty: it is a runtime that says nothing about itself.
    pub certificates: VecDeque<Vec<u8>>,
}

impl World {
    /// Exit code of a container that was stopped: 128 + SIGTERM.
    pub const STOPPED_CODE: i32 = 143;

    pub fn add_pod(&mut self, id: &str, name: &str) {
        let metadata = PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{id}"),
            namespace: "default".into(),
            attempt: 0,
        };
        self.pods.push(PodSandbox {
            id: id.into(),
            metadata: Some(metadata),
            created_at: CREATED_NS,
            ..Default::default()
        });
    }

    pub fn add_container(&mut self, id: &str, pod: &str, name: &str, state: ContainerState) {
        self.containers.push(Container {
            id: id.into(),
            pod_sandbox_id: pod.into(),
            metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(ImageSpec { image: "registry.test/app:1".into(), ..Default::default() }),
            image_ref: "sha256:app".into(),
            image_id: "sha256:app".into(),
            state: state.into(),
            created_at: CREATED_NS,
            ..Default::default()
        });
    }

    pub fn end(&mut self, id: &str) {
        for container in self.containers.iter_mut().filter(|container| container.id == id) {
            container.set_state(ContainerState::ContainerExited);
        }
    }

    fn log_path(&self) -> String {
        let pod = self.pod_configs.last().map(|pod| &pod.log_directory);
        match (pod, self.container_configs.last()) {
            (Some(directory), Some(container)) => format!("{directory}/{}", container.log_path),
            _ => self.log_path.clone(),
        }
    }

    fn status(&self, id: &str) -> Result<ContainerStatus, Status> {
        let container = self.containers.iter().find(|container| container.id == id);
        let container = container.ok_or_else(|| Status::not_found(format!("container {id} not found")))?;
        let ended = container.state() == ContainerState::ContainerExited;
        Ok(ContainerStatus {
            id: id.into(),
            metadata: container.metadata.clone(),
            state: container.state,
            created_at: CREATED_NS,
            started_at: CREATED_NS,
            finished_at: if ended { CREATED_NS } else { 0 },
            exit_code: self.exit_code,
            reason: if ended { "Error".into() } else { String::new() },
            log_path: self.log_path(),
            ..Default::default()
        })
    }
}

/// A runtime that serves a [`World`] on a socket in a folder of its own.
pub struct Scripted {
    dir: TempDir,
    world: Arc<Mutex<World>>,
    _runtime: Runtime,
}

impl Scripted {
    /// With one image and nothing else.
    pub fn serve() -> Self {
        let image = Image {
            id: "sha256:app".into(),
            repo_tags: vec!["registry.test/app:1".into()],
            size: 1 << 20,
            ..Default::default()
        };
        let world = Arc::new(Mutex::new(World { images: vec![image], ..Default::default() }));
        let dir = tempfile::tempdir().expect("temporary folder");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("async runtime");
        let socket = dir.path().join("cri.sock");
        let listener = runtime.block_on(async { UnixListener::bind(socket) }).expect("bind");
        let service = Service(world.clone());
        runtime.spawn(
            Server::builder()
                .add_service(RuntimeServiceServer::new(service.clone()))
                .add_service(OperatorServer::new(service.clone()))
                .add_service(ImageServiceServer::new(service))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        Self { dir, world, _runtime: runtime }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("cri.sock")
    }

    pub fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn look(&self, look: impl FnOnce(&World)) {
        look(&self.world.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[derive(Clone)]
struct Service(Arc<Mutex<World>>);

impl Service {
    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        Ok(Response::new(v1::VersionResponse { runtime_name: "scripted".into(), ..Default::default() }))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn list_pod_sandbox(
        &self,
        _: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        Ok(Response::new(v1::ListPodSandboxResponse { items: self.world().pods.clone() }))
    }

    async fn list_containers(
        &self,
        _: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        Ok(Response::new(v1::ListContainersResponse { containers: self.world().containers.clone() }))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let network = PodSandboxNetworkStatus { ip: "10.88.0.7".into(), ..Default::default() };
        let id = request.into_inner().pod_sandbox_id;
        let status = PodSandboxStatus { id, network: Some(network), ..Default::default() };
        Ok(Response::new(v1::PodSandboxStatusResponse { status: Some(status), ..Default::default() }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let status = Some(self.world().status(&request.into_inner().container_id)?);
        let info = [("info".to_owned(), "{\"pid\": 7}".to_owned())].into();
        Ok(Response::new(v1::ContainerStatusResponse { status, info }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let config = request.into_inner().config.ok_or_else(|| Status::invalid_argument("no config"))?;
        let mut world = self.world();
        world.pods.push(PodSandbox {
            id: "pod1".into(),
            metadata: config.metadata.clone(),
            created_at: CREATED_NS,
            labels: config.labels.clone(),
            ..Default::default()
        });
        world.pod_configs.push(config);
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id: "pod1".into() }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Status::invalid_argument("no config"))?;
        let name = config.metadata.clone().unwrap_or_default().name;
        let mut world = self.world();
        world.container_configs.push(config);
        world.add_container("ctr1", &request.pod_sandbox_id, &name, ContainerState::ContainerCreated);
        Ok(Response::new(v1::CreateContainerResponse { container_id: "ctr1".into() }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        let mut world = self.world();
        if world.start_fails {
            return Err(Status::not_found("no such file"));
        }
        fs::write(world.log_path(), &world.output)?;
        let runs_on = world.runs_on;
        let id = request.into_inner().container_id;
        for container in world.containers.iter_mut().filter(|container| container.id == id) {
            let after =
                if runs_on { ContainerState::ContainerRunning } else { ContainerState::ContainerExited };
            container.set_state(after);
        }
        Ok(Response::new(Default::default()))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        let mut world = self.world();
        world.exit_code = World::STOPPED_CODE;
        world.end(&request.into_inner().container_id);
        Ok(Response::new(Default::default()))
    }

    async fn stop_pod_sandbox(
        &self,
        _: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let mut world = self.world();
        world.pods.retain(|pod| pod.id != id);
        world.containers.retain(|container| container.pod_sandbox_id != id);
        Ok(Response::new(Default::default()))
    }

    async fn exec(&self, _: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        Ok(Response::new(v1::ExecResponse { url: self.world().streaming_url.clone() }))
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        let request = request.into_inner();
        if request.timeout > 0 {
            return Err(Status::deadline_exceeded("the command took too long"));
        }
        Ok(Response::new(v1::ExecSyncResponse {
            stdout: format!("{}\n", request.cmd.join(" ")).into(),
            stderr: "to stderr\n".into(),
            exit_code: self.world().exit_code,
        }))
    }
}

#[tonic::async_trait]
impl Operator for Service {
    async fn info(&self, _: Request<operator::InfoRequest>) -> Answer<operator::InfoResponse> {
        let mut world = self.world();
        let certificates = &mut world.certificates;
        let told =
            if certificates.len() > 1 { certificates.pop_front() } else { certificates.front().cloned() };
        let streaming_certificate = told.ok_or_else(|| Status::unimplemented("not a call of CRI"))?;
        Ok(Response::new(operator::InfoResponse { streaming_certificate, ..Default::default() }))
    }
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(&self, _: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        Ok(Response::new(v1::ListImagesResponse { images: self.world().images.clone() }))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Answer<v1::ImageStatusResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let world = self.world();
        let image = world.images.iter().find(|image| image.id == name || image.repo_tags.contains(&name));
        Ok(Response::new(v1::ImageStatusResponse { image: image.cloned(), ..Default::default() }))
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Answer<v1::PullImageResponse> {
        let request = request.into_inner();
        let mut world = self.world();
        world.pulled.push(request.image.unwrap_or_default().image);
        world.password = request.auth.unwrap_or_default().password;
        Ok(Response::new(v1::PullImageResponse { image_ref: "sha256:new".into() }))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Answer<v1::RemoveImageResponse> {
        let id = request.into_inner().image.unwrap_or_default().image;
        self.world().images.retain(|image| image.id != id);
        Ok(Response::new(Default::default()))
    }

    async fn image_fs_info(&self, _: Request<v1::ImageFsInfoRequest>) -> Answer<v1::ImageFsInfoResponse> {
        Ok(Response::new(Default::default()))
    }
}
