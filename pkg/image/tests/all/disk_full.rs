//! A full disk: pulls fail clearly, removal works, and space that comes back is used.

use std::fs;
use std::path::PathBuf;

use carpel_image::ErrorKind;

use crate::support::build::{Built, Layer, Pack};
use crate::support::tar::Tar;
use crate::support::{Home, chain, run};

/// A small file system. Unmounted when it goes out of scope.
struct Small {
    path: PathBuf,
}

impl Small {
    fn mount(path: PathBuf, options: &str) -> Small {
        fs::create_dir(&path).unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", path.to_str().unwrap()]);
        Small { path }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn noise(length: usize, seed: u32) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 12) as u8).collect()
}

fn archive(home: &Home, name: &str, length: usize, seed: u32) -> PathBuf {
    let layer = Layer::new(&Tar::new().file("noise", &noise(length, seed)).done(), Pack::Plain);
    let path = home.path(&format!("{name}.tar"));
    Built::new(vec![layer]).write_archive(&path, Some(&format!("localhost/{name}:1")));
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bytes_left() {
    let mut home = Home::new();
    let small = Small::mount(home.path("small"), "size=24m");
    home.config.root = small.path.join("images");
    let images = home.open().await;
    images.import(archive(&home, "fits", 4 << 20, 1)).await.unwrap();
    let before = images.list();
    let error = images.import(archive(&home, "large", 32 << 20, 2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{}", chain(&error));
    assert_eq!(images.list(), before);
    images.sweep().await.unwrap();
    assert_eq!(home.names("tmp"), [] as [&str; 0]);

    // Not one byte left: what is there can be listed, used and removed.
    let filler = fs::File::create(small.path.join("filler")).unwrap();
    let mut filler_writer = &filler;
    while std::io::Write::write(&mut filler_writer, &[1; 4096]).is_ok_and(|n| n > 0) {}
    let error = images.import(archive(&home, "more", 1 << 20, 3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{}", chain(&error));
    assert!(images.rootfs(&before[0].id).is_ok());
    images.remove("localhost/fits:1").await.unwrap();
    assert!(images.list().is_empty());
    images.sweep().await.unwrap();
    assert_eq!(home.names("layers"), [] as [&str; 0]);
    drop(filler);
    fs::remove_file(small.path.join("filler")).unwrap();
    images.import(archive(&home, "again", 4 << 20, 4)).await.unwrap();
    drop(images);
    let images = crate::lifecycle::reopen(&home).await;
    assert_eq!(images.list().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_inodes_left() {
    let mut home = Home::new();
    let small = Small::mount(home.path("small"), "size=64m,nr_inodes=80");
    home.config.root = small.path.join("images");
    let images = home.open().await;
    let many = (0..200).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), b"")).done();
    let path = home.path("many.tar");
    Built::new(vec![Layer::new(&many, Pack::Gzip)]).write_archive(&path, None);
    let error = images.import(path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{}", chain(&error));
    home.assert_clean(&images).await;
    images.import(archive(&home, "fits", 1 << 20, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opens_on_a_full_disk() {
    let mut home = Home::new();
    let small = Small::mount(home.path("small"), "size=24m");
    home.config.root = small.path.join("images");
    let images = home.open().await;
    images.import(archive(&home, "fits", 2 << 20, 1)).await.unwrap();
    drop(images);
    drop(crate::lifecycle::reopen(&home).await);
    let filler = fs::File::create(small.path.join("filler")).unwrap();
    let mut filler_writer = &filler;
    while std::io::Write::write(&mut filler_writer, &[1; 4096]).is_ok_and(|n| n > 0) {}
    let images = crate::lifecycle::reopen(&home).await;
    assert_eq!(images.list().len(), 1);
    images.remove("localhost/fits:1").await.unwrap();
    images.sweep().await.unwrap();
    assert!(images.list().is_empty());
}
