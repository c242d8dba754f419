//! rtnetlink(7): the few requests a bridge and its pods need. Numbers are those of `linux/rtnetlink.h`,
//! `linux/if_link.h` and `linux/if_addr.h`.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::attr::{self, Attributes, Writer};
use super::{Batch, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NetlinkError, Socket};
use crate::attachment::InterfaceStats;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const BRIDGE_MODE_HAIRPIN: u8 = 1;
const VETH_INFO_PEER: u16 = 1;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// Skips duplicate address detection, which would hold an address back for a second. Addresses come from
/// one allocator, so there is nothing to detect.
const IFA_F_NODAD: u8 = 0x02;

const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Index of `lo`, which every network namespace is born with.
pub(crate) const LOOPBACK_INDEX: u32 = 1;

/// A network device as the kernel describes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `bridge`, `veth`, …; empty for hardware and loopback.
    pub(crate) kind: String,
    pub(crate) mac: String,
}

/// One veth pair: this end on a bridge, the other in a pod.
pub(crate) struct VethPair<'a> {
    pub(crate) name: &'a str,
    pub(crate) bridge_index: u32,
    pub(crate) mtu: Option<u32>,
    pub(crate) pod_name: &'a str,
    pub(crate) pod_index: u32,
    pub(crate) pod_mac: [u8; 6],
    pub(crate) pod_netns: BorrowedFd<'a>,
}

fn link_header(w: &mut Writer<'_>, index: u32, flags: u32) {
    // ifinfomsg: family, pad, device type, index, flags, which flags change
    w.raw(&[0; 4]);
    w.raw(&index.to_ne_bytes());
    w.raw(&flags.to_ne_bytes());
    w.raw(&flags.to_ne_bytes());
}

/// Creates a bridge.
pub(crate) fn create_bridge(batch: &mut Batch, name: &str, mac: [u8; 6], mtu: Option<u32>) {
    let operation = format!("create bridge {name}");
    batch.push(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, operation, |w| {
        link_header(w, 0, 0);
        w.text(IFLA_IFNAME, name);
        // A bridge without a fixed address takes its lowest port's, and every pod that comes or goes would
        // make the others' neighbour tables wrong.
        w.bytes(IFLA_ADDRESS, &mac);
        if let Some(mtu) = mtu {
            w.u32(IFLA_MTU, mtu);
        }
        w.nest(IFLA_LINKINFO, |w| w.text(IFLA_INFO_KIND, "bridge"));
    });
}

/// Creates a veth pair whose second end is born in the pod's namespace with a known index. Both ends are down:
/// a veth refuses to come up before its peer is linked to it (`veth_open`: ENOTCONN).
pub(crate) fn create_veth(batch: &mut Batch, pair: &VethPair<'_>) {
    let operation = format!("create device {} for a pod", pair.name);
    batch.push(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, operation, |w| {
        link_header(w, 0, 0);
        w.text(IFLA_IFNAME, pair.name);
        w.u32(IFLA_MASTER, pair.bridge_index);
        if let Some(mtu) = pair.mtu {
            w.u32(IFLA_MTU, mtu);
        }
        w.nest(IFLA_LINKINFO, |w| {
            w.text(IFLA_INFO_KIND, "veth");
            w.nest(IFLA_INFO_DATA, |w| w.nest(VETH_INFO_PEER, |w| veth_peer(w, pair)));
        });
    });
}

fn veth_peer(w: &mut Writer<'_>, pair: &VethPair<'_>) {
    link_header(w, pair.pod_index, 0);
    w.text(IFLA_IFNAME, pair.pod_name);
    w.bytes(IFLA_ADDRESS, &pair.pod_mac);
    w.u32(IFLA_NET_NS_FD, pair.pod_netns.as_raw_fd() as u32);
    if let Some(mtu) = pair.mtu {
        w.u32(IFLA_MTU, mtu);
    }
}

/// Switches a device on, by index.
pub(crate) fn set_up(batch: &mut Batch, index: u32) {
    batch
        .push(RTM_NEWLINK, NLM_F_ACK, format!("switch on device {index}"), |w| link_header(w, index, IFF_UP));
}

/// Switches a bridge's port on, and has it send frames back where they came from: with br_netfilter a pod
/// that calls its own host port is answered by the bridge and not by routing, out of the same port. On a
/// kernel with IPv6 the port gets no address of its own: it has no business with it. (The sysctl
/// `disable_ipv6` would say the same, but its write spins for as long as anybody holds the RTNL.)
pub(crate) fn set_port_up(batch: &mut Batch, name: &str, kernel_has_ipv6: bool) {
    batch.push(RTM_NEWLINK, NLM_F_ACK, format!("switch on device {name}"), |w| {
        link_header(w, 0, IFF_UP);
        w.text(IFLA_IFNAME, name);
        w.nest(IFLA_LINKINFO, |w| {
            w.text(IFLA_INFO_SLAVE_KIND, "bridge");
            w.nest(IFLA_INFO_SLAVE_DATA, |w| w.bytes(IFLA_BRPORT_MODE, &[BRIDGE_MODE_HAIRPIN]));
        });
        if kernel_has_ipv6 {
            w.nest(IFLA_AF_SPEC, |w| {
                w.nest(u16::from(AF_INET6), |w| w.bytes(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]));
            });
        }
    });
}

/// Deletes a device; a veth takes its peer along.
pub(crate) fn delete_link(batch: &mut Batch, name: &str) {
    batch.push(RTM_DELLINK, NLM_F_ACK, format!("delete device {name}"), |w| {
        link_header(w, 0, 0);
        w.text(IFLA_IFNAME, name);
    });
}

