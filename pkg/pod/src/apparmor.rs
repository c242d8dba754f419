//! AppArmor on this node: which profiles the kernel has, and the default one, which we load ourselves.
//!
//! ```text
//!   kernel without AppArmor ─▶ RuntimeDefault is nothing, Localhost is refused
//!   no apparmor_parser      ─▶ as it is in the kernel: nobody can load the default profile
//!   else                    ─▶ loaded once by each daemon, so that a new release replaces an older text;
//!                              again if somebody has removed it; a failure is the container's
//! ```
//!
//! What a container gets of this is decided in `carpel_spec`. Sources: apparmor_parser(8),
//! apparmor.d(5), Documentation/admin-guide/LSM/apparmor.rst of the kernel.

use std::{
    collections::BTreeSet,
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use carpel_spec::{
    config::{ContainerSecurity, SecurityProfile},
    input::AppArmor,
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    sync::Mutex,
};

/// The name that the default profile has in the kernel.
const DEFAULT: &str = "carpel-default";
/// Its text; what stands between `@` is filled in.
const TEMPLATE: &str = include_str!("apparmor/default.profile");
/// Profiles that are loaded, `name (mode)` a line.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// The most that is read of that file, in bytes.
const LOADED_MAX_BYTES: u64 = 4 << 20;
/// Where the parser is: Debian, Ubuntu and SUSE have one or the other.
const PARSERS: [&str; 2] = ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"];
/// Pins the rules' meaning where the parser is of a version that knows it (3.0).
const ABI_FILE: &str = "/etc/apparmor.d/abi/3.0";
/// How long loading may take, waiting for another load included.
const LOAD_MAX: Duration = Duration::from_secs(10);
/// How much of the parser's complaint is told.
const COMPLAINT_MAX_BYTES: u64 = 4 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Profiles {
    kernel: Kernel,
    parser: Option<PathBuf>,
    /// Whether this daemon has loaded its own text of the default profile.
    is_ours: Mutex<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    Without,
    With,
}

/// Why it is not known, or not as needed, what the kernel has.
#[derive(Debug, Error)]
pub enum AppArmorError {
    /// The kernel did not tell which profiles are loaded.
    #[error("read which AppArmor profiles are loaded from {LOADED}")]
    Loaded(#[source] io::Error),
    /// The parser could not be executed, fed or waited for.
    #[error("load the default AppArmor profile: {operation} {}", parser.display())]
    Run {
        /// What was attempted.
        operation: &'static str,
        /// The program.
        parser: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The parser refused the profile, or the kernel did.
    #[error("load the default AppArmor profile: {} ended with {status}: {complaint}", parser.display())]
    Refused {
        /// The program.
        parser: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        complaint: String,
    },
    /// The parser was killed.
    #[error("load the default AppArmor profile: not done within {LOAD_MAX:?}")]
    Timeout,
}

/// AppArmor on this node, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppArmorState {
    /// The kernel has none, or it is off.
    Off,
    /// It is on, and the default profile is in the kernel.
    DefaultLoaded,
    /// It is on, and the default profile is not in the kernel: it could not be loaded yet.
    DefaultNotLoaded,
    /// It is on, and there is no parser to load the default profile with.
    WithoutParser,
}

impl fmt::Display for AppArmorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AppArmorState::Off => "off",
            AppArmorState::DefaultLoaded => "on, with the default profile",
            AppArmorState::DefaultNotLoaded => "on, the default profile is not loaded",
            AppArmorState::WithoutParser => {
                "on, without apparmor_parser: RuntimeDefault containers are not confined"
            }
        })
    }
}

impl Profiles {
    /// Looks what there is. Loads nothing.
    pub(crate) fn look() -> Profiles {
        let on = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        // Without securityfs, as in a container that a node is played in, nothing can be asked or loaded.
        let is_on = on.is_ok_and(|on| on.trim() == "Y") && Path::new(LOADED).exists();
        let kernel = if is_on { Kernel::With } else { Kernel::Without };
        let parser = PARSERS.iter().map(PathBuf::from).find(|path| path.is_file());
        Profiles { kernel, parser, is_ours: Mutex::new(false) }
    }

    /// What a container's plan needs to know, after the default profile was loaded if it needs that.
    ///
    /// # Errors
    /// The kernel does not tell, or the default profile cannot be loaded.
    pub(crate) async fn for_container(&self, asked: &ContainerSecurity) -> Result<AppArmor, AppArmorError> {
        if self.kernel == Kernel::Without {
            return Ok(AppArmor::Absent);
        }
        let nothing_needed = || AppArmor::Enabled { default_profile: None, loaded: BTreeSet::new() };
        match &asked.apparmor {
            _ if asked.privileged => Ok(nothing_needed()),
            SecurityProfile::Unconfined => Ok(nothing_needed()),
            SecurityProfile::Localhost(_) => Ok(self.enabled(loaded()?)),
            SecurityProfile::RuntimeDefault => Ok(self.enabled(self.with_default().await?)),
        }
    }

