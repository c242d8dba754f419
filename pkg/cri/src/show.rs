//! The house's own types out, as CRI messages.

mod container;
mod image;
mod metrics;
mod pod;
mod stats;

use carpel_proto::v1;

pub(crate) use container::{container_item, container_status, state as container_state};
pub(crate) use image::image;
pub(crate) use metrics::{descriptors as metric_descriptors, pod_metrics};
pub(crate) use pod::{pod_item, pod_status};
pub(crate) use stats::{container_stats, pod_stats};

/// The kernel's name of a signal that CRI numbers in its own way: `SIGTERM`, `SIGRTMIN+3`.
pub(crate) fn signal_name(signal: v1::Signal) -> String {
    let name = signal.as_str_name();
    name.strip_prefix("SIGNAL_").unwrap_or(name).replace("PLUS", "+").replace("MINUS", "-")
}

/// CRI's number of a signal, by the kernel's name. One that CRI does not know is "the runtime's default".
pub(crate) fn signal_number(name: &str) -> i32 {
    let name = format!("SIGNAL_{}", name.replace('+', "PLUS").replace('-', "MINUS"));
    v1::Signal::from_str_name(&name).unwrap_or(v1::Signal::RuntimeDefault).into()
}

/// Now, in nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_name_and_comes_back() {
        for number in 1..=65 {
            let name = signal_name(v1::Signal::try_from(number).unwrap());
            assert!(name.starts_with("SIG") && !name.contains("PLUS") && !name.contains('_'), "{name}");
            assert_eq!(signal_number(&name), number);
        }
        assert_eq!(signal_name(v1::Signal::Sigrtminplus3), "SIGRTMIN+3");
        assert_eq!(signal_number("SIGNONSENSE"), 0);
    }
}
