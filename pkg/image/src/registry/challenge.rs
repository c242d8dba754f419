//! `WWW-Authenticate`: what a registry asks for (RFC 9110, section 11.6.1; distribution's token
//! specification for `Bearer`).

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// Challenges read from one response.
const CHALLENGES_MAX: usize = 16;

/// Bytes of one header line that are read.
const LINE_BYTES_MAX: usize = 16 << 10;

/// One thing that a registry accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
        /// `insufficient_scope` and the like.
        error: Option<String>,
    },
}

/// Every challenge of a response that is understood.
pub(crate) fn parse(headers: &HeaderMap) -> Vec<Challenge> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .filter(|line| line.len() <= LINE_BYTES_MAX)
        .flat_map(parse_line)
        .take(CHALLENGES_MAX)
        .collect()
}

fn parse_line(line: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (scheme, after) = rest.split_once(' ').unwrap_or((rest, ""));
        let (parameters, next) = parameters(after);
        if let Some(challenge) = challenge(scheme.trim_end_matches(','), parameters) {
            challenges.push(challenge);
        }
        // Without progress there is nothing more to read.
        if next.len() >= rest.len() || challenges.len() >= CHALLENGES_MAX {
            break;
        }
        rest = next;
    }
    challenges
}

fn challenge(scheme: &str, parameters: Vec<(String, String)>) -> Option<Challenge> {
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope, mut error) = (None, None, None, None);
    for (name, value) in parameters {
        match name.as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            "error" => error = Some(value),
            _ => {}
        }
    }
    Some(Challenge::Bearer { realm: realm?, service, scope, error })
}

/// Reads `name=value, name="value"` up to the next scheme. Returns the rest.
fn parameters(mut rest: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', ',', '\t']);
        let Some(equals) = rest.find('=') else { return (found, rest) };
        let name = &rest[..equals];
        // A space in front of the sign: a new scheme begins here.
        if name.trim_end().contains([' ', '\t']) {
            return (found, rest);
        }
        let after = rest[equals + 1..].trim_start();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = after.find([',', ' ', '\t']).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        found.push((name.trim().to_ascii_lowercase(), value));
        rest = next;
    }
}

fn unquote(quoted: &str) -> (String, &str) {
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_challenges_are_read() {
        let line = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        assert_eq!(
            parse_line(line),
            [Challenge::Bearer {
                realm: "https://auth.docker.io/token".into(),
                service: Some("registry.docker.io".into()),
                scope: Some("repository:a/b:pull,push".into()),
                error: None,
            }]
        );
        assert_eq!(parse_line("Basic realm=\"x, y\""), [Challenge::Basic]);
        let both = parse_line(r#"Basic realm="a", Bearer realm="https://b/""#);
        assert_eq!(both.len(), 2);
        assert_eq!(parse_line("Negotiate"), []);
        assert_eq!(parse_line("Bearer service=\"x\""), []);
    }

    #[test]
    fn malformed_lines_end() {
        for line in ["", ",,,", "=", "Bearer =", "Bearer realm=\"", "\"", "Bearer realm=\"\\", "a=b c=d e"] {
            let _ = parse_line(line);
        }
        assert!(parse_line(&"Basic, ".repeat(1000)).len() <= CHALLENGES_MAX);
    }
}