    fn enabled(&self, loaded: BTreeSet<String>) -> AppArmor {
        let default_profile = (self.parser.is_some() || loaded.contains(DEFAULT)).then(|| DEFAULT.to_owned());
        AppArmor::Enabled { default_profile, loaded }
    }

    /// Loads the default profile unless it is there, and gives all that are loaded.
    async fn with_default(&self) -> Result<BTreeSet<String>, AppArmorError> {
        let Some(parser) = &self.parser else { return loaded() };
        let work = async {
            let mut is_ours = self.is_ours.lock().await;
            let before = loaded()?;
            if *is_ours && before.contains(DEFAULT) {
                return Ok(before);
            }
            load(parser, &profile(&own_label(), Path::new(ABI_FILE).exists())).await?;
            *is_ours = true;
            tracing::info!(profile = DEFAULT, "the default AppArmor profile is loaded");
            loaded()
        };
        tokio::time::timeout(LOAD_MAX, work).await.unwrap_or(Err(AppArmorError::Timeout))
    }

    /// Loads the default profile before somebody waits for it. Without a kernel part or a parser nothing
    /// is done but to say what that means.
    pub(crate) async fn prepare(&self) {
        match (self.kernel, &self.parser) {
            (Kernel::Without, _) => return,
            (Kernel::With, None) => return tracing::warn!(state = %self.state(), "AppArmor"),
            (Kernel::With, Some(_)) => {}
        }
        if let Err(err) = self.with_default().await {
            // Each container that needs it tries again, and is refused with the reason.
            tracing::warn!(err = &err as &dyn std::error::Error, "no default AppArmor profile");
        }
    }

    /// For people: what there is now.
    pub(crate) fn state(&self) -> AppArmorState {
        match self.kernel {
            Kernel::Without => AppArmorState::Off,
            Kernel::With if loaded().is_ok_and(|loaded| loaded.contains(DEFAULT)) => {
                AppArmorState::DefaultLoaded
            }
            Kernel::With if self.parser.is_none() => AppArmorState::WithoutParser,
            Kernel::With => AppArmorState::DefaultNotLoaded,
        }
    }
}

/// The names of the profiles that are loaded.
fn loaded() -> Result<BTreeSet<String>, AppArmorError> {
    let mut text = String::new();
    let file = fs::File::open(LOADED).map_err(AppArmorError::Loaded)?;
    file.take(LOADED_MAX_BYTES).read_to_string(&mut text).map_err(AppArmorError::Loaded)?;
    Ok(text.lines().filter_map(|line| line.rsplit_once(" (")).map(|(name, _mode)| name.to_owned()).collect())
}

/// The profile that the daemon itself runs in; empty if in none.
fn own_label() -> String {
    // `name (mode)`, or `unconfined`; proc_pid_attr(5).
    let label = fs::read_to_string("/proc/self/attr/apparmor/current")
        .or_else(|_| fs::read_to_string("/proc/self/attr/current"))
        .unwrap_or_default();
    let name = label.trim_end().trim_end_matches('\0').rsplit_once(" (").map_or("", |(name, _mode)| name);
    name.to_owned()
}

/// The text of the default profile. A daemon that is confined itself, as in a container, must be able to
/// signal its containers and to look at them, like the host.
fn profile(daemon: &str, has_abi: bool) -> String {
    // Nothing else can stand in a quoted name, apparmor.d(5); a name with it is nobody's in practice.
    let is_plain = !daemon.is_empty() && !daemon.contains(|c: char| c == '"' || c == '\\' || c.is_control());
    let daemon = match is_plain {
        true => {
            format!("  signal (receive) peer=\"{daemon}\",\n  ptrace (tracedby, readby) peer=\"{daemon}\",\n")
        }
        false => String::new(),
    };
    TEMPLATE
        .replace("@ABI@", if has_abi { "abi <abi/3.0>,\n" } else { "" })
        .replace("@NAME@", DEFAULT)
        .replace("@DAEMON@", &daemon)
}

/// Has the parser compile a profile, and load it or replace the one of its name.
async fn load(parser: &Path, text: &str) -> Result<(), AppArmorError> {
    let failed = |operation, source| AppArmorError::Run { operation, parser: parser.to_owned(), source };
    let mut child = Command::new(parser)
        // --skip-cache --replace --quiet: no warnings.
        .arg("-Krq")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| failed("execute", source))?;
    let mut stdin = child.stdin.take().ok_or_else(|| failed("feed", io::ErrorKind::BrokenPipe.into()))?;
    // The text fits into the pipe, so this waits for nobody.
    let fed = stdin.write_all(text.as_bytes()).await;
    drop(stdin);
    let mut complaint = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let read = stderr.take(COMPLAINT_MAX_BYTES).read_to_end(&mut complaint).await;
        read.map_err(|source| failed("read the words of", source))?;
    }
    let status = child.wait().await.map_err(|source| failed("wait for", source))?;
    if !status.success() {
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        return Err(AppArmorError::Refused { parser: parser.to_owned(), status, complaint });
    }
    fed.map_err(|source| failed("feed", source))
}

#[cfg(test)]
mod tests;
