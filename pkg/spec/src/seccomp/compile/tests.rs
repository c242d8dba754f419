mod oracle;

use super::super::arch::{self, X32_BIT};
use super::super::{BpfProgram, default_profile};
use super::*;
use crate::capability::{ALL, CONTAINERD_DEFAULT};

const KERNEL: KernelVersion = KernelVersion { major: 6, minor: 8 };
const ALLOW: u32 = ret::ALLOW;
const NO: u32 = ret::ERRNO | EPERM;
const NOSYS: u32 = ret::ERRNO | ENOSYS;
const KILL: u32 = ret::KILL_PROCESS;

/// A system call as a filter sees it.
#[derive(Clone, Copy)]
struct Call {
    audit: u32,
    number: u32,
    args: [u64; 6],
}

fn call(abi: Abi, name: &str, args: &[u64]) -> Call {
    let number = abi.number(name).unwrap_or_else(|| panic!("{abi:?} has no {name}"));
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    let number = if abi == Abi::X32 { number | X32_BIT } else { number };
    Call { audit: abi.audit(), number, args: all }
}

/// Runs a program as the kernel does, and checks what the kernel's own checker would.
fn run(program: &BpfProgram, call: Call) -> u32 {
    let word = |offset: u32| match offset {
        0 => call.number,
        4 => call.audit,
        16..64 if offset.is_multiple_of(4) => {
            let arg = call.args[(offset as usize - 16) / 8];
            if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
        }
        _ => panic!("loads from offset {offset}"),
    };
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let Instruction { code, jt, jf, k } = program.instructions[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x06 => return k,
            _ => panic!("instruction {code:#x}"),
        }
    }
}

fn built_in(capabilities: u64, arch: Arch) -> BpfProgram {
    compile(&default_profile(), capabilities, arch, KERNEL).unwrap()
}

fn custom(json: &str) -> BpfProgram {
    compile(&Profile::parse(json.as_bytes()).unwrap(), CONTAINERD_DEFAULT, Arch::X86_64, KERNEL).unwrap()
}

fn bit(name: &str) -> u64 {
    capability::by_name(name).unwrap()
}

#[test]
fn the_default_allows_what_programs_need_and_forbids_the_rest() {
    let program = built_in(CONTAINERD_DEFAULT, Arch::X86_64);
    for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
        for name in
            ["read", "execve", "openat", "exit_group", "setxattrat", "removexattrat", "futex", "chroot"]
        {
            assert_eq!(run(&program, call(abi, name, &[])), ALLOW, "{abi:?} {name}");
        }
        for name in
            ["mount", "bpf", "keyctl", "io_uring_setup", "kexec_load", "unshare", "setns", "reboot", "syslog"]
        {
            assert_eq!(run(&program, call(abi, name, &[])), NO, "{abi:?} {name}");
        }
        assert_eq!(run(&program, call(abi, "clone3", &[])), NOSYS, "{abi:?}");
        assert_eq!(run(&program, call(abi, "listns", &[])), NOSYS, "{abi:?}: newer than the profile");
    }
    assert_eq!(run(&program, call(Abi::X86_64, "modify_ldt", &[])), ALLOW);
    assert_eq!(run(&program, Call { audit: 0xc000_003e, number: 400, args: [0; 6] }), NOSYS, "not taken");
    assert_eq!(run(&program, Call { audit: 0xc000_003e, number: 5000, args: [0; 6] }), NOSYS);
    assert_eq!(run(&program, Call { audit: 0xc000_003e, number: u32::MAX, args: [0; 6] }), NOSYS);
    assert_eq!(run(&program, Call { audit: 0xc000_00b7, number: 63, args: [0; 6] }), KILL, "aarch64 here");
}

#[test]
fn the_default_holds_on_arm() {
    let program = built_in(CONTAINERD_DEFAULT, Arch::Aarch64);
    for abi in [Abi::Aarch64, Abi::Arm] {
        assert_eq!(run(&program, call(abi, "openat", &[])), ALLOW, "{abi:?}");
        assert_eq!(run(&program, call(abi, "mount", &[])), NO, "{abi:?}");
        assert_eq!(run(&program, call(abi, "socket", &[38])), NO, "{abi:?}");
        assert_eq!(run(&program, call(abi, "listns", &[])), NOSYS, "{abi:?}");
    }
    assert_eq!(run(&program, call(Abi::Arm, "set_tls", &[])), ALLOW);
    assert_eq!(run(&program, call(Abi::X86_64, "read", &[])), KILL);
}

