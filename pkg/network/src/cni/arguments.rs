//! What a pod's request becomes for plugins: CNI_ARGS, and the arguments that plugins ask for by capability
//! (CNI "Conventions").

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::request::AttachRequest;

/// Annotations that plugins may see, together.
const ANNOTATIONS_MAX_BYTES: usize = 256 << 10;
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Bounds of the kubelet's own check of these annotations (`validateBandwidthIsReasonable`): 1k to 1P bit/s.
const RATE_MIN: u64 = 1_000;
const RATE_MAX: u64 = 1_000_000_000_000_000;
/// Bits that may come at once. The tbf queue needs a number; this is the largest the kernel takes, and what
/// the field uses, so that the rate alone shapes.
const BURST: u32 = u32::MAX;

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// CNI_ARGS has no way to write this.
    #[error("{key} {value:?} contains ';', '=' or a control character, which CNI_ARGS cannot carry")]
    Unprintable {
        /// Which argument.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// Not a quantity as Kubernetes writes it.
    #[error("annotation {annotation} {value:?} is not a bandwidth between 1k and 1P")]
    Bandwidth {
        /// Its key.
        annotation: &'static str,
        /// Its value.
        value: String,
    },
    /// The annotations would not fit a plugin's stdin reasonably.
    #[error("{0} bytes of annotations are more than {ANNOTATIONS_MAX_BYTES}")]
    Annotations(usize),
    /// A mapping leads nowhere.
    #[error("host port {0} leads to container port 0")]
    NoContainerPort(u16),
}

/// CNI_ARGS in the order the field uses. `IgnoreUnknown` tells plugins not to mind the rest.
pub(crate) fn cni_args(request: &AttachRequest) -> Result<Vec<(String, String)>, ArgumentError> {
    let mut args = vec![("IgnoreUnknown".to_owned(), "1".to_owned())];
    for (key, value) in [
        ("K8S_POD_NAMESPACE", &request.namespace),
        ("K8S_POD_NAME", &request.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &request.pod),
        ("K8S_POD_UID", &request.uid),
    ] {
        if value.contains([';', '=']) || value.chars().any(char::is_control) {
            return Err(ArgumentError::Unprintable { key, value: value.clone() });
        }
        args.push((key.into(), value.clone()));
    }
    Ok(args)
}

/// Arguments by capability; a capability the pod has nothing for is absent.
pub(crate) fn capability_args(request: &AttachRequest) -> Result<BTreeMap<String, Value>, ArgumentError> {
    let mut args = BTreeMap::new();
    if let Some(ports) = port_mappings(request)? {
        args.insert("portMappings".into(), ports);
    }
    if let Some(bandwidth) = bandwidth(request)? {
        args.insert("bandwidth".into(), bandwidth);
    }
    let dns = &request.dns;
    if !(dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()) {
        let value = json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options});
        args.insert("dns".into(), value);
    }
    if !request.cgroup_parent.is_empty() {
        args.insert("cgroupPath".into(), request.cgroup_parent.as_str().into());
    }
    let size = request.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > ANNOTATIONS_MAX_BYTES {
        return Err(ArgumentError::Annotations(size));
    }
    if size > 0 {
        args.insert("io.kubernetes.cri.pod-annotations".into(), json!(request.annotations));
    }
    Ok(args)
}

fn port_mappings(request: &AttachRequest) -> Result<Option<Value>, ArgumentError> {
    let mut all = Vec::new();
    for port in request.port_mappings.iter().filter(|port| port.host_port != 0) {
        if port.container_port == 0 {
            return Err(ArgumentError::NoContainerPort(port.host_port));
        }
        all.push(json!({
            "hostPort": port.host_port,
            "containerPort": port.container_port,
            "protocol": port.protocol.as_str(),
            "hostIP": port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        }));
    }
    Ok((!all.is_empty()).then_some(Value::Array(all)))
}

fn bandwidth(request: &AttachRequest) -> Result<Option<Value>, ArgumentError> {
    let mut args = serde_json::Map::new();
    for (annotation, rate, burst) in
        [(INGRESS, "ingressRate", "ingressBurst"), (EGRESS, "egressRate", "egressBurst")]
    {
        let Some(value) = request.annotations.get(annotation) else { continue };
        let bits = quantity(value).filter(|bits| (RATE_MIN..=RATE_MAX).contains(bits));
        let malformed = || ArgumentError::Bandwidth { annotation, value: value.clone() };
        args.insert(rate.into(), bits.ok_or_else(malformed)?.into());
        args.insert(burst.into(), BURST.into());
    }
    Ok((!args.is_empty()).then_some(Value::Object(args)))
}

