//! Pulls that meet: done once, cancelled apart, with credentials kept apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use carpel_image::{Auth, PullProgress, PullRequest, PullStage};

use crate::support::build::{self, Built, Layer, Pack};
use crate::support::registry::Registry;
use crate::support::scripted::{Scripted, answer, image_reply};
use crate::support::tar::Tar;
use crate::support::{Home, pull, request};

/// A server that holds layers back until the gate is opened.
fn gated(built: &Built) -> (Scripted, Arc<AtomicBool>) {
    let gate = Arc::new(AtomicBool::new(false));
    let (open, built) = (gate.clone(), built.clone());
    let server = Scripted::start(move |asked| {
        let is_config = asked.path.contains(built.id().as_str());
        while asked.path.contains("/blobs/") && !is_config && !open.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        image_reply(&built, asked)
    });
    (server, gate)
}

async fn until(mut reached: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if reached() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to that");
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_pulls_download_once() {
    let home = Home::new();
    let built = build::small("once");
    let (server, gate) = gated(&built);
    let images = home.open().await;
    let name = format!("{}/x:1", server.host());
    let pulls: Vec<_> = (0..30)
        .map(|_| {
            let (images, name) = (images.clone(), name.clone());
            tokio::spawn(async move { images.pull(request(&name)).await })
        })
        .collect();
    until(|| server.count("/blobs/") >= 3).await;
    assert_eq!(images.pulls().len(), 1);
    gate.store(true, Ordering::Relaxed);
    for pull in pulls {
        assert_eq!(pull.await.unwrap().unwrap(), built.id());
    }
    assert_eq!(server.count("/manifests/"), 1);
    assert_eq!(server.count("/blobs/"), 3);
    assert!(images.pulls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn different_images_share_the_download_of_a_layer() {
    let home = Home::new();
    let shared = Layer::new(&Tar::new().file("shared", b"s").done(), Pack::Gzip);
    let top = |text: &str| Layer::new(&Tar::new().file("own", text.as_bytes()).done(), Pack::Gzip);
    let one = Built::new(vec![shared.clone(), top("one")]);
    let two = Built::new(vec![shared.clone(), top("two")]);
    let gate = Arc::new(AtomicBool::new(false));
    let (open, first, second) = (gate.clone(), one.clone(), two.clone());
    let digest = carpel_image::Digest::of(&shared.blob);
    let layer = digest.to_string();
    let server = Scripted::start(move |asked| {
        while asked.path.contains(&layer) && !open.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        match asked.path.contains("/one/") {
            true => image_reply(&first, asked),
            false => image_reply(&second, asked),
        }
    });
    let images = home.open().await;
    let pulls: Vec<_> = ["one", "two"]
        .map(|name| {
            let (images, name) = (images.clone(), format!("{}/{name}:1", server.host()));
            tokio::spawn(async move { images.pull(request(&name)).await })
        })
        .into();
    until(|| images.pulls().len() == 2 && images.pulls().iter().all(|p| p.layers.len() == 2)).await;
    gate.store(true, Ordering::Relaxed);
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    assert_eq!(server.count(digest.as_str()), 1);
    assert_eq!(home.names("layers").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_waiter_does_not_end_the_others() {
    let home = Home::new();
    let built = build::small("cancel");
    let (server, gate) = gated(&built);
    let images = home.open().await;
    let name = format!("{}/x:1", server.host());
    let start = || {
        let (images, name) = (images.clone(), name.clone());
        tokio::spawn(async move { images.pull(request(&name)).await })
    };
    let first = start();
    until(|| server.count("/blobs/") >= 3).await;
    let second = start();
    tokio::time::sleep(Duration::from_millis(50)).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    gate.store(true, Ordering::Relaxed);
    assert_eq!(second.await.unwrap().unwrap(), built.id());
    assert_eq!(server.count("/blobs/"), 3, "nothing was begun anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_nobody_waits_for_is_given_up() {
    let home = Home::new();
    let built = build::small("abandon");
    let (server, gate) = gated(&built);
    let images = home.open().await;
    let name = format!("{}/x:1", server.host());
    let handle = {
        let (images, name) = (images.clone(), name.clone());
        tokio::spawn(async move { images.pull(request(&name)).await })
    };
    until(|| server.count("/blobs/") >= 3).await;
    handle.abort();
    let _ = handle.await;
    until(|| images.pulls().is_empty()).await;
    home.assert_clean(&images).await;
    gate.store(true, Ordering::Relaxed);
    pull(&images, &name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_credentials_does_not_ride_along() {
    let home = Home::new();
    let built = build::small("private");
    let gate = Arc::new(AtomicBool::new(false));
    let (open, image) = (gate.clone(), built.clone());
    let server = Scripted::start(move |asked| {
        if asked.header("authorization").is_none() {
            return answer(401, &[("WWW-Authenticate", "Basic realm=\"r\"")], b"");
        }
        while asked.path.contains("/blobs/") && !open.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        image_reply(&image, asked)
    });
    let images = home.open().await;
    let name = format!("{}/x:1", server.host());
    let auth = Some(Auth::Basic { username: "joe".into(), password: "p".into() });
    let allowed = {
        let (images, request) = (images.clone(), PullRequest { auth, ..request(&name) });
        tokio::spawn(async move { images.pull(request).await })
    };
    until(|| server.count("/blobs/") >= 1).await;
    assert!(images.pull(request(&name)).await.is_err());
    gate.store(true, Ordering::Relaxed);
    allowed.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_shown() {
    let home = Home::new();
    let registry = Registry::plain(home.folder.path());
    registry.push("x", "1", &build::small("progress"));
    let images = home.open().await;
    let (sender, receiver) = tokio::sync::watch::channel(PullProgress::default());
    let name = format!("{}/x:1", registry.host());
    images.pull(PullRequest { progress: Some(sender), ..request(&name) }).await.unwrap();
    let last = receiver.borrow().clone();
    assert_eq!(last.reference, name);
    assert_eq!(last.stage, PullStage::Done);
    assert_eq!(last.layers.len(), 2);
    assert!(last.layers.iter().all(|layer| layer.bytes == layer.total && layer.total > 0));
}
