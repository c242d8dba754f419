//! Versions of the CNI specification that are spoken here, and what each of them brought.

use std::fmt;

/// A version of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the dots of a version have to become something")]
pub(crate) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(crate) fn parse(text: &str) -> Option<Version> {
        Some(match text {
            "0.3.0" => Version::V0_3_0,
            "0.3.1" => Version::V0_3_1,
            "0.4.0" => Version::V0_4_0,
            "1.0.0" => Version::V1_0_0,
            "1.1.0" => Version::V1_1_0,
            _ => return None,
        })
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// Addresses of a result say their family (`"version": "4"`) until 1.0.0 took that away.
    pub(crate) fn addresses_have_families(self) -> bool {
        self < Version::V1_0_0
    }

    /// CHECK, and DEL with `prevResult`, are of 0.4.0.
    pub(crate) fn has_check(self) -> bool {
        self >= Version::V0_4_0
    }

    /// STATUS and GC are of 1.1.0.
    pub(crate) fn has_status(self) -> bool {
        self >= Version::V1_1_0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
