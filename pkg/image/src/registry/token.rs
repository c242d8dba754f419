//! Bearer tokens: from a challenge and credentials to what goes into `Authorization`.
//!
//! Facts from distribution's "Token Authentication Specification" (GET with query) and "OAuth2 Token
//! Authentication" (POST of a form).

use base64::Engine as _;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use serde::Deserialize;

use super::error::RegistryError;
use super::origin::{Origin, Scheme};
use crate::auth::Auth;

/// What we call ourselves to token servers.
const CLIENT_ID: &str = "carpel";

/// Bytes of a token: it has to fit into a request head.
const TOKEN_BYTES_MAX: usize = 32 << 10;

/// What a token is asked for.
pub(crate) struct TokenRequest<'a> {
    pub(crate) realm: &'a str,
    pub(crate) service: Option<&'a str>,
    pub(crate) scope: &'a str,
}

/// `Authorization: Basic …`.
pub(crate) fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    let pair = format!("{username}:{password}");
    secret(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

/// `Authorization: Bearer …`; `None` if the token cannot stand in a header.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    let fits = !token.is_empty() && token.len() <= TOKEN_BYTES_MAX;
    if fits && token.bytes().all(|b| b.is_ascii_graphic()) {
        secret(&format!("Bearer {token}"))
    } else {
        None
    }
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The request to the token server that `registry` named, with credentials where they may go:
///
/// * never to a plain server, unless the registry itself is configured plain and it is the same host;
/// * to another host only if its name shows that the same people run it.
///
/// Without credentials a token for everybody is asked for, from any encrypted server.
pub(crate) fn request(
    registry: &Origin,
    ask: &TokenRequest<'_>,
    auth: Option<&Auth>,
) -> Result<(Request<Full<Bytes>>, Origin), RegistryError> {
    let refused =
        || RegistryError::Realm { url: registry.to_string(), realm: ask.realm.chars().take(256).collect() };
    let realm: Uri = ask.realm.parse().map_err(|_| refused())?;
    let origin = Origin::of(&realm).ok_or_else(refused)?;
    let plain_allowed = registry.scheme == Scheme::Http && registry.host == origin.host;
    if origin.scheme == Scheme::Http && !plain_allowed {
        return Err(refused());
    }
    let auth = auth.filter(|_| registry.related(&origin));
    let mut query = form_urlencoded(&[("service", ask.service.unwrap_or_default()), ("scope", ask.scope)]);
    let built = match auth {
        Some(Auth::IdentityToken(token)) => {
            let more = [("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("refresh_token", token)];
            query = format!("{query}&{}", form_urlencoded(&more));
            Request::builder()
                .method(Method::POST)
                .uri(realm)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(Full::new(Bytes::from(query)))
        }
        auth => {
            let joint = if realm.query().is_some() { '&' } else { '?' };
            let mut builder = Request::builder().uri(format!("{realm}{joint}{query}"));
            if let Some(Auth::Basic { username, password }) = auth {
                builder = builder.header(AUTHORIZATION, basic(username, password).ok_or_else(refused)?);
            }
            builder.body(Full::default())
        }
    };
    Ok((built.map_err(|_| refused())?, origin))
}

/// `name=value&…`, percent-encoded, without empty values.
pub(crate) fn form_urlencoded(pairs: &[(&str, &str)]) -> String {
    let encode = |text: &str| {
        text.bytes().fold(String::new(), |mut out, byte| {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(byte))
                }
                other => {
                    const HEX: &[u8; 16] = b"0123456789ABCDEF";
                    out.push('%');
                    out.push(char::from(HEX[usize::from(other >> 4)]));
                    out.push(char::from(HEX[usize::from(other & 15)]));
                }
            }
            out
        })
    };
    let parts: Vec<String> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    parts.join("&")
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Reads the token server's answer.
pub(crate) fn answer(body: &[u8]) -> Option<HeaderValue> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token)?;
    bearer(&token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::parse(text).unwrap().0
    }

    fn ask(registry: &str, realm: &str) -> Result<Request<Full<Bytes>>, RegistryError> {
        let auth = Auth::Basic { username: "u".into(), password: "p".into() };
        let ask = TokenRequest { realm, service: Some("s"), scope: "repository:a/b:pull" };
        request(&origin(registry), &ask, Some(&auth)).map(|(request, _)| request)
    }

    #[test]
    fn credentials_go_to_related_encrypted_realms_only() {
        let has_auth = |r: &Request<Full<Bytes>>| r.headers().contains_key(AUTHORIZATION);
        let hub = ask("https://registry-1.docker.io", "https://auth.docker.io/token").unwrap();
        assert!(has_auth(&hub));
        assert_eq!(hub.uri().query(), Some("service=s&scope=repository%3Aa%2Fb%3Apull"));
        assert!(!has_auth(&ask("https://r.io", "https://evil.net/token").unwrap()));
        assert!(ask("https://r.io", "http://r.io/token").is_err());
        assert!(ask("https://r.io", "file:///etc/passwd").is_err());
        assert!(ask("https://r.io", "https://u@r.io/").is_err());
        assert!(has_auth(&ask("http://127.0.0.1:5000", "http://127.0.0.1:5001/token").unwrap()));
        assert!(ask("http://127.0.0.1:5000", "http://127.0.0.2:5000/token").is_err());
    }

    #[test]
    fn tokens_are_held_to_header_grammar() {
        assert!(answer(br#"{"token":"abc"}"#).is_some());
        assert!(answer(br#"{"token":"","access_token":"abc"}"#).is_some());
        assert!(answer(br#"{"token":"a\r\nx: y"}"#).is_none());
        assert!(answer(b"{}").is_none());
        assert!(answer(b"no").is_none());
    }
}
