//! Registries that lie, stall, loop and fish for secrets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use carpel_image::{Auth, Digest, ErrorKind, PullRequest};
use serde_json::json;

use crate::support::build::{self, Built, Layer, Pack};
use crate::support::scripted::{Asked, Reply, Scripted, answer, head, image_reply};
use crate::support::tar::Tar;
use crate::support::{Home, chain, pull, request};

const SECRET: &str = "hunter2";

fn basic() -> Option<Auth> {
    Some(Auth::Basic { username: "joe".into(), password: SECRET.into() })
}

/// Pulls `x:1` from a server with that script, and expects that class of failure, no rest, and that the next
/// pull of the same image from an honest server works.
async fn fails(
    what: &str,
    kind: ErrorKind,
    script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
) -> Scripted {
    let mut home = Home::new();
    if kind == ErrorKind::Stalled {
        home.config.progress_timeout = Duration::from_millis(300);
    }
    home.config.limits.attempts = 2;
    let images = home.open().await;
    let server = Scripted::start(script);
    let pulled =
        images.pull(PullRequest { auth: basic(), ..request(&format!("{}/x:1", server.host())) }).await;
    let error = pulled.expect_err(what);
    assert_eq!(error.kind(), kind, "{what}: {}", chain(&error));
    assert!(!chain(&error).contains(SECRET));
    home.assert_clean(&images).await;
    let honest = Scripted::start(Scripted::serving(&image()));
    let name = format!("{}/x:1", honest.host());
    let mut pulled = pull(&images, &name).await;
    for _ in 0..20 {
        // With so little patience an honest server seems to stall, too, on a machine that is busy.
        match &pulled {
            Err(error) if kind == ErrorKind::Stalled && error.kind() == kind => {}
            _ => break,
        }
        pulled = pull(&images, &name).await;
    }
    pulled.unwrap();
    server
}

fn image() -> Built {
    let noise: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    Built::new(vec![Layer::new(&Tar::new().file("noise", &noise).done(), Pack::Gzip)])
}

