//! The cgroup tree: limits, statistics, events, freezing, killing.
#![forbid(unsafe_code)]
