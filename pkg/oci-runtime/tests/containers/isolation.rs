//! What does and does not travel between host and container.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use carpel_oci_runtime::report::Stage;
use carpel_shim_api::plan::user_plan::User as WantedUser;
use carpel_shim_api::plan::{MountPlan, Propagation};
use carpel_sys::mount::{AttrChange, PropagationType, set_attr};
use carpel_sys::namespace::{Kind, unshare};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsmount,
    fsopen, move_mount, unmount,
};

use crate::harness::{ATTR_RDONLY, Case, Shim, bind, mounts};

pub(crate) const CASES: &[Case] = &[
    ("isolation: propagation", propagation),
    ("isolation: propagation is checked", propagation_is_checked),
    ("isolation: the host's mount table does not grow", mount_table),
    ("isolation: read-only with everything below", recursive_read_only),
    ("isolation: session keyring", keyring),
];

pub(crate) fn mount_tmpfs(target: &Path, shared: bool) {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).expect("fsopen");
    fsconfig_create(context.as_fd()).expect("make it");
    let tmpfs =
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).expect("fsmount");
    fs::create_dir_all(target).expect("mkdir");
    move_mount(&tmpfs, "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).expect("mount");
    if shared {
        let change = AttrChange { propagation: Some(PropagationType::Shared), ..AttrChange::default() };
        set_attr(tmpfs.as_fd(), change).expect("share");
    }
}

/// A mount namespace that plays the host's, so that the real one is left alone.
pub(crate) fn own_host() {
    unshare(&[Kind::Mount]).expect("unshare");
    let root = File::open("/").expect("open");
    let private =
        AttrChange { propagation: Some(PropagationType::Private), recursive: true, ..AttrChange::default() };
    set_attr(root.as_fd(), private).expect("make all private");
}

fn with(mount: MountPlan, propagation: Propagation) -> MountPlan {
    MountPlan { propagation: propagation as i32, ..mount }
}

pub(crate) fn propagation(shim: &mut Shim) {
    own_host();
    let volume = shim.dir.join("volume");
    mount_tmpfs(&volume, true);
    shim.enter(|_| {});
    fs::create_dir(volume.join("before")).expect("mkdir");
    mount_tmpfs(&volume.join("before"), false);
    fs::write(volume.join("before/file"), "").expect("write");
    let script = "echo up; while [ ! -e /both/go ]; do sleep 0.02; done; \
        for d in private slave both; do echo $d $(ls /$d/later /$d/before); done; \
        mount -t tmpfs none /both/inside; touch /both/inside/file; \
        mount -t tmpfs none /slave/own; touch /slave/own/file; \
        echo mounted; while [ -e /both/go ]; do sleep 0.02; done; for d in private slave both; do echo $d $(ls /$d/before); done";
    let mut plan = shim.plan(script);
    plan.mounts.push(with(bind(&volume, "/private"), Propagation::Private));
    plan.mounts.push(with(bind(&volume, "/slave"), Propagation::Slave));
    plan.mounts.push(with(bind(&volume, "/both"), Propagation::Shared));
    let all = &mut plan.process.capabilities;
    (all.bounding, all.effective, all.permitted) = (u64::MAX, u64::MAX, u64::MAX);
    for dir in ["later", "inside", "own"] {
        fs::create_dir(volume.join(dir)).expect("mkdir");
    }
    let running = shim.start(&plan).expect("runs");
    assert_eq!(running.line(), "up");
    mount_tmpfs(&volume.join("later"), false);
    fs::write(volume.join("later/new"), "").expect("write");
    fs::write(volume.join("go"), "").expect("write");
    let lines: Vec<String> = (0..4).map(|_| running.line()).collect();
    let seen = "/before: file /later: new";
    assert_eq!(lines[0].replace("/private", ""), "private /before: file /later:", "{lines:?}");
    assert_eq!(lines[1].replace("/slave", ""), format!("slave {seen}"), "{lines:?}");
    assert_eq!(lines[2].replace("/both", ""), format!("both {seen}"), "{lines:?}");
    assert_eq!(lines[3], "mounted");
    assert!(volume.join("inside/file").exists(), "a mount of the container's comes to the host");
    assert!(!volume.join("own/file").exists(), "but not from a slave");
    // Unmounting on the host takes it away where it came from there.
    unmount(volume.join("before"), UnmountFlags::empty()).expect("unmount");
    fs::remove_file(volume.join("go")).expect("remove");
    assert_eq!(running.finish().good(), "private file\nslave\nboth\n");
    assert!(volume.join("inside/file").exists(), "a mount on the host outlives the container");
}

