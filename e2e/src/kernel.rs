//! What the kernel says, read without asking any runtime: cgroups, namespaces, mounts, processes. And the few kernel
//! objects that tests make for themselves.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the cgroup hierarchies of a controller may be: v1's own one, then v2.
fn hierarchies(controller: &str) -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let own = base.join(controller);
    if own.is_dir() { vec![own] } else { vec![base.to_owned()] }
}

/// Whether the machine's controllers are on cgroup v1 (or hybrid, which is v1 with an empty v2 beside it).
pub fn is_cgroup_v1() -> bool {
    !Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Every cgroup folder, in every hierarchy, whose name contains a text.
pub fn cgroups_named(part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), &mut |folder| {
        if folder.file_name().is_some_and(|name| name.to_string_lossy().contains(part)) {
            found.push(folder.to_owned());
        }
    });
    found
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    // Cgroups come and go while other tests run.
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path());
            walk(&entry.path(), visit);
        }
    }
}

/// The cgroup folder of a container in a controller's hierarchy.
pub fn cgroup(controller: &str, container_id: &str) -> PathBuf {
    let roots = hierarchies(controller);
    let mut found = cgroups_named(container_id);
    found.retain(|path| roots.iter().any(|root| path.starts_with(root)));
    let own = found.into_iter().next();
    let own = own.unwrap_or_else(|| panic!("no {controller} cgroup is named after {container_id}"));
    // In a scope of systemd's, the container is in a part of its own.
    Some(own.join("container")).filter(|part| part.is_dir()).unwrap_or(own)
}

/// The trimmed content of a file of a container's cgroup.
pub fn cgroup_file(controller: &str, container_id: &str, file: &str) -> String {
    let path = cgroup(controller, container_id).join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    text.trim().to_owned()
}

/// The processes of a container, smallest id first, by its cgroup and, for what was exec'd on cgroup2, those below it.
pub fn processes(container_id: &str) -> Vec<u32> {
    let own = cgroup("pids", container_id);
    let mut pids = listed(&own);
    walk(&own, &mut |below| pids.extend(listed(below)));
    pids.sort_unstable();
    pids
}

/// The processes in one cgroup folder; none if it has just gone.
fn listed(folder: &Path) -> Vec<u32> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// The identity of a process's namespace: `net`, `pid`, `ipc`, `uts`, `mnt`, `user`, `cgroup`.
pub fn namespace(pid: u32, kind: &str) -> String {
    let path = format!("/proc/{pid}/ns/{kind}");
    let link = fs::read_link(&path).unwrap_or_else(|error| panic!("readlink {path}: {error}"));
    link.to_string_lossy().into_owned()
}

/// One field of `/proc/PID/status`.
pub fn status_field(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let prefix = format!("{field}:");
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
    line.unwrap_or_else(|| panic!("no {field} in /proc/{pid}/status")).trim().to_owned()
}

/// The living processes of the machine that have `part` in their command line, executable or cgroup path.
pub fn processes_mentioning(part: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc can be listed").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == std::process::id() {
            continue;
        }
        // A process that ends while it is looked at mentions nothing.
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        // A zombie holds nothing but its number until its parent, perhaps a slow process 1, reaps it.
        let stat = String::from_utf8_lossy(&read("stat")).into_owned();
        if stat.rsplit(") ").next().is_some_and(|fields| fields.starts_with('Z')) {
            continue;
        }
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let cgroup = String::from_utf8_lossy(&read("cgroup")).into_owned();
        let exe = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        if command.contains(part) || cgroup.contains(part) || exe.to_string_lossy().contains(part) {
            found.push((pid, command));
        }
    }
    found
}

/// The mount points of this mount namespace whose line mentions a text.
pub fn mounts_mentioning(part: &str) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo can be read");
    let lines = text.lines().filter(|line| line.contains(part));
    lines.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// Runs a program; panics with its errors unless it succeeds.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("run {program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
    output
}

/// A tmpfs of a limited size; unmounted with this value.
#[derive(Debug)]
pub struct Tmpfs {
    folder: tempfile::TempDir,
}

impl Tmpfs {
    /// Mounts one with the given options (`size=64m`, `nr_inodes=…`).
    pub fn mount(options: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("carpel-e2e-tmpfs").tempdir().expect("temporary folder");
        let path = folder.path().to_string_lossy().into_owned();
        run("mount", &["-t", "tmpfs", "-o", options, "carpel-e2e", &path]);
        Self { folder }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        run("umount", &["--lazy", &self.folder.path().to_string_lossy()]);
    }
}

