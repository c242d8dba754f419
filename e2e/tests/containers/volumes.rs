//! What an image calls its volumes.

use carpel_e2e::client::refusal;
use carpel_e2e::config::{bind, container, security};
use carpel_e2e::daemon::Options;
use carpel_e2e::tar::{Entry, Kind, Tar};
use carpel_e2e::{busybox, kernel, scenario};

use super::pulled;

#[test]
fn the_images_volumes_are_writable_and_filled() {
    scenario::run(Options::default(), async |daemon| {
        let tar = Tar::new()
            .entry(&Entry::new("data/", Kind::Dir, 0o2750).owner(7, 8))
            .entry(&Entry::new("data/seed", Kind::File(b"seed"), 0o640).owner(5, 6))
            .symlink("var-run", "../../../../run");
        let image = busybox::image().layer(tar.finish());
        let volumes =
            serde_json::json!({ "/data": {}, "/fresh/er": {}, "named": {}, "/var-run/made": {}, "/tmp": {} });
        let image = pulled(daemon, "volumes", &image.config("Volumes", volumes)).await;
        let pod = daemon.client.run_pod(daemon.host_pod("volumes")).await;
        for readonly in [false, true] {
            let mut config =
                container(if readonly { "readonly" } else { "writable" }, &image, &["sleep", "1000"]);
            security(&mut config).readonly_rootfs = readonly;
            config.mounts = vec![bind("/usr".as_ref(), "/tmp")];
            let id = daemon.client.launch(&pod, config).await;
            let script = "cat /data/seed; stat -c '/%a/%u:%g' /data /data/seed /fresh/er /named /run/made";
            let seen = daemon.client.sh(&id, script).await;
            assert_eq!(seen, "seed/2750/7:8\n/640/5:6\n/755/0:0\n/755/0:0\n/755/0:0");
            let script =
                "echo x > /data/x; echo y > /fresh/er/y; echo z >> /data/seed; rm /data/x; echo n > /named/n";
            daemon.client.sh(&id, script).await;
            assert_eq!(daemon.client.sh(&id, "cat /data/* /fresh/er/* /named/n").await, "seedz\ny\nn");
            let code = daemon.client.exec(&id, &["touch", "/elsewhere"]).await.code;
            assert_eq!(code != 0, readonly, "the rest of the root is what was asked for");
            // The client's mount is what it was.
            daemon.client.sh(&id, "test -d /tmp/bin").await;

            // In the writable layer: counted with it, and removed.
            let layer = daemon.root().join("containers").join(&id);
            let counted = kernel::run("find", &[&layer.to_string_lossy(), "-path", "*/fresh/er/y"]);
            assert!(!counted.stdout.is_empty(), "{counted:?}");
            daemon.client.stop(&id, 0).await;
            daemon.client.remove(&id).await;
            assert!(!layer.exists());
        }
    });
}

#[test]
fn volumes_that_no_image_should_have_are_refused() {
    scenario::run(Options::default(), async |daemon| {
        let tar = Tar::new().symlink("all", "/").symlink("self", "self").finish();
        let pod = daemon.client.run_pod(daemon.host_pod("volumes")).await;
        let many: Vec<String> = (0..129).map(|number| format!("/{number}")).collect();
        let both = [false, true];
        for (name, volumes, readonly, named) in [
            ("many", &many[..], &both[..], "129"),
            ("climbing", &["/a/../../../etc".to_owned()], &both, "/a/../../../etc"),
            ("root", &["/".to_owned()], &both, "image volume"),
            ("file", &["/bin/busybox/x".to_owned()], &both, "/bin/busybox/x"),
            ("loop", &["/self/x".to_owned()], &both, "/self/x"),
            // All of a read-only root would be writable.
            ("whole", &["/all".to_owned()], &both[1..], "/all"),
        ] {
            let volumes: serde_json::Map<_, _> =
                volumes.iter().map(|path| (path.clone(), serde_json::json!({}))).collect();
            let image = busybox::image().layer(tar.clone()).config("Volumes", volumes);
            let image = pulled(daemon, name, &image).await;
            for readonly in readonly {
                let mut config = container(name, &image, &["true"]);
                security(&mut config).readonly_rootfs = *readonly;
                let status = refusal(name, daemon.client.try_create(&pod, config).await);
                assert!(status.message().contains(named), "{name}: {}", status.message());
                assert!(daemon.client.list_containers(None).await.is_empty(), "{name} left a container");
            }
        }
    });
}
