//! Which cgroup hierarchies there are, and whether they have the controllers that limits and stats need.

use std::collections::BTreeMap;

use super::finding::{Finding, read};

/// Without these the kubelet refuses the node.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

/// What systemd or the administrator must allow below the root on v2, and kernels leave out on v1.
const USEFUL: [&str; 2] = ["cpuset", "io"];

/// The mounted hierarchies.
#[derive(Debug, PartialEq, Eq)]
enum Mode {
    Unified {
        path: String,
    },
    /// Controllers of v1 by name, with their mount points; and v2 without controllers, in a hybrid.
    Legacy {
        controllers: BTreeMap<String, String>,
        unified: Option<String>,
    },
}

pub(super) fn examine() -> Vec<Finding> {
    let mounts = read("/proc/self/mountinfo").unwrap_or_default();
    let Some(mode) = mode(&mounts) else {
        let advice = "mount cgroup v2: mount -t cgroup2 none /sys/fs/cgroup";
        return vec![Finding::missing("cgroups", "no hierarchy is mounted", advice)];
    };
    match mode {
        Mode::Unified { path } => {
            let controllers = read(&format!("{path}/cgroup.controllers")).unwrap_or_default();
            let all: Vec<&str> = controllers.split_whitespace().collect();
            let mut findings = vec![Finding::ok("cgroups", format!("v2 at {path}")), driver()];
            findings.push(controllers_finding(&|name| all.contains(&name)));
            findings
        }
        Mode::Legacy { controllers, unified } => {
            let found = match &unified {
                Some(path) => format!("hybrid: v1, and v2 without controllers at {path}"),
                None => "v1".to_owned(),
            };
            let advice = "works, but v2 is safer and starts pods faster, and Kubernetes gives v1 up: \
                          boot with systemd.unified_cgroup_hierarchy=1";
            let mut findings = vec![Finding::warning("cgroups", found, advice)];
            let v1_name = |name: &str| if name == "io" { "blkio" } else { name }.to_owned();
            findings.push(controllers_finding(&|name| controllers.contains_key(&v1_name(name))));
            for name in ["devices", "freezer"] {
                if !controllers.contains_key(name) {
                    let advice = format!("mount it: mount -t cgroup -o {name} none /sys/fs/cgroup/{name}");
                    findings.push(Finding::missing(
                        "cgroup controllers",
                        format!("{name} is not mounted"),
                        advice,
                    ));
                }
            }
            findings
        }
    }
}

/// Which driver `cgroups.driver = "auto"` is, on cgroup v2.
fn driver() -> Finding {
    let name = "cgroup driver";
    match (exists("/run/systemd/system"), exists("/var/run/dbus/system_bus_socket")) {
        (false, _) => Finding::ok(name, "auto is cgroupfs: systemd is not process 1"),
        (true, true) => Finding::ok(name, "auto is systemd"),
        (true, false) => Finding::warning(
            name,
            "auto is cgroupfs: there is no system bus",
            "systemd and Carpel would both manage the tree: install dbus, and have systemd start dbus.socket",
        ),
    }
}

fn exists(path: &str) -> bool {
    std::path::Path::new(path).exists()
}

fn controllers_finding(has: &dyn Fn(&str) -> bool) -> Finding {
    let name = "cgroup controllers";
    let lacking = |wanted: &[&'static str]| -> Vec<&'static str> {
        wanted.iter().copied().filter(|name| !has(name)).collect()
    };
    let (needed, useful) = (lacking(&NEEDED), lacking(&USEFUL));
    if !needed.is_empty() {
        return Finding::missing(
            name,
            format!("without {}", needed.join(", ")),
            "enable them: on some boards by cgroup_enable=memory on the kernel's command line; in a container by \
             delegating them to it",
        );
    }
    if !useful.is_empty() {
        let advice = "pods run, but without the limits and figures of these";
        return Finding::warning(name, format!("without {}", useful.join(", ")), advice);
    }
    Finding::ok(name, [&NEEDED[..], &USEFUL[..]].concat().join(", "))
}

/// Reads /proc/self/mountinfo; proc_pid_mountinfo(5).
fn mode(mountinfo: &str) -> Option<Mode> {
    let (mut controllers, mut unified) = (BTreeMap::new(), None);
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(path) = before.split(' ').nth(4) else { continue };
        let mut after = after.split(' ');
        match (after.next(), after.nth(1)) {
            (Some("cgroup2"), _) if unified.is_none() => unified = Some(path.to_owned()),
            (Some("cgroup"), Some(options)) => {
                for option in options.split(',').filter(|option| *option != "rw" && *option != "ro") {
                    controllers.entry(option.to_owned()).or_insert_with(|| path.to_owned());
                }
            }
            _ => {}
        }
    }
    match (controllers.is_empty(), unified) {
        (true, None) => None,
        (true, Some(path)) => Some(Mode::Unified { path }),
        (false, unified) => Some(Mode::Legacy { controllers, unified }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    #[test]
    fn modes_by_what_is_mounted() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let v1 = "33 25 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct\n\
                  34 25 0:31 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,xattr,name=systemd\n";
        let hybrid = "35 25 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mode(v2), Some(Mode::Unified { path: "/sys/fs/cgroup".into() }));
        let Some(Mode::Legacy { controllers, unified: None }) = mode(v1) else { panic!("{:?}", mode(v1)) };
        assert_eq!(controllers["cpuacct"], "/sys/fs/cgroup/cpu,cpuacct");
        let Some(Mode::Legacy { unified: Some(path), .. }) = mode(&format!("{v1}{hybrid}")) else { panic!() };
        assert_eq!(path, "/sys/fs/cgroup/unified");
        for none in ["", "garbage\n", "1 2 0:3 / / rw - ext4 /dev/vda rw\n", " - cgroup2"] {
            assert_eq!(mode(none), None, "{none:?}");
        }
    }

    #[test]
    fn controllers_are_needed_or_useful() {
        let with = |names: &'static [&str]| controllers_finding(&move |name| names.contains(&name));
        assert_eq!(with(&["cpu", "memory", "pids", "cpuset", "io"]).status, Verdict::Ok);
        assert_eq!(with(&["cpu", "memory", "pids"]).found, "without cpuset, io");
        let unfit = with(&["cpu", "pids", "cpuset", "io"]);
        assert_eq!((unfit.status, unfit.found.as_str()), (Verdict::Missing, "without memory"));
    }
}
