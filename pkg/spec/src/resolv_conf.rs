//! Content of the small files that every container of a pod sees: `/etc/resolv.conf`, `/etc/hostname`.

use crate::config::DnsConfig;

/// The content of `/etc/resolv.conf`, resolv.conf(5).
///
/// `host` is the content of the host's file: it is taken as it is when the pod asks for nothing at
/// all, and not looked at else. Entries with a line break or another control character are left out:
/// they could only have been meant to add lines.
pub fn render(dns: Option<&DnsConfig>, host: &str) -> String {
    let Some(dns) = dns.filter(|dns| **dns != DnsConfig::default()) else { return host.to_owned() };
    let clean = |entry: &&String| !entry.is_empty() && !entry.chars().any(char::is_control);
    let mut content = String::new();
    let searches: Vec<&str> = dns.searches.iter().filter(clean).map(String::as_str).collect();
    if !searches.is_empty() {
        content.push_str(&format!("search {}\n", searches.join(" ")));
    }
    for server in dns.servers.iter().filter(clean) {
        content.push_str(&format!("nameserver {server}\n"));
    }
    let options: Vec<&str> = dns.options.iter().filter(clean).map(String::as_str).collect();
    if !options.is_empty() {
        content.push_str(&format!("options {}\n", options.join(" ")));
    }
    content
}

/// The content of `/etc/hostname`, hostname(5).
pub fn hostname_file(hostname: &str) -> String {
    format!("{hostname}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn asked_for_settings_replace_the_hosts() {
        let dns = DnsConfig {
            servers: of(&["10.96.0.10", "fd00::a"]),
            searches: of(&["default.svc.cluster.local", "svc.cluster.local"]),
            options: of(&["ndots:5", "edns0"]),
        };
        assert_eq!(
            render(Some(&dns), "nameserver 192.0.2.1\n"),
            "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a\n\
             options ndots:5 edns0\n"
        );
    }

    #[test]
    fn nothing_asked_for_is_the_hosts() {
        assert_eq!(render(None, "nameserver 192.0.2.1\n"), "nameserver 192.0.2.1\n");
        assert_eq!(render(Some(&DnsConfig::default()), "# x\n"), "# x\n");
    }

    #[test]
    fn no_entry_adds_a_line() {
        let dns = DnsConfig {
            servers: of(&["192.0.2.2\nnameserver 203.0.113.1", "192.0.2.3"]),
            ..DnsConfig::default()
        };
        assert_eq!(render(Some(&dns), ""), "nameserver 192.0.2.3\n");
    }
}
