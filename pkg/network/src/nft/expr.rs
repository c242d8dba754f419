//! The expressions a rule is made of, in the order the kernel runs them: loads into registers, comparisons
//! that end the rule when they fail, and an action.

use std::net::IpAddr;

use super::data;
use crate::netlink::attr::Writer;

const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFT_REG_VERDICT: u32 = 0;
const NF_DROP: i32 = 0;
const NFT_JUMP: i32 = -3;
const IFNAMSIZ: usize = 16;

/// A four-byte register, `NFT_REG32_00` and up; a longer value takes the following ones too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Register(pub(crate) u32);

impl Register {
    fn number(self) -> u32 {
        const NFT_REG32_00: u32 = 8;
        NFT_REG32_00 + self.0
    }
}

/// What is loaded from the packet's surroundings. `enum nft_meta_keys`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meta {
    InputName = 6,
    OutputName = 7,
    NetworkProtocol = 15,
    TransportProtocol = 16,
}

/// A field of the packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field {
    Ipv4Source,
    Ipv4Destination,
    Ipv6Source,
    Ipv6Destination,
    /// The same place in TCP, UDP and SCTP.
    DestinationPort,
}

impl Field {
    /// Header (network 1, transport 2), offset and length in bytes.
    fn place(self) -> (u32, u32, u32) {
        match self {
            Field::Ipv4Source => (1, 12, 4),
            Field::Ipv4Destination => (1, 16, 4),
            Field::Ipv6Source => (1, 8, 16),
            Field::Ipv6Destination => (1, 24, 16),
            Field::DestinationPort => (2, 2, 2),
        }
    }
}

/// One step of a rule.
#[derive(Clone, Debug)]
pub(crate) enum Expr<'a> {
    Meta(Meta, Register),
    Payload(Field, Register),
    /// Loads what the routing table calls the destination: `RTN_LOCAL`, `RTN_UNICAST`, …
    DestinationKind(Register),
    /// Loads the connection's `IPS_*` bits.
    ConnectionStatus(Register),
    Equal(Register, Vec<u8>),
    NotEqual(Register, Vec<u8>),
    /// Keeps only the bits of the mask.
    Mask(Register, Vec<u8>),
    /// Replaces a key by the map's value; ends the rule if there is none.
    Lookup {
        map: &'a str,
        key: Register,
        value: Register,
    },
    /// Sends the connection to the address and port in these registers.
    Dnat {
        family: Family,
        address: Register,
        port: Register,
    },
    /// Gives the connection the address of the device it leaves by.
    Masquerade,
    Drop,
    Jump(&'a str),
}

/// An IP family, as nftables numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4 = 2,
    Ipv6 = 10,
}

impl Family {
    pub(crate) fn of(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }
}

/// A device name as the kernel compares it: padded with zeros.
pub(crate) fn device_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(IFNAMSIZ, 0);
    bytes
}

impl Expr<'_> {
    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.text(NFTA_EXPR_NAME, self.name());
        w.nest(NFTA_EXPR_DATA, |w| self.write_data(w));
    }

    fn name(&self) -> &'static str {
        match self {
            Expr::Meta(..) => "meta",
            Expr::Payload(..) => "payload",
            Expr::DestinationKind(_) => "fib",
            Expr::ConnectionStatus(_) => "ct",
            Expr::Equal(..) | Expr::NotEqual(..) => "cmp",
            Expr::Mask(..) => "bitwise",
            Expr::Lookup { .. } => "lookup",
            Expr::Dnat { .. } => "nat",
            Expr::Masquerade => "masq",
            Expr::Drop | Expr::Jump(_) => "immediate",
        }
    }

    /// The attribute numbers are those of `NFTA_META_*`, `NFTA_PAYLOAD_*`, `NFTA_FIB_*` and so on.
    fn write_data(&self, w: &mut Writer<'_>) {
        match self {
            Expr::Meta(key, to) => numbers(w, &[(1, to.number()), (2, *key as u32)]),
            Expr::Payload(field, to) => {
                let (base, offset, len) = field.place();
                numbers(w, &[(1, to.number()), (2, base), (3, offset), (4, len)]);
            }
            Expr::DestinationKind(to) => {
                const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
                const NFTA_FIB_F_DADDR: u32 = 2;
                numbers(w, &[(1, to.number()), (2, NFT_FIB_RESULT_ADDRTYPE), (3, NFTA_FIB_F_DADDR)]);
            }
            Expr::ConnectionStatus(to) => {
                const NFT_CT_STATUS: u32 = 2;
                numbers(w, &[(1, to.number()), (2, NFT_CT_STATUS)]);
            }
            Expr::Equal(register, value) => compare(w, *register, 0, value),
            Expr::NotEqual(register, value) => compare(w, *register, 1, value),
            Expr::Mask(register, mask) => {
                numbers(w, &[(1, register.number()), (2, register.number()), (3, mask.len() as u32)]);
                data(w, 4, mask);
                data(w, 5, &vec![0; mask.len()]);
            }
            Expr::Lookup { map, key, value } => {
                w.text(1, map);
                numbers(w, &[(2, key.number()), (3, value.number())]);
            }
            Expr::Dnat { family, address, port } => {
                const NFT_NAT_DNAT: u32 = 1;
                numbers(
                    w,
                    &[(1, NFT_NAT_DNAT), (2, *family as u32), (3, address.number()), (5, port.number())],
                );
            }
            Expr::Masquerade => (),
            Expr::Drop => verdict(w, NF_DROP, None),
            Expr::Jump(chain) => verdict(w, NFT_JUMP, Some(chain)),
        }
    }
}

fn numbers(w: &mut Writer<'_>, numbers: &[(u16, u32)]) {
    for (kind, number) in numbers {
        w.be32(*kind, *number);
    }
}

fn compare(w: &mut Writer<'_>, register: Register, operator: u32, value: &[u8]) {
    numbers(w, &[(1, register.number()), (2, operator)]);
    data(w, 3, value);
}

fn verdict(w: &mut Writer<'_>, code: i32, chain: Option<&str>) {
    w.be32(1, NFT_REG_VERDICT);
    w.nest(2, |w| {
        w.nest(NFTA_DATA_VERDICT, |w| {
            w.be32(NFTA_VERDICT_CODE, code.cast_unsigned());
            if let Some(chain) = chain {
                w.text(NFTA_VERDICT_CHAIN, chain);
            }
        });
    });
}
