//! The phases of making a container, each a type that the next one consumes.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use carpel_image::{ChainId, Image};
use carpel_shim_api::message::{Create, Created};
use carpel_spec::{
    ContainerInput, NodeFacts, PlanError, PlannedContainer, RuntimeSpecFacts, SeccompInput, SeccompNeed,
    config::{ContainerConfig, MountSource, SandboxConfig, StdinMode},
    input::{PodFiles, RootfsInput, Selinux},
    seccomp,
};

use crate::{
    AppArmorError, ContainerId, CreateError, FileError, PodId, ScopeError, ShimError, User,
    host::{Found, HostError},
    layout::make_private_dir,
    node,
    owner::container::{Container, Facts, State, end},
    pods::Shared,
    profile::{self, Key},
    record::{self, ContainerRecord, NewContainerRecord},
    run::pod_facts,
    scope::Hold,
    selinux::{self, Level},
    shim::Shim,
};

/// A container that was asked for and may be made.
#[derive(Debug)]
pub(in crate::owner) struct Wanted {
    pub(in crate::owner) shared: Arc<Shared>,
    pub(in crate::owner) pod_id: PodId,
    pub(in crate::owner) sandbox: Arc<SandboxConfig>,
    pub(in crate::owner) shim: Arc<Shim>,
    pub(in crate::owner) id: ContainerId,
    pub(in crate::owner) config: Arc<ContainerConfig>,
    pub(in crate::owner) created_at_ns: i64,
    /// The pod's.
    pub(in crate::owner) selinux_level: Option<String>,
    /// The SELinux level that it asks for itself.
    pub(in crate::owner) own_level: Option<Level>,
}

/// Its image and what it asks for of the host were found. Nothing was changed.
struct LookedUp {
    wanted: Wanted,
    image: Arc<Image>,
    lowers: Vec<String>,
    image_mounts: BTreeMap<usize, Vec<String>>,
    /// An empty folder that some of them want for a second layer.
    empty: Option<PathBuf>,
    lease: carpel_image::LayerLease,
    found: Found,
    /// With the AppArmor profiles that are loaded now.
    node: NodeFacts,
}

/// Its folder, and in it the record that it is being made, are on disk.
struct Recorded {
    wanted: Wanted,
    image: Arc<Image>,
    lease: carpel_image::LayerLease,
    planned: PlannedContainer,
    log_path: Option<PathBuf>,
}

/// Why a blocking step failed.
enum StepError {
    Plan(PlanError),
    Profile(FileError),
    SelinuxLabel(String, io::Error),
    File(FileError),
    Record(crate::RecordError),
}

/// Makes a container, or leaves nothing of it.
pub(super) async fn make(wanted: Wanted) -> Result<Container, CreateError> {
    wanted.look_up().await?.record().await?.create().await
}

impl Wanted {
    async fn look_up(self) -> Result<LookedUp, CreateError> {
        let images = &self.shared.images;
        let text = &self.config.image;
        let image_error = |source| CreateError::Image { image: text.clone(), source };
        let image = images
            .find(text)
            .map_err(|err| image_error(Arc::new(err)))?
            .ok_or_else(|| CreateError::ImageNotFound(text.clone()))?;
        let rootfs = images.rootfs(&image.id).map_err(|err| image_error(Arc::new(err)))?;
        let (mut image_mounts, mut layers) = self.image_mounts()?;
        layers.extend(rootfs.layers.iter().cloned());
        // One lease for all layers; the image's own keeps them until then.
        let lease = images.hold(&layers);
        let found = self.shared.host.look(&self.config).await.map_err(|err| self.host_error(err))?;
        let lowers = rootfs.lowers.iter().map(|path| path.display().to_string()).collect();
        let apparmor = self.shared.apparmor.for_container(&self.config.security).await;
        let apparmor = apparmor.map_err(|err| self.apparmor_error(err))?;
        let node = NodeFacts { apparmor, ..self.shared.node.facts.clone() };
        let mut empty = None;
        if matches!(node.selinux, Selinux::Enabled(_)) {
            // A layer alone has the labels that it has on disk, an overlay those of the mount.
            for lowers in image_mounts.values_mut().filter(|lowers| lowers.len() == 1) {
                let empty = empty.get_or_insert_with(|| self.shared.layout.empty(&self.id));
                lowers.push(empty.display().to_string());
            }
        }
        Ok(LookedUp { image, lowers, image_mounts, empty, lease, found, node, wanted: self })
    }

