//! Device nodes and the device cgroup's rules: nothing is allowed but what is listed.

use carpel_shim_api::plan::{DevicePlan, DeviceRule};

use crate::error::PlanError;
use crate::input::{ContainerInput, DeviceKind, HostDevice};
use crate::path;

const ALL_KINDS: u32 = b'a' as u32;
const BLOCK: u32 = b'b' as u32;
const CHARACTER: u32 = b'c' as u32;

/// Devices that every container may use, OCI runtime-spec config-linux.md "Default Devices": major,
/// and minor or all.
const DEFAULT_DEVICES: [(u32, Option<u32>); 9] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(1)), // console
    (5, Some(2)), // ptmx
    (136, None),  // pts
];

/// Paths that the runtime module makes itself.
const DEFAULT_NODES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev/ptmx",
];

/// What a container's device cgroup and `/dev` hold.
pub(crate) struct Devices {
    /// Nodes beyond the default ones.
    pub(crate) nodes: Vec<DevicePlan>,
    /// Rules, in the order in which they are tried.
    pub(crate) rules: Vec<DeviceRule>,
}

/// Devices of a container.
pub(crate) fn plan_devices(input: &ContainerInput<'_>) -> Result<Devices, PlanError> {
    let mut devices = Devices { nodes: Vec::new(), rules: Vec::new() };
    if input.config.security.privileged {
        devices.rules.push(rule(true, ALL_KINDS, None, None, (true, true, true)));
        for device in input.host_devices {
            devices.add_node(device)?;
        }
    } else {
        devices.rules = default_rules();
    }
    for (index, config) in input.config.devices.iter().enumerate() {
        let nodes = input.devices.get(index).filter(|nodes| !nodes.is_empty());
        let missing = || PlanError::DeviceMissing { path: config.host_path.display().to_string() };
        let access = permissions(&config.container_path, &config.permissions)?;
        for device in nodes.ok_or_else(missing)? {
            devices.add_node(device)?;
            if !input.config.security.privileged {
                let (major, minor) = (Some(device.major), Some(device.minor));
                devices.rules.push(rule(true, kind_code(device.kind), major, minor, access));
            }
        }
    }
    Ok(devices)
}

impl Devices {
    /// A later node takes an earlier one's place, so that what a client asks for beats "all of the host".
    fn add_node(&mut self, device: &HostDevice) -> Result<(), PlanError> {
        let path = path::below_root("device path", &device.path)?;
        if DEFAULT_NODES.contains(&path.as_str()) || path::is_within(&path, "/dev/pts") {
            return Ok(());
        }
        let node = DevicePlan {
            path,
            kind: kind_code(device.kind),
            major: device.major,
            minor: device.minor,
            mode: device.mode & 0o777,
            uid: device.uid,
            gid: device.gid,
        };
        match self.nodes.iter_mut().find(|known| known.path == node.path) {
            Some(known) => *known = node,
            None => self.nodes.push(node),
        }
        Ok(())
    }
}

/// Deny all; a node of any device may be made, as everywhere else (opening it is another matter);
/// the default devices may be used.
fn default_rules() -> Vec<DeviceRule> {
    let mut rules = vec![
        rule(false, ALL_KINDS, None, None, (true, true, true)),
        rule(true, CHARACTER, None, None, (false, false, true)),
        rule(true, BLOCK, None, None, (false, false, true)),
    ];
    let default = |&(major, minor)| rule(true, CHARACTER, Some(major), minor, (true, true, true));
    rules.extend(DEFAULT_DEVICES.iter().map(default));
    rules
}

fn rule(
    allow: bool,
    kind: u32,
    major: Option<u32>,
    minor: Option<u32>,
    access: (bool, bool, bool),
) -> DeviceRule {
    let (read, write, mknod) = access;
    DeviceRule { allow, kind, major, minor, read, write, mknod }
}

fn kind_code(kind: DeviceKind) -> u32 {
    match kind {
        DeviceKind::Block => BLOCK,
        DeviceKind::Character => CHARACTER,
    }
}

fn permissions(container_path: &str, text: &str) -> Result<(bool, bool, bool), PlanError> {
    let known = !text.is_empty() && text.chars().all(|c| matches!(c, 'r' | 'w' | 'm'));
    if !known {
        return Err(PlanError::DevicePermissions {
            path: container_path.to_owned(),
            permissions: text.to_owned(),
        });
    }
    Ok((text.contains('r'), text.contains('w'), text.contains('m')))
}
