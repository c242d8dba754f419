//! Importing archives that skopeo made, of both formats, compressed or not.

use std::fs;
use std::process::Command;

use carpel_image::ErrorKind;

use crate::support::build::{self, Built, Layer, Pack};
use crate::support::registry::Registry;
use crate::support::tar::Tar;
use crate::support::{Home, chain, pull};

fn skopeo(arguments: &[&str]) {
    crate::support::run("skopeo", &[&["copy", "--quiet", "--src-tls-verify=false"], arguments].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_skopeo_are_imported() {
    let home = Home::new();
    let registry = Registry::plain(home.folder.path());
    let built = build::small("skopeo");
    registry.push("app", "1", &built);
    let source = format!("docker://{}/app:1", registry.host());
    let images = home.open().await;
    let oci = home.path("oci.tar");
    skopeo(&[&source, &format!("oci-archive:{}:localhost/oci:1", oci.display())]);
    let docker = home.path("docker.tar");
    skopeo(&[&source, &format!("docker-archive:{}:localhost/docker:1", docker.display())]);

    let from_oci = images.import(oci.clone()).await.unwrap().remove(0);
    assert_eq!(from_oci.repo_tags, ["localhost/oci:1"]);
    let oci_rootfs = images.rootfs(&from_oci.id).unwrap();
    let trees = |rootfs: &carpel_image::Rootfs| -> Vec<String> {
        rootfs.lowers.iter().map(|lower| crate::trees::describe(lower)).collect()
    };
    let oci_trees = trees(&oci_rootfs);
    assert_eq!(oci_trees.len(), 2);

    let from_docker = images.import(docker.clone()).await.unwrap().remove(0);
    assert!(from_docker.repo_tags.contains(&"localhost/docker:1".to_owned()));
    assert_eq!(from_docker.layers, from_oci.layers, "same layers, kept once");
    assert_eq!(trees(&images.rootfs(&from_docker.id).unwrap()), oci_trees);

    // And what was pulled is the same again.
    let pulled = pull(&images, &format!("{}/app:1", registry.host())).await.unwrap();
    assert_eq!(pulled.layers, from_oci.layers);

    for compressor in ["gzip", "zstd"] {
        let packed = home.path("packed");
        let Ok(output) = Command::new(compressor).args(["-c", docker.to_str().unwrap()]).output() else {
            // Not every machine has the zstd program; gzip is everywhere.
            assert_ne!(compressor, "gzip");
            continue;
        };
        fs::write(&packed, output.stdout).unwrap();
        let again = images.import(packed).await.unwrap().remove(0);
        assert_eq!(again.id, from_docker.id);
    }
    assert_eq!(home.names("tmp"), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_archive_with_links_between_layers_is_imported() {
    let home = Home::new();
    let images = home.open().await;
    let layer = Tar::new().file("f", b"f").done();
    let built = Built::new(vec![Layer::new(&layer, Pack::Plain), Layer::new(&layer, Pack::Plain)]);
    let manifest =
        br#"[{"Config":"c.json","RepoTags":["old/save:1"],"Layers":["a/layer.tar","b/layer.tar"]}]"#;
    let archive = Tar::new()
        .file("c.json", &built.config)
        .file("a/layer.tar", &layer)
        .symlink("b/layer.tar", "../a/layer.tar")
        .file("manifest.json", manifest)
        .done();
    fs::write(home.path("a.tar"), archive).unwrap();
    let image = images.import(home.path("a.tar")).await.unwrap().remove(0);
    assert_eq!(image.repo_tags, ["docker.io/old/save:1"]);
    assert_eq!(image.layers.len(), 2);
    assert_ne!(image.layers[0], image.layers[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_archives_are_refused_and_leave_nothing() {
    let home = Home::new();
    let images = home.open().await;
    let built = build::small("broken");
    let good = built.archive(Some("localhost/a:1"));
    let layer_name = format!("blobs/sha256/{}", carpel_image::Digest::of(&built.layers[1].blob).hex());
    let at = good.windows(layer_name.len()).position(|w| w == layer_name.as_bytes()).unwrap();
    let mut renamed = good.clone();
    renamed[at..at + 10].copy_from_slice(b"blobs/none");
    let mut flipped = good.clone();
    flipped[at + 512 + 20] ^= 0x40;
    let swapped = Built { layers: vec![built.layers[1].clone(), built.layers[0].clone()], ..built.clone() };
    let cases: Vec<(&str, Vec<u8>, ErrorKind)> = vec![
        ("empty", Vec::new(), ErrorKind::InvalidImage),
        ("text", b"hello".repeat(1000), ErrorKind::InvalidImage),
        ("cut", good[..good.len() / 2].to_vec(), ErrorKind::InvalidImage),
        ("bad header", renamed, ErrorKind::InvalidImage),
        ("flipped bit", flipped, ErrorKind::InvalidImage),
        ("no manifest", Tar::new().file("x", b"").done(), ErrorKind::InvalidImage),
        ("bad json", Tar::new().file("manifest.json", b"{").done(), ErrorKind::InvalidImage),
        (
            "member missing",
            Tar::new().file("manifest.json", br#"[{"Config":"../../../etc/passwd","Layers":[]}]"#).done(),
            ErrorKind::InvalidImage,
        ),
        (
            "link loop",
            Tar::new()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("manifest.json", br#"[{"Config":"a","Layers":[]}]"#)
                .done(),
            ErrorKind::InvalidImage,
        ),
    ];
    for (what, bytes, kind) in cases {
        let path = home.path("bad.tar");
        fs::write(&path, bytes).unwrap();
        let error = images.import(path).await.expect_err(what);
        assert_eq!(error.kind(), kind, "{what}: {}", chain(&error));
        home.assert_clean(&images).await;
    }
    // The layers are all there, but the config names them in another order: nothing changes for blobs that
    // are found by digest.
    swapped.write_archive(&home.path("ok.tar"), None);
    images.import(home.path("ok.tar")).await.unwrap();
    let error = images.import(home.path("absent.tar")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = images.import(home.folder.path().to_owned()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidImage);
}