    /// The layers of images that are mounted as volumes, by the mount's index.
    #[expect(clippy::type_complexity, reason = "both parts are named where they are used")]
    fn image_mounts(&self) -> Result<(BTreeMap<usize, Vec<String>>, Vec<ChainId>), CreateError> {
        let images = &self.shared.images;
        let (mut mounts, mut layers) = (BTreeMap::new(), Vec::new());
        for (index, mount) in self.config.mounts.iter().enumerate() {
            let MountSource::Image { image: text, .. } = &mount.source else { continue };
            let failed = |source| CreateError::ImageVolume { image: text.clone(), source };
            let image = images.find(text).map_err(|err| failed(Arc::new(err)))?;
            let absent = || failed(Arc::new(CreateError::ImageNotFound(text.clone())));
            let rootfs = images.rootfs(&image.ok_or_else(absent)?.id).map_err(|err| failed(Arc::new(err)))?;
            mounts.insert(index, rootfs.lowers.iter().map(|path| path.display().to_string()).collect());
            layers.extend(rootfs.layers.iter().cloned());
        }
        Ok((mounts, layers))
    }

    fn host_error(&self, err: HostError) -> CreateError {
        let name = self.config.name.clone();
        match err {
            HostError::File(err) => CreateError::Host { name, source: Arc::new(err) },
            HostError::Timeout { path, waited } => CreateError::HostTimeout { name, path, waited },
        }
    }

    fn apparmor_error(&self, err: AppArmorError) -> CreateError {
        CreateError::AppArmor { name: self.config.name.clone(), source: Arc::new(err) }
    }

    fn step_error(&self, err: StepError) -> CreateError {
        let (name, id) = (self.config.name.clone(), self.id.clone());
        match err {
            StepError::Plan(err) => CreateError::Plan { name, source: Arc::new(err) },
            StepError::Profile(err) => CreateError::Host { name, source: Arc::new(err) },
            StepError::SelinuxLabel(label, source) => {
                CreateError::SelinuxLabel { name, label, source: Arc::new(source) }
            }
            StepError::File(err) => CreateError::File { id, source: Arc::new(err) },
            StepError::Record(err) => CreateError::Record { id, source: Arc::new(err) },
        }
    }

    fn log_path(&self) -> Option<PathBuf> {
        let folder = self.sandbox.log_directory.as_ref()?;
        Some(folder.join(self.config.log_path.as_ref()?))
    }
}

impl LookedUp {
    /// Plans it, and writes down that it is being made, on a thread that may block.
    async fn record(self) -> Result<Recorded, CreateError> {
        let name = self.wanted.config.name.clone();
        let done = tokio::task::spawn_blocking(move || {
            let step = self.plan().map(|planned| (self.new_record(&planned), planned));
            let step = step.and_then(|(record, planned)| {
                let log_path = record.log_path.clone();
                write_files(&self.wanted, &record)?;
                if let Some(empty) = &self.empty {
                    make_private_dir(empty).map_err(StepError::File)?;
                }
                Ok((planned, log_path))
            });
            match step {
                Ok((planned, log_path)) => {
                    let LookedUp { wanted, image, lease, .. } = self;
                    Ok(Recorded { wanted, image, lease, planned, log_path })
                }
                Err(err) => {
                    discard(&self.wanted.shared, &self.wanted.id);
                    Err(self.wanted.step_error(err))
                }
            }
        });
        done.await.unwrap_or(Err(CreateError::BrokenOff(name)))
    }

    fn plan(&self) -> Result<PlannedContainer, StepError> {
        let Wanted { shared, sandbox, config, id, pod_id, selinux_level, .. } = &self.wanted;
        let layout = &shared.layout;
        let text = |path: PathBuf| path.display().to_string();
        let rootfs = RootfsInput {
            lowers: self.lowers.clone(),
            upper: text(layout.upper(id)),
            work: text(layout.work(id)),
            volatile: shared.config.overlay_volatile,
        };
        let files = PodFiles {
            resolv_conf: text(layout.resolv_conf(pod_id)),
            hostname: text(layout.hostname(pod_id)),
            hosts: None,
        };
        let host = node::hostname();
        let program = program(shared, config, &self.node)?;
        let image = image_config(&self.image);
        let input = ContainerInput {
            sandbox,
            config,
            image: &image,
            container_id: id.as_str(),
            selinux_level: selinux_level.as_deref(),
            hostname: carpel_spec::effective_hostname(sandbox, &host),
            rootfs: &rootfs,
            pod_files: &files,
            image_mounts: &self.image_mounts,
            devices: &self.found.devices,
            host_devices: &self.found.host_devices,
            seccomp: program.as_deref().map_or(SeccompInput::BuiltIn, SeccompInput::Compiled),
            node: &self.node,
        };
        let planned = carpel_spec::container_plan(&input).map_err(StepError::Plan)?;
        for label in [&planned.plan.process.selinux_label, &planned.plan.mount_label] {
            selinux::check(label).map_err(|source| StepError::SelinuxLabel(label.clone(), source))?;
        }
        Ok(planned)
    }

