//! Who is still alive in a cgroup that was killed, and what it waits for: for the operator.

use std::fmt::Write;

use crate::node::Node;

/// Processes that are told; a container may have thousands.
const TOLD_MAX: usize = 8;

/// `pid 12 (dd) in state D at nfs_wait_bit_killable`, comma-separated. Blocks.
pub(crate) fn tell(node: &Node, cgroup_path: &str) -> String {
    let Some(cgroup) = node.cgroup(cgroup_path) else { return "its cgroup is gone".to_owned() };
    let procs = match cgroup.procs() {
        Ok(procs) => procs,
        Err(err) => return format!("its processes cannot be listed: {err}"),
    };
    let mut text = String::new();
    for pid in procs.iter().take(TOLD_MAX) {
        let pid = pid.as_raw_nonzero();
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let (name, state) = name_and_state(&read("stat")).unwrap_or_default();
        let wchan = read("wchan");
        let separator = if text.is_empty() { "" } else { ", " };
        // Writing into a String does not fail.
        let _ = write!(text, "{separator}pid {pid} ({name}) in state {state} at {wchan}");
    }
    if procs.len() > TOLD_MAX {
        let _ = write!(text, " and {} more", procs.len() - TOLD_MAX);
    }
    if text.is_empty() { "no process is left in its cgroup".to_owned() } else { text }
}

/// proc_pid_stat(5): the name is in brackets and may hold brackets itself.
fn name_and_state(stat: &str) -> Option<(String, String)> {
    let (_, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(") ")?;
    Some((name.to_owned(), rest.split(' ').next()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_brackets() {
        assert_eq!(name_and_state("7 (a) b) S 1 7"), Some(("a) b".to_owned(), "S".to_owned())));
        assert_eq!(name_and_state(""), None);
    }
}
