//! A container's root file system: an overlay of image layers, and moving into it.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use carpel_shim_api::plan::RootfsPlan;
use carpel_sys::mount::{ATTR_RDONLY, AttrChange, PropagationType, set_attr};
use carpel_sys::namespace::{Kind, unshare};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, mkdir, open, rmdir, unlink};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, open_tree, unmount,
};
use rustix::process::{fchdir, pivot_root};

use crate::mounts::bind::{IdmapError, map_one};
use crate::root::{Absent, Links, Root};
use crate::sandbox::mounts::{ROOT_DIR, attach};
use crate::sandbox::user_namespace::{Unmapped, UserNamespace};

/// The most layers that overlayfs stacks (`OVL_MAX_STACK`).
const LAYERS_MAX: usize = 500;
/// fsconfig(2) takes strings up to 255 bytes; a longer path goes by its descriptor.
const FSCONFIG_STRING_MAX_BYTES: usize = 255;
/// mount(2) takes a page of options, the closing NUL included.
const MOUNT_DATA_MAX_BYTES: usize = 4096;
/// The longest message of the kernel that is passed on.
const LOG_MAX_BYTES: usize = 512;
/// Set explicitly, because a kernel may be configured with other defaults: `index` and `metacopy`
/// would mark the upper layer with what another kernel or another stack of layers cannot read.
const FIXED_OPTIONS: [(&str, &str); 2] = [("index", "off"), ("metacopy", "off")];

/// Why there is no root file system.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootfsError {
    #[error("a root file system of {0} layers; 1 to {LAYERS_MAX} are possible")]
    Layers(usize),
    #[error("open the layer {path}")]
    Layer {
        path: String,
        #[source]
        source: Errno,
    },
    #[error("prepare the folder {path}")]
    MakeDir {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("give {path} the mode and owner of the image's root")]
    Root {
        path: String,
        #[source]
        source: Errno,
    },
    #[error(transparent)]
    Idmap(#[from] IdmapError),
    #[error("the root of the image")]
    RootOwner(#[source] Unmapped),
    #[error("{step} of overlayfs{log}")]
    Overlay {
        step: &'static str,
        /// The kernel's own words, if it has any.
        log: String,
        #[source]
        source: Errno,
    },
    #[error("make {path} in the root")]
    Folder {
        path: String,
        #[source]
        source: Errno,
    },
    #[error("{0}")]
    Step(&'static str, #[source] Errno),
}

/// Makes the root file system, not attached anywhere. Its paths are this mount namespace's; its files have that
/// SELinux label, unless it is empty.
pub(crate) fn make(
    plan: &RootfsPlan,
    label: &str,
    user: Option<&UserNamespace>,
) -> Result<OwnedFd, RootfsError> {
    if plan.upper.is_empty() {
        return read_only(&plan.lowers, label, user);
    }
    check_count(&plan.lowers)?;
    prepare_upper(plan, user)?;
    let writable = Writable { upper: &plan.upper, work: &plan.work, volatile: plan.volatile };
    overlay(&plan.lowers, Some(writable), label, user)
}

/// Makes what must be there and is not. The process is inside the root, and nothing is mounted in it yet.
pub(crate) fn make_folders(plan: &RootfsPlan, root: &Root) -> Result<(), RootfsError> {
    for path in &plan.folders {
        root.ensure(path, Absent::Dir, Links::Follow)
            .map_err(|source| RootfsError::Folder { path: path.clone(), source })?;
    }
    Ok(())
}

/// The layer of an overlay that can be written.
#[derive(Clone, Copy)]
struct Writable<'a> {
    upper: &'a str,
    work: &'a str,
    /// What is written need not be on disk when a container ends.
    volatile: bool,
}

/// Image layers without a writable one, not attached anywhere. One layer alone has the labels that it has on
/// disk; a second one, an empty folder, makes an overlay of it.
pub(crate) fn read_only(
    lowers: &[String],
    label: &str,
    user: Option<&UserNamespace>,
) -> Result<OwnedFd, RootfsError> {
    check_count(lowers)?;
    let mount = match lowers {
        // overlayfs wants two layers at least.
        [only] => clone_layer(only, user)?,
        several => overlay(several, None, label, user)?,
    };
    let read_only = AttrChange { set: ATTR_RDONLY, ..AttrChange::default() };
    set_attr(mount.as_fd(), read_only)
        .map_err(|e| RootfsError::Step("make the layers' mount read-only", e))?;
    Ok(mount)
}

/// A layer's folder as a mount of its own, attached nowhere. What is the image's root's is the
/// container's root's there.
fn clone_layer(path: &str, user: Option<&UserNamespace>) -> Result<OwnedFd, RootfsError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let layer =
        open_tree(CWD, path, flags).map_err(|source| RootfsError::Layer { path: path.to_owned(), source })?;
    let private = AttrChange { propagation: Some(PropagationType::Private), ..AttrChange::default() };
    set_attr(layer.as_fd(), private).map_err(|e| RootfsError::Step("make the layer's mount private", e))?;
    if let Some(user) = user {
        map_one(layer.as_fd(), path, user)?;
    }
    Ok(layer)
}