#[test]
fn the_default_follows_capabilities() {
    for (cap, name) in [
        ("SYS_ADMIN", "mount"),
        ("SYS_ADMIN", "clone3"),
        ("SYS_TIME", "settimeofday"),
        ("SYSLOG", "syslog"),
        ("BPF", "bpf"),
        ("SYS_MODULE", "init_module"),
        ("DAC_READ_SEARCH", "open_by_handle_at"),
        ("SYS_PTRACE", "pidfd_getfd"),
        ("SYS_NICE", "mbind"),
    ] {
        let with = built_in(CONTAINERD_DEFAULT | bit(cap), Arch::X86_64);
        let without = built_in(ALL & !bit(cap) & !bit("SYS_ADMIN"), Arch::X86_64);
        assert_eq!(run(&with, call(Abi::X86_64, name, &[])), ALLOW, "{name} with {cap}");
        assert_ne!(run(&without, call(Abi::X86_64, name, &[])), ALLOW, "{name} without {cap}");
    }
    assert_ne!(run(&built_in(0, Arch::X86_64), call(Abi::X86_64, "chroot", &[])), ALLOW);
}

#[test]
fn the_default_looks_at_arguments() {
    let program = built_in(CONTAINERD_DEFAULT, Arch::X86_64);
    let check = |name: &str, arg: u64, expect: u32| {
        for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
            assert_eq!(run(&program, call(abi, name, &[arg])), expect, "{abi:?} {name}({arg:#x})");
        }
    };
    for family in [0, 1, 2, 10, 16, 17, 37, 39, 41, 44] {
        check("socket", family, ALLOW);
    }
    // The kernel takes the low word of the number: the high one must not lead past the filter.
    for family in [38, 40, 38 | 1 << 32, 40 | 1 << 63, 38 | 0xffff_ffff << 32] {
        check("socket", family, NO);
    }
    for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        check("personality", persona, ALLOW);
    }
    for persona in [0x4_0000, 1, 1 << 32, u64::MAX] {
        check("personality", persona, NO);
    }
    check("clone", 0x11, ALLOW);
    check("clone", 0x3d_0f00, ALLOW);
    for flag in [0x2_0000u64, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        check("clone", flag | 0x11, NO);
    }
    let admin = built_in(CONTAINERD_DEFAULT | bit("SYS_ADMIN"), Arch::X86_64);
    assert_eq!(run(&admin, call(Abi::X86_64, "clone", &[0x1000_0000])), ALLOW);
}

#[test]
fn the_default_is_short() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        for capabilities in [0, CONTAINERD_DEFAULT, ALL] {
            let length = built_in(capabilities, arch).instructions.len();
            assert!(length < 900, "{arch:?}: {length} instructions");
        }
    }
}

#[test]
fn operators_compare_all_64_bits_unsigned() {
    const VALUE: u64 = 0x1_0000_0005;
    let around =
        [0, 1, 5, VALUE - 1, VALUE, VALUE + 1, 0x2_0000_0005, 0x1_0000_0000, 0x2_0000_0000, 4, u64::MAX];
    let check = |op: &str, holds: &dyn Fn(u64) -> bool| {
        let program = custom(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read","listns"],"action":"SCMP_ACT_ALLOW",
               "args":[{{"index":2,"value":{VALUE},"valueTwo":4294967296,"op":"SCMP_CMP_{op}"}}]}}]}}"#
        ));
        for arg in around {
            let expect = if holds(arg) { ALLOW } else { NO };
            assert_eq!(run(&program, call(Abi::X86_64, "read", &[7, 7, arg])), expect, "{arg:#x} {op}");
        }
    };
    check("EQ", &|arg| arg == VALUE);
    check("NE", &|arg| arg != VALUE);
    check("LT", &|arg| arg < VALUE);
    check("LE", &|arg| arg <= VALUE);
    check("GT", &|arg| arg > VALUE);
    check("GE", &|arg| arg >= VALUE);
    check("MASKED_EQ", &|arg| arg & VALUE == 0x1_0000_0000);
}

#[test]
fn rules_are_tried_in_order() {
    let program = custom(
        r#"{"defaultAction":"SCMP_ACT_KILL_PROCESS","syscalls":[
            {"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":97,"args":[{"index":0,"value":38,"op":"SCMP_CMP_EQ"}]},
            {"names":["socket","listns"],"action":"SCMP_ACT_ALLOW","args":null},
            {"name":"socket","action":"SCMP_ACT_TRAP"},
            {"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_GE"},{"index":1,"value":3,"op":"SCMP_CMP_LE"}]},
            {"names":["write"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"},{"index":1,"value":9,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    let check = |name: &str, args: &[u64], expect: u32| {
        assert_eq!(run(&program, call(Abi::X86_64, name, args)), expect, "{name} {args:?}");
    };
    check("socket", &[38], ret::ERRNO | 97);
    check("socket", &[2], ALLOW);
    check("read", &[1, 3], ALLOW);
    check("read", &[0, 3], KILL);
    check("read", &[1, 4], KILL);
    check("write", &[1, 9], ret::LOG);
    check("write", &[2, 9], ret::LOG);
    check("write", &[3, 9], KILL);
    check("write", &[1, 8], KILL);
    check("mount", &[], KILL);
}

