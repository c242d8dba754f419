//! What hostile images and plans have done to other runtimes. Each case asserts that the host is as
//! it was, whether the container was refused or runs confined. Numbers are CVEs and advisories.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use carpel_oci_runtime::exec::ExecError;
use carpel_oci_runtime::report::Stage;
use carpel_oci_runtime::sandbox::Sandbox;
use carpel_shim_api::plan::user_plan::User as WantedUser;
use carpel_shim_api::plan::{DevicePlan, SandboxPlan, Sysctl};

use crate::harness::{Case, RunError, Shim, bind, chain, rounds, shell};

pub(crate) const CASES: &[Case] = &[
    ("attacks: proc or sys is a symlink", proc_and_sys_symlinks),
    ("attacks: dev is a symlink", dev_symlink),
    ("attacks: dev null and console are the image's", hostile_dev_nodes),
    ("attacks: working directory", working_directory),
    ("attacks: mount points through symlinks", mount_points),
    ("attacks: etc files", etc_files),
    ("attacks: masked path behind the image's null", masked_by_fake_null),
    ("attacks: standard streams", standard_streams),
    ("attacks: users by number", users_by_number),
    ("attacks: home", home),
    ("attacks: groups", groups),
    ("attacks: the runtime's program", own_program),
    ("attacks: sysctl injection", sysctl_injection),
    ("attacks: mount points that are swapped", swapped_mount_point),
];

/// Host files that nothing may change.
struct Canary {
    dir: PathBuf,
    before: String,
}

fn listing(dir: &Path, into: &mut String) {
    let mut entries: Vec<_> =
        fs::read_dir(dir).expect("read").map(|entry| entry.expect("entry").path()).collect();
    entries.sort();
    for path in entries {
        let stat = fs::symlink_metadata(&path).expect("stat");
        use std::os::unix::fs::MetadataExt;
        into.push_str(&format!("{} {:o} {} {} ", path.display(), stat.mode(), stat.uid(), stat.size()));
        if stat.is_dir() {
            listing(&path, into);
        } else if stat.is_file() {
            into.push_str(&fs::read_to_string(&path).expect("read"));
        }
        into.push('\n');
    }
}

fn host_state(dir: &Path) -> String {
    let mut state = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("read");
    use std::os::unix::fs::MetadataExt;
    let null = fs::metadata("/dev/null").expect("stat");
    state.push_str(&format!("{:o} {} {}\n", null.mode(), null.uid(), null.gid()));
    listing(dir, &mut state);
    state
}

impl Canary {
    fn new(shim: &Shim) -> Self {
        let dir = shim.dir.join("canary");
        fs::create_dir_all(dir.join("dir")).expect("mkdir");
        for name in ["ptmx", "file", "dir/file"] {
            fs::write(dir.join(name), "canary").expect("write");
        }
        let before = host_state(&dir);
        Self { dir, before }
    }

    #[track_caller]
    fn assert_unchanged(&self) {
        assert_eq!(host_state(&self.dir), self.before);
    }
}

