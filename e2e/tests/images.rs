//! Images that are as they should be: pulled from a real registry, imported, listed, removed.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use carpel_e2e::client::{code, image_spec};
use carpel_e2e::config::container;
use carpel_e2e::crictl::CommandLine;
use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::layout::{Compression, Image, Layout, Written};
use carpel_e2e::registry::{Access, PASSWORD, Registry, USER};
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_e2e::tar::Tar;
use carpel_e2e::{busybox, log, scripted};
use carpel_proto::v1;
use tonic::Code;

/// A small image that says its name.
fn small(name: &str) -> Image {
    busybox::image().layer(Tar::new().file("name", 0o644, name).finish())
}

/// A layout with one image, `app:1`.
fn layout_of(image: &Image) -> (tempfile::TempDir, Layout, Written) {
    let folder = tempfile::tempdir().unwrap();
    let mut layout = Layout::create(folder.path());
    let written = layout.add("app:1", image);
    (folder, layout, written)
}

/// Runs `cat` of a file of an image and returns what it printed.
async fn cat(daemon: &Daemon, image: &str, file: &str) -> String {
    let pod = daemon.client.run_pod(daemon.host_pod("cat")).await;
    let status = daemon.client.run_to_end(&pod, container("cat", image, &["cat", file])).await;
    assert_eq!(status.exit_code, 0, "cat {file}: {status:?}");
    let text = log::text(&log::read(status.log_path.as_ref()), "stdout");
    // The next pod of this name logs to the same file.
    std::fs::remove_file(&status.log_path).unwrap();
    daemon.client.stop_pod(&pod.id).await;
    daemon.client.remove_pod(&pod.id).await;
    text
}

#[test]
fn a_tag_and_a_digest_name_the_same_image() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (_folder, layout, written) = layout_of(&small("app").config("User", "1000:1000"));
        let registry = Registry::open();
        registry.push(&layout);
        daemon.trust(&registry);

        let by_tag = registry.reference("app:1");
        let by_digest = registry.reference(&format!("app@{}", written.manifest));
        assert_eq!(
            daemon.client.pull(&by_tag).await,
            written.config,
            "the pull's reference is the image's id"
        );
        let image = daemon.client.image(&by_tag).await.expect("the tag is known");
        assert_eq!(image.id, written.config);
        assert_eq!(image.repo_tags, std::slice::from_ref(&by_tag));
        assert_eq!(image.repo_digests, std::slice::from_ref(&by_digest));
        assert_eq!(image.uid, Some(v1::Int64Value { value: 1000 }));
        assert!(image.size > 0);

        assert_eq!(daemon.client.pull(&by_digest).await, written.config);
        for name in [&by_digest, &written.config, &written.config["sha256:".len()..].to_owned()] {
            let found = daemon.client.image(name).await;
            assert_eq!(found.map(|image| image.id).as_ref(), Some(&written.config), "by {name}");
        }
        assert_eq!(daemon.client.list_images().await.len(), 1, "one image, however it is named");
        assert_eq!(cat(daemon, &written.config, "/name").await, "app");
    });
}

#[test]
fn docker_schema_2_is_pulled_as_well() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (_folder, layout, _) = layout_of(&small("docker"));
        let registry = Registry::open();
        registry.copy(layout.folder(), "app:1", "app:docker", &["--format=v2s2"]);
        daemon.trust(&registry);
        let reference = registry.reference("app:docker");
        daemon.client.pull(&reference).await;
        assert_eq!(cat(daemon, &reference, "/name").await, "docker");
    });
}

#[test]
fn an_index_gives_the_image_of_this_machine() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let folder = tempfile::tempdir().unwrap();
        let mut layout = Layout::create(folder.path());
        let foreign = Image::new().architecture("s390x").layer(Tar::new().file("name", 0o644, "no").finish());
        let written = layout.add_index("many:1", &[foreign, small("native")]);
        let registry = Registry::open();
        registry.push(&layout);
        daemon.trust(&registry);
        let reference = registry.reference("many:1");
        assert_eq!(daemon.client.pull(&reference).await, written[1].config);
        let image = daemon.client.image(&reference).await.unwrap();
        let index = layout.digest_of("many:1").unwrap();
        assert_eq!(
            image.repo_digests,
            [registry.reference(&format!("many@{index}"))],
            "the digest is the index's"
        );
        assert_eq!(cat(daemon, &reference, "/name").await, "native");
    });
}

