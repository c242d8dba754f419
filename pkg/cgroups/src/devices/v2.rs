//! The eBPF program that decides about devices on cgroup2 (`BPF_PROG_TYPE_CGROUP_DEVICE`).
//!
//! ```text
//!  r1 → { u32 access << 16 | kind, u32 major, u32 minor }         struct bpf_cgroup_dev_ctx
//!  r2 = kind   r3 = access bits that are still undecided   r4 = major   r5 = minor
//!
//!  for each rule, the last one first:
//!      not its kind, major or minor?            → next rule
//!      refuses, and has a bit of r3?            → return 0
//!      allows: r3 &= ~its bits; r3 == 0?        → return 1
//!  return 0
//! ```
//!
//! Going backwards, the first rule that matches a bit decides it, so every request costs one pass
//! and each bit gets the decision of the last rule about it.

use carpel_sys::bpf::Instruction;

use super::{DeviceKind, DeviceRule};

/// `BPF_DEVCG_DEV_BLOCK` and `BPF_DEVCG_DEV_CHAR`.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

// Operations, as bpf_common.h and bpf.h number them.
const LOAD_WORD: u8 = 0x61; // LDX | MEM | W
const AND: u8 = 0x54; // ALU | AND | K
const MOVE_REGISTER: u8 = 0xbc; // ALU | MOV | X
const MOVE: u8 = 0xb7; // ALU64 | MOV | K
const SHIFT_RIGHT: u8 = 0x74; // ALU | RSH | K
const JUMP_NOT_EQUAL: u8 = 0x56; // JMP32 | JNE | K
const JUMP_IF_BITS: u8 = 0x46; // JMP32 | JSET | K
const JUMP: u8 = 0x05; // JMP | JA
const EXIT: u8 = 0x95;

/// Access bits still undecided.
const ACCESS: u8 = 3;

/// The program for these rules.
pub(super) fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut code = vec![
        Instruction { code: LOAD_WORD, registers: 1 << 4 | 2, offset: 0, immediate: 0 },
        Instruction { code: MOVE_REGISTER, registers: 2 << 4 | ACCESS, offset: 0, immediate: 0 },
        Instruction { code: AND, registers: 2, offset: 0, immediate: 0xffff },
        Instruction { code: SHIFT_RIGHT, registers: ACCESS, offset: 0, immediate: 16 },
        Instruction { code: LOAD_WORD, registers: 1 << 4 | 4, offset: 4, immediate: 0 },
        Instruction { code: LOAD_WORD, registers: 1 << 4 | 5, offset: 8, immediate: 0 },
    ];
    for rule in rules.iter().rev() {
        push_rule(rule, &mut code);
    }
    push_return(0, &mut code);
    code
}

fn push_rule(rule: &DeviceRule, code: &mut Vec<Instruction>) {
    let verdict = verdict(rule);
    let kind = match rule.kind {
        DeviceKind::All => None,
        DeviceKind::Char => Some(CHAR),
        DeviceKind::Block => Some(BLOCK),
    };
    let tests: Vec<(u8, i32)> = [
        kind.map(|kind| (2, kind)),
        rule.major.map(|major| (4, major.cast_signed())),
        rule.minor.map(|minor| (5, minor.cast_signed())),
    ]
    .into_iter()
    .flatten()
    .collect();
    for (done, (register, immediate)) in tests.iter().enumerate() {
        // Over the other tests and the verdict.
        let offset = i16::try_from(tests.len() - done - 1 + verdict.len()).unwrap_or(i16::MAX);
        code.push(Instruction { code: JUMP_NOT_EQUAL, registers: *register, offset, immediate: *immediate });
    }
    code.extend(verdict);
}

/// What happens when a rule's device is the one asked for.
fn verdict(rule: &DeviceRule) -> Vec<Instruction> {
    let bits = i32::from(rule.access.bits());
    let mut code = Vec::with_capacity(4);
    if rule.allow {
        code.push(Instruction { code: AND, registers: ACCESS, offset: 0, immediate: !bits });
        code.push(Instruction { code: JUMP_NOT_EQUAL, registers: ACCESS, offset: 2, immediate: 0 });
        push_return(1, &mut code);
    } else {
        code.push(Instruction { code: JUMP_IF_BITS, registers: ACCESS, offset: 1, immediate: bits });
        code.push(Instruction { code: JUMP, registers: 0, offset: 2, immediate: 0 });
        push_return(0, &mut code);
    }
    code
}

fn push_return(value: i32, code: &mut Vec<Instruction>) {
    code.push(Instruction { code: MOVE, registers: 0, offset: 0, immediate: value });
    code.push(Instruction { code: EXIT, registers: 0, offset: 0, immediate: 0 });
}
