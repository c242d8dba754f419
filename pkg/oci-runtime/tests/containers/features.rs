//! What a plan can say, seen from inside.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use carpel_oci_runtime::report::Stage;
use carpel_shim_api::plan::mount_plan::Source;
use carpel_shim_api::plan::user_plan::{Group, User as WantedUser};
use carpel_shim_api::plan::{DevicePlan, LayersSource, MountPlan, Rlimit};

use crate::harness::{ATTR_NOEXEC, ATTR_RDONLY, Case, Shim, bind, filesystem, shell, strings, wait_status};

pub(crate) const CASES: &[Case] = &[
    ("features: output and exit code", output_and_exit_code),
    ("features: default mounts", default_mounts),
    ("features: default devices", default_devices),
    ("features: plan devices", plan_devices),
    ("features: masked and read-only paths", masked_and_readonly_paths),
    ("features: read-only root", read_only_root),
    ("features: upper layer", upper_layer),
    ("features: many layers", many_layers),
    ("features: binds", binds),
    ("features: missing mount points", missing_mount_points),
    ("features: dangling symlink as mount point", dangling_mount_point),
    ("features: image volumes", image_volumes),
    ("features: users", users),
    ("features: stdio belongs to the user", stdio_belongs_to_the_user),
    ("features: capabilities", capabilities),
    ("features: rlimits, umask, oom score", limits),
    ("features: working directory", working_directory),
    ("features: command lookup", command_lookup),
    ("features: commands that cannot run", bad_commands),
    ("features: terminal", terminal),
    ("features: seccomp", seccomp),
    ("features: cgroup view", cgroup_view),
    ("features: a created container waits", created_waits),
    ("features: bind over dev", bind_over_dev),
];

fn output_and_exit_code(shim: &mut Shim) {
    shim.enter(|_| {});
    let plan = shim.plan("echo out; echo err >&2; echo $HOME $$; exit 42");
    let outcome = shim.run(&plan);
    assert_eq!((outcome.status, outcome.out.as_str(), outcome.err.as_str()), (42, "out\n/root 1\n", "err\n"));
    let plan = shim.plan("kill -TERM $$; sleep 10");
    // The first process of a PID namespace is not killed by its own signals.
    let plan_killed = shim.plan("sh -c 'kill -KILL $$'; echo $?");
    assert_eq!(shim.run(&plan_killed).good(), "137\n");
    drop(plan);
}

fn default_mounts(shim: &mut Shim) {
    shim.enter(|_| {});
    let plan = shim.plan("cut -d' ' -f5,6,9- /proc/self/mountinfo");
    let out = shim.run(&plan).good();
    for expected in [
        "/proc rw,nosuid,nodev,noexec,relatime proc",
        "/dev rw,nosuid",
        "/dev/pts rw,nosuid,noexec",
        "/dev/mqueue rw,nosuid,nodev,noexec,relatime mqueue",
        "/dev/shm rw,nosuid,nodev,noexec,relatime",
        "/sys ro,nosuid,nodev,noexec,relatime sysfs",
        "/sys/fs/cgroup ro,nosuid,nodev,noexec",
    ] {
        assert!(out.lines().any(|line| line.starts_with(expected)), "{expected}\n{out}");
    }
    // Nothing of the host's.
    assert!(
        !out.contains("/dev/vda") && out.lines().any(|line| line.starts_with("/ rw,relatime overlay")),
        "{out}"
    );
}

fn default_devices(shim: &mut Shim) {
    shim.enter(|_| {});
    let plan = shim.plan(
        "cd /dev; stat -c '%n %t:%T %a' null zero full random urandom tty; \
         for l in fd stdin ptmx; do readlink $l; done; echo x > null; head -c2 zero | wc -c; ls pts; stat -c %a shm mqueue",
    );
    let out = shim.run(&plan).good();
    assert_eq!(
        out,
        "null 1:3 666\nzero 1:5 666\nfull 1:7 666\nrandom 1:8 666\nurandom 1:9 666\ntty 5:0 666\n\
         /proc/self/fd\n/proc/self/fd/0\npts/ptmx\n2\nptmx\n1777\n1777\n"
    );
}