#[test]
fn layers_travel_plain_gzipped_and_zstd_compressed() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let mut image = busybox::image();
        for (name, compression) in
            [("plain", Compression::None), ("gzip", Compression::Gzip), ("zstd", Compression::Zstd)]
        {
            let content = format!("{name} ").repeat(50_000);
            image = image.layer_as(Tar::new().file(name, 0o644, content).finish(), compression);
        }
        let (_folder, layout, _) = layout_of(&image);
        let registry = Registry::open();
        registry.push(&layout);
        daemon.trust(&registry);
        let reference = registry.reference("app:1");
        daemon.client.pull(&reference).await;
        for name in ["plain", "gzip", "zstd"] {
            let text = cat(daemon, &reference, &format!("/{name}")).await;
            assert_eq!(text, format!("{name} ").repeat(50_000), "{name}");
        }
    });
}

#[test]
fn tls_holds_with_the_private_authority_and_not_without() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (_folder, layout, written) = layout_of(&small("tls"));
        let registry = Registry::https(Access::Open);
        registry.push(&layout);
        let reference = registry.reference("app:1");

        let url = registry.url();
        daemon.hosts_toml(&registry.host(), &format!("server = \"{url}\"\n"));
        let status =
            daemon.client.try_pull(&reference, None).await.expect_err("an unknown authority is refused");
        assert!(status.message().contains("certificate"), "says why: {}", status.message());
        assert!(daemon.client.list_images().await.is_empty());

        daemon.trust(&registry);
        assert_eq!(daemon.client.pull(&reference).await, written.config);
    });
}

#[test]
fn closed_registries_take_the_right_credentials_only() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (_folder, layout, written) = layout_of(&small("closed"));
        let password = |password: &str| v1::AuthConfig {
            username: USER.to_owned(),
            password: password.to_owned(),
            ..Default::default()
        };
        // What docker's config file holds: both in one.
        let encoded = base64_of(&format!("{USER}:{PASSWORD}"));
        let both = v1::AuthConfig { auth: encoded, ..Default::default() };
        for access in [Access::Basic, Access::Bearer] {
            let registry = Registry::http(access);
            registry.push(&layout);
            daemon.trust(&registry);
            let reference = registry.reference("app:1");
            for auth in [None, Some(password("wrong"))] {
                let refused =
                    code("a pull without the password", daemon.client.try_pull(&reference, auth).await);
                assert_eq!(refused, Code::Unauthenticated, "{access:?}");
                assert!(daemon.client.image(&reference).await.is_none());
            }
            for auth in [password(PASSWORD), both.clone()] {
                let pulled =
                    daemon.client.try_pull(&reference, Some(auth)).await.expect("the password is right");
                assert_eq!(pulled.into_inner().image_ref, written.config, "{access:?}");
                daemon.client.remove_image(&reference).await;
            }
        }
    });
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[test]
fn a_dead_mirror_is_passed_over() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (_folder, layout, written) = layout_of(&small("mirrored"));
        let registry = Registry::open();
        registry.push(&layout);
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let dead = format!("http://{}", free.local_addr().unwrap());
        drop(free);
        let entry = |url: &str| format!("[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        daemon.hosts_toml("upstream.test", &format!("{}{}", entry(&dead), entry(&registry.url())));
        assert_eq!(daemon.client.pull("upstream.test/app:1").await, written.config);
        let image = daemon.client.image("upstream.test/app:1").await.expect("known by the name asked for");
        assert_eq!(image.repo_tags, ["upstream.test/app:1"], "the mirror's own name shows nowhere");
    });
}

#[test]
fn pulls_of_the_same_image_join_and_layers_are_shared() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let folder = tempfile::tempdir().unwrap();
        let mut layout = Layout::create(folder.path());
        let written = layout.add("1", &small("one"));
        layout.add("2", &small("two"));
        let registry = scripted::start(scripted::Content::of(folder.path()), |_, reply| reply);
        daemon.hosts_toml("shared.test", &format!("server = \"http://{}\"\n", registry.address()));

        let pulls: Vec<_> = (0..8)
            .map(|_| {
                let client = daemon.client.clone();
                tokio::spawn(async move { client.pull("shared.test/app:1").await })
            })
            .collect();
        for pull in pulls {
            assert_eq!(pull.await.unwrap(), written.config);
        }
        daemon.client.pull("shared.test/app:2").await;
        for layer in &written.layers[..1] {
            let path = format!("/v2/app/blobs/{layer}");
            let requests = registry.requests();
            let fetched = requests.iter().filter(|request| request.method == "GET" && request.path == path);
            assert_eq!(fetched.count(), 1, "the layer both images have is fetched once");
        }
    });
}

