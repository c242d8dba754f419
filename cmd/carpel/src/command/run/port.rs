//! `--publish [ADDRESS:]HOST:CONTAINER[/PROTOCOL]`.

use std::net::IpAddr;

use carpel_proto::v1::{PortMapping, Protocol};

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PortError {
    #[error("expected HOST:CONTAINER, such as 8080:80 or 127.0.0.1:8080:80/tcp")]
    Shape,
    #[error("{0:?} is not a port between 1 and 65535")]
    Port(String),
    #[error("{0:?} is not an IP address of the node")]
    Address(String),
    #[error("the protocol {0:?} is not one of tcp, udp and sctp")]
    Protocol(String),
}

pub(super) fn parse(text: &str) -> Result<PortMapping, PortError> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol)) => (ports, parse_protocol(protocol)?),
        None => (text, Protocol::Tcp),
    };
    let (rest, container) = ports.rsplit_once(':').ok_or(PortError::Shape)?;
    // An IPv6 address has colons of its own and stands in brackets.
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    let address = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
    if !address.is_empty() {
        address.parse::<IpAddr>().map_err(|_| PortError::Address(address.to_owned()))?;
    }
    Ok(PortMapping {
        protocol: protocol.into(),
        container_port: parse_port(container)?,
        host_port: parse_port(host)?,
        host_ip: address.to_owned(),
    })
}

fn parse_port(text: &str) -> Result<i32, PortError> {
    let port: u16 = text.parse().map_err(|_| PortError::Port(text.to_owned()))?;
    if port == 0 { Err(PortError::Port(text.to_owned())) } else { Ok(i32::from(port)) }
}

fn parse_protocol(text: &str) -> Result<Protocol, PortError> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(PortError::Protocol(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_addresses_and_protocols() {
        for (text, host_ip, host_port, container_port, protocol) in [
            ("8080:80", "", 8080, 80, Protocol::Tcp),
            ("127.0.0.1:53:5353/UDP", "127.0.0.1", 53, 5353, Protocol::Udp),
            ("[::1]:1:2/sctp", "::1", 1, 2, Protocol::Sctp),
        ] {
            let expected =
                PortMapping { protocol: protocol.into(), container_port, host_port, host_ip: host_ip.into() };
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, error) in [
            ("80", PortError::Shape),
            ("", PortError::Shape),
            ("0:80", PortError::Port("0".into())),
            ("80:65536", PortError::Port("65536".into())),
            (":80", PortError::Port(String::new())),
            ("localhost:1:2", PortError::Address("localhost".into())),
            ("1:2/icmp", PortError::Protocol("icmp".into())),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }
}
