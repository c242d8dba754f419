//! Tags, removal, leases, usage, pins.

use std::path::PathBuf;

use carpel_image::{Config, ErrorKind, Images, ReferenceError};

use crate::support::build::{self, Built, Layer, Pack};
use crate::support::registry::Registry;
use crate::support::tar::Tar;
use crate::support::{Home, pull};

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_moves_and_its_old_image_stays() {
    let home = Home::new();
    let registry = Registry::plain(home.folder.path());
    let (first, second) = (build::small("1"), build::small("2"));
    let name = format!("{}/app", registry.host());
    let images = home.open().await;
    registry.push("app", "latest", &first);
    registry.push("app", "stable", &first);
    pull(&images, &name).await.unwrap();
    pull(&images, &format!("{name}:stable")).await.unwrap();
    let both = images.find(&name).unwrap().unwrap();
    assert_eq!(both.repo_tags, [format!("{name}:latest"), format!("{name}:stable")]);

    registry.push("app", "latest", &second);
    pull(&images, &name).await.unwrap();
    assert_eq!(images.find(&name).unwrap().unwrap().id, second.id());
    let old = images.find(first.id().as_str()).unwrap().unwrap();
    assert_eq!(old.repo_tags, [format!("{name}:stable")]);
    assert_eq!(old.repo_digests, [format!("{name}@{}", first.digest())]);

    // The same after a restart.
    let before = images.list();
    drop(images);
    let images = reopen(&home).await;
    assert_eq!(images.list(), before);
}

/// Opens the store again once the last handle's background task let go of it.
pub(crate) async fn reopen(home: &Home) -> Images {
    for _ in 0..500 {
        match Images::open(home.config.clone()).await {
            Err(carpel_image::OpenError::InUse(_)) => {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            outcome => return outcome.unwrap(),
        }
    }
    panic!("the store stays in use");
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_by_one_tag_takes_the_image_with_all() {
    let home = Home::new();
    let registry = Registry::plain(home.folder.path());
    let built = build::small("r");
    let images = home.open().await;
    for tag in ["1", "2", "3"] {
        registry.push("app", tag, &built);
        pull(&images, &format!("{}/app:{tag}", registry.host())).await.unwrap();
    }
    assert_eq!(images.list().len(), 1);
    images.remove(&format!("{}/app:2", registry.host())).await.unwrap();
    assert!(images.find(&format!("{}/app:1", registry.host())).unwrap().is_none());
    // Gone already, or never there: both are fine.
    images.remove(&format!("{}/app:2", registry.host())).await.unwrap();
    images.remove("never/there").await.unwrap();
    let error = images.remove("NO SUCH").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    home.assert_clean(&images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_stay_while_they_are_leased() {
    let home = Home::new();
    let path = home.path("a.tar");
    build::small("lease").write_archive(&path, Some("localhost/a:1"));
    let images = home.open().await;
    let image = images.import(path).await.unwrap().remove(0);
    let rootfs = images.rootfs(&image.id).unwrap();
    let second = images.hold(&image.layers);
    images.remove("localhost/a:1").await.unwrap();
    assert!(images.rootfs(&image.id).is_err());
    drop(second);
    let report = images.sweep().await.unwrap();
    assert_eq!(report.layers, 0);
    assert!(rootfs.lowers.iter().all(|lower| lower.is_dir()));
    assert!(images.fs_usage().used_bytes > 0);

    // Once a sweep was asked for, layers go by themselves when their last lease does.
    let lowers: Vec<PathBuf> = rootfs.lowers.clone();
    drop(rootfs);
    for _ in 0..500 {
        if lowers.iter().all(|lower| !lower.exists()) && home.names("trash").is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    home.assert_clean(&images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_leases_until_they_are_held_again() {
    let home = Home::new();
    let path = home.path("a.tar");
    build::small("restart").write_archive(&path, Some("localhost/a:1"));
    let images = home.open().await;
    let image = images.import(path).await.unwrap().remove(0);
    images.remove("localhost/a:1").await.unwrap();
    drop(images);
    // Nothing was swept before the containers' leases are back.
    let images = reopen(&home).await;
    let lease = images.hold(&image.layers);
    assert_eq!(images.sweep().await.unwrap().layers, 0);
    assert_eq!(home.names("layers").len(), 2);
    drop(lease);
    images.sweep().await.unwrap();
    home.assert_clean(&images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_what_lies_on_disk_and_shared_layers_count_once() {
    let home = Home::new();
    let images = home.open().await;
    let shared = Layer::new(&Tar::new().file("big", &vec![7; 3 << 20]).done(), Pack::Gzip);
    for n in ["1", "2"] {
        let own = Layer::new(&Tar::new().file(n, b"own").hard_link("again", n).done(), Pack::Gzip);
        let path = home.path("a.tar");
        Built::new(vec![shared.clone(), own]).write_archive(&path, Some(&format!("localhost/{n}:1")));
        images.import(path).await.unwrap();
    }
    let usage = images.fs_usage();
    assert_eq!(usage.mountpoint, home.config.root);
    let walked = crate::support::run("du", &["-s", "-B1", home.config.root.join("layers").to_str().unwrap()]);
    let walked: u64 = String::from_utf8(walked).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    // Up to the few blocks of the folders themselves.
    assert!(usage.used_bytes.abs_diff(walked) < 64 << 10, "{} and {walked}", usage.used_bytes);
    let inodes =
        crate::support::run("find", &[home.config.root.join("layers").to_str().unwrap(), "-printf", "%i\n"]);
    let mut inodes: Vec<&str> = std::str::from_utf8(&inodes).unwrap().lines().collect();
    inodes.sort_unstable();
    inodes.dedup();
    // Three layers, and four inodes for each of two images; the folder of all layers is not counted.
    assert_eq!(usage.inodes_used, inodes.len() as u64 - 1 + 8);
    let sizes: Vec<u64> = images.list().iter().map(|image| image.size).collect();
    assert!(sizes.iter().all(|size| *size > 3 << 20), "{sizes:?}");

    for image in images.list() {
        images.remove(image.id.as_str()).await.unwrap();
    }
    images.sweep().await.unwrap();
    home.assert_clean(&images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_and_short_ids() {
    let mut home = Home::new();
    home.config = Config { pinned: vec!["localhost/keep*".into()], ..home.config };
    let images = home.open().await;
    for name in ["keep-this", "other"] {
        let path = home.path("a.tar");
        build::small(name).write_archive(&path, Some(&format!("localhost/{name}:1")));
        images.import(path).await.unwrap();
    }
    assert!(images.find("localhost/keep-this:1").unwrap().unwrap().pinned);
    let other = images.find("localhost/other:1").unwrap().unwrap();
    assert!(!other.pinned);
    assert_eq!(images.find(&format!("sha256:{}", &other.id.hex()[..8])).unwrap().unwrap().id, other.id);
    assert!(matches!(images.find("Not A Name"), Err(ReferenceError::Grammar { .. })));
}
