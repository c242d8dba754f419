//! CNI by executing plugins: CNI specification 1.1.0, with networks written for 0.3.0 to 1.1.0.
//!
//! ```text
//!   add   for each network, in order:  plugin ADD ─result─► plugin ADD ─result─► …   last result cached
//!   del   for each network, reversed:  … ◄─ plugin DEL ◄─ plugin DEL   each with the cached result
//! ```
//!
//! [`add`] and [`del`] need nothing but a record, so a pod can be detached when the configuration has gone.
//! [`Cni`] is what a configuration adds: which networks new pods get, and whether they can get them now.

mod arguments;
mod cache;
mod conf;
mod exec;
mod plugin;
mod result;
mod version;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

pub use arguments::ArgumentError;
pub use cache::CacheError;
pub use conf::{ConfError, Problem};
pub use exec::ExecError;
pub use plugin::PluginError;
pub use result::ResultError;
pub use watch::WatchError as CniOpenError;

use cache::Cached;
use conf::NetworkList;
use plugin::{Runner, Target, Verb, configuration};
use watch::Watch;

use crate::attachment::{Attachment, NetworkStatus};
use crate::config::CniConfig;
use crate::record::{CniNetworkRecord, CniRecord};
use crate::request::AttachRequest;

/// How long one plugin may collect garbage.
const GC_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a pod's request cannot become plugin calls.
#[derive(Debug, thiserror::Error)]
pub enum CniPlanError {
    /// An argument.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
}

/// Why plugins did not do what a pod needs.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// A plugin failed.
    #[error("plugin {plugin} of network {network}: {verb}")]
    Plugin {
        /// The network.
        network: String,
        /// The plugin's type.
        plugin: String,
        /// What it was asked to do.
        verb: &'static str,
        /// How it failed.
        #[source]
        source: Box<PluginError>,
    },
    /// What all plugins made together is no network.
    #[error("result of the networks")]
    Result(#[from] ResultError),
    /// A recorded configuration list is none.
    #[error("recorded configuration list")]
    List(#[from] Problem),
    /// The result cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The network's version has no CHECK, or it is switched off.
    #[error("network {0} has no CHECK")]
    NoCheck(String),
}

/// The networks of this node.
#[derive(Debug)]
pub(crate) struct Cni {
    config: CniConfig,
    watch: Arc<Watch>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Cni {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cni {
    /// Loads the networks and follows their folder.
    pub(crate) async fn open(config: CniConfig) -> Result<Cni, CniOpenError> {
        let watch = Arc::new(Watch::new(config.clone()));
        let inotify = watch.load().await?;
        let task = tokio::spawn(watch.clone().follow(inotify));
        Ok(Cni { config, watch, task })
    }

    pub(crate) fn status(&self) -> NetworkStatus {
        self.watch.published().status
    }

    /// Everything the pod's plugin calls need, also the last one, whenever it comes.
    pub(crate) fn plan(&self, request: &AttachRequest) -> Result<CniRecord, CniPlanError> {
        let networks = self.watch.published().networks;
        let interface = |at: usize| format!("{}{at}", self.config.interface_prefix);
        let networks = networks.iter().enumerate();
        Ok(CniRecord {
            bin_dirs: self.config.bin_dirs.clone(),
            cache_dir: self.config.cache_dir.clone(),
            plugin_timeout_ms: u64::try_from(self.config.plugin_timeout.as_millis()).unwrap_or(u64::MAX),
            networks: networks
                .map(|(at, list)| CniNetworkRecord { interface: interface(at), list: list.raw.clone() })
                .collect(),
            args: arguments::cni_args(request)?,
            capability_args: arguments::capability_args(request)?,
        })
    }

    /// DEL of whatever libcni's cache remembers of a pod whose own record is unreadable.
    pub(crate) async fn del_cached(&self, pod: &str, netns: Option<&Path>) -> Result<(), CniError> {
        for cached in cache::list(&self.config.cache_dir)?.into_iter().filter(|c| c.container == pod) {
            let Some(list) = cached.list() else { continue };
            let record = CniRecord {
                bin_dirs: self.config.bin_dirs.clone(),
                cache_dir: self.config.cache_dir.clone(),
                plugin_timeout_ms: u64::try_from(self.config.plugin_timeout.as_millis()).unwrap_or(u64::MAX),
                networks: vec![CniNetworkRecord { interface: cached.interface.clone(), list }],
                args: cached.args.unwrap_or_default(),
                capability_args: cached.capability_args.unwrap_or_default().into_iter().collect(),
            };
            del(pod, netns, &record).await?;
        }
        Ok(())
    }

    /// GC of every network that has it: plugins free what belongs to no attachment that exists. Attachments
    /// of other runtimes that share the cache exist too.
    pub(crate) async fn collect_garbage(&self, ours: &[(String, String)]) -> Result<(), CniError> {
        let mut valid: Vec<(String, String)> = ours.to_vec();
        valid.extend(cache::list(&self.config.cache_dir)?.into_iter().map(|c| (c.container, c.interface)));
        valid.sort_unstable();
        valid.dedup();
        let valid: Vec<Value> =
            valid.iter().map(|(pod, name)| json!({"containerID": pod, "ifname": name})).collect();
        // Attaches wait for this, so a plugin that hangs is given up sooner than in other calls.
        let timeout = self.config.plugin_timeout.min(GC_TIMEOUT);
        let runner = Runner { bin_dirs: &self.config.bin_dirs, timeout };
        let networks = self.watch.published().networks;
        for list in networks.iter().filter(|list| list.version.has_status() && !list.disable_gc) {
            for plugin in &list.plugins {
                let mut conf = configuration(list, plugin, [], None);
                conf.insert("cni.dev/valid-attachments".into(), valid.clone().into());
                // What libcni called it before the specification was final; some plugins read only this.
                conf.insert("cni.dev/attachments".into(), valid.clone().into());
                match runner.call(Verb::Gc, &plugin.kind, None, conf).await {
                    Err(error) if !error.is_unknown_verb() => {
                        return Err(plugin_error(list, &plugin.kind, Verb::Gc, error));
                    }
                    _ => (),
                }
            }
        }
        Ok(())
    }
}

fn plugin_error(list: &NetworkList, plugin: &str, verb: Verb, source: PluginError) -> CniError {
    CniError::Plugin {
        network: list.name.clone(),
        plugin: plugin.into(),
        verb: verb.as_str(),
        source: Box::new(source),
    }
}

fn runner(record: &CniRecord) -> Runner<'_> {
    Runner { bin_dirs: &record.bin_dirs, timeout: Duration::from_millis(record.plugin_timeout_ms) }
}

fn target<'a>(
    pod: &'a str,
    netns: Option<&'a Path>,
    network: &'a CniNetworkRecord,
    record: &'a CniRecord,
) -> Target<'a> {
    Target { container: pod, netns, interface: &network.interface, args: &record.args }
}

