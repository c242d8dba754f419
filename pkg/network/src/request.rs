//! What a pod asks of its network.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use carpel_sys::netns::{self, NetnsError};

/// Everything needed to give one pod sandbox its network.
#[derive(Clone, Debug, Default)]
pub struct AttachRequest {
    /// The sandbox id: 64 lower-case hexadecimal digits.
    pub pod: String,
    /// `metadata.name` of the pod.
    pub name: String,
    /// `metadata.namespace` of the pod.
    pub namespace: String,
    /// `metadata.uid` of the pod.
    pub uid: String,
    /// The pod's annotations. Only `kubernetes.io/ingress-bandwidth` and `kubernetes.io/egress-bandwidth`
    /// are interpreted; plugins that ask for `io.kubernetes.cri.pod-annotations` see all of them.
    pub annotations: BTreeMap<String, String>,
    /// Host ports. An entry with `host_port` 0 asks for nothing.
    pub port_mappings: Vec<PortMapping>,
    /// Name servers for plugins with the `dns` capability.
    pub dns: DnsConfig,
    /// The pod's cgroup, for plugins with the `io.kubernetes.cri.cgroupPath`-style capability `cgroupPath`.
    pub cgroup_parent: String,
    /// `net.*` sysctls to write inside the namespace, already validated as namespaced.
    pub sysctls: Vec<(String, String)>,
    /// A new network namespace to take, because another user namespace owns it; else one is made.
    pub netns: Option<Arc<OwnedFd>>,
}

impl AttachRequest {
    /// Pins the pod's namespace, which is new, and runs `inside` in it.
    pub(crate) fn pin_namespace<T: Send>(
        &self,
        pin: &Path,
        inside: impl FnOnce() -> T + Send,
    ) -> Result<T, NetnsError> {
        match &self.netns {
            Some(netns) => netns::adopt(netns.as_fd(), pin, inside),
            None => netns::create(pin, inside),
        }
    }
}

/// One port of the node that leads to a port of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The node's address to listen on; all addresses when absent.
    pub host_ip: Option<IpAddr>,
    /// Port of the node.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol's number in an IP header (IANA "Protocol Numbers").
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The lower-case name, as CNI's `portMappings` capability spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Name resolution: of a request what the pod asked for, of an attachment what the network offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options such as `ndots:5`.
    pub options: Vec<String>,
}
