//! Names of pods and containers: 64 lower-case hex digits, as the field's tools expect.

use std::{fmt, path::Path};

use rustix::rand::GetRandomFlags;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Digits of an id.
pub(crate) const ID_DIGITS: usize = 64;

/// Text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not an id: 64 lower-case hex digits are expected")]
pub struct IdError(String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new random id.
            ///
            /// # Errors
            /// The kernel has no random bytes to give (getrandom(2)).
            pub fn random() -> std::io::Result<Self> {
                Ok(Self(random_digits()?))
            }

            /// The digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                if is_id(&text) { Ok(Self(text)) } else { Err(IdError(text)) }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<Path> for $name {
            fn as_ref(&self) -> &Path {
                Path::new(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// Names a pod sandbox.
    PodId
}
id! {
    /// Names a container.
    ContainerId
}

/// Whether `text` has the form of an id.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn random_digits() -> std::io::Result<String> {
    let mut bytes = [0u8; ID_DIGITS / 2];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sixty_four_lower_case_hex_digits_are_an_id() {
        let good = "0123456789abcdef".repeat(4);
        assert_eq!(PodId::try_from(good.clone()).unwrap().as_str(), good);
        for bad in ["", "abc", &good.to_uppercase(), &good.replace('0', "/"), &format!("{good}0")] {
            assert!(ContainerId::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<PodId>("\"../../etc\"").is_err());
    }

    #[test]
    fn random_ids_are_ids_and_differ() {
        let (one, two) = (PodId::random().unwrap(), PodId::random().unwrap());
        assert!(is_id(one.as_str()));
        assert_ne!(one, two);
    }
}
