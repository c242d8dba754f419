//! Following the configuration folder: whatever changes there, the networks are loaded again and asked for
//! their STATUS, and the outcome is published.
//!
//! ```text
//!   watch the folder (or the nearest one above it that exists) ─► load ─► STATUS ─► publish ─┐
//!        ▲                                                                                  ▼
//!        └── pause, so that a burst of changes counts once ◄── change, or a nudge ◄─────── wait
//! ```
//!
//! The watch is set before the folder is read, so no change can fall between.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::conf::{self, NetworkList};
use super::plugin::{Runner, Verb, configuration};
use crate::attachment::NetworkStatus;
use crate::config::CniConfig;

/// How long a change settles before the folder is read again.
const SETTLE: Duration = Duration::from_millis(100);
/// How old an answer to STATUS may be before a question for it has plugins asked again.
const STATUS_AGE: Duration = Duration::from_secs(10);
/// So many failed STATUS in a row make a ready network not ready: one slow moment of a plugin's daemon must
/// not set a node NotReady.
const STATUS_FAILURES: u32 = 2;
/// After an error of the watch itself.
const RETRY: Duration = Duration::from_secs(5);

/// The networks as they are now.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) networks: Arc<Vec<NetworkList>>,
    pub(crate) status: NetworkStatus,
    /// When STATUS was asked; `None` if no network has it.
    asked: Option<Instant>,
}

/// What the watching task and its readers share.
#[derive(Debug)]
pub(crate) struct Watch {
    config: CniConfig,
    /// Replaced as a whole by the task; cloned by readers.
    published: Mutex<Published>,
    nudge: Notify,
}

/// Why the folder cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("watch CNI configuration folder {dir}")]
pub struct WatchError {
    dir: PathBuf,
    #[source]
    source: io::Error,
}

fn not_ready(why: impl std::fmt::Display) -> NetworkStatus {
    NetworkStatus::NotReady {
        reason: "NetworkPluginNotReady",
        message: format!("cni plugin not initialized: {why}"),
    }
}

impl Watch {
    pub(crate) fn new(config: CniConfig) -> Watch {
        let published = Published {
            networks: Arc::default(),
            status: not_ready("no configuration was read yet"),
            asked: None,
        };
        Watch { config, published: Mutex::new(published), nudge: Notify::new() }
    }

    pub(crate) fn published(&self) -> Published {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Plugins are asked only while somebody wants to know, so an idle node executes nothing.
        if published.asked.is_some_and(|asked| asked.elapsed() > STATUS_AGE) {
            self.nudge.notify_one();
        }
        published
    }

    /// Reads the folder once: at open, so that the first answer is a true one.
    pub(crate) async fn load(&self) -> Result<Inotify, WatchError> {
        let inotify = self.arm()?;
        self.reload(&mut 0).await;
        Ok(inotify)
    }

    /// Follows the folder for ever.
    pub(crate) async fn follow(self: Arc<Self>, mut inotify: Inotify) {
        let mut failures = 0;
        loop {
            tokio::select! {
                () = inotify.changed() => tokio::time::sleep(SETTLE).await,
                () = self.nudge.notified() => (),
            }
            inotify = loop {
                match self.arm() {
                    Ok(inotify) => break inotify,
                    Err(error) => {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "cannot follow CNI configurations"
                        );
                        tokio::time::sleep(RETRY).await;
                    }
                }
            };
            self.reload(&mut failures).await;
        }
    }

    async fn reload(&self, failures: &mut u32) {
        let before = self.published.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let loaded = conf::load_dir(&self.config.conf_dir, self.config.max_conf_num, |error| {
            tracing::warn!(error = error as &dyn std::error::Error, "CNI configuration is skipped");
        });
        let now = match loaded {
            Err(error) => {
                Published { networks: Arc::default(), status: not_ready(chain(&error)), asked: None }
            }
            Ok(networks) => self.asked(&before, networks, failures).await,
        };
        if now.status != before.status {
            tracing::info!(status = ?now.status, networks = now.networks.len(), "pod network status changed");
        }
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    async fn asked(&self, before: &Published, networks: Vec<NetworkList>, failures: &mut u32) -> Published {
        let asked = networks.iter().any(|list| list.version.has_status()).then(Instant::now);
        let unchanged = *before.networks == networks;
        let status = match self.status_of(&networks).await {
            Ok(()) => {
                *failures = 0;
                NetworkStatus::Ready
            }
            Err(why) => {
                *failures += 1;
                let patient = unchanged && *failures < STATUS_FAILURES;
                if patient && before.status == NetworkStatus::Ready {
                    NetworkStatus::Ready
                } else {
                    not_ready(why)
                }
            }
        };
        Published { networks: Arc::new(networks), status, asked }
    }

    /// Asks every plugin of networks whose version has STATUS.
    async fn status_of(&self, networks: &[NetworkList]) -> Result<(), String> {
        let runner = Runner { bin_dirs: &self.config.bin_dirs, timeout: self.config.plugin_timeout };
        for list in networks.iter().filter(|list| list.version.has_status()) {
            for plugin in &list.plugins {
                let conf = configuration(list, plugin, [], None);
                match runner.call(Verb::Status, &plugin.kind, None, conf).await {
                    Err(error) if !error.is_unknown_verb() => {
                        return Err(format!(
                            "STATUS of plugin {} of network {}: {}",
                            plugin.kind,
                            list.name,
                            chain(&error)
                        ));
                    }
                    _ => (),
                }
            }
        }
        Ok(())
    }

    /// A fresh watch of the folder and of the nearest folder above it that exists.
    fn arm(&self) -> Result<Inotify, WatchError> {
        let dir = &self.config.conf_dir;
        Inotify::new(dir).map_err(|source| WatchError { dir: dir.clone(), source })
    }
}

/// An error and its causes in one line: a status message has no `source()`.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// inotify(7) on a folder that may not exist yet.
pub(crate) struct Inotify(AsyncFd<OwnedFd>);

impl Inotify {
    fn new(dir: &Path) -> io::Result<Inotify> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        // The folder itself may be replaced by a rename, which only the one above sees.
        let mut found = 0;
        for ancestor in dir.ancestors() {
            match inotify::add_watch(&fd, ancestor, flags) {
                Ok(_) => found += 1,
                Err(Errno::NOENT | Errno::NOTDIR) => (),
                Err(errno) => return Err(errno.into()),
            }
            if found == 2 {
                break;
            }
        }
        // Deprecated because the type it takes may not own what it polls. An OwnedFd does, and the successor is
        // an unsafe function, which this crate has none of.
        #[expect(deprecated, reason = "the replacement is unsafe and OwnedFd needs none of its promises")]
        let polled = AsyncFd::new(fd)?;
        Ok(Inotify(polled))
    }

    /// Ends when something has changed.
    async fn changed(&self) {
        let Ok(mut ready) = self.0.readable().await else { return };
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        // What changed does not matter, only that the next wait begins afresh.
        while matches!(rustix::io::read(&self.0, &mut buffer), Ok((read, _)) if !read.is_empty()) {}
        ready.clear_ready();
    }
}
