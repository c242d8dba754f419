//! `carpel check`. What is checked stands in [`crate::check`].

pub(crate) use crate::check::{Args, execute};
