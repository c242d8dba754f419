//! What a crash leaves behind: thrown away, or whole. Damage: set aside, never fatal.

use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::lifecycle::reopen;
use crate::support::build;
use crate::support::{Home, pull};

/// Waits until the store is closed: its background task may hold it a moment longer than its last handle.
async fn closed(home: &Home) {
    let lock = fs::File::open(home.config.root.join("lock")).unwrap();
    for _ in 0..500 {
        // Given back when the file goes out of scope.
        if lock.try_lock().is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the store stays open");
}

async fn with_two_images(home: &Home) -> Vec<std::sync::Arc<carpel_image::Image>> {
    let images = home.open().await;
    for name in ["a", "b"] {
        let path = home.path("a.tar");
        build::small(name).write_archive(&path, Some(&format!("localhost/{name}:1")));
        images.import(path).await.unwrap();
    }
    images.list()
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_are_cleaned_up() {
    let home = Home::new();
    let before = with_two_images(&home).await;
    closed(&home).await;
    let root = home.config.root.clone();
    // Half an unpack, a layer folder without description, an image folder without record.
    fs::create_dir_all(root.join("tmp/1-1/diff/usr")).unwrap();
    fs::write(root.join("tmp/1-1/diff/usr/half"), "x").unwrap();
    fs::create_dir_all(root.join("layers").join("0".repeat(64)).join("diff")).unwrap();
    fs::create_dir_all(root.join("images").join("1".repeat(64))).unwrap();
    fs::create_dir_all(root.join("trash/old/deep/er")).unwrap();
    let images = reopen(&home).await;
    assert_eq!(images.list(), before);
    images.sweep().await.unwrap();
    assert_eq!(home.names("tmp"), [] as [&str; 0]);
    assert_eq!(home.names("trash"), [] as [&str; 0]);
    // The two images share their base layer.
    assert_eq!((home.names("layers").len(), home.names("images").len()), (3, 2));
    assert_eq!(home.names("quarantine").len(), 1, "the folder that nobody can explain is kept for a person");
    let usage = images.fs_usage();
    drop(images);
    assert_eq!(reopen(&home).await.fs_usage(), usage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_is_rebuilt() {
    let home = Home::new();
    let before = with_two_images(&home).await;
    let index = home.config.root.join("index.redb");
    type Damage = (&'static str, fn(&std::path::Path));
    let damages: [Damage; 4] = [
        ("deleted", |path| fs::remove_file(path).unwrap()),
        ("emptied", |path| fs::write(path, "").unwrap()),
        ("garbage", |path| fs::write(path, [0x5a; 70_000]).unwrap()),
        ("cut", |path| fs::File::options().write(true).open(path).unwrap().set_len(5000).unwrap()),
    ];
    for (what, damage) in damages {
        closed(&home).await;
        damage(&index);
        let images = reopen(&home).await;
        assert_eq!(images.list(), before, "{what}");
        assert!(images.find("localhost/a:1").unwrap().is_some(), "{what}");
        assert_eq!(images.rootfs(&before[0].id).unwrap().lowers.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_in_the_index_never_keep_it_from_opening() {
    let home = Home::new();
    let before = with_two_images(&home).await;
    let index = home.config.root.join("index.redb");
    for step in 0..40_u64 {
        closed(&home).await;
        let length = fs::metadata(&index).unwrap().len();
        let mut file = fs::File::options().read(true).write(true).open(&index).unwrap();
        let at = (step * 2_654_435_761) % length.min(64 << 10);
        let mut byte = [0];
        file.seek(std::io::SeekFrom::Start(at)).unwrap();
        file.read_exact(&mut byte).unwrap();
        byte[0] ^= 1 << (step % 8);
        file.seek(std::io::SeekFrom::Start(at)).unwrap();
        file.write_all(&byte).unwrap();
        drop(file);
        let images = reopen(&home).await;
        for image in images.list() {
            let rootfs = images.rootfs(&image.id).unwrap();
            assert!(rootfs.lowers.iter().all(|lower| lower.is_dir()));
        }
        assert_eq!(images.list().len(), before.len(), "bit {step} at {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_lost_a_layer_is_set_aside() {
    let home = Home::new();
    let before = with_two_images(&home).await;
    closed(&home).await;
    let lost = before[0].layers[1].clone();
    fs::remove_dir_all(home.config.root.join("layers").join(lost.digest().hex())).unwrap();
    let images = reopen(&home).await;
    assert_eq!(images.list(), [before[1].clone()]);
    assert!(images.rootfs(&before[0].id).is_err());
    // Bringing it again makes it whole.
    for name in ["a", "b"] {
        let path = home.path("a.tar");
        build::small(name).write_archive(&path, Some(&format!("localhost/{name}:1")));
        images.import(path).await.unwrap();
    }
    assert_eq!(images.list(), before);
}

/// The part that is killed: pulls in a loop. Run by the test below in a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_pulls_until_it_is_killed() {
    let Ok(place) = std::env::var("CARPEL_IMAGE_CRASH_CHILD") else { return };
    let mut parts = place.split('|');
    let (root, registry) = (parts.next().unwrap(), parts.next().unwrap());
    let config = carpel_image::Config { root: root.into(), ..carpel_image::Config::default() };
    let images = carpel_image::Images::open(config).await.unwrap();
    images.sweep().await.unwrap();
    for round in 0_u32.. {
        let name = format!("{registry}/x:{}", round % 3);
        pull(&images, &name).await.unwrap();
        images.remove(&format!("{registry}/x:{}", (round + 1) % 3)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_moment_leaves_whole_images() {
    let home = Home::new();
    let registry = crate::support::registry::Registry::plain(home.folder.path());
    for n in 0..3 {
        registry.push("x", &n.to_string(), &build::small(&format!("kill {n}")));
    }
    let place = format!("{}|{}", home.config.root.display(), registry.host());
    let rounds = std::env::var("CARPEL_RACE_ROUNDS").map_or(15, |text| text.parse().unwrap());
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_that_pulls_until_it_is_killed"])
            .env("CARPEL_IMAGE_CRASH_CHILD", &place)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(60 + round % 15 * 37));
        child.kill().unwrap();
        child.wait().unwrap();
        let images = reopen(&home).await;
        for image in images.list() {
            let rootfs = images.rootfs(&image.id).unwrap();
            assert_eq!(fs::read(rootfs.lowers[1].join("bin/true")).unwrap(), b"#!/bin/sh\n");
            assert!(fs::read_to_string(rootfs.lowers[0].join("etc/salt")).unwrap().starts_with("kill "));
        }
        images.sweep().await.unwrap();
        assert_eq!(home.names("tmp"), [] as [&str; 0]);
        assert_eq!(home.names("trash"), [] as [&str; 0]);
        assert_eq!(home.names("quarantine"), [] as [&str; 0]);
        assert_eq!(home.names("images").len(), images.list().len());
        drop(images);
    }
}
