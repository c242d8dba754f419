//! Capabilities as sets of bits: bit n is the capability with the number n, capabilities(7).

/// A capability's name that the kernel does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability {name:?}")]
pub struct UnknownCapability {
    /// As given.
    pub name: String,
}

/// Kernel names without `CAP_`, by number: include/uapi/linux/capability.h.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Every capability of [`NAMES`].
pub const ALL: u64 = (1 << NAMES.len()) - 1;

/// What containerd grants a container that asks for nothing: CHOWN DAC_OVERRIDE FOWNER FSETID KILL
/// SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP.
pub const CONTAINERD_DEFAULT: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 10
    | 1 << 13
    | 1 << 18
    | 1 << 27
    | 1 << 29
    | 1 << 31;

/// The bit of a capability by its name, with or without `CAP_`.
///
/// # Errors
/// The kernel has no such capability.
pub fn by_name(name: &str) -> Result<u64, UnknownCapability> {
    let bare = name.strip_prefix("CAP_").unwrap_or(name);
    match NAMES.iter().position(|known| *known == bare) {
        Some(number) => Ok(1 << number),
        None => Err(UnknownCapability { name: name.to_owned() }),
    }
}

/// Kernel names with `CAP_` of the capabilities in a set, by number.
pub fn names(set: u64) -> impl Iterator<Item = String> {
    NAMES
        .iter()
        .enumerate()
        .filter(move |(number, _)| set & (1 << number) != 0)
        .map(|(_, name)| format!("CAP_{name}"))
}

/// Which way a change goes that could not be understood.
pub(crate) type Refused = (&'static str, UnknownCapability);

/// `default`, changed as asked: `ALL` first, then what is added, then what is dropped, as containerd
/// does, and nothing beyond `own`.
pub(crate) fn granted(default: u64, add: &[String], drop: &[String], own: u64) -> Result<u64, Refused> {
    let is_all = |name: &&String| matches!(name.as_str(), "ALL" | "CAP_ALL");
    let mut set = default;
    if add.iter().any(|name| is_all(&name)) {
        set = u64::MAX;
    }
    if drop.iter().any(|name| is_all(&name)) {
        set = 0;
    }
    for name in add.iter().filter(|name| !is_all(name)) {
        set |= by_name(name).map_err(|source| ("add", source))?;
    }
    for name in drop.iter().filter(|name| !is_all(name)) {
        set &= !by_name(name).map_err(|source| ("drop", source))?;
    }
    Ok(set & own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_default_is_containerds_fourteen() {
        assert_eq!(CONTAINERD_DEFAULT.count_ones(), 14);
        assert_eq!(CONTAINERD_DEFAULT, 0xa804_25fb, "the mask that `capsh --decode` knows from Docker");
    }

    #[test]
    fn changes_apply_all_first_then_adds_then_drops() {
        let check = |add: &[&str], drop: &[&str]| granted(0b11, &of(add), &of(drop), ALL).unwrap();
        assert_eq!(check(&[], &[]), 0b11);
        assert_eq!(check(&["KILL"], &["CHOWN"]), 0b10_0010);
        assert_eq!(check(&["CAP_KILL"], &["ALL"]), 0b10_0000);
        assert_eq!(check(&["ALL"], &["CHOWN"]), ALL & !1);
        assert_eq!(check(&["ALL"], &["ALL"]), 0);
        assert_eq!(check(&["KILL"], &["KILL"]), 0b11);
    }

    #[test]
    fn nothing_beyond_the_daemons_own_is_granted() {
        assert_eq!(granted(0b11, &of(&["ALL"]), &[], 0b101).unwrap(), 0b101);
        assert_eq!(granted(0b11, &of(&["SYS_ADMIN"]), &[], 0b1).unwrap(), 0b1);
    }

    #[test]
    fn unknown_names_are_refused() {
        for name in ["", "CAP_", "kill", "KILL ", "CAP_CAP_KILL", "NOPE", "-1", "5"] {
            assert!(granted(0, &of(&[name]), &[], ALL).is_err(), "{name:?}");
            assert!(granted(0, &[], &of(&[name]), ALL).is_err(), "{name:?}");
        }
    }
}
