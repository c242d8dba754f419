//! `devices.allow` and `devices.deny` of v1.
//!
//! The kernel keeps, for a cgroup, a default and a list of exceptions from it. A write that agrees
//! with the default takes exceptions back, and only those with the very same device numbers; any
//! other such write does nothing, silently. So the list is followed here, and a rule that would not
//! do what it says is refused instead.

use super::{DeviceError, DeviceKind, DeviceRule};

const ALLOW: &str = "devices.allow";
const DENY: &str = "devices.deny";

/// What the kernel remembers: one entry for a device, with the access bits of all its lines.
struct State {
    allow_by_default: bool,
    exceptions: Vec<DeviceRule>,
}

/// The writes for these rules, beginning with one that refuses everything.
pub(super) fn lines(rules: &[DeviceRule]) -> Result<Vec<(&'static str, String)>, DeviceError> {
    let mut state = State { allow_by_default: false, exceptions: Vec::new() };
    let mut out = vec![(DENY, "a".to_owned())];
    for (number, rule) in rules.iter().enumerate() {
        if rule.is_total() {
            state = State { allow_by_default: rule.allow, exceptions: Vec::new() };
            out.push((file(rule.allow), "a".to_owned()));
            continue;
        }
        for rule in each_kind(rule) {
            if rule.allow == state.allow_by_default {
                state.take_back(&rule, &mut out).map_err(|Partial| DeviceError::NotExpressible(number))?;
            } else {
                out.push((file(rule.allow), line(&rule)));
                state.exceptions.push(rule);
            }
        }
    }
    Ok(out)
}

/// An exception that is wider than the rule which takes from it.
struct Partial;

impl State {
    fn take_back(&mut self, rule: &DeviceRule, out: &mut Vec<(&'static str, String)>) -> Result<(), Partial> {
        for exception in self.exceptions.iter().filter(|e| overlaps(e, rule)) {
            if !covers(rule, exception) {
                return Err(Partial);
            }
            let exact = DeviceRule { major: exception.major, minor: exception.minor, ..*rule };
            out.push((file(rule.allow), line(&exact)));
        }
        for exception in &mut self.exceptions {
            if covers(rule, exception) {
                exception.access = super::Access(exception.access.bits() & !rule.access.bits());
            }
        }
        self.exceptions.retain(|e| e.access.bits() != 0);
        Ok(())
    }
}

fn file(allow: bool) -> &'static str {
    if allow { ALLOW } else { DENY }
}

/// `a` with numbers or less than full access is two lines: the kernel reads `a` as everything.
fn each_kind(rule: &DeviceRule) -> Vec<DeviceRule> {
    match rule.kind {
        DeviceKind::All => vec![
            DeviceRule { kind: DeviceKind::Char, ..*rule },
            DeviceRule { kind: DeviceKind::Block, ..*rule },
        ],
        DeviceKind::Char | DeviceKind::Block => vec![*rule],
    }
}

fn line(rule: &DeviceRule) -> String {
    let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
    let kind = if rule.kind == DeviceKind::Block { 'b' } else { 'c' };
    format!("{kind} {}:{} {}", number(rule.major), number(rule.minor), rule.access.letters())
}

/// Whether every device of `inner` is one of `outer`.
fn covers(outer: &DeviceRule, inner: &DeviceRule) -> bool {
    let number = |outer: Option<u32>, inner: Option<u32>| outer.is_none() || outer == inner;
    outer.kind == inner.kind && number(outer.major, inner.major) && number(outer.minor, inner.minor)
}

/// Whether they have a device and a kind of access in common.
fn overlaps(a: &DeviceRule, b: &DeviceRule) -> bool {
    let number = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
    a.kind == b.kind
        && a.access.bits() & b.access.bits() != 0
        && number(a.major, b.major)
        && number(a.minor, b.minor)
}