/// Ways to write a link to a path of the host.
fn links(target: &Path) -> [String; 3] {
    let absolute = target.display().to_string();
    [absolute.clone(), format!("{}{absolute}", "../".repeat(12)), "/chain".to_owned()]
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-54867.
fn proc_and_sys_symlinks(shim: &mut Shim) {
    shim.enter(|_| {});
    let canary = Canary::new(shim);
    for (index, name) in ["proc", "sys"].iter().enumerate() {
        for (kind, link) in
            links(&canary.dir).iter().chain(&["absent".to_owned(), "/tmp".to_owned()]).enumerate()
        {
            let layer = shim.layer(&format!("{index}-{kind}"));
            symlink(&canary.dir, layer.join("chain")).expect("link");
            symlink(link, layer.join(name)).expect("link");
            let plan = shim.plan_on(&layer, "true");
            let failure = shim.refused(&plan);
            assert_eq!(failure.stage, Stage::Mount);
            assert!(failure.text.contains("ordinary directory"), "{failure}");
        }
    }
    canary.assert_unchanged();
}

/// CVE-2026-41579, CVE-2026-47766.
fn dev_symlink(shim: &mut Shim) {
    shim.enter(|_| {});
    let canary = Canary::new(shim);
    for (kind, link) in links(&canary.dir).iter().enumerate() {
        let layer = shim.layer(&kind.to_string());
        symlink(&canary.dir, layer.join("chain")).expect("link");
        symlink(link, layer.join("dev")).expect("link");
        let mut plan = shim.plan_on(&layer, "true");
        let device = |path: &str| DevicePlan {
            path: path.to_owned(),
            kind: u32::from('c'),
            major: 1,
            minor: 3,
            mode: 0o666,
            ..DevicePlan::default()
        };
        plan.devices = vec![device("/dev/extra")];
        assert_eq!(shim.refused(&plan).stage, Stage::Mount);
        // Nodes outside /dev stay inside the root.
        let mut plan = shim.plan_on(&layer, "true");
        plan.mounts.retain(|mount| !mount.destination.starts_with("/dev"));
        plan.devices = vec![device("/chain/extra")];
        shim.refused(&plan);
        canary.assert_unchanged();
    }
}

/// CVE-2026-88264, CVE-2025-52565: what the image has in `/dev` plays no part.
fn hostile_dev_nodes(shim: &mut Shim) {
    shim.enter(|_| {});
    let canary = Canary::new(shim);
    let layer = shim.layer("dev");
    fs::create_dir_all(layer.join("dev/pts")).expect("mkdir");
    for name in ["console", "null", "ptmx", "tty", "fd", "pts/0", "pts/ptmx"] {
        symlink(canary.dir.join("file"), layer.join("dev").join(name)).expect("link");
    }
    let script = "stat -c %t:%T /dev/null; echo x > /dev/null; readlink /dev/ptmx; echo $(ls /dev/pts)";
    let plan = shim.plan_on(&layer, script);
    assert_eq!(shim.run(&plan).good(), "1:3\npts/ptmx\nptmx\n");
    let mut plan = shim.plan_on(&layer, "stat -c %t /dev/console; echo x > /dev/console");
    plan.process.terminal = true;
    assert_eq!(shim.run(&plan).good().replace('\r', ""), "88\nx\n");
    canary.assert_unchanged();
    // With a /dev of the image's own, there is no terminal to be had from it.
    let mut plan = shim.plan_on(&layer, "true");
    plan.process.terminal = true;
    plan.mounts.retain(|mount| !mount.destination.starts_with("/dev"));
    plan.mounts.push(bind(&layer.join("dev"), "/dev"));
    plan.pod_shm = false;
    assert_eq!(shim.refused(&plan).stage, Stage::Terminal);
    canary.assert_unchanged();
}

/// CVE-2024-21626, CVE-2026-55686.
fn working_directory(shim: &mut Shim) {
    shim.enter(|_| {});
    let canary = Canary::new(shim);
    let layer = shim.layer("cwd");
    for (index, link) in links(&canary.dir).iter().enumerate() {
        symlink(link, layer.join(format!("link{index}"))).expect("link");
    }
    symlink(&canary.dir, layer.join("chain")).expect("link");
    for number in 3..64 {
        symlink(format!("/proc/self/fd/{number}"), layer.join(format!("fd{number}"))).expect("link");
    }
    let up = shim.plan("sleep 100");
    let running = shim.start(&up).expect("runs");
    for number in 3..64 {
        let mut plan = shim.plan_on(&layer, "pwd");
        plan.process.cwd = format!("/proc/self/fd/{number}");
        assert_eq!(shim.refused(&plan).stage, Stage::WorkingDirectory);
        if number % 8 == 3 {
            plan.process.cwd = format!("/fd{number}");
            assert_eq!(shim.refused(&plan).stage, Stage::WorkingDirectory);
            let mut exec = shell("pwd");
            exec.cwd = format!("/proc/self/fd/{number}");
            assert!(matches!(shim.exec(&running, &exec), Err(ExecError::Child(_))));
        }
    }
    for cwd in ["/link0/new", "/link1/new", "/link2/new", "/../../new", "/chain/../../../new"] {
        let mut plan = shim.plan_on(&layer, "pwd; touch made-here");
        plan.process.cwd = cwd.to_owned();
        let out = shim.run(&plan).good();
        let upper = Path::new(&plan.rootfs.upper);
        let inside = upper.join(out.trim().trim_start_matches('/')).join("made-here");
        assert!(inside.exists(), "{cwd}: {out}");
        canary.assert_unchanged();
    }
}

/// CVE-2021-30465, CVE-2024-45310, CVE-2022-23648.
fn mount_points(shim: &mut Shim) {
    shim.enter(|_| {});
    let canary = Canary::new(shim);
    let volume = shim.layer("volume");
    fs::write(volume.join("seen"), "volume").expect("write");
    let layer = shim.layer("links");
    symlink(&canary.dir, layer.join("chain")).expect("link");
    for (index, link) in links(&canary.dir).iter().enumerate() {
        symlink(link, layer.join(format!("link{index}"))).expect("link");
    }
    symlink("/", layer.join("root-link")).expect("link");
    symlink("loop", layer.join("loop")).expect("link");
    for (target, seen) in [
        ("/link0", true),
        ("/link1/new/deep", true),
        ("/link2/dir", true),
        ("/root-link/../../etc/new", true),
        ("/../../../canary", true),
        ("/loop/x", false),
        ("/proc/self/root/x", false),
        ("/proc/self/fd/3/x", false),
    ] {
        let mut plan = shim.plan_on(&layer, &format!("cat {target}/seen; touch {target}/new"));
        plan.mounts.push(bind(&volume, target));
        match shim.start(&plan) {
            Ok(running) => {
                assert!(seen, "{target}");
                assert_eq!(running.finish().good(), "volume", "{target}");
                fs::remove_file(volume.join("new")).expect("written to the volume");
            }
            Err(RunError::Create(error)) => assert!(!seen, "{target}: {}", chain(&error)),
            Err(error) => panic!("{target}: {error:?}"),
        }
        canary.assert_unchanged();
    }
}

/// Puts something at a path.
type MakeFile = fn(&Path);

/// CVE-2024-5154, CVE-2024-9676.
fn etc_files(shim: &mut Shim) {
    shim.enter(|_| {});
    let canary = Canary::new(shim);
    let hosts = shim.dir.join("hosts");
    fs::write(&hosts, "hosts").expect("write");
    // The whole folder elsewhere.
    let layer = shim.layer("etc-link");
    symlink(format!("{}{}", "../".repeat(9), canary.dir.display()), layer.join("etc")).expect("link");
    let mut plan = shim.plan_on(&layer, "cat /etc/hosts");
    plan.mounts.push(bind(&hosts, "/etc/hosts"));
    assert_eq!(shim.run(&plan).good(), "hosts");
    canary.assert_unchanged();
    // Each file something else.
    let kinds: [(&str, MakeFile); 4] = [
        ("fifo", |path| {
            let status = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo");
            assert!(status.success());
        }),
        ("device", |path| {
            let status = std::process::Command::new("mknod").arg(path).args(["c", "1", "5"]).status();
            assert!(status.expect("mknod").success());
        }),
        ("folder", |path| fs::create_dir(path).expect("mkdir")),
        ("huge", |path| fs::File::create(path).expect("create").set_len(10 << 30).expect("sparse")),
    ];
    for (kind, make) in kinds {
        for file in ["passwd", "group"] {
            let layer = shim.layer(&format!("{kind}-{file}"));
            fs::create_dir(layer.join("etc")).expect("mkdir");
            make(&layer.join("etc").join(file));
            let mut plan = shim.plan_on(&layer, "true");
            plan.process.user.user = Some(WantedUser::Uid(1000));
            plan.process.user.merge_image_groups = true;
            let failure = shim.refused(&plan);
            assert_eq!(failure.stage, Stage::User, "{kind} {file}: {failure}");
        }
    }
    // A link to a file that exists on the host alone.
    let layer = shim.layer("passwd-link");
    fs::create_dir(layer.join("etc")).expect("mkdir");
    symlink(canary.dir.join("file"), layer.join("etc/passwd")).expect("link");
    let plan = shim.plan_on(&layer, "id -u");
    assert_eq!(shim.run(&plan).good(), "0\n");
    canary.assert_unchanged();
}

/// CVE-2025-31133, CVE-2025-62161.
fn masked_by_fake_null(shim: &mut Shim) {
    shim.enter(|_| {});
    let canary = Canary::new(shim);
    for (index, target) in ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"].iter().enumerate() {
        let dev = shim.layer(&format!("dev{index}"));
        for dir in ["pts", "mqueue", "shm"] {
            fs::create_dir(dev.join(dir)).expect("mkdir");
        }
        symlink(target, dev.join("null")).expect("link");
        let mut plan = shim
            .plan("cat /proc/keys; echo '|/evil' > /proc/keys; cat /dev/null > /tmp/x; echo x > /dev/null");
        plan.mounts.retain(|mount| mount.destination != "/dev");
        plan.mounts.insert(0, bind(&dev, "/dev"));
        plan.masked_paths.push("/proc/sysrq-trigger".to_owned());
        let outcome = shim.run(&plan);
        assert_eq!(outcome.out, "", "{outcome:?}");
        canary.assert_unchanged();
    }
}

