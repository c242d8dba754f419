//! RunPodSandbox, from the wish to Ready.
//!
//! ```text
//!   Reserved ── record ──▶ Recorded ── equip ──▶ Equipped ── set_up ──▶ Ready: the owner starts
//!     │ plans (pure)         │ record = intent,    │ network ∥ shim       │ one round trip
//!     ▼                      │ folder, socket      ▼                      ▼
//!   name free              undo: shim killed → network detached → files gone → name free
//! ```
//!
//! The operation is a task of its own: it goes on when its caller does not, and callers of the same
//! name join it. If the network cannot be given back, the pod is listed as NotReady, so that a stop
//! of it can be tried until it works.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            fs::{OpenOptionsExt, fchown},
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    sync::Arc,
};

use carpel_network::{AttachRequest, Attachment};
use carpel_shim_api::plan::SandboxPlan;
use carpel_spec::{
    PlanError, PodFacts,
    config::{IdMappings, PodOrNode, Protocol, SandboxConfig, UserMode},
    input::UnprivilegedNetwork,
    resolv_conf,
    selinux::{self, Labels},
};
use carpel_sys::userns::Namespaces;
use futures::FutureExt;
use tokio::sync::mpsc;
use tracing::{Instrument, info_span};

use crate::{
    FileError, PodId, PodState, Pods, RunError,
    layout::make_private_dir,
    names::{self, Outcome},
    node,
    owner::{FirstWord, Link, Owner, Seed},
    pods::Shared,
    record::{self, PodPhase, PodRecord},
    selinux::{self as policy, Level},
    shim::{
        Shim, ShimError,
        program::{ShimProcess, StartShimError},
    },
    user_namespace,
};

/// The size of a pod's `/dev/shm`: what Kubernetes users expect.
const SHM_BYTES: u64 = 64 << 20;

impl Pods {
    /// Makes a pod: network, shim, namespaces. The same name and attempt joins an operation that is
    /// under way, or gives the id of the pod that is there. Goes on when the caller does not.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run(&self, config: SandboxConfig) -> Result<PodId, RunError> {
        if !config.runtime_handler.is_empty() {
            return Err(RunError::UnknownHandler(config.runtime_handler));
        }
        let metadata = config.metadata.clone();
        let outcome = self
            .shared
            .names
            .join_or_start(config, |id, config| start(Arc::clone(&self.shared), id, config))?;
        let id = outcome.await?;
        match self.find_pod(id.as_str()) {
            Ok(pod) if pod.state == PodState::NotReady => Err(names::taken(&metadata, id)),
            // A pod that was removed in the same moment was made all the same.
            Ok(_) | Err(_) => Ok(id),
        }
    }
}

fn start(shared: Arc<Shared>, id: PodId, config: Arc<SandboxConfig>) -> Outcome {
    let broken_off = RunError::BrokenOff(id.clone());
    let work = async move {
        let mut name = NameGuard { shared: &shared, id: &id, config: &config, free: true };
        let result = run(Arc::clone(&shared), id.clone(), Arc::clone(&config)).await;
        // What is listed keeps its name until it is removed.
        name.free = shared.catalog.find_pod(id.as_str()).is_err();
        drop(name);
        result
    };
    // A retry joins this one, and finds its steps in the trace of who came first.
    let task = tokio::spawn(work.in_current_span());
    async move { task.await.unwrap_or(Err(broken_off)) }.boxed().shared()
}

/// Frees the name also if the operation panics.
struct NameGuard<'a> {
    shared: &'a Shared,
    id: &'a PodId,
    config: &'a SandboxConfig,
    free: bool,
}

impl Drop for NameGuard<'_> {
    fn drop(&mut self) {
        if self.free {
            self.shared.names.release(&self.config.metadata, self.id);
        }
    }
}

