//! Layers that want out, or want too much. Each is refused or stays inside; the host is as it was.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use carpel_image::{ErrorKind, Images, ImportError};

use crate::support::build::{Built, Layer, Pack, gzip};
use crate::support::tar::{Header, Tar};
use crate::support::{Canary, Home, chain};

async fn import(home: &Home, images: &Images, layers: Vec<Layer>) -> Result<(), ImportError> {
    let path = home.path("image.tar");
    Built::new(layers).write_archive(&path, None);
    images.import(path).await.map(|_| ())
}

async fn refused(home: &Home, images: &Images, what: &str, tar: Vec<u8>) -> ErrorKind {
    let outcome = import(home, images, vec![Layer::new(&tar, Pack::Plain)]).await;
    let error = outcome.expect_err(what);
    home.assert_clean(images).await;
    // Every refusal says what was wrong, and where.
    assert!(chain(&error).contains("layer"), "{what}: {}", chain(&error));
    error.kind()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_touched_outside_of_a_layer() {
    let home = Home::new();
    let images = home.open().await;
    let canary = Canary::new();
    let out = canary.text();
    let (file, dir) = (format!("{out}/file"), format!("{out}/dir"));
    let up = format!("{}{}", "../".repeat(30), &out[1..]);
    // Links that lead out, by every way a link can.
    let links = [out.to_owned(), up.clone(), format!("./{up}"), format!("x/../{up}"), "/".to_owned()];
    let through = |target: &str| if target == "/" { format!("l{out}") } else { "l".to_owned() };
    for target in &links {
        let at = through(target);
        let link = || Tar::new().symlink("l", target);
        let streams: Vec<Vec<u8>> = vec![
            link().dir_mode(&format!("{at}/"), 0o777).done(),
            link().file(&format!("{at}/file"), b"overwritten").done(),
            link().file(&format!("{at}/new"), b"new").done(),
            link().dir(&format!("{at}/newdir/")).done(),
            link().file(&format!("{at}/dir/deep"), b"new").done(),
            link().symlink(&format!("{at}/link"), "x").done(),
            link().entry(Header::new(b'6', &format!("{at}/fifo"), 0).mode(0o666), &[]).done(),
            link().entry(Header::new(b'3', &format!("{at}/dev"), 0).device(1, 3), &[]).done(),
            link().file(&format!("{at}/.wh.file"), b"").done(),
            link().file(&format!("{at}/.wh..wh..opq"), b"").done(),
            link()
                .hard_link("h", &format!("{at}/file"))
                .entry(Header::new(b'0', "h", 1).mode(0o777), b"x")
                .done(),
            link().hard_link(&format!("{at}/hard"), "l").done(),
        ];
        for tar in streams {
            // Inside the layer, or refused; both are well. The host decides.
            let _ = import(&home, &images, vec![Layer::new(&tar, Pack::Plain)]).await;
            canary.assert_untouched();
        }
    }
    home.clear(&images).await;
    // Names and targets that lead out by themselves.
    for name in [up.clone(), format!("a/../{up}"), format!("/{up}"), "..".into(), "a/..".into()] {
        let long = Tar::new().gnu_long(b'L', &name).entry(&Header::new(b'0', "x", 1), b"x").done();
        assert_eq!(refused(&home, &images, "dot dot", long).await, ErrorKind::InvalidImage);
        let link = Tar::new().gnu_long(b'K', &name).entry(&Header::new(b'1', "x", 0), b"").done();
        assert_eq!(refused(&home, &images, "link out", link).await, ErrorKind::InvalidImage);
    }
    for target in [&file, &dir, &"/etc/passwd".to_owned()] {
        let tar = Tar::new().gnu_long(b'K', target).entry(&Header::new(b'1', "h", 0), b"").done();
        assert_eq!(refused(&home, &images, "hard link to the host", tar).await, ErrorKind::InvalidImage);
    }
    canary.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_swapped_for_links_between_entries_do_not_help() {
    let home = Home::new();
    let images = home.open().await;
    let canary = Canary::new();
    let out = canary.text();
    let mut tar = Tar::new().dir("d/").file("d/one", b"1");
    for n in 0..50 {
        // The parent was a directory a moment ago, and is again in another.
        tar = tar.symlink("d", out).file("d/file", b"x").dir("d/").file(&format!("d/n{n}"), b"n");
    }
    let tar = tar.symlink("d", out).dir_mode("d/", 0o777).done();
    let next = Tar::new().symlink("e", out).file("d/file", b"next layer").file("e/file", b"x").done();
    let layers = vec![Layer::new(&tar, Pack::Gzip), Layer::new(&next, Pack::Gzip)];
    let _ = import(&home, &images, layers).await;
    canary.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn whiteouts_cannot_name_their_own_directory() {
    let home = Home::new();
    let images = home.open().await;
    for name in [".wh.", ".wh..", ".wh...", "d/.wh...", "d/.wh.."] {
        let tar = Tar::new().dir("d/").file(name, b"").done();
        assert_eq!(refused(&home, &images, name, tar).await, ErrorKind::InvalidImage);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_readers_disagree_on_are_refused_or_read_by_the_pax_size() {
    let home = Home::new();
    let images = home.open().await;
    // The pax size counts: what an older reader would take for an entry is content.
    let inner = Tar::new().file("smuggled", b"evil").open_end();
    let size = inner.len().to_string();
    let tar = Tar::new()
        .pax(&[("size", size.as_bytes())])
        .entry(&Header::new(b'0', "outer", 0), &inner)
        .file("after", b"a")
        .done();
    let (rootfs, lowers) = crate::layers::unpack(&home, &images, &[tar]).await;
    assert_eq!(fs::read(lowers[0].join("outer")).unwrap(), inner);
    assert!(lowers[0].join("after").exists() && !lowers[0].join("smuggled").exists());
    drop(rootfs);
    home.clear(&images).await;
    // And the other way round: the header says 512, pax says none.
    let tar = Tar::new()
        .pax(&[("size", b"0")])
        .entry(&Header::new(b'0', "outer", 512), &[])
        .file("next", b"n")
        .done();
    let (rootfs, lowers) = crate::layers::unpack(&home, &images, &[tar]).await;
    assert_eq!(fs::read(lowers[0].join("next")).unwrap(), b"n");
    drop(rootfs);
    home.clear(&images).await;

    let file = |tar: Tar| tar.file("f", b"f").done();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("two pax headers", file(Tar::new().pax(&[("path", b"a")]).pax(&[("path", b"b")]))),
        ("pax and gnu name", file(Tar::new().pax(&[("path", b"a")]).gnu_long(b'L', "b"))),
        ("two gnu names", file(Tar::new().gnu_long(b'L', "a").gnu_long(b'L', "b"))),
        ("pax length too long", file(Tar::new().pax_raw(b"99 path=a\n"))),
        ("pax length zero", file(Tar::new().pax_raw(b"0 path=a\n"))),
        ("pax length short", file(Tar::new().pax_raw(b"5 path=abc\n"))),
        ("pax length huge", file(Tar::new().pax_raw(b"99999999999999999999 a=b\n"))),
        ("pax without equals", file(Tar::new().pax_raw(b"9 path_a\n"))),
        ("pax without newline", file(Tar::new().pax_raw(b"9 path=ab"))),
        ("pax key empty", file(Tar::new().pax_raw(b"5 =b\n"))),
        ("pax path with nul", file(Tar::new().pax(&[("path", b"a\0b")]))),
        ("pax size negative", file(Tar::new().pax(&[("size", b"-1")]))),
        ("pax size huge", file(Tar::new().pax(&[("size", b"99999999999999999999")]))),
        ("pax uid of no change", file(Tar::new().pax(&[("uid", b"4294967295")]))),
        ("xattr name with nul", file(Tar::new().pax(&[("SCHILY.xattr.user.a\0b", b"v")]))),
        ("extension without entry", Tar::new().pax(&[("path", b"a")]).done()),
        ("unknown type", Tar::new().entry(&Header::new(b'Z', "z", 0), &[]).done()),
        ("multi volume", Tar::new().entry(Header::new(b'M', "m", 0).gnu(), &[]).done()),
        (
            "size not octal",
            Tar::new().entry(Header::new(b'0', "f", 0).put(124, b"00000000009\0"), &[]).done(),
        ),
        ("size negative", Tar::new().entry(Header::new(b'0', "f", 0).put(124, &[0xff; 12]), &[]).done()),
        ("root is a file", Tar::new().file("./", b"").symlink("./", "/etc").done()),
        ("hard link to itself", Tar::new().file("a", b"a").hard_link("a", "a").done()),
        ("hard link to nothing", Tar::new().hard_link("a", "b").done()),
        ("hard link to a directory", Tar::new().dir("d/").hard_link("a", "d").done()),
        ("file as parent", Tar::new().file("a", b"").file("a/b", b"").done()),
        ("link loop as parent", Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b"").done()),
        ("empty link", Tar::new().symlink("a", "").done()),
        ("name too long", Tar::new().gnu_long(b'L', &"n".repeat(256)).file("x", b"").done()),
        ("cut in a header", Tar::new().file("a", b"a").raw(&[b'x'; 100]).open_end()),
        ("cut in content", Tar::new().file("a", &[1; 5000]).open_end()[..2000].to_vec()),
        ("garbage", b"garbage ".repeat(512)),
        ("zero block in between", Tar::new().file("a", b"a").raw(&[0; 512]).file("b", b"b").done()),
    ];
    for (what, tar) in cases {
        assert_eq!(refused(&home, &images, what, tar).await, ErrorKind::InvalidImage, "{what}");
    }
    let mut bad = Tar::new().file("a", b"a").done();
    bad[10] ^= 1;
    assert_eq!(refused(&home, &images, "checksum", bad).await, ErrorKind::InvalidImage);
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_the_kernel_does_not_take_are_refused() {
    let home = Home::new();
    let images = home.open().await;
    // For lists: version 2, and then a part of an entry only.
    for attribute in ["security.capability", "system.posix_acl_access", "system.posix_acl_default"] {
        let pax = format!("SCHILY.xattr.{attribute}");
        let tar = Tar::new().pax(&[(&pax, b"\x02\0\0\0\x01\0")]).dir("d/").done();
        assert_eq!(refused(&home, &images, attribute, tar).await, ErrorKind::InvalidImage, "{attribute}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_are_kept() {
    let mut home = Home::new();
    home.config.limits.layer_entries = 1000;
    home.config.limits.layer_bytes = 8 << 20;
    home.config.limits.ratio_free_bytes = 1 << 20;
    home.config.limits.layer_ratio = 100;
    home.config.limits.pax_bytes = 64 << 10;
    home.config.limits.sparse_pieces = 100;
    let images = home.open().await;
    let many = (0..2000).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), b"")).done();
    assert_eq!(refused(&home, &images, "entries", many).await, ErrorKind::TooLarge);
    let deep = format!("{}x", "d/".repeat(300));
    let deep = Tar::new().pax(&[("path", deep.as_bytes())]).file("x", b"").done();
    assert_eq!(refused(&home, &images, "depth", deep).await, ErrorKind::TooLarge);
    let long = Tar::new().pax(&[("path", &[b'/'; 5000])]).file("x", b"").done();
    assert_eq!(refused(&home, &images, "path", long).await, ErrorKind::TooLarge);
    let pax = Tar::new().entry(&Header::new(b'x', "x", 4 << 30), &[]).done();
    assert_eq!(refused(&home, &images, "pax of 4 GiB", pax).await, ErrorKind::TooLarge);
    let gnu = Tar::new().entry(Header::new(b'L', "x", 1 << 32).gnu(), &[]).done();
    assert_eq!(refused(&home, &images, "name of 4 GiB", gnu).await, ErrorKind::TooLarge);
    let map: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", b"1000"),
        ("GNU.sparse.name", b"s"),
    ];
    // The map comes in whole blocks in front of the content.
    let block = |text: &str| [text.as_bytes(), &vec![0; 512 - text.len()]].concat();
    let sparse = Tar::new().pax(map).file("s", &block("2147483648\n")).done();
    assert_eq!(refused(&home, &images, "sparse map of 2^31", sparse).await, ErrorKind::TooLarge);
    for body in ["1\n0\n9999\n", "2\n500\n10\n0\n10\n", "1\n18446744073709551615\n1\n", "x\n", "1\n-1\n5\n"] {
        let sparse = Tar::new().pax(map).file("s", &block(body)).done();
        assert_eq!(refused(&home, &images, body, sparse).await, ErrorKind::InvalidImage);
    }
    // A size that no stream could have, declared only.
    let huge = Tar::new().entry(
        Header::new(b'0', "f", 0).put(124, &[0x80, 0, 0, 0, 0x7f, 255, 255, 255, 255, 255, 255, 255]),
        &[],
    );
    let kind = refused(&home, &images, "size of 2^63", huge.done()).await;
    assert!(matches!(kind, ErrorKind::TooLarge | ErrorKind::InvalidImage));
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_end_at_their_bound() {
    let mut home = Home::new();
    home.config.limits.ratio_free_bytes = 4 << 20;
    home.config.limits.layer_ratio = 50;
    let images = home.open().await;
    let zeros = Tar::new().file("zeros", &vec![0; 64 << 20]).done();
    let zstd = zstd::encode_all(&zeros[..], 19).unwrap();
    // Many empty frames behind one another inflate to nothing, and end.
    let frames = [zstd::encode_all(&b""[..], 1).unwrap().repeat(10_000), zstd.clone()].concat();
    for blob in [gzip(&zeros), zstd, frames] {
        let error = import(&home, &images, vec![Layer::raw(blob)]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{}", chain(&error));
        home.assert_clean(&images).await;
    }
    // A zstd frame that wants a window of two gibibytes: no memory is taken for it.
    let window = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8][..], &[0x01, 0, 0]].concat();
    let error = import(&home, &images, vec![Layer::raw(window)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidImage, "{}", chain(&error));
    home.assert_clean(&images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_streams_end_with_an_error() {
    let home = Home::new();
    let images = home.open().await;
    let noise: Vec<u8> = (0..60_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let tar = Tar::new().file("noise", &noise).done();
    for blob in [gzip(&tar), zstd::encode_all(&tar[..], 3).unwrap()] {
        for at in (4096..blob.len()).step_by(4096) {
            let cut = Layer { blob: blob[..at].to_vec(), ..Layer::new(&tar, Pack::Plain) };
            let error = import(&home, &images, vec![cut]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidImage, "{}", chain(&error));
            let mut garbled = blob.clone();
            garbled[at..at + 16.min(blob.len() - at)].fill(0xa5);
            let garbled = Layer { blob: garbled, ..Layer::new(&tar, Pack::Plain) };
            let error = import(&home, &images, vec![garbled]).await.unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::InvalidImage | ErrorKind::Integrity),
                "{}",
                chain(&error)
            );
        }
    }
    home.assert_clean(&images).await;
    let other = Layer { diff_id: carpel_image::Digest::of(b"other"), ..Layer::new(&tar, Pack::Gzip) };
    let error = import(&home, &images, vec![other]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    home.assert_clean(&images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_do_not_add_up_are_refused() {
    let home = Home::new();
    let images = home.open().await;
    let layer = Layer::new(&Tar::new().file("f", b"f").done(), Pack::Gzip);
    let error = import(&home, &images, Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidImage, "no layers: {}", chain(&error));
    let one = Built::new(vec![layer.clone()]);
    let two = Built::new(vec![layer.clone(), layer]);
    let manifest = String::from_utf8(two.manifest.clone()).unwrap();
    let manifest = manifest.replace(two.id().as_str(), one.id().as_str());
    let sizes = (format!("\"size\":{}", two.config.len()), format!("\"size\":{}", one.config.len()));
    let mixed =
        Built { config: one.config.clone(), manifest: manifest.replace(&sizes.0, &sizes.1).into(), ..two };
    mixed.write_archive(&home.path("mixed.tar"), None);
    let error = images.import(home.path("mixed.tar")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidImage, "{}", chain(&error));
    home.assert_clean(&images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_for_root_only() {
    let home = Home::new();
    let images = home.open().await;
    let tar = Tar::new().file_mode("suid", 0o4755, b"").done();
    let (_rootfs, _) = crate::layers::unpack(&home, &images, &[tar]).await;
    let root = &home.config.root;
    assert_eq!(fs::metadata(root).unwrap().mode() & 0o7777, 0o700);
    for folder in ["images", "layers", "tmp", "trash", "quarantine"] {
        assert_eq!(fs::metadata(root.join(folder)).unwrap().mode() & 0o7777, 0o700, "{folder}");
    }
}
