//! The door to the room: every operation that others may ask for.

mod streams;

use std::{sync::Arc, time::Duration};

use carpel_image::Images;
use carpel_network::Network;
use carpel_spec::config::{ContainerConfig, Resources};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    AppArmorState, Config, ContainerId, ContainerSnapshot, CreateError, EventStream, FindError, ObjectKind,
    PodSnapshot, RemoveContainerError, RemovePodError, ReopenLogError, StartError, StopContainerError,
    StopPodError, UpdateError,
    apparmor::Profiles,
    catalog::Catalog,
    clock::CreationClock,
    event::Events,
    host::Host,
    layout::Layout,
    names::Names,
    node::Node,
    owner::{Asked, Command, PodHandle},
    profile::Programs,
    scope::{Hold, Scopes},
    selinux::Levels,
    shim::program::ShimProgram,
    trash::Trash,
    usage::UsageReaders,
};

/// All pods of this node. A cheap handle; dropping the last one ends the owners and leaves the pods
/// running, like the end of the daemon.
#[derive(Debug, Clone)]
pub struct Pods {
    pub(crate) shared: Arc<Shared>,
    _open: Arc<Open>,
}

/// What owners and operations share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    pub(crate) node: Arc<Node>,
    pub(crate) apparmor: Profiles,
    /// Where systemd makes the cgroups.
    pub(crate) scopes: Option<Scopes>,
    /// As long as this daemon lives.
    pub(crate) _shims_hold: Option<Hold>,
    pub(crate) images: Images,
    pub(crate) network: Network,
    pub(crate) shim_program: ShimProgram,
    pub(crate) programs: Programs,
    pub(crate) host: Host,
    /// SELinux levels of pods.
    pub(crate) levels: Levels,
    pub(crate) names: Names,
    pub(crate) catalog: Catalog,
    pub(crate) events: Events,
    pub(crate) usage: UsageReaders,
    pub(crate) clock: CreationClock,
    pub(crate) trash: Trash,
    /// Cancelled when the last handle is dropped. Owners hold this struct, so that its own drop would
    /// not come.
    pub(crate) closing: CancellationToken,
}

/// Ends the owners with the last handle.
#[derive(Debug)]
struct Open {
    closing: CancellationToken,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

impl Pods {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let open = Arc::new(Open { closing: shared.closing.clone() });
        Pods { shared, _open: open }
    }

    /// Whether pods can have user namespaces of their own on this node, with idmapped volumes.
    #[must_use]
    pub fn supports_user_namespaces(&self) -> bool {
        self.shared.node.user_namespaces
    }

    /// All pods.
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<PodSnapshot>> {
        self.shared.catalog.pods()
    }

    /// The pod with this id, or alone with an id that begins like this.
    ///
    /// # Errors
    /// None has, or more than one.
    pub fn find_pod(&self, id: &str) -> Result<Arc<PodSnapshot>, FindError> {
        Ok(self.shared.catalog.find_pod(id)?.0)
    }

    /// All containers.
    #[must_use]
    pub fn containers(&self) -> Vec<Arc<ContainerSnapshot>> {
        self.shared.catalog.containers()
    }

    /// The container with this id, or alone with an id that begins like this.
    ///
    /// # Errors
    /// None has, or more than one.
    pub fn find_container(&self, id: &str) -> Result<Arc<ContainerSnapshot>, FindError> {
        self.shared.catalog.find_container(id)
    }

    /// The containers of a pod, in the order of their creation.
    #[must_use]
    pub fn containers_of(&self, pod: &PodSnapshot) -> Vec<Arc<ContainerSnapshot>> {
        self.shared.catalog.containers_of(pod)
    }

    /// A container's plan as an OCI runtime spec in JSON, for people; `None` if the container or its
    /// file is not there.
    pub async fn runtime_spec(&self, id: &str) -> Option<String> {
        let container = self.find_container(id).ok()?;
        let path = self.shared.layout.runtime_spec(&container.id);
        tokio::task::spawn_blocking(move || std::fs::read_to_string(path).ok()).await.ok()?
    }

    /// AppArmor on this node, for people.
    #[must_use]
    pub fn apparmor(&self) -> AppArmorState {
        self.shared.apparmor.state()
    }

    /// Removes the cgroup that shims live in if none does: for a daemon that ends.
    pub async fn leave_home(&self) {
        let shared = Arc::clone(&self.shared);
        let leave = move || shared.node.leave_shim_home(&shared.config.shim_cgroup);
        // If it panics, the cgroup stays.
        let _ = tokio::task::spawn_blocking(leave).await;
    }

    /// What happens from now on.
    #[must_use]
    pub fn events(&self) -> EventStream {
        self.shared.events.subscribe()
    }

