//! Opening the room: a restart starts every recorded pod's normal owner, from its record and from
//! what its shim answers.
//!
//! ```text
//!   records ──▶ each pod, all at once:
//!     damaged        ─▶ quarantine; its shim ended, its network given back
//!     Creating       ─▶ taken back: nobody was told of it
//!     Ready          ─▶ another boot?  ── yes ─▶ NotReady, its containers Exited(255)
//!                         │ no
//!                         dial, Hello, Snapshot ─▶ owner         no shim ─▶ owner without one
//!                           └─ silent ─▶ owner that asks again: its containers are Unknown
//!     NotReady       ─▶ owner without a shim
//!   containers that were being made, or have no record that can be read: the shim ends them
//!   then: images swept, and what no record knows of taken back: networks, shims, folders
//! ```

mod stray;
mod unfinished;

use std::{
    collections::HashMap,
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use carpel_image::{ChainId, Images};
use carpel_network::Network;
use carpel_shim_api::message::SnapshotReply;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    CgroupDriver, Config, Exit, ExitReason, FileError, OpenError, PodId, Pods,
    apparmor::Profiles,
    catalog::Catalog,
    clock::{CreationClock, now_ns},
    event::Events,
    host::Host,
    layout::Layout,
    names::Names,
    node::Node,
    owner::{
        FirstWord, Link, Owner, Seed,
        container::{Container, State},
    },
    pods::Shared,
    profile::Programs,
    record::{self, ContainerPhase, ContainerRecord, PodPhase, PodRecord},
    run::connect,
    scope::Scopes,
    selinux::Levels,
    shim::{
        Shim, ShimError,
        program::{ShimProcess, ShimProgram},
    },
    trash::Trash,
    usage::UsageReaders,
};
use unfinished::{LetGo, Unfinished};

/// How long a shim may take to answer before its pod is started without the answer.
const MEET_MAX: Duration = Duration::from_secs(1);
/// How long opening waits for pods that are not clear; they are taken over when they are.
const OPEN_MAX: Duration = Duration::from_secs(2);
/// What the disk says.
#[derive(Debug, Default)]
struct Records {
    pods: Vec<PodRecord>,
    containers: HashMap<PodId, Vec<ContainerRecord>>,
    /// Folders of containers without a record that can be read.
    debris: Vec<PathBuf>,
}

impl Pods {
    /// Takes over all pods of an earlier daemon. Damaged records are put aside, and never the reason
    /// for a failure.
    ///
    /// # Errors
    /// The daemon's own folders or the shim's program are not usable, or the node cannot be looked at.
    pub async fn open(config: Config, images: Images, network: Network) -> Result<Pods, OpenError> {
        let opened = tokio::task::spawn_blocking(move || {
            let layout = Layout::create(&config.root, &config.state)?;
            let node = Arc::new(Node::look(&config)?);
            let shim_program = ShimProgram::load(&config.shim)
                .map_err(|source| OpenError::Shim { path: config.shim.clone(), source })?;
            let records = read_records(&layout)?;
            Ok::<_, OpenError>((config, layout, shim_program, node, records))
        });
        let (mut config, layout, mut shim_program, node, records) = match opened.await {
            Ok(opened) => opened?,
            Err(join) => return Err(OpenError::BrokenOff(join)),
        };
        let (scopes, shims_hold) = match config.cgroup_driver {
            CgroupDriver::Cgroupfs => (None, None),
            CgroupDriver::Systemd => {
                let scopes = Scopes::open(&node.cgroups, &config.cgroup_parent).await?;
                let hold = match config.shim_cgroup.as_str() {
                    "" => None,
                    slice => {
                        let (hold, path) = scopes.start_shims(&shim_program, slice).await?;
                        config.shim_cgroup = path.to_string();
                        Some(hold)
                    }
                };
                (Some(scopes), hold)
            }
        };
        shim_program.live_in(node.shim_home(&config.shim_cgroup));
        let shared = Arc::new(Shared {
            config,
            trash: Trash::open(layout.trash()),
            layout,
            node,
            apparmor: Profiles::look(),
            scopes,
            _shims_hold: shims_hold,
            images,
            network,
            shim_program,
            programs: Programs::default(),
            host: Host::default(),
            levels: Levels::default(),
            names: Names::default(),
            catalog: Catalog::default(),
            events: Events::default(),
            usage: UsageReaders::default(),
            clock: CreationClock::default(),
            closing: CancellationToken::new(),
        });
        let pods = Pods::new(Arc::clone(&shared));
        let (loading, closing) = (Arc::clone(&shared), shared.closing.clone());
        tokio::spawn(async move { closing.run_until_cancelled(loading.apparmor.prepare()).await });
        take_over(&shared, records).await;
        Ok(pods)
    }
}

