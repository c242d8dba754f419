//! The handle the rest of the daemon holds.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use carpel_sys::netns::{self, NetnsError, Sharing, Unsharing};
use std::os::fd::AsFd;

use tracing::Instrument;

use crate::attach::{self, AttachError};
use crate::attachment::{Attachment, InterfaceStats, NetworkStatus};
use crate::bridge::{Bridge, HostError};
use crate::cni::{self, Cni, CniError, CniOpenError};
use crate::config::{Config, ConfigError, Mode, Subnet};
use crate::detach::{self, DetachError};
use crate::netlink::{Family, NetlinkError, Socket, route};
use crate::pods::{Pods, State};
use crate::record::{EngineRecord, Loaded, Record, RecordError, Store};
use crate::request::AttachRequest;

/// Says in `state_dir` that the folder of namespaces was bound onto itself by us.
const NETNS_DIR_MARK: &str = "netns-dir-is-ours";

/// Why the network room cannot open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration is wrong.
    #[error("network configuration")]
    Config(#[source] ConfigError),
    /// The records cannot be listed.
    #[error("load network records")]
    Records(#[source] RecordError),
    /// The folder of namespaces cannot be prepared.
    #[error("prepare network namespaces")]
    Netns(#[source] NetnsError),
    /// The mark that the folder is ours cannot be written.
    #[error("write {path}")]
    Mark {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The built-in bridge, which pods use already, cannot be put right.
    #[error("open the built-in bridge")]
    Bridge(#[source] HostError),
    /// The CNI configuration folder cannot be watched.
    #[error("open CNI")]
    Cni(#[source] CniOpenError),
}

/// Why a pod's counters cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// No such pod has a network.
    #[error("pod {0} has no network")]
    NotAttached(String),
    /// Its namespace has gone.
    #[error("the network namespace of pod {0} is gone")]
    Gone(String),
    /// Its namespace cannot be entered.
    #[error("counters of pod {pod}")]
    Netns {
        /// The pod.
        pod: String,
        /// What failed.
        #[source]
        source: NetnsError,
    },
    /// The kernel did not answer.
    #[error("counters of pod {pod}")]
    Netlink {
        /// The pod.
        pod: String,
        /// What failed.
        #[source]
        source: NetlinkError,
    },
}

/// Why a pod's network is not as it was made, or why that is unknown.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No such pod has a network.
    #[error("pod {0} has no network")]
    NotAttached(String),
    /// Its namespace has gone.
    #[error("the network namespace of pod {0} is gone")]
    Gone(String),
    /// Its namespace cannot be looked at.
    #[error("network namespace of pod {pod}")]
    Netns {
        /// The pod.
        pod: String,
        /// What failed.
        #[source]
        source: NetnsError,
    },
    /// A plugin is not content, or has no CHECK.
    #[error("CNI CHECK for pod {pod}")]
    Cni {
        /// The pod.
        pod: String,
        /// Which, and why.
        #[source]
        source: CniError,
    },
}

/// Why the bridge is still there.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    /// Pods use it.
    #[error("{} pods still have a network, {} among them", .0.len(), .0.first().map_or("", String::as_str))]
    InUse(Vec<String>),
    /// It cannot be removed.
    #[error("remove the built-in bridge")]
    Host(#[source] HostError),
    /// The folder of namespaces cannot be released.
    #[error("release the folder of network namespaces")]
    Netns(#[source] NetnsError),
    /// The mark that the folder is ours cannot be removed.
    #[error("remove {path}")]
    Mark {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Gives pods their network. A cheap handle; clones are the same network.
#[derive(Clone, Debug)]
pub struct Network {
    pub(crate) shared: Arc<Shared>,
}

/// What all clones share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) pods: Pods,
    pub(crate) engine: Engine,
    /// Held for writing while plugins collect garbage, for reading by every CNI attach: an address given
    /// meanwhile would belong to no attachment on the list, and be freed.
    pub(crate) collecting: Arc<tokio::sync::RwLock<()>>,
    /// The node's pod ranges as the kubelet told them last.
    pod_cidrs: Mutex<Vec<Subnet>>,
}

/// Who makes interfaces for new pods. Old ones are taken away by whoever their record names.
#[derive(Debug)]
pub(crate) enum Engine {
    Cni(Cni),
    Builtin(Bridge),
}

impl Network {
    /// Checks the configuration and loads every attachment this node remembers. A record that cannot be
    /// read does not stop it: its pod is [`Network::known`], and [`Network::detach`] clears it by its name.
    pub async fn open(config: Config) -> Result<Network, OpenError> {
        config.check().map_err(OpenError::Config)?;
        let (config, store, loaded) = unwind(tokio::task::spawn_blocking(move || prepare(config)).await)?;
        let pods = Pods::default();
        let mut records = Vec::new();
        for entry in loaded {
            match entry {
                Loaded::Damaged { pod, error } => {
                    tracing::warn!(pod_id = %pod, error = &error as &dyn std::error::Error, "network record cannot be read");
                    pods.insert(&pod, State::Damaged);
                }
                Loaded::Record(record) => {
                    let record = Arc::new(*record);
                    pods.insert(&record.pod, restored(&record));
                    records.push(record);
                }
            }
        }
        let engine = match &config.mode {
            Mode::Cni(cni) => Engine::Cni(Cni::open(cni.clone()).await.map_err(OpenError::Cni)?),
            Mode::Builtin(bridge) => {
                let bridge = bridge.clone();
                let open = move || {
                    let mut records: Vec<&Record> = records.iter().map(Arc::as_ref).collect();
                    Bridge::open(bridge, &mut records)
                };
                let bridge = unwind(tokio::task::spawn_blocking(open).await);
                Engine::Builtin(bridge.map_err(OpenError::Bridge)?)
            }
        };
        let shared = Arc::new(Shared {
            config,
            store,
            pods,
            engine,
            collecting: Arc::default(),
            pod_cidrs: Mutex::default(),
        });
        if let Engine::Cni(_) = shared.engine {
            // Taken before anybody can attach, given back when the plugins are done.
            let nobody_attaches = shared.collecting.clone().write_owned().await;
            tokio::spawn(collect_garbage(shared.clone(), nobody_attaches));
        }
        Ok(Network { shared })
    }

    /// Whether pods can be attached now. Answers from memory.
    pub fn status(&self) -> NetworkStatus {
        match &self.shared.engine {
            Engine::Cni(cni) => cni.status(),
            Engine::Builtin(_) => NetworkStatus::Ready,
        }
    }

    /// Gives the pod its network, or leaves nothing behind. Runs to its end even if the caller goes away.
    ///
    /// If undoing a failed attach fails too ([`AttachError::Leftover`]), the pod stays [`Network::known`]
    /// until [`Network::detach`] succeeds.
    pub async fn attach(&self, request: AttachRequest) -> Result<Attachment, AttachError> {
        let attaching = attach::attach(self.shared.clone(), request);
        unwind(tokio::spawn(attaching.instrument(tracing::info_span!("network.attach"))).await)
    }

    /// Takes the pod's network away, from what the disk remembers: also after a reboot, when its namespace is
    /// gone, or when the configuration is another one. A pod that has none is a success. After an error
    /// the record and the address stay; try again later. Runs to its end even if the caller goes away.
    ///
    /// With the built-in bridge the pod is off the node when this returns, and its ports are free; its devices
    /// die with the namespace within some tens of milliseconds, and its record and address follow them
    /// ([`Network::settle`] waits for that).
    pub async fn detach(&self, pod: &str) -> Result<(), DetachError> {
        let detaching = detach::detach(self.shared.clone(), pod.to_owned());
        unwind(tokio::spawn(detaching.instrument(tracing::info_span!("network.detach"))).await)
    }

    /// Waits until nothing of any pod that was detached is left.
    pub async fn settle(&self) {
        settle(&self.shared).await;
    }

    /// The pod's network, from memory.
    pub fn attachment(&self, pod: &str) -> Option<Arc<Attachment>> {
        match self.shared.pods.find(pod)?.state() {
            State::Attached(_, attachment) => Some(attachment),
            State::Absent | State::Intent(_) | State::Leaving | State::Damaged => None,
        }
    }

    /// Every pod of which something may still exist, attached or half-made.
    pub fn known(&self) -> Vec<String> {
        self.shared.pods.known()
    }

    /// Counters of the pod's interfaces, read inside its namespace.
    pub async fn stats(&self, pod: &str) -> Result<Vec<InterfaceStats>, StatsError> {
        let not_attached = || StatsError::NotAttached(pod.into());
        let entry = self.shared.pods.find(pod).ok_or_else(not_attached)?;
        let State::Attached(record, _) = entry.state() else { return Err(not_attached()) };
        let read = move || {
            let mut counters = entry.counters.lock().unwrap_or_else(PoisonError::into_inner);
            if counters.is_none() {
                *counters = Some(open_counters(&record)?);
            }
            let netlink = |source| StatsError::Netlink { pod: record.pod.clone(), source };
            let stats = counters.as_mut().map_or(Ok(Vec::new()), route::stats).map_err(netlink)?;
            // A detach that began meanwhile has closed the socket; do not keep its namespace alive.
            if !matches!(entry.state(), State::Attached(..)) {
                *counters = None;
            }
            Ok(stats)
        };
        unwind(tokio::task::spawn_blocking(read).await)
    }

    /// Asks the CNI plugins whether the pod's network is still as they made it (CHECK). The built-in bridge
    /// has nothing to ask and answers that the namespace is there.
    pub async fn check(&self, pod: &str) -> Result<(), CheckError> {
        let entry = self.shared.pods.find(pod).ok_or_else(|| CheckError::NotAttached(pod.into()))?;
        let State::Attached(record, _) = entry.state() else {
            return Err(CheckError::NotAttached(pod.into()));
        };
        let netns_error = |source| CheckError::Netns { pod: pod.into(), source };
        if netns::open(&record.netns).map_err(netns_error)?.is_none() {
            return Err(CheckError::Gone(pod.into()));
        }
        match &record.engine {
            EngineRecord::Builtin(_) => Ok(()),
            EngineRecord::Cni(plan) => cni::check(pod, &record.netns, plan)
                .await
                .map_err(|source| CheckError::Cni { pod: pod.into(), source }),
        }
    }

    /// Takes the node's pod ranges from the kubelet. The built-in bridge keeps its configured subnets, which
    /// pods use already; CNI plugins that want the range read it from the API server.
    pub async fn set_pod_cidrs(&self, cidrs: &[Subnet]) {
        tracing::debug!(?cidrs, "pod ranges of this node");
        *self.shared.pod_cidrs.lock().unwrap_or_else(PoisonError::into_inner) = cidrs.to_vec();
    }

    /// The node's pod ranges as [`Network::set_pod_cidrs`] got them last.
    pub fn pod_cidrs(&self) -> Vec<Subnet> {
        self.shared.pod_cidrs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Removes what outlives the last pod: bridge, nftables table, and the mount that shares the folder of
    /// namespaces if it is ours. Fails while any pod is known.
    pub async fn teardown_host(&self) -> Result<(), TeardownError> {
        let known = self.known();
        if !known.is_empty() {
            return Err(TeardownError::InUse(known));
        }
        self.settle().await;
        let shared = self.shared.clone();
        unwind(tokio::task::spawn_blocking(move || teardown(&shared)).await)
    }
}

/// A leaving pod holds its turn until it has left.
pub(crate) async fn settle(shared: &Shared) {
    for pod in shared.pods.leaving() {
        drop(pod.turn.lock().await);
    }
}

/// The value of a task that is never aborted; its panic goes on in the caller.
pub(crate) fn unwind<T>(joined: Result<T, tokio::task::JoinError>) -> T {
    match joined {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => panic!("a network task ended before its time: {error}"),
        },
    }
}

fn prepare(config: Config) -> Result<(Config, Store, Vec<Loaded>), OpenError> {
    let store = Store::open(&config.state_dir).map_err(OpenError::Records)?;
    let loaded = store.load().map_err(OpenError::Records)?;
    if let Sharing::Made = netns::share_dir(&config.netns_dir).map_err(OpenError::Netns)? {
        let path = config.state_dir.join(NETNS_DIR_MARK);
        std::fs::write(&path, "").map_err(|source| OpenError::Mark { path, source })?;
    }
    Ok((config, store, loaded))
}

/// An attachment whose namespace is gone (a reboot) is only an intent: something remains to be detached, but
/// nothing can use it.
fn restored(record: &Arc<Record>) -> State {
    let pinned = matches!(netns::open(&record.netns), Ok(Some(_)));
    match record.attachment() {
        Some(attachment) if pinned => State::Attached(record.clone(), Arc::new(attachment)),
        _ => State::Intent(record.clone()),
    }
}

/// Has plugins free what belongs to no attachment. An attachment whose detach still has to succeed counts as
/// one: its own DEL frees it.
async fn collect_garbage(shared: Arc<Shared>, _nobody_attaches: tokio::sync::OwnedRwLockWriteGuard<()>) {
    let Engine::Cni(cni) = &shared.engine else { return };
    let mut ours = Vec::new();
    for id in shared.pods.known() {
        let Some(pod) = shared.pods.find(&id) else { continue };
        match pod.state() {
            // Which interfaces it has is unknown, so nothing may be freed.
            State::Damaged => return,
            State::Absent | State::Leaving => (),
            State::Intent(record) | State::Attached(record, _) => {
                let EngineRecord::Cni(plan) = &record.engine else { continue };
                ours.extend(plan.networks.iter().map(|network| (id.clone(), network.interface.clone())));
            }
        }
    }
    if let Err(error) = cni.collect_garbage(&ours).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "CNI GC failed");
    }
}

fn open_counters(record: &Record) -> Result<Socket, StatsError> {
    let netns_error = |source| StatsError::Netns { pod: record.pod.clone(), source };
    let gone = || StatsError::Gone(record.pod.clone());
    let ns = netns::open(&record.netns).map_err(netns_error)?.ok_or_else(gone)?;
    let opened = netns::enter(ns.as_fd(), || Socket::open(Family::Route)).map_err(netns_error)?;
    opened.map_err(|source| StatsError::Netlink { pod: record.pod.clone(), source })
}

fn teardown(shared: &Shared) -> Result<(), TeardownError> {
    if let Engine::Builtin(bridge) = &shared.engine {
        bridge.remove().map_err(TeardownError::Host)?;
    }
    let mark = shared.config.state_dir.join(NETNS_DIR_MARK);
    if mark.exists() {
        if netns::unshare_dir(&shared.config.netns_dir).map_err(TeardownError::Netns)? == Unsharing::InUse {
            tracing::info!(dir = %shared.config.netns_dir.display(), "others pin namespaces there; it stays a mount");
            return Ok(());
        }
        std::fs::remove_file(&mark).map_err(|source| TeardownError::Mark { path: mark, source })?;
    }
    Ok(())
}
