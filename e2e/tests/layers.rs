//! What is in a layer arrives in the container: every kind of entry, its metadata, and what upper layers take away.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use carpel_e2e::config::container;
use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::layout::{Image, Layout};
use carpel_e2e::registry::Registry;
use carpel_e2e::tar::{Entry, Kind, Tar, gnu_tar};
use carpel_e2e::{busybox, kernel, scenario};

/// Runs a container of an image and returns its id and its root as the host sees it.
async fn unpacked(daemon: &Daemon, image: &Image) -> (String, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mut layout = Layout::create(folder.path());
    layout.add("app:1", image);
    let registry = Registry::open();
    registry.push(&layout);
    daemon.trust(&registry);
    let reference = registry.reference("app:1");
    daemon.client.pull(&reference).await;
    let pod = daemon.client.run_pod(daemon.host_pod("layers")).await;
    let id = daemon.client.launch(&pod, container("layers", &reference, &["sleep", "1000"])).await;
    let root = PathBuf::from(format!("/proc/{}/root", kernel::processes(&id)[0]));
    (id, root)
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn whiteouts_and_opaque_folders_hide_what_is_below() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let below = Tar::new()
            .dir("a/", 0o755)
            .file("a/gone", 0o644, "x")
            .file("a/kept", 0o644, "x")
            .dir("opaque/", 0o755)
            .file("opaque/old", 0o644, "x")
            .dir("tree/", 0o755)
            .dir("tree/deep/", 0o755)
            .file("tree/deep/file", 0o644, "x")
            .file("becomes-folder", 0o644, "x")
            .dir("becomes-file/", 0o755)
            .file("becomes-file/x", 0o644, "x");
        let above = Tar::new()
            .dir("a/", 0o700)
            .file("a/.wh.gone", 0o644, "")
            .dir("opaque/", 0o755)
            .file("opaque/.wh..wh..opq", 0o644, "")
            .file("opaque/new", 0o644, "x")
            .file(".wh.tree", 0o644, "")
            .dir("becomes-folder/", 0o755)
            .file("becomes-folder/y", 0o644, "y")
            .file("becomes-file", 0o644, "y");
        let image = busybox::image().layer(below.finish()).layer(above.finish());
        let (id, root) = unpacked(daemon, &image).await;
        assert_eq!(daemon.client.sh(&id, "ls -A /a /opaque").await, "/a:\nkept\n\n/opaque:\nnew");
        assert!(!root.join("tree").exists(), "a whiteout hides a whole tree");
        assert_eq!(root.join("a").metadata().unwrap().permissions().mode() & 0o7777, 0o700);
        assert_eq!(daemon.client.sh(&id, "ls -A /becomes-folder; cat /becomes-file").await, "y\ny");
        // What is written over a hidden name is new, not what was hidden.
        assert_eq!(daemon.client.sh(&id, "mkdir /tree && ls -A /tree").await, "");
    });
}

#[test]
fn links_devices_pipes_owners_and_modes_arrive() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let tar = Tar::new()
            .dir("k/", 0o755)
            .entry(&Entry::new("k/file", Kind::File(b"content"), 0o640).owner(1234, 4_000_000))
            .hardlink("k/hard", "k/file")
            .symlink("k/soft", "file")
            .symlink("k/dangling", "/no/such")
            .entry(&Entry::new("k/char", Kind::Char(1, 7), 0o666))
            .entry(&Entry::new("k/block", Kind::Block(7, 3), 0o660).owner(0, 6))
            .entry(&Entry::new("k/fifo", Kind::Fifo, 0o622))
            // The mode must be set after the owner: chown(2) clears these bits.
            .entry(&Entry::new("k/setuid", Kind::File(b"s"), 0o6755).owner(1000, 1000))
            .dir("k/sticky/", 0o1777);
        let (_, root) = unpacked(daemon, &busybox::image().layer(tar.finish())).await;
        let stat = |name: &str| root.join("k").join(name).symlink_metadata().unwrap();
        let file = stat("file");
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (1234, 4_000_000, 0o640));
        assert_eq!((stat("hard").ino(), stat("hard").nlink()), (file.ino(), 2));
        assert_eq!(std::fs::read_link(root.join("k/dangling")).unwrap(), Path::new("/no/such"));
        assert_eq!(std::fs::read_link(root.join("k/soft")).unwrap(), Path::new("file"));
        assert!(stat("char").file_type().is_char_device());
        assert_eq!(stat("char").rdev(), rustix::fs::makedev(1, 7));
        assert!(stat("block").file_type().is_block_device());
        assert_eq!(stat("block").rdev(), rustix::fs::makedev(7, 3));
        assert!(stat("fifo").file_type().is_fifo());
        assert_eq!(stat("setuid").mode() & 0o7777, 0o6755);
        assert_eq!(stat("sticky").mode() & 0o7777, 0o1777);
        assert_eq!(file.mtime(), 1_700_000_000, "times are the archive's");
    });
}