/// CVE-2026-88265.
fn standard_streams(shim: &mut Shim) {
    shim.enter(|_| {});
    let canary = Canary::new(shim);
    let dev = shim.layer("dev");
    for dir in ["pts", "mqueue", "shm"] {
        fs::create_dir(dev.join(dir)).expect("mkdir");
    }
    symlink("/host/file", dev.join("null")).expect("link");
    let mut plan = shim.plan("cat; stat -L -c '%F %t:%T' /proc/self/fd/0");
    plan.mounts.retain(|mount| mount.destination != "/dev");
    plan.mounts.insert(0, bind(&dev, "/dev"));
    plan.mounts.push(bind(&canary.dir, "/host"));
    plan.process.user.user = Some(WantedUser::Uid(1000));
    let out = shim.run(&plan).good();
    assert_eq!(out, "character special file 1:3\n");
    canary.assert_unchanged();
}

/// CVE-2016-3697, CVE-2024-40635, CVE-2026-46680, CVE-2026-30892.
fn users_by_number(shim: &mut Shim) {
    shim.enter(|_| {});
    let layer = shim.layer("users");
    fs::create_dir(layer.join("etc")).expect("mkdir");
    let passwd = "1000:x:0:0::/:\n4294967296:x:0:0::/:\n1:x:0:0::/:\nlow:x:0x0:0::/:\nroot:x:0:0::/root:\n";
    fs::write(layer.join("etc/passwd"), passwd).expect("write");
    for uid in [1, 1000, 2_147_483_648, u32::MAX - 1] {
        let mut plan = shim.plan_on(&layer, "id -u; id -g");
        plan.process.user.user = Some(WantedUser::Uid(uid));
        assert_eq!(shim.run(&plan).good(), format!("{uid}\n0\n"));
    }
    let refused = [
        "00",
        "+0",
        "-1",
        "1:",
        ":1",
        "4294967295",
        "4294967296",
        "99999999999999999999",
        "1000:4294967297",
        " 0",
        "0x0",
        "root\n",
        "low",
        "1000",
        "",
    ];
    for name in refused {
        let mut plan = shim.plan_on(&layer, "id -u");
        plan.process.user.user = Some(WantedUser::Name(name.to_owned()));
        assert_eq!(shim.refused(&plan).stage, Stage::User, "{name:?}");
    }
    let mut plan = shim.plan_on(&layer, "id -u");
    plan.process.user.user = Some(WantedUser::Uid(u32::MAX));
    assert_eq!(shim.refused(&plan).stage, Stage::User);
}

