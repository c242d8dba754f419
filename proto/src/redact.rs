//! `Debug` for the messages that carry secrets or a container's data: it says that a value is there and how
//! long it is, never what it is. Everything that contains one of these messages is safe by it, since a derived
//! `Debug` calls these. It is not encryption: the fields themselves are public.
//!
//! `build.rs` names the same messages, so that prost does not derive theirs.

use std::fmt::{Debug, Formatter, Result};

use crate::v1::{AttachResponse, AuthConfig, ExecResponse, ExecSyncResponse, KeyValue, PortForwardResponse};

/// Stands for a secret of which even the length is telling.
struct Secret<'a>(&'a str);

impl Debug for Secret<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(if self.0.is_empty() { "<empty>" } else { "<redacted>" })
    }
}

/// Stands for data of which only the length may be told.
struct Size(usize);

impl Debug for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "<{} bytes>", self.0)
    }
}

impl Debug for AuthConfig {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &Secret(&self.password))
            .field("auth", &Secret(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &Secret(&self.identity_token))
            .field("registry_token", &Secret(&self.registry_token))
            .finish()
    }
}

impl Debug for KeyValue {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("KeyValue").field("key", &self.key).field("value", &Size(self.value.len())).finish()
    }
}

impl Debug for ExecSyncResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("ExecSyncResponse")
            .field("stdout", &Size(self.stdout.len()))
            .field("stderr", &Size(self.stderr.len()))
            .field("exit_code", &self.exit_code)
            .finish()
    }
}

/// The three answers that consist of one URL with a token in it.
macro_rules! redact_url {
    ($($message:ident),+) => {$(
        impl Debug for $message {
            fn fmt(&self, f: &mut Formatter<'_>) -> Result {
                f.debug_struct(stringify!($message)).field("url", &Secret(&self.url)).finish()
            }
        }
    )+};
}

redact_url!(ExecResponse, AttachResponse, PortForwardResponse);
