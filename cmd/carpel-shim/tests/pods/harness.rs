//! A shim as a test holds it, and what its containers are made of.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use carpel_cgroups::{Cgroup, CgroupPath, Tree};
use carpel_shim_api::message::{ContainerRef, Create, Exec, ExecPlan, Kill, PullDown, reply, request};
use carpel_shim_api::plan::mount_plan::Source;
use carpel_shim_api::plan::{
    Capabilities, CgroupPlan, ContainerPlan, DeviceRule, FilesystemSource, MountPlan, PidNamespace,
    ProcessPlan, RootfsPlan, SandboxPlan, UserPlan,
};
use carpel_shim_api::record::{EXITS_DIR, ExitRecord, SOCKET_NAME};
use carpel_sys::clone::Process;
use carpel_sys::exec::CStringList;
use carpel_sys::spawn::{Program, spawn_shim};
use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use tempfile::TempDir;

use crate::daemon::Daemon;

/// Nothing that these tests wait for takes this long; one that does is a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// CHOWN to AUDIT_WRITE, SETFCAP: a container's capabilities by default.
const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;
static PODS: AtomicU32 = AtomicU32::new(0);

/// A shim with a pod.
pub(crate) struct Pod {
    pub(crate) dir: PathBuf,
    pub(crate) process: Process,
    pub(crate) daemon: Daemon,
    parent: String,
    is_over: bool,
    folder: TempDir,
}

impl Pod {
    /// Starts a shim and sets a pod up in it.
    pub(crate) fn start() -> Pod {
        Pod::start_with(|_| {})
    }

    pub(crate) fn start_with(change: impl FnOnce(&mut SandboxPlan)) -> Pod {
        let mut pod = Pod::bare();
        let mut plan = SandboxPlan {
            pod_id: "a".repeat(64),
            pod_dir: pod.dir.display().to_string(),
            hostname: "pod".to_owned(),
            shm_size_bytes: 1 << 20,
            ..SandboxPlan::default()
        };
        change(&mut plan);
        match pod.daemon.ask(request::Body::Sandbox(plan)) {
            reply::Body::Sandbox(_) => pod,
            other => panic!("no sandbox: {other:?}"),
        }
    }

    /// Starts a shim, without a sandbox.
    pub(crate) fn bare() -> Pod {
        let folder = tempfile::Builder::new().prefix("carpel-shim-").tempdir().expect("a folder");
        let dir = folder.path().join("pod");
        fs::create_dir(&dir).expect("the pod's folder");
        make_base(&folder.path().join("base"));
        let listener = UnixListener::bind(dir.join(SOCKET_NAME)).expect("bind");
        let exe: OwnedFd = File::open(program()).expect("the shim").into();
        let strings = |list: &[&str]| {
            CStringList::new(list.iter().map(|s| CString::new(*s).expect("no NUL")).collect())
        };
        let argv = strings(&["carpel-shim", "--pod-dir", &dir.display().to_string()]);
        let log = File::create(folder.path().join("shim.log")).expect("log");
        let program = Program {
            exe: exe.as_fd(),
            argv: &argv,
            envp: &strings(&[]),
            listener: listener.as_fd(),
            log: log.as_fd(),
            cgroup: None,
        };
        let process = spawn_shim(&program).expect("start the shim");
        let number = PODS.fetch_add(1, Ordering::Relaxed);
        let parent = format!("/carpel-test-shim-{}-{number}", std::process::id());
        let daemon = Daemon::connect(&dir);
        Pod { dir, process, daemon, parent, is_over: false, folder }
    }

