//! Whether a container ended for want of memory.
//!
//! ```text
//!   the kernel counts ──▶ SIGKILL to the victim ──▶ it dies ──▶ reaped here ──▶ the count is read
//! ```
//!
//! The count says that some process of the container was a victim, now or long ago, not that its init
//! process was. So the count is kept from before a SIGKILL of ours, if the init process was not dying
//! already: what ends by that has ended for memory only if the kernel counted one more.

use std::fs;

use carpel_sys::clone::Process;

use crate::container::Container;
use crate::exit::Ended;

const SIGKILL: i32 = 9;
/// SIGKILL in a mask of `/proc/pid/status`, where signal 1 is bit 0.
const SIGKILL_BIT: u64 = 1 << 8;

/// To be told before a SIGKILL is sent to a container.
pub(crate) fn on_sigkill(container: &mut Container) {
    // The kernel counts first and kills then, so it is looked for in this order.
    let kills = kills(container);
    if container.init().is_some_and(|init| !is_dying(init)) {
        container.killed_at.get_or_insert(kills);
    }
}

/// Whether the kernel killed for memory in a container whose init process was reaped, and that was not
/// before a SIGKILL of ours that ended it. Its exit code is not looked at.
pub(crate) fn is_why(container: &Container, ended: Ended) -> bool {
    let before = container.killed_at.filter(|_| ended.signal() == SIGKILL).unwrap_or(0);
    kills(container) > before
}

fn kills(container: &Container) -> u64 {
    container.cgroup.oom_kills().unwrap_or(0)
}

/// Whether a process is dying, or is as good as dead. proc_pid_status(5).
///
/// A SIGKILL stays among the signals that are pending for the whole process until it is a zombie,
/// whoever sent it.
fn is_dying(process: &Process) -> bool {
    let path = format!("/proc/{}/status", process.pid.as_raw_nonzero());
    // One that is not there was reaped, which only this process does.
    fs::read_to_string(path).is_ok_and(|status| says_dying(&status))
}

fn says_dying(status: &str) -> bool {
    status.lines().filter_map(|line| line.split_once(':')).any(|(key, value)| match key {
        "State" => value.trim_start().starts_with(['Z', 'X']),
        "SigPnd" | "ShdPnd" => {
            u64::from_str_radix(value.trim(), 16).is_ok_and(|pending| pending & SIGKILL_BIT != 0)
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_who_is_dying() {
        let alive = "Name:\tsh\nState:\tS (sleeping)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000004000\n";
        assert!(!says_dying(alive));
        assert!(says_dying(&alive.replace("ShdPnd:\t0000000000004000", "ShdPnd:\t0000000000000100")));
        assert!(says_dying(&alive.replace("SigPnd:\t0000000000000000", "SigPnd:\t0000000000000100")));
        assert!(says_dying(&alive.replace("S (sleeping)", "Z (zombie)")));
        assert!(!says_dying(""));
    }
}
