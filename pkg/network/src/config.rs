//! What the operator says about pod networks, checked before anything is touched.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How this node gives pods their network.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where network namespaces are pinned, `/run/netns` on most nodes. CNI plugins and tools such as
    /// Cilium and Multus expect them there. It need not survive a reboot.
    pub netns_dir: PathBuf,
    /// Durable attachment records, one file per pod. It must survive a reboot, because a CNI plugin's
    /// address leases do.
    pub state_dir: PathBuf,
    /// Who makes the interfaces.
    pub mode: Mode,
}

/// Who makes a pod's interfaces.
#[derive(Clone, Debug)]
pub enum Mode {
    /// CNI plugins, executed as the CNI specification 1.1.0 says.
    Cni(CniConfig),
    /// The bridge built into the daemon.
    Builtin(BridgeConfig),
}

/// Where CNI configurations and plugins are, and what they may cost.
#[derive(Clone, Debug)]
pub struct CniConfig {
    /// Folder of `.conf`, `.conflist` and `.json` files; the lexically first usable ones count.
    pub conf_dir: PathBuf,
    /// Folders that are searched, in order, for plugin executables.
    pub bin_dirs: Vec<PathBuf>,
    /// Folder whose `results/` holds cached results in libcni's format (`/var/lib/cni`).
    pub cache_dir: PathBuf,
    /// How many networks are loaded from `conf_dir`; 0 means all. The first one is the primary.
    pub max_conf_num: usize,
    /// How long one plugin may run before it is killed with its process group.
    pub plugin_timeout: Duration,
    /// Interfaces are called this and a number: `eth0`, `eth1`, …
    pub interface_prefix: String,
}

impl Default for CniConfig {
    /// The places every CNI installer knows: `/etc/cni/net.d`, `/opt/cni/bin`, `/var/lib/cni`.
    fn default() -> Self {
        CniConfig {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into()],
            cache_dir: "/var/lib/cni".into(),
            max_conf_num: 1,
            plugin_timeout: Duration::from_secs(60),
            interface_prefix: "eth".into(),
        }
    }
}

/// The built-in bridge: one Linux bridge, a veth pair per pod, addresses from one subnet per family.
#[derive(Clone, Debug)]
pub struct BridgeConfig {
    /// Name of the bridge device; the nftables table is called `carpel-<bridge>`. Daemons that share a
    /// machine each need their own.
    pub bridge: String,
    /// One IPv4 subnet, one IPv6 subnet, or one of each; the first one's family is the primary address.
    /// The bridge takes the first host address of each.
    pub subnets: Vec<Subnet>,
    /// Whether traffic that leaves the subnet is given the node's address.
    pub masquerade: bool,
    /// MTU of bridge and pods in bytes; the kernel's default (1500) when absent.
    pub mtu: Option<u32>,
    /// Whether the daemon may switch on `net.ipv4.ip_forward` and `net.ipv6.conf.all.forwarding` when they
    /// are off. Pods reach nothing beyond the node without them. It is a setting of the whole node and stays.
    pub ip_forward: bool,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        BridgeConfig {
            bridge: "carpel0".into(),
            subnets: vec![
                Subnet { address: IpAddr::V4(Ipv4Addr::new(10, 117, 0, 0)), prefix: 16 },
                Subnet {
                    address: IpAddr::V6(Ipv6Addr::new(0xfdca, 0x47be, 0x117, 0, 0, 0, 0, 0)),
                    prefix: 64,
                },
            ],
            masquerade: true,
            mtu: None,
            ip_forward: true,
        }
    }
}

/// An address block such as `10.88.0.0/16`; host bits are always zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSubnetError {
    /// There is no `/`.
    #[error("subnet {0:?} has no prefix length (write ADDRESS/LENGTH)")]
    NoPrefix(String),
    /// The part before `/` is no IP address.
    #[error("subnet {0:?} does not begin with an IP address")]
    Address(String),
    /// The part after `/` is no number or longer than the address.
    #[error("subnet {0:?} has a bad prefix length")]
    Prefix(String),
    /// The address has bits beyond the prefix, so it is unclear what was meant.
    #[error("subnet {0:?} has host bits set")]
    HostBits(String),
}

impl Subnet {
    /// The block `address/prefix`.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Subnet, ParseSubnetError> {
        let text = || format!("{address}/{prefix}");
        if prefix > address_bits(address) {
            return Err(ParseSubnetError::Prefix(text()));
        }
        let subnet = Subnet { address, prefix };
        if to_bits(address) & subnet.host_mask() != 0 {
            return Err(ParseSubnetError::HostBits(text()));
        }
        Ok(subnet)
    }

    /// The network address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether `ip` lies in this block.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.address.is_ipv4() && to_bits(ip) & !self.host_mask() == to_bits(self.address)
    }

    /// Whether the two blocks have an address in common.
    pub fn overlaps(&self, other: &Subnet) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The address `offset` above the network address, if it is still in the block.
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        (offset <= self.host_mask()).then(|| from_bits(self.address, to_bits(self.address) | offset))
    }

    /// How far `ip` is above the network address, if it is in the block.
    pub fn offset(&self, ip: IpAddr) -> Option<u128> {
        self.contains(ip).then(|| to_bits(ip) & self.host_mask())
    }

    /// First and last offset a host may have. IPv4 loses network and broadcast address, IPv6 only the
    /// subnet-router anycast address (RFC 4291, 2.6.1).
    pub(crate) fn host_offsets(&self) -> (u128, u128) {
        match self.address {
            IpAddr::V4(_) => (1, self.host_mask().saturating_sub(1)),
            IpAddr::V6(_) => (1, self.host_mask()),
        }
    }

    fn host_mask(&self) -> u128 {
        let host_bits = address_bits(self.address) - self.prefix;
        if host_bits == 128 { u128::MAX } else { (1 << host_bits) - 1 }
    }
}