fn check_count(lowers: &[String]) -> Result<(), RootfsError> {
    let count = lowers.len();
    if (1..=LAYERS_MAX).contains(&count) { Ok(()) } else { Err(RootfsError::Layers(count)) }
}

/// Makes the writable layer's folders where they are absent. The overlay's root shows the upper
/// folder's mode and owner, so a new one gets those of the image.
fn prepare_upper(plan: &RootfsPlan, user: Option<&UserNamespace>) -> Result<(), RootfsError> {
    if let Some(parent) = Path::new(&plan.upper).parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
        made.map_err(|source| RootfsError::MakeDir { path: parent.display().to_string(), source })?;
    }
    let failed = |path: &str| {
        let path = path.to_owned();
        move |source: Errno| RootfsError::MakeDir { path, source: source.into() }
    };
    match mkdir(&plan.work, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(&plan.work)(errno)),
    }
    match mkdir(&plan.upper, Mode::from_raw_mode(0o755)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(errno) => return Err(failed(&plan.upper)(errno)),
    }
    let root = |source| RootfsError::Root { path: plan.upper.clone(), source };
    let top = open_layer(&plan.lowers[0])?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let upper = open(&plan.upper, flags, Mode::empty()).map_err(root)?;
    let stat = fstat(&top).map_err(root)?;
    let (uid, gid) = match user {
        Some(user) => user.host_ids(stat.st_uid, stat.st_gid).map_err(RootfsError::RootOwner)?,
        None => (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid)),
    };
    fchown(&upper, Some(uid), Some(gid)).map_err(root)?;
    fchmod(&upper, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(root)
}

/// A volatile overlay leaves a mark, which keeps its upper layer from being mounted again: after a
/// crash of the machine it could be incomplete (overlayfs.rst, "Volatile mount"). A container, and
/// with it the sandbox of its plan, does not outlive the machine's run, so that here the mark can
/// only be that of an attempt that failed just before: the kernel makes it before it looks at the other layers.
fn forget_volatile(writable: Option<Writable<'_>>) -> Result<(), RootfsError> {
    let Some(Writable { work, volatile: true, .. }) = writable else { return Ok(()) };
    let mark = format!("{work}/work/incompat/volatile");
    match unlink(format!("{mark}/dirty")).and_then(|()| rmdir(mark.as_str())) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(source) => Err(RootfsError::MakeDir { path: mark, source: source.into() }),
    }
}

fn open_layer(path: &str) -> Result<OwnedFd, RootfsError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|source| RootfsError::Layer { path: path.to_owned(), source })
}

