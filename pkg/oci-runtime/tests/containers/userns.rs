//! Containers of a pod with a user namespace of its own.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use carpel_oci_runtime::report::Stage;
use carpel_shim_api::plan::mount_plan::Source;
use carpel_shim_api::plan::user_plan::User as WantedUser;
use carpel_shim_api::plan::{DevicePlan, LayersSource, MountPlan, PidNamespace, Rlimit};
use rustix::io::Errno;

use crate::harness::{ATTR_RDONLY, Case, Running, Shim, bind, shell, wait_status};
use crate::{exec, isolation, pods, volumes};

/// What the containers' root is on the host.
const ROOT: u32 = 524_288;

pub(crate) const CASES: &[Case] = &[
    ("userns: ids on both sides", ids),
    ("userns: the pod's namespaces are owned by it", owner),
    ("userns: the image, /dev and the pod's shm are the container's", ownership),
    ("userns: capabilities reach no further", capabilities),
    ("userns: host files are out of reach", host_files),
    ("userns: an idmapped volume", idmapped),
    ("userns: what cannot be idmapped", not_idmapped),
    ("userns: image volumes", image_volumes),
    ("userns: users that are not mapped", unmapped_users),
    ("userns: devices", devices),
    ("userns: exec", exec_in_it),
    ("userns: one PID namespace for all", shared_pids),
    ("userns: limits", limits),
    ("userns: two pods on one image", two_pods),
    ("userns: again, propagation", |shim| again(shim, isolation::propagation)),
    ("userns: again, recursively read-only", |shim| again(shim, isolation::recursive_read_only)),
    ("userns: again, mount table", |shim| again(shim, isolation::mount_table)),
    ("userns: again, volumes", |shim| again(shim, volumes::filled)),
    ("userns: again, volumes behind links", |shim| again(shim, volumes::behind_links)),
    ("userns: again, sysctls", |shim| again(shim, pods::sysctls)),
    ("userns: again, exec in all namespaces", |shim| again(shim, exec::namespaces)),
    ("userns: again, exec credentials", |shim| again(shim, exec::credentials)),
    ("userns: again, exec terminal", |shim| again(shim, exec::terminal)),
    ("userns: again, exec descriptors", |shim| again(shim, exec::descriptors)),
];

/// A case that holds without a user namespace holds with one.
fn again(shim: &mut Shim, case: fn(&mut Shim)) {
    shim.own_ids(ROOT);
    case(shim);
}

fn enter(shim: &mut Shim) {
    shim.own_ids(ROOT);
    shim.enter(|_| {});
}

fn sleeper(shim: &mut Shim) -> Running {
    let plan = shim.plan("echo up; sleep 100");
    let running = shim.start(&plan).expect("runs");
    assert_eq!(running.line(), "up");
    running
}

fn status_line(pid: &str, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read");
    let line = status.lines().find(|line| line.starts_with(name)).expect("a line");
    line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}

