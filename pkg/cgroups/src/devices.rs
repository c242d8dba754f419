//! Which devices a container's processes may open or make.

pub(crate) mod v1;
pub(crate) mod v2;

use std::os::fd::BorrowedFd;

use thiserror::Error;

/// The most rules of one container.
pub const RULES_MAX: usize = 1024;

/// A rule. Rules are tried in order, and for each kind of access the last one that matches decides;
/// where none matches, access is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Allows, or refuses.
    pub allow: bool,
    /// The kind of device.
    pub kind: DeviceKind,
    /// Absent: all.
    pub major: Option<u32>,
    /// Absent: all.
    pub minor: Option<u32>,
    /// What it is about.
    pub access: Access,
}

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Both.
    All,
    /// Character devices.
    Char,
    /// Block devices.
    Block,
}

/// Kinds of access, as the kernel's bits: 1 mknod, 2 read, 4 write (`BPF_DEVCG_ACC_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access(u8);

/// Why device access could not be set.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// More than [`RULES_MAX`].
    #[error("{0} device rules are over the limit of {RULES_MAX}")]
    TooMany(usize),
    /// A rule about no access at all.
    #[error("device rule {0} is about no kind of access")]
    NoAccess(usize),
    /// v1 keeps a list of exceptions, which can be taken back only as they were given.
    #[error("device rule {0} takes back a part of an earlier one, which cgroup v1 cannot express")]
    NotExpressible(usize),
    /// Neither a v1 hierarchy with the controller nor cgroup2.
    #[error("this host has no device controller")]
    NoController,
    /// A v1 file refused.
    #[error("set the devices that may be used")]
    Write(#[source] crate::file::FileError),
    /// The kernel refused the program.
    #[error("load the device program of {0} instructions")]
    Load(usize, #[source] rustix::io::Errno),
    /// The kernel refused to put the program on the cgroup.
    #[error("attach the device program to the cgroup")]
    Attach(#[source] rustix::io::Errno),
}

impl Access {
    /// All three.
    pub const ALL: Access = Access(7);

    /// Puts one together.
    #[must_use]
    pub fn none() -> Access {
        Access(0)
    }

    /// With making a node.
    #[must_use]
    pub fn with_mknod(self, on: bool) -> Access {
        Access(self.0 | u8::from(on))
    }

    /// With reading.
    #[must_use]
    pub fn with_read(self, on: bool) -> Access {
        Access(self.0 | u8::from(on) << 1)
    }

    /// With writing.
    #[must_use]
    pub fn with_write(self, on: bool) -> Access {
        Access(self.0 | u8::from(on) << 2)
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// As v1 writes it: letters of `rwm`.
    fn letters(self) -> String {
        [(2, 'r'), (4, 'w'), (1, 'm')].iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, c)| c).collect()
    }
}

impl DeviceRule {
    /// Whether it is about everything.
    fn is_total(&self) -> bool {
        self.kind == DeviceKind::All
            && self.major.is_none()
            && self.minor.is_none()
            && self.access == Access::ALL
    }
}

/// Refuses lists that make no sense on either version.
fn check(rules: &[DeviceRule]) -> Result<(), DeviceError> {
    if rules.len() > RULES_MAX {
        return Err(DeviceError::TooMany(rules.len()));
    }
    match rules.iter().position(|rule| rule.access.bits() == 0) {
        Some(at) => Err(DeviceError::NoAccess(at)),
        None => Ok(()),
    }
}

/// Sets a v1 folder's devices.
pub(crate) fn set_v1(dir: BorrowedFd<'_>, rules: &[DeviceRule]) -> Result<(), DeviceError> {
    check(rules)?;
    for (file, line) in v1::lines(rules)? {
        crate::file::write(dir, file, &line).map_err(DeviceError::Write)?;
    }
    Ok(())
}

/// Puts a program on a cgroup2 folder that lets only these devices be used, in the place of the one
/// that is there.
///
/// # Errors
/// See [`DeviceError`]; what was there before then stays.
pub fn set_program(dir: BorrowedFd<'_>, rules: &[DeviceRule]) -> Result<(), DeviceError> {
    check(rules)?;
    let code = v2::program(rules);
    let program = carpel_sys::bpf::load_cgroup_device(&code).map_err(|e| DeviceError::Load(code.len(), e))?;
    carpel_sys::bpf::replace_cgroup_device(dir, &program).map_err(DeviceError::Attach)
}

#[cfg(test)]
mod tests;
