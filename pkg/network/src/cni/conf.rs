//! CNI network configurations: from a folder of files to lists of plugins that can be executed.
//!
//! The grammar is that of the CNI specification 1.1.0, section 1. What a file says is not trusted further
//! than its grammar: a plugin's `type` becomes a file name, so it has no `/` and is not `.` or `..`
//! (CVE-2021-20206).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::version::Version;

/// One configuration file.
const CONF_MAX_BYTES: u64 = 1 << 20;
/// Files of one folder.
const CONF_FILES_MAX: usize = 1024;
/// Plugins of one list.
const PLUGINS_MAX: usize = 64;

/// A network: plugins that are executed one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NetworkList {
    pub(crate) name: String,
    pub(crate) version: Version,
    pub(crate) plugins: Vec<PluginConf>,
    pub(crate) disable_check: bool,
    pub(crate) disable_gc: bool,
    /// The list as JSON, with everything it was made of.
    pub(crate) raw: Value,
}

/// One plugin's part of a network.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PluginConf {
    /// The executable's name.
    pub(crate) kind: String,
    /// Names under which it takes a `runtimeConfig`.
    pub(crate) capabilities: Vec<String>,
    pub(crate) raw: Map<String, Value>,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// The file system failed.
    #[error("read CNI configuration {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// No configuration is this long.
    #[error("CNI configuration {0} is longer than {CONF_MAX_BYTES} bytes")]
    TooLong(PathBuf),
    /// Somebody filled the folder.
    #[error("more than {CONF_FILES_MAX} CNI configurations in {0}")]
    TooMany(PathBuf),
    /// It is not JSON.
    #[error("CNI configuration {path} is not valid JSON")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// It is JSON, but no configuration.
    #[error("CNI configuration {path}: {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        problem: Problem,
    },
    /// There is none.
    #[error("no network config found in {0}")]
    None(PathBuf),
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The whole is no object.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// The name is absent or could leave its folder.
    #[error("network name {0:?} must begin with a letter or digit and have only A-Z a-z 0-9 . _ -")]
    Name(String),
    /// A version that is not spoken here.
    #[error("cniVersion {0:?} is not supported (0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0 are)")]
    Version(String),
    /// A list without plugins.
    #[error("there are no plugins in the list")]
    NoPlugins,
    /// A list of too many.
    #[error("{0} plugins are more than {PLUGINS_MAX}")]
    TooManyPlugins(usize),
    /// The plugin's type would not be a file name.
    #[error("plugin type {0:?} must have only A-Z a-z 0-9 . _ - and not be . or ..")]
    PluginType(String),
    /// A field has another JSON type than the specification gives it.
    #[error("field {0:?} has the wrong type")]
    Field(&'static str),
}

/// The first `max` (0: all) usable networks of the folder in lexical order of file names. Broken files are
/// handed to `broken` and skipped; with no usable file at all, the first of them is the error.
pub(crate) fn load_dir(
    dir: &Path,
    max: usize,
    mut broken: impl FnMut(&ConfError),
) -> Result<Vec<NetworkList>, ConfError> {
    let mut first_broken = None;
    let mut lists: Vec<NetworkList> = Vec::new();
    for path in conf_files(dir, &["conf", "conflist", "json"])? {
        if max != 0 && lists.len() == max {
            break;
        }
        match load_file(&path) {
            Ok(list) => lists.push(list),
            Err(error) => {
                broken(&error);
                first_broken.get_or_insert(error);
            }
        }
    }
    match first_broken {
        Some(error) if lists.is_empty() => Err(error),
        None if lists.is_empty() => Err(ConfError::None(dir.into())),
        _ => Ok(lists),
    }
}

