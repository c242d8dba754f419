//! Carries out a container plan on this kernel.
#![forbid(unsafe_code)]