async fn take_over(shared: &Arc<Shared>, records: Records) {
    // What there is now and no record knows of is a left-over; what comes later is not.
    let left = stray::find(shared, &records);
    let Records { pods, mut containers, debris } = records;
    let debris = Arc::new(unfinished::ids_of(&debris));
    let (holding, all_let_go) = mpsc::channel(1);
    let mut adopting = JoinSet::new();
    for record in pods {
        let containers = containers.remove(&record.id).unwrap_or_default();
        // All layers in use are held before anything is awaited, and so before images are swept; SELinux levels too,
        // before a new pod can be given one.
        let (unfinished, containers) = hold_all(shared, containers);
        let (debris, holding) = (Arc::clone(&debris), holding.clone());
        let wanted = LetGo { unfinished, debris, unrecorded: Vec::new(), holding };
        let level = record.selinux_level.as_deref().map(|level| shared.levels.reserve(level));
        let adopted = adopt(Arc::clone(shared), record, containers, wanted);
        adopting.spawn(async move {
            adopted.await;
            // By now it is the owner's, if there is one.
            drop(level);
        });
    }
    drop(holding);
    let all = async { while adopting.join_next().await.is_some() {} };
    if tokio::time::timeout(OPEN_MAX, all).await.is_err() {
        tracing::warn!(pods = adopting.len(), "some pods are taken over later");
    }
    adopting.detach_all();
    let orphans: Vec<ContainerRecord> = containers.into_values().flatten().collect();
    let (shared, closing) = (Arc::clone(shared), shared.closing.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = stray::take_back(&shared, left, orphans, all_let_go) => {}
            () = closing.cancelled() => {}
        }
    });
}

/// Starts a recorded pod's owner.
async fn adopt(
    shared: Arc<Shared>,
    mut record: PodRecord,
    mut containers: Vec<Container>,
    mut wanted: LetGo,
) {
    shared.clock.pass(record.created_at_ns);
    containers.sort_by_key(|container| container.facts.created_at_ns);
    for container in &containers {
        shared.clock.pass(container.facts.created_at_ns);
    }
    if record.phase == PodPhase::Creating {
        unfinished::let_go(&shared, None, wanted);
        return stray::take_pod_back(&shared, record).await;
    }
    shared.names.adopt(record.id.clone(), Arc::new(record.config.clone()));
    if record.boot_id != shared.node.boot_id {
        record.phase = PodPhase::NotReady;
        containers.iter_mut().for_each(rebooted);
    }
    if record.phase == PodPhase::NotReady {
        unfinished::let_go(&shared, None, wanted);
        return Owner::spawn(shared, Seed { record, link: None, first: FirstWord::None, containers });
    }
    match dial(&shared, &record).await {
        Dialled::Answered(link, snapshot) if !snapshot.ready => {
            // The record ran ahead of the shim: the pod was never ready, and nobody was told of it.
            drop(link);
            unfinished::let_go(&shared, None, wanted);
            shared.names.release(&record.config.metadata, &record.id);
            stray::take_pod_back(&shared, record).await;
        }
        Dialled::Answered(link, snapshot) => {
            wanted.unrecorded = unfinished::unrecorded(&snapshot, &containers, &wanted.unfinished);
            unfinished::let_go(&shared, Some(Arc::clone(&link.shim)), wanted);
            let first = FirstWord::Snapshot(snapshot);
            Owner::spawn(shared, Seed { record, link: Some(link), first, containers });
        }
        Dialled::Silent(link) => {
            tracing::warn!(pod_id = %record.id, "the pod's shim does not answer");
            unfinished::let_go(&shared, Some(Arc::clone(&link.shim)), wanted);
            Owner::spawn(shared, Seed { record, link: Some(link), first: FirstWord::Awaited, containers });
        }
        Dialled::None => {
            unfinished::let_go(&shared, None, wanted);
            Owner::spawn(shared, Seed { record, link: None, first: FirstWord::None, containers });
        }
    }
}

/// Holds the layers of all, and tells those apart that were being made.
fn hold_all(shared: &Shared, records: Vec<ContainerRecord>) -> (Vec<Unfinished>, Vec<Container>) {
    let (mut unfinished, mut containers) = (Vec::new(), Vec::new());
    for record in records {
        let layers: Vec<ChainId> = record.layers.iter().filter_map(|layer| layer.parse().ok()).collect();
        let lease = shared.images.hold(&layers);
        match record.phase {
            ContainerPhase::Creating => unfinished.push(Unfinished::new(record, lease)),
            ContainerPhase::Created => containers.push(Container::from_record(record, lease, shared)),
        }
    }
    (unfinished, containers)
}

/// Nothing of an earlier boot runs; how it ended, nobody saw.
fn rebooted(container: &mut Container) {
    if container.has_exited() {
        return;
    }
    container.state = State::Exited(Exit {
        code: 255,
        reason: ExitReason::Unknown,
        message: "the node was restarted".to_owned(),
        started_at_ns: container.facts.created_at_ns,
        finished_at_ns: now_ns().max(container.facts.created_at_ns),
    });
    container.refresh();
}

