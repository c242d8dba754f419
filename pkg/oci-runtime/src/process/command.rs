//! The program: its arguments and environment, its seccomp filter, and execve.

use std::convert::Infallible;
use std::ffi::CString;

use carpel_shim_api::plan::ProcessPlan;
use carpel_sys::exec::{CStringList, execve};
use carpel_sys::seccomp::{self, Filter, FilterError};
use rustix::io::Errno;

use crate::process::credentials::LastPrivileges;

/// Where a command is looked for if the environment has no `PATH` (environ(7) leaves it open).
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `PATH_MAX`.
const PATH_MAX_BYTES: usize = 4096;

/// Why a command cannot be run, before that is tried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("there is no command")]
    Empty,
    #[error("an argument or environment variable has a NUL byte")]
    Nul,
    #[error("the seccomp filter")]
    Seccomp(#[source] FilterError),
}

/// Why a command does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("load the seccomp filter")]
    Seccomp(#[source] Errno),
    #[error("give up the last privileges")]
    Privileges(#[source] Errno),
    #[error("execute {command:?}: not found in PATH")]
    NotFound {
        command: String,
        #[source]
        source: Errno,
    },
    #[error("execute {command:?}")]
    Execute {
        command: String,
        #[source]
        source: Errno,
    },
}

/// A command with all that takes memory done.
#[derive(Debug)]
pub(crate) struct Command {
    /// Paths to try, in order.
    candidates: Vec<CString>,
    searched: bool,
    argv: CStringList,
    envp: CStringList,
    filter: Option<Filter>,
}

impl Command {
    /// Makes the lists that execve(2) takes. `home` is for an environment without `HOME`.
    pub(crate) fn new(plan: &ProcessPlan, home: Option<&[u8]>) -> Result<Self, CommandError> {
        let args: Vec<CString> = c_strings(plan.args.iter().map(Vec::as_slice))?;
        let name = args.first().filter(|name| !name.is_empty()).ok_or(CommandError::Empty)?.to_bytes();
        let mut env: Vec<CString> = c_strings(plan.env.iter().map(Vec::as_slice))?;
        if !plan.env.iter().any(|variable| variable.starts_with(b"HOME=")) {
            let home = [b"HOME=", home.unwrap_or(b"/")].concat();
            env.push(CString::new(home).map_err(|_| CommandError::Nul)?);
        }
        let searched = !name.contains(&b'/');
        let candidates =
            if searched { candidates(name, &plan.env)? } else { c_strings(std::iter::once(name))? };
        let filter = match plan.seccomp_bpf.as_slice() {
            [] => None,
            bytes => Some(Filter::from_bytes(bytes, plan.seccomp_flags).map_err(CommandError::Seccomp)?),
        };
        let (argv, envp) = (CStringList::new(args), CStringList::new(env));
        Ok(Self { candidates, searched, argv, envp, filter })
    }

    /// Whether a filter is to be loaded.
    pub(crate) fn has_filter(&self) -> bool {
        self.filter.is_some()
    }

    /// Becomes the program. The filter comes last but one: what it forbids may be needed till then.
    pub(crate) fn run(&self, last: Option<&LastPrivileges>) -> Result<Infallible, RunError> {
        if let Some(filter) = &self.filter {
            seccomp::load(filter).map_err(RunError::Seccomp)?;
        }
        if let Some(last) = last {
            last.give_up().map_err(RunError::Privileges)?;
        }
        let mut result = Errno::NOENT;
        for candidate in &self.candidates {
            match execve(candidate, &self.argv, &self.envp) {
                // The search goes on past what is absent; what is there but may not be executed is
                // told only if nothing better comes (as execvp(3)).
                Errno::NOENT | Errno::NOTDIR if self.searched => {}
                Errno::ACCESS if self.searched => result = Errno::ACCESS,
                errno => {
                    result = errno;
                    break;
                }
            }
        }
        let name = self.argv.as_slice().first().map(|name| name.to_string_lossy().into_owned());
        let command = name.unwrap_or_default();
        match result {
            Errno::NOENT if self.searched => Err(RunError::NotFound { command, source: result }),
            source => Err(RunError::Execute { command, source }),
        }
    }
}

fn c_strings<'a>(strings: impl Iterator<Item = &'a [u8]>) -> Result<Vec<CString>, CommandError> {
    strings.map(|string| CString::new(string).map_err(|_| CommandError::Nul)).collect()
}

/// A command without a slash is looked for in the folders of `PATH`; only absolute ones count, so
/// that what is found does not depend on the working directory.
fn candidates(name: &[u8], env: &[Vec<u8>]) -> Result<Vec<CString>, CommandError> {
    let path = env.iter().find_map(|variable| variable.strip_prefix(b"PATH="));
    let dirs = path.unwrap_or(DEFAULT_PATH).split(|byte| *byte == b':');
    let dirs = dirs.filter(|dir| dir.first() == Some(&b'/') && dir.len() + name.len() < PATH_MAX_BYTES);
    dirs.map(|dir| CString::new([dir, b"/", name].concat()).map_err(|_| CommandError::Nul)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Command, CommandError};
    use carpel_shim_api::plan::ProcessPlan;

    fn plan(args: &[&str], env: &[&str]) -> ProcessPlan {
        ProcessPlan {
            args: args.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            env: env.iter().map(|variable| variable.as_bytes().to_vec()).collect(),
            ..ProcessPlan::default()
        }
    }

    fn tried(command: &Command) -> Vec<&str> {
        command.candidates.iter().map(|path| path.to_str().expect("UTF-8")).collect()
    }

    #[test]
    fn only_absolute_folders_of_path_are_searched() {
        let command = Command::new(&plan(&["sh"], &["PATH=/a::.:b:/c"]), None).expect("made");
        assert_eq!(tried(&command), ["/a/sh", "/c/sh"]);
        let command = Command::new(&plan(&["./sh"], &["PATH=/a"]), None).expect("made");
        assert_eq!(tried(&command), ["./sh"]);
        let command = Command::new(&plan(&["sh"], &[]), None).expect("made");
        assert_eq!(tried(&command).len(), 6);
    }

    #[test]
    fn home_is_added_only_where_it_is_absent() {
        let env = |given: &[&str], home: Option<&[u8]>| {
            let command = Command::new(&plan(&["/x"], given), home).expect("made");
            command.envp.as_slice().iter().map(|v| v.to_str().expect("UTF-8").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(env(&["A=b"], Some(b"/root")), ["A=b", "HOME=/root"]);
        assert_eq!(env(&["HOME="], Some(b"/root")), ["HOME="]);
        assert_eq!(env(&[], None), ["HOME=/"]);
    }

    #[test]
    fn what_cannot_be_executed_is_refused_early() {
        assert!(matches!(Command::new(&plan(&[], &[]), None), Err(CommandError::Empty)));
        assert!(matches!(Command::new(&plan(&[""], &[]), None), Err(CommandError::Empty)));
        assert!(matches!(Command::new(&plan(&["a\0b"], &[]), None), Err(CommandError::Nul)));
        assert!(matches!(Command::new(&plan(&["a"], &["A=\0"]), None), Err(CommandError::Nul)));
        let filter = ProcessPlan { seccomp_bpf: vec![0; 7], ..plan(&["a"], &[]) };
        assert!(matches!(Command::new(&filter, None), Err(CommandError::Seccomp(_))));
    }
}