/// ADD of every network. After an error, whatever was added is still there: call [`del`].
pub(crate) async fn add(pod: &str, netns: &Path, record: &CniRecord) -> Result<Attachment, CniError> {
    let mut parts = Vec::new();
    for network in &record.networks {
        let list = conf::parse_list(&network.list)?;
        let result = add_network(pod, netns, record, network, &list).await?;
        parts.push((list.name.clone(), result::part(&result, &network.interface)?));
    }
    Ok(result::attachment(netns, parts)?)
}

async fn add_network(
    pod: &str,
    netns: &Path,
    record: &CniRecord,
    network: &CniNetworkRecord,
    list: &NetworkList,
) -> Result<Value, CniError> {
    let target = target(pod, Some(netns), network, record);
    let mut previous = None;
    for plugin in &list.plugins {
        let conf = configuration(list, plugin, &record.capability_args, previous.as_ref());
        let added = runner(record).add(list, plugin, target, conf).await;
        previous = Some(added.map_err(|error| plugin_error(list, &plugin.kind, Verb::Add, error))?);
    }
    let result = previous.unwrap_or_default();
    let mut cached = Cached::new(&list.name, pod, &network.interface, &network.list);
    cached.netns = netns.to_string_lossy().into_owned();
    cached.args = Some(record.args.clone());
    cached.capability_args = Some(record.capability_args.clone().into_iter().collect());
    cached.result = result.clone();
    blocking(record.cache_dir.clone(), move |dir| cache::write(dir, &cached)).await?;
    Ok(result)
}

/// DEL of every network in reverse. Every network is tried; the first error is returned, and a network's
/// cached result stays until its own DEL has succeeded.
pub(crate) async fn del(pod: &str, netns: Option<&Path>, record: &CniRecord) -> Result<(), CniError> {
    let mut outcome = Ok(());
    for network in record.networks.iter().rev() {
        let deleted = del_network(pod, netns, record, network).await;
        outcome = outcome.and(deleted);
    }
    outcome
}

async fn del_network(
    pod: &str,
    netns: Option<&Path>,
    record: &CniRecord,
    network: &CniNetworkRecord,
) -> Result<(), CniError> {
    let list = conf::parse_list(&network.list)?;
    let previous = previous_result(pod, record, network, &list).await?;
    for plugin in list.plugins.iter().rev() {
        let conf = configuration(&list, plugin, &record.capability_args, previous.as_ref());
        let target = target(pod, netns, network, record);
        let deleted = runner(record).call(Verb::Del, &plugin.kind, Some(target), conf).await;
        deleted.map_err(|error| plugin_error(&list, &plugin.kind, Verb::Del, error))?;
    }
    let (name, pod, interface) = (list.name.clone(), pod.to_owned(), network.interface.clone());
    blocking(record.cache_dir.clone(), move |dir| cache::remove(dir, &name, &pod, &interface)).await
}

/// The cached result, where the network's version lets DEL and CHECK have one.
async fn previous_result(
    pod: &str,
    record: &CniRecord,
    network: &CniNetworkRecord,
    list: &NetworkList,
) -> Result<Option<Value>, CniError> {
    if !list.version.has_check() {
        return Ok(None);
    }
    let (name, pod, interface) = (list.name.clone(), pod.to_owned(), network.interface.clone());
    let read = move |dir: &Path| cache::read(dir, &name, &pod, &interface);
    let cached = blocking(record.cache_dir.clone(), read).await?;
    Ok(cached.map(|cached| cached.result).filter(Value::is_object))
}

/// CHECK of every network: whether what ADD made is still as it was.
pub(crate) async fn check(pod: &str, netns: &Path, record: &CniRecord) -> Result<(), CniError> {
    for network in &record.networks {
        let list = conf::parse_list(&network.list)?;
        let previous = previous_result(pod, record, network, &list).await?;
        if list.disable_check || previous.is_none() {
            return Err(CniError::NoCheck(list.name));
        }
        for plugin in &list.plugins {
            let conf = configuration(&list, plugin, &record.capability_args, previous.as_ref());
            let target = target(pod, Some(netns), network, record);
            let checked = runner(record).call(Verb::Check, &plugin.kind, Some(target), conf).await;
            checked.map_err(|error| plugin_error(&list, &plugin.kind, Verb::Check, error))?;
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    dir: PathBuf,
    work: impl FnOnce(&Path) -> Result<T, CacheError> + Send + 'static,
) -> Result<T, CniError> {
    Ok(crate::network::unwind(tokio::task::spawn_blocking(move || work(&dir)).await)?)
}
