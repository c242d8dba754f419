//! Pulling from Debian's registry: formats, tags and digests, indexes, TLS, passwords.

use std::fs;

use carpel_image::{Auth, ErrorKind, Platform, PullRequest};
use serde_json::json;

use crate::support::build::{self, Built, Layer, Pack};
use crate::support::registry::{Certificates, PASSWORD, Registry, Setup, USER};
use crate::support::tar::Tar;
use crate::support::{Home, chain, pull, request};

fn three_layers() -> Built {
    let base =
        Tar::new().dir("bin/").file_mode("bin/sh", 0o4755, b"shell").dir("etc/").file("etc/a", b"1").done();
    let second = Tar::new().file("etc/b", b"2").done();
    let third = Tar::new().file("etc/.wh.a", b"").dir("opt/").file("opt/c", b"3").done();
    Built::new(vec![
        Layer::new(&base, Pack::Gzip),
        Layer::new(&second, Pack::Zstd),
        Layer::new(&third, Pack::Plain),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_by_tag_and_by_digest() {
    let home = Home::new();
    let registry = Registry::plain(home.folder.path());
    let built = three_layers();
    registry.push("team/app", "v1", &built);
    let images = home.open().await;
    let name = format!("{}/team/app", registry.host());

    let image = pull(&images, &format!("{name}:v1")).await.unwrap();
    assert_eq!(image.id, built.id());
    assert_eq!(image.repo_tags, [format!("{name}:v1")]);
    assert_eq!(image.repo_digests, [format!("{name}@{}", built.digest())]);
    assert_eq!(image.manifest_digest, built.digest());
    assert_eq!(image.config.env, ["PATH=/bin"]);
    assert!(image.size > 0);

    let rootfs = images.rootfs(&image.id).unwrap();
    assert_eq!(rootfs.lowers.len(), 3);
    let (top, second, base) = (&rootfs.lowers[0], &rootfs.lowers[1], &rootfs.lowers[2]);
    assert_eq!(fs::read(base.join("bin/sh")).unwrap(), b"shell");
    assert_eq!(fs::read(second.join("etc/b")).unwrap(), b"2");
    assert_eq!(fs::read(top.join("opt/c")).unwrap(), b"3");
    assert!(crate::layers::is_whiteout(&top.join("etc/a")));

    let by_digest = format!("{name}@{}", built.digest());
    let again = pull(&images, &by_digest).await.unwrap();
    assert_eq!(again.id, image.id);
    assert_eq!(images.list().len(), 1);
    for known in [&by_digest, &format!("{name}:v1"), image.id.as_str(), image.id.hex(), &image.id.hex()[..13]]
    {
        assert_eq!(images.find(known).unwrap().unwrap().id, image.id, "{known}");
    }
    assert!(images.find("nothing/like:that").unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn dockers_manifests_are_pulled() {
    let home = Home::new();
    let registry = Registry::plain(home.folder.path());
    let built = build::small("docker").as_docker();
    registry.push("x", "latest", &built);
    let images = home.open().await;
    let image = pull(&images, &format!("{}/x", registry.host())).await.unwrap();
    assert_eq!(image.id, built.id());
    assert_eq!(image.manifest_digest, built.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_resolved_for_the_platform() {
    let home = Home::new();
    let registry = Registry::plain(home.folder.path());
    let host = Platform::host().architecture;
    let layer = |text: &str| vec![Layer::new(&Tar::new().file("f", text.as_bytes()).done(), Pack::Gzip)];
    let ours = Built::for_platform(layer("ours"), json!({}), &host, None);
    let armv6 = Built::for_platform(layer("v6"), json!({}), "arm", Some("v6"));
    for (tag, built) in [("ours", &ours), ("armv6", &armv6)] {
        registry.push("multi", tag, built);
    }
    let entry = |built: &Built, platform| {
        let mut entry = build::descriptor(build::OCI_MANIFEST, &built.manifest);
        entry["platform"] = platform;
        entry
    };
    let index = json!({"schemaVersion": 2, "mediaType": build::OCI_INDEX, "manifests": [
        entry(&armv6, json!({"os": "linux", "architecture": "arm", "variant": "v6"})),
        entry(&ours, json!({"os": "linux", "architecture": host})),
    ]});
    let digest = registry.push_index("multi", "all", &index);
    let images = home.open().await;
    let name = format!("{}/multi:all", registry.host());

    let image = pull(&images, &name).await.unwrap();
    assert_eq!(image.id, ours.id());
    assert_eq!(image.manifest_digest, ours.digest());
    assert_eq!(image.repo_digests, [format!("{}/multi@{digest}", registry.host())]);

    // A machine of a later variant runs the earlier one.
    let arm = |variant: &str| Platform {
        os: "linux".into(),
        architecture: "arm".into(),
        variant: Some(variant.into()),
    };
    let chosen = images.pull(PullRequest { platform: Some(arm("v7")), ..request(&name) }).await.unwrap();
    assert_eq!(chosen, armv6.id());
    let none = images.pull(PullRequest { platform: Some(arm("v5")), ..request(&name) }).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::Unsupported);
    // The image itself says what it is for, too.
    let wrong = pull(&images, &format!("{}/multi:armv6", registry.host())).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Unsupported, "{}", chain(&wrong));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found() {
    let home = Home::new();
    let registry = Registry::plain(home.folder.path());
    registry.push("x", "1", &build::small("x"));
    let images = home.open().await;
    for absent in ["x:2", "y:1", &format!("x@{}", carpel_image::Digest::of(b"other"))] {
        let error = pull(&images, &format!("{}/{absent}", registry.host())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{absent}: {}", chain(&error));
    }
    let error = pull(&images, "UPPER/case").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let host = registry.host();
    drop(registry);
    let error = pull(&images, &format!("{host}/x:1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RegistryUnavailable, "{}", chain(&error));
    home.assert_clean(&images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_asked_for_and_checked() {
    let home = Home::new();
    let built = build::small("secret");
    Registry::plain(home.folder.path()).push("x", "1", &built);
    let registry = Registry::start(home.folder.path(), &Setup { passwords: true, ..Setup::default() });
    let images = home.open().await;
    let name = format!("{}/x:1", registry.host());
    let with = |username: &str, password: &str| PullRequest {
        auth: Some(Auth::Basic { username: username.into(), password: password.into() }),
        ..request(&name)
    };

    let anonymous = images.pull(request(&name)).await.unwrap_err();
    assert_eq!(anonymous.kind(), ErrorKind::Unauthenticated, "{}", chain(&anonymous));
    let wrong = images.pull(with(USER, "guess")).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Unauthenticated, "{}", chain(&wrong));
    assert!(!chain(&wrong).contains("guess"));
    home.assert_clean(&images).await;
    assert_eq!(images.pull(with(USER, PASSWORD)).await.unwrap(), built.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_as_configured() {
    let home = Home::new();
    let built = build::small("tls");
    Registry::plain(home.folder.path()).push("x", "1", &built);
    let certificates = Certificates::make(&home.path("pki"));
    let (certificate, key) = (certificates.path("server.pem"), certificates.path("server.key"));
    let registry =
        Registry::start(home.folder.path(), &Setup { tls: Some((&certificate, &key)), ..Setup::default() });
    let images = home.open().await;
    let (host, name) = (registry.host(), format!("{}/x:1", registry.host()));
    let server = format!("server = \"https://{host}\"\n");

    home.hosts(&host, &server);
    let untrusted = pull(&images, &name).await.unwrap_err();
    assert_eq!(untrusted.kind(), ErrorKind::RegistryUnavailable, "{}", chain(&untrusted));
    home.assert_clean(&images).await;

    // The file is read at every pull, and its paths are beside it.
    let folder = home.hosts(&host, &format!("{server}ca = \"ca.pem\"\n"));
    fs::copy(certificates.path("ca.pem"), folder.join("ca.pem")).unwrap();
    assert_eq!(pull(&images, &name).await.unwrap().id, built.id());

    images.remove(&name).await.unwrap();
    home.hosts(&host, &format!("{server}skip_verify = true\n"));
    assert_eq!(pull(&images, &name).await.unwrap().id, built.id());

    images.remove(&name).await.unwrap();
    home.hosts(&host, &format!("{server}ca = \"absent.pem\"\n"));
    let broken = pull(&images, &name).await.unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::Configuration, "{}", chain(&broken));
    assert!(chain(&broken).contains("absent.pem"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown() {
    let home = Home::new();
    let built = build::small("mtls");
    Registry::plain(home.folder.path()).push("x", "1", &built);
    let certificates = Certificates::make(&home.path("pki"));
    let (certificate, key) = (certificates.path("server.pem"), certificates.path("server.key"));
    let ca = certificates.path("ca.pem");
    let setup = Setup { tls: Some((&certificate, &key)), client_ca: Some(&ca), ..Setup::default() };
    let registry = Registry::start(home.folder.path(), &setup);
    let images = home.open().await;
    let (host, name) = (registry.host(), format!("{}/x:1", registry.host()));

    let without = format!("[host.\"https://{host}\"]\nca = \"{}\"\n", ca.display());
    home.hosts(&host, &without);
    let refused = pull(&images, &name).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::RegistryUnavailable, "{}", chain(&refused));

    let (pem, key) = (certificates.path("client.pem"), certificates.path("client.key"));
    home.hosts(&host, &format!("{without}client = [[\"{}\", \"{}\"]]\n", pem.display(), key.display()));
    assert_eq!(pull(&images, &name).await.unwrap().id, built.id());
}
