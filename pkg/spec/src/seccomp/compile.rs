//! From a profile to a program.
//!
//! ```text
//!   load arch ── x86_64? ── load number ── tree ── return
//!            │                                 └── arguments ── return
//!            ├── x86? ───── load number ── tree …
//!            └── return kill                            an architecture that was not listed
//! ```
//!
//! Numbers with the same outcome lie beside each other more often than not, so the tree is one over
//! ranges of numbers: the built-in profile has some 250 instructions for each convention, where one
//! test per system call takes twice that, and a call passes twelve of them on average.
//!
//! Where a profile leaves something open:
//!
//! * Rules are tried in the order in which they stand; the first that matches decides.
//! * All comparisons of a rule must hold. Only if a rule asks one argument to be equal to several
//!   values, which nothing can be, any of them will do.
//! * A name that no architecture has is passed over: profiles name calls of other machines.
//! * A number that is not taken yet, or is above all that the profile names, fails with ENOSYS where the
//!   profile would forbid it: programs probe for new calls, and only ENOSYS makes them fall back.

use std::collections::{BTreeMap, BTreeSet};

use super::arch::{Abi, X32_BIT};
use super::argument::{self, SYSCALL_NUMBER_OFFSET};
use super::bpf::{self, BpfProgram, INSTRUCTIONS_MAX, Instruction, Test};
use super::profile::{Action, ArgRule, Condition, Operator, Profile, ProfileError, SyscallRule, min_kernel};
use super::{Arch, KernelVersion};
use crate::capability;

/// Offset of `arch` in `struct seccomp_data`.
const ARCH_OFFSET: u32 = 4;
/// The kernel's largest error number: include/linux/err.h.
const ERRNO_MAX: u32 = 4095;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// From here on numbers are not given out in one order for all: x32 and ARM have some of their own.
const COMMON_NUMBERS_END: u32 = 512;

/// include/uapi/linux/seccomp.h `SECCOMP_RET_*`.
mod ret {
    pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
    pub(super) const KILL_THREAD: u32 = 0;
    pub(super) const TRAP: u32 = 0x0003_0000;
    pub(super) const ERRNO: u32 = 0x0005_0000;
    pub(super) const TRACE: u32 = 0x7ff0_0000;
    pub(super) const LOG: u32 = 0x7ffc_0000;
    pub(super) const ALLOW: u32 = 0x7fff_0000;
}

/// include/uapi/linux/seccomp.h `SECCOMP_FILTER_FLAG_SPEC_ALLOW`.
const FLAG_SPEC_ALLOW: u32 = 1 << 2;

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A rule that cannot be one.
    #[error("check its rules")]
    Rule(#[source] ProfileError),
    /// Nobody would answer.
    #[error("SCMP_ACT_NOTIFY and listenerPath are not supported: there is nobody to notify")]
    Notify,
    /// An architecture that libseccomp does not have either.
    #[error("unknown architecture {name:?}")]
    Architecture {
        /// As given.
        name: String,
    },
    /// A flag that is unknown or of no use here.
    #[error("filter flag {flag:?} is not supported")]
    Flag {
        /// As given.
        flag: String,
    },
    /// Over the kernel's largest.
    #[error("error number {errno} is larger than 4095")]
    Errno {
        /// As given.
        errno: u32,
    },
    /// Over the kernel's limit.
    #[error("the program has {count} instructions, at most 4096 are possible")]
    TooLong {
        /// How many.
        count: usize,
    },
}

