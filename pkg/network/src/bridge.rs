//! The built-in bridge: a Linux bridge on the node, a veth pair per pod, addresses from a subnet, host ports
//! and masquerade by nftables. Nothing is executed.
//!
//! ```text
//!   plan     address and ports are reserved in memory ─► BridgeRecord
//!   make     netns pinned ─► veth born with one end there ─► lo, addresses, routes ─► ports open
//!   leave    ports closed ─► netns unpinned                       the pod is off the node: quick
//!   finish   veth deleted, if it did not die with the netns       the kernel takes tens of milliseconds
//!   unmake   all of that at once, from the record alone           undo, and records of another configuration
//!   release  address and ports are free again, once the record is gone
//! ```
//!
//! Everything here blocks for as long as the kernel takes; callers run it on a thread where that is allowed.

mod addresses;
mod firewall;
mod host;
mod ports;

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use carpel_sys::netns::{self, NetnsError};
use rustix::io::Errno;

use addresses::Pool;
use firewall::PodPorts;
use host::Host;
use ports::Ports;

pub use host::HostError;
pub use ports::PortError;

use crate::attachment::{Attachment, Interface};
use crate::config::{BridgeConfig, Subnet};
use crate::netlink::conntrack;
use crate::netlink::route::{self, VethPair};
use crate::netlink::{Batch, Family, NetlinkError, Socket, accept};
use crate::record::{BridgeRecord, PortRecord, Record};
use crate::request::{AttachRequest, DnsConfig, PortMapping, Protocol};

/// The pod's interface.
const POD_INTERFACE: &str = "eth0";
/// A new namespace has only `lo`, which is 1, so the next index is free.
const POD_INTERFACE_INDEX: u32 = 2;

/// Why a pod cannot get what it asks for. Nothing was touched.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Every address is taken.
    #[error("no free address in subnet {0}")]
    Exhausted(Subnet),
    /// A host port cannot be given.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// Why the kernel did not make, or unmake, a pod's part of the bridge.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The node's side is not ready.
    #[error("bridge for pod {pod}")]
    Host {
        /// The pod.
        pod: String,
        /// Why not.
        #[source]
        source: HostError,
    },
    /// The network namespace.
    #[error("network namespace of pod {pod}")]
    Netns {
        /// The pod.
        pod: String,
        /// What failed.
        #[source]
        source: NetnsError,
    },
    /// A request the kernel refused.
    #[error("network of pod {pod}")]
    Netlink {
        /// The pod.
        pod: String,
        /// What it refused.
        #[source]
        source: NetlinkError,
    },
    /// A setting inside the namespace.
    #[error("network of pod {pod}")]
    Sysctl {
        /// The pod.
        pod: String,
        /// What failed.
        #[source]
        source: SysctlError,
    },
}

/// Why a sysctl of a pod's namespace was not written.
#[derive(Debug, thiserror::Error)]
#[error("write sysctl {key} = {value:?}")]
pub struct SysctlError {
    key: String,
    value: String,
    #[source]
    source: io::Error,
}

/// One bridge of the node.
#[derive(Debug)]
pub(crate) struct Bridge {
    config: BridgeConfig,
    /// Who has which address and port. A `std` lock: held for a few map operations, never over a wait.
    books: Mutex<Books>,
    /// The sockets, one request at a time. The kernel serialises these requests by itself (RTNL), so a
    /// second socket would not make them faster. Never taken while `books` is held.
    host: Mutex<Host>,
}

#[derive(Debug)]
struct Books {
    pools: Vec<Pool>,
    ports: Ports,
    /// Pods whose host ports are, or are about to be, in the table: pod, addresses, ports.
    open: Vec<(String, Vec<IpAddr>, Vec<PortMapping>)>,
}

/// The same address always has the same link-layer address, so that a neighbour's table is right also when
/// another pod has the address now. 0a is locally administered (IEEE 802, 8.2); for IPv4 the rest is
/// the address, as the field has long done, for IPv6 its last four bytes.
fn mac_of(ip: IpAddr) -> [u8; 6] {
    let [a, b, c, d] = match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => (ip.to_bits() as u32).to_be_bytes(),
    };
    [0x0a, 0x58, a, b, c, d]
}

impl Bridge {
    /// Opens sockets in the calling thread's network namespace, takes back what `records` hold, and, if there
    /// are any, sees to it that bridge and table are as they say.
    pub(crate) fn open(config: BridgeConfig, records: &mut [&Record]) -> Result<Bridge, HostError> {
        let host =
            Host::open().map_err(|source| HostError::Netlink { bridge: config.bridge.clone(), source })?;
        let mut books = Books {
            pools: config.subnets.iter().map(|subnet| Pool::new(*subnet)).collect(),
            ports: Ports::default(),
            open: Vec::new(),
        };
        // The newest last, so that the next address is the one after it.
        records.sort_by_key(|record| record.created_ns);
        let mut any = false;
        for record in records {
            let crate::record::EngineRecord::Builtin(ours) = &record.engine else { continue };
            any = true;
            books.restore(&record.pod, ours, ours.bridge == config.bridge);
        }
        let bridge = Bridge { config, books: Mutex::new(books), host: Mutex::new(host) };
        if any {
            bridge.ensure(&mut bridge.host())?;
        }
        Ok(bridge)
    }