fn is_layer(asked: &Asked) -> bool {
    asked.path.contains(Digest::of(&image().layers[0].blob).as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn stalls_end() {
    let all = image();
    fails("no answer", ErrorKind::Stalled, |_| Reply::Stall(Vec::new())).await;
    let image = all.clone();
    fails("half a manifest", ErrorKind::Stalled, move |_| {
        let mut bytes = head(200, &[], Some(image.manifest.len() as u64));
        bytes.extend_from_slice(&image.manifest[..10]);
        Reply::Stall(bytes)
    })
    .await;
    let image = all.clone();
    fails("half a layer", ErrorKind::Stalled, move |asked| match is_layer(asked) {
        true => {
            let blob = &image.layers[0].blob;
            let mut bytes = head(200, &[], Some(blob.len() as u64));
            bytes.extend_from_slice(&blob[..blob.len() / 2]);
            Reply::Stall(bytes)
        }
        false => image_reply(&image, asked),
    })
    .await;
    let image = all.clone();
    fails("a byte now and then", ErrorKind::Stalled, move |asked| match is_layer(asked) {
        true => {
            let blob = image.layers[0].blob.clone();
            Reply::Drip(head(200, &[], Some(blob.len() as u64)), blob)
        }
        false => image_reply(&image, asked),
    })
    .await;
    fails("head without end", ErrorKind::Stalled, |_| {
        Reply::Drip(b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'a'; 10_000])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_content_are_found() {
    let wrong = image();
    fails("other manifest than its digest", ErrorKind::Integrity, move |asked| {
        match asked.path.contains("/manifests/") {
            true => answer(200, &[("Docker-Content-Digest", Digest::of(b"x").as_str())], &wrong.manifest),
            false => image_reply(&wrong, asked),
        }
    })
    .await;
    let flipped = image();
    fails("flipped bit in a layer", ErrorKind::Integrity, move |asked| match is_layer(asked) {
        true => {
            let mut blob = flipped.layers[0].blob.clone();
            let middle = blob.len() / 2;
            blob[middle] ^= 1;
            answer(200, &[], &blob)
        }
        false => image_reply(&flipped, asked),
    })
    .await;
    let config = image();
    fails("other config", ErrorKind::Integrity, move |asked| {
        match asked.path.contains(Digest::of(&config.config).as_str()) {
            true => answer(200, &[], &vec![b' '; config.config.len()]),
            false => image_reply(&config, asked),
        }
    })
    .await;
    let short = image();
    fails("announced too short", ErrorKind::Integrity, move |asked| match is_layer(asked) {
        true => answer(200, &[], &short.layers[0].blob[..1000]),
        false => image_reply(&short, asked),
    })
    .await;
    let long = image();
    fails("more than there is", ErrorKind::Integrity, move |asked| match is_layer(asked) {
        true => Reply::Endless(head(200, &[], None), long.layers[0].blob.clone()),
        false => image_reply(&long, asked),
    })
    .await;
    let cut = image();
    fails("cut every time", ErrorKind::RegistryUnavailable, move |asked| match is_layer(asked) {
        true => {
            let mut bytes = head(200, &[], Some(cut.layers[0].blob.len() as u64));
            bytes.extend_from_slice(&cut.layers[0].blob[..1000]);
            Reply::Close(bytes)
        }
        false => image_reply(&cut, asked),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_digests_are_refused_before_they_are_used() {
    let bad = [
        "sha256:../../../../etc/passwd".to_owned(),
        format!("sha256:{}", "a".repeat(63)),
        format!("sha256:{}", "A".repeat(64)),
        format!("md5:{}", "a".repeat(32)),
        String::new(),
    ];
    for text in bad {
        let header = text.clone();
        fails("header", ErrorKind::Integrity, move |_| {
            answer(200, &[("Docker-Content-Digest", &header)], &image().manifest)
        })
        .await;
        let layer = Digest::of(&image().layers[0].blob);
        let manifest = String::from_utf8(image().manifest).unwrap().replace(layer.as_str(), &text);
        let server = fails("layer", ErrorKind::InvalidImage, move |asked| {
            assert!(asked.path.contains("/manifests/1"));
            answer(200, &[], manifest.as_bytes())
        })
        .await;
        assert_eq!(server.asked().len(), 1, "nothing was asked for under such a name");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_manifests_are_refused() {
    let image = image();
    let mut both: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    both["manifests"] = json!([build::descriptor(build::OCI_MANIFEST, b"{}")]);
    let mut index_only = both.clone();
    index_only.as_object_mut().unwrap().remove("config");
    index_only["mediaType"] = json!(build::OCI_INDEX);
    let mut liar: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    liar["mediaType"] = json!(build::OCI_INDEX);
    let cases = [
        (serde_json::to_vec(&both).unwrap(), build::OCI_MANIFEST),
        (serde_json::to_vec(&index_only).unwrap(), build::OCI_INDEX),
        (serde_json::to_vec(&liar).unwrap(), build::OCI_INDEX),
        (image.manifest.clone(), build::OCI_INDEX),
    ];
    for (document, media_type) in cases {
        let home = Home::new();
        let images = home.open().await;
        let digest = Digest::of(&document);
        let server = Scripted::start(move |_| answer(200, &[("Content-Type", media_type)], &document));
        for reference in [format!("{}/x:1", server.host()), format!("{}/x@{digest}", server.host())] {
            let error = pull(&images, &reference).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidImage, "{}", chain(&error));
        }
        home.assert_clean(&images).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_documents_end_at_their_bound() {
    fails("endless manifest", ErrorKind::TooLarge, |_| {
        Reply::Endless(head(200, &[], None), vec![b' '; 64 << 10])
    })
    .await;
    fails("announced endless", ErrorKind::TooLarge, |_| Reply::Close(head(200, &[], Some(4 << 30)))).await;
    fails("endless head", ErrorKind::RegistryUnavailable, |_| {
        Reply::Endless(b"HTTP/1.1 200 OK\r\n".to_vec(), b"X-A: b\r\n".repeat(1000))
    })
    .await;
    fails("not HTTP", ErrorKind::RegistryUnavailable, |_| Reply::Close(vec![0xff; 4096])).await;
    let entry = build::descriptor(build::OCI_MANIFEST, b"{}");
    let index = json!({"schemaVersion": 2, "manifests": vec![entry; 11_000]});
    let index = serde_json::to_vec(&index).unwrap();
    fails("many entries", ErrorKind::TooLarge, move |_| answer(200, &[], &index)).await;
    let mut manifest: serde_json::Value = serde_json::from_slice(&image().manifest).unwrap();
    let layer = manifest["layers"][0].clone();
    manifest["layers"] = json!(vec![layer; 501]);
    let manifest = serde_json::to_vec(&manifest).unwrap();
    fails("many layers", ErrorKind::TooLarge, move |_| answer(200, &[], &manifest)).await;
    fails("deep JSON", ErrorKind::InvalidImage, |_| {
        answer(200, &[], format!("{{\"schemaVersion\":2,\"x\":{}", "[".repeat(100_000)).as_bytes())
    })
    .await;
    // Each index leads to another one, deeper than anybody needs.
    let mut documents = vec![br#"{"schemaVersion":2,"manifests":[]}"#.to_vec()];
    for depth in 0..8 {
        let mut entry = build::descriptor(build::OCI_INDEX, &documents[depth]);
        let platform = carpel_image::Platform::host();
        entry["platform"] = json!({"os": platform.os, "architecture": platform.architecture});
        documents.push(serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]})).unwrap());
    }
    let server = fails("indexes in indexes", ErrorKind::InvalidImage, move |asked| {
        let wanted = documents.iter().find(|d| asked.path.ends_with(Digest::of(d).as_str()));
        answer(200, &[], wanted.unwrap_or(&documents[8]))
    })
    .await;
    assert!(server.asked().len() <= 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_bounded_and_take_no_secrets_along() {
    let server = fails("redirect loop", ErrorKind::RegistryUnavailable, |asked| {
        answer(307, &[("Location", &asked.path)], b"")
    })
    .await;
    assert!(server.asked().len() <= 11);
    fails("redirect to a file", ErrorKind::RegistryUnavailable, |_| {
        answer(302, &[("Location", "file:///etc/passwd")], b"")
    })
    .await;

    // Storage on another port and another host: the layer comes, the password does not.
    let image = image();
    for address in ["127.0.0.1", "127.0.0.2"] {
        let (here, there) = (image.clone(), image.clone());
        let storage = Scripted::start_at(address, move |_| answer(200, &[], &there.layers[0].blob));
        let target = format!("http://{}/layer?signature=s", storage.host());
        let server = Scripted::start(move |asked| match asked.header("authorization") {
            None => answer(401, &[("WWW-Authenticate", "Basic realm=\"r\"")], b""),
            Some(_) if is_layer(asked) => answer(307, &[("Location", &target)], b""),
            Some(_) => image_reply(&here, asked),
        });
        let home = Home::new();
        let images = home.open().await;
        let name = format!("{}/x:1", server.host());
        images.pull(PullRequest { auth: basic(), ..request(&name) }).await.unwrap();
        assert_eq!(storage.asked().len(), 1);
        assert!(storage.asked().iter().all(|asked| asked.header("authorization").is_none()));
        assert!(server.asked().iter().any(|asked| asked.header("authorization").is_some()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_behind_a_redirect_is_not_answered() {
    let evil = Scripted::start_at("127.0.0.2", |_| {
        answer(401, &[("WWW-Authenticate", "Basic realm=\"evil\"")], b"")
    });
    let (target, image) = (format!("http://{}/layer", evil.host()), image());
    fails("challenge elsewhere", ErrorKind::Unauthenticated, move |asked| match is_layer(asked) {
        true => answer(307, &[("Location", &target)], b""),
        false => image_reply(&image, asked),
    })
    .await;
    assert!(!evil.asked().is_empty());
    assert!(evil.asked().iter().all(|asked| asked.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_urls_get_nothing() {
    let evil = Scripted::start(|_| answer(401, &[("WWW-Authenticate", "Basic realm=\"evil\"")], b""));
    let image = image();
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    manifest["layers"][0]["urls"] = json!([format!("http://{}/layer", evil.host())]);
    let foreign = Built { manifest: serde_json::to_vec(&manifest).unwrap(), ..image };
    let server = Scripted::start(move |asked| match asked.header("authorization") {
        None => answer(401, &[("WWW-Authenticate", "Basic realm=\"r\"")], b""),
        Some(_) if is_layer(asked) => answer(404, &[], b""),
        Some(_) => image_reply(&foreign, asked),
    });
    let home = Home::new();
    let images = home.open().await;
    let name = format!("{}/x:1", server.host());
    let error = images.pull(PullRequest { auth: basic(), ..request(&name) }).await.unwrap_err();
    assert!(!chain(&error).contains(SECRET));
    assert!(evil.asked().iter().all(|asked| asked.header("authorization").is_none()));
    home.assert_clean(&images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_used_and_kept_for_the_pull() {
    let image = image();
    let realm = Scripted::start(|asked| {
        let query = &asked.path;
        assert!(query.contains("service=reg") && query.contains("scope=repository%3Ax%3Apull"), "{query}");
        answer(200, &[], br#"{"token":"t0ken","expires_in":300}"#)
    });
    let challenge =
        format!("Bearer realm=\"http://{}/token\",service=\"reg\",scope=\"repository:x:pull\"", realm.host());
    let built = image.clone();
    let server = Scripted::start(move |asked| match asked.header("authorization") {
        Some("Bearer t0ken") => image_reply(&built, asked),
        _ => answer(401, &[("WWW-Authenticate", &challenge)], b""),
    });
    let home = Home::new();
    let images = home.open().await;
    let name = format!("{}/x:1", server.host());
    images.pull(PullRequest { auth: basic(), ..request(&name) }).await.unwrap();
    assert_eq!(realm.asked().len(), 1, "one token serves the whole pull");
    assert!(realm.asked()[0].header("authorization").unwrap().starts_with("Basic "));
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_tokens_and_ready_tokens_work() {
    let image = image();
    let realm = Scripted::start(|asked| match asked.method.as_str() {
        "POST"
            if asked.body.contains("grant_type=refresh_token")
                && asked.body.contains("refresh_token=again") =>
        {
            answer(200, &[], br#"{"access_token":"fresh"}"#)
        }
        _ => answer(400, &[], b"{}"),
    });
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"reg\"", realm.host());
    let built = image.clone();
    let server = Scripted::start(move |asked| match asked.header("authorization") {
        Some("Bearer fresh" | "Bearer ready") => image_reply(&built, asked),
        _ => answer(401, &[("WWW-Authenticate", &challenge)], b""),
    });
    let home = Home::new();
    let images = home.open().await;
    let name = format!("{}/x:1", server.host());
    let with = |auth| PullRequest { auth: Some(auth), ..request(&name) };
    images.pull(with(Auth::IdentityToken("again".into()))).await.unwrap();
    assert!(realm.asked()[0].body.contains("scope=repository%3Ax%3Apull"));
    images.pull(with(Auth::RegistryToken("ready".into()))).await.unwrap();
    assert_eq!(realm.asked().len(), 1);
    let error = images.pull(with(Auth::RegistryToken("stale".into()))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    let error = images.pull(with(Auth::IdentityToken("wrong".into()))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn realms_that_are_none_of_the_registrys_get_no_secrets() {
    let evil = Scripted::start_at("127.0.0.2", |_| answer(200, &[], br#"{"token":"t"}"#));
    for realm in [format!("http://{}/token", evil.host()), "file:///etc/passwd".into(), "nonsense".into()] {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"s\"");
        fails("foreign realm", ErrorKind::PermissionDenied, move |_| {
            answer(401, &[("WWW-Authenticate", &challenge)], b"")
        })
        .await;
    }
    assert!(evil.asked().is_empty());
    fails("no token in it", ErrorKind::RegistryUnavailable, |asked| match asked.path.contains("token") {
        true => answer(200, &[], b"{}"),
        false => {
            let host = asked.header("host").unwrap();
            answer(401, &[("WWW-Authenticate", &format!("Bearer realm=\"http://{host}/token\""))], b"")
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_apart() {
    let server = fails("asks for ever", ErrorKind::Unauthenticated, |_| {
        answer(401, &[("WWW-Authenticate", "Basic realm=\"r\"")], b"")
    })
    .await;
    assert_eq!(server.asked().len(), 2, "once without and once with credentials");
    fails("no challenge", ErrorKind::Unauthenticated, |_| answer(401, &[], b"")).await;
    fails("forbidden", ErrorKind::PermissionDenied, |_| answer(403, &[], b"")).await;
    let server = fails("server error", ErrorKind::RegistryUnavailable, |_| answer(500, &[], b"")).await;
    assert_eq!(server.asked().len(), 2, "as many tries as configured");
    let server = fails("too many", ErrorKind::RegistryUnavailable, |_| {
        answer(429, &[("Retry-After", "1000000")], b"")
    })
    .await;
    assert_eq!(server.asked().len(), 2);
    let server = fails("teapot", ErrorKind::RegistryUnavailable, |_| answer(418, &[], b"")).await;
    assert_eq!(server.asked().len(), 1, "what will not change is not asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_transfers_are_resumed() {
    let image = image();
    for ranges in [true, false] {
        let blob = image.layers[0].blob.clone();
        let tries = Arc::new(AtomicUsize::new(0));
        let (counter, built) = (tries.clone(), image.clone());
        let server = Scripted::start(move |asked| {
            if !is_layer(asked) {
                return image_reply(&built, asked);
            }
            let step = blob.len() / 4;
            let to = (counter.fetch_add(1, Ordering::Relaxed) + 1) * step;
            let from = match asked.header("range") {
                Some(range) if ranges => range["bytes=".len()..range.len() - 1].parse().unwrap(),
                _ => 0,
            };
            let status = if from > 0 { 206 } else { 200 };
            let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
            let headers: &[(&str, &str)] = if from > 0 { &[("Content-Range", &range)] } else { &[] };
            let mut bytes = head(status, headers, Some((blob.len() - from) as u64));
            bytes.extend_from_slice(&blob[from..to.clamp(from, blob.len())]);
            if to + step > blob.len() {
                bytes.extend_from_slice(&blob[to.clamp(from, blob.len())..]);
            }
            Reply::Close(bytes)
        });
        let home = Home::new();
        let images = home.open().await;
        let pulled = pull(&images, &format!("{}/x:1", server.host())).await.unwrap();
        assert_eq!(pulled.id, image.id());
        assert!(tries.load(Ordering::Relaxed) >= 4);
        let asked_ranges = server.asked().iter().filter(|asked| asked.header("range").is_some()).count();
        assert!(asked_ranges >= 3, "it went on where it was broken off");
    }
}