/// Compiles a profile for a container that has `capabilities`, on a machine.
///
/// # Errors
/// The profile asks for what is not supported, or the program would be too long for the kernel.
pub fn compile(
    profile: &Profile,
    capabilities: u64,
    arch: Arch,
    kernel: KernelVersion,
) -> Result<BpfProgram, CompileError> {
    profile.check().map_err(CompileError::Rule)?;
    if profile.listener_path.as_ref().is_some_and(|path| !path.is_empty()) {
        return Err(CompileError::Notify);
    }
    let default = outcome(profile.default_action, profile.default_errno_ret)?;
    let host = Host { capabilities, arch, kernel };
    let mut rules = Vec::with_capacity(profile.syscalls.len());
    for rule in &profile.syscalls {
        let outcome = outcome(rule.action, rule.errno_ret)?;
        rules.push(Rule { rule, outcome, counts: host.counts(rule) });
    }
    let listed = listed_abis(profile, arch)?;
    let tree = |abi: Abi| number_tree(abi, &rules, default);
    let instructions = match arch {
        Arch::X86_64 => x86_64_program(&listed, &tree),
        Arch::Aarch64 => aarch64_program(&listed, &tree),
    };
    if instructions.len() > INSTRUCTIONS_MAX {
        return Err(CompileError::TooLong { count: instructions.len() });
    }
    Ok(BpfProgram { instructions, flags: filter_flags(&profile.flags)? })
}

/// A rule, and what is known about it before any number is looked at.
struct Rule<'a> {
    rule: &'a SyscallRule,
    outcome: u32,
    /// Its conditions hold here. One that does not count still tells which calls the profile knows.
    counts: bool,
}

impl Rule<'_> {
    fn names(&self) -> impl Iterator<Item = &str> {
        let single = Some(self.rule.name.as_str()).filter(|name| !name.is_empty());
        self.rule.names.iter().map(String::as_str).chain(single)
    }
}

/// What a rule's conditions are held against.
struct Host {
    capabilities: u64,
    arch: Arch,
    kernel: KernelVersion,
}

impl Host {
    fn counts(&self, rule: &SyscallRule) -> bool {
        let Condition { caps, arches, .. } = &rule.includes;
        let included = caps.iter().all(|cap| self.has(cap))
            && (arches.is_empty() || arches.iter().any(|arch| arch == self.arch.go_name()))
            && self.at_least(&rule.includes) != Some(false);
        let Condition { caps, arches, .. } = &rule.excludes;
        let excluded = caps.iter().any(|cap| self.has(cap))
            || arches.iter().any(|arch| arch == self.arch.go_name())
            || self.at_least(&rule.excludes) == Some(true);
        included && !excluded
    }

    /// A capability that this program does not know is one that it never granted.
    fn has(&self, name: &str) -> bool {
        capability::by_name(name).is_ok_and(|bit| self.capabilities & bit != 0)
    }

    /// `None`: the condition says nothing about it.
    fn at_least(&self, condition: &Condition) -> Option<bool> {
        let oldest = condition.min_kernel.as_deref().and_then(min_kernel);
        oldest.map(|oldest| self.kernel >= oldest)
    }
}

fn outcome(action: Action, errno: Option<u32>) -> Result<u32, CompileError> {
    let errno = errno.unwrap_or(EPERM);
    match action {
        Action::KillThread => Ok(ret::KILL_THREAD),
        Action::KillProcess => Ok(ret::KILL_PROCESS),
        Action::Trap => Ok(ret::TRAP),
        Action::Errno | Action::Trace if errno > ERRNO_MAX => Err(CompileError::Errno { errno }),
        Action::Errno => Ok(ret::ERRNO | errno),
        Action::Trace => Ok(ret::TRACE | errno),
        Action::Log => Ok(ret::LOG),
        Action::Allow => Ok(ret::ALLOW),
        Action::Notify => Err(CompileError::Notify),
    }
}

/// What becomes of calls that the profile cannot know.
fn outcome_of_unknown(default: u32) -> u32 {
    match default {
        ret::ALLOW | ret::LOG => default,
        traced if traced & 0xffff_0000 == ret::TRACE => default,
        _ => ret::ERRNO | ENOSYS,
    }
}

/// As runc: mitigations of speculative execution are not forced on, unless the profile has flags.
fn filter_flags(flags: &[String]) -> Result<u32, CompileError> {
    if flags.is_empty() {
        return Ok(FLAG_SPEC_ALLOW);
    }
    flags.iter().try_fold(0, |set, flag| match flag.as_str() {
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(set | 1),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(set | 1 << 1),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(set | FLAG_SPEC_ALLOW),
        _ => Err(CompileError::Flag { flag: flag.clone() }),
    })
}

