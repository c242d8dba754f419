//! Runs cases, and containers in them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use carpel_cgroups::{Cgroup, CgroupPath, Limits, Tree};
use carpel_oci_runtime::cgroup::Membership;
use carpel_oci_runtime::create::{self, CreateError, Created, Progress, StartError, StartProgress};
use carpel_oci_runtime::exec::{self, ExecError};
use carpel_oci_runtime::report::Failure;
use carpel_oci_runtime::sandbox::Sandbox;
use carpel_oci_runtime::stdio::Stdio;
use carpel_shim_api::plan::mount_plan::Source;
use carpel_shim_api::plan::{
    BindSource, Capabilities, ContainerPlan, FilesystemSource, IdMappings, IdRange, MountPlan, PidNamespace,
    ProcessPlan, RootfsPlan, SandboxPlan, UserPlan,
};
use carpel_shim_api::record::User;
use carpel_sys::clone::{CloneRequest, Process, SingleThreaded, clone_process};
use carpel_sys::mount::{AttrChange, PropagationType, set_attr};
use carpel_sys::namespace::{Kind, unshare};
use carpel_sys::userns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

pub(crate) const ATTR_RDONLY: u64 = 1;
pub(crate) const ATTR_NOSUID: u64 = 2;
pub(crate) const ATTR_NODEV: u64 = 4;
pub(crate) const ATTR_NOEXEC: u64 = 8;
/// A case that takes longer is stuck, unless more rounds were asked for than usual.
const CASE_SECONDS: i64 = 60;
/// What so many rounds more may take each.
const ROUNDS_IN_A_SECOND: i64 = 2;
/// The capabilities of a container by default, and root's own: CHOWN to AUDIT_WRITE, SETFCAP.
pub(crate) const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

pub(crate) type Case = (&'static str, fn(&mut Shim));

/// Runs each selected case in a process of its own.
pub(crate) fn run_all(cases: &[Case]) -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let dir = std::env::temp_dir().join(format!("carpel-oci-{}", std::process::id()));
    make_base(&dir.join("base"));
    let alone = SingleThreaded::prove().expect("the harness has one thread");
    own_table();
    let before = mounts();
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, case) in cases {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let status = run_case(&alone, &dir, name, *case);
        say(&format!("{name} ... {}", if status == 0 { "ok" } else { "FAILED" }));
        if status == 0 {
            passed += 1;
        } else {
            failed.push(*name);
        }
        assert!(mounts().is_subset(&before), "{name}: the host's mount table has grown");
    }
    let _removed = fs::remove_dir_all(&dir);
    say(&format!("failed: {failed:?}"));
    // Scripts that run many suites add up this line, which is as cargo's own.
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    say(&format!("test result: {word}. {passed} passed; {} failed; 0 ignored", failed.len()));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How often a race is tried: `CARPEL_RACE_ROUNDS`, else as given.
pub(crate) fn rounds(usual: usize) -> usize {
    std::env::var("CARPEL_RACE_ROUNDS").map_or(usual, |text| text.parse().expect("a number of rounds"))
}

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("print");
}

fn run_case(alone: &SingleThreaded, dir: &Path, name: &str, case: fn(&mut Shim)) -> i32 {
    let process = clone_process(alone, &CloneRequest::default(), |_| {
        drop(panic::take_hook());
        let mut shim = Shim::new(dir, name);
        let result = panic::catch_unwind(AssertUnwindSafe(|| case(&mut shim)));
        shim.clean_up();
        i32::from(result.is_err())
    });
    let process = process.expect("clone a case");
    let asked = i64::try_from(rounds(0)).expect("a number of rounds");
    let limit = Timespec { tv_sec: CASE_SECONDS + asked / ROUNDS_IN_A_SECOND, tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(&process.pidfd, PollFlags::IN)], Some(&limit)).expect("poll");
    if ended == 0 {
        say(&format!("{name}: stuck"));
        pidfd_send_signal(&process.pidfd, Signal::KILL).expect("kill");
    }
    let status = waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED).expect("wait");
    status.and_then(|status| status.exit_status()).unwrap_or(-1)
}

