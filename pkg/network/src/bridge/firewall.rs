//! The bridge's nftables table: which rules it holds, and which map entries a pod adds.
//!
//! The rules are the same for any number of pods; a pod only adds entries to four maps.
//!
//! ```text
//!   prerouting −300   guard         from the bridge, to or from 127.0.0.0/8 → drop
//!   prerouting −100   prerouting    to an address of the node → jump hostports
//!   output     −100   output        to an address of the node → jump hostports
//!                     hostports     address·protocol·port → pod (bound-v4, bound-v6)
//!                                   protocol·port         → pod (any-v4, any-v6)
//!   postrouting 100   postrouting   into the bridge from 127.0.0.0/8                    → masquerade
//!                                   into the bridge from its own subnet, after a DNAT   → masquerade
//!                                   from the subnet, out of another device              → masquerade, if wanted
//! ```
//!
//! The jump asks the routing table whether the destination is the node, so that a host port never captures
//! what a pod or the node sends elsewhere (CVE-2025-67499). The guard exists because the bridge routes
//! 127.0.0.0/8 (`route_localnet`), for host ports reached by 127.0.0.1, and without it a pod could reach what
//! listens on the node's loopback (CVE-2020-8558).

use std::net::IpAddr;

use super::ports::Listen;
use crate::config::Subnet;
use crate::netlink::{NetlinkError, Socket};
use crate::nft::expr::{Expr, Family, Field, Meta, Register, device_name};
use crate::nft::{Base, ChainType, DataType, Element, Hook, Map, TRANSACTION_MAX_BYTES, Transaction};
use crate::request::PortMapping;

use DataType::{InetProtocol, InetService, Ipv4Address, Ipv6Address};

const ANY_V4: Map =
    Map { name: "any-v4", key: &[InetProtocol, InetService], value: &[Ipv4Address, InetService] };
const ANY_V6: Map =
    Map { name: "any-v6", key: &[InetProtocol, InetService], value: &[Ipv6Address, InetService] };
const BOUND_V4: Map = Map {
    name: "bound-v4",
    key: &[Ipv4Address, InetProtocol, InetService],
    value: &[Ipv4Address, InetService],
};
const BOUND_V6: Map = Map {
    name: "bound-v6",
    key: &[Ipv6Address, InetProtocol, InetService],
    value: &[Ipv6Address, InetService],
};
const MAPS: [Map; 4] = [ANY_V4, ANY_V6, BOUND_V4, BOUND_V6];

/// `RTN_LOCAL` of `linux/rtnetlink.h`.
const ROUTE_LOCAL: u32 = 2;
/// `IPS_DST_NAT` of `linux/netfilter/nf_conntrack_common.h`.
const STATUS_DESTINATION_NAT: u32 = 1 << 5;

/// Scratch for comparisons; 16 bytes from here on.
const SCRATCH: Register = Register(0);

/// What the rules depend on.
pub(super) struct Rules<'a> {
    pub(super) bridge: &'a str,
    pub(super) subnets: &'a [Subnet],
    pub(super) masquerade: bool,
}

/// The host ports of one pod.
pub(super) struct PodPorts<'a> {
    pub(super) ips: Vec<IpAddr>,
    pub(super) ports: &'a [PortMapping],
}

/// The table's name.
pub(super) fn table(bridge: &str) -> String {
    format!("carpel-{bridge}")
}