fn plan_devices(shim: &mut Shim) {
    shim.enter(|_| {});
    let mut plan = shim.plan("stat -c '%n %t:%T %a %u:%g' /dev/a/fuse /opt/pipe; stat -c %F /opt/pipe");
    let device = |path: &str, kind: char, major, minor| DevicePlan {
        path: path.to_owned(),
        kind: u32::from(kind),
        major,
        minor,
        mode: 0o640,
        uid: 7,
        gid: 8,
    };
    plan.devices = vec![device("/dev/a/fuse", 'c', 10, 229), device("/opt/pipe", 'p', 0, 0)];
    let out = shim.run(&plan).good();
    assert_eq!(out, "/dev/a/fuse a:e5 640 7:8\n/opt/pipe 0:0 640 7:8\nfifo\n");
    let mut plan = shim.plan("true");
    plan.devices = vec![device("/dev/x", 'z', 1, 1)];
    assert_eq!(shim.refused(&plan).stage, Stage::Device);
}

fn masked_and_readonly_paths(shim: &mut Shim) {
    shim.enter(|_| {});
    let layer = shim.layer("masks");
    for dir in ["secrets/deep", "more"] {
        fs::create_dir_all(layer.join(dir)).expect("mkdir");
    }
    for file in ["secrets/deep/key", "more/key", "file", "other", "kept"] {
        fs::write(layer.join(file), "secret").expect("write");
    }
    let script = "cat /file /other; ls -A /secrets /more | grep key; echo x > /secrets/y; echo x > /more/y; \
         echo x > /kept; echo x > /proc/sys/kernel/domainname; cat /kept; echo gone > /file; cat /file; \
         chmod 600 /file";
    let mut plan = shim.plan_on(&layer, script);
    plan.masked_paths.extend(strings(&["/secrets", "/more", "/file", "/other", "/absent", "/file/below"]));
    plan.readonly_paths.extend(strings(&["/kept", "/absent"]));
    let outcome = shim.run(&plan);
    assert_eq!(outcome.out, "secret", "{outcome:?}");
    assert_eq!(outcome.err.matches("Read-only file system").count(), 5, "{outcome:?}");
}

fn read_only_root(shim: &mut Shim) {
    shim.enter(|_| {});
    let mut plan = shim.plan("echo x > /x; echo y > /new/y; cat /new/y; echo z > /dev/shm/z; cat /dev/shm/z");
    plan.rootfs.readonly = true;
    plan.mounts.push(filesystem("/new", "tmpfs", 0, &[]));
    plan.process.cwd = "/made/deep".to_owned();
    let outcome = shim.run(&plan);
    assert_eq!(outcome.out, "y\nz\n");
    assert!(outcome.err.contains("/x: Read-only file system"), "{outcome:?}");
    // Without a writable layer at all.
    let mut plan = shim.plan("echo x > /x; pwd");
    plan.rootfs.upper = String::new();
    plan.mounts.retain(|mount| mount.destination != "/dev/mqueue");
    let outcome = shim.run(&plan);
    assert_eq!(outcome.out, "/\n");
    assert!(outcome.err.contains("Read-only file system"), "{outcome:?}");
}

fn upper_layer(shim: &mut Shim) {
    shim.enter(|_| {});
    let layer = shim.layer("top");
    fs::set_permissions(&layer, fs::Permissions::from_mode(0o751)).expect("chmod");
    chown(&layer, Some(5), Some(6)).expect("chown");
    let mut plan = shim.plan_on(&layer, "stat -c '%a %u:%g' /; echo kept > /file");
    plan.rootfs.volatile = true;
    assert_eq!(shim.run(&plan).good(), "751 5:6\n");
    // Once more on the same layer, as after an attempt that failed.
    assert_eq!(shim.run(&plan).good(), "751 5:6\n");
    let upper = std::path::Path::new(&plan.rootfs.upper);
    assert_eq!(fs::read_to_string(upper.join("file")).expect("read the upper layer"), "kept\n");
    assert_eq!(fs::metadata(upper).expect("stat").uid(), 5);
}

