//! Which pod holds which port of the node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::request::{PortMapping, Protocol};

/// A pod may ask for far fewer; the kubelet never sends this many.
pub(super) const PORTS_PER_POD_MAX: usize = 4096;

/// Why a port cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Another pod, or the same one, has it.
    #[error("host port {port}/{protocol} is taken by pod {holder}")]
    Taken {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// The pod's id.
        holder: String,
    },
    /// The pod has no address of the family that `host_ip` asks for.
    #[error("host port {port}/{protocol} on {host_ip}: the pod network has no address of that family")]
    Family {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// The node's address.
        host_ip: IpAddr,
    },
    /// A mapping leads nowhere.
    #[error("host port {port}/{protocol} leads to container port 0")]
    NoContainerPort {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
    },
    /// More than a pod may have.
    #[error("{0} host ports are more than {PORTS_PER_POD_MAX}")]
    TooMany(usize),
}

/// The node's ports in use by pods.
#[derive(Debug, Default)]
pub(super) struct Ports {
    taken: BTreeMap<(Protocol, u16), Vec<(Listen, String)>>,
}

/// The addresses of the node that a mapping listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    Everywhere,
    /// `0.0.0.0` or `::` stands for all of its family.
    Family {
        v4: bool,
    },
    On(IpAddr),
}

impl Listen {
    pub(super) fn of(port: &PortMapping) -> Listen {
        match port.host_ip {
            None => Listen::Everywhere,
            Some(ip) if ip.is_unspecified() => Listen::Family { v4: ip.is_ipv4() },
            Some(ip) => Listen::On(ip),
        }
    }

    fn overlaps(self, other: Listen) -> bool {
        match (self, other) {
            (Listen::Everywhere, _) | (_, Listen::Everywhere) => true,
            (Listen::Family { v4: a }, Listen::Family { v4: b }) => a == b,
            (Listen::Family { v4 }, Listen::On(ip)) | (Listen::On(ip), Listen::Family { v4 }) => {
                v4 == ip.is_ipv4()
            }
            (Listen::On(a), Listen::On(b)) => a == b,
        }
    }
}

impl Ports {
    /// Takes all of `ports` for `pod`, or none.
    pub(super) fn take(&mut self, pod: &str, ports: &[PortMapping]) -> Result<(), PortError> {
        if ports.len() > PORTS_PER_POD_MAX {
            return Err(PortError::TooMany(ports.len()));
        }
        for port in ports {
            if let Err(error) = self.take_one(pod, port) {
                self.release(pod, ports);
                return Err(error);
            }
        }
        Ok(())
    }

    fn take_one(&mut self, pod: &str, port: &PortMapping) -> Result<(), PortError> {
        let (protocol, number) = (port.protocol, port.host_port);
        if port.container_port == 0 {
            return Err(PortError::NoContainerPort { port: number, protocol });
        }
        let listen = Listen::of(port);
        let holders = self.taken.entry((protocol, number)).or_default();
        match holders.iter().find(|(other, _)| listen.overlaps(*other)) {
            Some((_, holder)) => Err(PortError::Taken { port: number, protocol, holder: holder.clone() }),
            None => {
                holders.push((listen, pod.into()));
                Ok(())
            }
        }
    }

    /// Takes back what `pod` holds of `ports`.
    pub(super) fn release(&mut self, pod: &str, ports: &[PortMapping]) {
        for port in ports {
            let key = (port.protocol, port.host_port);
            if let Some(holders) = self.taken.get_mut(&key) {
                holders.retain(|(_, holder)| holder != pod);
                if holders.is_empty() {
                    self.taken.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: &str, host_port: u16) -> PortMapping {
        let host_ip = host_ip.parse().ok();
        PortMapping { protocol: Protocol::Tcp, host_ip, host_port, container_port: 80 }
    }

    #[test]
    fn overlapping_listeners_are_refused_by_name() {
        for (first, second, clash) in [
            ("", "", true),
            ("", "10.0.0.1", true),
            ("0.0.0.0", "10.0.0.1", true),
            ("0.0.0.0", "::1", false),
            ("::", "0.0.0.0", false),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("::", "::1", true),
        ] {
            let mut ports = Ports::default();
            ports.take("a", &[port(first, 80)]).unwrap();
            let outcome = ports.take("b", &[port(second, 80)]);
            assert_eq!(outcome.is_err(), clash, "{first:?} {second:?}");
            if let Err(error) = outcome {
                assert_eq!(error.to_string(), "host port 80/tcp is taken by pod a");
            }
        }
    }

    #[test]
    fn a_refused_set_takes_nothing() {
        let mut ports = Ports::default();
        ports.take("a", &[port("", 80)]).unwrap();
        assert!(ports.take("b", &[port("", 81), port("", 80)]).is_err());
        ports.take("c", &[port("", 81)]).unwrap();
        ports.release("a", &[port("", 80)]);
        ports.take("d", &[port("", 80)]).unwrap();
    }

    #[test]
    fn protocols_are_apart_and_port_zero_leads_nowhere() {
        let mut ports = Ports::default();
        ports.take("a", &[port("", 80)]).unwrap();
        ports.take("b", &[PortMapping { protocol: Protocol::Udp, ..port("", 80) }]).unwrap();
        let nowhere = PortMapping { container_port: 0, ..port("", 90) };
        assert!(matches!(ports.take("c", &[nowhere]), Err(PortError::NoContainerPort { .. })));
        assert!(ports.take("a", &[port("", 99), port("", 99)]).is_err(), "one pod took a port twice");
    }
}
