//! What the figures depend on besides the programs: said before them.

use std::fs;
use std::path::Path;

use carpel_e2e::{daemon, kernel};

use crate::life;
use crate::peer::Programs;

/// Prints the machine's facts as a list.
pub(crate) fn print() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|error| format!("{path}: {error}"));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cgroups = if kernel::is_cgroup_v1() { "v1" } else { "v2" };
    // Moving processes between cgroups is faster while any hierarchy is mounted so; it would be for both.
    let favored = read("/proc/self/mountinfo").contains("favordynmods");
    println!(
        "- Linux {}, {cores} cores{}",
        read("/proc/sys/kernel/osrelease").trim(),
        model.map_or(String::new(), |(_, name)| format!(" ({name})"))
    );
    println!("- cgroup {cgroups}, favordynmods {}", if favored { "on" } else { "off" });
    println!(
        "- daemons and driver at niceness {}; load before: {}",
        niceness(),
        read("/proc/loadavg").trim()
    );
    println!("- all folders below {}", std::env::temp_dir().display());
    println!(
        "- pods of one container (`sleep`), seccomp RuntimeDefault, 102 CPU shares, 128 MiB limit; {} execs a pod\n",
        life::EXECS
    );
}

/// The 19th field of /proc/self/stat; daemons inherit it.
fn niceness() -> String {
    let stat = fs::read_to_string("/proc/self/stat").expect("/proc is mounted");
    let after_name = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    after_name.split(' ').nth(16).unwrap_or("unknown").to_owned()
}

/// Prints the sizes of the programs that a node needs.
pub(crate) fn print_sizes(programs: &Programs) {
    let size = |path: &Path| {
        let length = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).len();
        let tenths = length * 10 / (1 << 20);
        format!(
            "{} {}.{} MiB",
            path.file_name().unwrap_or_default().to_string_lossy(),
            tenths / 10,
            tenths % 10
        )
    };
    let list = |folder: &Path, names: &[&str]| {
        names.iter().map(|name| size(&folder.join(name))).collect::<Vec<_>>().join(", ")
    };
    println!("- Carpel's programs: {}", list(&daemon::programs(), &["carpeld", "carpel-shim", "carpel"]));
    let peers = ["containerd", "containerd-shim-runc-v2", "runc", "ctr"];
    println!("- containerd's: {}\n", list(&programs.peers, &peers));
}
