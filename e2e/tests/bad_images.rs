//! Registries that stall, lie or redirect; images that are malformed or hostile; a disk that is full. Each is refused with the
//! right code and a clear word, nothing half-made stays, and the next pull works.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use carpel_e2e::client::refusal;
use carpel_e2e::config::container;
use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::http::{Reply, Request, Sending, Server};
use carpel_e2e::kernel::Tmpfs;
use carpel_e2e::layout::{Compression, Image, Layout, Written, digest};
use carpel_e2e::registry::Registry;
use carpel_e2e::scripted::{self, Content};
use carpel_e2e::tar::{Entry, Kind, Tar};
use carpel_e2e::{busybox, scenario};
use carpel_proto::v1;
use serde_json::{Value, json};
use tonic::Code;

fn layout_of(image: &Image) -> (tempfile::TempDir, Layout, Written) {
    let folder = tempfile::tempdir().unwrap();
    let mut layout = Layout::create(folder.path());
    let written = layout.add("1", image);
    (folder, layout, written)
}

/// A layer that is long enough to be cut or stalled inside.
fn long_layer() -> Vec<u8> {
    let noise: Vec<u8> =
        (0..1_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    Tar::new().file("noise", 0o644, noise).finish()
}

/// Serves a layout under `bad.test`, each answer passed through the script.
fn serve(
    daemon: &Daemon,
    folder: &Path,
    script: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> Server {
    serve_content(daemon, Content::of(folder), script)
}

fn serve_content(
    daemon: &Daemon,
    content: Content,
    script: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> Server {
    let server = scripted::start(content, script);
    daemon.hosts_toml("bad.test", &format!("server = \"http://{}\"\n", server.address()));
    server
}

/// The pull of `bad.test/app:1` must be refused with a code, leave no image, and say all of the words.
async fn refused(daemon: &Daemon, case: &str, expected: Code, words: &[&str]) {
    let status = refusal(case, daemon.client.try_pull("bad.test/app:1", None).await);
    assert_eq!(status.code(), expected, "{case}: {}", status.message());
    for word in words {
        assert!(status.message().contains(word), "{case}: `{word}` is not in: {}", status.message());
    }
    assert!(daemon.client.list_images().await.is_empty(), "{case} left an image");
}

/// The same image from a registry that behaves must come.
async fn mends(daemon: &Daemon, folder: &Path, written: &Written) {
    let _server = serve(daemon, folder, |_, reply| reply);
    assert_eq!(daemon.client.pull("bad.test/app:1").await, written.config);
    daemon.client.remove_image("bad.test/app:1").await;
}

#[test]
fn bad_references_are_refused_before_anything_is_asked() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let long = format!("bad.test/{}:1", "x".repeat(5000));
        for reference in [
            "",
            " ",
            "bad.test/UPPER:1",
            "bad.test/app:",
            "bad.test/app:white space",
            "bad.test/../etc:1",
            "bad.test//app:1",
            "bad.test/app@sha256:abc",
            "bad.test/app@md5:d41d8cd98f00b204e9800998ecf8427e",
            "bad.test/app\n:1",
            "http://bad.test/app:1",
            &long,
        ] {
            let status = refusal(reference, daemon.client.try_pull(reference, None).await);
            assert_eq!(status.code(), Code::InvalidArgument, "{reference:?}: {}", status.message());
        }
        let request = v1::PullImageRequest::default();
        let status = refusal("no image", daemon.client.images.clone().pull_image(request).await);
        assert_eq!(status.code(), Code::InvalidArgument);
    });
}

#[test]
fn what_a_registry_refuses_has_its_own_code() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (folder, _, written) = layout_of(&busybox::image());
        for (status, code, words) in [
            (401, Code::Unauthenticated, &["bad.test/app"][..]),
            (403, Code::PermissionDenied, &["bad.test/app"]),
            (404, Code::NotFound, &["bad.test/app"]),
            (429, Code::Unknown, &["RegistryUnavailable", "429"]),
            (500, Code::Unknown, &["RegistryUnavailable", "500"]),
            (503, Code::Unknown, &["RegistryUnavailable", "503"]),
        ] {
            let _server = serve(daemon, folder.path(), move |_, _| Reply::status(status));
            refused(daemon, &format!("status {status}"), code, words).await;
        }
        drop(serve(daemon, folder.path(), |_, reply| reply));
        refused(daemon, "nobody listens", Code::Unknown, &["RegistryUnavailable"]).await;
        mends(daemon, folder.path(), &written).await;
    });
}

