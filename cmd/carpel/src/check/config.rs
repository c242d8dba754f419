//! The daemon's configuration, judged by the daemon itself: `carpeld config check`, and `config dump` for
//! the folders that other checks look at.

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::{Args, finding::Finding};

/// How long the daemon may take to read its configuration.
const LIMIT: Duration = Duration::from_secs(10);

/// What the other checks need to know.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NodeConfig {
    pub(super) root: PathBuf,
    pub(super) state: PathBuf,
    pub(super) network: NetworkKind,
}

/// Who makes pods' networks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NetworkKind {
    Builtin,
    Cni { conf_dir: PathBuf, bin_dirs: Vec<PathBuf> },
}

impl Default for NodeConfig {
    /// What `carpeld config default` says.
    fn default() -> Self {
        Self { root: "/var/lib/carpel".into(), state: "/run/carpel".into(), network: NetworkKind::default() }
    }
}

impl Default for NetworkKind {
    fn default() -> Self {
        Self::Cni { conf_dir: "/etc/cni/net.d".into(), bin_dirs: vec!["/opt/cni/bin".into()] }
    }
}

/// The configuration in force, or the defaults where there is none, and what was found.
pub(super) async fn examine(args: &Args) -> (NodeConfig, Vec<Finding>) {
    let Some(program) = args.carpeld.clone().or_else(find_program) else {
        let advice = "install carpeld beside carpel or in PATH, or name it with --carpeld";
        return (NodeConfig::default(), vec![Finding::warning("daemon", "carpeld was not found", advice)]);
    };
    let mut findings = Vec::new();
    match run(&program, "check", args).await {
        Ok(output) if output.status.success() => {
            findings.push(Finding::ok("daemon", program.display().to_string()));
            findings.push(Finding::ok("configuration", "valid"));
        }
        Ok(output) => {
            findings.push(Finding::ok("daemon", program.display().to_string()));
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let advice = "correct it; `carpeld config default` shows every key with its meaning";
            findings.push(Finding::missing("configuration", said, advice));
            return (NodeConfig::default(), findings);
        }
        Err(error) => {
            let found = format!("{} does not run: {error}", program.display());
            findings.push(Finding::missing("daemon", found, "install carpeld anew"));
            return (NodeConfig::default(), findings);
        }
    }
    let dump = match run(&program, "dump", args).await {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(_) => String::new(),
    };
    let shim = shim_of(&dump, &program);
    findings.push(if shim.is_file() {
        Finding::ok("shim", shim.display().to_string())
    } else {
        let advice = "install carpel-shim beside carpeld, or name it by `shim` in [runtime]";
        Finding::missing("shim", format!("{} is not there", shim.display()), advice)
    });
    (parse(&dump), findings)
}

/// Beside this program, as packages and builds put it, or in PATH.
fn find_program() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("carpeld")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join("carpeld"));
    beside.into_iter().chain(in_path).find(|program| program.is_file())
}

async fn run(program: &Path, verb: &str, args: &Args) -> std::io::Result<Output> {
    let mut command = Command::new(program);
    command.args(["config", verb]).kill_on_drop(true);
    if let Some(config) = &args.config {
        command.arg("--config").arg(config);
    }
    timeout(LIMIT, command.output()).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Reads a dump. The daemon has checked it, so what is not there has its default.
fn parse(dump: &str) -> NodeConfig {
    let table: toml::Table = dump.parse().unwrap_or_default();
    let default = NodeConfig::default();
    let path =
        |key: &str, default| table.get(key).and_then(toml::Value::as_str).map_or(default, PathBuf::from);
    let network = table.get("network").and_then(toml::Value::as_table);
    let network = match (network.and_then(|network| network.get("builtin")), network) {
        (Some(_), _) => NetworkKind::Builtin,
        (None, network) => cni(network.and_then(|network| network.get("cni"))),
    };
    NodeConfig { root: path("root", default.root), state: path("state", default.state), network }
}

fn cni(table: Option<&toml::Value>) -> NetworkKind {
    let NetworkKind::Cni { conf_dir, bin_dirs } = NetworkKind::default() else {
        return NetworkKind::default();
    };
    let text = |value: &toml::Value| value.as_str().map(PathBuf::from);
    NetworkKind::Cni {
        conf_dir: table.and_then(|cni| cni.get("conf_dir")).and_then(text).unwrap_or(conf_dir),
        bin_dirs: table
            .and_then(|cni| cni.get("bin_dirs")?.as_array())
            .map_or(bin_dirs, |dirs| dirs.iter().filter_map(text).collect()),
    }
}

/// Empty in the configuration means: in the folder of the daemon.
fn shim_of(dump: &str, program: &Path) -> PathBuf {
    let table: toml::Table = dump.parse().unwrap_or_default();
    let named = table.get("runtime").and_then(|runtime| runtime.get("shim")?.as_str());
    match named {
        Some(path) if !path.is_empty() => path.into(),
        _ => program.canonicalize().unwrap_or_else(|_| program.to_owned()).with_file_name("carpel-shim"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_tells_folders_and_network() {
        let builtin = parse("root = \"/a\"\nstate = \"/b\"\n[network.builtin]\nbridge = \"x\"\n");
        assert_eq!((builtin.root.as_path(), builtin.state.as_path()), (Path::new("/a"), Path::new("/b")));
        assert_eq!(builtin.network, NetworkKind::Builtin);
        let cni = parse("[network.cni]\nconf_dir = \"/c\"\nbin_dirs = [\"/d\", \"/e\"]\n").network;
        assert_eq!(cni, NetworkKind::Cni { conf_dir: "/c".into(), bin_dirs: vec!["/d".into(), "/e".into()] });
        for nothing in ["", "not toml", "network = 1", "[network]\ncni = 3\n"] {
            assert_eq!(parse(nothing), NodeConfig::default(), "{nothing}");
        }
    }

    #[test]
    fn the_shim_is_beside_the_daemon_unless_named() {
        assert_eq!(shim_of("", Path::new("/x/carpeld")), Path::new("/x/carpel-shim"));
        assert_eq!(shim_of("[runtime]\nshim = \"/y/shim\"\n", Path::new("/x/carpeld")), Path::new("/y/shim"));
    }
}