    /// Reserves what the pod needs. Give it back by [`Bridge::release`].
    pub(crate) fn plan(&self, request: &AttachRequest) -> Result<BridgeRecord, PlanError> {
        let ports: Vec<PortMapping> =
            request.port_mappings.iter().filter(|port| port.host_port != 0).copied().collect();
        self.check_families(&ports)?;
        let mut books = self.books();
        books.ports.take(&request.pod, &ports)?;
        let mut addresses = Vec::new();
        for at in 0..books.pools.len() {
            let subnet = books.pools[at].subnet();
            let Some(ip) = books.pools[at].take(&request.pod) else {
                books.give_back(&request.pod, &addresses, &ports);
                return Err(PlanError::Exhausted(subnet));
            };
            addresses.push((ip, subnet.prefix()));
        }
        if !ports.is_empty() {
            let ips = addresses.iter().map(|(ip, _)| *ip).collect();
            books.open.push((request.pod.clone(), ips, ports.clone()));
        }
        Ok(BridgeRecord {
            bridge: self.config.bridge.clone(),
            veth: veth_name(&request.pod),
            addresses,
            ports: ports.iter().map(PortRecord::from).collect(),
        })
    }

    fn check_families(&self, ports: &[PortMapping]) -> Result<(), PortError> {
        let has = |ip: IpAddr| self.config.subnets.iter().any(|s| s.address().is_ipv4() == ip.is_ipv4());
        for port in ports {
            if let Some(host_ip) = port.host_ip.filter(|ip| !has(*ip)) {
                return Err(PortError::Family { port: port.host_port, protocol: port.protocol, host_ip });
            }
        }
        Ok(())
    }

    /// Whether this is the bridge of that name.
    pub(crate) fn is(&self, bridge: &str) -> bool {
        self.config.bridge == bridge
    }

    /// Has no later rebuild of the table open the pod's ports again. They stay reserved.
    pub(crate) fn close(&self, pod: &str) {
        self.books().open.retain(|(open, ..)| open != pod);
    }

    /// Takes the pod off the node as far as that is quick: its ports are closed, and free for another pod, and
    /// its namespace is unpinned. The pair of devices and the address remain; see [`Bridge::finish`].
    pub(crate) fn leave(&self, pod: &str, pin: &Path, record: &BridgeRecord) -> Result<(), BridgeError> {
        self.close(pod);
        close_ports(&mut self.host().nft, record)
            .map_err(|source| BridgeError::Netlink { pod: pod.into(), source })?;
        netns::remove(pin).map_err(|source| BridgeError::Netns { pod: pod.into(), source })?;
        let ports: Vec<PortMapping> = record.ports.iter().map(PortMapping::from).collect();
        self.books().ports.release(pod, &ports);
        Ok(())
    }

    /// Deletes the pair of devices, unless it died with the namespace.
    pub(crate) fn finish(&self, pod: &str, record: &BridgeRecord) -> Result<(), BridgeError> {
        delete_veth(&mut self.host().route, &record.veth)
            .map_err(|source| BridgeError::Netlink { pod: pod.into(), source })
    }

    /// Gives addresses and ports back. Only after nothing of the pod is left in the kernel.
    pub(crate) fn release(&self, pod: &str, record: &BridgeRecord) {
        let ports: Vec<PortMapping> = record.ports.iter().map(PortMapping::from).collect();
        self.books().give_back(pod, &record.addresses, &ports);
    }

