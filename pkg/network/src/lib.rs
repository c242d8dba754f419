//! Gives a pod its network: namespace, CNI, built-in bridge.
#![forbid(unsafe_code)]