fn conf_files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, ConfError> {
    let error = |source| ConfError::Io { path: dir.into(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(error(source)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(error)?.path();
        let wanted = path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e));
        // Links count: installers point from here into their own folders.
        if wanted && path.is_file() {
            files.push(path);
        }
        if files.len() > CONF_FILES_MAX {
            return Err(ConfError::TooMany(dir.into()));
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn load_file(path: &Path) -> Result<NetworkList, ConfError> {
    let invalid = |problem| ConfError::Invalid { path: path.into(), problem };
    let value = read_json(path)?;
    let list = match path.extension().and_then(|e| e.to_str()) {
        Some("conflist") => value,
        _ => list_of_one(value).map_err(invalid)?,
    };
    let list = with_folder_plugins(path, list)?;
    parse_list(&list).map_err(invalid)
}

fn read_json(path: &Path) -> Result<Value, ConfError> {
    let error = |source| ConfError::Io { path: path.into(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(error)?.take(CONF_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > CONF_MAX_BYTES {
        return Err(ConfError::TooLong(path.into()));
    }
    serde_json::from_slice(&bytes).map_err(|source| ConfError::Json { path: path.into(), source })
}

/// A single plugin's configuration (`.conf`, `.json`) as a list.
fn list_of_one(conf: Value) -> Result<Value, Problem> {
    let Value::Object(conf) = conf else { return Err(Problem::NotAnObject) };
    let mut list = Map::new();
    for field in ["cniVersion", "cniVersions", "name"] {
        if let Some(value) = conf.get(field) {
            list.insert(field.into(), value.clone());
        }
    }
    list.insert("plugins".into(), Value::Array(vec![Value::Object(conf)]));
    Ok(Value::Object(list))
}

/// CNI 1.1.0: unless `loadOnlyInlinedPlugins` is true, the `.conf` files of the folder named like the
/// network, beside the list, are plugins too and come last.
fn with_folder_plugins(path: &Path, mut list: Value) -> Result<Value, ConfError> {
    let invalid = |problem| ConfError::Invalid { path: path.into(), problem };
    let Some(object) = list.as_object_mut() else { return Err(invalid(Problem::NotAnObject)) };
    if flag(object, "loadOnlyInlinedPlugins").map_err(invalid)? {
        return Ok(list);
    }
    let name = object.get("name").and_then(Value::as_str).unwrap_or_default();
    let Some(parent) = path.parent().filter(|_| is_network_name(name)) else { return Ok(list) };
    let files = conf_files(&parent.join(name), &["conf"])?;
    if !files.is_empty() {
        let plugins = object.entry("plugins").or_insert_with(|| Value::Array(Vec::new()));
        let Some(plugins) = plugins.as_array_mut() else { return Err(invalid(Problem::Field("plugins"))) };
        for file in files {
            plugins.push(read_json(&file)?);
        }
    }
    Ok(list)
}

/// A list from JSON: a file's, or the one an attachment was made with.
pub(crate) fn parse_list(list: &Value) -> Result<NetworkList, Problem> {
    let object = list.as_object().ok_or(Problem::NotAnObject)?;
    let name = object.get("name").map_or(Ok(""), |name| name.as_str().ok_or(Problem::Field("name")))?;
    if !is_network_name(name) {
        return Err(Problem::Name(name.into()));
    }
    let plugins = match object.get("plugins") {
        None => return Err(Problem::NoPlugins),
        Some(plugins) => plugins.as_array().ok_or(Problem::Field("plugins"))?,
    };
    match plugins.len() {
        0 => return Err(Problem::NoPlugins),
        len if len > PLUGINS_MAX => return Err(Problem::TooManyPlugins(len)),
        _ => (),
    }
    Ok(NetworkList {
        name: name.into(),
        version: list_version(object)?,
        plugins: plugins.iter().map(parse_plugin).collect::<Result<_, _>>()?,
        disable_check: flag(object, "disableCheck")?,
        disable_gc: flag(object, "disableGC")?,
        raw: list.clone(),
    })
}

/// The highest version of `cniVersion` and `cniVersions` (1.1.0) that is spoken here.
fn list_version(list: &Map<String, Value>) -> Result<Version, Problem> {
    let mut offered = Vec::new();
    if let Some(version) = list.get("cniVersion") {
        offered.push(version.as_str().ok_or(Problem::Field("cniVersion"))?);
    }
    if let Some(versions) = list.get("cniVersions") {
        for version in versions.as_array().ok_or(Problem::Field("cniVersions"))? {
            offered.push(version.as_str().ok_or(Problem::Field("cniVersions"))?);
        }
    }
    let best = offered.iter().filter_map(|version| Version::parse(version)).max();
    best.ok_or_else(|| Problem::Version(offered.join(", ")))
}

fn parse_plugin(plugin: &Value) -> Result<PluginConf, Problem> {
    let raw = plugin.as_object().ok_or(Problem::NotAnObject)?;
    let kind = raw.get("type").map_or(Ok(""), |kind| kind.as_str().ok_or(Problem::Field("type")))?;
    if !is_plugin_type(kind) {
        return Err(Problem::PluginType(kind.into()));
    }
    let capabilities = match raw.get("capabilities") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(capabilities)) => {
            let on = capabilities.iter().filter(|(_, on)| on.as_bool() == Some(true));
            on.map(|(name, _)| name.clone()).collect()
        }
        Some(_) => return Err(Problem::Field("capabilities")),
    };
    Ok(PluginConf { kind: kind.into(), capabilities, raw: raw.clone() })
}

/// Booleans of a list; some are seen as texts in the wild (`"disableCheck": "true"`).
fn flag(object: &Map<String, Value>, field: &'static str) -> Result<bool, Problem> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(text)) if text == "true" => Ok(true),
        Some(Value::String(text)) if text == "false" => Ok(false),
        Some(_) => Err(Problem::Field(field)),
    }
}

fn is_network_name(name: &str) -> bool {
    name.len() <= 128
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(is_word_byte)
}

fn is_plugin_type(kind: &str) -> bool {
    (1..=128).contains(&kind.len()) && kind.bytes().all(is_word_byte) && kind != "." && kind != ".."
}

fn is_word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests;
