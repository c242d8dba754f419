//! Who a process runs as: a strict grammar, because lax ones made root of what was not.
//!
//! ```text
//!   user[:group]      user, group := number | name
//!   number            0 | [1-9][0-9]*, at most 2^32-2     never looked up as a name
//!   name              [A-Za-z_][A-Za-z0-9_.@-]*[$]?       looked up in the image's own files, by the shim
//! ```
//!
//! CVE-2016-3697, CVE-2024-40635, CVE-2026-46680 and CVE-2026-30892 are what happens without it.

use carpel_shim_api::plan::{UserPlan, user_plan};

use crate::config::{ContainerSecurity, GroupsPolicy, RunAs};
use crate::error::{PlanError, UserProblem};

/// The kernel's `NGROUPS_MAX`.
const GROUPS_MAX: usize = 65_536;
/// The longest name, in bytes: useradd(8) allows 256 where anything does.
const NAME_MAX_BYTES: usize = 256;

/// A number or a name.
enum Id {
    Number(u32),
    Name(String),
}

/// The user of a container, of its configuration or else of its image.
pub(crate) fn plan_user(security: &ContainerSecurity, image_user: &str) -> Result<UserPlan, PlanError> {
    let (user, image_group) = match &security.run_as {
        Some(RunAs::Uid(uid)) => (parsed("run_as_user", &uid.to_string())?, None),
        Some(RunAs::Name(name)) => (parsed("run_as_username", name)?, None),
        None if security.run_as_group.is_some() => return Err(PlanError::GroupWithoutUser),
        None => split(image_user)?,
    };
    let group = match security.run_as_group {
        Some(gid) => Some(parsed("run_as_group", &gid.to_string())?),
        None => image_group,
    };
    Ok(UserPlan {
        user: Some(match user {
            Id::Number(uid) => user_plan::User::Uid(uid),
            Id::Name(name) => user_plan::User::Name(name),
        }),
        group: group.map(|group| match group {
            Id::Number(gid) => user_plan::Group::Gid(gid),
            Id::Name(name) => user_plan::Group::GroupName(name),
        }),
        supplemental_groups: groups(&security.supplemental_groups)?,
        merge_image_groups: security.supplemental_groups_policy == GroupsPolicy::Merge,
    })
}

/// The groups that were asked for, each once, in the order in which they were.
fn groups(asked: &[u32]) -> Result<Vec<u32>, PlanError> {
    if asked.len() > GROUPS_MAX {
        return Err(PlanError::TooMany { what: "supplemental groups", count: asked.len(), max: GROUPS_MAX });
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut groups = Vec::with_capacity(asked.len());
    for gid in asked {
        parsed("supplemental_groups", &gid.to_string())?;
        if seen.insert(*gid) {
            groups.push(*gid);
        }
    }
    Ok(groups)
}

/// An image's `USER`.
fn split(text: &str) -> Result<(Id, Option<Id>), PlanError> {
    const FIELD: &str = "image user";
    if text.is_empty() {
        return Ok((Id::Number(0), None));
    }
    let whole = |problem| PlanError::User { field: FIELD, text: text.to_owned(), problem };
    let mut parts = text.split(':');
    let user = parse(parts.next().unwrap_or_default()).map_err(whole)?;
    let group = parts.next().map(parse).transpose().map_err(whole)?;
    match parts.next() {
        Some(_) => Err(whole(UserProblem::Colons)),
        None => Ok((user, group)),
    }
}

fn parsed(field: &'static str, text: &str) -> Result<Id, PlanError> {
    parse(text).map_err(|problem| PlanError::User { field, text: text.to_owned(), problem })
}

fn parse(text: &str) -> Result<Id, UserProblem> {
    if text.is_empty() {
        return Err(UserProblem::Empty);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        if text.len() > 1 && text.starts_with('0') {
            return Err(UserProblem::LeadingZero);
        }
        // 2^32-1 is `(uid_t) -1`: "leave it as it is" for setresuid(2).
        let number = text.parse().ok().filter(|number| *number != u32::MAX);
        return number.map(Id::Number).ok_or(UserProblem::OutOfRange);
    }
    let body = text.strip_suffix('$').unwrap_or(text);
    let head = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    let tail = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'@' | b'-');
    let named = body.as_bytes().first().is_some_and(head) && body.bytes().all(tail);
    if named && text.len() <= NAME_MAX_BYTES {
        Ok(Id::Name(text.to_owned()))
    } else {
        Err(UserProblem::NotAName)
    }
}

#[cfg(test)]
mod tests;