/// Calls a function on a thread that is in a network namespace: the sockets it makes are of that namespace, and stay so.
pub fn inside<T: Send>(namespace: &Path, call: impl FnOnce() -> T + Send) -> T {
    let namespace = fs::File::open(namespace).expect("open the namespace");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).expect("enter the namespace");
            call()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A named network namespace with its loopback up; deleted with this value.
#[derive(Debug)]
pub struct NetNs {
    name: String,
}

impl NetNs {
    /// Makes one; its name begins as given and goes on in a way no other does.
    pub fn create(name: &str) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.run(&["ip", "link", "set", "lo", "up"]);
        namespace
    }

    /// Its path, for `nsenter --net=…`.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs a program in it; panics unless it succeeds.
    pub fn run(&self, command: &[&str]) -> String {
        let entry = format!("--net={}", self.path().display());
        let arguments: Vec<&str> =
            [entry.as_str(), "--"].into_iter().chain(command.iter().copied()).collect();
        String::from_utf8_lossy(&run("nsenter", &arguments).stdout).into_owned()
    }

    /// [`inside`] it.
    pub fn inside<T: Send>(&self, call: impl FnOnce() -> T + Send) -> T {
        inside(&self.path(), call)
    }

    /// Connects it with another by two ends of a wire, each with an address (`192.0.2.1/24`) and a name.
    pub fn connect(&self, (name, address): (&str, &str), other: &NetNs, (peer, peer_address): (&str, &str)) {
        self.run(&["ip", "link", "add", name, "type", "veth", "peer", "name", peer, "netns", &other.name]);
        for (namespace, name, address) in [(self, name, address), (other, peer, peer_address)] {
            namespace.run(&["ip", "address", "add", address, "dev", name, "nodad"]);
            namespace.run(&["ip", "link", "set", name, "up"]);
        }
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        run("ip", &["netns", "delete", &self.name]);
    }
}

/// Who makes the cgroups of a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// Itself.
    Cgroupfs,
    /// systemd, which must be process 1 here.
    Systemd,
}

impl CgroupDriver {
    /// That of the daemons that tests start: `$CARPEL_CGROUP_DRIVER`, cgroupfs unless given.
    pub fn of_tests() -> Self {
        match std::env::var("CARPEL_CGROUP_DRIVER").as_deref() {
            Err(_) | Ok("cgroupfs") => Self::Cgroupfs,
            Ok("systemd") => Self::Systemd,
            Ok(other) => panic!("CARPEL_CGROUP_DRIVER is {other:?}, neither cgroupfs nor systemd"),
        }
    }

    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

/// A cgroup in every hierarchy, for pods to be made below, as the kubelet makes them; or a slice.
#[derive(Debug)]
pub struct CgroupParent {
    name: String,
    driver: CgroupDriver,
}

impl CgroupParent {
    /// Makes it; the name must be unique on the machine. systemd makes a slice with what is in it.
    pub fn create(name: &str, driver: CgroupDriver) -> Self {
        if driver == CgroupDriver::Cgroupfs {
            make_cgroup(name);
        }
        Self { name: name.to_owned(), driver }
    }

    /// Makes a cgroup for one pod below it, or finds it made; returns what `cgroup_parent` wants.
    pub fn pod(&self, name: &str) -> String {
        if self.driver == CgroupDriver::Systemd {
            return format!("{}-pod-{name}.slice", self.name);
        }
        let path = format!("{}/pod-{name}", self.name);
        make_cgroup(&path);
        format!("/{path}")
    }

    /// Its path in a hierarchy.
    pub fn path(&self) -> String {
        match self.driver {
            CgroupDriver::Cgroupfs => format!("/{}", self.name),
            CgroupDriver::Systemd => slice_path(&self.name),
        }
    }

    /// Where a daemon puts the pods that name no parent. The daemon makes it and keeps it.
    pub fn default_pods(&self) -> String {
        self.part("default")
    }

    /// Where a daemon puts its shims. The daemon makes it, and removes it when it ends and none lives.
    pub fn shims(&self) -> String {
        self.part("shims")
    }

    fn part(&self, part: &str) -> String {
        match self.driver {
            CgroupDriver::Cgroupfs => format!("/{}/{part}", self.name),
            CgroupDriver::Systemd => format!("{}-{part}.slice", self.name),
        }
    }

    /// Stops a slice; returns the cgroups of what was in it, in which slices do not count.
    fn stop_slice(&self) -> Vec<PathBuf> {
        let mut left = stop_slice(&self.name);
        left.retain(|below| below.extension().is_none_or(|extension| extension != "slice"));
        left
    }

