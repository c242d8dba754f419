//! Our programs against libseccomp's, instruction for instruction run on the same calls.
//!
//! Needs a C compiler and libseccomp-dev, so it runs only when asked for:
//! `cargo test -p carpel-spec --lib oracle -- --ignored`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::*;

/// The last number that libseccomp 2.5 knows on every architecture: set_mempolicy_home_node.
const LAST_COMMON: u32 = 450;
/// Lower numbers that were given out later.
const LATER: [&str; 2] = ["uprobe", "uretprobe"];
/// Conventions beside x86_64. Random profiles leave out x32: libseccomp 2.5.4 then compiles some without
/// ever loading the system call's number, and kills everything.
const OTHERS: [Abi; 2] = [Abi::X86, Abi::X32];

/// The helper, compiled into a folder that goes with it.
struct Oracle {
    folder: tempfile::TempDir,
}

impl Oracle {
    fn build() -> Self {
        let oracle = Self { folder: tempfile::tempdir().unwrap() };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/libseccomp_oracle.c");
        let status = Command::new("cc").arg("-o").arg(oracle.program()).arg(source).arg("-lseccomp").status();
        assert!(status.expect("a C compiler").success(), "libseccomp-dev is needed");
        oracle
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("oracle")
    }

    fn compile(&self, profile: &Profile, others: &[Abi]) -> BpfProgram {
        let mut text =
            format!("default {:x}\n", outcome(profile.default_action, profile.default_errno_ret).unwrap());
        for &abi in others {
            // SCMP_ARCH_X32 is libseccomp's own number: EM_X86_64 | __AUDIT_ARCH_LE.
            let token = if abi == Abi::X32 { 0x4000_003e } else { abi.audit() };
            text.push_str(&format!("arch {token:x}\n"));
        }
        let host = Host { capabilities: CONTAINERD_DEFAULT, arch: Arch::X86_64, kernel: KERNEL };
        for rule in profile.syscalls.iter().filter(|rule| host.counts(rule)) {
            let action = outcome(rule.action, rule.errno_ret).unwrap();
            for name in &rule.names {
                text.push_str(&format!("rule {action:x} {name} {}", rule.args.len()));
                for arg in &rule.args {
                    text.push_str(&format!(
                        " {} {} {:x} {:x}",
                        arg.index,
                        operator(arg.op),
                        arg.value,
                        arg.value_two
                    ));
                }
                text.push('\n');
            }
        }
        let mut child =
            Command::new(self.program()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{text}");
        let word = |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let instruction = |bytes: &[u8]| Instruction {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: word(bytes, 4),
        };
        BpfProgram { instructions: output.stdout.chunks_exact(8).map(instruction).collect(), flags: 0 }
    }
}

/// `enum scmp_compare` of seccomp.h.
fn operator(op: Operator) -> u32 {
    match op {
        Operator::NotEqual => 1,
        Operator::Less => 2,
        Operator::LessOrEqual => 3,
        Operator::Equal => 4,
        Operator::GreaterOrEqual => 5,
        Operator::Greater => 6,
        Operator::MaskedEqual => 7,
    }
}

/// libseccomp turns x86's socket and IPC calls into the calls that they can also be made by, which is
/// a difference that is meant.
fn is_multiplexed(name: &str) -> bool {
    const NAMES: [&str; 33] = [
        "accept",
        "accept4",
        "bind",
        "connect",
        "getpeername",
        "getsockname",
        "getsockopt",
        "ipc",
        "listen",
        "msgctl",
        "msgget",
        "msgrcv",
        "msgsnd",
        "recv",
        "recvfrom",
        "recvmmsg",
        "recvmsg",
        "semctl",
        "semget",
        "semop",
        "semtimedop",
        "send",
        "sendmmsg",
        "sendmsg",
        "sendto",
        "setsockopt",
        "shmat",
        "shmctl",
        "shmdt",
        "shmget",
        "shutdown",
        "socket",
        "socketcall",
    ];
    NAMES.contains(&name) || name == "socketpair"
}

/// Compares both programs on every call of the table, with arguments around those that rules name.
fn compare(profile: &Profile, others: &[Abi], ours: &BpfProgram, theirs: &BpfProgram) {
    let default = outcome(profile.default_action, profile.default_errno_ret).unwrap();
    let values =
        profile.syscalls.iter().flat_map(|rule| rule.args.iter().flat_map(|arg| [arg.value, arg.value_two]));
    let mut values: Vec<u64> = values
        .flat_map(|value| [value.wrapping_sub(1), value, value.wrapping_add(1)])
        .chain([0, u64::MAX])
        .collect();
    values.sort_unstable();
    values.dedup();
    for &abi in [Abi::X86_64].iter().chain(others) {
        for name in arch::names().filter(|name| abi != Abi::X86 || !is_multiplexed(name)) {
            let Some(number) = abi.number(name) else { continue };
            if (LAST_COMMON + 1..COMMON_NUMBERS_END).contains(&number) || LATER.contains(&name) {
                continue;
            }
            for value in &values {
                // libseccomp compares only low words where arguments have no more.
                let value = if abi == Abi::X86_64 { *value } else { value & 0xffff_ffff };
                let call = call(abi, name, &[value; 6]);
                let (our, their) = (run(ours, call), run(theirs, call));
                let newer = our == outcome_of_unknown(default) && their == default;
                let rules: Vec<_> = profile.syscalls.iter().filter(|rule| rule.names == [name]).collect();
                assert!(
                    our == their || newer,
                    "{abi:?} {name}({value:#x}): {our:#x}, libseccomp {their:#x} {rules:?}"
                );
            }
        }
    }
}

#[test]
#[ignore = "needs cc and libseccomp-dev"]
fn the_default_profile_is_as_with_libseccomp() {
    // What `socket` refuses, libseccomp cannot be told.
    let mut profile = default_profile();
    profile.syscalls.retain(|rule| rule.names != ["socket"]);
    let ours = compile(&profile, CONTAINERD_DEFAULT, Arch::X86_64, KERNEL).unwrap();
    let theirs = Oracle::build().compile(&profile, &OTHERS);
    assert!(ours.instructions.len() < theirs.instructions.len(), "{}", theirs.instructions.len());
    compare(&profile, &OTHERS, &ours, &theirs);
}

fn profiles() -> impl Strategy<Value = Profile> {
    let operators = vec![
        Operator::NotEqual,
        Operator::Less,
        Operator::LessOrEqual,
        Operator::Equal,
        Operator::GreaterOrEqual,
        Operator::Greater,
        Operator::MaskedEqual,
    ];
    let value =
        prop_oneof![0u64..4, Just(0x7e02_0000), Just(u64::from(u32::MAX)), any::<u32>().prop_map(u64::from)];
    let arg = (prop::sample::select(operators), value.clone(), value);
    let args = prop::collection::btree_map(0u32..6, arg, 0..4);
    let action = prop::sample::select(vec![
        Action::Allow,
        Action::Errno,
        Action::Trap,
        Action::KillProcess,
        Action::Log,
    ]);
    let mut known: Vec<&str> = arch::names()
        .filter(|name| Abi::X86_64.number(name).is_some_and(|number| number <= LAST_COMMON))
        .collect();
    known.retain(|name| !is_multiplexed(name) && !LATER.contains(name));
    known.sort_unstable();
    let rules = prop::collection::btree_map(prop::sample::select(known), (action.clone(), args), 1..25);
    (action, rules).prop_map(|(default_action, rules)| {
        let rule = |(name, (action, args)): (&str, (Action, std::collections::BTreeMap<_, _>))| SyscallRule {
            names: vec![name.to_owned()],
            action,
            args: args
                .into_iter()
                .map(|(index, (op, value, value_two))| ArgRule { index, value, value_two, op })
                .collect(),
            ..SyscallRule::default()
        };
        // libseccomp refuses a rule that does what happens anyway.
        let syscalls = rules.into_iter().map(rule).filter(|rule| rule.action != default_action).collect();
        Profile { default_action, syscalls, ..default_profile() }
    })
}

#[test]
#[ignore = "needs cc and libseccomp-dev"]
fn profiles_are_as_with_libseccomp() {
    let oracle = Oracle::build();
    let mut runner = TestRunner::deterministic();
    for _ in 0..150 {
        let profile = profiles().new_tree(&mut runner).unwrap().current();
        let ours = compile(&profile, CONTAINERD_DEFAULT, Arch::X86_64, KERNEL).unwrap();
        compare(&profile, &OTHERS[..1], &ours, &oracle.compile(&profile, &OTHERS[..1]));
    }
}
