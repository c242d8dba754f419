//! What layers become: whiteouts, links, devices, attributes, sparse files, long names, and the same tree as
//! GNU tar makes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use carpel_image::{Images, Rootfs};

use crate::support::Home;
use crate::support::build::{Built, Layer, Pack};
use crate::support::tar::{Header, Tar};
use crate::trees::{attributes, describe};

/// Imports an image of those layers and returns its directories, bottom first.
pub(crate) async fn unpack(home: &Home, images: &Images, layers: &[Vec<u8>]) -> (Rootfs, Vec<PathBuf>) {
    let layers = layers.iter().map(|tar| Layer::new(tar, Pack::Plain)).collect();
    let path = home.path("image.tar");
    Built::new(layers).write_archive(&path, None);
    let imported = images.import(path).await.unwrap();
    let rootfs = images.rootfs(&imported[0].id).unwrap();
    let lowers = rootfs.lowers.iter().rev().cloned().collect();
    (rootfs, lowers)
}

async fn one(home: &Home, images: &Images, tar: Vec<u8>) -> (Rootfs, PathBuf) {
    let (rootfs, mut lowers) = unpack(home, images, &[tar]).await;
    (rootfs, lowers.remove(0))
}

pub(crate) fn is_whiteout(path: &Path) -> bool {
    let meta = fs::symlink_metadata(path).unwrap();
    meta.mode() & 0o170_000 == 0o020_000 && meta.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    attributes(path).contains(&("trusted.overlay.opaque".to_owned(), b"y".to_vec()))
}