    /// A folder of this pod's, outside of the shim's.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.folder.path().join("logs").join(id).join("0.log")
    }

    /// A container that runs a shell script, with a log.
    pub(crate) fn shell(&self, id: &str, script: &str) -> Create {
        self.command(id, &["/bin/sh", "-c", script])
    }

    pub(crate) fn command(&self, id: &str, args: &[&str]) -> Create {
        let own = self.folder.path().join("containers").join(id);
        Create {
            container_id: id.to_owned(),
            plan: ContainerPlan {
                process: process(args),
                rootfs: RootfsPlan {
                    lowers: vec![self.folder.path().join("base").display().to_string()],
                    upper: own.join("upper").display().to_string(),
                    work: own.join("work").display().to_string(),
                    ..RootfsPlan::default()
                },
                mounts: mounts(),
                pid_namespace: PidNamespace::Container.into(),
                cgroup: CgroupPlan {
                    path: format!("{}/{id}", self.parent),
                    device_rules: device_rules(),
                    ..CgroupPlan::default()
                },
                ..ContainerPlan::default()
            },
            log_path: self.log_path(id).display().to_string(),
            ..Create::default()
        }
    }

    pub(crate) fn cgroup_path(&self, id: &str) -> CgroupPath {
        CgroupPath::parse(&format!("{}/{id}", self.parent)).expect("a path")
    }

    /// The container's cgroup.
    pub(crate) fn cgroup(&self, id: &str) -> Cgroup {
        Cgroup::open(tree(), &self.cgroup_path(id)).expect("the container's cgroup")
    }

    pub(crate) fn create(&mut self, create: Create) -> i32 {
        match self.daemon.ask(request::Body::Create(create)) {
            reply::Body::Created(created) => created.pid,
            other => panic!("not created: {other:?}"),
        }
    }

    pub(crate) fn start_container(&mut self, id: &str) {
        match self.daemon.ask(request::Body::Start(container(id))) {
            reply::Body::Started(started) => assert!(started.started_at_ns > 0),
            other => panic!("not started: {other:?}"),
        }
    }

    /// Creates and starts.
    pub(crate) fn run(&mut self, create: Create) -> i32 {
        let id = create.container_id.clone();
        let pid = self.create(create);
        self.start_container(&id);
        pid
    }

    /// Runs a shell script to its end.
    pub(crate) fn finish(&mut self, id: &str, script: &str) -> ExitRecord {
        let create = self.shell(id, script);
        self.run(create);
        self.daemon.exit_of(id)
    }

    pub(crate) fn delete(&mut self, id: &str) {
        self.daemon.done(request::Body::Delete(container(id)));
    }

    pub(crate) fn kill(&mut self, id: &str, signal: i32) {
        let kill = Kill { container_id: id.to_owned(), signal, all: false };
        self.daemon.done(request::Body::Kill(kill));
    }

    pub(crate) fn record(&self, id: &str) -> Option<ExitRecord> {
        let bytes = fs::read(self.dir.join(EXITS_DIR).join(id)).ok()?;
        Some(ExitRecord::decode(bytes.as_slice()).expect("a whole record"))
    }

    pub(crate) fn log(&self, id: &str) -> String {
        fs::read_to_string(self.log_path(id)).expect("the log")
    }

    /// What a container said on a stream, put together from its records.
    pub(crate) fn said(&self, id: &str, stream: &str) -> String {
        content(&self.log(id), stream)
    }

    /// Ends the shim as the daemon does, and waits until it has ended.
    pub(crate) fn shut_down(&mut self) {
        self.daemon.done(request::Body::Shutdown(PullDown {}));
        self.is_over = true;
        assert_eq!(self.wait(), Some(0));
    }

    /// Kills the shim and waits.
    pub(crate) fn kill_shim(&mut self) {
        pidfd_send_signal(&self.process.pidfd, Signal::KILL).expect("kill the shim");
        self.is_over = true;
        self.wait();
    }

    /// The shim's exit status, once it has ended.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        wait_for(self.process.pidfd.as_fd(), PollFlags::IN, "the shim's end");
        self.is_over = true;
        let id = WaitId::PidFd(self.process.pidfd.as_fd());
        waitid(id, WaitIdOptions::EXITED).expect("wait").and_then(|status| status.exit_status())
    }

    pub(crate) fn shim_pid(&self) -> i32 {
        self.process.pid.as_raw_nonzero().get()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("shim.log")).unwrap_or_default();
            eprintln!("the shim's own words: {log:?}");
        }
        if !self.is_over {
            // The children die with it, by the kernel's hand.
            let _ended = pidfd_send_signal(&self.process.pidfd, Signal::KILL);
            let _reaped = waitid(WaitId::PidFd(self.process.pidfd.as_fd()), WaitIdOptions::EXITED);
        }
        let parent = CgroupPath::parse(&self.parent).expect("a path");
        if let Ok(cgroup) = Cgroup::open(tree(), &parent) {
            let _none = cgroup.kill();
            if let Err(error) = cgroup.delete(Duration::from_secs(10)) {
                eprintln!("the pod's cgroup is left: {error}");
            }
        }
    }
}

pub(crate) fn container(id: &str) -> ContainerRef {
    ContainerRef { container_id: id.to_owned() }
}

/// An exec with stdout and stderr, of the container's own kind of process.
pub(crate) fn exec(container_id: &str, exec_id: &str, args: &[&str]) -> Exec {
    Exec {
        container_id: container_id.to_owned(),
        exec_id: exec_id.to_owned(),
        plan: ExecPlan { args: bytes(args), ..ExecPlan::default() },
        stdin: false,
        stdout: true,
        stderr: true,
    }
}

pub(crate) fn process(args: &[&str]) -> ProcessPlan {
    let all = DEFAULT_CAPABILITIES;
    ProcessPlan {
        args: bytes(args),
        env: bytes(&["PATH=/bin", "TERM=xterm"]),
        cwd: "/".to_owned(),
        user: UserPlan::default(),
        capabilities: Capabilities {
            bounding: all,
            effective: all,
            permitted: all,
            ..Capabilities::default()
        },
        no_new_privileges: true,
        ..ProcessPlan::default()
    }
}

