//! The root filesystem that most tests run: one static busybox and a hard link for each of its applets.
//!
//! Hard links and not symlinks: a path masked or mounted over in a container then hides one applet, not all of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::layout::{Image, Layout};
use crate::tar::{Entry, Kind, Tar};

/// Debian's `busybox-static`.
pub const DEBIAN: &str = "/bin/busybox";

/// `/etc/passwd` of the image.
pub const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
alice:x:1000:1000:Alice:/home/alice:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
";

/// `/etc/group` of the image: alice is in `staff` and `games` besides her own group.
pub const GROUP: &str = "root:x:0:
daemon:x:1:
www-data:x:33:
operator:x:37:
staff:x:50:alice,nobody
games:x:60:alice
alice:x:1000:
nogroup:x:65534:
";

/// The layer: the given busybox, its applets, the usual folders, users and groups.
pub fn layer(busybox: &Path) -> Tar {
    let program =
        std::fs::read(busybox).unwrap_or_else(|error| panic!("read {}: {error}", busybox.display()));
    let listing = Command::new(busybox).arg("--list").output().expect("busybox lists its applets");
    let listing = String::from_utf8(listing.stdout).expect("applet names are ASCII");
    let mut tar = Tar::new();
    for folder in ["bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "var", "var/run", "var/www"]
    {
        tar = tar.dir(&format!("{folder}/"), 0o755);
    }
    tar = tar
        .dir("root/", 0o700)
        .dir("tmp/", 0o1777)
        .entry(&Entry::new("home/alice/", Kind::Dir, 0o755).owner(1000, 1000))
        .file("etc/passwd", 0o644, PASSWD)
        .file("etc/group", 0o644, GROUP)
        .file("bin/busybox", 0o755, program);
    for applet in listing.lines().filter(|name| *name != "busybox") {
        tar = tar.hardlink(&format!("bin/{applet}"), "bin/busybox");
    }
    tar
}

/// An image of Debian's busybox that runs a shell.
pub fn image() -> Image {
    Image::new()
        .layer(layer(&PathBuf::from(DEBIAN)).finish())
        .config("Cmd", vec!["/bin/sh"])
        .config("Env", vec!["PATH=/bin:/usr/bin", "FROM_IMAGE=yes"])
}

/// Writes [`image`] as a docker archive under a reference: for `carpel import`, where no registry is in reach.
pub fn archive(file: &Path, reference: &str) {
    let folder = tempfile::tempdir().expect("temporary folder");
    Layout::create(folder.path()).add("busybox", &image());
    let source = format!("oci:{}:busybox", folder.path().display());
    let destination = format!("docker-archive:{}:{reference}", file.display());
    crate::kernel::run("skopeo", &["--insecure-policy", "copy", "--quiet", &source, &destination]);
}