#[test]
fn content_that_is_not_what_its_digest_says_is_refused() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (folder, _, written) = layout_of(&Image::new().layer(long_layer()));
        let lies = |target: &str, bytes: Vec<u8>| {
            let mut content = Content::of(folder.path());
            content.replace(target, bytes);
            content
        };
        let honest = std::fs::read(folder.path().join("blobs/sha256").join(&written.layers[0][7..])).unwrap();
        let mut flipped = honest.clone();
        flipped[honest.len() / 2] ^= 1;
        let longer = [honest.clone(), b"more".to_vec()].concat();
        for (case, target, bytes) in [
            ("a layer with one wrong bit", &written.layers[0], flipped),
            ("a layer that goes on", &written.layers[0], longer),
            ("a layer that ends early", &written.layers[0], honest[..honest.len() - 9].to_vec()),
            ("another config", &written.config, b"{}".to_vec()),
        ] {
            let _server = serve_content(daemon, lies(target, bytes), |_, reply| reply);
            refused(daemon, case, Code::DataLoss, &[target]).await;
        }
        // By digest even the manifest is not believed.
        let _server =
            serve_content(daemon, lies(&written.manifest, b"{\"schemaVersion\":2}".to_vec()), |_, reply| {
                reply
            });
        let reference = format!("bad.test/app@{}", written.manifest);
        let status = refusal("another manifest", daemon.client.try_pull(&reference, None).await);
        assert_eq!(status.code(), Code::DataLoss, "{}", status.message());
        mends(daemon, folder.path(), &written).await;
    });
}

#[test]
fn a_layer_that_unpacks_to_something_else_is_refused() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let folder = tempfile::tempdir().unwrap();
        let mut layout = Layout::create(folder.path());
        let wrong = digest(b"not this layer");
        let config = json!({ "os": "linux", "architecture": architecture(), "config": {},
                             "rootfs": { "type": "layers", "diff_ids": [wrong] } });
        name_manifest(&mut layout, &config, &[(long_layer(), "application/vnd.oci.image.layer.v1.tar")]);
        let _server = serve(daemon, folder.path(), |_, reply| reply);
        refused(daemon, "a wrong diff id", Code::DataLoss, &[&wrong]).await;
    });
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// Names `1` a manifest of any config and layers.
fn name_manifest(layout: &mut Layout, config: &Value, layers: &[(Vec<u8>, &str)]) {
    let config = layout.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let layers: Vec<Value> =
        layers.iter().map(|(bytes, media_type)| layout.blob(media_type, bytes)).collect();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
    let descriptor = layout.blob(media_type, manifest.to_string().as_bytes());
    layout.name("1", descriptor);
}

#[test]
fn malformed_images_are_refused() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let plain = "application/vnd.oci.image.layer.v1.tar";
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        let good = Tar::new().file("x", 0o644, "x").finish();
        let config = |diff_ids: Value| {
            json!({ "os": "linux", "architecture": architecture(), "config": {},
                    "rootfs": { "type": "layers", "diff_ids": diff_ids } })
        };
        let of = |tar: &[u8]| json!([digest(tar)]);
        let mut damaged = good.clone();
        damaged[150] ^= 1; // the header's checksum
        let cut = Tar::new().file("x", 0o644, vec![1; 4096]).unfinished()[..2048].to_vec();
        let lying_size = Tar::new()
            .entry(&Entry::new("x", Kind::File(b"x"), 0o644).pax("size", b"99999999999999999999999"))
            .finish();
        let cases = [
            ("a config that is no object", json!([]), vec![(good.clone(), plain)]),
            (
                "a config without a rootfs",
                json!({ "os": "linux", "architecture": architecture() }),
                vec![(good.clone(), plain)],
            ),
            ("more layers than diff ids", config(json!([])), vec![(good.clone(), plain)]),
            ("a diff id that is none", config(json!(["sha256:zz"])), vec![(good.clone(), plain)]),
            (
                "damaged gzip",
                config(of(&good)),
                vec![(b"\x1f\x8b\x08\0 and what follows is no deflate".to_vec(), gzip)],
            ),
            (
                "a layer of an unknown kind",
                config(of(&good)),
                vec![(good.clone(), "application/x-shockwave-flash")],
            ),
            ("a damaged tar header", config(of(&damaged)), vec![(damaged.clone(), plain)]),
            ("a tar that ends in a file", config(of(&cut)), vec![(cut.clone(), plain)]),
            ("a size beyond all numbers", config(of(&lying_size)), vec![(lying_size.clone(), plain)]),
        ];
        for (case, config, layers) in cases {
            let folder = tempfile::tempdir().unwrap();
            let mut layout = Layout::create(folder.path());
            name_manifest(&mut layout, &config, &layers);
            let _server = serve(daemon, folder.path(), |_, reply| reply);
            refused(daemon, case, Code::FailedPrecondition, &["bad.test/app"]).await;
        }
        let deep = "[".repeat(100_000);
        for (case, manifest) in
            [("a manifest that is no JSON", "<html>"), ("a manifest nested deeply", &deep)]
        {
            let folder = tempfile::tempdir().unwrap();
            Layout::create(folder.path());
            let body = manifest.to_owned();
            let _server = serve(daemon, folder.path(), move |_, _| {
                Reply::new(200, "application/vnd.oci.image.manifest.v1+json", body.clone())
            });
            refused(daemon, case, Code::FailedPrecondition, &["bad.test/app"]).await;
        }
    });
}

