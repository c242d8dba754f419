//! How long a pod, a container and an exec take, with nothing around them.
//!
//! `floor [rounds]`, as root, with a static busybox at `/bin/busybox`. Prints the median and the least
//! time of each step in microseconds. Build it as the shim is built (`--profile shim`, musl): the
//! numbers of another build say little. `strace -fc` on it counts system calls.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use carpel_cgroups::{Cgroup, CgroupPath, Limits, Tree};
use carpel_oci_runtime::cgroup::Membership;
use carpel_oci_runtime::create::{self, Progress, StartProgress};
use carpel_oci_runtime::exec;
use carpel_oci_runtime::sandbox::Sandbox;
use carpel_oci_runtime::stdio::Stdio;
use carpel_shim_api::plan::mount_plan::Source;
use carpel_shim_api::plan::{
    Capabilities, ContainerPlan, FilesystemSource, MountPlan, ProcessPlan, RootfsPlan, SandboxPlan,
};
use carpel_sys::clone::{CloneRequest, SingleThreaded, clone_process};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// `MOUNT_ATTR_*`: nosuid, nodev, noexec.
const NONE: u64 = 2 | 4 | 8;
const CAPABILITIES: u64 = 0xa804_25fb;

fn main() -> Result<()> {
    let rounds = std::env::args().nth(1).map_or(Ok(200), |text| text.parse())?;
    let dir = std::env::temp_dir().join(format!("carpel-floor-{}", std::process::id()));
    let base = dir.join("base");
    for name in ["bin", "proc", "sys", "dev", "etc"] {
        fs::create_dir_all(base.join(name))?;
    }
    fs::copy("/bin/busybox", base.join("bin/busybox"))?;
    let path = CgroupPath::parse(&format!("/carpel-floor-{}/c", std::process::id()))?;
    let tree = Arc::new(Tree::detect()?);
    let cgroup = Cgroup::create(&tree, &path, &Limits::default(), None)?;
    let result = pods(rounds.min(50)).and_then(|()| containers(rounds, &dir, &cgroup));
    cgroup.delete(Duration::from_secs(5))?;
    fs::remove_dir_all(&dir)?;
    result
}

fn print(what: &str, mut times: Vec<Duration>) -> Result<()> {
    times.sort_unstable();
    let (least, median) = (times[0].as_micros(), times[times.len() / 2].as_micros());
    Ok(writeln!(std::io::stdout(), "{what:32} median {median:6} µs   least {least:6} µs")?)
}

/// The fork that a pod costs here is not a shim's: its time is not counted.
fn pods(rounds: usize) -> Result<()> {
    let alone = SingleThreaded::prove()?;
    for (what, shared_pid) in [("pod", false), ("pod, shared PID namespace", true)] {
        let mut times = Vec::new();
        for _ in 0..rounds {
            let (reader, writer) = rustix::pipe::pipe()?;
            let plan = SandboxPlan { shm_size_bytes: 1 << 20, shared_pid, ..SandboxPlan::default() };
            let process = clone_process(&alone, &CloneRequest::default(), |_| {
                let begin = Instant::now();
                let entered = Sandbox::enter(&plan, Vec::new());
                let nanos = begin.elapsed().as_nanos() as u64;
                i32::from(entered.is_err() || rustix::io::write(&writer, &nanos.to_ne_bytes()).is_err())
            })?;
            drop(writer);
            let mut bytes = [0u8; 8];
            rustix::io::read(&reader, &mut bytes)?;
            waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED)?;
            times.push(Duration::from_nanos(u64::from_ne_bytes(bytes)));
        }
        print(what, times)?;
    }
    Ok(())
}

