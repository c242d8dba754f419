//! Programs of the classic BPF machine, as far as seccomp(2) needs them.
//!
//! Jumps only ever lead forward, so code is put together from its end: whoever joins two pieces knows
//! how long the skipped one is.

/// The kernel's limit of a program's length: include/uapi/linux/bpf_common.h `BPF_MAXINSNS`.
pub(super) const INSTRUCTIONS_MAX: usize = 4096;

/// `BPF_LD | BPF_W | BPF_ABS`.
const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`.
const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`.
const JUMP: u16 = 0x05;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// `struct sock_filter`: include/uapi/linux/filter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip if it is true.
    pub jt: u8,
    /// How many instructions to skip if it is false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// A finished filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BpfProgram {
    /// At least one, at most 4096.
    pub instructions: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*` to load it with.
    pub flags: u32,
}

impl BpfProgram {
    /// `struct sock_filter` × n in this machine's byte order, as seccomp(2) takes them.
    pub fn to_ne_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.instructions.len() * 8);
        for instruction in &self.instructions {
            bytes.extend_from_slice(&instruction.code.to_ne_bytes());
            bytes.push(instruction.jt);
            bytes.push(instruction.jf);
            bytes.extend_from_slice(&instruction.k.to_ne_bytes());
        }
        bytes
    }
}

/// A test of the accumulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
}

impl Test {
    /// `BPF_JMP | BPF_J* | BPF_K`.
    fn code(self) -> u16 {
        match self {
            Self::Equal => 0x15,
            Self::Greater => 0x25,
            Self::GreaterOrEqual => 0x35,
        }
    }
}

pub(super) fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, jt: 0, jf: 0, k: offset }
}

pub(super) fn and(mask: u32) -> Instruction {
    Instruction { code: AND, jt: 0, jf: 0, k: mask }
}

pub(super) fn ret(value: u32) -> Instruction {
    Instruction { code: RETURN, jt: 0, jf: 0, k: value }
}

pub(super) fn test(test: Test, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code: test.code(), jt, jf, k }
}

/// Runs `then` if the test holds, else `otherwise`. `then` must not run on into `otherwise`: both end
/// in a return on every path. A conditional jump skips 255 instructions at most, a plain one any number.
pub(super) fn branch(
    what: Test,
    k: u32,
    mut then: Vec<Instruction>,
    mut otherwise: Vec<Instruction>,
) -> Vec<Instruction> {
    let mut code = Vec::with_capacity(then.len() + otherwise.len() + 2);
    if let Ok(skip) = u8::try_from(then.len()) {
        code.push(test(what, k, 0, skip));
    } else {
        code.push(test(what, k, 1, 0));
        // A program has 4096 instructions at most, which is checked when it is finished.
        let skip = u32::try_from(then.len()).unwrap_or(u32::MAX);
        code.push(Instruction { code: JUMP, jt: 0, jf: 0, k: skip });
    }
    code.append(&mut then);
    code.append(&mut otherwise);
    code
}