fn overlay(
    lowers: &[String],
    writable: Option<Writable<'_>>,
    label: &str,
    user: Option<&UserNamespace>,
) -> Result<OwnedFd, RootfsError> {
    let failed = |step, context: BorrowedFd<'_>| {
        let log = kernel_log(context);
        move |source| RootfsError::Overlay { step, log, source }
    };
    if !checks_each_option()? {
        return overlay_by_one_string(lowers, writable, label, user);
    }
    forget_volatile(writable)?;
    let context = open_context()?;
    // Descriptors stay open until the mount is made: their paths are resolved by the kernel then.
    let mut opened = Vec::new();
    for (index, lower) in lowers.iter().enumerate() {
        let path = match user {
            None => short_path(lower, &mut opened)?,
            Some(_) => path_by_fd(clone_layer(lower, user)?, &mut opened),
        };
        match fsconfig_set_string(context.as_fd(), "lowerdir+", &path) {
            Ok(()) => {}
            // Linux 6.5 and 6.6 know no such option.
            Err(Errno::INVAL) if index == 0 && open_layer(lower).is_ok() => {
                return overlay_by_one_string(lowers, writable, label, user);
            }
            Err(errno) => return Err(failed("add a layer", context.as_fd())(errno)),
        }
    }
    // What the mount table shows as the source.
    let mut options = vec![("source", "overlay".to_owned())];
    if let Some(Writable { upper, work, .. }) = writable {
        options.push(("upperdir", short_path(upper, &mut opened)?));
        options.push(("workdir", short_path(work, &mut opened)?));
    }
    options.extend(FIXED_OPTIONS.map(|(key, value)| (key, value.to_owned())));
    if !label.is_empty() {
        options.push(("context", label.to_owned()));
    }
    for (key, value) in &options {
        fsconfig_set_string(context.as_fd(), *key, value)
            .map_err(|e| failed("set an option", context.as_fd())(e))?;
    }
    if writable.is_some_and(|writable| writable.volatile) {
        fsconfig_set_flag(context.as_fd(), "volatile")
            .map_err(|e| failed("set the volatile option", context.as_fd())(e))?;
    }
    match fsconfig_create(context.as_fd()) {
        Ok(()) => {}
        // Linux before 6.15 takes no layers from mounts that are attached nowhere.
        Err(Errno::INVAL) if user.is_some() => {
            return overlay_by_one_string(lowers, writable, label, user);
        }
        Err(errno) => return Err(failed("make an instance", context.as_fd())(errno)),
    }
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(|e| failed("mount an instance", context.as_fd())(e))
}

fn open_context() -> Result<OwnedFd, RootfsError> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC);
    context.map_err(|e| RootfsError::Step("open an overlayfs context", e))
}

/// Whether overlayfs looks at an option when it is set. Before Linux 6.5 it takes any, one that there is not too, and
/// refuses all together when the instance is made (`legacy_parse_param`, fs/fs_context.c).
fn checks_each_option() -> Result<bool, RootfsError> {
    let context = open_context()?;
    Ok(fsconfig_set_flag(context.as_fd(), "no-such-option").is_err())
}

/// The path, or one through a descriptor if it is too long for fsconfig(2) or has the escape
/// character of overlayfs.
fn short_path(path: &str, opened: &mut Vec<OwnedFd>) -> Result<String, RootfsError> {
    if path.len() <= FSCONFIG_STRING_MAX_BYTES && !path.contains('\\') {
        return Ok(path.to_owned());
    }
    Ok(path_by_fd(open_layer(path)?, opened))
}

fn path_by_fd(fd: OwnedFd, opened: &mut Vec<OwnedFd>) -> String {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    opened.push(fd);
    path
}

/// The messages that explain a failure (fsopen(2): read from the context).
fn kernel_log(context: BorrowedFd<'_>) -> String {
    let mut buffer = [0u8; LOG_MAX_BYTES];
    match rustix::io::read(context, &mut buffer) {
        Ok(count) if count > 0 => {
            let text = String::from_utf8_lossy(&buffer[..count]);
            format!(" ({})", text.trim())
        }
        _ => String::new(),
    }
}

