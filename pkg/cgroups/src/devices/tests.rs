use proptest::prelude::*;

use super::*;

fn rule(allow: bool, kind: DeviceKind, major: Option<u32>, minor: Option<u32>, bits: u8) -> DeviceRule {
    DeviceRule { allow, kind, major, minor, access: Access(bits) }
}

/// The meaning of a list: for each bit the last rule that matches.
fn allowed(rules: &[DeviceRule], kind: DeviceKind, major: u32, minor: u32, bits: u8) -> bool {
    (0..3).map(|n| 1 << n).filter(|bit| bits & bit != 0).all(|bit| {
        let about = |r: &&DeviceRule| {
            (r.kind == DeviceKind::All || r.kind == kind)
                && r.major.is_none_or(|m| m == major)
                && r.minor.is_none_or(|m| m == minor)
                && r.access.bits() & bit != 0
        };
        rules.iter().rev().find(about).is_some_and(|r| r.allow)
    })
}

/// Runs a program as the kernel would, for the few operations that are generated.
fn run(code: &[carpel_sys::bpf::Instruction], kind: u32, major: u32, minor: u32, bits: u8) -> bool {
    let context = [u32::from(bits) << 16 | kind, major, minor];
    let mut registers = [0u64; 11];
    let mut at = 0usize;
    loop {
        let i = code[at];
        let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
        let value = registers[to] as u32;
        let mut jump = |condition: bool| {
            if condition {
                at = at.checked_add_signed(isize::from(i.offset)).unwrap();
            }
        };
        match i.code {
            0x61 => registers[to] = u64::from(context[usize::try_from(i.offset).unwrap() / 4]),
            0x54 => registers[to] = u64::from(value & i.immediate as u32),
            0xbc => registers[to] = u64::from(registers[from] as u32),
            0xb7 => registers[to] = i.immediate as u64,
            0x74 => registers[to] = u64::from(value >> i.immediate),
            0x56 => jump(value != i.immediate as u32),
            0x46 => jump(value & i.immediate as u32 != 0),
            0x05 => jump(true),
            0x95 => return registers[0] == 1,
            other => panic!("operation {other:#x}"),
        }
        at += 1;
    }
}

fn rules() -> impl Strategy<Value = Vec<DeviceRule>> {
    let kind = prop_oneof![Just(DeviceKind::All), Just(DeviceKind::Char), Just(DeviceKind::Block)];
    let number = prop_oneof![Just(None), (0u32..3).prop_map(Some)];
    let one = (any::<bool>(), kind, number.clone(), number, 1u8..8);
    prop::collection::vec(one.prop_map(|(a, k, major, minor, b)| rule(a, k, major, minor, b)), 0..8)
}

/// Follows the lines as the kernel's devcgroup does (security/device_cgroup.c).
fn follow(lines: &[(&str, String)]) -> impl Fn(DeviceKind, u32, u32, u8) -> bool {
    type Exception = (char, String, u8);
    let mut default = false;
    let mut exceptions: Vec<Exception> = Vec::new();
    for (file, line) in lines {
        let allow = *file == "devices.allow";
        if line == "a" {
            default = allow;
            exceptions.clear();
            continue;
        }
        let mut words = line.split(' ');
        let (kind, numbers, access) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let bits = access
            .bytes()
            .map(|b| match b {
                b'r' => 2,
                b'w' => 4,
                _ => 1,
            })
            .sum::<u8>();
        let key = (kind.chars().next().unwrap(), numbers.to_owned());
        let same = |e: &Exception| (e.0, e.1.clone()) == key;
        if allow == default {
            exceptions.iter_mut().filter(|e| same(e)).for_each(|e| e.2 &= !bits);
            exceptions.retain(|e| e.2 != 0);
        } else if let Some(e) = exceptions.iter_mut().find(|e| same(e)) {
            e.2 |= bits;
        } else {
            exceptions.push((key.0, key.1, bits));
        }
    }
    move |kind, major, minor, bits| {
        let letter = if kind == DeviceKind::Block { 'b' } else { 'c' };
        let matches = |e: &&Exception| {
            let (m, n) = e.1.split_once(':').unwrap();
            e.0 == letter && (m == "*" || m == major.to_string()) && (n == "*" || n == minor.to_string())
        };
        let mut about = exceptions.iter().filter(matches);
        if default {
            // Any exception with one of the bits refuses.
            !about.any(|e| e.2 & bits != 0)
        } else {
            // One exception must have all of the bits.
            about.any(|e| bits & !e.2 == 0)
        }
    }
}

proptest! {
    #[test]
    fn the_program_decides_as_the_rules_say(rules in rules(), major in 0u32..4, minor in 0u32..4, bits in 1u8..8) {
        let code = v2::program(&rules);
        for (number, kind) in [(1, DeviceKind::Block), (2, DeviceKind::Char)] {
            prop_assert_eq!(
                run(&code, number, major, minor, bits),
                allowed(&rules, kind, major, minor, bits)
            );
        }
    }

    #[test]
    fn v1_never_allows_what_the_rules_do_not(rules in rules(), major in 0u32..4, minor in 0u32..4, bit in 0u8..3) {
        let Ok(lines) = v1::lines(&rules) else { return Ok(()) };
        let decide = follow(&lines);
        for kind in [DeviceKind::Block, DeviceKind::Char] {
            prop_assert_eq!(
                decide(kind, major, minor, 1 << bit),
                allowed(&rules, kind, major, minor, 1 << bit),
                "{:?}", lines
            );
        }
    }
}

#[test]
fn the_usual_rules_are_the_usual_lines() {
    let rules = [
        rule(false, DeviceKind::All, None, None, 7),
        rule(true, DeviceKind::Char, None, None, 1),
        rule(true, DeviceKind::Char, Some(1), Some(3), 7),
    ];
    let expected = [
        ("devices.deny", "a"),
        ("devices.deny", "a"),
        ("devices.allow", "c *:* m"),
        ("devices.allow", "c 1:3 rwm"),
    ];
    let lines = v1::lines(&rules).unwrap();
    assert_eq!(lines.iter().map(|(f, l)| (*f, l.as_str())).collect::<Vec<_>>(), expected);
    // A hole in a wide permission cannot be said to v1, and must not be dropped silently.
    let hole = [rules[1], rule(false, DeviceKind::Char, Some(10), Some(200), 1)];
    assert!(matches!(v1::lines(&hole), Err(DeviceError::NotExpressible(1))));
    let none = [rule(true, DeviceKind::Char, None, None, 0)];
    assert!(matches!(check(&none), Err(DeviceError::NoAccess(0))));
    assert!(matches!(check(&[rules[0]; RULES_MAX + 1]), Err(DeviceError::TooMany(_))));
}
