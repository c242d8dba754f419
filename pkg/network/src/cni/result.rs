//! What a plugin's ADD answers: checked, carried on as it is, and turned into an attachment at the end.
//! CNI specification 1.1.0, section 5.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Map, Value};

use super::version::Version;
use crate::attachment::{Attachment, Interface};
use crate::request::DnsConfig;

/// More interfaces or addresses than any pod has.
const ENTRIES_MAX: usize = 256;

/// What is wrong with a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResultError {
    /// The plugin wrote nothing.
    #[error("the plugin wrote no result")]
    Empty,
    /// Not JSON.
    #[error("the result is not a JSON object: {0:?}")]
    NotAnObject(String),
    /// In a version that is not spoken here.
    #[error("the result's cniVersion {0:?} is not supported")]
    Version(String),
    /// A field is not what the specification says.
    #[error("field {0} of the result is malformed")]
    Field(&'static str),
    /// Too many interfaces, addresses or name servers.
    #[error("the result has more than {ENTRIES_MAX} {0}")]
    TooMany(&'static str),
    /// The pod would have no address.
    #[error("network {0} gave the pod no address")]
    NoAddress(String),
}

/// A plugin's stdout as a result for the next plugin, in the network's version.
pub(crate) fn parse(stdout: &[u8], version: Version) -> Result<Value, ResultError> {
    if stdout.iter().all(u8::is_ascii_whitespace) {
        return Err(ResultError::Empty);
    }
    let beginning = || {
        let text = String::from_utf8_lossy(&stdout[..stdout.len().min(64)]).into_owned();
        ResultError::NotAnObject(text)
    };
    let value: Value = serde_json::from_slice(stdout).map_err(|_| beginning())?;
    let Value::Object(mut result) = value else { return Err(beginning()) };
    let spoken = match result.get("cniVersion") {
        None => version,
        Some(Value::String(text)) => {
            Version::parse(text).ok_or_else(|| ResultError::Version(text.clone()))?
        }
        Some(_) => return Err(ResultError::Field("cniVersion")),
    };
    interfaces(&result)?;
    addresses(&result)?;
    if spoken != version {
        convert(&mut result, version);
    }
    result.insert("cniVersion".into(), version.as_str().into());
    Ok(Value::Object(result))
}

/// Between 0.3.0 and 1.1.0 only the family of an address changed its place.
fn convert(result: &mut Map<String, Value>, version: Version) {
    let addresses = result.get_mut("ips").and_then(Value::as_array_mut);
    for address in addresses.into_iter().flatten().filter_map(Value::as_object_mut) {
        if version.addresses_have_families() {
            let v6 = address.get("address").and_then(Value::as_str).is_some_and(|text| text.contains(':'));
            address.insert("version".into(), if v6 { "6" } else { "4" }.into());
        } else {
            address.remove("version");
        }
    }
}

/// An interface of a result, inside the pod or on the node.
struct Found {
    interface: Interface,
    inside: bool,
}

fn list<'a>(object: &'a Map<String, Value>, field: &'static str) -> Result<&'a [Value], ResultError> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(entries)) if entries.len() > ENTRIES_MAX => Err(ResultError::TooMany(field)),
        Some(Value::Array(entries)) => Ok(entries),
        Some(_) => Err(ResultError::Field(field)),
    }
}

fn text(object: &Map<String, Value>, field: &'static str) -> Result<String, ResultError> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(ResultError::Field(field)),
    }
}

fn interfaces(result: &Map<String, Value>) -> Result<Vec<Found>, ResultError> {
    let found = list(result, "interfaces")?.iter().map(|entry| {
        let entry = entry.as_object().ok_or(ResultError::Field("interfaces"))?;
        let interface =
            Interface { name: text(entry, "name")?, mac: text(entry, "mac")?, addresses: Vec::new() };
        Ok(Found { interface, inside: !text(entry, "sandbox")?.is_empty() })
    });
    found.collect()
}

/// Addresses in order, each with the number of its interface if the plugin said one.
fn addresses(result: &Map<String, Value>) -> Result<Vec<(Option<usize>, IpAddr, u8)>, ResultError> {
    let found = list(result, "ips")?.iter().map(|entry| {
        let malformed = || ResultError::Field("ips");
        let entry = entry.as_object().ok_or_else(malformed)?;
        let cidr = text(entry, "address")?;
        let (ip, prefix) = cidr.split_once('/').ok_or_else(malformed)?;
        let ip: IpAddr = ip.parse().map_err(|_| malformed())?;
        let prefix: u8 = prefix.parse().map_err(|_| malformed())?;
        if prefix > if ip.is_ipv4() { 32 } else { 128 } {
            return Err(malformed());
        }
        let interface = match entry.get("interface") {
            None | Some(Value::Null) => None,
            Some(number) => {
                let number = number.as_u64().ok_or_else(malformed)?;
                Some(usize::try_from(number).map_err(|_| malformed())?)
            }
        };
        Ok((interface, ip, prefix))
    });
    found.collect()
}

/// One network's part of a pod.
pub(crate) struct Part {
    interfaces: Vec<Interface>,
    ips: Vec<IpAddr>,
    dns: DnsConfig,
}

/// The last plugin's result as the pod's part. Addresses of the first interface inside the pod come first;
/// an address without an interface belongs to `name`, the one the plugins were asked to make.
pub(crate) fn part(result: &Value, name: &str) -> Result<Part, ResultError> {
    let result = result.as_object().ok_or_else(|| ResultError::NotAnObject(String::new()))?;
    let mut found = interfaces(result)?;
    let known = found.len();
    for (number, ip, prefix) in addresses(result)? {
        let at = match number {
            Some(number) if number < known => number,
            Some(_) => return Err(ResultError::Field("ips")),
            None => owner(&mut found, name),
        };
        found[at].interface.addresses.push((ip, prefix));
    }
    let interfaces: Vec<Interface> =
        found.into_iter().filter(|found| found.inside).map(|found| found.interface).collect();
    let ips = interfaces.iter().flat_map(|i| i.addresses.iter().map(|(ip, _)| *ip)).collect();
    Ok(Part { interfaces, ips, dns: dns(result)? })
}