    fn new_record(&self, planned: &PlannedContainer) -> ContainerRecord {
        let wanted = &self.wanted;
        ContainerRecord::from(NewContainerRecord {
            id: wanted.id.clone(),
            pod_id: wanted.pod_id.clone(),
            created_at_ns: wanted.created_at_ns,
            config: (*wanted.config).clone(),
            image_id: self.image.id.to_string(),
            image_ref: image_ref(&self.image),
            layers: self.lease.layers().iter().map(ToString::to_string).collect(),
            stop_signal: planned.stop_signal,
            cgroup_path: planned.plan.cgroup.path.clone(),
            log_path: wanted.log_path(),
        })
    }
}

impl Recorded {
    async fn create(self) -> Result<Container, CreateError> {
        let Wanted { shared, shim, id, config, .. } = &self.wanted;
        let request = Create {
            container_id: id.to_string(),
            plan: self.planned.plan.clone(),
            log_path: self.log_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            log_line_max_bytes: shared.config.log_line_max_bytes,
            stdin: config.stdin != StdinMode::Closed,
            stdin_once: config.stdin == StdinMode::Once,
        };
        let hold = match self.scope().await {
            Ok(hold) => hold,
            Err(err) => {
                discard_apart(shared, id.clone()).await;
                return Err(CreateError::Scope { id: id.clone(), source: Arc::new(err) });
            }
        };
        match shim.create(request, hold.map(Hold::into_fd)).await {
            Ok(created) => {
                self.write_runtime_spec(&created);
                self.made(created).await
            }
            Err(err) => Err(self.fail(err).await),
        }
    }

    /// Its scope, where systemd makes the cgroups. It goes when nobody holds it.
    async fn scope(&self) -> Result<Option<Hold>, ScopeError> {
        let Wanted { shared, sandbox, config, .. } = &self.wanted;
        let Some(scopes) = &shared.scopes else { return Ok(None) };
        let pod = &sandbox.metadata;
        let description = format!("Carpel container {} of pod {}/{}", config.name, pod.namespace, pod.name);
        scopes.start(&shared.shim_program, &self.planned.plan.cgroup.path, &description).await.map(Some)
    }

    /// Writes down that it was made, before anybody is told.
    async fn made(self, created: Created) -> Result<Container, CreateError> {
        let (shared, shim) = (Arc::clone(&self.wanted.shared), Arc::clone(&self.wanted.shim));
        let container = self.into_container(created);
        let (id, name) = (container.id().clone(), container.facts.config.name.clone());
        let write = container.write(&shared.layout);
        let err = match tokio::task::spawn_blocking(move || write.make()).await {
            Ok(Ok(())) => return Ok(container),
            Ok(Err(source)) => CreateError::Record { id: id.clone(), source: Arc::new(source) },
            Err(_) => CreateError::BrokenOff(name),
        };
        undo(&shared, &shim, id).await;
        Err(err)
    }

    /// For people who inspect the container; nothing depends on it, so nothing waits for it.
    fn write_runtime_spec(&self, created: &Created) {
        let Wanted { shared, id, pod_id, sandbox, selinux_level, .. } = &self.wanted;
        let (plan, path) = (self.planned.plan.clone(), shared.layout.runtime_spec(id));
        let selinux = &shared.node.facts.selinux;
        let labels = carpel_spec::selinux::of_pod(sandbox, selinux, selinux_level.as_deref());
        let (sandbox, user) = (Arc::clone(sandbox), created.user.clone());
        let pod_facts = pod_facts(shared, pod_id, labels.unwrap_or_default());
        let netns = shared.catalog.find_pod(pod_id.as_str()).ok().and_then(|(pod, _)| pod.netns.clone());
        tokio::task::spawn_blocking(move || {
            // What could be planned when the pod was made can be planned again.
            let Ok(sandbox) = carpel_spec::sandbox_plan(&sandbox, &pod_facts) else { return };
            let netns = netns.map(|path| path.display().to_string());
            let facts = RuntimeSpecFacts { network_namespace: netns.as_deref(), user: user.as_ref() };
            let json = carpel_spec::runtime_spec_json(&plan, &sandbox, facts);
            let written = json.map_err(io::Error::from).and_then(|json| fs::write(&path, json.to_string()));
            match written {
                // The container was removed meanwhile.
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => tracing::warn!(path = %path.display(), %err, "writing a runtime spec failed"),
                Ok(()) => {}
            }
        });
    }

    /// Undoes what there is by now.
    async fn fail(self, err: ShimError) -> CreateError {
        let Wanted { shared, shim, id, .. } = self.wanted;
        // What was refused has left nothing in the shim; what was not answered may come to be yet.
        if matches!(err, ShimError::Timeout { .. }) {
            undo(&shared, &shim, id.clone()).await;
        } else {
            discard_apart(&shared, id.clone()).await;
        }
        CreateError::Shim { id, source: Arc::new(err) }
    }