#[test]
fn an_image_for_another_machine_is_refused() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let folder = tempfile::tempdir().unwrap();
        let foreign = || Image::new().architecture("s390x").layer(Tar::new().finish());
        Layout::create(folder.path()).add_index("1", &[foreign()]);
        let _server = serve(daemon, folder.path(), |_, reply| reply);
        refused(daemon, "no platform fits", Code::FailedPrecondition, &["bad.test/app", "linux/"]).await;
    });
}

#[test]
fn what_is_too_large_is_refused_before_it_is_read() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (folder, _, written) = layout_of(&busybox::image());
        let _server = serve(daemon, folder.path(), |request, reply| {
            let padding = vec![b' '; 64 << 20];
            if request.path.contains("/manifests/") { Reply { body: padding, ..reply } } else { reply }
        });
        refused(daemon, "a manifest of 64 MiB", Code::ResourceExhausted, &[]).await;
        mends(daemon, folder.path(), &written).await;
    });
}

#[test]
fn a_registry_that_breaks_off_or_stalls_is_given_up() {
    let options = Options { config: "[image]\nprogress_timeout_s = 2\n".to_owned(), ..Options::default() };
    scenario::run_without_image(options, async |daemon| {
        let (folder, _, written) = layout_of(&Image::new().layer_as(long_layer(), Compression::None));
        for part in ["manifests", "blobs"] {
            let _server = serve(daemon, folder.path(), move |request, reply| {
                let is_part = request.path.contains(&format!("/{part}/"));
                if is_part { reply.sending(Sending::StallAfter(100)) } else { reply }
            });
            refused(daemon, &format!("{part} stall"), Code::DeadlineExceeded, &[]).await;
        }
        let _server = serve(daemon, folder.path(), move |request, reply| {
            if request.path.contains("/blobs/") { reply.sending(Sending::CutAfter(100)) } else { reply }
        });
        refused(daemon, "blobs are cut", Code::Unknown, &["RegistryUnavailable"]).await;
        mends(daemon, folder.path(), &written).await;
    });
}

#[test]
fn a_connection_that_breaks_once_is_tried_again() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (folder, _, written) = layout_of(&Image::new().layer_as(long_layer(), Compression::None));
        let breaks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&breaks);
        let layer = format!("/blobs/{}", written.layers[0]);
        let _server = serve(daemon, folder.path(), move |request, reply| {
            let first = request.path.ends_with(&layer) && counted.fetch_add(1, Ordering::Relaxed) == 0;
            if first { reply.sending(Sending::CutAfter(1 << 20)) } else { reply }
        });
        assert_eq!(daemon.client.pull("bad.test/app:1").await, written.config);
        assert!(breaks.load(Ordering::Relaxed) > 1, "the layer was asked for again");
    });
}

#[test]
fn redirects_are_followed_without_the_password() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (folder, _, written) = layout_of(&busybox::image());
        let elsewhere = scripted::start(Content::of(folder.path()), |_, reply| reply);
        let target = format!("http://{}", elsewhere.address());
        let _server = serve(daemon, folder.path(), move |request, reply| {
            if !request.headers.contains_key("authorization") {
                return Reply::status(401).header("www-authenticate", "Basic realm=\"bad\"");
            }
            if request.path.contains("/blobs/") {
                return Reply::status(307).header("location", &format!("{target}{}", request.path));
            }
            reply
        });
        let auth = v1::AuthConfig {
            username: "user".to_owned(),
            password: "secret".to_owned(),
            ..Default::default()
        };
        let pulled =
            daemon.client.try_pull("bad.test/app:1", Some(auth)).await.expect("redirects are followed");
        assert_eq!(pulled.into_inner().image_ref, written.config);
        let requests = elsewhere.requests();
        assert!(!requests.is_empty(), "the blobs came from elsewhere");
        for request in requests {
            assert!(!request.headers.contains_key("authorization"), "the password went along: {request:?}");
        }
    });
}

