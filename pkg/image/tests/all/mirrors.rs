//! `certs.d/<host>/hosts.toml`: mirrors, their order and rights, and whose secrets they get.

use carpel_image::{Auth, ErrorKind, PullRequest};

use crate::support::build;
use crate::support::registry::Registry;
use crate::support::scripted::{Scripted, answer, image_reply};
use crate::support::{Home, chain, pull, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_serves_another_registrys_images() {
    let home = Home::new();
    let registry = Registry::plain(home.folder.path());
    let built = build::small("mirrored");
    registry.push("e2e/busybox", "1", &built);
    home.hosts("registry.example", &format!("[host.\"http://{}\"]\n", registry.host()));
    let images = home.open().await;
    let image = pull(&images, "registry.example/e2e/busybox:1").await.unwrap();
    assert_eq!(image.repo_tags, ["registry.example/e2e/busybox:1"]);
    assert_eq!(image.repo_digests, [format!("registry.example/e2e/busybox@{}", built.digest())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_asked_in_order_by_their_rights_and_told_the_namespace() {
    let home = Home::new();
    let built = build::small("order");
    let down = Scripted::start(|_| answer(503, &[], b""));
    let content = {
        let built = built.clone();
        Scripted::start(move |asked| image_reply(&built, asked))
    };
    let names = {
        let built = built.clone();
        Scripted::start(move |asked| image_reply(&built, asked))
    };
    let text = format!(
        "server = \"http://{names}\"\n\
         [host.\"http://{down}\"]\n\
         [host.\"http://{content}/sub/path\"]\ncapabilities = [\"pull\"]\noverride_path = true\n\
         [host.\"http://{content}/sub/path\".header]\nx-note = [\"a\", \"b\"]\nauthorization = \"Basic bWlycm9y\"\n",
        names = names.host(),
        down = down.host(),
        content = content.host()
    );
    home.hosts("registry.example", &text);
    let images = home.open().await;
    let auth = Some(Auth::Basic { username: "joe".into(), password: "hunter2".into() });
    let id = images.pull(PullRequest { auth, ..request("registry.example/x:1") }).await.unwrap();
    assert_eq!(id, built.id());
    assert!(down.count("/v2/x/manifests/1") > 0);
    assert_eq!(content.count("manifests"), 0, "a host that may not resolve is not asked what a tag means");
    assert_eq!(names.count("/v2/x/manifests/1"), 1);
    assert_eq!(names.count("blobs"), 0);
    let blobs = content.asked();
    assert_eq!(blobs.len(), 3);
    for asked in &blobs {
        assert!(asked.path.starts_with("/sub/path/x/blobs/sha256:"), "{}", asked.path);
        assert!(asked.path.ends_with("?ns=registry.example"));
        assert_eq!(asked.header("authorization"), Some("Basic bWlycm9y"), "the mirror's own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_gets_no_credentials_of_the_registry() {
    let home = Home::new();
    let built = build::small("creds");
    let mirror = Scripted::start(|_| answer(401, &[("WWW-Authenticate", "Basic realm=\"mirror\"")], b""));
    let server = Scripted::start(move |asked| match asked.header("authorization") {
        Some(_) => image_reply(&built, asked),
        None => answer(401, &[("WWW-Authenticate", "Basic realm=\"r\"")], b""),
    });
    let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", server.host(), mirror.host());
    home.hosts("registry.example", &text);
    let images = home.open().await;
    let auth = Some(Auth::Basic { username: "joe".into(), password: "hunter2".into() });
    images.pull(PullRequest { auth, ..request("registry.example/x:1") }).await.unwrap();
    assert!(!mirror.asked().is_empty());
    assert!(mirror.asked().iter().all(|asked| asked.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_wrong_content_is_left_for_the_next() {
    let home = Home::new();
    let built = build::small("wrong");
    let bad = {
        let built = built.clone();
        Scripted::start(move |asked| match asked.path.contains(built.layers[0].diff_id.as_str()) {
            _ if asked.path.contains("/blobs/") && !asked.path.contains(built.id().as_str()) => {
                let layer = built
                    .layers
                    .iter()
                    .find(|layer| asked.path.contains(carpel_image::Digest::of(&layer.blob).as_str()));
                answer(200, &[], &vec![0; layer.unwrap().blob.len()])
            }
            _ => image_reply(&built, asked),
        })
    };
    let good = {
        let built = built.clone();
        Scripted::start(move |asked| image_reply(&built, asked))
    };
    home.hosts(
        "registry.example",
        &format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", good.host(), bad.host()),
    );
    let images = home.open().await;
    assert_eq!(pull(&images, "registry.example/x:1").await.unwrap().id, built.id());
    assert_eq!(good.count("/blobs/"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_read_at_every_pull_and_mistakes_are_told() {
    let home = Home::new();
    let built = build::small("reread");
    let server = {
        let built = built.clone();
        Scripted::start(move |asked| image_reply(&built, asked))
    };
    let images = home.open().await;
    home.hosts("registry.example", "serverr = \"x\"\n");
    let error = pull(&images, "registry.example/x:1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(chain(&error).contains("serverr"), "{}", chain(&error));
    home.hosts("registry.example", &format!("server = \"http://{}\"\n", server.host()));
    pull(&images, "registry.example/x:1").await.unwrap();
    // For every registry without a file of its own.
    home.hosts("_default", &format!("[host.\"http://{}\"]\n", server.host()));
    pull(&images, "another.example/y:1").await.unwrap();
    assert!(server.count("/v2/y/manifests/1?ns=another.example") == 1);
}