fn address_bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn to_bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn from_bits(family: IpAddr, bits: u128) -> IpAddr {
    match family {
        // Only offsets below the host mask reach this, so the upper 96 bits are zero.
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

impl FromStr for Subnet {
    type Err = ParseSubnetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) =
            text.split_once('/').ok_or_else(|| ParseSubnetError::NoPrefix(text.into()))?;
        let address = address.parse().map_err(|_| ParseSubnetError::Address(text.into()))?;
        let digits_only = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|_| digits_only);
        Subnet::new(address, prefix.ok_or_else(|| ParseSubnetError::Prefix(text.into()))?)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// What is wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The bridge's name cannot name a network device and an nftables table.
    #[error("bridge name {0:?} must be 1 to 15 of A-Z a-z 0-9 . _ - and not begin with . or -")]
    BridgeName(String),
    /// No subnet, or two of one family.
    #[error("the built-in bridge needs one IPv4 subnet, one IPv6 subnet, or one of each")]
    Subnets,
    /// Not enough addresses for a gateway and one pod, or no space for them at all.
    #[error("subnet {0} is too small for a gateway and a pod")]
    SubnetTooSmall(Subnet),
    /// The subnet lies in a range no pod can use.
    #[error("subnet {0} is not a range of unicast addresses")]
    SubnetRange(Subnet),
    /// Below what IP demands of a link (RFC 791, RFC 8200) or more than a veth carries.
    #[error("mtu {0} is not between {1} and 65535")]
    Mtu(u32, u32),
    /// The interface prefix leaves no room for a number or has strange characters.
    #[error("interface prefix {0:?} must be 1 to 12 of A-Z a-z 0-9 . _ - and begin with a letter")]
    InterfacePrefix(String),
    /// A path is relative.
    #[error("{what} {path} must be an absolute path")]
    RelativePath {
        /// Which setting it is.
        what: &'static str,
        /// What it says.
        path: PathBuf,
    },
    /// A plugin could never finish.
    #[error("plugin timeout must be longer than zero")]
    PluginTimeout,
}

impl Config {
    /// Checks everything that can be known without touching the machine.
    pub fn check(&self) -> Result<(), ConfigError> {
        absolute("netns_dir", &self.netns_dir)?;
        absolute("state_dir", &self.state_dir)?;
        match &self.mode {
            Mode::Cni(cni) => cni.check(),
            Mode::Builtin(bridge) => bridge.check(),
        }
    }
}

impl CniConfig {
    fn check(&self) -> Result<(), ConfigError> {
        absolute("conf_dir", &self.conf_dir)?;
        absolute("cache_dir", &self.cache_dir)?;
        self.bin_dirs.iter().try_for_each(|dir| absolute("bin_dirs entry", dir))?;
        if self.plugin_timeout.is_zero() {
            return Err(ConfigError::PluginTimeout);
        }
        let prefix = &self.interface_prefix;
        let fits = (1..=12).contains(&prefix.len()) && prefix.bytes().all(is_name_byte);
        match fits && prefix.as_bytes()[0].is_ascii_alphabetic() {
            true => Ok(()),
            false => Err(ConfigError::InterfacePrefix(prefix.clone())),
        }
    }
}

impl BridgeConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let name = self.bridge.as_bytes();
        let fits = (1..=15).contains(&name.len()) && name.iter().copied().all(is_name_byte);
        if !fits || matches!(name[0], b'.' | b'-') {
            return Err(ConfigError::BridgeName(self.bridge.clone()));
        }
        let v4 = self.subnets.iter().filter(|s| s.address.is_ipv4()).count();
        let v6 = self.subnets.len() - v4;
        if v4 > 1 || v6 > 1 || v4 + v6 == 0 {
            return Err(ConfigError::Subnets);
        }
        for subnet in &self.subnets {
            let (first, last) = subnet.host_offsets();
            if subnet.prefix == 0 || last < first + 1 {
                return Err(ConfigError::SubnetTooSmall(*subnet));
            }
            let ip = subnet.address;
            if ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() {
                return Err(ConfigError::SubnetRange(*subnet));
            }
        }
        let least = if v6 > 0 { 1280 } else { 576 };
        match self.mtu {
            Some(mtu) if !(least..=65535).contains(&mtu) => Err(ConfigError::Mtu(mtu, least)),
            _ => Ok(()),
        }
    }
}

fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')
}

fn absolute(what: &'static str, path: &std::path::Path) -> Result<(), ConfigError> {
    match path.is_absolute() {
        true => Ok(()),
        false => Err(ConfigError::RelativePath { what, path: path.into() }),
    }
}

#[cfg(test)]
mod tests;