fn bytes(strings: &[&str]) -> Vec<Vec<u8>> {
    strings.iter().map(|s| s.as_bytes().to_vec()).collect()
}

fn mounts() -> Vec<MountPlan> {
    let mount = |destination: &str, fs_type: &str, options: &[&str]| MountPlan {
        destination: destination.to_owned(),
        source: Some(Source::Filesystem(FilesystemSource {
            fs_type: fs_type.to_owned(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
        })),
        ..MountPlan::default()
    };
    vec![
        mount("/proc", "proc", &[]),
        mount("/dev", "tmpfs", &["mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/tmp", "tmpfs", &["size=64m"]),
    ]
}

/// What runc allows by default: making any node, using the harmless ones.
fn device_rules() -> Vec<DeviceRule> {
    let rule = |kind: char, major: Option<u32>, minor: Option<u32>, all: bool| DeviceRule {
        allow: true,
        kind: u32::from(kind),
        major,
        minor,
        read: all,
        write: all,
        mknod: true,
    };
    let mut rules = vec![rule('c', None, None, false), rule('b', None, None, false)];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule('c', Some(major), Some(minor), true));
    }
    rules.push(rule('c', Some(136), None, true));
    rules
}

/// The shim of this build, or another one to be tested: the shipped one is built otherwise.
fn program() -> PathBuf {
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_carpel-shim"));
    std::env::var_os("CARPEL_TEST_SHIM").map_or_else(built, PathBuf::from)
}

/// A root with busybox under all of its names.
fn make_base(base: &Path) {
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"] {
        fs::create_dir_all(base.join(dir)).expect("make the root");
    }
    fs::copy("/bin/busybox", base.join("bin/busybox")).expect("busybox-static is installed");
    for applet in applets().lines().filter(|name| *name != "busybox") {
        symlink("busybox", base.join("bin").join(applet)).expect("link an applet");
    }
    fs::write(base.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("write passwd");
    fs::write(base.join("etc/group"), "root:x:0:\n").expect("write group");
}

fn applets() -> &'static str {
    static APPLETS: OnceLock<String> = OnceLock::new();
    APPLETS.get_or_init(|| {
        let list = Command::new("/bin/busybox").arg("--list").output().expect("list applets");
        String::from_utf8(list.stdout).expect("names")
    })
}

pub(crate) fn tree() -> &'static Arc<Tree> {
    static TREE: OnceLock<Arc<Tree>> = OnceLock::new();
    TREE.get_or_init(|| Arc::new(Tree::detect().expect("cgroups")))
}

/// What a stream said, by the records of a log.
pub(crate) fn content(log: &str, stream: &str) -> String {
    let mut said = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ');
        let (time, of, tag, text) = (fields.next(), fields.next(), fields.next(), fields.next());
        assert!(time.is_some_and(|t| t.len() == 30 && t.ends_with('Z')), "{line:?}");
        let (Some(of), Some(tag), Some(text)) = (of, tag, text) else { panic!("no record: {line:?}") };
        assert!(matches!(of, "stdout" | "stderr"), "{line:?}");
        if of == stream {
            said.push_str(text);
            match tag {
                "F" => said.push('\n'),
                "P" => {}
                other => panic!("tag {other:?}"),
            }
        }
    }
    said
}

pub(crate) fn wait_for(fd: BorrowedFd<'_>, flags: PollFlags, what: &str) {
    let limit = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs()).expect("fits"), tv_nsec: 0 };
    let ready = poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&limit)).expect("poll");
    assert!(ready > 0, "waited {PATIENCE:?} for {what}");
}

/// Looks again and again until it is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads to the end of a descriptor that may not block.
pub(crate) fn read_all(fd: &OwnedFd) -> String {
    let mut said = Vec::new();
    let mut file = File::from(fd.try_clone().expect("dup"));
    let mut chunk = [0u8; 4096];
    loop {
        wait_for(fd.as_fd(), PollFlags::IN, "output");
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => said.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            // A terminal ends so.
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// Reads until the text has been seen.
pub(crate) fn read_until(fd: &OwnedFd, wanted: &str) -> String {
    let mut said = String::new();
    let mut chunk = [0u8; 4096];
    while !said.contains(wanted) {
        wait_for(fd.as_fd(), PollFlags::IN, wanted);
        match rustix::io::read(fd, &mut chunk) {
            Ok(0) => panic!("the end instead of {wanted:?}: {said:?}"),
            Ok(n) => said.push_str(&String::from_utf8_lossy(&chunk[..n])),
            Err(rustix::io::Errno::AGAIN) => {}
            Err(e) => panic!("{e} instead of {wanted:?}: {said:?}"),
        }
    }
    said
}

/// Whether a process of the host is there and no zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}
