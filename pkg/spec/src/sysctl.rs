//! Kernel settings that belong to a namespace, and the grammar of their names and values.
//!
//! A setting is allowed only if the kernel keeps it per namespace and the pod has that namespace to
//! itself: anything else would change the host (CVE-2022-0532). A value never has what some reader
//! might take for a second setting (CVE-2022-0811).

use crate::config::{Namespaces, PodOrNode};

/// The longest key or value, in bytes.
const TEXT_MAX_BYTES: usize = 1024;

/// The namespace that keeps a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// `net.*`.
    Network,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// The domain name.
    Uts,
}

/// Why a setting is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SysctlError {
    /// The key is malformed.
    #[error("the name is malformed")]
    Key,
    /// The value is malformed.
    #[error("the value {value:?} is empty, longer than 1024 bytes, or has a character that is not allowed")]
    Value {
        /// As given.
        value: String,
    },
    /// No namespace keeps it.
    #[error("it is not kept by any namespace of a pod")]
    NotNamespaced,
    /// The host name has a field of its own.
    #[error("the host name is set by the sandbox's hostname field")]
    Hostname,
    /// Given in the dotted and in the slashed form.
    #[error("it is given twice, in different forms")]
    Twice,
    /// The pod uses the host's.
    #[error("the pod uses the host's {namespace} namespace")]
    HostNamespace {
        /// Which.
        namespace: &'static str,
    },
}

/// `kernel.*` settings of an IPC namespace: ipc/ipc_sysctl.c of the kernel.
const IPC: [&str; 11] = [
    "kernel.msg_next_id",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.sem_next_id",
    "kernel.shm_next_id",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// `fs.mqueue.*` settings of an IPC namespace: ipc/mq_sysctl.c of the kernel.
const MQUEUE: [&str; 5] = [
    "fs.mqueue.msg_default",
    "fs.mqueue.msg_max",
    "fs.mqueue.msgsize_default",
    "fs.mqueue.msgsize_max",
    "fs.mqueue.queues_max",
];

/// The dotted form of a name, from either form.
///
/// As sysctl.d(5): the first separator decides. In `net/ipv4/conf/eth0.100/forwarding` a dot is part
/// of a name; in dotted form that dot is written as a slash.
///
/// # Errors
/// A component is empty, `.` or `..`, or a character is not one of a setting's name.
pub fn dotted(key: &str) -> Result<String, SysctlError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '@');
    if key.is_empty() || key.len() > TEXT_MAX_BYTES || !key.chars().all(allowed) {
        return Err(SysctlError::Key);
    }
    let slashed_first = key.find(['.', '/']).is_some_and(|at| key.as_bytes()[at] == b'/');
    let swap = |c: char| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let dotted: String = if slashed_first { key.chars().map(swap).collect() } else { key.to_owned() };
    // A slash inside a component is a dot in the file's name, so these are `..` in disguise too.
    let climbs = |part: &str| part.is_empty() || part.chars().all(|c| c == '/');
    if dotted.split('.').any(climbs) { Err(SysctlError::Key) } else { Ok(dotted) }
}

/// Which namespace keeps a setting, given in either form.
///
/// # Errors
/// The name or value is malformed, or no namespace of the pod's own keeps the setting.
pub fn check(key: &str, value: &str, namespaces: &Namespaces) -> Result<Namespace, SysctlError> {
    let dotted = dotted(key)?;
    let (namespace, owner, name) = if dotted.starts_with("net.") {
        (Namespace::Network, namespaces.network, "network")
    } else if IPC.contains(&dotted.as_str()) || MQUEUE.contains(&dotted.as_str()) {
        (Namespace::Ipc, namespaces.ipc, "IPC")
    } else if dotted == "kernel.domainname" {
        (Namespace::Uts, namespaces.network, "UTS")
    } else if dotted == "kernel.hostname" {
        return Err(SysctlError::Hostname);
    } else {
        return Err(SysctlError::NotNamespaced);
    };
    if owner == PodOrNode::Node {
        return Err(SysctlError::HostNamespace { namespace: name });
    }
    check_value(value)?;
    Ok(namespace)
}

/// Printable ASCII without `+`; blanks only between other characters.
fn check_value(value: &str) -> Result<(), SysctlError> {
    let allowed = |byte: u8| byte != b'+' && (byte.is_ascii_graphic() || byte == b' ' || byte == b'\t');
    let trimmed = value.trim_matches([' ', '\t']).len() == value.len();
    if value.is_empty() || value.len() > TEXT_MAX_BYTES || !trimmed || !value.bytes().all(allowed) {
        return Err(SysctlError::Value { value: value.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PidMode, UserMode};

    fn own() -> Namespaces {
        Namespaces {
            network: PodOrNode::Pod,
            ipc: PodOrNode::Pod,
            pid: PidMode::Container,
            user: UserMode::Node,
        }
    }

    #[test]
    fn settings_of_the_pods_namespaces_pass_in_both_forms() {
        for (key, value, expect) in [
            ("net.core.somaxconn", "1024", Namespace::Network),
            ("net/core/somaxconn", "1024", Namespace::Network),
            ("net.ipv4.ping_group_range", "0 2147483647", Namespace::Network),
            ("net/ipv4/conf/eth0.100/rp_filter", "2", Namespace::Network),
            ("kernel.sem", "250\t32000 100 128", Namespace::Ipc),
            ("kernel/shm_rmid_forced", "1", Namespace::Ipc),
            ("fs.mqueue.msg_max", "10", Namespace::Ipc),
            ("kernel.domainname", "example", Namespace::Uts),
        ] {
            assert_eq!(check(key, value, &own()), Ok(expect), "{key}");
        }
        assert_eq!(dotted("net/ipv4/conf/eth0.100/x").as_deref(), Ok("net.ipv4.conf.eth0/100.x"));
        assert_eq!(dotted("net.ipv4.conf.eth0/100.x").as_deref(), Ok("net.ipv4.conf.eth0/100.x"));
    }

    #[test]
    fn hostile_names_are_refused() {
        for key in [
            "",
            "net",
            "net.",
            ".net.core.x",
            "net..x",
            "net/../kernel/core_pattern",
            "net.//.x",
            "net./.kernel",
            "net/./x",
            "/net/core/x",
            "net.core.x\n",
            "net.core.x=1",
            "net.core x",
            "net.core.x+y",
            "kernel.core_pattern",
            "kernel/core_pattern",
            "kernel.shm_rmid_forced.x",
            "kernel.hostname",
            "kernel.modprobe",
            "fs.mqueue.nope",
            "vm.swappiness",
            "kernel.shm_rmid_forced/../core_pattern",
        ] {
            assert!(check(key, "1", &own()).is_err(), "{key:?}");
        }
    }

    #[test]
    fn hostile_values_are_refused() {
        for value in [
            "",
            " ",
            " 1",
            "1 ",
            "1+kernel.core_pattern=|/x",
            "1\n",
            "1\0",
            "1\r",
            "\u{e9}",
            &"1".repeat(1025),
        ] {
            assert!(check("kernel.shm_rmid_forced", value, &own()).is_err(), "{value:?}");
        }
    }

    #[test]
    fn settings_of_the_hosts_namespaces_are_refused() {
        let host = Namespaces {
            network: PodOrNode::Node,
            ipc: PodOrNode::Node,
            pid: PidMode::Node,
            user: UserMode::Node,
        };
        for key in ["net.core.somaxconn", "kernel.sem", "fs.mqueue.msg_max", "kernel.domainname"] {
            assert!(matches!(check(key, "1", &host), Err(SysctlError::HostNamespace { .. })), "{key}");
        }
    }
}
