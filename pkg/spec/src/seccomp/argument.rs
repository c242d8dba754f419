//! Comparing arguments: 64 bits each, which the machine sees as two words of 32.

use super::bpf::{self, Instruction, Test};
use super::profile::{ArgRule, Operator};

/// Offset of `nr` in `struct seccomp_data`: include/uapi/linux/seccomp.h.
pub(super) const SYSCALL_NUMBER_OFFSET: u32 = 0;
/// Offset of `args` in `struct seccomp_data`.
const ARGS_OFFSET: u32 = 16;

/// Code that returns `outcome` if all comparisons hold, and else runs on past its end.
///
/// Short enough for its jumps: a comparison has six instructions at most, a rule twelve comparisons.
pub(super) fn return_if(args: &[&ArgRule], outcome: u32) -> Vec<Instruction> {
    let mut code = vec![bpf::ret(outcome)];
    for arg in args.iter().rev() {
        let fail = u8::try_from(code.len()).unwrap_or(u8::MAX);
        let mut comparison = compare(arg, fail);
        comparison.append(&mut code);
        code = comparison;
    }
    code
}

/// Code that runs on if the comparison holds and else skips `fail` instructions past its end.
fn compare(arg: &ArgRule, fail: u8) -> Vec<Instruction> {
    // Both architectures are little-endian: the low word comes first.
    let low = ARGS_OFFSET + 8 * arg.index;
    let words = Words { low, high: low + 4, value: split(arg.value), fail };
    match arg.op {
        Operator::Equal => words.equal(),
        Operator::NotEqual => words.not_equal(),
        Operator::Greater => words.above(Test::Greater),
        Operator::GreaterOrEqual => words.above(Test::GreaterOrEqual),
        Operator::Less => words.not_above(Test::GreaterOrEqual),
        Operator::LessOrEqual => words.not_above(Test::Greater),
        // Bits outside of the mask are never set in the masked argument, so they say nothing.
        Operator::MaskedEqual => words.masked_equal(split(arg.value_two & arg.value)),
    }
}

/// The high and the low word.
fn split(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, (value & 0xffff_ffff) as u32)
}

struct Words {
    /// Offset of the low word.
    low: u32,
    /// Offset of the high word.
    high: u32,
    /// What they are compared with, high word first.
    value: (u32, u32),
    fail: u8,
}

impl Words {
    fn equal(&self) -> Vec<Instruction> {
        let (high, low) = self.value;
        vec![
            bpf::load(self.high),
            bpf::test(Test::Equal, high, 0, self.fail + 2),
            bpf::load(self.low),
            bpf::test(Test::Equal, low, 0, self.fail),
        ]
    }

    fn not_equal(&self) -> Vec<Instruction> {
        let (high, low) = self.value;
        vec![
            bpf::load(self.high),
            bpf::test(Test::Equal, high, 0, 2),
            bpf::load(self.low),
            bpf::test(Test::Equal, low, self.fail, 0),
        ]
    }

    /// `Greater` or `GreaterOrEqual`: the high word decides unless it is equal, then the low one.
    fn above(&self, test: Test) -> Vec<Instruction> {
        let (high, low) = self.value;
        vec![
            bpf::load(self.high),
            bpf::test(Test::Greater, high, 3, 0),
            bpf::test(Test::Equal, high, 0, self.fail + 2),
            bpf::load(self.low),
            bpf::test(test, low, 0, self.fail),
        ]
    }

    /// The opposite of [`Words::above`].
    fn not_above(&self, test: Test) -> Vec<Instruction> {
        let (high, low) = self.value;
        vec![
            bpf::load(self.high),
            bpf::test(Test::Greater, high, self.fail + 3, 0),
            bpf::test(Test::Equal, high, 0, 2),
            bpf::load(self.low),
            bpf::test(test, low, self.fail, 0),
        ]
    }

    fn masked_equal(&self, expected: (u32, u32)) -> Vec<Instruction> {
        let (high_mask, low_mask) = self.value;
        let (high, low) = expected;
        vec![
            bpf::load(self.high),
            bpf::and(high_mask),
            bpf::test(Test::Equal, high, 0, self.fail + 3),
            bpf::load(self.low),
            bpf::and(low_mask),
            bpf::test(Test::Equal, low, 0, self.fail),
        ]
    }
}