fn ids(shim: &mut Shim) {
    enter(shim);
    let running = sleeper(shim);
    let pid = running.process.pid.to_string();
    let root = ROOT.to_string();
    assert_eq!(status_line(&pid, "Uid:"), [root.as_str(); 4].join(" "));
    assert_eq!(status_line(&pid, "Gid:"), [root.as_str(); 4].join(" "));
    assert_eq!(status_line(&pid, "Groups:"), root);
    running.kill();
    let mut plan = shim.plan("cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; id -g; id -G; cat /proc/self/setgroups");
    let said = format!(" 0 {ROOT} 65536\n 0 {ROOT} 65536\n0\n0\n0\nallow\n");
    assert_eq!(shim.run(&plan).good(), said);
    plan.process = shell("id -u; id -G; touch /tmp/mine; echo out > /dev/stdout; sleep 100");
    plan.process.user.user = Some(WantedUser::Uid(1000));
    plan.process.user.supplemental_groups = vec![7, 65535];
    plan.rootfs = shim.plan("").rootfs;
    let layer = shim.layer("tmp");
    fs::create_dir(layer.join("tmp")).expect("mkdir");
    fs::set_permissions(layer.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod");
    plan.rootfs.lowers.insert(0, layer.display().to_string());
    let running = shim.start(&plan).expect("runs");
    let lines: Vec<String> = (0..3).map(|_| running.line()).collect();
    assert_eq!(lines, ["1000", "1000 7 65535", "out"]);
    let mine = fs::metadata(Path::new(&plan.rootfs.upper).join("tmp/mine")).expect("in the upper layer");
    assert_eq!((mine.uid(), mine.gid()), (ROOT + 1000, ROOT + 1000));
    assert_eq!(running.kill(), 137);
}

/// The inode of the user namespace that owns a namespace of a process, as lsns(8) tells it.
fn owner_of(pid: &str, kind: &str) -> String {
    let arguments = ["--noheadings", "--output", "ONS", "--type", kind, "--task", pid];
    let out = std::process::Command::new("lsns").args(arguments).output().expect("lsns");
    assert!(out.status.success(), "{out:?}");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn owner(shim: &mut Shim) {
    enter(shim);
    let running = sleeper(shim);
    let pid = running.process.pid.to_string();
    let user = fs::metadata(format!("/proc/{pid}/ns/user")).expect("stat").ino().to_string();
    for kind in ["mnt", "pid", "ipc", "uts", "net", "cgroup"] {
        assert_eq!(owner_of(&pid, kind), user, "{kind}");
    }
    running.kill();
}

fn ownership(shim: &mut Shim) {
    enter(shim);
    let layer = shim.layer("owned");
    fs::write(layer.join("web"), "").expect("write");
    chown(layer.join("web"), Some(1000), Some(1000)).expect("chown");
    let script = "stat -c '%u:%g %a %n' / /web /bin/busybox /dev /dev/null /dev/pts /dev/shm /etc/passwd; \
        echo new > /etc/new; chown web /etc/new; chmod 4755 /bin/busybox; echo x > /dev/null; echo y > /dev/shm/y; \
        ls -ln /dev/shm/y | tr -s ' ' | cut -d' ' -f3,4; mkfifo /tmp/pipe; \
        [ $(stat -c %u /proc/self/root/proc/1/status) = 0 ] && echo own; mount | grep -c ' / '";
    let plan = shim.plan_on(&layer, script);
    let out = shim.run(&plan).good();
    let said = "0:0 755 /\n1000:1000 644 /web\n0:0 755 /bin/busybox\n0:0 755 /dev\n0:0 666 /dev/null\n\
        0:0 755 /dev/pts\n0:0 1777 /dev/shm\n0:0 644 /etc/passwd\n0 0\nown\n1\n";
    assert_eq!(out, said);
    let upper = Path::new(&plan.rootfs.upper);
    let owner = |path: &str| {
        fs::metadata(upper.join(path)).map(|stat| (stat.uid(), stat.mode() & 0o7777)).expect("stat")
    };
    assert_eq!(owner("etc/new"), (ROOT + 1000, 0o644));
    assert_eq!(owner("bin/busybox"), (ROOT, 0o4755));
    let layer = fs::metadata(layer.join("web")).expect("the layer is as it was");
    assert_eq!(layer.uid(), 1000);
}

fn capabilities(shim: &mut Shim) {
    enter(shim);
    let all = |shim: &mut Shim, script: &str, set: u64| {
        let mut plan = shim.plan(script);
        plan.readonly_paths.clear();
        plan.masked_paths.clear();
        let sets = &mut plan.process.capabilities;
        (sets.bounding, sets.effective, sets.permitted) = (set, set, set);
        shim.run(&plan)
    };
    // What the pod's own namespaces hold can be had.
    let own = "mount -t tmpfs none /tmp && umount /tmp && ip link add own type bridge && ip link set lo up \
        && hostname other && echo fine";
    assert_eq!(all(shim, own, u64::MAX).good(), "fine\n");
    // Without the capability, or in what is the host's, it cannot.
    let refused = all(shim, "mount -t tmpfs none /tmp || ip link add other type bridge || echo refused", 1);
    assert_eq!(refused.out, "refused\n", "{refused:?}");
    // Nothing here would harm the host if it were allowed: to open a file is not to write to it.
    let host = "mknod /tmp/disk b 254 0 && echo mknod; chown 70000 /etc/passwd && echo chown; \
        mount -o remount,size=65535k /dev && echo resized; mount -o remount,rw /sys && echo sys; \
        for f in sys/vm/swappiness sys/kernel/core_pattern sys/kernel/pid_max sysrq-trigger; do \
        { : >> /proc/$f; } && echo $f; done; { : >> /sys/kernel/uevent_helper; } && echo uevent; renice -n -5 $$ && echo nice; \
        echo -1000 > /proc/self/oom_score_adj && echo oom; true";
    let outcome = all(shim, host, u64::MAX);
    assert_eq!(outcome.out, "", "{outcome:?}");
}

fn host_files(shim: &mut Shim) {
    let host = shim.dir.join("host");
    fs::create_dir(&host).expect("mkdir");
    fs::write(host.join("shadow"), "secret\n").expect("write");
    fs::set_permissions(host.join("shadow"), fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::write(host.join("open"), "open\n").expect("write");
    enter(shim);
    let script = "stat -c %u:%g /host /host/open; cat /host/open; cat /host/shadow; echo x >> /host/open; \
        rm /host/open; touch /host/new; chown 0 /host/open; chmod 777 /host; \
        find / -name shadow -path '*host*' -exec cat {} + 2>&1 | grep -c secret; true";
    let mut plan = shim.plan(script);
    let all = &mut plan.process.capabilities;
    (all.bounding, all.effective, all.permitted) = (u64::MAX, u64::MAX, u64::MAX);
    plan.mounts.push(bind(&host, "/host"));
    let outcome = shim.run(&plan);
    assert_eq!(outcome.out, "65534:65534\n65534:65534\nopen\n0\n", "{outcome:?}");
    assert_eq!(fs::read_to_string(host.join("open")).expect("is there"), "open\n");
    assert_eq!(fs::read_dir(&host).expect("list").count(), 2);
    assert_eq!(fs::metadata(&host).expect("stat").mode() & 0o777, 0o755);
}

fn idmapped(shim: &mut Shim) {
    let volume = shim.dir.join("volume");
    fs::create_dir(&volume).expect("mkdir");
    fs::write(volume.join("of-root"), "").expect("write");
    isolation::own_host();
    isolation::mount_tmpfs(&volume.join("below"), false);
    enter(shim);
    let script = "stat -c %u /volume /volume/of-root; touch /volume/root /volume/below/root; \
        touch /volume/web && chown 1000:40 /volume/web; chown 70000 /volume/web; echo x > /fixed/x; true";
    let mut plan = shim.plan(script);
    plan.mounts.push(MountPlan { idmapped: true, ..bind(&volume, "/volume") });
    plan.mounts.push(MountPlan { idmapped: true, attributes: ATTR_RDONLY, ..bind(&volume, "/fixed") });
    let outcome = shim.run(&plan);
    assert_eq!(outcome.out, "0\n0\n", "{outcome:?}");
    assert!(outcome.err.contains("/fixed/x: Read-only file system"), "{outcome:?}");
    let owner =
        |path: &str| fs::metadata(volume.join(path)).map(|stat| (stat.uid(), stat.gid())).expect("stat");
    assert_eq!(owner("root"), (0, 0));
    assert_eq!(owner("below/root"), (0, 0), "what is mounted below is mapped too");
    assert_eq!(owner("web"), (1000, 40));
}

fn not_idmapped(shim: &mut Shim) {
    enter(shim);
    let mut plan = shim.plan("true");
    plan.mounts.push(MountPlan { idmapped: true, ..bind(Path::new("/sys/kernel"), "/kernel") });
    let failure = shim.refused(&plan);
    assert_eq!((failure.stage, failure.errno), (Stage::Mount, Some(Errno::INVAL)), "{failure}");
    assert!(failure.text.contains("/sys/kernel, which is on file system sysfs"), "{failure}");
    // What is below and cannot be mapped is the host's, and does not keep the rest from being of use.
    let dir = shim.dir.join("mixed");
    fs::create_dir_all(dir.join("proc")).expect("mkdir");
    let made =
        std::process::Command::new("mount").args(["-t", "proc", "none"]).arg(dir.join("proc")).status();
    assert!(made.expect("mount").success());
    let mut plan = shim.plan("stat -c %u /mixed /mixed/proc/uptime");
    plan.mounts.push(MountPlan { idmapped: true, ..bind(&dir, "/mixed") });
    let outcome = shim.run(&plan);
    rustix::mount::unmount(dir.join("proc"), rustix::mount::UnmountFlags::DETACH).expect("unmount");
    assert_eq!(outcome.good(), "0\n65534\n");
}

fn image_volumes(shim: &mut Shim) {
    enter(shim);
    let (one, two) = (shim.layer("one"), shim.layer("two"));
    for layer in [&one, &two] {
        fs::create_dir_all(layer.join("data/deep")).expect("mkdir");
    }
    fs::write(one.join("data/deep/file"), "one\n").expect("write");
    chown(one.join("data/deep/file"), Some(5), Some(6)).expect("chown");
    let volume = |destination: &str, lowers: &[&Path], sub_path: &str| MountPlan {
        destination: destination.to_owned(),
        source: Some(Source::Layers(LayersSource {
            lowers: lowers.iter().map(|lower| lower.display().to_string()).collect(),
            sub_path: sub_path.to_owned(),
        })),
        attributes: ATTR_RDONLY,
        ..MountPlan::default()
    };
    let mut plan = shim.plan(
        "cat /whole/data/deep/file /part/file /one/deep/file /single; stat -c %u:%g /part /part/file /one /single; \
        echo x > /part/file; touch /whole/x; true",
    );
    plan.mounts.push(volume("/whole", &[&one, &two], ""));
    plan.mounts.push(volume("/part", &[&one, &two], "data/deep"));
    plan.mounts.push(volume("/one", &[&one], "data"));
    plan.mounts.push(volume("/single", &[&one], "data/deep/file"));
    let outcome = shim.run(&plan);
    assert_eq!(outcome.out, "one\none\none\none\n0:0\n5:6\n0:0\n5:6\n", "{outcome:?}");
    assert_eq!(outcome.err.matches("Read-only file system").count(), 2, "{outcome:?}");
}

fn unmapped_users(shim: &mut Shim) {
    enter(shim);
    for (user, groups) in [(65536, vec![]), (u32::MAX - 1, vec![]), (0, vec![65536])] {
        let mut plan = shim.plan("true");
        plan.process.user.user = Some(WantedUser::Uid(user));
        plan.process.user.supplemental_groups = groups;
        let failure = shim.refused(&plan);
        assert_eq!(failure.stage, Stage::User);
        assert!(failure.text.contains("is not mapped by the pod's user namespace"), "{failure}");
    }
}

fn devices(shim: &mut Shim) {
    enter(shim);
    let device = |path: &str, minor: u32, mode: u32| DevicePlan {
        path: path.to_owned(),
        kind: u32::from(b'c'),
        major: 1,
        minor,
        mode,
        uid: 0,
        gid: 0,
    };
    let script = "stat -c '%u %t:%T' /dev/net/open /dev/closed /srv/open; head -c 1 /dev/net/open | wc -c; \
        head -c 1 /srv/open | wc -c; head -c 1 /dev/closed || echo closed; chmod 666 /dev/closed || echo kept";
    let mut plan = shim.plan(script);
    plan.devices = vec![
        device("/dev/net/open", 5, 0o666),
        device("/dev/closed", 5, 0o600),
        device("/srv/open", 9, 0o666),
    ];
    let outcome = shim.run(&plan);
    assert_eq!(outcome.out, "65534 1:5\n65534 1:5\n65534 1:9\n1\n1\nclosed\nkept\n", "{outcome:?}");
}

fn exec_in_it(shim: &mut Shim) {
    enter(shim);
    let running = sleeper(shim);
    let said = shim.exec(&running, &shell("cat /proc/self/uid_map | tr -s ' '; id -u; echo e > /dev/stdout; [ $(readlink /proc/self/ns/user) = $(readlink /proc/1/ns/user) ] && echo 1")).expect("runs");
    assert_eq!(said.good(), format!(" 0 {ROOT} 65536\n0\ne\n1\n"));
    // A process of the shim's on its way in cannot be traced, whatever the container may do.
    let pid = running.process.pid.to_string();
    let started = fs::metadata(format!("/proc/{pid}")).expect("stat");
    assert_eq!(started.uid(), ROOT, "dumpable once it runs its own program");
    assert_eq!(running.kill(), 137);
}

fn shared_pids(shim: &mut Shim) {
    shim.own_ids(ROOT);
    shim.enter(|plan| plan.shared_pid = true);
    let init = shim.sandbox().micro_init().expect("a micro-init");
    let (pid, ended) = (init.pid.to_string(), init.pidfd.as_fd().as_raw_fd());
    assert!(ended >= 0);
    assert_eq!(status_line(&pid, "Uid:").split(' ').next(), Some((ROOT + 65535).to_string().as_str()));
    assert_eq!(status_line(&pid, "PPid:"), std::process::id().to_string());
    let mut plan = shim.plan("cat /proc/1/comm; cat /proc/1/root/proc/version 2>&1 | grep -c denied; mount -t proc none /tmp && echo own; kill -9 1; echo up; sleep 100");
    plan.pid_namespace = PidNamespace::Pod as i32;
    let all = &mut plan.process.capabilities;
    (all.bounding, all.effective, all.permitted) = (u64::MAX, u64::MAX, u64::MAX);
    let one = shim.start(&plan).expect("runs");
    let lines: Vec<String> = (0..4).map(|_| one.line()).collect();
    assert_eq!(lines, ["carpel-init", "1", "own", "up"]);
    let user = fs::metadata(format!("/proc/{pid}/ns/user")).expect("stat").ino().to_string();
    assert_eq!(owner_of(&pid, "pid"), user);
    plan.process = shell("ps | grep -c sleep");
    plan.rootfs = shim.plan("").rootfs;
    assert_ne!(shim.run(&plan).good(), "0\n");
    one.kill();
}

fn limits(shim: &mut Shim) {
    enter(shim);
    let mut plan = shim.plan("ulimit -Hn; ulimit -Sn; ulimit -Hc");
    // RLIMIT_NOFILE and RLIMIT_CORE, getrlimit(2).
    plan.process.rlimits =
        vec![Rlimit { resource: 7, soft: 1024, hard: 2048 }, Rlimit { resource: 4, soft: 0, hard: 0 }];
    plan.process.oom_score_adj = Some(500);
    plan.process.no_new_privileges = true;
    assert_eq!(shim.run(&plan).good(), "2048\n1024\n0\n");
    plan.process = shell("cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status | cut -f2");
    plan.process.oom_score_adj = Some(500);
    plan.process.no_new_privileges = true;
    plan.rootfs = shim.plan("").rootfs;
    assert_eq!(shim.run(&plan).good(), "500\n1\n");
}

fn two_pods(shim: &mut Shim) {
    // The second pod's shim is a child of this one, before it is in any pod itself.
    let plan = shim.plan("id -u; stat -c %u /bin/busybox; touch /own; sleep 100");
    let other = shim.plan("stat -c %u /bin/busybox; touch /own; echo done");
    let upper = Path::new(&other.rootfs.upper).join("own");
    let cgroup = shim.cgroup();
    let alone = carpel_sys::clone::SingleThreaded::prove().expect("one thread");
    let second = carpel_sys::clone::clone_process(&alone, &Default::default(), |_| {
        drop(std::panic::take_hook());
        shim.own_ids(ROOT + 65536);
        shim.enter(|_| {});
        shim.use_cgroups(vec![cgroup]);
        i32::from(shim.run(&other).out != "0\ndone\n")
    });
    let second = second.expect("clone");
    enter(shim);
    let running = shim.start(&plan).expect("runs");
    assert_eq!((running.line(), running.line()), ("0".to_owned(), "0".to_owned()));
    assert_eq!(wait_status(second.pidfd.as_fd()), 0);
    assert_eq!(fs::metadata(upper).expect("stat").uid(), ROOT + 65536);
    running.kill();
}
