//! Speaks CRI v1 with the kubelet.
#![forbid(unsafe_code)]