#[test]
fn redirects_in_a_circle_and_to_files_are_refused() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (folder, _, written) = layout_of(&busybox::image());
        for (case, location) in [("a circle", None), ("a file", Some("file:///etc/passwd"))] {
            let _server = serve(daemon, folder.path(), move |request, reply| {
                if request.path.contains("/blobs/") {
                    Reply::status(307).header("location", location.unwrap_or(&request.path))
                } else {
                    reply
                }
            });
            let status = refusal(case, daemon.client.try_pull("bad.test/app:1", None).await);
            assert!(status.message().contains("redirect"), "{case}: {}", status.message());
            assert!(daemon.client.list_images().await.is_empty(), "{case}");
        }
        mends(daemon, folder.path(), &written).await;
    });
}

/// What a hostile layer may try; `%` stands for a folder of the host, by absolute path.
fn attacks(outside: &str) -> Vec<(&'static str, Tar)> {
    let up = format!("{}{outside}", "../".repeat(40));
    vec![
        ("a file above the layer", Tar::new().file(&format!("{up}/made"), 0o644, "x")),
        ("a file by absolute path", Tar::new().file(&format!("{outside}/made"), 0o644, "x")),
        ("a file through an absolute link", Tar::new().symlink("l", outside).file("l/made", 0o644, "x")),
        ("a file through a relative link", Tar::new().symlink("l", &up).file("l/made", 0o644, "x")),
        (
            "a folder over a link",
            Tar::new().symlink("l", outside).dir("l/", 0o777).file("l/made", 0o644, "x"),
        ),
        (
            "a file over a link to a file",
            Tar::new().symlink("l", &format!("{outside}/canary")).file("l", 0o644, "x"),
        ),
        ("a hard link to a host file", Tar::new().hardlink("h", &format!("{outside}/canary"))),
        ("a hard link upwards", Tar::new().hardlink("h", &format!("{up}/canary")).file("h", 0o644, "x")),
        (
            "a hard link through a link, then written",
            Tar::new().symlink("l", outside).hardlink("h", "l/canary").file("h", 0o644, "x"),
        ),
        (
            "a mode through a link",
            Tar::new().symlink("l", &format!("{outside}/canary")).entry(&Entry::new(
                "l",
                Kind::File(b""),
                0o777,
            )),
        ),
        ("a whiteout above the layer", Tar::new().file(&format!("{up}/.wh.canary"), 0o644, "")),
        ("a whiteout through a link", Tar::new().symlink("l", outside).file("l/.wh.canary", 0o644, "")),
        ("an opaque mark through a link", Tar::new().symlink("l", outside).file("l/.wh..wh..opq", 0o644, "")),
        ("a whiteout of the parent", Tar::new().file("d/.wh...", 0o644, "").file("d/.wh..", 0o644, "")),
        (
            "a device through a link",
            Tar::new().symlink("l", outside).entry(&Entry::new("l/made", Kind::Char(1, 3), 0o666)),
        ),
        (
            "attributes through a link",
            Tar::new().symlink("l", &format!("{outside}/canary")).entry(
                &Entry::new("l", Kind::Symlink(outside), 0o777).xattr("trusted.overlay.redirect", b"/x"),
            ),
        ),
        (
            "an overlay mark of its own",
            Tar::new().entry(&Entry::new("d/", Kind::Dir, 0o755).xattr("trusted.overlay.opaque", b"y")),
        ),
        (
            "a name with a zero byte",
            Tar::new().entry(
                &Entry::new("x", Kind::File(b""), 0o644).pax("path", format!("{outside}/made\0x").as_bytes()),
            ),
        ),
        ("two files in one path", Tar::new().file("f", 0o644, "x").file("f/made", 0o644, "x")),
    ]
}

