//! SELinux on this node: what its policy says of containers, and which pods have which categories.
//!
//! ```text
//!   kernel without SELinux                       ─▶ no labels
//!   contexts of containers, unknown to the policy ─▶ no labels, and a warning: containers run as the daemon does
//!   else                                          ─▶ labels; each pod has two categories that no other pod has
//! ```
//!
//! Contexts are those of `lxc_contexts`, where the policy's makers write them down for container runtimes;
//! container-selinux has its own place for the file, which comes first. Its `process` and `file` are used. Its
//! `ro_file` is for image content that has one label on disk for all containers that read it; here layers have none,
//! and each container mounts them with the label of its own files, an image as a volume too: read-only is the mount.
//!
//! A pod's level stands in its record, one that a container asks for itself in the container's. What is made of all
//! this is decided in `carpel_spec`.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use carpel_spec::{
    config::SelinuxOption,
    input::{Selinux, SelinuxContexts},
    selinux::{asked_level, sensitivity},
};
use rustix::{
    fs::{XattrFlags, fsetxattr},
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};

/// The kernel's interface; there only if SELinux is on.
const ENFORCE: &str = "/sys/fs/selinux/enforce";
/// Takes a label, and refuses what the policy does not allow.
const CONTEXT: &str = "/sys/fs/selinux/context";
/// Names the policy: `SELINUXTYPE=targeted`. selinux_config(5).
const CONFIG: &str = "/etc/selinux/config";
/// The contexts of container-selinux, whatever the policy's name.
const OWN_CONTEXTS: &str = "/usr/share/containers/selinux/contexts";
/// The most that is read of a configuration file, in bytes.
const FILE_MAX_BYTES: u64 = 64 << 10;
/// What the contexts are where no file says it.
const DEFAULTS: [(&str, &str); 2] =
    [("process", "system_u:system_r:container_t:s0"), ("file", "system_u:object_r:container_file_t:s0")];
/// The type of processes that nothing is denied; no file names it.
const PRIVILEGED: &str = "spc_t";
/// Where a file's label is.
const ATTRIBUTE: &str = "security.selinux";
/// Categories of a policy with MCS.
const CATEGORIES: u32 = 1024;

/// Looks what this node's policy says of containers. Blocks shortly.
pub(crate) fn look() -> Selinux {
    if !fs::exists(ENFORCE).unwrap_or(false) {
        return Selinux::Absent;
    }
    let config = read(CONFIG.into()).unwrap_or_default();
    let policy = value_of(&config, "SELINUXTYPE").filter(|name| !name.contains('/'));
    let of_policy = policy.map(|name| PathBuf::from(format!("/etc/selinux/{name}/contexts/lxc_contexts")));
    let contexts = [Some(PathBuf::from(OWN_CONTEXTS)), of_policy].into_iter().flatten().find_map(read);
    let (process, file) = contexts_of(&contexts.unwrap_or_default());
    for context in [&process, &file] {
        if let Err(err) = check(&text_of(context)) {
            let context = text_of(context);
            tracing::warn!(context, %err, "the SELinux policy knows no containers: they get no labels");
            return Selinux::WithoutContainers;
        }
    }
    let privileged = SelinuxOption { type_: PRIVILEGED.to_owned(), ..process.clone() };
    let privileged = check(&text_of(&privileged)).is_ok().then_some(privileged);
    Selinux::Enabled(Box::new(SelinuxContexts { process, file, privileged }))
}

fn read(path: PathBuf) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The value of `key = "value"` in a file with comments.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once('='));
    let (_, value) = pairs.rfind(|(name, _)| name.trim() == key)?;
    Some(value.trim().trim_matches('"')).filter(|value| !value.is_empty())
}

/// Contexts of processes and of files.
fn contexts_of(text: &str) -> (SelinuxOption, SelinuxOption) {
    let [process, file] =
        DEFAULTS.map(|(key, default)| parse(value_of(text, key).unwrap_or(default)).unwrap_or_default());
    (process, file)
}