/// A root with busybox under all of its names.
fn make_base(base: &Path) {
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "home/web"] {
        fs::create_dir_all(base.join(dir)).expect("make the root");
    }
    fs::copy("/bin/busybox", base.join("bin/busybox")).expect("busybox-static is installed");
    let list = Command::new("/bin/busybox").arg("--list").output().expect("list applets");
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        symlink("busybox", base.join("bin").join(applet)).expect("link an applet");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/home/web:/bin/sh\n";
    fs::write(base.join("etc/passwd"), passwd).expect("write passwd");
    fs::write(base.join("etc/group"), "root:x:0:\nweb:x:1000:\nlog:x:40:web\n").expect("write group");
}

/// A mount table that is a peer of nobody's, so that what others mount meanwhile is not seen in it; what they delete is
/// gone from it too. It is shared as a node's with systemd is: what leaves a container by that is seen.
fn own_table() {
    unshare(&[Kind::Mount]).expect("a mount namespace of our own");
    let root = File::open("/").expect("open /");
    for propagation in [PropagationType::Private, PropagationType::Shared] {
        let change = AttrChange { propagation: Some(propagation), recursive: true, ..AttrChange::default() };
        set_attr(root.as_fd(), change).expect("set the propagation of all");
    }
}

/// The numbers of the mounts that this process sees. proc_pid_mountinfo(5)
pub(crate) fn mounts() -> BTreeSet<u64> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    let number = |line: &str| line.split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
    table.lines().map(number).collect()
}

/// The case's process, as the shim of one pod.
pub(crate) struct Shim {
    pub(crate) dir: PathBuf,
    base: PathBuf,
    tree: Arc<Tree>,
    cgroups: Vec<Cgroup>,
    id: String,
    sandbox: Option<Sandbox>,
    made: usize,
    /// The pod is to have a user namespace with these ids.
    ids: Option<IdRange>,
    /// To be used before new ones are made.
    spare: Vec<Cgroup>,
}

/// How a process ended and what it said.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A container whose program runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) user: User,
    pub(crate) console: Option<OwnedFd>,
    pub(crate) cgroup: Cgroup,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// Why a container does not run.
#[derive(Debug)]
pub(crate) enum RunError {
    Create(CreateError),
    Start(StartError),
}

impl RunError {
    /// What the child said.
    pub(crate) fn failure(self) -> Failure {
        match self {
            Self::Create(CreateError::Init(failure)) | Self::Start(StartError::Init(failure)) => failure,
            other => panic!("not the child's own failure: {other:?}"),
        }
    }
}

/// The host's ends of a process's pipes.
struct Pipes {
    stdout: OwnedFd,
    stderr: OwnedFd,
}

fn streams() -> (Stdio, Pipes) {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).expect("pipe");
    let stdin = File::options().read(true).write(true).open("/dev/null").expect("open null");
    let ((out, their_out), (err, their_err)) = (pipe(), pipe());
    let stdio = Stdio::Streams { stdin: stdin.into(), stdout: their_out, stderr: their_err };
    (stdio, Pipes { stdout: out, stderr: err })
}

pub(crate) fn wait_readable(fd: impl AsFd) {
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).expect("poll");
}

/// Reads to the end, in this thread: output of cases fits into a pipe.
pub(crate) fn read_all(fd: OwnedFd) -> String {
    let mut bytes = Vec::new();
    // A terminal whose other end is closed ends with EIO.
    let _end = File::from(fd).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn wait_status(pidfd: BorrowedFd<'_>) -> i32 {
    let status = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED).expect("wait").expect("a status");
    status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().expect("a signal"))
}

impl Shim {
    fn new(dir: &Path, name: &str) -> Self {
        let id = format!("{}-{}", std::process::id(), name.replace(' ', "-"));
        let own = dir.join(&id);
        fs::create_dir_all(&own).expect("make the case's folder");
        let tree = Arc::new(Tree::detect().expect("cgroups"));
        let base = dir.join("base");
        Self {
            dir: own,
            base,
            tree,
            cgroups: Vec::new(),
            id,
            sandbox: None,
            made: 0,
            ids: None,
            spare: Vec::new(),
        }
    }

