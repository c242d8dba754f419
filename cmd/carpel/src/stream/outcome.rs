//! How a session ended, as the error channel tells it: a Kubernetes `Status` object.

use serde::Deserialize;

use super::StreamError;

#[derive(Debug, Deserialize)]
struct Status {
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
    details: Option<Details>,
}

#[derive(Debug, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Debug, Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// The exit code that a status tells of.
pub(super) fn exit_code(text: &[u8]) -> Result<i32, StreamError> {
    let unclear = || StreamError::Status(String::from_utf8_lossy(text).chars().take(200).collect());
    let status: Status = serde_json::from_slice(text).map_err(|_| unclear())?;
    match (status.status.as_str(), status.reason.as_str()) {
        ("Success", _) => Ok(0),
        ("Failure", "NonZeroExitCode") => {
            let causes = status.details.map(|details| details.causes).unwrap_or_default();
            let code = causes.iter().find(|cause| cause.reason == "ExitCode");
            code.and_then(|cause| cause.message.parse().ok()).ok_or_else(unclear)
        }
        ("Failure", _) => Err(StreamError::Failed(status.message)),
        _ => Err(unclear()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_codes_or_failures() {
        assert_eq!(exit_code(br#"{"metadata":{},"status":"Success"}"#).unwrap(), 0);
        let code = br#"{"status":"Failure","message":"m","reason":"NonZeroExitCode",
            "details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#;
        assert_eq!(exit_code(code).unwrap(), 42);
        let failed = exit_code(br#"{"status":"Failure","message":"no such file","reason":"InternalError"}"#);
        assert!(matches!(failed, Err(StreamError::Failed(message)) if message == "no such file"));
        for unclear in [&b"exit 1"[..], b"{}", br#"{"status":"Failure","reason":"NonZeroExitCode"}"#] {
            assert!(matches!(exit_code(unclear), Err(StreamError::Status(_))));
        }
    }
}
