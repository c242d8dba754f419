//! What a pod got: the result of an attach, its counters, and whether the node can attach at all.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::request::DnsConfig;

/// A pod's network, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The pinned network namespace: a bind mount that `setns` and plugins can open.
    pub netns: PathBuf,
    /// Interfaces inside the namespace, without loopback, in the order they were made.
    pub interfaces: Vec<Interface>,
    /// All addresses, the primary one (`status.podIP`) first. Empty only if a CNI network gave none.
    pub ips: Vec<IpAddr>,
    /// Name resolution as the network wants it; empty unless a CNI plugin said something.
    pub dns: DnsConfig,
}

/// One interface inside a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name, `eth0` for the first.
    pub name: String,
    /// Its link-layer address as `aa:bb:cc:dd:ee:ff`; empty if unknown.
    pub mac: String,
    /// Its addresses, each with the prefix length of its subnet.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// Counters of one interface since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceStats {
    /// The interface's name inside the pod.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Received packets that were broken.
    pub rx_errors: u64,
    /// Received packets that were dropped for lack of room.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets dropped on their way out.
    pub tx_dropped: u64,
}

/// Whether pods can be attached now: CRI's `NetworkReady` condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkStatus {
    /// They can.
    Ready,
    /// They cannot.
    NotReady {
        /// CamelCase word for programs. Kubernetes tools look for `NetworkPluginNotReady`.
        reason: &'static str,
        /// Sentence for people. It begins with `cni plugin not initialized` when no CNI configuration is
        /// usable: installers search for that text.
        message: String,
    },
}