fn many_layers(shim: &mut Shim) {
    shim.enter(|_| {});
    let mut plan = shim.plan("ls /l* | wc -l; cat /who");
    for index in 0..130 {
        // Also longer than fsconfig takes.
        let layer = shim.layer(&format!("{}/{index}", "long".repeat(50)));
        fs::write(layer.join(format!("l{index}")), "").expect("write");
        fs::write(layer.join("who"), index.to_string()).expect("write");
        plan.rootfs.lowers.insert(0, layer.display().to_string());
    }
    assert_eq!(shim.run(&plan).good(), "130\n129");
    let mut plan = shim.plan("true");
    plan.rootfs.lowers.push("/nonexistent".to_owned());
    let failure = shim.refused(&plan);
    assert_eq!(failure.stage, Stage::Rootfs, "{failure}");
}

fn binds(shim: &mut Shim) {
    shim.enter(|_| {});
    let source = shim.layer("volume");
    fs::write(source.join("file"), "content").expect("write");
    std::os::unix::fs::symlink(&source, shim.dir.join("link")).expect("link");
    let script = "cat /data/file /a/file; echo x > /ro/file; echo y > /data/new; /noexec/prog; cat /made/x; \
         cat /linked/file";
    let mut plan = shim.plan(script);
    fs::copy("/bin/true", source.join("prog")).expect("copy");
    plan.mounts.push(bind(&source, "/data"));
    plan.mounts.push(bind(&source.join("file"), "/a/file"));
    plan.mounts.push(MountPlan { attributes_recursive: ATTR_RDONLY, ..bind(&source, "/ro") });
    plan.mounts.push(MountPlan { attributes: ATTR_NOEXEC, ..bind(&source, "/noexec") });
    plan.mounts.push(bind(&shim.dir.join("link"), "/linked"));
    let made = shim.dir.join("made/below");
    let mut created = bind(&made, "/made");
    if let Some(Source::Bind(source)) = &mut created.source {
        source.create_dir = true;
    }
    plan.mounts.push(created);
    let outcome = shim.run(&plan);
    assert_eq!(outcome.out, "contentcontentcontent", "{outcome:?}");
    assert!(outcome.err.contains("/ro/file: Read-only file system"), "{outcome:?}");
    assert!(outcome.err.contains("/noexec/prog: Permission denied"), "{outcome:?}");
    assert_eq!(fs::read_to_string(source.join("new")).expect("written through"), "y\n");
    assert!(made.is_dir());
    let mut plan = shim.plan("true");
    plan.mounts.push(bind(&shim.dir.join("absent"), "/data"));
    let failure = shim.refused(&plan);
    assert_eq!((failure.stage, failure.errno), (Stage::Mount, Some(rustix::io::Errno::NOENT)));
    assert!(failure.text.contains("/data") && failure.text.contains("/absent"), "{failure}");
    plan.mounts.push(filesystem("/nofs", "nosuchfs", 0, &[]));
    for mount in plan.mounts.iter_mut().rev().take(2) {
        mount.optional = true;
    }
    shim.run(&plan).good();
}

fn missing_mount_points(shim: &mut Shim) {
    shim.enter(|_| {});
    let file = shim.dir.join("hosts");
    fs::write(&file, "127.0.0.1 localhost\n").expect("write");
    let mut plan = shim.plan("cat /etc/deep/er/hosts; stat -c %a /etc/deep/er /dir/in; ls /dir/in");
    plan.mounts.push(bind(&file, "/etc/deep/er/hosts"));
    plan.mounts.push(bind(&shim.layer("empty"), "/dir/in/"));
    assert_eq!(shim.run(&plan).good(), "127.0.0.1 localhost\n755\n755\n");
}

