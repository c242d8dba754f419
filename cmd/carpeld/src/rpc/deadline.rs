//! The deadline that a caller sends along.
//!
//! tonic keeps it too, but answers `Cancelled` where gRPC has `DeadlineExceeded`; a caller hears that
//! answer whenever the daemon's timer is a little before its own. What is made here is asked first.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Sleep;

/// The header's most digits. <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>
const DIGITS_MAX: usize = 8;

/// Sleeps until the caller has given up; for ever if it never does. It must be made no later than the
/// call goes on to tonic's own timer.
pub(super) async fn passed(sleep: Option<Sleep>) {
    match sleep {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}

/// What `grpc-timeout` says; what cannot be read is no deadline.
pub(super) fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_as_grpc_has_it() {
        let of_text = |text: &str| {
            of(&HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-timeout"),
                text.parse().unwrap(),
            )]))
        };
        assert_eq!(of_text("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(of_text("3M"), Some(Duration::from_secs(180)));
        assert_eq!(of_text("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(of_text("999u"), Some(Duration::from_micros(999)));
        assert_eq!(of_text("0m"), Some(Duration::ZERO));
        assert_eq!(of_text("5n"), Some(Duration::from_nanos(5)));
        for text in ["", "S", "1", "1s", "-1S", "+1S", "999999999S", "1.5S", "1 S"] {
            assert_eq!(of_text(text), None, "{text:?}");
        }
        assert_eq!(of(&HeaderMap::new()), None);
    }
}
