//! How a command ended, as the error stream tells it: a Kubernetes `Status` object (the v4 and v5
//! protocols of `channel.k8s.io`).

use bytes::Bytes;
use serde_json::json;

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// By itself.
    Exited(i32),
    /// It could not be run or followed.
    Failed(String),
}

impl Outcome {
    /// The status object.
    pub(crate) fn status(&self) -> Bytes {
        let status = match self {
            Outcome::Exited(0) => json!({ "metadata": {}, "status": "Success" }),
            Outcome::Exited(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            }),
            Outcome::Failed(message) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "InternalError",
                "code": 500,
            }),
        };
        Bytes::from(status.to_string())
    }

    /// The text of the protocols before v4, which know no exit codes; nothing for success.
    pub(crate) fn text(&self) -> Option<Bytes> {
        match self {
            Outcome::Exited(0) => None,
            Outcome::Exited(code) => Some(Bytes::from(format!("command terminated with exit code {code}"))),
            Outcome::Failed(message) => Some(Bytes::from(message.clone())),
        }
    }
}