fn dangling_mount_point(shim: &mut Shim) {
    shim.enter(|_| {});
    let layer = shim.layer("dangling");
    fs::create_dir(layer.join("etc")).expect("mkdir");
    std::os::unix::fs::symlink("../run/systemd/resolve/stub.conf", layer.join("etc/resolv.conf"))
        .expect("link");
    let file = shim.dir.join("resolv.conf");
    fs::write(&file, "nameserver 10.0.0.10\n").expect("write");
    let mut plan = shim.plan_on(&layer, "cat /etc/resolv.conf; ls -A /run/systemd/resolve");
    plan.mounts.push(bind(&file, "/etc/resolv.conf"));
    assert_eq!(shim.run(&plan).good(), "nameserver 10.0.0.10\nstub.conf\n");
}

fn image_volumes(shim: &mut Shim) {
    shim.enter(|_| {});
    let (low, high) = (shim.layer("low"), shim.layer("high"));
    fs::create_dir(low.join("models")).expect("mkdir");
    fs::write(low.join("models/weights"), "low").expect("write");
    fs::write(low.join("only-low"), "x").expect("write");
    fs::create_dir(high.join("models")).expect("mkdir");
    fs::write(high.join("models/weights"), "high").expect("write");
    let volume = |destination: &str, lowers: &[&std::path::Path], sub_path: &str| MountPlan {
        destination: destination.to_owned(),
        source: Some(Source::Layers(LayersSource {
            lowers: lowers.iter().map(|path| path.display().to_string()).collect(),
            sub_path: sub_path.to_owned(),
        })),
        attributes: ATTR_NOEXEC,
        ..MountPlan::default()
    };
    let script = "cat /both/models/weights /one/only-low /sub/weights /file; echo x > /both/y; echo x > /sub/y; \
        echo x > /one/y; grep -c ' /sub ro,noexec' /proc/mounts; grep -c -e '/sub .*noexec' /proc/mounts";
    let mut plan = shim.plan(script);
    plan.mounts.push(volume("/both", &[&high, &low], ""));
    plan.mounts.push(volume("/one", &[&low], "/"));
    plan.mounts.push(volume("/sub", &[&high, &low], "models"));
    plan.mounts.push(volume("/file", &[&high, &low], "models/weights"));
    let outcome = shim.run(&plan);
    assert!(outcome.out.starts_with("highxhighhigh"), "{outcome:?}");
    assert_eq!(outcome.err.matches("Read-only file system").count(), 3, "{outcome:?}");
    let mut plan = shim.plan("true");
    plan.mounts.push(volume("/sub", &[&high, &low], "absent"));
    let failure = shim.refused(&plan);
    assert_eq!(failure.stage, Stage::ImageVolume);
    assert!(failure.text.contains("absent"), "{failure}");
}

fn users(shim: &mut Shim) {
    shim.enter(|_| {});
    let mut plan = shim.plan("id -u; id -g; id -G; echo $HOME");
    plan.process.user.user = Some(WantedUser::Name("web".to_owned()));
    plan.process.user.supplemental_groups = vec![50];
    plan.process.user.merge_image_groups = true;
    assert_eq!(shim.run(&plan).good(), "1000\n1000\n1000 40 50\n/home/web\n");
    plan = shim.plan("id -u; id -g; id -G; echo $HOME");
    plan.process.user.user = Some(WantedUser::Uid(1234));
    plan.process.user.group = Some(Group::GroupName("log".to_owned()));
    let running = shim.start(&plan).expect("runs");
    assert_eq!(
        (running.user.uid, running.user.gid, running.user.groups.as_slice()),
        (1234, 40, [40].as_slice())
    );
    assert_eq!(running.finish().good(), "1234\n40\n40\n/\n");
    plan.process.user.user = Some(WantedUser::Name("nobody-here".to_owned()));
    let failure = shim.refused(&plan);
    assert_eq!(failure.stage, Stage::User, "{failure}");
}

