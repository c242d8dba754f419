use std::{
    io::Write,
    process::{Command, Output},
};

use super::*;

/// Has the parser compile a profile without a kernel. It must be installed (`hack/install-deps test`): the
/// profile is nothing without it.
fn compile(text: &str, more: &[&str]) -> Output {
    let parser = PARSERS.iter().find(|path| Path::new(path).is_file()).expect("the package apparmor");
    let mut child = Command::new(parser)
        .args(["--skip-kernel-load", "--skip-cache"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn the_parser_takes_the_profile_in_every_form() {
    for daemon in ["", "snap.carpel.daemon", "/usr/bin/a b", "odd\"name", "odd\\name", "lxc-1_</var/lib/lxc>"]
    {
        for has_abi in [false, true] {
            let text = profile(daemon, has_abi);
            assert!(!text.contains('@'), "{text}");
            let compiled = compile(&text, &[]);
            let said = String::from_utf8_lossy(&compiled.stderr);
            assert!(compiled.status.success(), "{daemon:?}, abi {has_abi}: {said}\n{text}");
        }
    }
    // So that this test means something: a profile with a mistake is refused.
    assert!(!compile(&profile("", true).replace("deny mount", "deny muont"), &[]).status.success());
}

#[test]
fn its_name_is_what_containers_change_to() {
    let named = compile(&profile("", false), &["--names"]);
    assert_eq!(String::from_utf8_lossy(&named.stdout).trim(), DEFAULT);
}

#[test]
fn a_confined_daemon_is_let_in() {
    let text = profile("lxc-container-default", true);
    assert!(text.contains("signal (receive) peer=\"lxc-container-default\","));
    assert!(!profile("", true).contains("peer=\"\""));
}

/// A parser of the test's own, as a script. Another process writes it: a child that any thread of this one
/// starts meanwhile would hold it open for writing until it executes, and the script could not be (`ETXTBSY`).
fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("apparmor_parser");
    let mut install = Command::new("install");
    let mut install =
        install.args(["-m", "755", "/dev/stdin"]).arg(&path).stdin(Stdio::piped()).spawn().unwrap();
    install.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
    assert!(install.wait().unwrap().success());
    (folder, path)
}

#[tokio::test]
async fn a_parser_that_fails_is_told_of_with_its_words() {
    let (folder, parser) = script(r#"echo "syntax error, line 7: $(cat)" >&2; exit 3"#);
    let err = load(&parser, "profile x {}").await.unwrap_err().to_string();
    assert!(err.contains("exit status: 3") && err.contains("line 7: profile x {}"), "{err}");
    let (_folder, flood) = script("yes nonsense >&2");
    let err = load(&flood, "profile x {}").await.unwrap_err().to_string();
    assert!(err.contains("nonsense") && err.len() < 5000, "{}", err.len());
    let absent = folder.path().join("absent");
    assert!(matches!(load(&absent, "").await, Err(AppArmorError::Run { operation: "execute", .. })));
}