/// What is known about a pod when its sandbox is planned.
pub(crate) fn pod_facts(shared: &Shared, id: &PodId, selinux: Labels) -> PodFacts {
    PodFacts {
        pod_id: id.to_string(),
        pod_dir: shared.layout.pod_dir(id).display().to_string(),
        shm_size_bytes: SHM_BYTES,
        shim_cgroup: shared.config.shim_cgroup.clone(),
        shim_oom_score_adj: shared.node.shim_oom_score_adj,
        unprivileged: UnprivilegedNetwork::PortsAndPing,
        selinux,
    }
}

async fn run(shared: Arc<Shared>, id: PodId, config: Arc<SandboxConfig>) -> Result<PodId, RunError> {
    let reserved = Reserved::plan(shared, id, config)?;
    let recorded = reserved.record().instrument(info_span!("record")).await?;
    let equipped = recorded.equip().instrument(info_span!("equip")).await?;
    equipped.set_up().instrument(info_span!("set_up")).await
}

/// The SELinux level that a pod asks for, or one of its own.
fn choose_level(shared: &Shared, id: &PodId, config: &SandboxConfig) -> Result<Option<Level>, RunError> {
    if let Some(asked) = selinux::asked_level(config.security.selinux.as_ref()) {
        return Ok(Some(shared.levels.reserve(asked)));
    }
    let chosen = shared.levels.choose(&shared.node.facts.selinux);
    chosen.map_err(|source| RunError::SelinuxLevel { id: id.clone(), source: Arc::new(source) })
}

/// It can be made. Nothing was changed.
struct Reserved {
    shared: Arc<Shared>,
    id: PodId,
    config: Arc<SandboxConfig>,
    plan: SandboxPlan,
    sysctls: Vec<(String, String)>,
    record: PodRecord,
    /// Until the owner has it.
    _level: Option<Level>,
}

/// The record that it is being made is on disk, and its folder with the shim's socket.
struct Recorded {
    base: Reserved,
    listener: UnixListener,
    socket: UnixStream,
    log: File,
}

/// It has a network and a shim.
struct Equipped {
    base: Reserved,
    attachment: Option<Attachment>,
    namespaces: Vec<OwnedFd>,
    process: ShimProcess,
    socket: UnixStream,
}

/// What a pod's user namespace owns.
#[derive(Default)]
struct OwnNamespaces {
    /// For the network room.
    netns: Option<OwnedFd>,
    /// For the shim, which keeps them: UTS, IPC and the user namespace itself, as far as they are the pod's.
    kept: Vec<OwnedFd>,
}

impl From<Namespaces> for OwnNamespaces {
    fn from(made: Namespaces) -> Self {
        let Namespaces { user, network, uts, ipc } = made;
        OwnNamespaces { netns: network, kept: [uts, ipc, Some(user)].into_iter().flatten().collect() }
    }
}

impl Reserved {
    fn plan(shared: Arc<Shared>, id: PodId, config: Arc<SandboxConfig>) -> Result<Reserved, RunError> {
        let refused = |err: PlanError| RunError::Plan { id: id.clone(), source: Arc::new(err) };
        let level = choose_level(&shared, &id, &config)?;
        let selinux = &shared.node.facts.selinux;
        let labels = selinux::of_pod(&config, selinux, level.as_ref().map(Level::as_str)).map_err(refused)?;
        let facts = pod_facts(&shared, &id, labels);
        let plan = carpel_spec::sandbox_plan(&config, &facts).map_err(refused)?;
        let sysctls = carpel_spec::network_sysctls(&config, &facts).map_err(refused)?;
        // A parent that no container can be put below is refused here already.
        carpel_spec::container_cgroup(config.cgroup_parent.as_deref(), id.as_str(), &shared.node.facts)
            .map_err(refused)?;
        let sysctls = sysctls.into_iter().map(|sysctl| (sysctl.key, sysctl.value)).collect();
        let boot_id = shared.node.boot_id.clone();
        let mut record = PodRecord::new(id.clone(), boot_id, shared.clock.next_ns(), (*config).clone());
        record.selinux_level = level.as_ref().map(|level| level.as_str().to_owned());
        Ok(Reserved { shared, id, config, plan, sysctls, record, _level: level })
    }