/// As mount(2) takes it, for kernels without `lowerdir+`: all paths in one page, so they go by
/// descriptor. Leaves this mount namespace for a private copy, since mount(2) attaches what it makes.
fn overlay_by_one_string(
    lowers: &[String],
    writable: Option<Writable<'_>>,
    label: &str,
    user: Option<&UserNamespace>,
) -> Result<OwnedFd, RootfsError> {
    forget_volatile(writable)?;
    leave_for_private_copy()?;
    if user.is_some() {
        for lower in lowers {
            let target = open_layer(lower)?;
            attach(clone_layer(lower, user)?.as_fd(), target.as_fd())
                .map_err(|e| RootfsError::Step("mount a layer over itself", e))?;
        }
    }
    // Only now: the layers have to be on mounts of this namespace.
    let mut opened = lowers.iter().map(|lower| open_layer(lower)).collect::<Result<Vec<_>, _>>()?;
    let by_fd = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut data = format!("lowerdir={}", opened.iter().map(by_fd).collect::<Vec<_>>().join(":"));
    if let Some(Writable { upper, work, volatile }) = writable {
        for (key, path) in [("upperdir", upper), ("workdir", work)] {
            let fd = open_layer(path)?;
            data.push_str(&format!(",{key}={}", by_fd(&fd)));
            opened.push(fd);
        }
        if volatile {
            data.push_str(",volatile");
        }
    }
    for (key, value) in FIXED_OPTIONS {
        data.push_str(&format!(",{key}={value}"));
    }
    if !label.is_empty() {
        // In quotes, for categories are listed with commas (selinux_sb_eat_lsm_opts, security/selinux/hooks.c).
        data.push_str(&format!(",context=\"{label}\""));
    }
    // The kernel copies a page at most.
    if data.len() >= MOUNT_DATA_MAX_BYTES {
        return Err(RootfsError::Layers(lowers.len()));
    }
    let data = std::ffi::CString::new(data).map_err(|_| RootfsError::Step("name layers", Errno::INVAL))?;
    // Any folder will do to mount it on, and is given back: it may be a layer of the next overlay.
    let target = lowers[0].as_str();
    mount("overlay", target, "overlay", MountFlags::empty(), Some(data.as_c_str()))
        .map_err(|e| RootfsError::Step("mount an overlayfs", e))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = open_tree(CWD, target, flags);
    unmount(target, UnmountFlags::DETACH).map_err(|e| RootfsError::Step("unmount an overlayfs", e))?;
    if user.is_some() {
        // The overlay has clones of its own.
        for lower in lowers {
            unmount(lower.as_str(), UnmountFlags::DETACH)
                .map_err(|e| RootfsError::Step("unmount a layer from itself", e))?;
        }
    }
    clone.map_err(|e| RootfsError::Step("clone the overlay's mount", e))
}

fn leave_for_private_copy() -> Result<(), RootfsError> {
    unshare(&[Kind::Mount]).map_err(|e| RootfsError::Step("copy the mounts to mount an overlay", e))?;
    let root = open_layer("/")?;
    let private =
        AttrChange { propagation: Some(PropagationType::Private), recursive: true, ..AttrChange::default() };
    set_attr(root.as_fd(), private).map_err(|e| RootfsError::Step("make the copied mounts private", e))
}

