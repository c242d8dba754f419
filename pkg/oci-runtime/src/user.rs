//! Who a process runs as, by the image's own `/etc/passwd` and `/etc/group` (passwd(5), group(5)).
//!
//! The files are hostile: only regular ones are read, bounded in size and line length. A number is
//! never looked up as a name, and a number in a file is digits alone; there is no other way to be 0
//! than to ask for it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use carpel_shim_api::plan::UserPlan;
use carpel_shim_api::plan::user_plan::{Group, User as WantedUser};
use carpel_shim_api::record::User;
use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;

use crate::report::GROUPS_MAX;
use crate::root::{Links, Root};
use crate::sandbox::user_namespace::{Unmapped, UserNamespace};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
const FILE_MAX_BYTES: u64 = 10 << 20;
const LINE_MAX_BYTES: usize = 64 << 10;
/// The kernel's `PATH_MAX`, the NUL at the end included: no longer path leads to a folder.
pub const HOME_MAX_BYTES: usize = 4096;
/// The largest id; one more means "no change" to setresuid(2).
const ID_MAX: u32 = u32::MAX - 1;

/// Why it is not known who the process runs as.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    #[error("open {file}")]
    Open {
        file: &'static str,
        #[source]
        source: Errno,
    },
    #[error("{0} is not a regular file")]
    NotRegular(&'static str),
    #[error("read {file}")]
    Read {
        file: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{0} is larger than {FILE_MAX_BYTES} bytes")]
    TooLarge(&'static str),
    #[error("{0} has a line longer than {LINE_MAX_BYTES} bytes")]
    LineTooLong(&'static str),
    #[error("no user {0:?} in {PASSWD}")]
    NoUser(String),
    #[error("no group {0:?} in {GROUP}")]
    NoGroup(String),
    #[error("the name {0:?} is empty or a number")]
    Name(String),
    #[error("{file} gives {name:?} an id that is not a number from 0 to {ID_MAX}")]
    BadId { file: &'static str, name: String },
    #[error("the id {0} means no user or group")]
    NoId(u32),
    #[error("more than {GROUPS_MAX} groups")]
    Groups,
    #[error(transparent)]
    Unmapped(#[from] Unmapped),
}

/// Who a process runs as, once that has been looked up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identity {
    /// Its ids.
    pub user: User,
    /// Its home folder, an absolute path shorter than [`HOME_MAX_BYTES`]; `None` if the passwd file has
    /// none such.
    pub home: Option<Vec<u8>>,
}

/// A line of the passwd file.
#[derive(Debug, Default)]
struct Entry {
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    home: Vec<u8>,
}

/// Looks the user up. The process's root is the container's.
pub(crate) fn resolve(
    root: &Root,
    plan: &UserPlan,
    user_namespace: Option<&UserNamespace>,
) -> Result<Identity, UserError> {
    let entry = match &plan.user {
        None => entry_of_uid(open(root, PASSWD)?, 0)?,
        Some(WantedUser::Uid(uid)) => entry_of_uid(open(root, PASSWD)?, checked(*uid)?)?,
        Some(WantedUser::Name(name)) => {
            let name = checked_name(name)?;
            let found = entry_of_name(open(root, PASSWD)?, name)?;
            Some(found.ok_or_else(|| UserError::NoUser(name.to_owned()))?)
        }
    };
    let uid = match &plan.user {
        Some(WantedUser::Uid(uid)) => *uid,
        _ => entry.as_ref().map_or(0, |entry| entry.uid),
    };
    let gid = match &plan.group {
        None => entry.as_ref().map_or(0, |entry| entry.gid),
        Some(Group::Gid(gid)) => checked(*gid)?,
        Some(Group::GroupName(name)) => group_of_name(open(root, GROUP)?, checked_name(name)?)?,
    };
    // The primary group is among them, so that giving it up does not open what is closed to it.
    let mut groups = vec![gid];
    for group in &plan.supplemental_groups {
        add(&mut groups, checked(*group)?)?;
    }
    if let Some(entry) = entry.as_ref().filter(|_| plan.merge_image_groups) {
        add_memberships(open(root, GROUP)?, &entry.name, &mut groups)?;
    }
    let home = entry.map(|entry| entry.home);
    let home = home.filter(|home| home.first() == Some(&b'/') && home.len() < HOME_MAX_BYTES);
    let user = User { uid, gid, groups };
    user_namespace.map_or(Ok(()), |namespace| namespace.check(&user))?;
    Ok(Identity { user, home })
}

fn checked(id: u32) -> Result<u32, UserError> {
    if id <= ID_MAX { Ok(id) } else { Err(UserError::NoId(id)) }
}

fn checked_name(name: &str) -> Result<&str, UserError> {
    let number = name.bytes().all(|byte| byte.is_ascii_digit());
    if number || name.contains([':', '\n', '\0']) { Err(UserError::Name(name.to_owned())) } else { Ok(name) }
}

fn add(groups: &mut Vec<u32>, gid: u32) -> Result<(), UserError> {
    if !groups.contains(&gid) {
        if groups.len() == GROUPS_MAX {
            return Err(UserError::Groups);
        }
        groups.push(gid);
    }
    Ok(())
}

/// Digits alone, in range. No sign, space, or anything that another parser might take for a number.
fn parse_id(field: &[u8]) -> Option<u32> {
    if field.is_empty() || !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(field).ok()?.parse().ok().filter(|id| *id <= ID_MAX)
}

/// The lines of one of the two files.
struct Lines {
    name: &'static str,
    file: Option<BufReader<io::Take<File>>>,
    line: Vec<u8>,
}

fn open(root: &Root, name: &'static str) -> Result<Lines, UserError> {
    let failed = |source| UserError::Open { file: name, source };
    // Looked at before it is opened: opening a device could have an effect.
    let found = match root.open(name, OFlags::PATH, Links::Follow) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Lines { name, file: None, line: Vec::new() }),
        other => other.map_err(failed)?,
    };
    let seen = fstat(&found).map_err(failed)?;
    if FileType::from_raw_mode(seen.st_mode) != FileType::RegularFile {
        return Err(UserError::NotRegular(name));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = root.open(name, flags, Links::Follow).map_err(failed)?;
    let stat = fstat(&file).map_err(failed)?;
    if (stat.st_dev, stat.st_ino) != (seen.st_dev, seen.st_ino) {
        return Err(UserError::NotRegular(name));
    }
    if u64::try_from(stat.st_size).is_ok_and(|size| size > FILE_MAX_BYTES) {
        return Err(UserError::TooLarge(name));
    }
    let file = BufReader::new(File::from(file).take(FILE_MAX_BYTES + 1));
    Ok(Lines { name, file: Some(file), line: Vec::new() })
}

impl Lines {
    /// The next line's fields.
    fn next(&mut self) -> Result<Option<Vec<&[u8]>>, UserError> {
        let Some(file) = &mut self.file else { return Ok(None) };
        self.line.clear();
        let failed = |source| UserError::Read { file: self.name, source };
        let limit = u64::try_from(LINE_MAX_BYTES).unwrap_or(u64::MAX) + 2;
        let count = file.by_ref().take(limit).read_until(b'\n', &mut self.line).map_err(failed)?;
        if count == 0 {
            // The file may have grown since its size was looked at.
            let cut = file.get_ref().limit() == 0;
            return if cut { Err(UserError::TooLarge(self.name)) } else { Ok(None) };
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        }
        if self.line.len() > LINE_MAX_BYTES {
            return Err(UserError::LineTooLong(self.name));
        }
        Ok(Some(self.line.split(|byte| *byte == b':').collect()))
    }
}

/// name:password:uid:gid:comment:home:shell. Lines of another form are nobody's.
fn entry_of_uid(mut lines: Lines, wanted: u32) -> Result<Option<Entry>, UserError> {
    while let Some(fields) = lines.next()? {
        let [name, _, uid, gid, rest @ ..] = fields.as_slice() else { continue };
        let (Some(uid), Some(gid)) = (parse_id(uid), parse_id(gid)) else { continue };
        if uid == wanted {
            return Ok(Some(Entry { name: name.to_vec(), uid, gid, home: home(rest) }));
        }
    }
    Ok(None)
}

fn entry_of_name(mut lines: Lines, wanted: &str) -> Result<Option<Entry>, UserError> {
    while let Some(fields) = lines.next()? {
        let [name, _, uid, gid, rest @ ..] = fields.as_slice() else { continue };
        if *name == wanted.as_bytes() {
            let bad = || UserError::BadId { file: PASSWD, name: wanted.to_owned() };
            let (uid, gid) = (parse_id(uid).ok_or_else(bad)?, parse_id(gid).ok_or_else(bad)?);
            return Ok(Some(Entry { name: name.to_vec(), uid, gid, home: home(rest) }));
        }
    }
    Ok(None)
}

fn home(rest: &[&[u8]]) -> Vec<u8> {
    rest.get(1).map(|home| home.to_vec()).unwrap_or_default()
}

/// name:password:gid:members.
fn group_of_name(mut lines: Lines, wanted: &str) -> Result<u32, UserError> {
    while let Some(fields) = lines.next()? {
        let [name, _, gid, ..] = fields.as_slice() else { continue };
        if *name == wanted.as_bytes() {
            let bad = || UserError::BadId { file: GROUP, name: wanted.to_owned() };
            return parse_id(gid).ok_or_else(bad);
        }
    }
    Err(UserError::NoGroup(wanted.to_owned()))
}

fn add_memberships(mut lines: Lines, user: &[u8], groups: &mut Vec<u32>) -> Result<(), UserError> {
    if user.is_empty() {
        return Ok(());
    }
    while let Some(fields) = lines.next()? {
        let [_, _, gid, members, ..] = fields.as_slice() else { continue };
        let Some(gid) = parse_id(gid) else { continue };
        if members.split(|byte| *byte == b',').any(|member| member == user) {
            add(groups, gid)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