    /// Removes it with all that a failed test left below it; what still has a dying process in it stays.
    pub fn remove_by_force(&self) {
        if self.driver == CgroupDriver::Systemd {
            self.stop_slice();
            return;
        }
        for _ in 0..20 {
            let mut folders = Vec::new();
            for root in hierarchy_roots() {
                walk(&root.join(&self.name), &mut |below| folders.push(below.to_owned()));
            }
            for folder in folders.iter().rev() {
                fs::remove_dir(folder).unwrap_or_default();
            }
            if self.remove().is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    /// Removes it; returns the folders that would not go, because something is left in them.
    pub fn remove(&self) -> Vec<PathBuf> {
        if self.driver == CgroupDriver::Systemd {
            return self.stop_slice();
        }
        let mut left = Vec::new();
        let folders = hierarchy_roots().into_iter().map(|root| root.join(&self.name));
        for folder in folders.filter(|folder| folder.exists()) {
            // Those of the pods are made here, the other by the daemon, which keeps it.
            for below in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let name = below.file_name().to_string_lossy().into_owned();
                if name.starts_with("pod-") || name == "default" {
                    // What is in it shows below.
                    fs::remove_dir(below.path()).unwrap_or_default();
                }
            }
            if fs::remove_dir(&folder).is_err() {
                walk(&folder, &mut |below| left.push(below.to_owned()));
                left.push(folder);
            }
        }
        left
    }
}

/// Stops a slice, which ends what is in it; returns the cgroups that were in it.
pub fn stop_slice(name: &str) -> Vec<PathBuf> {
    let mut left = Vec::new();
    walk(&Path::new("/sys/fs/cgroup").join(&slice_path(name)[1..]), &mut |below| left.push(below.to_owned()));
    run("systemctl", &["stop", &format!("{name}.slice")]);
    left
}

/// `a-b` as a slice: `/a.slice/a-b.slice`.
fn slice_path(name: &str) -> String {
    let ends = name.match_indices('-').map(|(end, _)| end).chain([name.len()]);
    ends.map(|end| format!("/{}.slice", &name[..end])).collect()
}

/// Makes a cgroup in every hierarchy, or finds it made, with all controllers: as the kubelet does for a pod.
pub fn make_cgroup(path: &str) {
    for root in hierarchy_roots() {
        let mut folder = root;
        for component in Path::new(path).iter() {
            let above = folder.clone();
            folder.push(component);
            fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("mkdir {}: {error}", folder.display()));
            if is_cgroup_v1() { fill_cpuset(&above, &folder) } else { hand_down_controllers(&above) }
        }
    }
}

/// A v1 cpuset is born empty and takes no process until it has both.
fn fill_cpuset(above: &Path, folder: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if above.join(file).exists() {
            let value = fs::read(above.join(file)).expect("read the cpuset above");
            fs::write(folder.join(file), value).expect("fill the cpuset");
        }
    }
}

/// On cgroup2 the children of a cgroup have the controllers that it lets them have.
fn hand_down_controllers(folder: &Path) {
    let available = fs::read_to_string(folder.join("cgroup.controllers")).expect("read the controllers");
    for controller in available.split_whitespace() {
        fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"))
            .unwrap_or_else(|error| panic!("hand {controller} down in {}: {error}", folder.display()));
    }
}

/// Lets the cgroup or slice of a pod, as [`CgroupParent::pod`] returned it, have so many processes: as the kubelet does for
/// `podPidsLimit`. The limit goes with the cgroup.
pub fn limit_processes(pod: &str, limit: u32) {
    let limit = limit.to_string();
    if pod.ends_with(".slice") {
        let start = ["call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"];
        let method = ["org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))"];
        let unit = [pod, "replace", "1", "TasksMax", "t", &limit, "0"];
        run("busctl", &[&start[..], &method, &unit].concat());
    } else {
        for root in hierarchies("pids") {
            fs::write(root.join(&pod[1..]).join("pids.max"), &limit)
                .expect("limit the processes of a cgroup");
        }
    }
}

/// Removes a cgroup from every hierarchy, where it is there and empty.
pub fn remove_cgroup(path: &str) {
    for root in hierarchy_roots() {
        fs::remove_dir(root.join(path)).unwrap_or_default();
    }
}

/// The root of every hierarchy.
fn hierarchy_roots() -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    if !is_cgroup_v1() {
        return vec![base.to_owned()];
    }
    let hierarchies = fs::read_dir(base).expect("cgroups are mounted").flatten();
    let folders = hierarchies.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}