/// Makes `rootfs` this process's root, and drops all other mounts of its namespace. The process is in
/// its own copy of the pod's mounts.
pub(crate) fn pivot_into(rootfs: BorrowedFd<'_>) -> Result<(), RootfsError> {
    let step = |name| move |errno| RootfsError::Step(name, errno);
    let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = open("/", dir, Mode::empty()).map_err(step("open the pod's mounts"))?;
    let target = open(ROOT_DIR, dir, Mode::empty()).map_err(step("open the mount point of the root"))?;
    attach(rootfs, target.as_fd()).map_err(step("mount the root"))?;
    fchdir(rootfs).map_err(step("enter the root"))?;
    pivot_root(".", ".").map_err(step("pivot to the root"))?;
    // The old root is now mounted over the new one; taking it away takes all below it along.
    fchdir(&old).map_err(step("enter the pod's mounts"))?;
    unmount(".", UnmountFlags::DETACH).map_err(step("drop the pod's mounts"))?;
    fchdir(rootfs).map_err(step("enter the root"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::path::{Path, PathBuf};
    use std::thread;

    use super::{RootfsError, Writable, checks_each_option, make, overlay_by_one_string};
    use crate::root::{Links, Root};
    use crate::sandbox::user_namespace::UserNamespace;
    use carpel_shim_api::plan::{IdMappings, IdRange, RootfsPlan};
    use rustix::fs::OFlags;

    #[test]
    fn a_root_without_layers_or_with_too_many_is_refused() {
        for count in [0, 501] {
            let plan = RootfsPlan { lowers: vec!["/".to_owned(); count], ..RootfsPlan::default() };
            assert!(matches!(make(&plan, "", None), Err(RootfsError::Layers(n)) if n == count));
        }
    }

    #[test]
    fn a_kernel_that_takes_any_option_is_told_by_it() {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's version");
        let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        let version = (numbers.next().expect("its first number"), numbers.next().expect("its second number"));
        assert_eq!(checks_each_option().expect("overlayfs is there"), version >= (6, 5), "{release}");
    }

    fn layer(dir: &Path, name: &str) -> String {
        let layer = dir.join(name);
        fs::create_dir_all(&layer).expect("mkdir");
        fs::write(layer.join(name), name).expect("write");
        fs::write(layer.join("top"), name).expect("write");
        layer.display().to_string()
    }

    fn on_old_kernels(dir: PathBuf) {
        // With all that separates options and layers.
        let lowers = [layer(&dir, "a,b:c"), layer(&dir, "back\\slash"), layer(&dir, "low")];
        let upper = layer(&dir, "upper");
        let work = dir.join("work");
        fs::create_dir(&work).expect("mkdir");
        let work = work.display().to_string();
        // The mark of an attempt that the kernel refused.
        fs::create_dir_all(format!("{work}/work/incompat/volatile")).expect("mkdir");
        fs::write(format!("{work}/work/incompat/volatile/dirty"), "").expect("write");
        let writable = Writable { upper: &upper, work: &work, volatile: true };
        let mount = overlay_by_one_string(&lowers, Some(writable), "", None).expect("mounted");
        let read = |root: &Root, file: &str| {
            let file = root.open(file, OFlags::RDONLY, Links::Refuse).expect("open");
            std::io::read_to_string(fs::File::from(file)).expect("read")
        };
        let root = Root::new(mount.as_fd().try_clone_to_owned().expect("dup"));
        assert_eq!(read(&root, "top"), "upper");
        assert_eq!((read(&root, "low"), read(&root, "a,b:c")), ("low".to_owned(), "a,b:c".to_owned()));
        let root = Root::new(overlay_by_one_string(&lowers, None, "", None).expect("mounted"));
        assert_eq!(read(&root, "top"), "a,b:c");
        // With the container's ids, and again with the same layers.
        let range = carpel_sys::userns::IdRange { host_id: 7000, length: 10 };
        let request =
            carpel_sys::userns::Request { uids: range, gids: range, network_and_uts: false, ipc: false };
        let fd = carpel_sys::userns::create(&request).expect("made").user;
        let ids = IdRange { host_id: 7000, length: 10 };
        let user = UserNamespace::new(fd, IdMappings { uids: ids, gids: ids });
        for _ in 0..2 {
            let mount = overlay_by_one_string(&lowers, None, "", Some(&user)).expect("mounted");
            let low = Root::new(mount).open("low", OFlags::PATH, Links::Refuse).expect("open");
            assert_eq!(rustix::fs::fstat(&low).expect("stat").st_uid, 7000);
        }
        let many = vec![lowers[2].clone(); 300];
        assert!(matches!(overlay_by_one_string(&many, None, "", None), Err(RootfsError::Layers(300))));
    }

    #[test]
    fn kernels_that_take_layers_in_one_string_get_any_path() {
        let dir = std::env::temp_dir().join(format!("carpel-rootfs-{}", std::process::id()));
        let of_thread = dir.clone();
        // A thread of its own, whose change of mount namespace is nobody else's.
        let result = thread::spawn(move || on_old_kernels(of_thread)).join();
        fs::remove_dir_all(&dir).expect("remove");
        result.expect("the thread ended well");
    }
}