/// Names that profiles may have for machines that are not ours.
const FOREIGN_ARCHITECTURES: [&str; 18] = [
    "SCMP_ARCH_NATIVE",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_SH",
];

/// Conventions that the rules hold for beside the machine's own.
fn listed_abis(profile: &Profile, arch: Arch) -> Result<Vec<Abi>, CompileError> {
    let native = arch.native();
    let mapped = profile.arch_map.iter().filter(|map| map.architecture == native.scmp_name());
    let names = profile.architectures.iter().chain(mapped.flat_map(|map| &map.sub_architectures));
    let mut listed = Vec::new();
    for name in names {
        let ours = [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm];
        match ours.into_iter().find(|abi| abi.scmp_name() == name) {
            Some(abi) if arch.others().contains(&abi) && !listed.contains(&abi) => listed.push(abi),
            Some(_) => {}
            None if FOREIGN_ARCHITECTURES.contains(&name.as_str()) => {}
            None => return Err(CompileError::Architecture { name: name.clone() }),
        }
    }
    Ok(listed)
}

fn x86_64_program(listed: &[Abi], tree: &impl Fn(Abi) -> Vec<Instruction>) -> Vec<Instruction> {
    let kill = || vec![bpf::ret(ret::KILL_PROCESS)];
    let x32 = if listed.contains(&Abi::X32) { tree(Abi::X32) } else { kill() };
    // A tracer skips a call by making its number -1, which has x32's bit too.
    let x32 = bpf::branch(Test::Equal, u32::MAX, vec![bpf::ret(ret::ERRNO | ENOSYS)], x32);
    let mut native = vec![bpf::load(SYSCALL_NUMBER_OFFSET)];
    native.extend(bpf::branch(Test::GreaterOrEqual, X32_BIT, x32, tree(Abi::X86_64)));
    let x86 = if listed.contains(&Abi::X86) { foreign(Abi::X86, tree) } else { kill() };
    by_arch(Abi::X86_64, native, x86)
}

fn aarch64_program(listed: &[Abi], tree: &impl Fn(Abi) -> Vec<Instruction>) -> Vec<Instruction> {
    let mut native = vec![bpf::load(SYSCALL_NUMBER_OFFSET)];
    native.extend(tree(Abi::Aarch64));
    let arm =
        if listed.contains(&Abi::Arm) { foreign(Abi::Arm, tree) } else { vec![bpf::ret(ret::KILL_PROCESS)] };
    by_arch(Abi::Aarch64, native, arm)
}

/// The code for another convention than the machine's own: kills unless it is that.
fn foreign(abi: Abi, tree: &impl Fn(Abi) -> Vec<Instruction>) -> Vec<Instruction> {
    let mut code = vec![bpf::load(SYSCALL_NUMBER_OFFSET)];
    code.extend(tree(abi));
    bpf::branch(Test::Equal, abi.audit(), code, vec![bpf::ret(ret::KILL_PROCESS)])
}

fn by_arch(native: Abi, own: Vec<Instruction>, others: Vec<Instruction>) -> Vec<Instruction> {
    let mut code = vec![bpf::load(ARCH_OFFSET)];
    code.extend(bpf::branch(Test::Equal, native.audit(), own, others));
    code
}

/// What becomes of a number: rules in order, each with the comparisons that it needs, and what is left.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Leaf<'a> {
    conditional: Vec<(Vec<&'a ArgRule>, u32)>,
    otherwise: u32,
}