    async fn record(self) -> Result<Recorded, RunError> {
        let id = self.id.clone();
        let done = tokio::task::spawn_blocking(move || {
            self.check_labels()?;
            let path = self.shared.layout.pod_record(&self.id);
            let written = record::write(&path, &self.record);
            let step = written
                .map_err(|err| RunError::Record { id: self.id.clone(), source: Arc::new(err) })
                .and_then(|()| {
                    self.make_files()
                        .map_err(|err| RunError::File { id: self.id.clone(), source: Arc::new(err) })
                });
            match step {
                Ok((listener, socket, log)) => Ok(Recorded { base: self, listener, socket, log }),
                Err(err) => {
                    remove_files(&self.shared, &self.id);
                    Err(err)
                }
            }
        });
        done.await.unwrap_or(Err(RunError::BrokenOff(id)))
    }

    /// Refuses labels that the policy does not know.
    fn check_labels(&self) -> Result<(), RunError> {
        [&self.plan.process_label, &self.plan.mount_label].into_iter().try_for_each(|label| {
            policy::check(label).map_err(|source| RunError::SelinuxLabel {
                id: self.id.clone(),
                label: label.clone(),
                source: Arc::new(source),
            })
        })
    }

    fn make_files(&self) -> Result<(UnixListener, UnixStream, File), FileError> {
        let layout = &self.shared.layout;
        let folder = layout.pod_dir(&self.id);
        make_private_dir(&folder)?;
        let resolv = resolv_conf::render(self.config.dns.as_ref(), &node::host_resolv_conf());
        let label = selinux::shared(&self.plan.mount_label);
        write(&layout.resolv_conf(&self.id), &resolv, &label, &self.config)?;
        let host = node::hostname();
        let hostname = carpel_spec::effective_hostname(&self.config, &host);
        write(&layout.hostname(&self.id), &resolv_conf::hostname_file(hostname), &label, &self.config)?;
        let socket_path = layout.socket(&self.id);
        let failed = |source| FileError { action: "listen on", path: socket_path.clone(), source };
        let (listener, socket) = listen(&folder).map_err(failed)?;
        let log_path = layout.shim_log(&self.id);
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
        let log = log.map_err(|source| FileError { action: "create", path: log_path, source })?;
        Ok((listener, socket, log))
    }

    /// Makes the pod's user namespace, if it is to have one, and what that owns.
    async fn user_namespace(&self) -> Result<OwnNamespaces, RunError> {
        if self.config.namespaces.user == UserMode::Node {
            return Ok(OwnNamespaces::default());
        }
        let config = Arc::clone(&self.config);
        let made = tokio::task::spawn_blocking(move || user_namespace::make(&config)).await;
        let made = made.map_err(|_| RunError::BrokenOff(self.id.clone()))?;
        let failed = |err| RunError::UserNamespace { id: self.id.clone(), source: Arc::new(err) };
        Ok(made.map_err(failed)?.map(OwnNamespaces::from).unwrap_or_default())
    }

    fn attach_request(&self, netns: Option<OwnedFd>) -> Option<AttachRequest> {
        let config = &self.config;
        if config.namespaces.network == PodOrNode::Node {
            return None;
        }
        let dns = config.dns.clone().unwrap_or_default();
        let mapping = |mapping: &carpel_spec::config::PortMapping| carpel_network::PortMapping {
            protocol: match mapping.protocol {
                Protocol::Tcp => carpel_network::Protocol::Tcp,
                Protocol::Udp => carpel_network::Protocol::Udp,
                Protocol::Sctp => carpel_network::Protocol::Sctp,
            },
            host_ip: mapping.host_ip,
            host_port: mapping.host_port,
            container_port: mapping.container_port,
        };
        Some(AttachRequest {
            pod: self.id.to_string(),
            name: config.metadata.name.clone(),
            namespace: config.metadata.namespace.clone(),
            uid: config.metadata.uid.clone(),
            annotations: config.annotations.clone(),
            port_mappings: config.port_mappings.iter().map(mapping).collect(),
            dns: carpel_network::DnsConfig {
                servers: dns.servers,
                searches: dns.searches,
                options: dns.options,
            },
            cgroup_parent: config.cgroup_parent.clone().unwrap_or_default(),
            sysctls: self.sysctls.clone(),
            netns: netns.map(Arc::new),
        })
    }

