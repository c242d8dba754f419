//! Programs of the classic BPF machine.

/// The kernel's limit of a program's length: include/uapi/linux/bpf_common.h `BPF_MAXINSNS`.
pub(crate) const INSTRUCTIONS_MAX: usize = 4096;

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
    /// `SECCOMP_FILTER_FLAG_*` that the profile asks for.
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
