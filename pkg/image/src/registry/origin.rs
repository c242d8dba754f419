//! Origins: scheme, host and port. Two URLs of one origin reach one server; secrets never leave theirs.

use std::fmt;
use std::net::IpAddr;

use http::Uri;

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// Scheme, host in lower case, and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) scheme: Scheme,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// The origin of an absolute URL; `None` if it has none that could be asked, or has user info in it.
    pub(crate) fn of(uri: &Uri) -> Option<Origin> {
        let scheme = match uri.scheme_str()? {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let port = authority.port_u16().unwrap_or(if scheme == Scheme::Http { 80 } else { 443 });
        Some(Origin { scheme, host: authority.host().to_ascii_lowercase(), port })
    }

    /// An address as written in `hosts.toml`: a URL, or a host that is taken as https. Returns the path too.
    pub(crate) fn parse(address: &str) -> Option<(Origin, String)> {
        let whole = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
        let uri: Uri = whole.parse().ok()?;
        if uri.query().is_some() {
            return None;
        }
        Some((Origin::of(&uri)?, uri.path().to_owned()))
    }

    /// Where the registry of a reference is by itself: https, but plain http on this very machine, and
    /// Docker Hub at the host that it really has.
    pub(crate) fn of_registry(registry: &str) -> Origin {
        let name = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let (host, port) = match name.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()),
            None => (name, None),
        };
        let scheme = if is_loopback(host) { Scheme::Http } else { Scheme::Https };
        let port = port.unwrap_or(if scheme == Scheme::Http { 80 } else { 443 });
        Origin { scheme, host: host.to_ascii_lowercase(), port }
    }

    /// Same host and port, whatever the scheme: an operator may say that his registry speaks plain http.
    pub(crate) fn same_host(&self, other: &Origin) -> bool {
        let default = |origin: &Origin| {
            matches!((origin.scheme, origin.port), (Scheme::Http, 80) | (Scheme::Https, 443))
        };
        self.host == other.host && (self.port == other.port || (default(self) && default(other)))
    }

    /// Whether both hosts are run by the same people, as far as names tell: the same host, or names that
    /// share their last two labels. Addresses share nothing.
    pub(crate) fn related(&self, other: &Origin) -> bool {
        let last_two = |host: &str| {
            let mut labels = host.rsplit('.');
            let (top, second) = (labels.next()?.to_owned(), labels.next()?.to_owned());
            host.parse::<IpAddr>().is_err().then_some((top, second))
        };
        self.host == other.host
            || matches!((last_two(&self.host), last_two(&other.host)), (Some(a), Some(b)) if a == b)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = match self.scheme {
            Scheme::Http => ("http", 80),
            Scheme::Https => ("https", 443),
        };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port == usual { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::parse(text).unwrap().0
    }

    #[test]
    fn user_info_and_other_schemes_have_no_origin() {
        assert!(Origin::parse("https://user@host").is_none());
        assert!(Origin::parse("ftp://host").is_none());
        assert!(Origin::parse("https://").is_none());
        assert_eq!(origin("HTTPS://Host:443/x"), origin("host"));
        assert_ne!(origin("http://host:443"), origin("https://host"));
    }

    #[test]
    fn kinship_is_by_name() {
        assert!(origin("registry-1.docker.io").related(&origin("auth.docker.io")));
        assert!(!origin("registry.io").related(&origin("evil.io")));
        assert!(!origin("http://127.0.0.1:1").related(&origin("http://127.0.0.2:1")));
        assert!(origin("http://127.0.0.1:1").related(&origin("http://127.0.0.1:2")));
        assert!(!origin("http://10.0.0.1").related(&origin("http://8.8.0.1")));
    }
}
