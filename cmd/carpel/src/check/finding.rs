//! One line of the check-up.

use std::{
    fmt::{self, Display, Formatter},
    fs, io,
};

use serde::Serialize;

/// What a finding means for pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Verdict {
    Ok,
    /// Pods run, but something does not work or is slower.
    Warning,
    /// Pods do not run.
    Missing,
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Missing => "missing",
        })
    }
}

/// What was found of one thing that a runtime needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    pub(super) name: &'static str,
    pub(super) status: Verdict,
    pub(super) found: String,
    /// What to do; null where nothing needs to be done.
    pub(super) advice: Option<String>,
}

impl Finding {
    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Verdict::Ok, found: found.into(), advice: None }
    }

    pub(super) fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, status: Verdict::Warning, found: found.into(), advice: Some(advice.into()) }
    }

    pub(super) fn missing(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, status: Verdict::Missing, found: found.into(), advice: Some(advice.into()) }
    }
}

/// A file of /proc or /sys without its newline; nothing if the kernel has no such file.
pub(super) fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// A number in such a file.
pub(super) fn read_number(path: &str) -> Option<u64> {
    read(path)?.parse().ok()
}

/// An error of the kernel in few words.
pub(super) fn told(error: impl Into<io::Error>) -> String {
    error.into().to_string()
}
