//! Credentials for a registry, as the kubelet hands them over.
//!
//! What this is not: a decision where they are sent. That is the registry client's, which keeps them to the
//! origin of the registry that the image is named after.

use std::fmt;

use base64::Engine as _;

/// Bytes of the base64 `auth` field: far more than any user name and password.
const AUTH_FIELD_BYTES_MAX: usize = 64 << 10;

/// Credentials of one pull. Its `Debug` shows which kind it is and nothing else.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Auth {
    /// User name and password.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// An OAuth 2 refresh token, to be exchanged at the registry's token server.
    IdentityToken(String),
    /// A bearer token, to be sent to the registry as it is.
    RegistryToken(String),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Auth::Basic { .. } => "Auth::Basic(redacted)",
            Auth::IdentityToken(_) => "Auth::IdentityToken(redacted)",
            Auth::RegistryToken(_) => "Auth::RegistryToken(redacted)",
        })
    }
}

/// Why the fields of an `AuthConfig` do not make credentials. Never shows a field's value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// `auth` is longer than any credentials are.
    #[error("registry credentials: field auth has {0} bytes, more than {AUTH_FIELD_BYTES_MAX}")]
    TooLong(usize),
    /// `auth` is not base64.
    #[error("registry credentials: field auth is not base64")]
    Base64,
    /// `auth` does not decode to `user:password` in UTF-8.
    #[error("registry credentials: field auth does not decode to user:password")]
    Form,
    /// A value has a character that cannot go into an HTTP header.
    #[error("registry credentials: field {0} has a control character")]
    ControlCharacter(&'static str),
}

/// The fields of CRI's `AuthConfig`, with its names.
#[derive(Clone, Default)]
pub struct AuthFields {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Base64 of `user:password`, as in Docker's `config.json`.
    pub auth: String,
    /// The registry that the credentials are for; empty: the one that the image is named after.
    pub server_address: String,
    /// OAuth 2 refresh token.
    pub identity_token: String,
    /// Ready bearer token.
    pub registry_token: String,
}

impl fmt::Debug for AuthFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFields").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

impl AuthFields {
    /// Credentials for a pull from `registry` (the host of the normalised reference): `None` if the fields
    /// are empty or are for another server. Where several are filled, a ready token goes before an
    /// identity token, and that before user name and password.
    pub fn for_registry(&self, registry: &str) -> Result<Option<Auth>, AuthError> {
        if !self.server_address.is_empty() && !same_server(&self.server_address, registry) {
            return Ok(None);
        }
        let fields = [
            ("username", &self.username),
            ("password", &self.password),
            ("identity_token", &self.identity_token),
            ("registry_token", &self.registry_token),
        ];
        for (name, value) in fields {
            if value.chars().any(char::is_control) {
                return Err(AuthError::ControlCharacter(name));
            }
        }
        if !self.registry_token.is_empty() {
            return Ok(Some(Auth::RegistryToken(self.registry_token.clone())));
        }
        if !self.identity_token.is_empty() {
            return Ok(Some(Auth::IdentityToken(self.identity_token.clone())));
        }
        if !self.username.is_empty() {
            let (username, password) = (self.username.clone(), self.password.clone());
            return Ok(Some(Auth::Basic { username, password }));
        }
        if self.auth.is_empty() { Ok(None) } else { decode(&self.auth).map(Some) }
    }
}

/// Decodes Docker's `auth` value.
fn decode(field: &str) -> Result<Auth, AuthError> {
    if field.len() > AUTH_FIELD_BYTES_MAX {
        return Err(AuthError::TooLong(field.len()));
    }
    let bytes =
        base64::engine::general_purpose::STANDARD.decode(field.trim()).map_err(|_| AuthError::Base64)?;
    let text = String::from_utf8(bytes).map_err(|_| AuthError::Form)?;
    let (username, password) = text.split_once(':').ok_or(AuthError::Form)?;
    // Docker's own files are padded with NUL by some old tools; containerd trims them as well.
    let password = password.trim_end_matches('\0');
    if username.chars().chain(password.chars()).any(char::is_control) {
        return Err(AuthError::ControlCharacter("auth"));
    }
    Ok(Auth::Basic { username: username.to_owned(), password: password.to_owned() })
}

/// Whether `address` (a host, or a URL such as `https://index.docker.io/v1/`) is the registry's server.
fn same_server(address: &str, registry: &str) -> bool {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    let docker = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    host.eq_ignore_ascii_case(registry) || (docker(host) && docker(registry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> AuthFields {
        AuthFields::default()
    }

    #[test]
    fn fields_make_credentials() {
        assert_eq!(fields().for_registry("r.io"), Ok(None));
        let encoded = base64::engine::general_purpose::STANDARD.encode("joe:se:cret");
        let basic = Auth::Basic { username: "joe".into(), password: "se:cret".into() };
        let from_auth = AuthFields { auth: encoded, ..fields() };
        assert_eq!(from_auth.for_registry("r.io"), Ok(Some(basic)));
        let token = AuthFields { username: "u".into(), registry_token: "t".into(), ..fields() };
        assert_eq!(token.for_registry("r.io"), Ok(Some(Auth::RegistryToken("t".into()))));
        assert_eq!(AuthFields { auth: "%%".into(), ..fields() }.for_registry("r"), Err(AuthError::Base64));
        let injected = AuthFields { username: "u\r\nx: y".into(), ..fields() };
        assert_eq!(injected.for_registry("r"), Err(AuthError::ControlCharacter("username")));
    }

    #[test]
    fn another_servers_credentials_are_not_used() {
        let fields = AuthFields {
            username: "u".into(),
            server_address: "https://index.docker.io/v1/".into(),
            ..fields()
        };
        assert!(fields.for_registry("docker.io").unwrap().is_some());
        assert!(fields.for_registry("evil.io").unwrap().is_none());
    }

    #[test]
    fn secrets_are_not_shown() {
        let auth = Auth::Basic { username: "joe".into(), password: "hunter2".into() };
        assert!(!format!("{auth:?}").contains("hunter2"));
        let fields = AuthFields { password: "hunter2".into(), identity_token: "idtok".into(), ..fields() };
        let shown = format!("{fields:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("idtok"));
    }
}
