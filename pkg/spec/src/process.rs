//! The init process: what it executes, in which environment, where.

use crate::config::{ContainerConfig, Terminal};
use crate::error::PlanError;
use crate::input::ContainerInput;
use crate::path;

/// Where commands are looked up when neither image nor configuration say: what containerd sets.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command and its arguments.
///
/// A command of the configuration replaces the image's entrypoint and drops its arguments; arguments
/// alone replace the image's arguments only. CRI `ContainerConfig.command`, `args`.
pub(crate) fn args(input: &ContainerInput<'_>) -> Result<Vec<Vec<u8>>, PlanError> {
    let (config, image) = (input.config, input.image);
    // `ENTRYPOINT [""]` is how a Dockerfile resets an inherited entrypoint.
    let entrypoint: &[String] = if image.entrypoint == [""] { &[] } else { &image.entrypoint };
    let (command, rest): (&[String], &[String]) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (&config.command, &config.args),
        (true, false) => (entrypoint, &config.args),
        (true, true) => (entrypoint, &image.cmd),
    };
    let args: Vec<&String> = command.iter().chain(rest).collect();
    if args.first().is_none_or(|first| first.is_empty()) {
        return Err(PlanError::NoCommand);
    }
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(PlanError::Nul { field: "a command argument" });
    }
    Ok(args.into_iter().map(|arg| arg.as_bytes().to_vec()).collect())
}

/// The environment: defaults, then the image's, then the configuration's. A later value of a name
/// takes the earlier one's place; nothing else is reordered.
pub(crate) fn env(input: &ContainerInput<'_>) -> Result<Vec<Vec<u8>>, PlanError> {
    let mut env = Environment::default();
    env.set("PATH", DEFAULT_PATH.as_bytes());
    if !input.hostname.is_empty() {
        env.set("HOSTNAME", input.hostname.as_bytes());
    }
    if input.config.terminal == Terminal::Pty {
        env.set("TERM", b"xterm");
    }
    for entry in &input.image.env {
        // An image cannot be corrected by whoever runs it, so what is not a variable is passed over.
        match entry.split_once('=') {
            Some((name, value)) if is_name(name) && !value.contains('\0') => env.set(name, value.as_bytes()),
            Some(_) | None => {}
        }
    }
    for (name, value) in &input.config.envs {
        if !is_name(name) {
            return Err(PlanError::EnvName { name: name.clone() });
        }
        if value.contains(&0) {
            return Err(PlanError::Nul { field: "an environment variable's value" });
        }
        env.set(name, value);
    }
    Ok(env.entries)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

/// `NAME=value` entries, each name once.
#[derive(Default)]
struct Environment {
    entries: Vec<Vec<u8>>,
    positions: std::collections::HashMap<String, usize>,
}

impl Environment {
    fn set(&mut self, name: &str, value: &[u8]) {
        let entry = [name.as_bytes(), b"=", value].concat();
        match self.positions.get(name) {
            Some(&position) => self.entries[position] = entry,
            None => {
                self.positions.insert(name.to_owned(), self.entries.len());
                self.entries.push(entry);
            }
        }
    }
}

/// The working directory: the configuration's, else the image's, else `/`.
pub(crate) fn cwd(config: &ContainerConfig, image_dir: &str) -> Result<String, PlanError> {
    match (config.working_dir.as_str(), image_dir) {
        ("", "") => Ok("/".to_owned()),
        ("", image_dir) => path::absolute("image working directory", image_dir),
        (asked, _) => path::absolute("working_dir", asked),
    }
}