fn stdio_belongs_to_the_user(shim: &mut Shim) {
    shim.enter(|_| {});
    let mut plan =
        shim.plan("echo again > /dev/stdout; cat < /dev/stdin; stat -L -c '%t:%T' /proc/self/fd/0");
    plan.process.user.user = Some(WantedUser::Uid(1000));
    assert_eq!(shim.run(&plan).good(), "again\n1:3\n");
}

fn status_lines(shim: &mut Shim, plan: &carpel_shim_api::plan::ContainerPlan) -> String {
    shim.run(plan).good()
}

fn capabilities(shim: &mut Shim) {
    shim.enter(|_| {});
    let script = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status | tr -d '\\t' | tr '\\n' ' '";
    let plan = shim.plan(script);
    assert_eq!(
        status_lines(shim, &plan),
        "CapInh:0000000000000000 CapPrm:00000000a80425fb CapEff:00000000a80425fb \
         CapBnd:00000000a80425fb CapAmb:0000000000000000 NoNewPrivs:0 "
    );
    let mut plan = shim.plan(script);
    plan.process.user.user = Some(WantedUser::Uid(1000));
    plan.process.no_new_privileges = true;
    assert_eq!(
        status_lines(shim, &plan),
        "CapInh:0000000000000000 CapPrm:0000000000000000 CapEff:0000000000000000 \
         CapBnd:00000000a80425fb CapAmb:0000000000000000 NoNewPrivs:1 "
    );
    let net_bind = 1 << 10;
    plan.process.capabilities.inheritable = net_bind;
    plan.process.capabilities.ambient = net_bind;
    assert_eq!(
        status_lines(shim, &plan),
        "CapInh:0000000000000400 CapPrm:0000000000000400 CapEff:0000000000000400 \
         CapBnd:00000000a80425fb CapAmb:0000000000000400 NoNewPrivs:1 "
    );
    // All that there are, though the test itself may not have all.
    let mut plan = shim.plan("id -u");
    let all = &mut plan.process.capabilities;
    (all.bounding, all.effective, all.permitted) = (u64::MAX, u64::MAX, u64::MAX);
    assert_eq!(status_lines(shim, &plan), "0\n");
}

fn limits(shim: &mut Shim) {
    shim.enter(|_| {});
    let mut plan = shim.plan("ulimit -n; ulimit -Hn; ulimit -c; umask; cat /proc/self/oom_score_adj");
    let limit = |resource, soft, hard| Rlimit { resource, soft, hard };
    plan.process.rlimits = vec![limit(7, 100, 200), limit(4, 0, 0)];
    plan.process.umask = Some(0o077);
    plan.process.oom_score_adj = Some(500);
    assert_eq!(shim.run(&plan).good(), "100\n200\n0\n0077\n500\n");
    let plan = shim.plan("umask; cat /proc/self/oom_score_adj");
    assert_eq!(shim.run(&plan).good(), "0022\n0\n");
    let mut plan = shim.plan("true");
    plan.process.rlimits = vec![limit(99, 0, 0)];
    assert_eq!(shim.refused(&plan).stage, Stage::Limits);
}

fn working_directory(shim: &mut Shim) {
    shim.enter(|_| {});
    let mut plan = shim.plan("pwd; stat -c '%a %u' .");
    plan.process.cwd = "/srv/new/app".to_owned();
    assert_eq!(shim.run(&plan).good(), "/srv/new/app\n755 0\n");
    plan.process.cwd = "relative".to_owned();
    assert_eq!(shim.refused(&plan).stage, Stage::WorkingDirectory);
    plan.process.cwd = "/etc/passwd".to_owned();
    assert_eq!(shim.refused(&plan).stage, Stage::WorkingDirectory);
}