#[tokio::test(flavor = "multi_thread")]
async fn whiteouts_are_overlayfs_whiteouts() {
    let home = Home::new();
    let images = home.open().await;
    let tar = Tar::new()
        .dir("d/")
        .file("d/.wh.gone", b"")
        .dir("o/")
        .file("o/.wh..wh..opq", b"")
        .file("o/new", b"n")
        .file(".wh.replaced", b"")
        .dir("replaced/")
        .dir("kept/")
        .file(".wh.kept", b"")
        .file(".wh..wh.plnk/1.2", b"")
        .file("implicit/.wh.x", b"")
        .done();
    let (_rootfs, lower) = one(&home, &images, tar).await;
    assert!(is_whiteout(&lower.join("d/gone")));
    assert!(is_opaque(&lower.join("o")) && !is_opaque(&lower.join("d")));
    assert!(is_opaque(&lower.join("replaced")), "a directory over its own whiteout hides the one below");
    assert!(is_opaque(&lower.join("kept")));
    assert!(is_whiteout(&lower.join("implicit/x")));
    let names: Vec<String> = describe(&lower).lines().map(str::to_owned).collect();
    assert!(names.iter().all(|line| !line.contains(".wh.")), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overlay_shows_what_the_image_means() {
    let home = Home::new();
    let images = home.open().await;
    let base = Tar::new()
        .entry(Header::new(b'5', "srv/", 0).mode(0o1777).owner(7, 8), &[])
        .file("srv/a", b"base")
        .dir("old/")
        .file("old/x", b"x")
        .done();
    let top = Tar::new().file("srv/b", b"top").file(".wh.old", b"").done();
    let (rootfs, _) = unpack(&home, &images, &[base, top]).await;
    let mount = home.path("merged");
    fs::create_dir(&mount).unwrap();
    let lowers: Vec<String> = rootfs.lowers.iter().map(|l| l.display().to_string()).collect();
    // In a mount namespace of its own: the host's table stays as it is.
    let script = format!(
        "mount -t overlay overlay -o lowerdir={} {} && cd {} && ls -1 . srv && stat -c '%a %u:%g' srv",
        lowers.join(":"),
        mount.display(),
        mount.display()
    );
    let output = Command::new("unshare").args(["--mount", "sh", "-ec", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // The top layer has no entry for srv: owner and mode come from below.
    assert_eq!(String::from_utf8_lossy(&output.stdout), ".:\nsrv\n\nsrv:\na\nb\n1777 7:8\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_object_comes_out_right() {
    let home = Home::new();
    let images = home.open().await;
    let long = "n".repeat(255);
    let deep = format!("{}/leaf", ["component-of-some-length"; 40].join("/"));
    let tar = Tar::new()
        .dir_mode("./", 0o711)
        .entry(Header::new(b'0', "suid", 1).mode(0o6755).owner(12, 34), b"s")
        .hard_link("hard", "suid")
        .symlink("soft", "/etc/passwd")
        .hard_link("hard-of-soft", "soft")
        .entry(Header::new(b'3', "null", 0).mode(0o666).device(1, 3), &[])
        .entry(Header::new(b'4', "disk", 0).mode(0o660).device(8, 300), &[])
        .entry(Header::new(b'6', "pipe", 0).mode(0o622), &[])
        .gnu_long(b'L', &long)
        .file("cut", b"long")
        .pax(&[("path", deep.as_bytes()), ("mtime", b"1234567890.123456789"), ("uid", b"3000000")])
        .file("ignored", b"deep")
        .dir_mode("sticky/", 0o1777)
        .file("sticky/later", b"")
        .done();
    let (_rootfs, lower) = one(&home, &images, tar).await;
    let meta = |name: &str| fs::symlink_metadata(lower.join(name)).unwrap();
    assert_eq!(fs::metadata(&lower).unwrap().mode() & 0o7777, 0o711);
    assert_eq!((meta("suid").mode() & 0o7777, meta("suid").uid(), meta("suid").gid()), (0o6755, 12, 34));
    assert_eq!(meta("suid").ino(), meta("hard").ino());
    assert_eq!(fs::read_link(lower.join("soft")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(meta("soft").ino(), meta("hard-of-soft").ino());
    assert_eq!((meta("null").mode(), meta("null").rdev()), (0o020_666, 0x103));
    assert_eq!(meta("disk").mode(), 0o060_660);
    assert_eq!(meta("disk").rdev(), rustix::fs::makedev(8, 300));
    assert_eq!(meta("pipe").mode(), 0o010_622);
    assert_eq!(fs::read(lower.join(&long)).unwrap(), b"long");
    assert_eq!(fs::read(lower.join(&deep)).unwrap(), b"deep");
    let deep = meta(&deep);
    assert_eq!((deep.mtime(), deep.mtime_nsec(), deep.uid()), (1_234_567_890, 123_456_789, 3_000_000));
    // Directories keep their time although something was made in them.
    assert_eq!((meta("sticky").mode() & 0o7777, meta("sticky").mtime()), (0o1777, 1_600_000_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_are_kept_or_left_out() {
    let home = Home::new();
    let images = home.open().await;
    // Version 2, effective: cap_net_raw.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let hostile: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.user.note", b"a\0b\n="),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"x"),
    ];
    let tar = Tar::new().pax(hostile).file_mode("f", 0o755, b"").pax(&hostile[2..]).dir("d/").done();
    let (_rootfs, lower) = one(&home, &images, tar).await;
    let kept = [
        ("security.capability".to_owned(), capability.to_vec()),
        ("user.note".to_owned(), b"a\0b\n=".to_vec()),
    ];
    assert_eq!(attributes(&lower.join("f")), kept);
    assert_eq!(attributes(&lower.join("d")), []);
}

/// An access control list as attributes hold it (include/uapi/linux/posix_acl_xattr.h): version 2, then tag,
/// permissions and id of each entry. The owner, user 1234 and the group may read; others may nothing.
fn access_control_list() -> Vec<u8> {
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1u16, 6u16, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)]
    {
        list.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    list
}

#[tokio::test(flavor = "multi_thread")]
async fn access_control_lists_are_kept_and_not_inherited() {
    let home = Home::new();
    let images = home.open().await;
    let list = access_control_list();
    let (access, default) = ("system.posix_acl_access", "system.posix_acl_default");
    let both: &[(&str, &[u8])] =
        &[("SCHILY.xattr.system.posix_acl_access", &list), ("SCHILY.xattr.system.posix_acl_default", &list)];
    let tar = Tar::new().pax(both).dir("d/").file("d/plain", b"").pax(both).file("d/listed", b"").done();
    let (_rootfs, lower) = one(&home, &images, tar).await;
    let of = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), list.clone())).collect::<Vec<_>>();
    assert_eq!(attributes(&lower.join("d")), of(&[access, default]));
    assert_eq!(attributes(&lower.join("d/plain")), of(&[]));
    assert_eq!(attributes(&lower.join("d/listed")), of(&[access]));
}

#[tokio::test(flavor = "multi_thread")]
async fn later_entries_replace_earlier_ones() {
    let home = Home::new();
    let images = home.open().await;
    let tar = Tar::new()
        .file("f", b"1")
        .file("f", b"2")
        .dir("d/")
        .file("d/x", b"x")
        .file("d", b"now a file")
        .symlink("s", "f")
        .dir("s/")
        .file("s/in", b"in")
        .symlink("l", "f")
        .file("l", b"own")
        .file("t", b"t")
        .symlink("t", "f")
        .done();
    let (_rootfs, lower) = one(&home, &images, tar).await;
    let read = |name: &str| fs::read(lower.join(name)).unwrap();
    assert_eq!(read("f"), b"2", "nothing was written through a link");
    assert_eq!(read("d"), b"now a file");
    assert_eq!(read("s/in"), b"in");
    assert_eq!(read("l"), b"own");
    assert_eq!(fs::read_link(lower.join("t")).unwrap(), Path::new("f"));
}

#[tokio::test(flavor = "multi_thread")]
async fn parents_that_are_links_stay_inside() {
    let home = Home::new();
    let images = home.open().await;
    let tar = Tar::new()
        .dir("usr/")
        .dir("usr/lib/")
        .symlink("lib", "usr/lib")
        .file("lib/a", b"a")
        .symlink("run", "/var/run")
        .file("run/b", b"b")
        .symlink("up", "../../../../usr")
        .file("up/c", b"c")
        .done();
    let (_rootfs, lower) = one(&home, &images, tar).await;
    assert_eq!(fs::read(lower.join("usr/lib/a")).unwrap(), b"a");
    assert_eq!(fs::read(lower.join("var/run/b")).unwrap(), b"b");
    assert_eq!(fs::read(lower.join("usr/c")).unwrap(), b"c");
}

/// A tree with everything that GNU tar can write without special files of the host.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("dir/sub")).unwrap();
    fs::write(root.join("dir/file"), "content").unwrap();
    fs::write(root.join("dir/sub").join("x".repeat(200)), "long name").unwrap();
    fs::hard_link(root.join("dir/file"), root.join("hard")).unwrap();
    std::os::unix::fs::symlink("y".repeat(150), root.join("long-link")).unwrap();
    std::os::unix::fs::chown(root.join("dir/sub"), Some(5), Some(6)).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    for (n, at) in [(1_u8, 0), (2, 1 << 20), (3, (3 << 20) + 4096), (4, 7 << 20)] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[n; 5000], at).unwrap();
    }
    let many = fs::File::create(root.join("many-holes")).unwrap();
    for n in 0..60_u64 {
        std::os::unix::fs::FileExt::write_all_at(&many, b"data", n * 65_536).unwrap();
    }
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    rustix::fs::setxattr(root.join("dir/file"), "user.x", b"value", rustix::fs::XattrFlags::empty()).unwrap();
    fs::write(root.join("empty"), "").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_of_gnu_tar_come_out_as_gnu_tar_makes_them() {
    let home = Home::new();
    let images = home.open().await;
    let source = home.path("source");
    make_tree(&source);
    for format in ["gnu", "posix", "ustar"] {
        for version in ["0.0", "0.1", "1.0"] {
            let archive = home.path("layer.tar");
            let mut create = Command::new("tar");
            create.arg(format!("--format={format}")).arg("-cf").arg(&archive);
            if format != "ustar" {
                create.arg("--sparse");
            }
            if format == "posix" {
                create.arg("--xattrs").arg(format!("--sparse-version={version}"));
            }
            if format == "ustar" {
                create.args([
                    "--exclude=long-link",
                    "--exclude=x*",
                    "--exclude=sparse",
                    "--exclude=many-holes",
                ]);
            }
            assert!(create.arg("-C").arg(&source).arg(".").status().unwrap().success());
            let expected = home.path("expected");
            fs::create_dir(&expected).unwrap();
            let mut extract = Command::new("tar");
            extract.args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-p", "-xf"]);
            assert!(extract.arg(&archive).arg("-C").arg(&expected).status().unwrap().success());

            let (rootfs, lower) = one(&home, &images, fs::read(&archive).unwrap()).await;
            assert_eq!(describe(&lower), describe(&expected), "{format} {version}");
            if format != "ustar" {
                let blocks = fs::metadata(lower.join("sparse")).unwrap().blocks();
                assert!(blocks * 512 < 1 << 20, "holes of {format} {version} were filled: {blocks} blocks");
            }
            drop(rootfs);
            let image = images.list()[0].id.clone();
            images.remove(image.as_str()).await.unwrap();
            images.sweep().await.unwrap();
            fs::remove_dir_all(&expected).unwrap();
        }
    }
}