fn containers(rounds: usize, dir: &Path, cgroup: &Cgroup) -> Result<()> {
    let plan = SandboxPlan { shm_size_bytes: 1 << 20, ..SandboxPlan::default() };
    let sandbox = Sandbox::enter(&plan, Vec::new())?;
    let mut times = [const { Vec::new() }; 4];
    for round in 0..rounds {
        let begin = Instant::now();
        let plan = container(dir, round, &["/bin/busybox", "true"]);
        let process = run(&sandbox, &plan, cgroup, |step, at| times[step].push(at - begin))?;
        times[2].push(begin.elapsed());
        waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED)?;
        times[3].push(begin.elapsed());
    }
    for (what, times) in ["created", "created, started", "…, exited", "…, reaped"].iter().zip(times) {
        print(what, times)?;
    }
    let target =
        run(&sandbox, &container(dir, rounds, &["/bin/busybox", "sleep", "1000"]), cgroup, |_, _| {})?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let begin = Instant::now();
        let plan = process(&["/bin/busybox", "true"]);
        let membership = Membership { cgroup, leaf: None };
        let request = exec::Request {
            container: target.as_fd(),
            plan: &plan,
            identity: None,
            cgroup: membership,
            stdio: null()?,
        };
        let begun = exec::begin(&sandbox, request)?;
        waitid(WaitId::PidFd(begun.process.pidfd.as_fd()), WaitIdOptions::EXITED)?;
        times.push(begin.elapsed());
    }
    pidfd_send_signal(&target, Signal::KILL)?;
    waitid(WaitId::PidFd(target.as_fd()), WaitIdOptions::EXITED)?;
    print("exec, reaped", times)
}

fn run(
    sandbox: &Sandbox,
    plan: &ContainerPlan,
    cgroup: &Cgroup,
    mut at: impl FnMut(usize, Instant),
) -> Result<OwnedFd> {
    let membership = Membership { cgroup, leaf: None };
    let request = create::Request { plan, cgroup: membership, stdio: null()?, pid_target: None };
    let begun = create::begin(sandbox, request)?;
    let mut creating = begun.creating;
    let created = loop {
        poll(&mut [PollFd::new(&creating, PollFlags::IN)], None)?;
        match creating.on_readable()? {
            Progress::Pending(again) | Progress::Moved(_, again) => creating = again,
            Progress::Created(created) => break created,
        }
    };
    at(0, Instant::now());
    let mut starting = created.start()?;
    loop {
        poll(&mut [PollFd::new(&starting, PollFlags::IN)], None)?;
        match starting.on_readable()? {
            StartProgress::Pending(again) => starting = again,
            StartProgress::Started => break,
        }
    }
    at(1, Instant::now());
    Ok(begun.process.pidfd)
}

fn null() -> Result<Stdio> {
    let open = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    Ok(Stdio::Streams { stdin: open()?, stdout: open()?, stderr: open()? })
}

fn process(args: &[&str]) -> ProcessPlan {
    ProcessPlan {
        args: args.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/bin".to_vec()],
        cwd: "/".to_owned(),
        capabilities: Capabilities {
            bounding: CAPABILITIES,
            effective: CAPABILITIES,
            permitted: CAPABILITIES,
            ..Capabilities::default()
        },
        ..ProcessPlan::default()
    }
}

/// With what every Kubernetes container has.
fn container(dir: &Path, round: usize, args: &[&str]) -> ContainerPlan {
    let own = dir.join(round.to_string());
    let mount = |destination: &str, fs_type: &str, attributes: u64, options: &[&str]| MountPlan {
        destination: destination.to_owned(),
        source: Some(Source::Filesystem(FilesystemSource {
            fs_type: fs_type.to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        })),
        attributes,
        ..MountPlan::default()
    };
    let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    ContainerPlan {
        process: process(args),
        rootfs: RootfsPlan {
            lowers: vec![dir.join("base").display().to_string()],
            upper: own.join("upper").display().to_string(),
            work: own.join("work").display().to_string(),
            readonly: false,
            volatile: true,
            folders: Vec::new(),
        },
        mounts: vec![
            mount("/proc", "proc", NONE, &[]),
            mount("/dev", "tmpfs", 2, &["mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", 2 | 8, &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/mqueue", "mqueue", NONE, &[]),
            mount("/sys", "sysfs", NONE | 1, &[]),
            mount("/sys/fs/cgroup", "cgroup", NONE | 1, &[]),
        ],
        masked_paths: strings(&[
            "/proc/acpi",
            "/proc/asound",
            "/proc/interrupts",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/scsi",
            "/proc/timer_list",
            "/sys/devices/virtual/powercap",
            "/sys/firmware",
        ]),
        readonly_paths: strings(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
        pod_shm: true,
        ..ContainerPlan::default()
    }
}