/// Writes the table anew, with the ports of all these pods.
pub(super) fn rebuild(
    socket: &mut Socket,
    rules: &Rules<'_>,
    pods: &[PodPorts<'_>],
) -> Result<(), NetlinkError> {
    let table = table(rules.bridge);
    let mut transaction = Transaction::new(&table);
    transaction.reset_table();
    MAPS.iter().for_each(|map| transaction.create_map(map));
    create_chains(&mut transaction);
    fill_chains(&mut transaction, rules);
    for pod in pods {
        for (map, elements) in elements(pod) {
            transaction.add_elements(&map, &elements);
        }
        if transaction.bytes() > TRANSACTION_MAX_BYTES {
            std::mem::replace(&mut transaction, Transaction::new(&table)).commit(socket)?;
        }
    }
    transaction.commit(socket)
}

/// Opens a pod's ports.
pub(super) fn add_pod(socket: &mut Socket, bridge: &str, pod: &PodPorts<'_>) -> Result<(), NetlinkError> {
    let mut transaction = Transaction::new(&table(bridge));
    for (map, elements) in elements(pod) {
        transaction.add_elements(&map, &elements);
    }
    transaction.commit(socket)
}

/// Closes a pod's ports.
pub(super) fn delete_pod(socket: &mut Socket, bridge: &str, pod: &PodPorts<'_>) -> Result<(), NetlinkError> {
    let mut transaction = Transaction::new(&table(bridge));
    for (map, elements) in elements(pod) {
        transaction.delete_elements(&map, &elements);
    }
    transaction.commit(socket)
}

/// Every map entry of a pod by itself: for closing ports of which some may be closed already.
pub(super) fn delete_pod_one_by_one(
    socket: &mut Socket,
    bridge: &str,
    pod: &PodPorts<'_>,
) -> Result<(), NetlinkError> {
    for (map, elements) in elements(pod) {
        for element in elements {
            let mut transaction = Transaction::new(&table(bridge));
            transaction.delete_elements(&map, &[element]);
            crate::netlink::accept(transaction.commit(socket), &[rustix::io::Errno::NOENT])?;
        }
    }
    Ok(())
}

/// Whether the table is there. Somebody's `nft flush ruleset` takes it along with everything else.
pub(super) fn exists(socket: &mut Socket, bridge: &str) -> Result<bool, NetlinkError> {
    crate::nft::table_exists(socket, &table(bridge))
}

/// Removes the table with everything in it.
pub(super) fn delete_table(socket: &mut Socket, bridge: &str) -> Result<(), NetlinkError> {
    let mut transaction = Transaction::new(&table(bridge));
    transaction.create_table();
    transaction.delete_table();
    transaction.commit(socket)
}

fn create_chains(transaction: &mut Transaction) {
    let base = |hook, kind, priority| Some(Base { hook, kind, priority });
    transaction.create_chain("hostports", None);
    transaction.create_chain("guard", base(Hook::Prerouting, ChainType::Filter, -300));
    transaction.create_chain("prerouting", base(Hook::Prerouting, ChainType::Nat, -100));
    transaction.create_chain("output", base(Hook::Output, ChainType::Nat, -100));
    transaction.create_chain("postrouting", base(Hook::Postrouting, ChainType::Nat, 100));
}

fn fill_chains(transaction: &mut Transaction, rules: &Rules<'_>) {
    let bridge = device_name(rules.bridge);
    for field in [Field::Ipv4Source, Field::Ipv4Destination] {
        let mut rule = vec![Expr::Meta(Meta::InputName, SCRATCH), Expr::Equal(SCRATCH, bridge.clone())];
        rule.extend(loopback_v4(field));
        rule.push(Expr::Drop);
        transaction.append_rule("guard", &rule);
    }
    for chain in ["prerouting", "output"] {
        transaction.append_rule(
            chain,
            &[
                Expr::DestinationKind(SCRATCH),
                Expr::Equal(SCRATCH, ROUTE_LOCAL.to_ne_bytes().to_vec()),
                Expr::Jump("hostports"),
            ],
        );
    }
    for (map, field, family) in [
        (&BOUND_V4, Some(Field::Ipv4Destination), Family::Ipv4),
        (&ANY_V4, None, Family::Ipv4),
        (&BOUND_V6, Some(Field::Ipv6Destination), Family::Ipv6),
        (&ANY_V6, None, Family::Ipv6),
    ] {
        transaction.append_rule("hostports", &hostport_rule(map, field, family));
    }
    let into_bridge = [Expr::Meta(Meta::OutputName, SCRATCH), Expr::Equal(SCRATCH, bridge.clone())];
    let mut from_loopback = into_bridge.to_vec();
    from_loopback.extend(loopback_v4(Field::Ipv4Source));
    from_loopback.push(Expr::Masquerade);
    transaction.append_rule("postrouting", &from_loopback);
    for subnet in rules.subnets {
        let mut hairpin = into_bridge.to_vec();
        hairpin.extend(inside(subnet));
        hairpin.extend([
            Expr::ConnectionStatus(SCRATCH),
            Expr::Mask(SCRATCH, STATUS_DESTINATION_NAT.to_ne_bytes().to_vec()),
            Expr::NotEqual(SCRATCH, vec![0; 4]),
            Expr::Masquerade,
        ]);
        transaction.append_rule("postrouting", &hairpin);
        if rules.masquerade {
            let mut leaving =
                vec![Expr::Meta(Meta::OutputName, SCRATCH), Expr::NotEqual(SCRATCH, bridge.clone())];
            leaving.extend(inside(subnet));
            leaving.push(Expr::Masquerade);
            transaction.append_rule("postrouting", &leaving);
        }
    }
}

fn of_family(family: Family) -> [Expr<'static>; 2] {
    [Expr::Meta(Meta::NetworkProtocol, SCRATCH), Expr::Equal(SCRATCH, vec![family as u8])]
}

fn loopback_v4(field: Field) -> Vec<Expr<'static>> {
    let mut rule = of_family(Family::Ipv4).to_vec();
    rule.extend([
        Expr::Payload(field, SCRATCH),
        Expr::Mask(SCRATCH, vec![255, 0, 0, 0]),
        Expr::Equal(SCRATCH, vec![127, 0, 0, 0]),
    ]);
    rule
}

