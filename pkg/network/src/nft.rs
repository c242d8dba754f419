//! nftables over nfnetlink: tables, chains, rules and maps in transactions, without the `nft` program.
//!
//! Everything between BATCH_BEGIN and BATCH_END is applied as a whole or not at all. Numbers are those of
//! `linux/netfilter/nf_tables.h` and `linux/netfilter/nfnetlink.h`; all of them travel in network byte order.
//! Which rules there are is not decided here.

pub(crate) mod expr;

use rustix::io::Errno;

use crate::netlink::attr::Writer;
use crate::netlink::{Batch, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NetlinkError, Socket};

use expr::Expr;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;

/// One table for both IP families (`inet` of nft(8)).
const NFPROTO_INET: u8 = 1;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_ID: u16 = 10;
const NFT_SET_MAP: u32 = 8;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;

/// Elements of one message: the list must fit one attribute of 64 KiB, an element takes up to 72 bytes.
const ELEMENTS_MAX: usize = 500;
/// A transaction must fit the socket's send buffer, 208 KiB unless somebody made it smaller.
pub(crate) const TRANSACTION_MAX_BYTES: usize = 128 << 10;

/// Where a base chain hooks in. `NF_INET_*` of `linux/netfilter.h`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hook {
    Prerouting = 0,
    Output = 3,
    Postrouting = 4,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ChainType {
    Filter,
    Nat,
}

/// A base chain's place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base {
    pub(crate) hook: Hook,
    pub(crate) kind: ChainType,
    /// Lower is earlier; see "PRIORITIES" in nft(8).
    pub(crate) priority: i32,
}

/// The types of a map's parts, only for tools that print it: nft(8)'s numbers, six bits each.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DataType {
    Ipv4Address = 7,
    Ipv6Address = 8,
    InetProtocol = 12,
    InetService = 13,
}

impl DataType {
    /// Bytes in a register, where each part of a concatenation is padded to four.
    fn register_bytes(self) -> u32 {
        match self {
            DataType::Ipv6Address => 16,
            DataType::Ipv4Address | DataType::InetProtocol | DataType::InetService => 4,
        }
    }
}

/// A map from a concatenation of values to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Map {
    pub(crate) name: &'static str,
    pub(crate) key: &'static [DataType],
    pub(crate) value: &'static [DataType],
}

/// An entry of a map, both sides as they lie in registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

impl Element {
    fn write(&self, w: &mut Writer<'_>) {
        w.nest(NFTA_LIST_ELEM, |w| {
            data(w, NFTA_SET_ELEM_KEY, &self.key);
            data(w, NFTA_SET_ELEM_DATA, &self.value);
        });
    }
}

/// Changes of one table that happen together.
#[derive(Debug)]
pub(crate) struct Transaction {
    table: String,
    batch: Batch,
    next_set: u32,
}

impl Transaction {
    pub(crate) fn new(table: &str) -> Transaction {
        let mut batch = Batch::default();
        let operation = format!("change nftables table {table}");
        batch.push(NFNL_MSG_BATCH_BEGIN, 0, operation, |w| header(w, 0, NFNL_SUBSYS_NFTABLES));
        Transaction { table: table.into(), batch, next_set: 1 }
    }

    /// Empties the table, making it if need be.
    pub(crate) fn reset_table(&mut self) {
        // Deleting what is not there would fail the transaction; creating what is there does not.
        self.create_table();
        self.delete_table();
        self.create_table();
    }

    pub(crate) fn create_table(&mut self) {
        let table = self.table.clone();
        let operation = format!("create nftables table {table}");
        self.push(NFT_MSG_NEWTABLE, NLM_F_CREATE, operation, |w| w.text(NFTA_TABLE_NAME, &table));
    }

    pub(crate) fn delete_table(&mut self) {
        let table = self.table.clone();
        let operation = format!("delete nftables table {table}");
        self.push(NFT_MSG_DELTABLE, 0, operation, |w| w.text(NFTA_TABLE_NAME, &table));
    }

