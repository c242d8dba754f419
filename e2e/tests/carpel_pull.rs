//! `carpel pull` of an image that comes slowly: what a person sees, what a log gets, what a program reads.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::time::Duration;

use carpel_e2e::crictl::CommandLine;
use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::http::{Sending, Server};
use carpel_e2e::layout::{Compression, Image, Layout};
use carpel_e2e::pty::{Pty, same_settings};
use carpel_e2e::scenario;
use carpel_e2e::scripted::{self, Content};
use carpel_e2e::tar::Tar;

/// Bytes of the image's layer, about.
const LAYER: usize = 3 << 20;

/// A registry that takes its time over an image of one layer, `slow.test/app:1`; the layer's length comes along.
fn slow_registry(daemon: &Daemon) -> (Server, usize) {
    let tar = Tar::new().file("file", 0o644, vec![b'x'; LAYER]).finish();
    let length = tar.len();
    let folder = tempfile::tempdir().unwrap();
    Layout::create(folder.path()).add("1", &Image::new().layer_as(tar, Compression::None));
    let server = scripted::start(Content::of(folder.path()), move |_, reply| {
        let slowly = Sending::Slowly { piece: 64 << 10, pause: Duration::from_millis(50) };
        if reply.body.len() == length { reply.sending(slowly) } else { reply }
    });
    daemon.hosts_toml("slow.test", &format!("server = \"http://{}\"\n", server.address()));
    (server, length)
}

/// The bytes that a line of progress tells of, and their total: `1.25 MiB/3.00 MiB`.
fn told(line: &str) -> Option<(f64, f64)> {
    let words: Vec<&str> = line.split([' ', '/']).collect();
    let at = words.iter().position(|word| *word == "layers")?;
    let numbers = &words[..at];
    let bytes = |number: &str, unit: &str| {
        let scale = match unit {
            "B" => 1.0,
            "KiB" => 1024.0,
            "MiB" => 1024.0 * 1024.0,
            other => panic!("an unexpected unit {other:?} in {line:?}"),
        };
        number.parse::<f64>().unwrap() * scale
    };
    // … ] 1.25 MiB/3.00 MiB  16.0 KiB/s  layers
    let from = words.iter().position(|word| word.ends_with(']'))? + 1;
    Some((bytes(numbers[from], numbers[from + 1]), bytes(numbers[from + 2], numbers[from + 3])))
}

#[test]
fn a_person_sees_it_move_and_end() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (_registry, length) = slow_registry(daemon);
        let carpel = CommandLine::carpel(&daemon.socket());
        let mut terminal = Pty::start(&carpel.command(&["pull", "slow.test/app:1"]), 100, 30);
        let before = terminal.settings();
        assert!(terminal.wait().success(), "{}", terminal.shown());
        assert!(same_settings(&before, &terminal.settings()));
        let id = carpel.json(&["images", "-o", "json"])[0]["id"].as_str().unwrap().to_owned();
        terminal.wait_for(&id);
        let shown = terminal.shown();
        let lines: Vec<&str> = shown.split("\r\x1b[K").collect();
        assert!(lines.iter().all(|line| line.trim_end().chars().count() < 100), "none is broken:\n{shown:?}");
        let steps: Vec<(f64, f64)> = lines.iter().filter_map(|line| told(line)).collect();
        let total = length as f64;
        // Three digits are shown.
        let close = |one: f64, other: f64| (one - other).abs() <= other * 0.006;
        assert!(steps.iter().all(|step| close(step.1, total)), "of {length}: {steps:?}");
        assert!(steps.windows(2).all(|pair| pair[0].0 <= pair[1].0), "never back: {steps:?}");
        assert!(steps.iter().all(|step| step.0 <= total * 1.006), "never too far: {steps:?}");
        let mut between: Vec<u64> = steps
            .iter()
            .map(|step| step.0 as u64)
            .filter(|bytes| (1..length as u64).contains(bytes))
            .collect();
        between.dedup();
        assert!(between.len() >= 5, "it moves: {steps:?}");
        assert_eq!(lines.last().unwrap().trim(), id, "the line is gone, the id stands");
    });
}

#[test]
fn a_log_gets_lines_and_a_program_gets_json() {
    scenario::run_without_image(Options::default(), async |daemon| {
        let (_registry, _) = slow_registry(daemon);
        let carpel = CommandLine::carpel(&daemon.socket());
        let pulled = carpel.output(&["pull", "-o", "json", "slow.test/app:1"]);
        assert!(pulled.status.success(), "{pulled:?}");
        let json: serde_json::Value = serde_json::from_slice(&pulled.stdout).unwrap();
        assert_eq!(json["reference"], "slow.test/app:1");
        let errors = String::from_utf8(pulled.stderr).unwrap();
        assert!(
            errors.contains("pulling slow.test/app:1: ") && errors.contains(" of 3.00 MiB"),
            "{errors:?}"
        );
        assert!(!errors.contains(['\r', '\x1b']), "whole lines: {errors:?}");
        carpel.ok(&["rmi", "slow.test/app:1"]);

        // On a terminal, too, standard output has the id alone.
        let command = carpel.command(&["pull", "slow.test/app:1"]);
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        let output = daemon.folder().join("id");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("exec {} > {}", words.join(" "), output.display())]);
        let mut terminal = Pty::start(&shell, 100, 30);
        assert!(terminal.wait().success(), "{}", terminal.shown());
        assert!(terminal.shown().contains("MiB"), "the bar was there: {:?}", terminal.shown());
        let id = std::fs::read_to_string(output).unwrap();
        assert_eq!(id.trim(), json["id"].as_str().unwrap());
    });
}
