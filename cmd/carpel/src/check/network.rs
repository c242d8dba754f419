//! What pods' networks are made of, and whether somebody makes them.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use super::{
    config::{NetworkKind, NodeConfig},
    finding::{Finding, read, read_number, told},
    netlink,
};

pub(super) fn examine(config: &NodeConfig) -> Vec<Finding> {
    let mut findings = interfaces(&config.network);
    findings.push(forwarding());
    findings.push(conntrack());
    findings.push(bridged_packets());
    match &config.network {
        NetworkKind::Builtin => {
            findings.push(Finding::ok("pod network", "built-in bridge: no CNI plugin is needed"));
        }
        NetworkKind::Cni { conf_dir, bin_dirs } => findings.extend(cni(conf_dir, bin_dirs)),
    }
    findings
}

fn interfaces(network: &NetworkKind) -> Vec<Finding> {
    let trial = match netlink::try_all() {
        Ok(trial) => trial,
        Err(error) => {
            let found = format!("cannot make a network namespace to try: {}", told(error));
            return vec![Finding::warning("interfaces", found, "run `sudo carpel check`")];
        }
    };
    let judge = |name, outcome: std::io::Result<()>, needed: bool, advice: &str| match outcome {
        Ok(()) => Finding::ok(name, "can be made"),
        Err(error) if needed => Finding::missing(name, told(error), advice),
        Err(error) => Finding::warning(name, told(error), advice),
    };
    let builtin = matches!(network, NetworkKind::Builtin);
    vec![
        judge("veth", trial.veth, true, "load the module: modprobe veth"),
        judge("bridge", trial.bridge, builtin, "load the module: modprobe bridge"),
        judge("nftables", trial.nftables, builtin, "load the module: modprobe nf_tables"),
    ]
}

fn forwarding() -> Finding {
    let name = "IP forwarding";
    let on = |path| read_number(path) == Some(1);
    let (v4, v6) = (on("/proc/sys/net/ipv4/ip_forward"), on("/proc/sys/net/ipv6/conf/all/forwarding"));
    match (v4, v6) {
        (true, true) => Finding::ok(name, "IPv4 and IPv6"),
        (true, false) => Finding::ok(name, "IPv4"),
        (false, _) => Finding::warning(
            name,
            "off for IPv4",
            "pods reach this node only: sysctl -w net.ipv4.ip_forward=1 (and net.ipv6.conf.all.forwarding=1)",
        ),
    }
}

fn conntrack() -> Finding {
    let name = "conntrack";
    match read_number("/proc/sys/net/netfilter/nf_conntrack_max") {
        Some(most) => Finding::ok(name, format!("at most {most} connections")),
        None => Finding::warning(
            name,
            "not loaded",
            "Services and masquerading need it; it loads with the first such rule, or by modprobe nf_conntrack",
        ),
    }
}

/// kube-proxy in its iptables mode must see packets that only cross a bridge.
fn bridged_packets() -> Finding {
    let name = "bridge netfilter";
    match read("/proc/sys/net/bridge/bridge-nf-call-iptables").as_deref() {
        Some("1") => Finding::ok(name, "on"),
        Some(_) => Finding::warning(
            name,
            "off",
            "in a cluster, a Service may be unreachable from its own pods: sysctl -w net.bridge.bridge-nf-call-iptables=1",
        ),
        None => Finding::warning(
            name,
            "not loaded",
            "in a cluster, a Service may be unreachable from its own pods: modprobe br_netfilter",
        ),
    }
}

fn cni(conf_dir: &Path, bin_dirs: &[std::path::PathBuf]) -> Vec<Finding> {
    let confs = names(conf_dir, |path| {
        path.extension().is_some_and(|end| ["conf", "conflist", "json"].iter().any(|known| end == *known))
    });
    let conf = match confs.first() {
        // The kubelet's rule, and CNI's: the first in order of names is the one.
        Some(first) => Finding::ok("CNI configuration", format!("{first} in {}", conf_dir.display())),
        None => Finding::warning(
            "CNI configuration",
            format!("none in {}", conf_dir.display()),
            "only pods with the node's network run: install a network (its DaemonSet writes the file), or use \
             Carpel's own bridge by `[network.builtin]` in /etc/carpel/config.toml",
        ),
    };
    let is_program = |path: &Path| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let count: usize = bin_dirs.iter().map(|dir| names(dir, is_program).len()).sum();
    let dirs: Vec<String> = bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
    let dirs = dirs.join(", ");
    let plugins = match count {
        0 => Finding::warning(
            "CNI plugins",
            format!("none in {dirs}"),
            "install them (Debian: containernetworking-plugins, with /usr/lib/cni in bin_dirs), or use the built-in bridge",
        ),
        count => Finding::ok("CNI plugins", format!("{count} in {dirs}")),
    };
    vec![conf, plugins]
}

/// Names of the files that fit, in order.
fn names(dir: &Path, fits: impl Fn(&Path) -> bool) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path()).filter(|path| fits(path));
    let mut names: Vec<String> =
        paths.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    #[test]
    fn the_first_configuration_by_name_counts() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["20-b.conflist", "10-a.conf", "05-c.txt"] {
            fs::write(dir.path().join(name), "{}").unwrap();
        }
        fs::write(dir.path().join("plugin"), "").unwrap();
        fs::set_permissions(dir.path().join("plugin"), fs::Permissions::from_mode(0o755)).unwrap();
        let findings = cni(dir.path(), &[dir.path().to_owned()]);
        assert!(findings[0].found.starts_with("10-a.conf in "), "{findings:?}");
        assert!(findings[1].found.starts_with("1 in "), "{findings:?}");
        let empty = cni(Path::new("/nonexistent"), &[]);
        assert!(empty.iter().all(|finding| finding.status == Verdict::Warning), "{empty:?}");
    }
}
