//! Architectures, and their system calls by name.
//!
//! The kernel tells a filter which calling convention a call came by, as `AUDIT_ARCH_*` in
//! `struct seccomp_data`. x32 shares x86_64's and is told apart by a bit of the number.

use std::collections::HashMap;
use std::sync::LazyLock;

/// `__X32_SYSCALL_BIT`: arch/x86/include/uapi/asm/unistd.h.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// Names and numbers; see the head of the file for where they are from.
const TABLE: &str = include_str!("syscalls.tsv");

/// An architecture that filters can be compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 64-bit x86. Also runs x86 and, if the kernel was built so, x32.
    X86_64,
    /// 64-bit ARM. Also runs 32-bit ARM, if the processor does.
    Aarch64,
}

/// A calling convention that a machine's kernel may take system calls by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Arch {
    /// Go's name, as profiles use it in `includes` and `excludes`.
    pub(super) fn go_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The machine's own convention.
    pub(super) fn native(self) -> Abi {
        match self {
            Self::X86_64 => Abi::X86_64,
            Self::Aarch64 => Abi::Aarch64,
        }
    }

    /// Others that it can take.
    pub(super) fn others(self) -> &'static [Abi] {
        match self {
            Self::X86_64 => &[Abi::X86, Abi::X32],
            Self::Aarch64 => &[Abi::Arm],
        }
    }
}

impl Abi {
    /// libseccomp's name, as profiles use it.
    pub(super) fn scmp_name(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::X86 => "SCMP_ARCH_X86",
            Self::X32 => "SCMP_ARCH_X32",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
            Self::Arm => "SCMP_ARCH_ARM",
        }
    }

    /// `AUDIT_ARCH_*`: include/uapi/linux/audit.h.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    fn column(self) -> usize {
        match self {
            Self::X86_64 => 0,
            Self::X86 => 1,
            Self::X32 => 2,
            Self::Aarch64 => 3,
            Self::Arm => 4,
        }
    }

    /// The number of a system call; `None`: it has none here.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        SYSCALLS.get(name).and_then(|numbers| numbers[self.column()])
    }

    /// All numbers that are taken.
    pub(super) fn numbers(self) -> impl Iterator<Item = u32> {
        SYSCALLS.values().filter_map(move |numbers| numbers[self.column()])
    }
}

/// Whether some architecture of the table has a system call of this name.
#[cfg(test)]
pub(super) fn is_known(name: &str) -> bool {
    SYSCALLS.contains_key(name)
}

/// All names of the table.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SYSCALLS.keys().copied()
}

static SYSCALLS: LazyLock<HashMap<&'static str, [Option<u32>; 5]>> = LazyLock::new(|| {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| {
        let mut fields = line.split('\t');
        let name = fields.next()?;
        let mut numbers = [None; 5];
        for number in &mut numbers {
            *number = fields.next().and_then(|field| field.parse().ok());
        }
        Some((name, numbers))
    })
    .collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split('\t').collect();
            assert_eq!(fields.len(), 6, "{line}");
            assert!(fields[1..].iter().all(|field| *field == "-" || field.parse::<u32>().is_ok()), "{line}");
        }
        assert_eq!(Abi::X86_64.number("read"), Some(0));
        assert_eq!(Abi::X86.number("socketcall"), Some(102));
        assert_eq!(Abi::X32.number("ioctl"), Some(514));
        assert_eq!(Abi::Aarch64.number("open"), None);
        assert_eq!(Abi::Arm.number("set_tls"), Some(0xf_0005));
        assert_eq!(Abi::X86_64.number("nope"), None);
    }

    #[test]
    fn no_number_has_two_meanings() {
        for abi in [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm] {
            let mut numbers: Vec<u32> = abi.numbers().collect();
            numbers.sort_unstable();
            let twice: Vec<u32> =
                numbers.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0]).collect();
            // ARM has one call by two names: arm_sync_file_range and sync_file_range2.
            let expect: &[u32] = if abi == Abi::Arm { &[341] } else { &[] };
            assert_eq!(twice, expect, "{abi:?}");
        }
    }
}