#[test]
fn absence_is_an_answer_and_removal_repeats() {
    scenario::run_without_image(Options::default(), async |daemon| {
        assert!(daemon.client.image("images.test/no/such:1").await.is_none());
        daemon.client.remove_image("images.test/no/such:1").await;
        let absent = format!("sha256:{}", "0".repeat(64));
        assert!(daemon.client.image(&absent).await.is_none());
        daemon.client.remove_image(&absent).await;
        let request = v1::ListImagesRequest {
            filter: Some(v1::ImageFilter { image: Some(image_spec("images.test/no/such:1")) }),
        };
        let images = daemon.client.images.clone().list_images(request).await.unwrap().into_inner().images;
        assert!(images.is_empty());
    });
}

#[test]
fn one_image_under_three_names_goes_with_any_of_them() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (_folder, layout, written) = layout_of(&small("many names"));
        let registry = Registry::open();
        let names: Vec<String> = (1..=3).map(|tag| registry.reference(&format!("app:{tag}"))).collect();
        for tag in 1..=3 {
            registry.copy(layout.folder(), "app:1", &format!("app:{tag}"), &["--preserve-digests"]);
        }
        daemon.trust(&registry);
        for name in &names {
            daemon.client.pull(name).await;
        }
        let mut tags = daemon.client.image(&written.config).await.unwrap().repo_tags;
        tags.sort();
        assert_eq!(tags, names);
        daemon.client.remove_image(&names[1]).await;
        assert!(daemon.client.list_images().await.is_empty(), "CRI: removing a tag removes the image");
    });
}

#[test]
fn an_image_in_use_can_be_removed_and_its_container_runs_on() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("user")).await;
        let id = daemon.client.launch(&pod, container("user", BUSYBOX, &["sleep", "1000"])).await;
        daemon.client.remove_image(BUSYBOX).await;
        assert!(daemon.client.image(BUSYBOX).await.is_none());
        assert_eq!(daemon.client.sh(&id, "cat /etc/passwd | wc -l").await, "6");
        daemon.client.pull(BUSYBOX).await;
        let second = daemon.client.launch(&pod, container("second", BUSYBOX, &["sleep", "1000"])).await;
        assert_eq!(daemon.client.sh(&second, "echo here").await, "here");
    });
}

#[test]
fn the_image_filesystem_is_measured() {
    scenario::run(Options::default(), async |daemon| {
        let info = async || {
            let request = v1::ImageFsInfoRequest {};
            daemon.client.images.clone().image_fs_info(request).await.unwrap().into_inner()
        };
        let before = info().await.image_filesystems.remove(0);
        let mountpoint = before.fs_id.clone().unwrap_or_default().mountpoint;
        assert!(mountpoint.starts_with(&*daemon.root().to_string_lossy()), "{mountpoint} is in the root");
        assert!(before.timestamp > 0);
        let used = |usage: &v1::FilesystemUsage| usage.used_bytes.unwrap_or_default().value;
        assert!(used(&before) > 1 << 20, "busybox takes more than a megabyte: {before:?}");
        daemon.client.remove_image(BUSYBOX).await;
        let after = info().await.image_filesystems.remove(0);
        assert!(used(&after) < used(&before), "removal gives space back: {before:?} {after:?}");
    });
}

#[test]
fn archives_are_imported() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (folder, layout, written) = layout_of(&small("archived"));
        let carpel = CommandLine::carpel(&daemon.socket());
        let archive = folder.path().join("oci.tar");
        std::fs::write(&archive, carpel_e2e::tar::gnu_tar(layout.folder(), &["--exclude=./*.tar"])).unwrap();
        carpel.ok(&["import", &archive.to_string_lossy()]);
        assert!(daemon.client.image(&written.config).await.is_some(), "by id: the layout's name is `app:1`");

        let docker = folder.path().join("docker.tar");
        let source = format!("oci:{}:app:1", layout.folder().display());
        let destination = format!("docker-archive:{}:example.test/imported:1", docker.display());
        carpel_e2e::kernel::run("skopeo", &["--insecure-policy", "copy", "-q", &source, &destination]);
        carpel.ok(&["import", &docker.to_string_lossy()]);
        assert_eq!(cat(daemon, "example.test/imported:1", "/name").await, "archived");

        let broken = folder.path().join("broken.tar");
        std::fs::write(&broken, Tar::new().file("manifest.json", 0o644, "[{]").finish()).unwrap();
        let output = carpel.output(&["import", &broken.to_string_lossy()]);
        assert!(!output.status.success(), "a broken archive is refused");
        assert!(String::from_utf8_lossy(&output.stderr).contains("manifest.json"), "{output:?}");
    });
}

#[test]
fn images_outlive_the_daemon() {
    scenario::run(Options::default(), async |daemon| {
        let before = daemon.client.list_images().await;
        daemon.kill();
        daemon.spawn().await;
        assert_eq!(daemon.client.list_images().await, before);
        assert!(cat(daemon, BUSYBOX, "/etc/passwd").await.contains("alice"));
    });
}