/// CVE-2022-4318, CVE-2026-15809: the image's files are read, never written.
fn home(shim: &mut Shim) {
    shim.enter(|_| {});
    let layer = shim.layer("home");
    fs::create_dir(layer.join("etc")).expect("mkdir");
    let passwd = "web:x:1000:1000::/h\\nevil:\r:/bin/sh\n";
    fs::write(layer.join("etc/passwd"), passwd).expect("write");
    for home in ["HOME=/x\nevil:x:0:0::/:", "HOME=/x\rb", "HOME=a:b:c", "HOME=\\n"] {
        let mut plan = shim.plan_on(&layer, "cat /etc/passwd");
        plan.process.user.user = Some(WantedUser::Uid(1000));
        plan.process.env.push(home.as_bytes().to_vec());
        assert_eq!(shim.run(&plan).good(), passwd);
        assert!(!Path::new(&plan.rootfs.upper).join("etc").exists());
    }
    let mut plan = shim.plan_on(&layer, "echo \"$HOME\"");
    plan.process.user.user = Some(WantedUser::Uid(1000));
    assert_eq!(shim.run(&plan).good(), "/h\\nevil\n");
}

/// CVE-2022-36109, CVE-2022-2990, CVE-2023-25173: negative groups.
fn groups(shim: &mut Shim) {
    shim.enter(|_| {});
    let layer = shim.layer("groups");
    fs::create_dir(layer.join("etc")).expect("mkdir");
    fs::write(layer.join("etc/passwd"), "u:x:1000:1000::/:\n").expect("write");
    fs::write(layer.join("etc/group"), "bad:x:70:u\n").expect("write");
    let closed = layer.join("closed");
    fs::write(&closed, "secret").expect("write");
    std::os::unix::fs::chown(&closed, Some(0), Some(70)).expect("chown");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o604)).expect("chmod");
    for (merge, supplemental, readable) in
        [(true, vec![], false), (false, vec![70], false), (false, vec![], true)]
    {
        let mut plan = shim.plan_on(&layer, "cat /closed");
        plan.process.user.user = Some(WantedUser::Uid(1000));
        plan.process.user.merge_image_groups = merge;
        plan.process.user.supplemental_groups = supplemental;
        assert_eq!(shim.run(&plan).status == 0, readable);
    }
}