fn parse(context: &str) -> Option<SelinuxOption> {
    let mut parts = context.splitn(4, ':').map(str::to_owned);
    let (user, role, type_) = (parts.next()?, parts.next()?, parts.next()?);
    Some(SelinuxOption { user, role, type_, level: parts.next().unwrap_or_default() })
}

fn text_of(context: &SelinuxOption) -> String {
    let SelinuxOption { user, role, type_, level } = context;
    if level.is_empty() { format!("{user}:{role}:{type_}") } else { format!("{user}:{role}:{type_}:{level}") }
}

/// Whether the policy knows a label; an empty one is none. Blocks shortly.
pub(crate) fn check(label: &str) -> io::Result<()> {
    if label.is_empty() {
        return Ok(());
    }
    File::options().write(true).open(CONTEXT)?.write_all(label.as_bytes())
}

/// Labels a file that the daemon made, unless the label is empty or the file system has none.
pub(crate) fn set(file: impl AsFd, label: &str) -> io::Result<()> {
    if label.is_empty() {
        return Ok(());
    }
    match fsetxattr(file, ATTRIBUTE, label.as_bytes(), XattrFlags::empty()) {
        Ok(()) | Err(Errno::NOTSUP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The levels of all pods, and of containers that ask for others, by what they mean. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Levels(Arc<Mutex<HashMap<String, usize>>>);

/// A level that is somebody's until this is dropped.
#[derive(Debug)]
pub(crate) struct Level {
    text: String,
    levels: Levels,
}

impl Levels {
    /// One that nobody has: two categories by chance. `None` if the policy has no levels, or all are taken.
    ///
    /// # Errors
    /// The kernel has no random bytes to give (getrandom(2)).
    pub(crate) fn choose(&self, selinux: &Selinux) -> io::Result<Option<Level>> {
        let default = match selinux {
            Selinux::Absent | Selinux::WithoutContainers => return Ok(None),
            Selinux::Enabled(contexts) => contexts.process.level.as_str(),
        };
        if default.is_empty() {
            return Ok(None);
        }
        let mut bytes = [0u8; 4];
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free =
            from(u32::from_ne_bytes(bytes), sensitivity(default)).find(|text| !taken.contains_key(text));
        Ok(free.map(|text| {
            taken.insert(text.clone(), 1);
            Level { text, levels: self.clone() }
        }))
    }

    /// One that a pod or container has, perhaps with others: it is chosen for nobody.
    pub(crate) fn reserve(&self, text: &str) -> Level {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(canonical(text)).or_default() += 1;
        Level { text: text.to_owned(), levels: self.clone() }
    }

    /// That of a container that asks for one itself; the others have their pod's.
    pub(crate) fn reserve_asked(&self, asked: Option<&SelinuxOption>) -> Option<Level> {
        asked_level(asked).map(|level| self.reserve(level))
    }
}

impl Level {
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        let mut taken = self.levels.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = canonical(&self.text);
        match taken.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(taken.remove(&key)),
        }
    }
}

/// A level as [`from`] writes it: `s0:c26,c5`, as OpenShift has them, is `s0:c5,c26`.
fn canonical(level: &str) -> String {
    let Some((sensitivity, categories)) = level.split_once(':') else { return level.to_owned() };
    let mut categories: Vec<&str> = categories.split(',').collect();
    // A range by its first.
    let number = |category: &&str| category.split('.').next()?.strip_prefix('c')?.parse::<u32>().ok();
    categories.sort_by_key(number);
    categories.dedup();
    format!("{sensitivity}:{}", categories.join(","))
}

/// All levels of two categories, each pair twice, from some number on.
fn from(start: u32, sensitivity: &str) -> impl Iterator<Item = String> {
    const PAIRS: u32 = CATEGORIES * (CATEGORIES - 1);
    (0..PAIRS).map(move |step| {
        let number = (start % PAIRS + step) % PAIRS;
        let (one, other) = (number / (CATEGORIES - 1), number % (CATEGORIES - 1));
        let other = if other >= one { other + 1 } else { other };
        format!("{sensitivity}:c{},c{}", one.min(other), one.max(other))
    })
}

#[cfg(test)]
mod tests;