/// Matches packets whose source is in `subnet`.
fn inside(subnet: &Subnet) -> Vec<Expr<'static>> {
    let family = Family::of(subnet.address());
    let field = if family == Family::Ipv4 { Field::Ipv4Source } else { Field::Ipv6Source };
    let mut rule = of_family(family).to_vec();
    rule.extend([
        Expr::Payload(field, SCRATCH),
        Expr::Mask(SCRATCH, mask(subnet)),
        Expr::Equal(SCRATCH, ip_bytes(subnet.address())),
    ]);
    rule
}

fn mask(subnet: &Subnet) -> Vec<u8> {
    let bytes = if subnet.address().is_ipv4() { 4 } else { 16 };
    let bits = |byte: u8| subnet.prefix().saturating_sub(byte * 8).min(8);
    (0..bytes).map(|byte| 0xffu8.checked_shl(8 - u32::from(bits(byte))).unwrap_or(0)).collect()
}

fn hostport_rule(map: &Map, address: Option<Field>, family: Family) -> Vec<Expr<'static>> {
    let words = if family == Family::Ipv4 { 1 } else { 4 };
    let key_words = if address.is_some() { words } else { 0 };
    // Behind the longest key: an IPv6 address, protocol, port.
    let value = 8;
    let mut rule = of_family(family).to_vec();
    rule.extend(address.map(|field| Expr::Payload(field, Register(0))));
    rule.extend([
        Expr::Meta(Meta::TransportProtocol, Register(key_words)),
        Expr::Payload(Field::DestinationPort, Register(key_words + 1)),
        Expr::Lookup { map: map.name, key: Register(0), value: Register(value) },
        Expr::Dnat { family, address: Register(value), port: Register(value + words) },
    ]);
    rule
}

/// The map entries of a pod.
fn elements(pod: &PodPorts<'_>) -> Vec<(Map, Vec<Element>)> {
    let mut all: Vec<(Map, Vec<Element>)> = MAPS.iter().map(|map| (*map, Vec::new())).collect();
    for port in pod.ports {
        let listen = Listen::of(port);
        for ip in &pod.ips {
            let (map, mut key) = match (listen, ip.is_ipv4()) {
                (Listen::Everywhere, true) => (0, Vec::new()),
                (Listen::Everywhere, false) => (1, Vec::new()),
                (Listen::Family { v4 }, pod_v4) if v4 == pod_v4 => (usize::from(!v4), Vec::new()),
                (Listen::On(host_ip), pod_v4) if host_ip.is_ipv4() == pod_v4 => {
                    (2 + usize::from(!pod_v4), ip_bytes(host_ip))
                }
                (Listen::Family { .. } | Listen::On(_), _) => continue,
            };
            key.extend([port.protocol.number(), 0, 0, 0]);
            key.extend(padded_port(port.host_port));
            let mut value = ip_bytes(*ip);
            value.extend(padded_port(port.container_port));
            all[map].1.push(Element { key, value });
        }
    }
    all.retain(|(_, elements)| !elements.is_empty());
    all
}

/// A port as it lies in a register: network byte order, padded behind.
fn padded_port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Protocol;

    #[test]
    fn masks_have_the_prefix_length() {
        for (subnet, expect) in [
            ("10.0.0.0/8", vec![255, 0, 0, 0]),
            ("10.128.0.0/9", vec![255, 128, 0, 0]),
            ("10.1.2.0/29", vec![255, 255, 255, 248]),
        ] {
            assert_eq!(mask(&subnet.parse().unwrap()), expect);
        }
        let v6 = mask(&"fd00::/66".parse().unwrap());
        assert_eq!(v6[..9], [255, 255, 255, 255, 255, 255, 255, 255, 192]);
        assert_eq!(v6[9..], [0; 7]);
    }

    #[test]
    fn a_port_enters_the_maps_of_its_listeners() {
        let ips = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let check = |host_ip: &str, expect: &[&str]| {
            let host_ip = host_ip.parse().ok();
            let ports =
                [PortMapping { protocol: Protocol::Udp, host_ip, host_port: 53, container_port: 5353 }];
            let found = elements(&PodPorts { ips: ips.clone(), ports: &ports });
            assert_eq!(found.iter().map(|(map, _)| map.name).collect::<Vec<_>>(), expect, "{host_ip:?}");
            found
        };
        let found = check("", &["any-v4", "any-v6"]);
        let expect =
            Element { key: vec![17, 0, 0, 0, 0, 53, 0, 0], value: vec![10, 0, 0, 2, 0x14, 0xe9, 0, 0] };
        assert_eq!(found[0].1, [expect]);
        check("0.0.0.0", &["any-v4"]);
        check("::", &["any-v6"]);
        check("192.0.2.1", &["bound-v4"]);
        check("2001:db8::1", &["bound-v6"]);
    }
}