    pub(crate) fn create_chain(&mut self, name: &str, base: Option<Base>) {
        let table = self.table.clone();
        self.push(NFT_MSG_NEWCHAIN, NLM_F_CREATE, format!("create nftables chain {table} {name}"), |w| {
            w.text(NFTA_CHAIN_TABLE, &table);
            w.text(NFTA_CHAIN_NAME, name);
            let Some(base) = base else { return };
            w.nest(NFTA_CHAIN_HOOK, |w| {
                w.be32(NFTA_HOOK_HOOKNUM, base.hook as u32);
                w.be32(NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
            });
            w.text(
                NFTA_CHAIN_TYPE,
                match base.kind {
                    ChainType::Filter => "filter",
                    ChainType::Nat => "nat",
                },
            );
        });
    }

    pub(crate) fn append_rule(&mut self, chain: &str, expressions: &[Expr<'_>]) {
        let table = self.table.clone();
        let operation = format!("add a rule to nftables chain {table} {chain}");
        self.push(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, operation, |w| {
            w.text(NFTA_RULE_TABLE, &table);
            w.text(NFTA_RULE_CHAIN, chain);
            w.nest(NFTA_RULE_EXPRESSIONS, |w| {
                for expression in expressions {
                    w.nest(NFTA_LIST_ELEM, |w| expression.write(w));
                }
            });
        });
    }

    pub(crate) fn create_map(&mut self, map: &Map) {
        let table = self.table.clone();
        let id = self.next_set;
        self.next_set += 1;
        let operation = format!("create nftables map {table} {}", map.name);
        self.push(NFT_MSG_NEWSET, NLM_F_CREATE, operation, |w| {
            w.text(NFTA_SET_TABLE, &table);
            w.text(NFTA_SET_NAME, map.name);
            w.be32(NFTA_SET_FLAGS, NFT_SET_MAP);
            w.be32(NFTA_SET_KEY_TYPE, concatenation(map.key));
            w.be32(NFTA_SET_KEY_LEN, map.key.iter().map(|part| part.register_bytes()).sum());
            w.be32(NFTA_SET_DATA_TYPE, concatenation(map.value));
            w.be32(NFTA_SET_DATA_LEN, map.value.iter().map(|part| part.register_bytes()).sum());
            w.be32(NFTA_SET_ID, id);
        });
    }

    pub(crate) fn add_elements(&mut self, map: &Map, elements: &[Element]) {
        self.elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, "add to", map, elements);
    }

    pub(crate) fn delete_elements(&mut self, map: &Map, elements: &[Element]) {
        self.elements(NFT_MSG_DELSETELEM, 0, "delete from", map, elements);
    }

    fn elements(&mut self, kind: u16, flags: u16, verb: &str, map: &Map, elements: &[Element]) {
        let table = self.table.clone();
        for chunk in elements.chunks(ELEMENTS_MAX) {
            let operation = format!("{verb} nftables map {table} {}", map.name);
            self.push(kind, flags, operation, |w| {
                w.text(NFTA_SET_ELEM_LIST_TABLE, &table);
                w.text(NFTA_SET_ELEM_LIST_SET, map.name);
                w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
                    chunk.iter().for_each(|element| element.write(w));
                });
            });
        }
    }

    /// How large the message is that would be sent.
    pub(crate) fn bytes(&self) -> usize {
        self.batch.bytes()
    }

    /// Applies all changes, or none.
    pub(crate) fn commit(mut self, socket: &mut Socket) -> Result<(), NetlinkError> {
        let operation = format!("commit nftables table {}", self.table);
        self.batch.push(NFNL_MSG_BATCH_END, 0, operation, |w| header(w, 0, NFNL_SUBSYS_NFTABLES));
        socket.execute(self.batch)
    }

    fn push(&mut self, kind: u16, flags: u16, operation: String, body: impl FnOnce(&mut Writer<'_>)) {
        self.batch.push(NFNL_SUBSYS_NFTABLES << 8 | kind, flags | NLM_F_ACK, operation, |w| {
            header(w, NFPROTO_INET, 0);
            body(w);
        });
    }
}

/// Whether the table is there.
pub(crate) fn table_exists(socket: &mut Socket, table: &str) -> Result<bool, NetlinkError> {
    let mut batch = Batch::default();
    let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE;
    batch.push(kind, NLM_F_ACK, format!("find nftables table {table}"), |w| {
        header(w, NFPROTO_INET, 0);
        w.text(NFTA_TABLE_NAME, table);
    });
    match socket.execute(batch) {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// nfgenmsg: family, version, resource id.
fn header(w: &mut Writer<'_>, family: u8, resource: u16) {
    let resource = resource.to_be_bytes();
    w.raw(&[family, 0, resource[0], resource[1]]);
}

/// A value in nftables' double wrapping.
fn data(w: &mut Writer<'_>, kind: u16, value: &[u8]) {
    w.nest(kind, |w| w.bytes(NFTA_DATA_VALUE, value));
}

fn concatenation(parts: &[DataType]) -> u32 {
    parts.iter().fold(0, |all, part| all << 6 | *part as u32)
}
