//! What a daemon left on the machine, and its removal by force.

use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::kernel;

/// Everything that mentions a daemon's folder, hangs on its bridge or speaks of an address of its subnet.
pub fn leftovers(folder: &str, bridge: &str, subnet_prefix: &str) -> Vec<String> {
    let processes = kernel::processes_mentioning(folder).into_iter();
    let mut found: Vec<String> =
        processes.map(|(pid, command)| format!("process {pid}: {command}")).collect();
    found.extend(of_networks(folder, bridge, subnet_prefix));
    found
}

/// The part of it that is there for pods' networks, and must be gone with the pods though the daemon runs.
///
/// The bridge itself, the table of its subnet and the folder of namespaces, which is a mount of its own as that of ip(8)
/// is, are not leftovers: they are the node's, not a pod's.
pub fn of_networks(folder: &str, bridge: &str, subnet_prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    let namespaces = Path::new(folder).join("netns");
    for mount in kernel::mounts_mentioning(folder).into_iter().filter(|mount| *mount != namespaces) {
        found.push(format!("mount {}", mount.display()));
    }
    for link in ports_of(bridge) {
        found.push(format!("interface {link} on {bridge}"));
    }
    for line in firewall().lines() {
        // The subnet's own rules name `10.213.7.0/24` and its first address; pods have the others.
        let words = line.split(|character: char| !character.is_ascii_digit() && character != '.');
        let hosts = words.filter_map(|word| word.strip_prefix(subnet_prefix));
        if hosts.into_iter().any(|host| !matches!(host, "0" | "1" | "255" | "")) {
            found.push(format!("firewall: {}", line.trim()));
        }
    }
    found
}

/// Kills the processes, unmounts the mounts and deletes the interfaces that a failed test left; and, after any test, what
/// a daemon keeps for the node: its bridge, its firewall table, its folder of namespaces.
pub fn remove_by_force(mentions: &[&str], bridge: &str) {
    // Twice: a shim that dies first leaves its containers, which show by their cgroup.
    for _ in 0..2 {
        for mention in mentions {
            for (pid, _) in kernel::processes_mentioning(mention) {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
                // It may be gone by now.
                pid.map(|pid| kill_process(pid, Signal::KILL));
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for mention in mentions {
        for mount in kernel::mounts_mentioning(mention).into_iter().rev() {
            attempt(Command::new("umount").arg("--lazy").arg(mount));
        }
    }
    for link in ports_of(bridge) {
        attempt(Command::new("ip").args(["link", "delete", &link]));
    }
    if Path::new("/sys/class/net").join(bridge).exists() {
        attempt(Command::new("ip").args(["link", "delete", bridge]));
    }
    attempt(Command::new("nft").args(["delete", "table", "inet", &format!("carpel-{bridge}")]));
}

/// Runs a command whose failure changes nothing: what it removes may be gone already.
fn attempt(command: &mut Command) {
    command.output().expect("the programs of iproute2 and util-linux run");
}

fn ports_of(bridge: &str) -> Vec<String> {
    let Ok(ports) = std::fs::read_dir(Path::new("/sys/class/net").join(bridge).join("brif")) else {
        return Vec::new();
    };
    ports.flatten().map(|port| port.file_name().to_string_lossy().into_owned()).collect()
}

fn firewall() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output();
    let output = output.expect("nft runs (hack/install-deps test installs it)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