    /// Makes the namespace and everything in it. On an error, what was made is still there: unmake it.
    pub(crate) fn make(
        &self,
        pin: &Path,
        record: &BridgeRecord,
        request: &AttachRequest,
    ) -> Result<Attachment, BridgeError> {
        let pod = request.pod.as_str();
        let netlink = |source| BridgeError::Netlink { pod: pod.into(), source };
        let (mut inside, netns) = new_netns(pin, request)?;
        let mac = record.addresses.first().map_or([0; 6], |(ip, _)| mac_of(*ip));
        {
            let mut host = self.host();
            let host_error = |source| BridgeError::Host { pod: pod.into(), source };
            let bridge_index = self.ensure(&mut host).map_err(host_error)?;
            let mut batch = Batch::default();
            route::create_veth(
                &mut batch,
                &VethPair {
                    name: &record.veth,
                    bridge_index,
                    mtu: self.config.mtu,
                    pod_name: POD_INTERFACE,
                    pod_index: POD_INTERFACE_INDEX,
                    pod_mac: mac,
                    pod_netns: netns.as_fd(),
                },
            );
            host.route.execute(batch).map_err(netlink)?;
            let kernel_has_ipv6 = host::veth_settings(&record.veth).map_err(host_error)?;
            let mut batch = Batch::default();
            route::set_port_up(&mut batch, &record.veth, kernel_has_ipv6);
            host.route.execute(batch).map_err(netlink)?;
            self.open_ports(&mut host, pod, record)?;
        }
        inside.execute(self.inside_pod(record)).map_err(netlink)?;
        write_sysctls(pod, &netns, &request.sysctls)?;
        Ok(Attachment {
            netns: pin.into(),
            interfaces: vec![Interface {
                name: POD_INTERFACE.into(),
                mac: route::format_mac(&mac),
                addresses: record.addresses.clone(),
            }],
            ips: record.addresses.iter().map(|(ip, _)| *ip).collect(),
            dns: DnsConfig::default(),
        })
    }

    /// Everything that happens in the pod's namespace, in one system call.
    fn inside_pod(&self, record: &BridgeRecord) -> Batch {
        let mut batch = Batch::default();
        route::set_up(&mut batch, route::LOOPBACK_INDEX);
        route::set_up(&mut batch, POD_INTERFACE_INDEX);
        for (ip, prefix) in &record.addresses {
            route::add_address(&mut batch, POD_INTERFACE_INDEX, *ip, *prefix);
        }
        for gateway in self.books().pools.iter().map(Pool::gateway) {
            route::add_default_route(&mut batch, gateway, POD_INTERFACE_INDEX);
        }
        batch
    }

    fn open_ports(&self, host: &mut Host, pod: &str, record: &BridgeRecord) -> Result<(), BridgeError> {
        let ports: Vec<PortMapping> = record.ports.iter().map(PortMapping::from).collect();
        if ports.is_empty() {
            return Ok(());
        }
        let pod_ports = PodPorts { ips: record.addresses.iter().map(|(ip, _)| *ip).collect(), ports: &ports };
        let added = firewall::add_pod(&mut host.nft, &self.config.bridge, &pod_ports);
        match added {
            // Somebody flushed the rules (`nft flush ruleset`): write the table anew, this pod included. The
            // same if a former rebuild has put this pod's entries there already with other values.
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::EXIST)) => {
                host.distrust();
                let rebuilt = self.ensure(host).map(|_| ());
                rebuilt.map_err(|source| BridgeError::Host { pod: pod.into(), source })
            }
            other => other.map_err(|source| BridgeError::Netlink { pod: pod.into(), source }),
        }
    }

    fn ensure(&self, host: &mut Host) -> Result<u32, HostError> {
        let (gateways, open) = {
            let books = self.books();
            let gateways: Vec<_> =
                books.pools.iter().map(|pool| (pool.gateway(), pool.subnet().prefix())).collect();
            (gateways, books.open.clone())
        };
        host.ensure(&self.config, &gateways, || {
            open.iter().map(|(_, ips, ports)| PodPorts { ips: ips.clone(), ports }).collect()
        })
    }

    /// Removes bridge and table. The caller knows that no pod is left.
    pub(crate) fn remove(&self) -> Result<(), HostError> {
        self.host().remove(&self.config.bridge)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Nothing panics while the lock is held; if it did, the books are still consistent per entry.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn restore(&mut self, pod: &str, record: &BridgeRecord, this_bridge: bool) {
        for (ip, _) in &record.addresses {
            self.pools.iter_mut().for_each(|pool| pool.restore(*ip, pod));
        }
        let ports: Vec<PortMapping> = record.ports.iter().map(PortMapping::from).collect();
        if let Err(error) = self.ports.take(pod, &ports) {
            // Only a damaged state folder says so. The first one keeps the port; both pods live on.
            tracing::warn!(pod_id = pod, %error, "two records hold one host port");
            return;
        }
        if this_bridge && !ports.is_empty() {
            let ips = record.addresses.iter().map(|(ip, _)| *ip).collect();
            self.open.push((pod.into(), ips, ports));
        }
    }

    fn give_back(&mut self, pod: &str, addresses: &[(IpAddr, u8)], ports: &[PortMapping]) {
        self.open.retain(|(open, ..)| open != pod);
        self.ports.release(pod, ports);
        for (ip, _) in addresses {
            self.pools.iter_mut().for_each(|pool| pool.release(*ip, pod));
        }
    }
}