/// A Kubernetes quantity as a whole number, rounded up: `10M`, `1.5Gi`, `1e6`, `250000`.
fn quantity(text: &str) -> Option<u64> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    // Eighteen digits fit u64 and leave room for every sensible rate.
    if digits.is_empty() || digits.len() > 18 || fraction.contains('.') {
        return None;
    }
    let value = u128::from(digits.parse::<u64>().ok()?);
    let divisor = 10u128.pow(fraction.len() as u32);
    let (numerator, denominator) = multiplier(suffix)?;
    let scaled = value.checked_mul(numerator)?;
    u64::try_from(scaled.div_ceil(divisor.checked_mul(denominator)?)).ok()
}

fn multiplier(suffix: &str) -> Option<(u128, u128)> {
    let decimal = |power: u32| Some((10u128.pow(power), 1));
    let binary = |power: u32| Some((1u128 << (10 * power), 1));
    match suffix {
        "" => decimal(0),
        "m" => Some((1, 1000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let power: u32 = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?;
            if power <= 18 { decimal(power) } else { None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{PortMapping, Protocol};

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, expect) in [
            ("10M", Some(10_000_000)),
            ("1.5k", Some(1_500)),
            ("1Ki", Some(1024)),
            ("0.5Mi", Some(524_288)),
            ("1e6", Some(1_000_000)),
            ("1E+3", Some(1_000)),
            ("1500m", Some(2)),
            ("250000", Some(250_000)),
            ("", None),
            (".", None),
            ("-1", None),
            ("1..2", None),
            ("10 M", None),
            ("10MB", None),
            ("1e99", None),
            ("9999999999999999999", None),
        ] {
            assert_eq!(quantity(text), expect, "{text:?}");
        }
    }

    #[test]
    fn arguments_carry_the_pod() {
        let request = AttachRequest {
            pod: "ab".repeat(32),
            name: "web".into(),
            namespace: "shop".into(),
            uid: "u-1".into(),
            port_mappings: vec![
                PortMapping { protocol: Protocol::Sctp, host_ip: None, host_port: 81, container_port: 80 },
                PortMapping { protocol: Protocol::Tcp, host_ip: None, host_port: 0, container_port: 80 },
            ],
            annotations: [(INGRESS.to_owned(), "10M".to_owned())].into(),
            ..AttachRequest::default()
        };
        let args: Vec<String> = cni_args(&request).unwrap().iter().map(|(k, v)| format!("{k}={v}")).collect();
        let id = format!("K8S_POD_INFRA_CONTAINER_ID={}", request.pod);
        let expect =
            ["IgnoreUnknown=1", "K8S_POD_NAMESPACE=shop", "K8S_POD_NAME=web", &id, "K8S_POD_UID=u-1"];
        assert_eq!(args, expect);
        let args = capability_args(&request).unwrap();
        assert_eq!(
            args["portMappings"],
            json!([
            {"hostPort": 81, "containerPort": 80, "protocol": "sctp", "hostIP": ""}])
        );
        assert_eq!(args["bandwidth"], json!({"ingressRate": 10_000_000u64, "ingressBurst": u32::MAX}));
        assert!(!args.contains_key("dns") && !args.contains_key("cgroupPath"));
    }

    #[test]
    fn arguments_that_would_smuggle_others_are_refused() {
        let request = AttachRequest { name: "a;K8S_POD_NAMESPACE=kube-system".into(), ..Default::default() };
        assert!(matches!(cni_args(&request), Err(ArgumentError::Unprintable { key: "K8S_POD_NAME", .. })));
        for bad in ["1", "2P", "fast"] {
            let annotations = [(EGRESS.to_owned(), bad.to_owned())].into();
            let request = AttachRequest { annotations, ..Default::default() };
            assert!(matches!(capability_args(&request), Err(ArgumentError::Bandwidth { .. })), "{bad}");
        }
    }
}
