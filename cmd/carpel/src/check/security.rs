//! Seccomp and the security modules.

use std::{fs::File, io::Write, path::Path};

use super::finding::{Finding, read};

pub(super) fn examine() -> Vec<Finding> {
    vec![seccomp(), apparmor(), selinux()]
}

fn seccomp() -> Finding {
    match read("/proc/sys/kernel/seccomp/actions_avail") {
        Some(actions) if actions.split(' ').any(|action| action == "errno") => {
            Finding::ok("seccomp", "filters are available")
        }
        _ => Finding::missing(
            "seccomp",
            "not in this kernel",
            "containers with the RuntimeDefault profile, the kubelet's default, need CONFIG_SECCOMP_FILTER",
        ),
    }
}

fn apparmor() -> Finding {
    let name = "AppArmor";
    if read("/sys/module/apparmor/parameters/enabled").as_deref() != Some("Y") {
        return Finding::ok(name, "not on: containers with a profile of their own are refused, others run");
    }
    let parser =
        ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"].iter().any(|path| Path::new(path).exists());
    if !parser {
        return Finding::warning(
            name,
            "on, without apparmor_parser",
            "containers with the RuntimeDefault profile run unconfined: install the package apparmor",
        );
    }
    let loaded = read("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
    let is_loaded = loaded.lines().any(|line| line.starts_with("carpel-default ("));
    Finding::ok(
        name,
        if is_loaded { "on, with the default profile" } else { "on; carpeld loads its default profile" },
    )
}

fn selinux() -> Finding {
    let name = "SELinux";
    // Takes a label that the policy knows.
    let file = File::options().write(true).open("/sys/fs/selinux/context");
    if file.is_ok_and(|mut file| file.write_all(b"system_u:object_r:container_file_t:s0").is_err()) {
        return Finding::warning(
            name,
            "on, and its policy does not know containers' files",
            "containers may get no labels and run as carpeld does: install the package container-selinux",
        );
    }
    match read("/sys/fs/selinux/enforce").as_deref() {
        None => Finding::ok(name, "not on"),
        Some("0") => Finding::ok(name, "permissive"),
        Some(_) => Finding::warning(
            name,
            "enforcing",
            "if pods cannot read their volumes, look for denials with `ausearch -m avc -ts recent`",
        ),
    }
}
