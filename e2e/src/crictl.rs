//! Runs `crictl`, the operators' CRI client, as built by `hack/tools`; and `carpel`, ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::daemon::program;

/// A command line bound to one socket.
#[derive(Debug)]
pub struct CommandLine {
    program: PathBuf,
    leading: Vec<String>,
    logs: PathBuf,
}

impl CommandLine {
    /// `crictl` of a socket, from `$CARPEL_TOOLS`; with no config file but the flags.
    pub fn crictl(socket: &Path) -> Self {
        let tools =
            std::env::var_os("CARPEL_TOOLS").expect("CARPEL_TOOLS is not set: export it as $(hack/tools)");
        let endpoint = format!("unix://{}", socket.display());
        let flags = ["--config", "/dev/null", "--timeout", "30s", "--runtime-endpoint", &endpoint];
        Self {
            program: PathBuf::from(tools).join("crictl"),
            leading: flags.map(str::to_owned).to_vec(),
            logs: logs(socket),
        }
    }

    /// `carpel` of a socket.
    pub fn carpel(socket: &Path) -> Self {
        let leading = vec!["--address".to_owned(), socket.to_string_lossy().into_owned()];
        Self { program: program("carpel"), leading, logs: logs(socket) }
    }

    /// The command with arguments, not yet run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.leading).args(arguments);
        // Where `carpel run` puts logs; crictl does not know the variable.
        command.env("CARPEL_LOG_DIR", &self.logs);
        command
    }

    /// Runs it, whatever comes of it.
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .output()
            .unwrap_or_else(|error| panic!("run {}: {error}", self.program.display()))
    }

    /// Runs it; returns its trimmed output, panics with its errors when it fails.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        assert!(output.status.success(), "{name} {} failed: {errors}", arguments.join(" "));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Runs it and reads its output as JSON.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.ok(arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}: {text}", arguments.join(" ")))
    }
}

fn logs(socket: &Path) -> PathBuf {
    socket.parent().unwrap_or(socket).join("logs")
}