    /// Takes back whatever there is, in the one place for it. What cannot be taken back stays listed.
    async fn undo(self, process: Option<ShimProcess>, err: RunError) -> RunError {
        if let Some(process) = process {
            process.kill();
            process.ended().await;
        }
        let detached = match self.config.namespaces.network {
            PodOrNode::Node => Ok(()),
            PodOrNode::Pod => self.shared.network.detach(self.id.as_str()).await,
        };
        if let Err(err) = detached {
            let err = &err as &dyn std::error::Error;
            tracing::warn!(pod_id = %self.id, err, "a pod that failed keeps its network: it is listed as not ready");
            let mut record = self.record;
            record.phase = PodPhase::NotReady;
            Owner::spawn(
                self.shared,
                Seed { record, link: None, first: FirstWord::None, containers: Vec::new() },
            );
        } else {
            let (shared, id) = (self.shared, self.id);
            // It fails only if the runtime ends: the next daemon cleans up.
            let _ = tokio::task::spawn_blocking(move || remove_files(&shared, &id)).await;
        }
        err
    }
}

impl Recorded {
    /// The network and the shim's process do not need each other yet.
    async fn equip(self) -> Result<Equipped, RunError> {
        let Recorded { base, listener, socket, log } = self;
        let namespaces = match base.user_namespace().await {
            Ok(namespaces) => namespaces,
            Err(err) => return Err(base.undo(None, err).await),
        };
        let OwnNamespaces { netns, kept } = namespaces;
        let (shared, request) = (Arc::clone(&base.shared), base.attach_request(netns));
        let attach = async {
            match request {
                None => Ok(None),
                Some(request) => shared.network.attach(request).await.map(Some),
            }
        };
        let program = Arc::clone(&base.shared);
        let folder = base.shared.layout.pod_dir(&base.id);
        let spawn = tokio::task::spawn_blocking(move || {
            program.shim_program.start(&folder, listener.as_fd(), log.as_fd())
        });
        let (attached, spawned) = tokio::join!(attach, spawn);
        let spawned = spawned.unwrap_or_else(|err| Err(StartShimError::Watch(io::Error::other(err))));
        let id = base.id.clone();
        match (attached, spawned) {
            (Ok(attachment), Ok(process)) => {
                Ok(Equipped { base, attachment, namespaces: kept, process, socket })
            }
            (Err(err), spawned) => {
                let err = RunError::Network { id, source: Arc::new(err) };
                Err(base.undo(spawned.ok(), err).await)
            }
            (Ok(_), Err(err)) => {
                let err = RunError::Spawn { id, source: Arc::new(err) };
                Err(base.undo(None, err).await)
            }
        }
    }
}

impl Equipped {
    async fn set_up(mut self) -> Result<PodId, RunError> {
        let record = &mut self.base.record;
        record.phase = PodPhase::Ready;
        record.shim_pid = Some(self.process.pid());
        if let Some(attachment) = &self.attachment {
            record.ips.clone_from(&attachment.ips);
            record.netns = Some(attachment.netns.clone());
        }
        let (path, ready) = (self.base.shared.layout.pod_record(&self.base.id), record.clone());
        // A daemon that finds this record and a shim that was not set up takes the pod back.
        let record = tokio::task::spawn_blocking(move || record::write(&path, &ready));
        let (met, recorded) = tokio::join!(self.meet(), record);
        let id = self.base.id.clone();
        let failed = match (met, recorded) {
            (Ok(link), Ok(Ok(()))) => return Ok(self.ready(link)),
            (Err(err), _) => err,
            (Ok(_), Ok(Err(err))) => RunError::Record { id, source: Arc::new(err) },
            (Ok(_), Err(_)) => RunError::BrokenOff(id),
        };
        Err(self.base.undo(Some(self.process), failed).await)
    }