    fn clean_up(&mut self) {
        self.forget_cgroups();
        let _removed = fs::remove_dir_all(&self.dir);
    }

    /// Kills what is left in the containers' cgroups, and removes them.
    pub(crate) fn forget_cgroups(&mut self) {
        for cgroup in self.cgroups.drain(..) {
            cgroup.kill().expect("kill what is left");
            while waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
                .is_ok_and(|w| w.is_some())
            {}
            cgroup.delete(Duration::from_secs(5)).expect("delete the cgroup");
        }
    }

    /// Has the pod that is entered next have a user namespace, and a network namespace too.
    pub(crate) fn own_ids(&mut self, host_id: u32) {
        self.ids = Some(IdRange { host_id, length: 65536 });
    }

    /// Enters a pod with namespaces of its own, but for the network.
    pub(crate) fn enter(&mut self, change: impl FnOnce(&mut SandboxPlan)) -> &Sandbox {
        let mut plan = SandboxPlan {
            pod_id: self.id.clone(),
            pod_dir: self.dir.display().to_string(),
            hostname: "pod".to_owned(),
            shm_size_bytes: 1 << 20,
            ..SandboxPlan::default()
        };
        change(&mut plan);
        let namespaces = self.ids.map_or_else(Vec::new, |range| owned_namespaces(&mut plan, range));
        self.enter_with(&plan, namespaces)
    }

    pub(crate) fn enter_with(&mut self, plan: &SandboxPlan, namespaces: Vec<OwnedFd>) -> &Sandbox {
        let sandbox =
            Sandbox::enter(plan, namespaces).unwrap_or_else(|e| panic!("enter the pod: {}", chain(&e)));
        self.sandbox.insert(sandbox)
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        self.sandbox.as_ref().expect("the case has entered a pod")
    }

    /// A folder below the case's own that is a layer over the busybox root.
    pub(crate) fn layer(&self, name: &str) -> PathBuf {
        let layer = self.dir.join("layers").join(name);
        fs::create_dir_all(&layer).expect("make a layer");
        layer
    }

    /// A container as Kubernetes makes them by default, that runs a shell script.
    pub(crate) fn plan(&mut self, script: &str) -> ContainerPlan {
        self.made += 1;
        let own = self.dir.join(format!("container-{}", self.made));
        ContainerPlan {
            process: shell(script),
            rootfs: RootfsPlan {
                lowers: vec![self.base.display().to_string()],
                upper: own.join("upper").display().to_string(),
                work: own.join("work").display().to_string(),
                readonly: false,
                volatile: false,
                folders: Vec::new(),
            },
            mounts: default_mounts(),
            pid_namespace: PidNamespace::Container as i32,
            masked_paths: strings(&[
                "/proc/kcore",
                "/proc/keys",
                "/proc/acpi",
                "/proc/scsi",
                "/sys/firmware",
            ]),
            readonly_paths: strings(&[
                "/proc/bus",
                "/proc/fs",
                "/proc/irq",
                "/proc/sys",
                "/proc/sysrq-trigger",
            ]),
            pod_shm: true,
            ..ContainerPlan::default()
        }
    }

    /// The same, with a layer on top.
    pub(crate) fn plan_on(&mut self, layer: &Path, script: &str) -> ContainerPlan {
        let mut plan = self.plan(script);
        plan.rootfs.lowers.insert(0, layer.display().to_string());
        plan
    }

    pub(crate) fn use_cgroups(&mut self, cgroups: Vec<Cgroup>) {
        self.spare = cgroups;
    }

