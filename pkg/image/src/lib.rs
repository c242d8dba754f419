//! Image reference to rootfs: registry client, content store, unpacking, removal.
#![forbid(unsafe_code)]