#[test]
fn extended_attributes_arrive() {
    scenario::run_without_image(Options::default(), async |daemon| {
        // VFS_CAP_REVISION_2 with cap_net_raw permitted and effective (linux/capability.h).
        let mut capability = 0x0200_0001_u32.to_le_bytes().to_vec();
        capability.extend_from_slice(&(1_u32 << 13).to_le_bytes());
        capability.extend_from_slice(&[0; 12]);
        let tar = Tar::new()
            .entry(&Entry::new("user", Kind::File(b""), 0o644).xattr("user.colour", b"blue\0green"))
            .entry(&Entry::new("ping", Kind::File(b"x"), 0o755).xattr("security.capability", &capability));
        let (_, root) = unpacked(daemon, &busybox::image().layer(tar.finish())).await;
        assert_eq!(xattr(&root.join("ping"), "security.capability"), Some(capability));
        assert_eq!(xattr(&root.join("user"), "user.colour"), Some(b"blue\0green".to_vec()));
    });
}

#[test]
fn archives_of_gnu_tar_arrive_in_all_its_formats() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let source = tempfile::tempdir().unwrap();
        let long = "long-".repeat(45);
        std::fs::create_dir_all(source.path().join(&long)).unwrap();
        std::fs::write(source.path().join(&long).join("file"), "deep").unwrap();
        std::os::unix::fs::symlink(format!("/{}", "t/".repeat(120)), source.path().join("link")).unwrap();
        let sparse = std::fs::File::create(source.path().join("sparse")).unwrap();
        std::os::unix::fs::FileExt::write_at(&sparse, b"begin", 0).unwrap();
        std::os::unix::fs::FileExt::write_at(&sparse, b"end", 64 << 20).unwrap();
        drop(sparse);
        std::fs::write(source.path().join("owned"), "x").unwrap();
        std::os::unix::fs::chown(source.path().join("owned"), Some(3_000_000), Some(3_000_001)).unwrap();

        let mut image = busybox::image();
        let formats = [
            ("gnu", ["--format=gnu", "--sparse-version=1.0"]), // which is for pax only: gnu has its own
            ("pax-1.0", ["--format=pax", "--sparse-version=1.0"]),
            ("pax-0.1", ["--format=pax", "--sparse-version=0.1"]),
        ];
        for (name, [format, version]) in formats {
            let transform = format!("--transform=s,^\\.,{name},S");
            image = image.layer(gnu_tar(source.path(), &[format, "--sparse", version, &transform]));
        }
        let (id, root) = unpacked(daemon, &image).await;
        for (format, _) in formats {
            let base = root.join(format);
            assert_eq!(std::fs::read_to_string(base.join(&long).join("file")).unwrap(), "deep", "{format}");
            let target = std::fs::read_link(base.join("link")).unwrap();
            assert_eq!(target.as_os_str().len(), 241, "{format}: {target:?}");
            let owned = base.join("owned").metadata().unwrap();
            assert_eq!((owned.uid(), owned.gid()), (3_000_000, 3_000_001), "{format}");
            let sparse = base.join("sparse").metadata().unwrap();
            assert_eq!(sparse.len(), (64 << 20) + 3, "{format}");
            assert!(
                sparse.blocks() * 512 < 1 << 20,
                "{format}: holes stay holes, not {} blocks",
                sparse.blocks()
            );
            let script = format!(
                "head -c 5 /{format}/sparse; tail -c 3 /{format}/sparse; tail -c 4 /{format}/sparse | head -c 1 | od -An -tx1"
            );
            assert_eq!(daemon.client.sh(&id, &script).await, "beginend 00", "{format}");
        }
    });
}

#[test]
fn images_with_many_and_empty_layers_run() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let mut image = busybox::image();
        for number in 0..100 {
            let tar =
                Tar::new().file("last", 0o644, format!("{number}")).file(&format!("n{number}"), 0o644, "");
            image = image.layer(if number % 10 == 0 { Tar::new().finish() } else { tar.finish() });
        }
        let (id, _) = unpacked(daemon, &image).await;
        assert_eq!(daemon.client.sh(&id, "cat /last; echo; ls / | grep -c '^n[0-9]'").await, "99\n90");
    });
}