    pub(crate) fn cgroup(&mut self) -> Cgroup {
        if let Some(cgroup) = self.spare.pop() {
            return cgroup;
        }
        self.made += 1;
        let path = CgroupPath::parse(&format!("/carpel-oci-{}/{}", self.id, self.made)).expect("a path");
        Cgroup::create(&self.tree, &path, &Limits::default(), None).expect("make a cgroup");
        self.cgroups.push(Cgroup::open(&self.tree, &path).expect("open it"));
        Cgroup::open(&self.tree, &path).expect("open it")
    }

    /// Up to the go.
    pub(crate) fn create(&mut self, plan: &ContainerPlan) -> Result<(Created, Running), RunError> {
        self.create_with(plan, None)
    }

    pub(crate) fn create_with(
        &mut self,
        plan: &ContainerPlan,
        pid_target: Option<BorrowedFd<'_>>,
    ) -> Result<(Created, Running), RunError> {
        let cgroup = self.cgroup();
        let (stdio, pipes) = if plan.process.terminal { (Stdio::Terminal, streams().1) } else { streams() };
        let membership = Membership { cgroup: &cgroup, leaf: None };
        let request = create::Request { plan, cgroup: membership, stdio, pid_target };
        let begun = create::begin(self.sandbox(), request).map_err(RunError::Create)?;
        let (mut process, mut creating) = (begun.process, begun.creating);
        let mut created = loop {
            wait_readable(&creating);
            match creating.on_readable() {
                Ok(Progress::Pending(again)) => creating = again,
                Ok(Progress::Moved(successor, again)) => {
                    assert_eq!(wait_status(process.pidfd.as_fd()), 0);
                    (process, creating) = (successor, again);
                }
                Ok(Progress::Created(created)) => break created,
                Err(error) => {
                    assert_ne!(wait_status(process.pidfd.as_fd()), 0);
                    return Err(RunError::Create(error));
                }
            }
        };
        let (user, console) = (created.identity.user.clone(), created.console.take());
        let Pipes { stdout, stderr } = pipes;
        Ok((created, Running { process, user, console, cgroup, stdout, stderr }))
    }

    /// Until its program runs.
    pub(crate) fn start(&mut self, plan: &ContainerPlan) -> Result<Running, RunError> {
        let (created, running) = self.create(plan)?;
        let started = start(created);
        if started.is_err() {
            assert_ne!(wait_status(running.process.pidfd.as_fd()), 0);
        }
        started.map(|()| running).map_err(RunError::Start)
    }

    /// Until it has ended.
    pub(crate) fn run(&mut self, plan: &ContainerPlan) -> Outcome {
        match self.start(plan) {
            Ok(running) => running.finish(),
            Err(error) => panic!("the container does not run: {error:?}"),
        }
    }

    /// The failure of a container that must not run.
    pub(crate) fn refused(&mut self, plan: &ContainerPlan) -> Failure {
        match self.start(plan) {
            Ok(running) => panic!("the container runs: {:?}", running.finish()),
            Err(error) => error.failure(),
        }
    }

    /// Runs one more process in a container.
    pub(crate) fn exec(&self, container: &Running, plan: &ProcessPlan) -> Result<Outcome, ExecError> {
        let (stdio, pipes) = streams();
        let membership = Membership { cgroup: &container.cgroup, leaf: None };
        let pidfd = container.process.pidfd.as_fd();
        let request = exec::Request { container: pidfd, plan, identity: None, cgroup: membership, stdio };
        let begun = exec::begin(self.sandbox(), request)?;
        let mut execing = begun.execing;
        loop {
            wait_readable(&execing);
            match execing.on_readable() {
                Ok(exec::Progress::Pending(again)) => execing = again,
                Ok(exec::Progress::Started(_)) => break,
                Err(error) => {
                    wait_status(begun.process.pidfd.as_fd());
                    return Err(error);
                }
            }
        }
        let (out, err) = (read_all(pipes.stdout), read_all(pipes.stderr));
        Ok(Outcome { status: wait_status(begun.process.pidfd.as_fd()), out, err })
    }
}

