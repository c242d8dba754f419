//! What an image calls its volumes: folders of a writable root, parts of a read-only one that stay writable.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;

use carpel_oci_runtime::report::Stage;
use carpel_shim_api::plan::mount_plan::Source;
use carpel_shim_api::plan::{ContainerPlan, MountPlan, RootfsSource};

use crate::harness::{ATTR_NOEXEC, Case, Shim, bind};

pub(crate) const CASES: &[Case] = &[
    ("volumes: the image's content, mode and owner", filled),
    ("volumes: of one container alone", not_shared),
    ("volumes: folders that are absent", absent_folders),
    ("volumes: behind symbolic links", behind_links),
    ("volumes: attributes", attributes),
    ("volumes: what cannot be one", refused),
    ("volumes: folders of a writable root", writable),
];

/// A part of the root onto itself.
fn volume(path: &str) -> MountPlan {
    MountPlan {
        destination: path.to_owned(),
        source: Some(Source::Rootfs(RootfsSource { path: path.to_owned() })),
        ..MountPlan::default()
    }
}

/// Before all other mounts, as the daemon orders them.
fn with_volumes(mut plan: ContainerPlan, paths: &[&str]) -> ContainerPlan {
    plan.rootfs.readonly = true;
    plan.mounts.splice(0..0, paths.iter().copied().map(volume));
    plan
}

fn image(shim: &Shim) -> PathBuf {
    let layer = shim.layer("image");
    fs::create_dir_all(layer.join("data/sub")).expect("mkdir");
    fs::write(layer.join("data/seed"), "seed\n").expect("write");
    chown(layer.join("data/seed"), Some(5), Some(6)).expect("chown");
    chown(layer.join("data"), Some(7), Some(8)).expect("chown");
    // After the owner, whose change takes the set-group-ID bit away.
    fs::set_permissions(layer.join("data"), fs::Permissions::from_mode(0o2750)).expect("chmod");
    layer
}

pub(crate) fn filled(shim: &mut Shim) {
    shim.enter(|_| {});
    let layer = image(shim);
    let script = "cat /data/seed; stat -c '%a %u:%g' /data /data/seed; echo more >> /data/seed; \
        echo new > /data/sub/new; cat /data/seed /data/sub/new; rm /data/seed; ls /data; \
        echo x > /x; echo x > /etc/passwd; chmod 700 /bin";
    let plan = with_volumes(shim.plan_on(&layer, script), &["/data"]);
    let outcome = shim.run(&plan);
    assert_eq!(outcome.out, "seed\n2750 7:8\n644 5:6\nseed\nmore\nnew\nsub\n", "{outcome:?}");
    assert_eq!(outcome.err.matches("Read-only file system").count(), 3, "{outcome:?}");
    assert_eq!(fs::read_to_string(layer.join("data/seed")).expect("the layer is as it was"), "seed\n");
    let upper = PathBuf::from(&plan.rootfs.upper);
    assert_eq!(fs::read_to_string(upper.join("data/sub/new")).expect("in the writable layer"), "new\n");
}

fn not_shared(shim: &mut Shim) {
    shim.enter(|_| {});
    let layer = image(shim);
    let one = shim.plan_on(&layer, "echo mine > /data/mine; echo written; sleep 100");
    let one = shim.start(&with_volumes(one, &["/data"])).expect("runs");
    assert_eq!(one.line(), "written");
    let other = shim.plan_on(&layer, "ls /data");
    assert_eq!(shim.run(&with_volumes(other, &["/data"])).good(), "seed\nsub\n");
    assert_eq!(one.kill(), 137);
}

fn absent_folders(shim: &mut Shim) {
    shim.enter(|_| {});
    let script = "stat -c '%a %u:%g' /fresh/er; echo x > /fresh/er/x; cat /fresh/er/x; echo y > /fresh/y";
    let plan = with_volumes(shim.plan(script), &["/fresh/er"]);
    let outcome = shim.run(&plan);
    assert_eq!(outcome.out, "755 0:0\nx\n", "{outcome:?}");
    assert!(outcome.err.contains("/fresh/y: Read-only file system"), "{outcome:?}");
}

