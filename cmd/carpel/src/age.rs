//! Times for people and for programs. CRI gives nanoseconds since the Unix epoch, 0 for "not yet".

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Steps of the words: up to this many of the unit, its length in seconds, its name.
const UNITS: [(u64, u64, &str); 6] = [
    (120, 1, "second"),
    (120, 60, "minute"),
    (48, 3_600, "hour"),
    (14, 86_400, "day"),
    (9, 7 * 86_400, "week"),
    (u64::MAX, 30 * 86_400, "month"),
];

/// Now, as CRI counts.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// How long ago that was, in one unit: "3 minutes ago".
pub(crate) fn ago(then_ns: i64, now_ns: i64) -> String {
    if then_ns <= 0 {
        return String::new();
    }
    format!("{} ago", span(since(then_ns, now_ns)))
}

/// From then to now; nothing if the clock was set back in between.
pub(crate) fn since(then_ns: i64, now_ns: i64) -> Duration {
    Duration::from_nanos(u64::try_from(now_ns.saturating_sub(then_ns)).unwrap_or(0))
}

/// A length of time in one unit: "3 minutes".
pub(crate) fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    let (count, name) = UNITS
        .iter()
        .map(|&(limit, unit, name)| (limit, seconds / unit, name))
        .find(|&(limit, count, _)| count < limit)
        .map_or((0, "second"), |(_, count, name)| (count, name));
    match count {
        0 => "less than a second".to_owned(),
        1 => format!("1 {name}"),
        _ => format!("{count} {name}s"),
    }
}

/// RFC 3339 in UTC with nanoseconds, for programs; absent if it has not happened.
pub(crate) fn rfc3339(ns: i64) -> Option<String> {
    if ns <= 0 {
        return None;
    }
    jiff::Timestamp::from_nanosecond(i128::from(ns)).ok().map(|timestamp| format!("{timestamp:.9}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_told_in_one_unit() {
        for (seconds, text) in [
            (0, "less than a second"),
            (1, "1 second"),
            (119, "119 seconds"),
            (120, "2 minutes"),
            (7_199, "119 minutes"),
            (7_200, "2 hours"),
            (172_800, "2 days"),
            (14 * 86_400, "2 weeks"),
            (63 * 86_400, "2 months"),
            (4_000 * 86_400, "133 months"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn what_has_not_happened_has_no_time() {
        assert_eq!(ago(0, 5), "");
        assert_eq!(rfc3339(0), None);
        assert_eq!(ago(5_000_000_000, 1_000_000_000), "less than a second ago", "the clock was set back");
    }

    #[test]
    fn programs_get_rfc_3339() {
        assert_eq!(rfc3339(1_700_000_000_000_000_001).unwrap(), "2023-11-14T22:13:20.000000001Z");
    }
}
