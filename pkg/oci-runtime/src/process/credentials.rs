//! Ids, groups and capabilities (credentials(7), capabilities(7)).

use carpel_shim_api::plan::Capabilities;
use carpel_shim_api::record::User;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub(crate) struct CredentialsError {
    step: &'static str,
    #[source]
    source: Errno,
}

fn at(step: &'static str) -> impl FnOnce(Errno) -> CredentialsError {
    move |source| CredentialsError { step, source }
}

/// What is left to give up once the last privileged step is done.
#[derive(Debug)]
pub(crate) struct LastPrivileges {
    sets: CapabilitySets,
}

/// Becomes the user with its capabilities. What this process does not have itself is left out.
///
/// With `keep_sys_admin`, `CAP_SYS_ADMIN` stays until [`LastPrivileges::give_up`]: loading a seccomp
/// filter takes it where `no_new_privs` is not set (seccomp(2)).
pub(crate) fn become_user(
    user: &User,
    wanted: &Capabilities,
    keep_sys_admin: bool,
) -> Result<LastPrivileges, CredentialsError> {
    let own = capabilities(None).map_err(at("read the shim's capabilities"))?.permitted;
    let bits = |bits: u64| CapabilitySet::from_bits_retain(bits) & own;
    let sets = CapabilitySets {
        effective: bits(wanted.effective & wanted.permitted),
        permitted: bits(wanted.permitted),
        inheritable: bits(wanted.inheritable),
    };
    drop_bounding(!wanted.bounding)?;
    change_ids(user)?;
    let mut now = sets;
    if keep_sys_admin {
        now.permitted |= CapabilitySet::SYS_ADMIN & own;
        now.effective |= CapabilitySet::SYS_ADMIN & own;
    }
    set_capabilities(None, now).map_err(at("set the capability sets"))?;
    // One that is not permitted and inheritable cannot be ambient.
    raise_ambient(bits(wanted.ambient) & sets.permitted & sets.inheritable)?;
    Ok(LastPrivileges { sets })
}

impl LastPrivileges {
    /// Leaves the process with exactly what its plan gives it.
    pub(crate) fn give_up(&self) -> Result<(), Errno> {
        set_capabilities(None, self.sets)
    }
}

/// Becomes a user without any privilege, and without a way to one.
pub(crate) fn become_nobody(id: u32) -> Result<(), CredentialsError> {
    drop_bounding(u64::MAX)?;
    change_ids(&User { uid: id, gid: id, groups: Vec::new() })?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).map_err(at("give up all capabilities"))?;
    set_no_new_privs(true).map_err(at("set no_new_privs"))
}

/// Takes capabilities out of the bounding set. The kernel knows fewer than 64; the first unknown one
/// ends the list.
fn drop_bounding(unwanted: u64) -> Result<(), CredentialsError> {
    for bit in 0..u64::BITS {
        if unwanted & (1 << bit) == 0 {
            continue;
        }
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(at("drop from the capability bounding set")(errno)),
        }
    }
    Ok(())
}

fn change_ids(user: &User) -> Result<(), CredentialsError> {
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_keep_capabilities(true).map_err(at("keep capabilities over the change of user"))?;
    set_thread_groups(&groups).map_err(at("set the supplementary groups"))?;
    set_thread_res_gid(gid, gid, gid).map_err(at("set the group id"))?;
    set_thread_res_uid(uid, uid, uid).map_err(at("set the user id"))?;
    set_keep_capabilities(false).map_err(at("stop keeping capabilities"))
}

fn raise_ambient(wanted: CapabilitySet) -> Result<(), CredentialsError> {
    clear_ambient_capability_set().map_err(at("clear the ambient capability set"))?;
    for bit in 0..u64::BITS {
        let capability = wanted & CapabilitySet::from_bits_retain(1 << bit);
        if !capability.is_empty() {
            configure_capability_in_ambient_set(capability, true)
                .map_err(at("raise an ambient capability"))?;
        }
    }
    Ok(())
}