/// Makes the namespaces of a pod with a user namespace, as the daemon does.
fn owned_namespaces(plan: &mut SandboxPlan, range: IdRange) -> Vec<OwnedFd> {
    plan.id_mappings = Some(IdMappings { uids: range, gids: range });
    let ids = userns::IdRange { host_id: range.host_id, length: range.length };
    let request =
        userns::Request { uids: ids, gids: ids, network_and_uts: !plan.host_uts, ipc: !plan.host_ipc };
    let made = userns::create(&request).expect("make a user namespace");
    [made.network, made.uts, made.ipc, Some(made.user)].into_iter().flatten().collect()
}

pub(crate) fn start(created: Created) -> Result<(), StartError> {
    let mut starting = created.start()?;
    loop {
        wait_readable(&starting);
        match starting.on_readable()? {
            StartProgress::Pending(again) => starting = again,
            StartProgress::Started => return Ok(()),
        }
    }
}

impl Running {
    /// What it says until it ends, and how it ends.
    pub(crate) fn finish(self) -> Outcome {
        let out = match self.console {
            Some(console) => read_all(console),
            None => read_all(self.stdout),
        };
        let err = read_all(self.stderr);
        Outcome { status: wait_status(self.process.pidfd.as_fd()), out, err }
    }

    /// Reads one line of its output.
    pub(crate) fn line(&self) -> String {
        let mut line = Vec::new();
        let mut byte = [0u8; 1];
        while rustix::io::read(&self.stdout, &mut byte).expect("read") == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8(line).expect("UTF-8")
    }

    /// What it has said so far, once it has ended.
    pub(crate) fn seen(self) -> String {
        read_all(self.stdout)
    }

    pub(crate) fn kill(&self) -> i32 {
        pidfd_send_signal(&self.process.pidfd, Signal::KILL).expect("kill");
        wait_status(self.process.pidfd.as_fd())
    }
}

impl Outcome {
    /// The output of a process that ended well.
    #[track_caller]
    pub(crate) fn good(self) -> String {
        assert_eq!(self.status, 0, "{self:?}");
        self.out
    }
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

pub(crate) fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// A shell script as root with the default capabilities.
pub(crate) fn shell(script: &str) -> ProcessPlan {
    let set = DEFAULT_CAPABILITIES;
    ProcessPlan {
        args: ["/bin/sh", "-c", script].iter().map(|arg| arg.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/bin".to_vec()],
        cwd: "/".to_owned(),
        user: UserPlan::default(),
        capabilities: Capabilities {
            bounding: set,
            effective: set,
            permitted: set,
            inheritable: 0,
            ambient: 0,
        },
        ..ProcessPlan::default()
    }
}

pub(crate) fn filesystem(destination: &str, fs_type: &str, attributes: u64, options: &[&str]) -> MountPlan {
    let source = FilesystemSource { fs_type: fs_type.to_owned(), options: strings(options) };
    MountPlan {
        destination: destination.to_owned(),
        source: Some(Source::Filesystem(source)),
        attributes,
        ..MountPlan::default()
    }
}

pub(crate) fn bind(source: &Path, destination: &str) -> MountPlan {
    let source = BindSource { path: source.display().to_string(), recursive: true, create_dir: false };
    MountPlan {
        destination: destination.to_owned(),
        source: Some(Source::Bind(source)),
        ..MountPlan::default()
    }
}

/// The mounts of every Kubernetes container.
fn default_mounts() -> Vec<MountPlan> {
    let none = ATTR_NOSUID | ATTR_NOEXEC | ATTR_NODEV;
    let mut mqueue = filesystem("/dev/mqueue", "mqueue", none, &[]);
    mqueue.optional = true;
    vec![
        filesystem("/proc", "proc", none, &[]),
        filesystem("/dev", "tmpfs", ATTR_NOSUID, &["mode=755", "size=65536k"]),
        filesystem(
            "/dev/pts",
            "devpts",
            ATTR_NOSUID | ATTR_NOEXEC,
            &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mqueue,
        filesystem("/sys", "sysfs", none | ATTR_RDONLY, &[]),
        filesystem("/sys/fs/cgroup", "cgroup", none | ATTR_RDONLY, &[]),
    ]
}