/// Gives a device an address that is usable at once.
pub(crate) fn add_address(batch: &mut Batch, index: u32, ip: IpAddr, prefix: u8) {
    let operation = format!("add address {ip}/{prefix} to device {index}");
    batch.push(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, operation, |w| {
        // ifaddrmsg: family, prefix length, flags, scope (universe), index
        w.raw(&[family(ip), prefix, if ip.is_ipv6() { IFA_F_NODAD } else { 0 }, 0]);
        w.raw(&index.to_ne_bytes());
        put_ip(w, IFA_LOCAL, ip);
        put_ip(w, IFA_ADDRESS, ip);
        if let IpAddr::V4(v4) = ip {
            let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            w.bytes(IFA_BROADCAST, &(v4.to_bits() | host_bits).to_be_bytes());
        }
    });
}

/// Sends everything of the gateway's family to it.
pub(crate) fn add_default_route(batch: &mut Batch, gateway: IpAddr, index: u32) {
    let operation = format!("add default route by {gateway}");
    batch.push(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, operation, |w| {
        // rtmsg: family, destination and source length, TOS, table, protocol, scope, type, flags
        w.raw(&[family(gateway), 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST]);
        w.raw(&[0; 4]);
        put_ip(w, RTA_GATEWAY, gateway);
        w.u32(RTA_OIF, index);
    });
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn put_ip(w: &mut Writer<'_>, kind: u16, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => w.bytes(kind, &ip.octets()),
        IpAddr::V6(ip) => w.bytes(kind, &ip.octets()),
    }
}

/// The device of this name, if there is one.
pub(crate) fn find_link(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut batch = Batch::default();
    batch.push(RTM_GETLINK, 0, format!("describe device {name}"), |w| {
        link_header(w, 0, 0);
        w.text(IFLA_IFNAME, name);
    });
    let mut found = None;
    let outcome = socket.dump(batch, |payload| {
        found = Some(read_link(payload)?);
        Ok::<_, NetlinkError>(())
    });
    match outcome {
        Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(found),
    }
}

fn read_link(payload: &[u8]) -> Result<Link, NetlinkError> {
    let (header, attributes) =
        payload.split_at_checked(16).ok_or_else(|| NetlinkError::Malformed("describe devices".into()))?;
    let mut link = Link { index: u32_at(header, 4), ..Link::default() };
    for (kind, value) in Attributes::new(attributes) {
        match kind {
            IFLA_IFNAME => link.name = attr::text(value),
            IFLA_ADDRESS => link.mac = format_mac(value),
            IFLA_LINKINFO => {
                let kind = Attributes::new(value).find_kind(IFLA_INFO_KIND);
                link.kind = kind.map(attr::text).unwrap_or_default();
            }
            _ => (),
        }
    }
    Ok(link)
}

/// `aa:bb:cc:dd:ee:ff`.
pub(crate) fn format_mac(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// Counters of every device but loopback, in order of their index.
pub(crate) fn stats(socket: &mut Socket) -> Result<Vec<InterfaceStats>, NetlinkError> {
    let mut batch = Batch::default();
    batch.push(RTM_GETLINK, NLM_F_DUMP, "list devices".into(), |w| link_header(w, 0, 0));
    let mut all = Vec::new();
    socket.dump(batch, |payload| {
        let (header, attributes) =
            payload.split_at_checked(16).ok_or_else(|| NetlinkError::Malformed("list devices".into()))?;
        if u32_at(header, 8) & IFF_LOOPBACK == 0 {
            all.push(read_stats(Attributes::new(attributes)));
        }
        Ok::<_, NetlinkError>(())
    })?;
    Ok(all)
}

/// `struct rtnl_link_stats64`: rx and tx packets, rx and tx bytes, rx and tx errors, rx and tx dropped, …
fn read_stats(attributes: Attributes<'_>) -> InterfaceStats {
    let mut stats = InterfaceStats::default();
    for (kind, value) in attributes {
        let counter = |n: usize| {
            let bytes = value.get(n * 8..).and_then(|rest| rest.first_chunk::<8>());
            bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
        };
        match kind {
            IFLA_IFNAME => stats.name = attr::text(value),
            IFLA_STATS64 => {
                (stats.rx_packets, stats.tx_packets) = (counter(0), counter(1));
                (stats.rx_bytes, stats.tx_bytes) = (counter(2), counter(3));
                (stats.rx_errors, stats.tx_errors) = (counter(4), counter(5));
                (stats.rx_dropped, stats.tx_dropped) = (counter(6), counter(7));
            }
            _ => (),
        }
    }
    stats
}

/// Every address of the namespace: device index, address, prefix length.
pub(crate) fn addresses(socket: &mut Socket) -> Result<Vec<(u32, IpAddr, u8)>, NetlinkError> {
    let mut batch = Batch::default();
    batch.push(RTM_GETADDR, NLM_F_DUMP, "list addresses".into(), |w| w.raw(&[0; 8]));
    let mut all = Vec::new();
    socket.dump(batch, |payload| {
        let (header, attributes) =
            payload.split_at_checked(8).ok_or_else(|| NetlinkError::Malformed("list addresses".into()))?;
        // IFA_ADDRESS is the peer on point-to-point links, IFA_LOCAL is absent for IPv6.
        let local = Attributes::new(attributes).find_kind(IFA_LOCAL);
        let bytes = local.or_else(|| Attributes::new(attributes).find_kind(IFA_ADDRESS));
        if let Some(ip) = bytes.and_then(read_ip) {
            all.push((u32_at(header, 4), ip, header[1]));
        }
        Ok::<_, NetlinkError>(())
    })?;
    Ok(all)
}

fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).map_or(0, |four| u32::from_ne_bytes(*four))
}
