//! Amounts of bytes and CPU, as people read and write them.

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Three significant digits and a binary unit: "12.3 MiB".
pub(crate) fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        // 1023.5 would be printed as 1024.
        if value < 999.5 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let decimals = if unit == "B" || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$} {unit}")
}

/// Why a text is no amount.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AmountError {
    #[error("expected a number and a unit of b, k, m, g or t, such as 512m")]
    Bytes,
    #[error("expected a number of CPUs such as 0.5, at least 0.01")]
    Cpus,
}

/// Bytes with an optional unit; k, m, g and t count by 1024, as `docker run --memory` does.
pub(crate) fn parse_bytes(text: &str) -> Result<i64, AmountError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 10,
        "m" | "mb" | "mi" | "mib" => 20,
        "g" | "gb" | "gi" | "gib" => 30,
        "t" | "tb" | "ti" | "tib" => 40,
        _ => return Err(AmountError::Bytes),
    };
    let number: i64 = digits.parse().map_err(|_| AmountError::Bytes)?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or(AmountError::Bytes)
}

/// A number of CPUs as CFS quota in microseconds per period of 100 ms.
pub(crate) fn parse_cpus(text: &str) -> Result<i64, AmountError> {
    let cpus: f64 = text.parse().map_err(|_| AmountError::Cpus)?;
    // The kernel refuses quotas below 1 ms.
    if !(0.01..=65_536.0).contains(&cpus) {
        return Err(AmountError::Cpus);
    }
    Ok((cpus * 100_000.0).round() as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "0.98 KiB"),
            (1_024, "1.00 KiB"),
            (10_240, "10.0 KiB"),
            (104_858_000, "100 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn amounts_of_memory() {
        assert_eq!(parse_bytes("64m"), Ok(64 << 20));
        assert_eq!(parse_bytes("1GiB"), Ok(1 << 30));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        for text in ["", "m", "-1m", "0", "1.5g", "1x", "99999999999t", "1 m", "é"] {
            assert_eq!(parse_bytes(text), Err(AmountError::Bytes), "{text}");
        }
    }

    #[test]
    fn amounts_of_cpu() {
        assert_eq!(parse_cpus("0.5"), Ok(50_000));
        assert_eq!(parse_cpus("2"), Ok(200_000));
        for text in ["", "0", "-1", "nan", "inf", "1e9", "0.0001"] {
            assert_eq!(parse_cpus(text), Err(AmountError::Cpus), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in ".{0,20}") {
            let _bytes = parse_bytes(&text);
            let _cpus = parse_cpus(&text);
        }

        #[test]
        fn every_size_is_short(bytes: u64) {
            prop_assert!(human(bytes).len() <= 8, "{}", human(bytes));
        }
    }
}