    /// Kills a pod's containers and gives its network back. It stays listed as `NotReady`. One that
    /// is stopped, or that does not exist, is no error.
    ///
    /// # Errors
    /// See [`StopPodError`].
    pub async fn stop(&self, id: &str) -> Result<(), StopPodError> {
        let Some((_, handle)) = absent_is_none(self.shared.catalog.find_pod(id))? else { return Ok(()) };
        // An owner that has ended has removed its pod.
        ask(&handle, Command::StopPod).await.unwrap_or(Ok(()))
    }

    /// Stops a pod if need be, and forgets it with all of its containers. One that does not exist is
    /// no error.
    ///
    /// # Errors
    /// See [`RemovePodError`].
    pub async fn remove(&self, id: &str) -> Result<(), RemovePodError> {
        let Some((_, handle)) = absent_is_none(self.shared.catalog.find_pod(id))? else { return Ok(()) };
        ask(&handle, Command::RemovePod).await.unwrap_or(Ok(()))
    }

    /// Makes a container up to its execve. The same name and attempt joins an operation that is under
    /// way, or gives the id of the container that is there. Goes on when the caller does not.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub async fn create_container(
        &self,
        pod: &str,
        config: ContainerConfig,
    ) -> Result<ContainerId, CreateError> {
        let (_, handle) = self.shared.catalog.find_pod(pod)?;
        let name = config.name.clone();
        ask(&handle, |reply| Command::Create { config: Box::new(config), reply })
            .await
            .unwrap_or(Err(CreateError::BrokenOff(name)))
    }

    /// Releases a container's init process; back after its execve.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start_container(&self, id: &str) -> Result<(), StartError> {
        let (container, handle) = self.shared.catalog.find_owned(id)?;
        ask(&handle, |reply| Command::Start { id: container.id.clone(), reply })
            .await
            .unwrap_or_else(|| Err(gone(id).into()))
    }

    /// Asks a container to stop, and kills it when `grace` is over. Zero kills at once. A second call
    /// can shorten the grace of the first, never extend it. One that does not run, or does not exist,
    /// is no error. It is killed also when the caller does not wait.
    ///
    /// # Errors
    /// See [`StopContainerError`].
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), StopContainerError> {
        let Some((container, handle)) = absent_is_none(self.shared.catalog.find_owned(id))? else {
            return Ok(());
        };
        ask(&handle, |reply| Command::StopContainer { id: container.id.clone(), grace, reply })
            .await
            .unwrap_or(Ok(()))
    }

    /// Kills a container if need be, and forgets it; its log stays. One that does not exist is no
    /// error.
    ///
    /// # Errors
    /// See [`RemoveContainerError`].
    pub async fn remove_container(&self, id: &str) -> Result<(), RemoveContainerError> {
        let Some((container, handle)) = absent_is_none(self.shared.catalog.find_owned(id))? else {
            return Ok(());
        };
        ask(&handle, |reply| Command::RemoveContainer { id: container.id.clone(), reply })
            .await
            .unwrap_or(Ok(()))
    }

    /// Changes the limits of a container, all or none. An absent one stays as it is.
    ///
    /// # Errors
    /// See [`UpdateError`].
    pub async fn update_resources(&self, id: &str, resources: Resources) -> Result<(), UpdateError> {
        let (container, handle) = self.shared.catalog.find_owned(id)?;
        ask(&handle, |reply| Command::Update { id: container.id.clone(), resources, reply })
            .await
            .unwrap_or_else(|| Err(gone(id).into()))
    }

    /// Opens a container's log anew, after its file was renamed.
    ///
    /// # Errors
    /// See [`ReopenLogError`].
    pub async fn reopen_log(&self, id: &str) -> Result<(), ReopenLogError> {
        let (container, handle) = self.shared.catalog.find_owned(id)?;
        ask(&handle, |reply| Command::ReopenLog { id: container.id.clone(), reply })
            .await
            .unwrap_or_else(|| Err(gone(id).into()))
    }
}

/// Sends a command to an owner and waits for its answer; `None` if the owner has ended.
async fn ask<T>(handle: &PodHandle, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    let asked = Asked { command: command(reply), span: tracing::Span::current() };
    handle.commands.send(asked).await.ok()?;
    answer.await.ok()
}

fn absent_is_none<T>(found: Result<T, FindError>) -> Result<Option<T>, FindError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(FindError::NotFound { .. }) => Ok(None),
        Err(err @ FindError::Ambiguous { .. }) => Err(err),
    }
}

fn gone(id: &str) -> FindError {
    FindError::NotFound { kind: ObjectKind::Container, id: id.to_owned() }
}
