//! The filesystems under the daemon's folders.

use std::path::{Path, PathBuf};

use rustix::fs::{statfs, statvfs};

use super::{
    config::NodeConfig,
    finding::{Finding, told},
};
use crate::size;

/// `linux/magic.h`.
const TMPFS_MAGIC: u64 = 0x0102_1994;
const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
const NFS_MAGIC: u64 = 0x6969;

/// Less than this, and the next image does not fit.
const FREE_MIN_BYTES: u64 = 1 << 30;

/// The kubelet begins to evict pods and to remove images below 15 % (imagefs.available).
const FREE_MIN_PERCENT: u64 = 15;

const INODES_MIN_PERCENT: u64 = 5;

pub(super) fn examine(config: &NodeConfig) -> Vec<Finding> {
    vec![
        on_real_filesystem(&config.root),
        space("space for images", &config.root),
        space("space for logs", Path::new("/var/log")),
        on_tmpfs(&config.state),
    ]
}

/// The folder itself, or the one in which it will be made.
pub(super) fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn filesystem(path: &Path) -> rustix::io::Result<u64> {
    // The type is signed on some architectures; magic numbers have 32 bits.
    Ok(statfs(existing(path))?.f_type as u64 & 0xffff_ffff)
}

fn on_real_filesystem(root: &Path) -> Finding {
    let name = "image store";
    let shown = root.display();
    match filesystem(root) {
        Ok(OVERLAYFS_MAGIC) => Finding::missing(
            name,
            format!("{shown} is on overlayfs, which cannot carry another"),
            "inside a container, mount a volume there, or set `root` in /etc/carpel/config.toml",
        ),
        Ok(NFS_MAGIC) => Finding::missing(
            name,
            format!("{shown} is on NFS"),
            "overlayfs needs a local filesystem: set `root` in /etc/carpel/config.toml",
        ),
        Ok(TMPFS_MAGIC) => Finding::warning(
            name,
            format!("{shown} is on tmpfs"),
            "images use memory and are gone after a reboot: set `root` in /etc/carpel/config.toml",
        ),
        Ok(_) => Finding::ok(name, format!("{shown} is on a local filesystem")),
        Err(error) => Finding::warning(name, format!("{shown}: {}", told(error)), "run `sudo carpel check`"),
    }
}

fn space(name: &'static str, path: &Path) -> Finding {
    let stat = match statvfs(existing(path)) {
        Ok(stat) => stat,
        Err(error) => {
            return Finding::warning(
                name,
                format!("{}: {}", path.display(), told(error)),
                "run `sudo carpel check`",
            );
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let percent = percent(stat.f_bavail, stat.f_blocks);
    let found = format!("{} free ({percent} %) at {}", size::human(free), path.display());
    // Some filesystems have no fixed number of inodes, and say 0.
    let inodes = if stat.f_files == 0 { 100 } else { self::percent(stat.f_favail, stat.f_files) };
    if free < FREE_MIN_BYTES {
        return Finding::missing(name, found, "make room: `carpel rmi`, or a larger disk");
    }
    if inodes < INODES_MIN_PERCENT {
        let advice = "make room: many small files use them up; `carpel rmi` removes images";
        return Finding::warning(name, format!("{found}, but only {inodes} % of the inodes"), advice);
    }
    if percent < FREE_MIN_PERCENT {
        let advice = "make room: below 15 % the kubelet removes images and evicts pods";
        return Finding::warning(name, found, advice);
    }
    Finding::ok(name, found)
}

fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).checked_div(whole).unwrap_or(0)
}

fn on_tmpfs(state: &Path) -> Finding {
    let name = "volatile state";
    let shown = state.display();
    match filesystem(state) {
        Ok(TMPFS_MAGIC) => Finding::ok(name, format!("{shown} is on tmpfs")),
        Ok(_) => Finding::warning(
            name,
            format!("{shown} is not on tmpfs"),
            "starting pods waits for the disk, and a reboot leaves records of pods that are gone: mount a tmpfs on /run",
        ),
        Err(error) => Finding::warning(name, format!("{shown}: {}", told(error)), "run `sudo carpel check`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    #[test]
    fn folders_that_are_not_made_yet_are_judged_by_their_place() {
        assert_eq!(existing(Path::new("/proc/self/no/such/folder")), Path::new("/proc/self"));
        assert_eq!(existing(Path::new("/no-such-folder/x")), Path::new("/"));
        // A filesystem without any blocks is a full one.
        assert_eq!(space("x", Path::new("/proc/self")).status, Verdict::Missing);
        assert_eq!(on_tmpfs(Path::new("/proc/self/x")).status, Verdict::Warning);
    }
}
