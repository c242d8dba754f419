//! Puts the images of critest together: `critest-images INPUTS LAYOUT`.
//!
//! `hack/critest-images` calls it with a folder that holds what it built and fetched: `busybox/busybox`, the unpacked
//! packages of nginx in `nginx/`, the programs `nonewprivs` and `pause`. The result is one OCI layout whose names are the
//! full references that the suite pulls.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use carpel_e2e::busybox;
use carpel_e2e::layout::{Image, Layout};
use carpel_e2e::tar::{Entry, Kind, Tar};

const E2E: &str = "registry.k8s.io/e2e-test-images";
const STAGING: &str = "gcr.io/k8s-staging-cri-tools";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [inputs, output] = &arguments[..] else {
        #[allow(clippy::print_stderr, reason = "a program's usage")]
        {
            eprintln!("usage: critest-images INPUTS LAYOUT");
        }
        return ExitCode::from(64);
    };
    let busybox = busybox::layer(&inputs.join("busybox/busybox")).finish();
    let mut layout = Layout::create(output);
    general(&mut layout, inputs, &busybox);
    servers(&mut layout, inputs, &busybox);
    references(&mut layout, &busybox);
    users(&mut layout, &busybox);
    ExitCode::SUCCESS
}

/// An image of busybox that runs a shell.
fn shell(busybox: &[u8]) -> Image {
    Image::new().layer(busybox.to_vec()).config("Cmd", vec!["sh"]).config("Env", vec![PATH])
}

/// [`shell`] with a file that makes it differ from its siblings.
fn marked(busybox: &[u8], mark: &str) -> Image {
    shell(busybox).layer(Tar::new().file("mark", 0o644, mark).finish())
}

fn program(inputs: &Path, name: &str) -> Vec<u8> {
    read(&inputs.join(name))
}

fn general(layout: &mut Layout, inputs: &Path, busybox: &[u8]) {
    layout.add(&format!("{E2E}/busybox:1.29-2"), &shell(busybox));
    for tag in ["1.35.0-glibc", "1-uclibc", "1", "1-glibc", "1-musl"] {
        layout.add(&format!("public.ecr.aws/docker/library/busybox:{tag}"), &marked(busybox, tag));
    }
    let pause = Tar::new().file("pause", 0o755, program(inputs, "pause")).finish();
    let pause = Image::new().layer(pause).config("Entrypoint", vec!["/pause"]).config("User", "65535:65535");
    layout.add("registry.k8s.io/pause:3.9", &pause);
    layout.add("k8s.gcr.io/pause:3.9", &pause);
    let print = Tar::new().file("nonewprivs", 0o4755, program(inputs, "nonewprivs")).finish();
    let print = Image::new().layer(print).config("Entrypoint", vec!["/nonewprivs"]);
    layout.add(&format!("{E2E}/nonewprivs:1.3"), &print);
}

fn servers(layout: &mut Layout, inputs: &Path, busybox: &[u8]) {
    let nginx = |port: &str| {
        let config = include_str!("../../critest/nginx.conf").replace("PORT", port);
        Image::new()
            .layer(busybox.to_vec())
            .layer(nginx_layer(&inputs.join("nginx"), &config))
            .config("Entrypoint", vec!["/usr/sbin/nginx", "-g", "daemon off;"])
            .config("Env", vec![PATH])
            .config("StopSignal", "SIGQUIT")
    };
    layout.add(&format!("{E2E}/nginx:1.14-2"), &nginx("80"));
    for architecture in ["amd64", "arm64"] {
        layout.add(&format!("{STAGING}/hostnet-nginx-{architecture}"), &nginx("12003"));
    }
    let page = Tar::new().dir("var/www/html/", 0o755).file("var/www/html/index.html", 0o644, index());
    // The suite looks for the word in the log; busybox's server logs only requests.
    let serve = "echo 'httpd: listening on port 80' && exec httpd -f -v -p 80 -h /var/www/html";
    let httpd = shell(busybox).layer(page.finish()).config("Cmd", vec!["sh", "-c", serve]);
    layout.add(&format!("{E2E}/httpd:2.4.39-4"), &httpd);
}