/// CVE-2019-5736, CVE-2016-9962.
fn own_program(shim: &mut Shim) {
    shim.enter(|_| {});
    let before = fs::metadata("/proc/self/exe").expect("stat").modified().expect("mtime");
    let layer = shim.layer("exe");
    fs::write(layer.join("run"), "#!/proc/self/exe\n").expect("write");
    fs::set_permissions(layer.join("run"), fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut plan = shim.plan_on(&layer, "");
    plan.process.args = vec![b"/run".to_vec()];
    if let Ok(running) = shim.start(&plan) {
        running.finish();
    }
    // A container that watches for processes that come in, and goes for what they run and have open.
    let watcher = shim.plan(
        "echo up; while :; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) continue;; esac; \
         for f in $p/exe $p/fd/*; do [ -e $f ] && readlink $f; done; done; done 2>/dev/null",
    );
    let running = shim.start(&watcher).expect("runs");
    assert_eq!(running.line(), "up");
    for _ in 0..rounds(50) {
        shim.exec(&running, &shell("true")).expect("runs").good();
    }
    running.kill();
    let seen = running.seen();
    for line in seen.lines() {
        let allowed = line == "/bin/busybox"
            || line.starts_with("pipe:")
            || line.starts_with("/dev/")
            || line.starts_with("/proc")
            || line == "/";
        assert!(allowed, "{line}");
    }
    assert_eq!(fs::metadata("/proc/self/exe").expect("stat").modified().expect("mtime"), before);
}

/// CVE-2022-0811, CVE-2022-0532.
fn sysctl_injection(shim: &mut Shim) {
    let canary = Canary::new(shim);
    for (key, value) in [
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x"),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/x"),
        ("kernel.core_pattern", "|/x"),
        ("kernel.sem/../core_pattern", "|/x"),
        ("kernel.hostname", "x"),
        ("net.ipv4.ip_forward", "1"),
    ] {
        let sysctls = vec![Sysctl { key: key.to_owned(), value: value.to_owned() }];
        let plan = SandboxPlan { sysctls, ..SandboxPlan::default() };
        assert!(Sandbox::enter(&plan, Vec::new()).is_err(), "{key}");
        canary.assert_unchanged();
    }
}

/// CVE-2021-30465, CVE-2024-45310, raced: a process of the pod swaps a folder of a shared volume for
/// a link while another container's mounts are made below it.
fn swapped_mount_point(shim: &mut Shim) {
    shim.enter(|_| {});
    let canary = Canary::new(shim);
    let shared = shim.layer("shared");
    fs::create_dir_all(shared.join("a")).expect("mkdir");
    symlink(format!("{}{}", "../".repeat(12), canary.dir.display()), shared.join("b")).expect("link");
    let volume = shim.layer("volume");
    // A swap in three renames, as busybox has no RENAME_EXCHANGE; a gap in between is part of it.
    let mut swapper =
        shim.plan("cd /shared; echo up; while :; do mv -T a c && mv -T b a && mv -T c b; done 2>/dev/null");
    swapper.mounts.push(bind(&shared, "/shared"));
    let running = shim.start(&swapper).expect("runs");
    assert_eq!(running.line(), "up");
    for round in 0..rounds(100) {
        let mut plan = shim.plan("ls /shared/a/../../canary 2>/dev/null; true");
        plan.mounts.push(bind(&shared, "/shared"));
        plan.mounts.push(bind(&volume, &format!("/shared/a/new{round}")));
        plan.mounts.push(bind(&shim.dir.join("canary/file"), &format!("/shared/a/file{round}")));
        if let Ok(running) = shim.start(&plan) {
            assert_eq!(running.finish().out, "");
        }
        canary.assert_unchanged();
    }
    running.kill();
}
