//! Logs: nothing lost, nothing torn.

use std::fs;

use carpel_shim_api::message::{FailureKind, request};

use crate::harness::{Pod, container, content, until};

#[test]
fn long_lines_are_split_and_the_last_one_needs_no_newline() {
    let mut pod = Pod::start();
    let script = "head -c 40000 /dev/zero | tr '\\0' x; echo; printf end";
    let create = pod.shell("c1", script);
    pod.run(create);
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 0);
    let log = pod.log("c1");
    let tags: Vec<(&str, usize)> = log.lines().map(|l| (&l[38..39], l.len() - 40)).collect();
    assert_eq!(tags, [("P", 16384), ("P", 16384), ("F", 40000 - 2 * 16384), ("P", 3)]);
    assert_eq!(pod.said("c1", "stdout"), format!("{}\nend", "x".repeat(40000)));
    pod.shut_down();
}

#[test]
fn a_burst_before_the_end_is_logged_whole_before_the_end_is_told() {
    let mut pod = Pod::start();
    let create = pod.shell("c1", "seq 1 200000; seq 1 50000 >&2");
    pod.run(create);
    pod.daemon.exit_of("c1");
    let counted = |to: u32| (1..=to).map(|n| format!("{n}\n")).collect::<String>();
    let log = pod.log("c1");
    assert!(content(&log, "stdout") == counted(200_000));
    assert!(content(&log, "stderr") == counted(50_000));
    pod.shut_down();
}

#[test]
fn rotation_under_load_loses_and_tears_nothing() {
    let mut pod = Pod::start();
    let create =
        pod.shell("c1", "i=0; while [ ! -e /stop ]; do seq $i $((i+99)); i=$((i+100)); done; echo $i >&2");
    pod.run(create);
    let path = pod.log_path("c1");
    let mut rotated = Vec::new();
    for turn in 0..20 {
        until("output", || fs::metadata(&path).is_ok_and(|m| m.len() > 4096));
        let away = path.with_extension(format!("{turn}"));
        fs::rename(&path, &away).expect("rename");
        pod.daemon.done(request::Body::ReopenLog(container("c1")));
        assert!(path.exists());
        rotated.push(away);
    }
    let fds = pod.daemon.exec("c1", "stop", &["/bin/touch", "/stop"]);
    drop(fds);
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 0);
    rotated.push(path);
    let log: String = rotated.iter().map(|p| fs::read_to_string(p).expect("a log")).collect();
    let total: u32 = content(&log, "stderr").trim().parse().expect("how many there were");
    let expected: String = (0..total).map(|n| format!("{n}\n")).collect();
    assert!(content(&log, "stdout") == expected);
    pod.shut_down();
}

#[test]
fn a_log_that_cannot_be_opened_is_refused_and_the_old_one_stays() {
    let mut pod = Pod::start();
    let mut create = pod.shell("c1", "true");
    for bad in ["relative/0.log", "/var/log/../../etc/0.log", "/var/log/pods/"] {
        create.log_path = bad.to_owned();
        let failure = pod.daemon.refused(request::Body::Create(create.clone()));
        assert!(failure.message.contains(bad), "{}", failure.message);
    }
    // A link in the place of the container's folder leads nowhere.
    let logs = pod.folder().join("logs");
    fs::create_dir_all(&logs).expect("folder");
    std::os::unix::fs::symlink("/tmp", logs.join("c1")).expect("link");
    create.log_path = pod.log_path("c1").display().to_string();
    pod.daemon.refused_as(FailureKind::Internal, request::Body::Create(create));
    fs::remove_file(logs.join("c1")).expect("remove");

    let create = pod.shell("c1", "while [ ! -e /stop ]; do echo line; sleep 0.01; done");
    pod.run(create);
    let path = pod.log_path("c1");
    until("output", || pod.log("c1").contains("line"));
    let away = path.with_extension("old");
    fs::rename(&path, &away).expect("rename");
    fs::create_dir(&path).expect("something else there");
    let failure = pod.daemon.refused(request::Body::ReopenLog(container("c1")));
    assert!(failure.message.contains("0.log"), "{}", failure.message);
    let before = fs::metadata(&away).expect("the old log").len();
    until("more in the old log", || fs::metadata(&away).is_ok_and(|m| m.len() > before));
    fs::remove_dir(&path).expect("remove");
    pod.daemon.done(request::Body::ReopenLog(container("c1")));
    until("the new log", || fs::metadata(&path).is_ok_and(|m| m.len() > 0));
    pod.shut_down();
}

#[test]
fn a_full_disk_stops_nobody_and_the_gap_is_told() {
    let mut pod = Pod::start();
    let small = pod.folder().join("logs");
    fs::create_dir_all(&small).expect("folder");
    let mount = Mount::tmpfs(&small, "size=64k");
    let create =
        pod.shell("c1", "seq 1 20000; touch /full; while [ ! -e /go ]; do sleep 0.01; done; echo after");
    let upper = std::path::PathBuf::from(&create.plan.rootfs.upper);
    pod.run(create);
    // The container gets past its burst, though the disk took only a part of it: at most a pipe of
    // it is still to come, and what came before that is more than the disk holds.
    until("the end of the burst", || upper.join("full").exists());
    until("a full disk", || pod.log("c1").len() > 40_000);
    let torn_free = pod.log("c1");
    assert!(torn_free.ends_with('\n'));
    content(&torn_free, "stdout");
    // Room again.
    mount.resize("size=16m");
    let fds = pod.daemon.exec("c1", "go", &["/bin/touch", "/go"]);
    drop(fds);
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 0);
    let log = pod.log("c1");
    assert!(content(&log, "stderr").contains("bytes of output are lost here"), "no word of the gap");
    assert!(content(&log, "stdout").ends_with("after\n"));
    pod.shut_down();
    drop(mount);
}

/// A small file system, gone at the end of the test.
struct Mount<'a>(&'a std::path::Path);

impl<'a> Mount<'a> {
    fn tmpfs(path: &'a std::path::Path, options: &str) -> Mount<'a> {
        let options = std::ffi::CString::new(options).expect("no NUL");
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str()).expect("mount");
        Mount(path)
    }

    fn resize(&self, options: &str) {
        let options = std::ffi::CString::new(options).expect("no NUL");
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount_remount(self.0, flags, options.as_c_str()).expect("remount");
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _gone = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