    async fn meet(&mut self) -> Result<Link, RunError> {
        let id = || self.base.id.clone();
        let refused = |err: ShimError| RunError::Shim { id: id(), source: Arc::new(err) };
        let broken = |source| FileError {
            action: "connect to",
            path: self.base.shared.layout.socket(&self.base.id),
            source,
        };
        let file_error = |err: FileError| RunError::File { id: id(), source: Arc::new(err) };
        let netns = match &self.attachment {
            None => None,
            Some(attachment) => {
                let opened = File::open(&attachment.netns).map_err(|source| FileError {
                    action: "open network namespace",
                    path: attachment.netns.clone(),
                    source,
                });
                Some(OwnedFd::from(opened.map_err(file_error)?))
            }
        };
        let namespaces = netns.into_iter().chain(self.namespaces.drain(..)).collect();
        let socket = self.socket.try_clone().map_err(|err| file_error(broken(err)))?;
        let (sender, events) = mpsc::unbounded_channel();
        let shim = Shim::new(socket, sender).map_err(|err| file_error(broken(err)))?;
        let (_, sandbox) = shim.set_up(self.base.plan.clone(), namespaces).await.map_err(refused)?;
        let init_pid = Some(sandbox.init_pid).filter(|pid| *pid > 0);
        Ok(Link { shim, process: self.process.clone(), init_pid, events })
    }

    fn ready(self, link: Link) -> PodId {
        let Reserved { shared, id, record, .. } = self.base;
        let seed = Seed { record, link: Some(link), first: FirstWord::NewPod, containers: Vec::new() };
        Owner::spawn(shared, seed);
        id
    }
}

/// Writes a file that containers see; it is their root's, whoever that is, and has that SELinux label.
fn write(path: &Path, content: &str, label: &str, config: &SandboxConfig) -> Result<(), FileError> {
    let failed = |source| FileError { action: "write", path: path.to_owned(), source };
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path).map_err(failed)?;
    io::Write::write_all(&mut file, content.as_bytes()).map_err(failed)?;
    policy::set(&file, label).map_err(failed)?;
    match config.namespaces.user.mappings() {
        None => Ok(()),
        Some(IdMappings { uids, gids }) => {
            fchown(&file, Some(uids.host_id), Some(gids.host_id)).map_err(failed)
        }
    }
}

/// Makes the shim's socket in `folder`, and connects to it: the connection waits in the backlog until
/// the shim is there. The path goes by a descriptor, for a socket's own has 107 bytes at most.
fn listen(folder: &Path) -> io::Result<(UnixListener, UnixStream)> {
    let folder = File::open(folder)?;
    let path = socket_path(&folder);
    let listener = UnixListener::bind(&path)?;
    Ok((listener, UnixStream::connect(&path)?))
}

fn socket_path(folder: &File) -> String {
    format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), carpel_shim_api::record::SOCKET_NAME)
}

/// Connects to the shim of a pod's folder. Blocks no longer than the backlog is full.
pub(crate) fn connect(folder: &Path) -> io::Result<UnixStream> {
    let folder = File::open(folder)?;
    UnixStream::connect(socket_path(&folder))
}

/// Removes a pod's record and folder. Blocks.
pub(crate) fn remove_files(shared: &Shared, id: &PodId) {
    let folder = shared.layout.pod_dir(id);
    match std::fs::remove_dir_all(&folder) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %folder.display(), %err, "removing a pod's folder failed");
        }
        Ok(()) | Err(_) => {}
    }
    if let Err(err) = record::remove(&shared.layout.pod_record(id)) {
        tracing::warn!(err = &err as &dyn std::error::Error, "removing a pod's record failed");
    }
}