/// Code that decides by the number in the accumulator.
fn number_tree(abi: Abi, rules: &[Rule<'_>], default: u32) -> Vec<Instruction> {
    let bit = if abi == Abi::X32 { X32_BIT } else { 0 };
    let ranges = ranges(&leaves(abi, rules, default), outcome_of_unknown(default));
    let ranges: Vec<(u32, Vec<Instruction>)> =
        ranges.into_iter().map(|(first, leaf)| (first | bit, leaf_code(&leaf))).collect();
    search(&ranges)
}

/// The leaf of every number that is taken.
fn leaves<'a>(abi: Abi, rules: &'a [Rule<'_>], default: u32) -> BTreeMap<u32, Leaf<'a>> {
    let numbers = |rule: &'a Rule<'_>| rule.names().filter_map(move |name| abi.number(name));
    let largest = rules.iter().flat_map(numbers).filter(|number| *number < COMMON_NUMBERS_END).max();
    let above = |number: u32| number < COMMON_NUMBERS_END && largest.is_none_or(|largest| number > largest);
    let start = |number: u32| {
        let otherwise = if above(number) { outcome_of_unknown(default) } else { default };
        (number, Leaf { conditional: Vec::new(), otherwise })
    };
    let mut leaves: BTreeMap<u32, Leaf<'a>> = abi.numbers().map(start).collect();
    let mut decided = BTreeSet::new();
    for rule in rules.iter().filter(|rule| rule.counts) {
        for number in numbers(rule).filter(|number| !decided.contains(number)).collect::<BTreeSet<_>>() {
            let Some(leaf) = leaves.get_mut(&number) else { continue };
            if rule.rule.args.is_empty() {
                leaf.otherwise = rule.outcome;
                decided.insert(number);
            } else {
                let alternatives = alternatives(&rule.rule.args).into_iter();
                leaf.conditional.extend(alternatives.map(|args| (args, rule.outcome)));
            }
        }
    }
    leaves
}

/// The comparisons of a rule, of which one list must hold. One list, but where an argument is to equal
/// several values: then one list for each.
fn alternatives(args: &[ArgRule]) -> Vec<Vec<&ArgRule>> {
    let equals = |index: u32| args.iter().filter(move |arg| arg.index == index);
    let contradictory = |arg: &&ArgRule| {
        equals(arg.index).count() > 1 && equals(arg.index).all(|arg| arg.op == Operator::Equal)
    };
    let Some(first) = args.iter().find(contradictory) else { return vec![args.iter().collect()] };
    let rest = || args.iter().filter(|arg| arg.index != first.index);
    equals(first.index).map(|one| rest().chain([one]).collect()).collect()
}

/// Neighbours with the same leaf as one: the first number of each range. Numbers that are not taken are
/// ranges too.
fn ranges<'a>(leaves: &BTreeMap<u32, Leaf<'a>>, unknown: u32) -> Vec<(u32, Leaf<'a>)> {
    let unknown = Leaf { conditional: Vec::new(), otherwise: unknown };
    let mut ranges: Vec<(u32, Leaf<'a>)> = Vec::new();
    let mut push = |first: u32, leaf: &Leaf<'a>| {
        if ranges.last().is_none_or(|(_, last)| last != leaf) {
            ranges.push((first, leaf.clone()));
        }
    };
    let mut next = 0;
    for (&number, leaf) in leaves {
        if number > next {
            push(next, &unknown);
        }
        push(number, leaf);
        next = number + 1;
    }
    push(next, &unknown);
    ranges
}

/// A binary search over ranges. Outcomes stand where the search ends: a return is as short as a jump.
fn search(ranges: &[(u32, Vec<Instruction>)]) -> Vec<Instruction> {
    match ranges {
        [] => vec![bpf::ret(ret::KILL_PROCESS)],
        [(_, code)] => code.clone(),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let middle = high.first().map_or(0, |(first, _)| *first);
            bpf::branch(Test::GreaterOrEqual, middle, search(high), search(low))
        }
    }
}

/// Code for a leaf; ends in a return on every path.
fn leaf_code(leaf: &Leaf<'_>) -> Vec<Instruction> {
    let mut code = Vec::new();
    for (args, outcome) in &leaf.conditional {
        code.extend(argument::return_if(args, *outcome));
    }
    code.push(bpf::ret(leaf.otherwise));
    code
}

#[cfg(test)]
mod tests;