fn propagation_is_checked(shim: &mut Shim) {
    own_host();
    let volume = shim.dir.join("volume");
    mount_tmpfs(&volume, false);
    shim.enter(|_| {});
    for propagation in [Propagation::Shared, Propagation::Slave] {
        let mut plan = shim.plan("true");
        plan.mounts.push(with(bind(&volume, "/data"), propagation));
        let failure = shim.refused(&plan);
        assert_eq!(failure.stage, Stage::Mount);
        assert!(failure.text.contains(&volume.display().to_string()), "{failure}");
    }
}

pub(crate) fn mount_table(shim: &mut Shim) {
    let before = mounts();
    shim.enter(|plan| plan.shared_pid = true);
    let plan = shim.plan("sleep 100");
    let running = shim.start(&plan).expect("runs");
    assert!(mounts().is_subset(&before));
    running.kill();
    assert!(mounts().is_subset(&before));
}

pub(crate) fn recursive_read_only(shim: &mut Shim) {
    own_host();
    let volume = shim.dir.join("volume");
    mount_tmpfs(&volume, false);
    mount_tmpfs(&volume.join("below"), false);
    shim.enter(|_| {});
    let mut plan = shim.plan("for f in /all/x /all/below/x /top/x /top/below/x; do echo x > $f; done; true");
    plan.mounts.push(MountPlan { attributes_recursive: ATTR_RDONLY, ..bind(&volume, "/all") });
    plan.mounts.push(MountPlan { attributes: ATTR_RDONLY, ..bind(&volume, "/top") });
    let outcome = shim.run(&plan);
    for refused in ["/all/x", "/all/below/x", "/top/x"] {
        assert!(outcome.err.contains(&format!("{refused}: Read-only file system")), "{outcome:?}");
    }
    assert!(!outcome.err.contains("/top/below/x"), "{outcome:?}");
}

fn keyring(shim: &mut Shim) {
    // One who is not root sees of root's anonymous session keyrings only that which is its own
    // (keyrings(7)).
    let script = "grep -o '^[0-9a-f]* .* _ses: .*' /proc/keys | cut -d' ' -f1; echo end; sleep 100";
    let unmasked = |shim: &mut Shim| {
        let mut plan = shim.plan(script);
        plan.masked_paths.clear();
        plan.process.user.user = Some(WantedUser::Uid(4242));
        plan
    };
    shim.enter(|_| {});
    let (first, second) = (unmasked(shim), unmasked(shim));
    let (first, second) = (shim.start(&first).expect("runs"), shim.start(&second).expect("runs"));
    let keys: Vec<String> = [&first, &second].map(|running| running.line()).to_vec();
    assert!(keys.iter().all(|key| key.len() == 8), "{keys:?}");
    assert_ne!(keys[0], keys[1]);
    let mut exec = crate::harness::shell(script.trim_end_matches("sleep 100"));
    exec.user.user = Some(WantedUser::Uid(4242));
    let out = shim.exec(&first, &exec).expect("runs").good();
    assert!(!out.contains(&keys[0]) && out.len() == "01234567\nend\n".len(), "{out}");
    first.kill();
    second.kill();
}