#[test]
fn a_profile_that_forbids_says_enosys_to_what_it_cannot_know() {
    let check = |default: &str, expect: u32| {
        let program = custom(&format!(
            r#"{{"defaultAction":"{default}","syscalls":[{{"names":["openat2","no_such_call"],"action":"SCMP_ACT_ALLOW"}}]}}"#
        ));
        assert_eq!(run(&program, call(Abi::X86_64, "listns", &[])), expect, "{default}");
        assert_eq!(
            run(&program, Call { audit: 0xc000_003e, number: 499, args: [0; 6] }),
            expect,
            "{default}"
        );
    };
    check("SCMP_ACT_ERRNO", NOSYS);
    check("SCMP_ACT_KILL", NOSYS);
    check("SCMP_ACT_KILL_PROCESS", NOSYS);
    check("SCMP_ACT_TRAP", NOSYS);
    check("SCMP_ACT_ALLOW", ALLOW);
    check("SCMP_ACT_LOG", ret::LOG);
    check("SCMP_ACT_TRACE", ret::TRACE | 1);
}

#[test]
fn unlisted_architectures_are_killed() {
    let program =
        custom(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86","SCMP_ARCH_S390X"]}"#);
    assert_eq!(run(&program, call(Abi::X86_64, "read", &[])), ALLOW);
    assert_eq!(run(&program, call(Abi::X86, "read", &[])), ALLOW);
    assert_eq!(run(&program, call(Abi::X32, "read", &[])), KILL);
}

#[test]
fn conditions_are_held_against_the_host() {
    let rule = |condition: &str| {
        let program = custom(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read","listns"],"action":"SCMP_ACT_ALLOW",{condition}}}]}}"#
        ));
        run(&program, call(Abi::X86_64, "read", &[])) == ALLOW
    };
    for (condition, expect) in [
        (r#""includes":{"caps":["CAP_CHOWN"]}"#, true),
        (r#""includes":{"caps":["CAP_CHOWN","CAP_SYS_ADMIN"]}"#, false),
        (r#""includes":{"caps":["CAP_FROM_THE_FUTURE"]}"#, false),
        (r#""includes":{"arches":["arm64","amd64"]}"#, true),
        (r#""includes":{"arches":["arm64"]}"#, false),
        (r#""includes":{"minKernel":"4.8"}"#, true),
        (r#""includes":{"minKernel":"6.9"}"#, false),
        (r#""includes":null,"excludes":{"caps":["CAP_SYS_ADMIN"]}"#, true),
        (r#""excludes":{"caps":["CAP_CHOWN"]}"#, false),
        (r#""excludes":{"arches":["amd64"]}"#, false),
        (r#""excludes":{"minKernel":"6.8"}"#, false),
    ] {
        assert_eq!(rule(condition), expect, "{condition}");
    }
}

#[test]
fn what_is_not_supported_is_refused() {
    for json in [
        r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/x.sock"}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_VAX"]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}"#,
        r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#,
    ] {
        let profile = Profile::parse(json.as_bytes()).unwrap();
        assert!(compile(&profile, 0, Arch::X86_64, KERNEL).is_err(), "{json}");
    }
}

#[test]
fn a_program_over_the_kernels_limit_is_refused() {
    let arg = |value| ArgRule { index: 0, value, value_two: 0, op: Operator::Equal };
    let rule = |value| SyscallRule {
        names: vec!["read".to_owned()],
        action: Action::Allow,
        args: vec![arg(value)],
        ..SyscallRule::default()
    };
    let profile = |rules| Profile {
        architectures: Vec::new(),
        arch_map: Vec::new(),
        syscalls: (0..rules).map(rule).collect(),
        ..default_profile()
    };
    let long = compile(&profile(800), 0, Arch::X86_64, KERNEL).unwrap();
    assert_eq!(run(&long, call(Abi::X86_64, "read", &[799])), ALLOW);
    assert_eq!(run(&long, call(Abi::X86_64, "read", &[800])), NO);
    let longer = compile(&profile(900), 0, Arch::X86_64, KERNEL);
    assert!(matches!(longer, Err(CompileError::TooLong { count: 4097.. })));
}

#[test]
fn flags_are_those_of_the_profile_or_runcs_default() {
    let flags = |list: &str| custom(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","flags":{list}}}"#)).flags;
    assert_eq!(flags("[]"), 4);
    assert_eq!(flags(r#"["SECCOMP_FILTER_FLAG_LOG"]"#), 2);
    assert_eq!(flags(r#"["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW"]"#), 6);
}