/// Takes the pod's part away, all of it, now. Works from the record alone, whatever the configuration is; what
/// is gone already is no error.
pub(crate) fn unmake(pod: &str, pin: &Path, record: &BridgeRecord) -> Result<(), BridgeError> {
    let netlink = |source| BridgeError::Netlink { pod: pod.into(), source };
    let mut host = Host::open().map_err(netlink)?;
    close_ports(&mut host.nft, record).map_err(netlink)?;
    delete_veth(&mut host.route, &record.veth).map_err(netlink)?;
    netns::remove(pin).map_err(|source| BridgeError::Netns { pod: pod.into(), source })
}

fn close_ports(nft: &mut Socket, record: &BridgeRecord) -> Result<(), NetlinkError> {
    if record.ports.is_empty() {
        return Ok(());
    }
    let ports: Vec<PortMapping> = record.ports.iter().map(PortMapping::from).collect();
    let pod_ports = PodPorts { ips: record.addresses.iter().map(|(ip, _)| *ip).collect(), ports: &ports };
    match firewall::delete_pod(nft, &record.bridge, &pod_ports) {
        // Half-made, or the table was flushed.
        Err(error) if error.errno() == Some(Errno::NOENT) => {
            firewall::delete_pod_one_by_one(nft, &record.bridge, &pod_ports)?;
        }
        outcome => outcome?,
    }
    // Only UDP has no end of its own; the walk over all connections takes about a millisecond.
    match ports.iter().any(|port| port.protocol == Protocol::Udp) {
        true => pod_ports.ips.iter().try_for_each(|ip| conntrack::forget(nft, *ip)),
        false => Ok(()),
    }
}

/// Deletes the node's end, and with it the pod's.
fn delete_veth(route: &mut Socket, veth: &str) -> Result<(), NetlinkError> {
    let mut batch = Batch::default();
    route::delete_link(&mut batch, veth);
    accept(route.execute(batch), &[Errno::NODEV])
}

/// What is left of a pod whose record is damaged: only what its id names.
pub(crate) fn unmake_by_name(pod: &str, pin: &Path) -> Result<(), BridgeError> {
    let netlink = |source| BridgeError::Netlink { pod: pod.into(), source };
    let mut route = Socket::open(Family::Route).map_err(netlink)?;
    delete_veth(&mut route, &veth_name(pod)).map_err(netlink)?;
    netns::remove(pin).map_err(|source| BridgeError::Netns { pod: pod.into(), source })
}

/// 44 bits of the pod's id: as many as a device's name has room for.
fn veth_name(pod: &str) -> String {
    format!("veth{}", &pod[..11])
}

/// A pinned namespace, and a socket that belongs to it.
fn new_netns(pin: &Path, request: &AttachRequest) -> Result<(Socket, OwnedFd), BridgeError> {
    let pod = request.pod.as_str();
    let netns_error = |source| BridgeError::Netns { pod: pod.into(), source };
    let inside = request.pin_namespace(pin, || {
        // New devices inherit this: another pod's router advertisement must not turn this pod's traffic.
        write_sysctl("net.ipv6.conf.default.accept_ra", "0", Missing::Skip)
            .map_err(|source| BridgeError::Sysctl { pod: pod.into(), source })?;
        let socket =
            Socket::open(Family::Route).map_err(|source| BridgeError::Netlink { pod: pod.into(), source })?;
        Ok((socket, netns::current().map_err(netns_error)?))
    });
    inside.map_err(netns_error)?
}

/// Writes the pod's own settings inside its namespace.
pub(crate) fn write_sysctls(
    pod: &str,
    netns: &OwnedFd,
    sysctls: &[(String, String)],
) -> Result<(), BridgeError> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let written = netns::enter(netns.as_fd(), || {
        sysctls.iter().try_for_each(|(key, value)| write_sysctl(key, value, Missing::Fail))
    });
    let written = written.map_err(|source| BridgeError::Netns { pod: pod.into(), source })?;
    written.map_err(|source| BridgeError::Sysctl { pod: pod.into(), source })
}

enum Missing {
    Skip,
    Fail,
}

/// Only below `net`: the rest is not the namespace's. sysctl(8) separates by `.`, and where a device's name
/// has dots itself, all separators are `/`.
fn write_sysctl(key: &str, value: &str, missing: Missing) -> Result<(), SysctlError> {
    let error = |source| SysctlError { key: key.into(), value: value.into(), source };
    let slashes = key.find(['.', '/']).is_some_and(|at| key.as_bytes()[at] == b'/');
    let path = if slashes { key.to_owned() } else { key.replace('.', "/") };
    let inside = path.starts_with("net/") && !path.split('/').any(|part| part.is_empty() || part == "..");
    if !inside {
        return Err(error(io::Error::from(io::ErrorKind::InvalidInput)));
    }
    match fs::write(PathBuf::from("/proc/sys").join(path), value) {
        Err(source) if source.kind() == io::ErrorKind::NotFound && matches!(missing, Missing::Skip) => Ok(()),
        outcome => outcome.map_err(error),
    }
}
