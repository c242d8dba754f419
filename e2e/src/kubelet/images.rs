//! The images that pods of kubelets run, in a registry of their own; `images.test` is to be a mirror of it.

use crate::busybox;
use crate::layout::{Image, Layout};
use crate::registry::Registry;
use crate::tar::Tar;

/// A shell.
pub const BUSYBOX: &str = "images.test/busybox:1";
/// A shell, and the server that is probed.
pub const PROBED: &str = "images.test/probed:1";
/// Files to be mounted as a volume.
pub const FILES: &str = "images.test/files:1";
/// What no pod uses.
pub const GARBAGE: &str = "images.test/garbage:1";

/// A registry that has them.
pub fn registry() -> Registry {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut layout = Layout::create(folder.path());
    layout.add("busybox:1", &busybox::image());
    let program = std::fs::read(super::program("probed")).expect("hack/kubernetes builds it");
    let server = Tar::new().dir("bin/", 0o755).file("bin/probed", 0o755, program).finish();
    layout.add("probed:1", &busybox::image().layer(server).config("Cmd", vec!["/bin/probed"]));
    let files = Tar::new().dir("folder/", 0o755).file("folder/file", 0o644, "from an image").finish();
    layout.add("files:1", &Image::new().layer(files));
    let garbage = Tar::new().file("garbage", 0o644, "garbage").finish();
    layout.add("garbage:1", &Image::new().layer(garbage));
    let registry = Registry::open();
    registry.push(&layout);
    registry
}
