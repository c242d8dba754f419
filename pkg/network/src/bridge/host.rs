//! The node's side of the bridge: the device, its addresses, the settings it needs, and the table. Made on
//! demand, checked at every use, repaired when somebody removed it.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::firewall::{self, PodPorts, Rules};
use crate::config::{BridgeConfig, Subnet};
use crate::netlink::route::{self, Link};
use crate::netlink::{Batch, Family, NetlinkError, Socket, accept};

/// Why the node's side of the bridge is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel refused.
    #[error("prepare bridge {bridge}")]
    Netlink {
        /// The bridge.
        bridge: String,
        /// What it refused.
        #[source]
        source: NetlinkError,
    },
    /// A setting cannot be written.
    #[error("write {value:?} to {path}")]
    Setting {
        /// Its file.
        path: PathBuf,
        /// What was to be written.
        value: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The name belongs to something else.
    #[error("device {name} exists and is {}, not a bridge", describe(kind))]
    NotABridge {
        /// The name.
        name: String,
        /// Its kind as the kernel calls it.
        kind: String,
    },
    /// The subnet is in use on the node.
    #[error(
        "subnet {subnet} of bridge {bridge} overlaps with {address}, an address of another device of this node"
    )]
    Overlap {
        /// The bridge.
        bridge: String,
        /// Its subnet.
        subnet: Subnet,
        /// The other device's address.
        address: Subnet,
    },
}

fn describe(kind: &str) -> &str {
    if kind.is_empty() { "a device without a kind" } else { kind }
}

/// Sockets in the node's network namespace.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) route: Socket,
    pub(super) nft: Socket,
    /// Index of the bridge and whether the table was written since it exists.
    prepared: Option<u32>,
}

impl Host {
    /// Opens sockets in the calling thread's network namespace.
    pub(super) fn open() -> Result<Host, NetlinkError> {
        Ok(Host {
            route: Socket::open(Family::Route)?,
            nft: Socket::open(Family::Netfilter)?,
            prepared: None,
        })
    }

    /// The bridge's index, after making whatever is missing.
    pub(super) fn ensure<'a>(
        &mut self,
        config: &BridgeConfig,
        gateways: &[(IpAddr, u8)],
        pods: impl FnOnce() -> Vec<PodPorts<'a>>,
    ) -> Result<u32, HostError> {
        let netlink = |source| HostError::Netlink { bridge: config.bridge.clone(), source };
        let found = route::find_link(&mut self.route, &config.bridge).map_err(netlink)?;
        if let Some(link) = &found
            && Some(link.index) == self.prepared
            && firewall::exists(&mut self.nft, &config.bridge).map_err(netlink)?
        {
            return Ok(link.index);
        }
        self.prepared = None;
        let index = match found {
            Some(link) => check_kind(link)?.index,
            None => self.create(config, gateways)?,
        };
        self.configure(config, index, gateways)?;
        let rules = Rules { bridge: &config.bridge, subnets: &config.subnets, masquerade: config.masquerade };
        firewall::rebuild(&mut self.nft, &rules, &pods()).map_err(netlink)?;
        self.prepared = Some(index);
        Ok(index)
    }

    /// Has the next [`Host::ensure`] look at everything again.
    pub(super) fn distrust(&mut self) {
        self.prepared = None;
    }

    /// Removes device and table. Nothing there is a success.
    pub(super) fn remove(&mut self, bridge: &str) -> Result<(), HostError> {
        let netlink = |source| HostError::Netlink { bridge: bridge.into(), source };
        self.prepared = None;
        firewall::delete_table(&mut self.nft, bridge).map_err(netlink)?;
        if let Some(link) = route::find_link(&mut self.route, bridge).map_err(netlink)? {
            check_kind(link)?;
            let mut batch = Batch::default();
            route::delete_link(&mut batch, bridge);
            accept(self.route.execute(batch), &[Errno::NODEV]).map_err(netlink)?;
        }
        Ok(())
    }

    fn create(&mut self, config: &BridgeConfig, gateways: &[(IpAddr, u8)]) -> Result<u32, HostError> {
        let netlink = |source| HostError::Netlink { bridge: config.bridge.clone(), source };
        let mac = gateways.first().map_or([0; 6], |(ip, _)| super::mac_of(*ip));
        let mut batch = Batch::default();
        route::create_bridge(&mut batch, &config.bridge, mac, config.mtu);
        // Another thread of another daemon may have been faster; what matters is what is there then.
        accept(self.route.execute(batch), &[Errno::EXIST]).map_err(netlink)?;
        let link = route::find_link(&mut self.route, &config.bridge).map_err(netlink)?.ok_or_else(|| {
            let gone = NetlinkError::Malformed(format!("create bridge {}", config.bridge));
            HostError::Netlink { bridge: config.bridge.clone(), source: gone }
        })?;
        Ok(check_kind(link)?.index)
    }

    fn configure(
        &mut self,
        config: &BridgeConfig,
        index: u32,
        gateways: &[(IpAddr, u8)],
    ) -> Result<(), HostError> {
        let netlink = |source| HostError::Netlink { bridge: config.bridge.clone(), source };
        self.check_overlap(config, index)?;
        bridge_settings(config)?;
        let mut batch = Batch::default();
        route::set_up(&mut batch, index);
        self.route.execute(batch).map_err(netlink)?;
        for (ip, prefix) in gateways {
            let mut batch = Batch::default();
            route::add_address(&mut batch, index, *ip, *prefix);
            accept(self.route.execute(batch), &[Errno::EXIST]).map_err(netlink)?;
        }
        forwarding(config)
    }

    /// Two devices with one subnet take each other's answers; better no pod than a node that loses its net.
    fn check_overlap(&mut self, config: &BridgeConfig, index: u32) -> Result<(), HostError> {
        let netlink = |source| HostError::Netlink { bridge: config.bridge.clone(), source };
        for (device, ip, prefix) in route::addresses(&mut self.route).map_err(netlink)? {
            let masked = config.subnets.iter().find(|subnet| {
                device != index && (subnet.contains(ip) || covers(ip, prefix, subnet.address()))
            });
            if let (Some(subnet), Ok(address)) = (masked, host_as_subnet(ip)) {
                return Err(HostError::Overlap { bridge: config.bridge.clone(), subnet: *subnet, address });
            }
        }
        Ok(())
    }
}