#[test]
fn nothing_is_written_outside_the_layer() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let outside = tempfile::tempdir().unwrap();
        let canary = outside.path().join("canary");
        std::fs::write(&canary, "untouched").unwrap();
        let look = || {
            use std::os::unix::fs::MetadataExt as _;
            let names = std::fs::read_dir(outside.path()).unwrap().count();
            let meta = canary.metadata().unwrap();
            (names, std::fs::read(&canary).unwrap(), meta.mode(), meta.uid(), meta.nlink())
        };
        let before = look();
        let pod = daemon.client.run_pod(daemon.host_pod("hostile")).await;
        for (number, (case, tar)) in attacks(&outside.path().to_string_lossy()).into_iter().enumerate() {
            let (folder, ..) = layout_of(&busybox::image().layer(tar.finish()));
            let server = serve(daemon, folder.path(), |_, reply| reply);
            match daemon.client.try_pull("bad.test/app:1", None).await {
                // Some of it is an ordinary image with odd names in it, which must then run confined.
                Ok(_) => {
                    let config = container(&format!("c{number}"), "bad.test/app:1", &["true"]);
                    let status = daemon.client.run_to_end(&pod, config).await;
                    assert_eq!(status.exit_code, 0, "{case}: an accepted image runs: {status:?}");
                    daemon.client.remove(&status.id).await;
                    daemon.client.remove_image("bad.test/app:1").await;
                }
                Err(status) => {
                    let code = status.code();
                    assert_eq!(code, Code::FailedPrecondition, "{case}: {}", status.message());
                    assert!(daemon.client.list_images().await.is_empty(), "{case} left an image");
                }
            }
            assert_eq!(look(), before, "{case} reached the host");
            drop(server);
        }
    });
}

#[test]
fn a_full_disk_refuses_the_image_and_takes_the_next() {
    let disk = Tmpfs::mount("size=24m");
    let options = Options { root: Some(disk.path().join("root")), ..Options::default() };
    scenario::run_without_image(options, async |daemon| {
        let zeroes = Tar::new().file("big", 0o644, vec![0; 40 << 20]).finish();
        let (folder, ..) = layout_of(&busybox::image().layer(zeroes));
        let _server = serve(daemon, folder.path(), |_, reply| reply);
        for _ in 0..2 {
            refused(daemon, "a full disk", Code::ResourceExhausted, &["bad.test/app"]).await;
        }
        let (folder, _, written) = layout_of(&busybox::image());
        mends(daemon, folder.path(), &written).await;
        let _server = serve(daemon, folder.path(), |_, reply| reply);

        // Full, killed and started again: it serves, and has room again once there is.
        let ballast = disk.path().join("ballast");
        std::fs::write(&ballast, vec![1; 30 << 20]).expect_err("the disk is full now");
        daemon.kill();
        daemon.spawn().await;
        refused(daemon, "a disk filled by others", Code::ResourceExhausted, &[]).await;
        std::fs::remove_file(&ballast).unwrap();
        mends(daemon, folder.path(), &written).await;
    });
}

#[test]
fn a_daemon_killed_in_a_pull_knows_no_half_image() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (folder, _, written) = layout_of(&Image::new().layer_as(long_layer(), Compression::None));
        let reached = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&reached);
        let server = serve(daemon, folder.path(), move |request, reply| {
            if request.path.contains("/blobs/") && reply.body.len() > 1 << 20 {
                mark.store(true, Ordering::Relaxed);
                return reply.sending(Sending::StallAfter(2 << 20));
            }
            reply
        });
        let client = daemon.client.clone();
        let pull = tokio::spawn(async move { client.try_pull("bad.test/app:1", None).await });
        carpel_e2e::client::eventually("the layer is on its way", async || {
            reached.load(Ordering::Relaxed).then_some(())
        })
        .await;
        daemon.kill();
        assert!(pull.await.unwrap().is_err(), "the caller hears that the daemon went");
        drop(server);
        daemon.spawn().await;
        assert!(daemon.client.list_images().await.is_empty());
        mends(daemon, folder.path(), &written).await;
    });
}

#[test]
fn an_unknown_authority_behind_a_mirror_does_not_stop_the_next() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (folder, layout, written) = layout_of(&busybox::image());
        let closed = Registry::https(carpel_e2e::registry::Access::Open);
        let open = Registry::open();
        for registry in [&closed, &open] {
            registry.copy(layout.folder(), "1", "app:1", &["--preserve-digests"]);
        }
        let entry = |url: &str| format!("[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        daemon.hosts_toml("bad.test", &format!("{}{}", entry(&closed.url()), entry(&open.url())));
        assert_eq!(daemon.client.pull("bad.test/app:1").await, written.config);
        drop(folder);
    });
}
