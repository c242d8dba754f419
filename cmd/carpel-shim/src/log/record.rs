//! The front of a record: time, stream, tag.

use super::Stream;

/// `2026-11-21T05:19:59.000000042Z stdout F `
pub(super) const HEADER_BYTES: usize = 30 + 1 + 6 + 1 + 1 + 1;

/// A record's front, as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header([u8; HEADER_BYTES]);

impl Header {
    /// `now_ns` are nanoseconds since the Unix epoch, UTC; nine digits are written always.
    pub(super) fn new(now_ns: i64, stream: Stream, full: bool) -> Header {
        let mut bytes = *b"0000-00-00T00:00:00.000000000Z stdout F ";
        let seconds = now_ns.div_euclid(1_000_000_000);
        let (year, month, day) = civil(seconds.div_euclid(86_400));
        let second = seconds.rem_euclid(86_400);
        let fields = [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, second / 3600),
            (14, 2, second / 60 % 60),
            (17, 2, second % 60),
            (20, 9, now_ns.rem_euclid(1_000_000_000)),
        ];
        for (at, width, value) in fields {
            digits(&mut bytes[at..at + width], value);
        }
        if stream == Stream::Stderr {
            bytes[31..37].copy_from_slice(b"stderr");
        }
        if !full {
            bytes[38] = b'P';
        }
        Header(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn digits(out: &mut [u8], value: i64) {
    let mut value = value;
    for digit in out.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

/// Year, month and day of a day that is so many after 1970-01-01, in the Gregorian calendar. Years
/// begin in March here, so that the leap day is the last one: 400 of them have 146097 days.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ns: i64) -> String {
        String::from_utf8(Header::new(ns, Stream::Stdout, true).as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (ns, expected) in [
            (0, "1970-01-01T00:00:00.000000000Z stdout F "),
            (951_827_696_000_000_001, "2000-02-29T12:34:56.000000001Z stdout F "),
            (1_795_151_999_999_999_999, "2026-11-20T05:19:59.999999999Z stdout F "),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z stdout F "),
            (-1, "1969-12-31T23:59:59.999999999Z stdout F "),
        ] {
            assert_eq!(text(ns), expected);
        }
        let partial = Header::new(0, Stream::Stderr, false);
        assert!(partial.as_bytes().ends_with(b"Z stderr P "));
    }
}
