use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};

fn args(line: &str) -> Args {
    let words = ["carpel", "run"].into_iter().chain(line.split(' '));
    match Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}")).command {
        Command::Run(args) => *args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_plain_container_is_confined() {
    let args = args("busybox echo");
    let pod = pod(&args, "p", "u").unwrap();
    let linux = pod.linux.unwrap().security_context.unwrap();
    assert!(!linux.privileged);
    assert_eq!(linux.seccomp.unwrap().profile_type(), ProfileType::RuntimeDefault);
    assert_eq!(pod.hostname, "p");
    let security = container(&args, "id", Vec::new()).linux.unwrap().security_context.unwrap();
    assert_eq!(security.seccomp.unwrap().profile_type(), ProfileType::RuntimeDefault);
    assert_eq!(security.masked_paths, MASKED_PATHS);
    assert_eq!(security.readonly_paths, READONLY_PATHS);
}

#[test]
fn pod_and_container_agree_on_privilege_and_network() {
    let args = args("--privileged --host-network busybox");
    let pod = pod(&args, "p", "u").unwrap();
    assert_eq!(pod.hostname, "");
    let sandbox = pod.linux.unwrap().security_context.unwrap();
    let security = container(&args, "id", Vec::new()).linux.unwrap().security_context.unwrap();
    assert!(sandbox.privileged && security.privileged);
    assert_eq!(sandbox.namespace_options, security.namespace_options);
    assert_eq!(sandbox.namespace_options.unwrap().network(), NamespaceMode::Node);
    assert!(security.masked_paths.is_empty());
}

#[test]
fn the_image_is_asked_for_by_id_and_known_by_its_name() {
    let args = args("--entrypoint sh --memory 64m --cpus 0.5 -u 7:8 -w /tmp reg:5000/app:1 -c x");
    let config = container(&args, "sha256:00", Vec::new());
    let image = config.image.unwrap();
    assert_eq!((image.image.as_str(), image.user_specified_image.as_str()), ("sha256:00", "reg:5000/app:1"));
    assert_eq!((config.command, config.args), (vec!["sh".to_owned()], vec!["-c".to_owned(), "x".to_owned()]));
    assert_eq!(config.log_path, "app.log");
    assert_eq!(config.working_dir, "/tmp");
    let linux = config.linux.unwrap();
    let resources = linux.resources.unwrap();
    assert_eq!((resources.cpu_quota, resources.cpu_period), (50_000, 100_000));
    assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
    let security = linux.security_context.unwrap();
    assert_eq!((security.run_as_user.unwrap().value, security.run_as_group.unwrap().value), (7, 8));
}

#[test]
fn names_are_host_names() {
    for name in ["a", "web-1", &"a".repeat(63)] {
        assert!(parse_name(name).is_ok(), "{name}");
    }
    for name in ["", "-a", "a-", "A", "a.b", "a/b", "..", &"a".repeat(64)] {
        assert_eq!(parse_name(name), Err(ArgumentError::Name), "{name}");
    }
    let generated = generated_name(&"x".repeat(200), "01234567-89ab");
    assert!(parse_name(&generated).is_ok(), "{generated}");
}

#[test]
fn users() {
    assert_eq!(parse_user("7"), Ok(User::Number { uid: 7, gid: None }));
    assert_eq!(parse_user("www:8"), Ok(User::Name { name: "www".into(), gid: Some(8) }));
    for text in ["", ":1", "a:", "a:b", "1:-1"] {
        assert_eq!(parse_user(text), Err(ArgumentError::User), "{text:?}");
    }
}

#[test]
fn environment_values_are_any_bytes() {
    let raw = OsString::from_vec(b"RAW=\xff=\x80".to_vec());
    let variables = environment(&[raw, "EMPTY=".into(), "CARPEL_TEST_NOT_SET".into()]).unwrap();
    assert_eq!(variables.len(), 2);
    assert_eq!((variables[0].key.as_str(), variables[0].value.as_slice()), ("RAW", &b"\xff=\x80"[..]));
    assert_eq!((variables[1].key.as_str(), variables[1].value.as_slice()), ("EMPTY", &b""[..]));
    assert!(environment(&["=x".into()]).is_err());
}