pub(crate) fn behind_links(shim: &mut Shim) {
    shim.enter(|_| {});
    let layer = image(shim);
    fs::create_dir(layer.join("run")).expect("mkdir");
    for (link, target) in [("var-run", "/run"), ("outside", "../../../../tmp"), ("kernel", "/proc/sys")] {
        symlink(target, layer.join(link)).expect("link");
    }
    let of_client = shim.dir.join("of-client");
    fs::create_dir(&of_client).expect("mkdir");
    fs::write(of_client.join("token"), "token\n").expect("write");
    // A client's mount inside a volume is seen, /proc is what it always is, and the host far away.
    let script = "cat /var-run/secrets/token; echo x > /run/x; echo x > /outside/x; cat /tmp/x; \
        echo x > /proc/sys/kernel/domainname; test -f /proc/sys/kernel/pid_max && echo proc";
    let mut plan = with_volumes(shim.plan_on(&layer, script), &["/kernel", "/outside", "/var-run"]);
    plan.mounts.push(bind(&of_client, "/run/secrets"));
    let outcome = shim.run(&plan);
    assert_eq!(outcome.out, "token\nx\nproc\n", "{outcome:?}");
    assert_eq!(outcome.err.matches("Read-only file system").count(), 1, "{outcome:?}");
    assert!(PathBuf::from(&plan.rootfs.upper).join("tmp/x").is_file());
}

fn attributes(shim: &mut Shim) {
    shim.enter(|_| {});
    let layer = image(shim);
    fs::copy("/bin/busybox", layer.join("data/true")).expect("copy");
    for (attributes, status) in [(0, 0), (ATTR_NOEXEC, 126)] {
        let mut plan = with_volumes(shim.plan_on(&layer, "/data/true"), &["/data"]);
        plan.mounts[0].attributes = attributes;
        let outcome = shim.run(&plan);
        assert_eq!(outcome.status, status, "{outcome:?}");
    }
}

fn refused(shim: &mut Shim) {
    shim.enter(|_| {});
    let plan = with_volumes(shim.plan("true"), &["/etc/passwd/below"]);
    let failure = shim.refused(&plan);
    assert_eq!((failure.stage, failure.errno), (Stage::Mount, Some(rustix::io::Errno::NOTDIR)));
    assert!(failure.text.contains("bind /etc/passwd/below"), "{failure}");
    let layer = shim.layer("loop");
    symlink("/", layer.join("all")).expect("link");
    let plan = with_volumes(shim.plan_on(&layer, "true"), &["/all"]);
    let failure = shim.refused(&plan);
    assert_eq!(failure.stage, Stage::Mount);
    assert!(failure.text.contains("/all leads to the container's root itself"), "{failure}");
}

fn writable(shim: &mut Shim) {
    shim.enter(|_| {});
    let layer = image(shim);
    fs::create_dir(layer.join("run")).expect("mkdir");
    for (link, target) in
        [("var-run", "/run"), ("outside", "../../../../tmp"), ("all", "/"), ("self", "self")]
    {
        symlink(target, layer.join(link)).expect("link");
    }
    let script = "cat /data/seed; stat -c '%a %u:%g' /data /fresh/er /tmp/made /run/made; mv /data /elsewhere && \
        grep -cE ' (/data|/fresh|/tmp|/run|/all)' /proc/self/mounts";
    let mut plan = shim.plan_on(&layer, script);
    let paths = ["/data", "/fresh/er", "/outside/made", "/var-run/made", "/all", "/etc/passwd"];
    plan.rootfs.folders = paths.map(str::to_owned).to_vec();
    let outcome = shim.run(&plan);
    assert_eq!(outcome.out, "seed\n2750 7:8\n755 0:0\n755 0:0\n755 0:0\n0\n", "{outcome:?}");
    let upper = PathBuf::from(&plan.rootfs.upper);
    assert!(upper.join("tmp/made").is_dir() && !PathBuf::from("/tmp/made").exists());

    for (path, errno) in [
        ("/etc/passwd/below", rustix::io::Errno::NOTDIR),
        ("/self/below", rustix::io::Errno::LOOP),
        (&format!("/{}", "x".repeat(256)), rustix::io::Errno::NAMETOOLONG),
    ] {
        let mut plan = shim.plan_on(&layer, "true");
        plan.rootfs.folders = vec![path.to_owned()];
        let failure = shim.refused(&plan);
        assert_eq!((failure.stage, failure.errno), (Stage::Rootfs, Some(errno)), "{failure}");
        assert!(failure.text.contains(&format!("make {path} in the root")), "{failure}");
    }
}