/// The interface called `name` inside the pod, entered if the plugin listed none.
fn owner(found: &mut Vec<Found>, name: &str) -> usize {
    let at = found.iter().position(|found| found.inside && found.interface.name == name);
    at.unwrap_or_else(|| {
        let interface = Interface { name: name.into(), ..Interface::default() };
        found.push(Found { interface, inside: true });
        found.len() - 1
    })
}

fn dns(result: &Map<String, Value>) -> Result<DnsConfig, ResultError> {
    let Some(dns) = result.get("dns").and_then(Value::as_object) else { return Ok(DnsConfig::default()) };
    let texts = |field| -> Result<Vec<String>, ResultError> {
        let entries = list(dns, field)?.iter();
        entries.map(|e| e.as_str().map(str::to_owned).ok_or(ResultError::Field("dns"))).collect()
    };
    Ok(DnsConfig { servers: texts("nameservers")?, searches: texts("search")?, options: texts("options")? })
}

/// All networks' parts together; the first network's first address is the primary one.
pub(crate) fn attachment(netns: &Path, parts: Vec<(String, Part)>) -> Result<Attachment, ResultError> {
    let mut all = Attachment {
        netns: netns.into(),
        interfaces: Vec::new(),
        ips: Vec::new(),
        dns: DnsConfig::default(),
    };
    for (network, part) in parts {
        // Further networks may do without addresses; the primary one is `status.podIP`.
        if all.ips.is_empty() && part.ips.is_empty() {
            return Err(ResultError::NoAddress(network));
        }
        all.interfaces.extend(part.interfaces);
        all.ips.extend(part.ips);
        if all.dns == DnsConfig::default() {
            all.dns = part.dns;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ips(result: Value) -> Vec<String> {
        let parsed = parse(result.to_string().as_bytes(), Version::V1_0_0).unwrap();
        part(&parsed, "eth0").unwrap().ips.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn the_first_interface_inside_the_pod_is_primary() {
        let result = json!({"cniVersion": "1.0.0", "interfaces": [
            {"name": "br0"}, {"name": "eth0", "sandbox": "/n"}, {"name": "net1", "sandbox": "/n"}],
            "ips": [{"address": "10.2.0.2/24", "interface": 2}, {"address": "10.1.0.2/24", "interface": 1},
                    {"address": "fd00::2/64", "interface": 1}, {"address": "10.9.9.9/24", "interface": 0}]});
        assert_eq!(ips(result), ["10.1.0.2", "fd00::2", "10.2.0.2"]);
    }

    #[test]
    fn addresses_without_interface_are_the_pod_s() {
        assert_eq!(ips(json!({"ips": [{"address": "10.1.0.2/24"}]})), ["10.1.0.2"]);
        let listed = json!({"interfaces": [{"name": "eth0", "sandbox": "/n", "mac": "0a:00:00:00:00:01"}],
            "ips": [{"address": "10.1.0.2/24"}]});
        assert_eq!(ips(listed), ["10.1.0.2"]);
    }

    #[test]
    fn malformed_results_are_refused() {
        let parse = |text: &str| parse(text.as_bytes(), Version::V1_0_0);
        assert_eq!(parse(" \n"), Err(ResultError::Empty));
        assert_eq!(parse("oops"), Err(ResultError::NotAnObject("oops".into())));
        assert_eq!(parse("[]"), Err(ResultError::NotAnObject("[]".into())));
        assert_eq!(parse(r#"{"cniVersion": "7"}"#), Err(ResultError::Version("7".into())));
        for bad in
            [r#"{"ips": 1}"#, r#"{"ips": [{"address": "10.0.0.1"}]}"#, r#"{"ips": [{"address": "x/8"}]}"#]
        {
            assert_eq!(parse(bad), Err(ResultError::Field("ips")), "{bad}");
        }
        assert_eq!(parse(r#"{"ips": [{"address": "10.0.0.1/33"}]}"#), Err(ResultError::Field("ips")));
        let many = json!({"interfaces": vec![json!({"name": "x"}); ENTRIES_MAX + 1]});
        assert_eq!(parse(&many.to_string()), Err(ResultError::TooMany("interfaces")));
        let beyond = parse(r#"{"ips": [{"address": "10.0.0.1/8", "interface": 3}]}"#).unwrap();
        assert_eq!(part(&beyond, "eth0").err(), Some(ResultError::Field("ips")));
    }

    #[test]
    fn families_of_addresses_follow_the_version() {
        let new = parse(br#"{"cniVersion": "1.0.0", "ips": [{"address": "fd00::1/64"}]}"#, Version::V0_4_0);
        assert_eq!(new.unwrap()["ips"][0]["version"], "6");
        let old = r#"{"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.1/8"}]}"#;
        let old = parse(old.as_bytes(), Version::V1_1_0).unwrap();
        assert_eq!(old["ips"][0].get("version"), None);
        assert_eq!(old["cniVersion"], "1.1.0");
    }

    #[test]
    fn a_primary_network_without_address_is_refused() {
        let empty = part(&json!({}), "eth0").unwrap();
        let outcome = attachment(Path::new("/n"), vec![("net".into(), empty)]);
        assert_eq!(outcome.err(), Some(ResultError::NoAddress("net".into())));
    }
}