fn command_lookup(shim: &mut Shim) {
    shim.enter(|_| {});
    let layer = shim.layer("lookup");
    for dir in ["first", "second"] {
        fs::create_dir(layer.join(dir)).expect("mkdir");
        fs::write(layer.join(dir).join("tool"), format!("#!/bin/sh\necho {dir}\n")).expect("write");
    }
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(layer.join("second/tool"), executable).expect("chmod");
    let mut plan = shim.plan_on(&layer, "");
    plan.process.args = vec![b"tool".to_vec()];
    plan.process.env = vec![b"PATH=/none:/first:/second:/bin".to_vec()];
    // What may not be executed is passed over.
    assert_eq!(shim.run(&plan).good(), "second\n");
    plan.process.cwd = "/second".to_owned();
    plan.process.args = vec![b"./tool".to_vec()];
    assert_eq!(shim.run(&plan).good(), "second\n");
}

fn bad_commands(shim: &mut Shim) {
    use rustix::io::Errno;
    shim.enter(|_| {});
    let layer = shim.layer("bad");
    let executable = || fs::Permissions::from_mode(0o755);
    for (file, text) in [("noexec", "x"), ("interpreter", "#!/no/such\n"), ("format", "\u{1}x")] {
        fs::write(layer.join(file), text).expect("write");
        fs::set_permissions(layer.join(file), executable()).expect("chmod");
    }
    fs::set_permissions(layer.join("noexec"), fs::Permissions::from_mode(0o644)).expect("chmod");
    for (command, errno) in [
        ("absent-tool", Errno::NOENT),
        ("/absent", Errno::NOENT),
        ("/noexec", Errno::ACCESS),
        ("/etc", Errno::ACCESS),
        ("/interpreter", Errno::NOENT),
        ("/format", Errno::NOEXEC),
        ("/etc/passwd/x", Errno::NOTDIR),
    ] {
        let mut plan = shim.plan_on(&layer, "");
        plan.process.args = vec![command.as_bytes().to_vec()];
        let failure = shim.refused(&plan);
        assert_eq!((failure.stage, failure.errno), (Stage::Execute, Some(errno)), "{command}: {failure}");
        assert!(failure.text.contains(command), "{failure}");
    }
}

fn terminal(shim: &mut Shim) {
    shim.enter(|_| {});
    let mut plan = shim.plan(
        "tty; test -t 0 && test -t 2 && echo yes; stat -c '%t %u' /dev/pts/0; \
        stat -c %t /dev/console; echo to-console > /dev/console; exec < /dev/tty && echo controlling",
    );
    plan.process.terminal = true;
    plan.process.user.user = Some(WantedUser::Uid(1000));
    let running = shim.start(&plan).expect("runs");
    let out = running.finish().good().replace('\r', "");
    assert_eq!(out, "/dev/pts/0\nyes\n88 1000\n88\nto-console\ncontrolling\n");
}

/// `if (nr == mkdir) return EPERM; return ALLOW`.
fn no_mkdir() -> Vec<u8> {
    let instruction = |code: u16, jt: u8, jf: u8, k: u32| {
        let mut bytes = code.to_ne_bytes().to_vec();
        bytes.extend([jt, jf]);
        bytes.extend(k.to_ne_bytes());
        bytes
    };
    [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, libc::SYS_mkdir as u32),
        instruction(0x06, 0, 0, 0x0005_0001),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ]
    .concat()
}