/// What became of an attempt to reach a shim.
#[derive(Debug)]
enum Dialled {
    Answered(Link, SnapshotReply),
    /// It is there and says nothing.
    Silent(Link),
    /// There is none: nobody listens.
    None,
}

/// Reaches for a shim until it is clear whether there is one. On doubt its pod is not touched.
async fn dial(shared: &Shared, record: &PodRecord) -> Dialled {
    loop {
        let folder = shared.layout.pod_dir(&record.id);
        match tokio::task::spawn_blocking(move || connect(&folder)).await {
            Ok(Ok(socket)) => {
                if let Some(dialled) = meet(shared, record, socket).await {
                    return dialled;
                }
            }
            Ok(Err(err)) if is_nobody(&err) => return Dialled::None,
            Ok(Err(err)) => tracing::warn!(pod_id = %record.id, %err, "connecting to a shim failed"),
            Err(err) => tracing::warn!(pod_id = %record.id, %err, "connecting to a shim failed"),
        }
        tokio::time::sleep(MEET_MAX).await;
    }
}

/// Nobody listens at the socket, or it is not there: the shim has ended.
pub(crate) fn is_nobody(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

/// `None` if it is not clear.
async fn meet(shared: &Shared, record: &PodRecord, socket: UnixStream) -> Option<Dialled> {
    let (sender, events) = mpsc::unbounded_channel();
    let shim = match Shim::new(socket, sender) {
        Ok(shim) => shim,
        Err(err) => {
            tracing::warn!(pod_id = %record.id, %err, "watching a shim's socket failed");
            return None;
        }
    };
    let met = shim.meet(MEET_MAX).await;
    let (pid, snapshot) = match met {
        Ok((hello, snapshot)) => (Some(hello.pid), Some(snapshot)),
        Err(ShimError::Gone) => return Some(Dialled::None),
        Err(err) => {
            tracing::warn!(pod_id = %record.id, err = &err as &dyn std::error::Error, "meeting a shim failed");
            (record.shim_pid, None)
        }
    };
    let folder = shared.layout.pod_dir(&record.id);
    let process = pid.and_then(|pid| ShimProcess::adopt(pid, &folder))?;
    let init_pid = snapshot.as_ref().map(|snapshot| snapshot.init_pid).filter(|pid| *pid > 0);
    let link = Link { shim, process, init_pid, events };
    Some(match snapshot {
        Some(snapshot) => Dialled::Answered(link, snapshot),
        None => Dialled::Silent(link),
    })
}

/// Reads all records. What is damaged is put aside. Blocks.
fn read_records(layout: &Layout) -> Result<Records, FileError> {
    let mut records = Records::default();
    for path in list(&layout.pod_records())? {
        let Some(id) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        if path.extension().is_some_and(|extension| extension == "tmp") {
            // Half-written when the daemon ended; the record itself is whole or was never told of.
            remove_quietly(&path);
            continue;
        }
        match record::read::<PodRecord>(&path) {
            Ok(record) if record.id.as_str() == id => records.pods.push(record),
            Ok(_) => quarantine(layout, &path, "it is another pod's"),
            Err(err) => quarantine(layout, &path, &cause(&err)),
        }
    }
    for folder in list(&layout.containers())? {
        let path = folder.join("container.json");
        match record::read::<ContainerRecord>(&path) {
            Ok(record) if folder.ends_with(record.id.as_str()) => {
                records.containers.entry(record.pod_id.clone()).or_default().push(record);
            }
            Ok(_) => records.put_aside(layout, folder, "it is another container's"),
            Err(err) if err.source.kind() == io::ErrorKind::NotFound => records.debris.push(folder),
            Err(err) => records.put_aside(layout, folder, &cause(&err)),
        }
    }
    Ok(records)
}

impl Records {
    fn put_aside(&mut self, layout: &Layout, folder: PathBuf, why: &str) {
        quarantine(layout, &folder.join("container.json"), why);
        self.debris.push(folder);
    }
}

fn cause(err: &crate::RecordError) -> String {
    err.source.to_string()
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = |source| FileError { action: "read folder", path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

fn quarantine(layout: &Layout, path: &Path, why: &str) {
    let owner = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let target = layout.quarantine().join(format!("{}-{owner}-{name}", now_ns()));
    tracing::warn!(path = %path.display(), why, target = %target.display(), "a damaged record is put aside");
    if let Err(err) = std::fs::rename(path, &target) {
        tracing::warn!(path = %path.display(), %err, "putting a record aside failed");
    }
}

fn remove_quietly(path: &Path) {
    if let Err(err) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %err, "removing a temporary file failed");
    }
}
