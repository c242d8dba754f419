//! Every unsafe call of the workspace, as safe functions.
#![forbid(unsafe_code)]
