//! What `/proc/self/mountinfo` says (proc_pid_mountinfo(5)).
//!
//! ```text
//!  36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//!  id    dev  root  point options  tags…        type source    superblock's options
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, StatxFlags, statx};

/// The most that is read, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// A mount.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) id: u64,
    pub(crate) point: String,
    /// Its mounts and unmounts travel to peers.
    pub(crate) shared: bool,
    /// Mounts and unmounts of a master travel to it.
    pub(crate) slave: bool,
    pub(crate) fs_type: String,
    pub(crate) super_options: String,
}

/// All mounts of this process's namespace, in order.
pub(crate) fn read() -> io::Result<Vec<Mount>> {
    let file = BufReader::new(File::open("/proc/self/mountinfo")?.take(MAX_BYTES));
    let mut mounts = Vec::new();
    for line in file.split(b'\n') {
        // A mount point that is not UTF-8 is none that anybody here asks for.
        mounts.extend(std::str::from_utf8(&line?).ok().and_then(parse));
    }
    Ok(mounts)
}

/// The file system that a file is of, for messages.
pub(crate) fn fs_type_of(file: BorrowedFd<'_>) -> String {
    let id = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id);
    let mounts = read().unwrap_or_default();
    let found = mounts.into_iter().find(|mount| Ok(mount.id) == id);
    found.map_or_else(|| "unknown".to_owned(), |mount| mount.fs_type)
}

fn parse(line: &str) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ');
    let id = fields.next()?.parse().ok()?;
    let point = unescape(fields.nth(3)?);
    let tags: Vec<&str> = fields.skip(1).collect();
    let mut fields = file_system.split(' ');
    let fs_type = fields.next()?.to_owned();
    let super_options = fields.nth(1)?.to_owned();
    Some(Mount {
        id,
        point,
        shared: tags.iter().any(|tag| tag.starts_with("shared:")),
        slave: tags.iter().any(|tag| tag.starts_with("master:")),
        fs_type,
        super_options,
    })
}

/// Space, tab, line end and backslash are octal numbers there.
fn unescape(field: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(field.to_owned(), |text, (escape, byte)| text.replace(escape, byte))
}

#[cfg(test)]
mod tests {
    use super::{Mount, parse, read};

    #[test]
    fn fields_are_found_whatever_the_number_of_tags() {
        let expected = Mount {
            id: 36,
            point: "/a b".to_owned(),
            shared: true,
            slave: true,
            fs_type: "cgroup".to_owned(),
            super_options: "rw,name=systemd".to_owned(),
        };
        let line = "36 35 98:0 / /a\\040b rw,noatime shared:3 master:1 - cgroup x rw,name=systemd";
        assert_eq!(parse(line), Some(expected));
        let plain = parse("1 0 0:1 / / rw - ext4 /dev/vda rw").expect("parsed");
        assert!(!plain.shared && !plain.slave);
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(read().expect("read").iter().any(|mount| mount.point == "/"));
    }
}
