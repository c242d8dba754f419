//! The configuration file's tables as each room's own settings.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use carpel_network::{BridgeConfig, CniConfig, Mode};
use carpel_pod::{CgroupDriver, Rlimit};
use carpel_streaming::TlsFiles;

use crate::config::{self, Config};

/// `RLIMIT_NOFILE` (getrlimit(2)); the same number on every architecture that Carpel builds for.
const RLIMIT_NOFILE: u32 = 7;
/// A year, in seconds: longer time limits are mistakes.
const YEAR_S: u64 = 366 * 24 * 3600;

/// Settings of the image room.
pub(crate) fn image(config: &Config) -> anyhow::Result<carpel_image::Config> {
    Ok(carpel_image::Config {
        root: config.root.join("images"),
        certs_d: config.image.certs_d.clone(),
        max_concurrent_downloads: config.image.max_concurrent_downloads,
        progress_timeout: Duration::from_secs(config.image.progress_timeout_s),
        pinned: config.image.pinned.clone(),
        proxies: carpel_image::Proxies::from_env().context("the environment names a proxy")?,
        ..carpel_image::Config::default()
    })
}

/// Settings of the network room.
pub(crate) fn network(config: &Config) -> anyhow::Result<carpel_network::Config> {
    let mode = match (&config.network.builtin, &config.network.cni) {
        (Some(bridge), _) => Mode::Builtin(builtin(bridge)?),
        (None, Some(plugins)) => Mode::Cni(cni(plugins)),
        (None, None) => Mode::Cni(cni(&config::Cni::default())),
    };
    Ok(carpel_network::Config {
        netns_dir: config.network.netns_dir.clone(),
        state_dir: config.root.join("network"),
        mode,
    })
}

fn builtin(bridge: &config::Bridge) -> anyhow::Result<BridgeConfig> {
    let mut subnets = Vec::with_capacity(bridge.subnets.len());
    for subnet in &bridge.subnets {
        subnets.push(
            subnet.parse().with_context(|| format!("network.builtin.subnets: {subnet:?} is not a subnet"))?,
        );
    }
    Ok(BridgeConfig {
        bridge: bridge.bridge.clone(),
        subnets,
        masquerade: bridge.masquerade,
        mtu: Some(bridge.mtu).filter(|&mtu| mtu != 0),
        ip_forward: bridge.ip_forward,
    })
}

fn cni(plugins: &config::Cni) -> CniConfig {
    CniConfig {
        conf_dir: plugins.conf_dir.clone(),
        bin_dirs: plugins.bin_dirs.clone(),
        cache_dir: plugins.cache_dir.clone(),
        plugin_timeout: Duration::from_secs(plugins.plugin_timeout_s),
        ..CniConfig::default()
    }
}

/// Who makes the cgroups on this node.
fn cgroup_driver(config: &config::Cgroups) -> CgroupDriver {
    match config.driver {
        config::CgroupDriver::Auto => carpel_pod::preferred_cgroup_driver(),
        config::CgroupDriver::Cgroupfs => CgroupDriver::Cgroupfs,
        config::CgroupDriver::Systemd => CgroupDriver::Systemd,
    }
}

/// A cgroup as configured, or what follows from the driver.
fn cgroup(configured: &str, driver: CgroupDriver, name: &str) -> String {
    match (configured, driver) {
        (config::AUTO, CgroupDriver::Cgroupfs) => format!("/carpel/{name}"),
        (config::AUTO, CgroupDriver::Systemd) => format!("carpel-{name}.slice"),
        (configured, _) => configured.to_owned(),
    }
}

/// Settings of the pod room.
pub(crate) fn pod(config: &Config) -> anyhow::Result<carpel_pod::Config> {
    let nofile = config.runtime.nofile;
    let driver = cgroup_driver(&config.cgroups);
    Ok(carpel_pod::Config {
        root: config.root.clone(),
        state: config.state.clone(),
        shim: shim(&config.runtime)?,
        shim_cgroup: cgroup(&config.cgroups.shims, driver, "shims"),
        cgroup_parent: cgroup(&config.cgroups.parent, driver, "pods"),
        cgroup_driver: driver,
        log_line_max_bytes: config.runtime.log_line_max_bytes,
        exec_output_max_bytes: config.runtime.exec_output_max_bytes,
        default_rlimits: vec![Rlimit { resource: RLIMIT_NOFILE, soft: nofile, hard: nofile }],
        default_capabilities: config.runtime.default_capabilities.clone(),
        overlay_volatile: config.runtime.overlay_volatile,
    })
}

/// Settings of the streaming room.
pub(crate) fn streaming(streaming: &config::Streaming) -> anyhow::Result<carpel_streaming::Config> {
    let (certificate, key) = (&streaming.tls_cert_file, &streaming.tls_key_file);
    let tls = match (certificate.as_os_str().is_empty(), key.as_os_str().is_empty()) {
        (true, true) => None,
        (false, false) => Some(TlsFiles { certificate: certificate.clone(), key: key.clone() }),
        (false, true) => anyhow::bail!("streaming.tls_cert_file is set, so streaming.tls_key_file must be"),
        (true, false) => anyhow::bail!("streaming.tls_key_file is set, so streaming.tls_cert_file must be"),
    };
    for (name, seconds) in
        [("idle_timeout_s", streaming.idle_timeout_s), ("creation_timeout_s", streaming.creation_timeout_s)]
    {
        anyhow::ensure!((1..=YEAR_S).contains(&seconds), "streaming.{name} must be 1 to {YEAR_S}");
    }
    Ok(carpel_streaming::Config {
        address: streaming.address,
        tls,
        plain_beyond_loopback: streaming.allow_plain,
        creation_timeout: Duration::from_secs(streaming.creation_timeout_s),
        idle_timeout: Duration::from_secs(streaming.idle_timeout_s),
        ..carpel_streaming::Config::default()
    })
}

/// The shim's program: as configured, else beside the daemon's own.
pub(crate) fn shim(runtime: &config::Runtime) -> anyhow::Result<PathBuf> {
    let path = if runtime.shim.as_os_str().is_empty() {
        let own = std::env::current_exe().context("cannot tell where carpeld itself is")?;
        own.with_file_name("carpel-shim")
    } else {
        runtime.shim.clone()
    };
    anyhow::ensure!(
        path.is_file(),
        "there is no shim at {}; put carpel-shim beside carpeld, or set runtime.shim",
        path.display()
    );
    Ok(path)
}

/// Which cgroup trees this host has: `v2`, `v1`, or `hybrid` (v1 controllers beside a cgroup2 tree).
pub(crate) fn cgroup_mode() -> anyhow::Result<&'static str> {
    let tree = carpel_cgroups::Tree::detect().context("cannot tell which cgroup trees there are")?;
    Ok(match (tree.is_unified(), tree.v2()) {
        (true, _) => "v2",
        (false, Some(_)) => "hybrid",
        (false, None) => "v1",
    })
}