/// Images by tag and by digest: different ones, and one under many names.
fn references(layout: &mut Layout, busybox: &[u8]) {
    for name in ["latest", "1", "2", "3", "digest"] {
        layout.add(&format!("{STAGING}/test-image-{name}"), &marked(busybox, name));
    }
    for tag in ["test", "all"] {
        layout.add(&format!("{STAGING}/test-image-tag:{tag}"), &marked(busybox, tag));
    }
    for tag in ["1", "2", "3"] {
        layout.add(&format!("{STAGING}/test-image-tags:{tag}"), &marked(busybox, "tags"));
    }
}

fn users(layout: &mut Layout, busybox: &[u8]) {
    let users = [
        ("uid", "1002"),
        ("username", "www-data"),
        ("uid-group", "1003:1004"),
        ("username-group", "www-data:1004"),
    ];
    for (name, user) in users {
        layout.add(&format!("{STAGING}/test-image-user-{name}"), &shell(busybox).config("User", user));
    }
    let passwd = format!("{}default-user:x:1000:1000::/home/default-user:/bin/sh\n", busybox::PASSWD);
    let group =
        format!("{}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n", busybox::GROUP);
    // One name for uid 1000, else the image's own alice answers for it.
    let without_alice = |text: &str| -> String {
        let lines = text.lines().filter(|line| !line.starts_with("alice:"));
        lines.map(|line| format!("{}\n", line.replace("alice,", "").replace("alice", ""))).collect()
    };
    let files = Tar::new()
        .file("etc/passwd", 0o644, without_alice(&passwd))
        .file("etc/group", 0o644, without_alice(&group))
        .finish();
    let image = shell(busybox).layer(files).config("User", "1000");
    layout.add(&format!("{STAGING}/test-image-predefined-group"), &image);
}

fn index() -> &'static str {
    include_str!("../../critest/index.html")
}

/// nginx, its configuration, and from the packages of its libraries what the loader looks for.
fn nginx_layer(packages: &Path, config: &str) -> Vec<u8> {
    let mut tar = Tar::new();
    for folder in
        ["usr/sbin", "usr/lib", "var/lib/nginx", "var/log", "var/log/nginx", "var/www/html", "etc/nginx"]
    {
        tar = tar.dir(&format!("{folder}/"), 0o755);
    }
    tar = tar.file("usr/sbin/nginx", 0o755, read(&packages.join("usr/sbin/nginx")));
    // What mime types it knows does not matter: without `include` it serves text/plain.
    tar = tar.file("etc/nginx/nginx.conf", 0o644, config).file("var/www/html/index.html", 0o644, index());
    for root in ["lib", "lib64", "usr/lib"] {
        tar = libraries(tar, packages, Path::new(root));
    }
    tar.finish()
}

/// Adds the shared objects below a folder, in the order of their names.
fn libraries(mut tar: Tar, packages: &Path, folder: &Path) -> Tar {
    let Ok(entries) = fs::read_dir(packages.join(folder)) else { return tar };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("list packages").path()).collect();
    paths.sort();
    for path in paths {
        let metadata = fs::symlink_metadata(&path).expect("stat what was listed");
        let name = path.strip_prefix(packages).expect("below the packages");
        let text = name.to_string_lossy();
        if metadata.is_dir() {
            // Converters and engines are not loaded here, and are most of the size.
            if !text.ends_with("gconv") && !text.contains("engines") {
                tar = libraries(tar.dir(&format!("{text}/"), 0o755), packages, name);
            }
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).expect("read a link");
            tar = tar.symlink(&text, &target.to_string_lossy());
        } else if text.contains(".so") {
            let mode = metadata.permissions().mode() & 0o777;
            let content = read(&path);
            tar = tar.entry(&Entry::new(&text, Kind::File(&content), mode));
        }
    }
    tar
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}