    fn into_container(self, created: Created) -> Container {
        let user = created.user.unwrap_or_default();
        let Wanted { shared, pod_id, id, config, created_at_ns, own_level, .. } = self.wanted;
        let facts = Facts {
            writable_layer: shared.layout.upper(&id),
            id,
            pod_id,
            created_at_ns,
            image_id: self.image.id.to_string(),
            image_ref: image_ref(&self.image),
            lease: self.lease,
            stop_signal: self.planned.stop_signal,
            cgroup_path: self.planned.plan.cgroup.path,
            log_path: self.log_path,
            resources: config.resources.clone(),
            user: User { uid: user.uid, gid: user.gid, groups: user.groups },
            _selinux_level: own_level,
            config,
        };
        Container::new(facts, State::Created { pid: created.pid })
    }
}

/// The container's seccomp program, compiled once for all that need an equal one. `None`: unconfined.
fn program(
    shared: &Shared,
    config: &ContainerConfig,
    facts: &NodeFacts,
) -> Result<Option<Arc<seccomp::BpfProgram>>, StepError> {
    let need = carpel_spec::seccomp_need(&config.security, facts).map_err(StepError::Plan)?;
    let (capabilities, path) = match &need {
        SeccompNeed::Unconfined => return Ok(None),
        SeccompNeed::Default { capabilities } => (*capabilities, None),
        SeccompNeed::Localhost { path, capabilities } => (*capabilities, Some(path.clone())),
    };
    let content = path.as_deref().map(profile::read_localhost).transpose().map_err(StepError::Profile)?;
    let key = Key::new(need, content.unwrap_or_default());
    if let Some(program) = shared.programs.find(&key) {
        return Ok(Some(program));
    }
    let name = path.clone().unwrap_or_else(|| "runtime/default".to_owned());
    let profile = match path {
        None => seccomp::default_profile(),
        Some(path) => seccomp::Profile::parse(key.content())
            .map_err(|source| StepError::Plan(PlanError::SeccompProfile { path, source }))?,
    };
    let program = seccomp::compile(&profile, capabilities, facts.arch, facts.kernel)
        .map_err(|source| StepError::Plan(PlanError::SeccompCompile { path: name, source }))?;
    Ok(Some(shared.programs.keep(key, program)))
}

fn write_files(wanted: &Wanted, record: &ContainerRecord) -> Result<(), StepError> {
    let layout = &wanted.shared.layout;
    make_private_dir(&layout.container(&wanted.id)).map_err(StepError::File)?;
    record::write(&layout.container_record(&wanted.id), record).map_err(StepError::Record)?;
    // The kubelet makes it; crictl does not.
    match record.log_path.as_ref().and_then(|path| path.parent()) {
        Some(folder) => make_dir(folder).map_err(StepError::File),
        None => Ok(()),
    }
}

fn make_dir(path: &Path) -> Result<(), FileError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.map_err(|source| FileError { action: "create folder", path: path.to_owned(), source })
}

/// Makes the shim let go of a container, and throws its folder away.
async fn undo(shared: &Arc<Shared>, shim: &Shim, id: ContainerId) {
    match end::end(shim, &id).await {
        Ok(()) | Err(ShimError::Gone) => {}
        Err(err) => {
            let err = &err as &dyn std::error::Error;
            tracing::warn!(container_id = %id, err, "undoing a creation failed");
        }
    }
    discard_apart(shared, id).await;
}

/// Throws a container's folder away, if there is one.
pub(in crate::owner) async fn discard_apart(shared: &Arc<Shared>, id: ContainerId) {
    let shared = Arc::clone(shared);
    // The runtime ending is the only way for this to fail: the next daemon cleans up.
    let _ = tokio::task::spawn_blocking(move || discard(&shared, &id)).await;
}

/// Throws a container's folder away. Blocks shortly.
fn discard(shared: &Shared, id: &ContainerId) {
    let folder = shared.layout.container(id);
    match shared.trash.take(&folder) {
        Ok(()) => {}
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => tracing::warn!(path = %folder.display(), %err, "removing a container's folder failed"),
    }
}

fn image_ref(image: &Image) -> String {
    image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string())
}

/// The part of an image's configuration that means something to a container.
fn image_config(image: &Image) -> carpel_spec::ImageConfig {
    let from = &image.config;
    carpel_spec::ImageConfig {
        env: from.env.clone(),
        entrypoint: from.entrypoint.clone(),
        cmd: from.cmd.clone(),
        user: from.user.clone(),
        working_dir: from.working_dir.clone(),
        volumes: from.volumes.iter().cloned().collect(),
        stop_signal: from.stop_signal.clone(),
        labels: from.labels.clone(),
    }
}
