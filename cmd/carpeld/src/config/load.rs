//! Reading, merging and checking configuration files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;
use toml::{Table, Value};

use super::{AUTO, CgroupDriver, Config};

/// The largest configuration file, in bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// What the command line says beats every file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--root`.
    pub root: Option<PathBuf>,
    /// `--state`.
    pub state: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is too large to be a configuration.
    #[error("the configuration {path} has {bytes} bytes, over the limit of {FILE_MAX_BYTES}")]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// How large.
        bytes: u64,
    },
    /// A file is not TOML, or has a key or value that does not exist. The cause tells line and choices.
    #[error("the configuration {path} is not valid; `carpeld config default` shows every key")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The files together make no sense.
    #[error("the configuration makes no sense: {what}")]
    Senseless {
        /// What is wrong, and what to do.
        what: String,
    },
}

impl Config {
    /// Reads `path` and the drop-ins beside it, then applies `overrides` and checks the whole.
    ///
    /// A missing `path` is no error when `path` is only the default place.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
        let main = path.unwrap_or(Path::new(super::DEFAULT_PATH));
        let mut merged = Table::new();
        if path.is_some() || main.exists() {
            merge(&mut merged, read(main)?);
        }
        for drop_in in drop_ins(main)? {
            merge(&mut merged, read(&drop_in)?);
        }
        let mut config: Config = merged
            .try_into()
            .map_err(|source| ConfigError::Parse { path: main.to_owned(), source: Box::new(source) })?;
        for (value, place) in [
            (&overrides.root, &mut config.root),
            (&overrides.state, &mut config.state),
            (&overrides.listen, &mut config.listen),
        ] {
            if let Some(value) = value {
                place.clone_from(value);
            }
        }
        config.check()?;
        Ok(config)
    }

    /// The whole configuration as TOML, as `carpeld config dump` prints it.
    ///
    /// # Errors
    /// Never for a configuration that was loaded.
    pub fn dump(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let senseless = |what: String| Err(ConfigError::Senseless { what });
        for (name, path) in [("root", &self.root), ("state", &self.state), ("listen", &self.listen)] {
            if !path.is_absolute() {
                return senseless(format!("{name} = {path:?} is not an absolute path"));
            }
        }
        if self.root == self.state {
            return senseless(format!("root and state are both {:?}; state must lie on tmpfs", self.root));
        }
        if self.network.builtin.is_some() && self.network.cni.is_some() {
            return senseless("both [network.builtin] and [network.cni] are given; keep one".into());
        }
        for (name, parent) in [("parent", &self.cgroups.parent), ("shims", &self.cgroups.shims)] {
            let is_slice = parent.ends_with(".slice");
            let fits = match self.cgroups.driver {
                _ if parent.is_empty() || parent == AUTO => true,
                CgroupDriver::Systemd => is_slice,
                CgroupDriver::Cgroupfs => !is_slice,
                // Which it will be is seen at start.
                CgroupDriver::Auto => true,
            };
            if !fits {
                return senseless(format!(
                    "cgroups.{name} = {parent:?} does not fit cgroups.driver: \"systemd\" takes the name of a \
                     slice (name.slice), \"cgroupfs\" a path"
                ));
            }
        }
        // What the rooms would refuse later, after the daemon has taken its folders.
        crate::rooms::network(self)
            .and_then(|network| Ok(network.check()?))
            .map_err(|error| ConfigError::Senseless { what: format!("{error:#}") })?;
        if !(1024..=1 << 20).contains(&self.runtime.log_line_max_bytes) {
            return senseless("runtime.log_line_max_bytes must lie between 1024 and 1048576".into());
        }
        if self.image.max_concurrent_downloads == 0 || self.image.progress_timeout_s == 0 {
            return senseless(
                "image.max_concurrent_downloads and image.progress_timeout_s must not be 0".into(),
            );
        }
        Ok(())
    }
}

/// `conf.d/*.toml` beside `main`, sorted by name.
fn drop_ins(main: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let dir = main.with_file_name("conf.d");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ConfigError::Read { path: dir, source }),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| ConfigError::Read { path: dir.clone(), source })?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Reads one file. It is checked by itself, so that an error names the file and the line.
fn read(path: &Path) -> Result<Table, ConfigError> {
    let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > FILE_MAX_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned(), bytes });
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let invalid = |source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) };
    toml::from_str::<Config>(&text).map_err(invalid)?;
    toml::from_str(&text).map_err(invalid)
}

/// Lays `over` upon `base`: tables key by key, anything else replaces.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