/// Whether the network of a device's address, prefix zero excepted, contains `other`.
fn covers(ip: IpAddr, prefix: u8, other: IpAddr) -> bool {
    let network = |address: IpAddr| -> Option<u128> {
        let (bits, width) = match address {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32u8),
            IpAddr::V6(ip) => (ip.to_bits(), 128),
        };
        bits.checked_shr(u32::from(width.saturating_sub(prefix)))
    };
    prefix != 0 && ip.is_ipv4() == other.is_ipv4() && network(ip).is_some() && network(ip) == network(other)
}

fn host_as_subnet(ip: IpAddr) -> Result<Subnet, crate::config::ParseSubnetError> {
    Subnet::new(ip, if ip.is_ipv4() { 32 } else { 128 })
}

fn check_kind(link: Link) -> Result<Link, HostError> {
    match link.kind.as_str() {
        "bridge" => Ok(link),
        _ => Err(HostError::NotABridge { name: link.name, kind: link.kind }),
    }
}

/// What the bridge itself needs; none of it concerns another device.
fn bridge_settings(config: &BridgeConfig) -> Result<(), HostError> {
    let has = |v4: bool| config.subnets.iter().any(|subnet| subnet.address().is_ipv4() == v4);
    let v4 = Path::new("/proc/sys/net/ipv4/conf").join(&config.bridge);
    let v6 = Path::new("/proc/sys/net/ipv6/conf").join(&config.bridge);
    if has(true) {
        // Host ports reached by 127.0.0.1; the table's guard keeps pods out.
        write(&v4.join("route_localnet"), "1")?;
    }
    // A kernel without IPv6 has no such folder, and nothing to switch off.
    if has(false) || v6.exists() {
        // A pod's router advertisement must not change the node's routes (CVE-2020-10749).
        write(&v6.join("accept_ra"), "0")?;
        // Without a subnet there is no reason for the node to speak IPv6 with pods.
        write(&v6.join("disable_ipv6"), if has(false) { "0" } else { "1" })?;
    }
    Ok(())
}

/// The two settings of the whole node that pods need to reach beyond it.
fn forwarding(config: &BridgeConfig) -> Result<(), HostError> {
    for subnet in &config.subnets {
        let path = Path::new(match subnet.address() {
            IpAddr::V4(_) => "/proc/sys/net/ipv4/ip_forward",
            IpAddr::V6(_) => "/proc/sys/net/ipv6/conf/all/forwarding",
        });
        let now = fs::read_to_string(path).unwrap_or_default();
        match (now.trim(), config.ip_forward) {
            ("1", _) => (),
            (_, true) => {
                tracing::info!(setting = %path.display(), "switching on forwarding for pods");
                write(path, "1")?;
            }
            // Pods reach each other and the node all the same, and the operator asked for this.
            (_, false) => {
                tracing::warn!(setting = %path.display(), "forwarding is off: pods reach nothing beyond this node");
            }
        }
    }
    Ok(())
}

/// What the pod's device on the node needs before it is switched on. Whether the kernel has IPv6.
pub(super) fn veth_settings(veth: &str) -> Result<bool, HostError> {
    let v6 = Path::new("/proc/sys/net/ipv6/conf").join(veth);
    let kernel_has_ipv6 = v6.exists();
    if kernel_has_ipv6 {
        write(&v6.join("accept_ra"), "0")?;
    }
    Ok(kernel_has_ipv6)
}

fn write(path: &Path, value: &'static str) -> Result<(), HostError> {
    fs::write(path, value).map_err(|source| HostError::Setting { path: path.into(), value, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_other_devices_are_compared_by_prefix() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(covers(ip("10.88.3.4"), 8, ip("10.117.0.0")));
        assert!(!covers(ip("10.88.3.4"), 16, ip("10.117.0.0")));
        assert!(!covers(ip("10.88.3.4"), 0, ip("10.117.0.0")));
        assert!(!covers(ip("fd00::1"), 64, ip("10.117.0.0")));
        assert!(covers(ip("fd00::1"), 64, ip("fd00::")));
    }
}
