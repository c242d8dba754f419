//! One call of one plugin: CNI specification 1.1.0, sections 2 ("Execution Protocol") and 5.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::{Map, Value};

use super::conf::{NetworkList, PluginConf};
use super::exec::{self, ExecError, shown};
use super::result::{self, ResultError};

/// Error code 4: the plugin does not know this CNI_COMMAND.
const CODE_INVALID_ENVIRONMENT: u64 = 4;
/// How much of a plugin's own words an error carries.
const MESSAGE_MAX_CHARS: usize = 2048;

/// What a plugin is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
    Status,
    Gc,
}

impl Verb {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
            Verb::Check => "CHECK",
            Verb::Status => "STATUS",
            Verb::Gc => "GC",
        }
    }
}

/// Where plugins are and how long they may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Runner<'a> {
    pub(crate) bin_dirs: &'a [PathBuf],
    pub(crate) timeout: Duration,
}

/// Which attachment a call is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) container: &'a str,
    /// Absent when the namespace is gone.
    pub(crate) netns: Option<&'a Path>,
    pub(crate) interface: &'a str,
    pub(crate) args: &'a [(String, String)],
}

/// Why a plugin did not do it.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// It could not be run to its end.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// It said so.
    #[error("plugin failed with code {code}: {message}{}", shown(stderr))]
    Failed {
        /// Its error code (specification, "Error").
        code: u64,
        /// Its words.
        message: String,
        /// What it wrote to stderr.
        stderr: String,
    },
    /// It ended badly without saying why.
    #[error("plugin crashed ({status}){}", shown(stderr))]
    Crashed {
        /// How.
        status: ExitStatus,
        /// What it wrote to stderr.
        stderr: String,
    },
    /// It succeeded but its answer is none.
    #[error(transparent)]
    Result(#[from] ResultError),
}

impl PluginError {
    /// Whether the plugin knows nothing of the verb.
    pub(crate) fn is_unknown_verb(&self) -> bool {
        matches!(self, PluginError::Failed { code: CODE_INVALID_ENVIRONMENT, .. })
    }
}

/// The plugin's configuration as it gets it on stdin.
pub(crate) fn configuration<'a>(
    list: &NetworkList,
    plugin: &PluginConf,
    capability_args: impl IntoIterator<Item = (&'a String, &'a Value)>,
    previous: Option<&Value>,
) -> Map<String, Value> {
    let mut conf = plugin.raw.clone();
    conf.insert("name".into(), list.name.as_str().into());
    conf.insert("cniVersion".into(), list.version.as_str().into());
    conf.remove("cniVersions");
    let wanted = capability_args.into_iter().filter(|(name, _)| plugin.capabilities.contains(name));
    let runtime: Map<String, Value> = wanted.map(|(name, value)| (name.clone(), value.clone())).collect();
    if !runtime.is_empty() {
        conf.insert("runtimeConfig".into(), Value::Object(runtime));
    }
    match previous {
        Some(previous) => conf.insert("prevResult".into(), previous.clone()),
        None => conf.remove("prevResult"),
    };
    conf
}

impl Runner<'_> {
    /// Calls the plugin; its stdout if it succeeded.
    pub(crate) async fn call(
        &self,
        verb: Verb,
        kind: &str,
        target: Option<Target<'_>>,
        conf: Map<String, Value>,
    ) -> Result<Vec<u8>, PluginError> {
        let mut env = vec![("CNI_COMMAND", verb.as_str().to_owned())];
        if let Some(target) = target {
            let args: Vec<String> = target.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let netns = target.netns.map(|path| path.to_string_lossy().into_owned());
            env.push(("CNI_CONTAINERID", target.container.to_owned()));
            env.push(("CNI_NETNS", netns.unwrap_or_default()));
            env.push(("CNI_IFNAME", target.interface.to_owned()));
            env.push(("CNI_ARGS", args.join(";")));
        }
        let stdin = Value::Object(conf).to_string();
        let output = exec::run(self.bin_dirs, kind, &env, stdin.as_bytes(), self.timeout).await?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(failure(output))
    }

    /// ADD: the plugin's result, checked.
    pub(crate) async fn add(
        &self,
        list: &NetworkList,
        plugin: &PluginConf,
        target: Target<'_>,
        conf: Map<String, Value>,
    ) -> Result<Value, PluginError> {
        let stdout = self.call(Verb::Add, &plugin.kind, Some(target), conf).await?;
        Ok(result::parse(&stdout, list.version)?)
    }
}

fn failure(output: exec::Output) -> PluginError {
    let said: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    let code = said.as_ref().and_then(|said| said.get("code")).and_then(Value::as_u64);
    let (Some(said), Some(code)) = (said, code) else {
        return PluginError::Crashed { status: output.status, stderr: output.stderr };
    };
    let words = |field: &str| said.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (mut message, details) = (words("msg"), words("details"));
    if !details.is_empty() {
        message = format!("{message} ({details})");
    }
    let message = message.chars().take(MESSAGE_MAX_CHARS).collect();
    PluginError::Failed { code, message, stderr: output.stderr }
}