fn seccomp(shim: &mut Shim) {
    shim.enter(|_| {});
    let script = "mkdir /x 2>&1; grep -E '^(Seccomp|CapEff|NoNewPrivs):' /proc/self/status | tr -d '\\t'";
    for no_new_privileges in [false, true] {
        let mut plan = shim.plan(script);
        plan.process.seccomp_bpf = no_mkdir();
        plan.process.no_new_privileges = no_new_privileges;
        let nnp = u8::from(no_new_privileges);
        let expected = format!(
            "mkdir: can't create directory '/x': Operation not permitted\n\
             CapEff:00000000a80425fb\nNoNewPrivs:{nnp}\nSeccomp:2\n"
        );
        assert_eq!(shim.run(&plan).good(), expected);
        plan.process.user.user = Some(WantedUser::Uid(1000));
        let expected = expected.replace("00000000a80425fb", "0000000000000000");
        assert_eq!(shim.run(&plan).good(), expected);
    }
    let mut plan = shim.plan("true");
    plan.process.seccomp_bpf = vec![1; 12];
    assert_eq!(shim.refused(&plan).stage, Stage::Seccomp);
    // A program that the kernel does not take.
    plan.process.seccomp_bpf = vec![0xff; 8];
    assert_eq!(shim.refused(&plan).stage, Stage::Seccomp);
}

fn cgroup_view(shim: &mut Shim) {
    shim.enter(|_| {});
    let plan = shim.plan(
        "cut -d: -f3 /proc/self/cgroup | sort -u; find /sys/fs/cgroup -name cgroup.procs | head -50 | \
        xargs cat | sort -u | head -1; touch /sys/fs/cgroup/x; mkdir /sys/fs/cgroup/*/x",
    );
    let outcome = shim.run(&plan);
    assert_eq!(outcome.out, "/\n1\n", "{outcome:?}");
    assert!(outcome.err.contains("Read-only file system"), "{outcome:?}");
    assert!(!outcome.err.contains("File exists"), "{outcome:?}");
    // Where it is, seen from outside.
    let plan = shim.plan("sleep 100");
    let running = shim.start(&plan).expect("runs");
    let pid = running.process.pid.as_raw_nonzero();
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("read");
    let path = format!("/{}", running.cgroup.path().as_relative());
    assert!(cgroup.lines().all(|line| line.ends_with(&path)), "{path}\n{cgroup}");
    assert_eq!(running.kill(), 137);
}

fn created_waits(shim: &mut Shim) {
    shim.enter(|_| {});
    let plan = shim.plan("echo never");
    let (created, running) = match shim.create(&plan) {
        Ok(made) => made,
        Err(error) => panic!("{error:?}"),
    };
    assert_eq!(created.identity.user.uid, 0);
    // A second container runs beside it.
    let other = shim.plan("echo other");
    assert_eq!(shim.run(&other).good(), "other\n");
    drop(created);
    let outcome = running.finish();
    assert_eq!((outcome.status, outcome.out.as_str()), (1, ""));
}

fn bind_over_dev(shim: &mut Shim) {
    shim.enter(|_| {});
    let dev = shim.layer("dev");
    for dir in ["pts", "mqueue", "shm"] {
        fs::create_dir(dev.join(dir)).expect("mkdir");
    }
    let mut plan = shim.plan("ls -1A /dev; test -t 0 && echo tty");
    plan.process.terminal = true;
    plan.mounts.retain(|mount| mount.destination != "/dev");
    plan.mounts.insert(0, bind(&dev, "/dev"));
    let out = shim.run(&plan).good().replace('\r', "");
    assert_eq!(out, "mqueue\npts\nshm\ntty\n");
    // The host's folder is as it was.
    assert_eq!(fs::read_dir(&dev).expect("read").count(), 3);
    let mut plan = shim.plan("sh -c 'exit 3'");
    plan.process = shell("ls /dev | tr '\\n' ' '");
    plan.mounts.retain(|mount| !mount.destination.starts_with("/dev"));
    plan.pod_shm = false;
    let running = shim.start(&plan).expect("runs");
    let pidfd = running.process.pidfd.as_fd().try_clone_to_owned().expect("dup");
    let out = running.finish().good();
    assert!(out.contains("null") && out.contains("urandom"), "{out}");
    let _reaped = pidfd;
    let _ = wait_status;
}
