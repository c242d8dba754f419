//! Signals by name. Numbers are those of x86 and arm64, which are the same: signal(7).

/// A text that names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the name or number of a signal")]
pub struct UnknownSignal {
    /// As given.
    pub text: String,
}

/// SIGTERM.
pub const TERM: i32 = 15;
/// The first real-time signal that the C library leaves to programs; glibc and musl keep 32 and 33.
pub const RTMIN: i32 = 34;
/// The last real-time signal.
pub const RTMAX: i32 = 64;

const NAMED: [(&str, i32); 36] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", TERM),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", RTMIN),
    ("RTMAX", RTMAX),
];

/// A signal's number by name (`SIGTERM`, `TERM`, `SIGRTMIN+3`, `RTMAX-1`; upper or lower case) or by
/// number (`15`).
///
/// # Errors
/// The text names no signal between 1 and 64.
pub fn number(text: &str) -> Result<i32, UnknownSignal> {
    let unknown = || UnknownSignal { text: text.to_owned() };
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = text.parse().ok().filter(|number| (1..=RTMAX).contains(number));
        return number.ok_or_else(unknown);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMED.iter().find(|(name, _)| *name == bare) {
        return Ok(*number);
    }
    let offset = |digits: &str| -> Option<i32> {
        let plain = digits.len() <= 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        if plain { digits.parse().ok() } else { None }
    };
    let number = match (bare.strip_prefix("RTMIN+"), bare.strip_prefix("RTMAX-")) {
        (Some(digits), _) => offset(digits).map(|n| RTMIN + n),
        (None, Some(digits)) => offset(digits).map(|n| RTMAX - n),
        (None, None) => None,
    };
    number.filter(|number| (RTMIN..=RTMAX).contains(number)).ok_or_else(unknown)
}

/// The kernel's name of a signal, with `SIG`; real-time ones as `SIGRTMIN+n`.
///
/// # Errors
/// The number is not between 1 and 64, or is one of the two that the C library keeps.
pub fn name(number: i32) -> Result<String, UnknownSignal> {
    if let Some((name, _)) = NAMED.iter().find(|(_, known)| *known == number) {
        return Ok(format!("SIG{name}"));
    }
    match number {
        RTMIN..=RTMAX => Ok(format!("SIGRTMIN+{}", number - RTMIN)),
        _ => Err(UnknownSignal { text: number.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_understood() {
        for (text, expect) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("SigKill", 9),
            ("9", 9),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMIN+30", 64),
            ("SIGRTMAX-30", 34),
            ("RTMAX", 64),
            ("64", 64),
        ] {
            assert_eq!(number(text), Ok(expect), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "0",
            "65",
            "-1",
            "+9",
            " 9",
            "SIG",
            "SIGNOPE",
            "SIGSIGTERM",
            "SIGRTMIN+31",
            "SIGRTMIN+",
            "SIGRTMIN++1",
            "SIGRTMIN+-1",
            "SIGRTMIN-1",
            "SIGRTMAX-31",
            "SIGTERM\0",
            "99999999999999999999",
        ] {
            assert!(number(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_name_leads_back_to_its_number() {
        for signal in (1..=31).chain(RTMIN..=RTMAX) {
            assert_eq!(number(&name(signal).unwrap()), Ok(signal));
        }
        assert!(name(0).is_err() && name(32).is_err() && name(65).is_err());
    }
}
