//! Where the logs of `carpel run` lie: `<log root>/<namespace>_<pod>_<uid>/<container>.log`, in the manner of
//! the kubelet's /var/log/pods.
//!
//! What is removed is computed from the pod's name, never taken from a label or annotation: anyone who can
//! make a pod writes those.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use carpel_proto::v1::{PodSandbox, PodSandboxMetadata};

use super::config::RUN_LABEL;

/// Shared by the commands that make and remove pods.
#[derive(Debug, clap::Args)]
pub(crate) struct LogDirArgs {
    /// Folder of the logs of `carpel run`
    #[arg(
        long,
        value_name = "DIR",
        env = "CARPEL_LOG_DIR",
        default_value = "/var/log/carpel",
        hide_short_help = true
    )]
    pub(crate) log_dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LogDirError {
    #[error("cannot make the log folder {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot remove the log folder {path}")]
    Remove { path: PathBuf, source: io::Error },
    #[error("the log folder {0} is not absolute UTF-8")]
    Path(PathBuf),
}

/// The folder of one pod. The runtime gets it as text, and stands in another directory than we do.
pub(crate) fn of(root: &Path, pod: &PodSandboxMetadata) -> Result<String, LogDirError> {
    let path = std::path::absolute(root).unwrap_or_else(|_| root.to_owned()).join(folder(pod));
    match path.to_str() {
        Some(text) if path.is_absolute() => Ok(text.to_owned()),
        _ => Err(LogDirError::Path(path)),
    }
}

fn folder(pod: &PodSandboxMetadata) -> String {
    format!("{}_{}_{}", pod.namespace, pod.name, pod.uid)
}

/// Makes the folder. What containers write is often confidential, so only root may read it.
pub(crate) fn create(root: &Path, directory: &str) -> Result<(), LogDirError> {
    let error = |path: &Path, source| LogDirError::Create { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o750).create(root).map_err(|source| error(root, source))?;
    let path = Path::new(directory);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| error(path, source))
}

/// Removes the folder that [`create`] made; one that is gone is well.
pub(crate) fn remove(root: &Path, directory: &str) -> Result<(), LogDirError> {
    let path = Path::new(directory);
    // Never the root itself, nor anything beside it.
    let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    if path.parent() != Some(&root) || path.file_name().is_none() {
        return Err(LogDirError::Path(path.to_owned()));
    }
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(LogDirError::Remove { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Removes the logs of a pod, if it is one of `carpel run`.
pub(crate) fn remove_of(root: &Path, pod: &PodSandbox) -> Result<(), LogDirError> {
    let Some(metadata) = &pod.metadata else { return Ok(()) };
    if !pod.labels.contains_key(RUN_LABEL) {
        return Ok(());
    }
    // A name that is no single folder was not given by `carpel run`.
    if folder(metadata).contains('/') {
        return Ok(());
    }
    remove(root, &of(root, metadata)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, run: bool) -> PodSandbox {
        let metadata = PodSandboxMetadata {
            name: name.into(),
            uid: "u".into(),
            namespace: "default".into(),
            attempt: 0,
        };
        let labels =
            if run { [(RUN_LABEL.to_owned(), "true".to_owned())].into() } else { Default::default() };
        PodSandbox { metadata: Some(metadata), labels, ..Default::default() }
    }

    #[test]
    fn logs_go_with_their_pod_and_with_no_other() {
        let root = tempfile::tempdir().unwrap();
        let ours = pod("ours", true);
        let directory = of(root.path(), ours.metadata.as_ref().unwrap()).unwrap();
        assert!(directory.ends_with("/default_ours_u"));
        create(root.path(), &directory).unwrap();
        fs::write(Path::new(&directory).join("x.log"), "x").unwrap();

        remove_of(root.path(), &pod("ours", false)).unwrap();
        assert!(Path::new(&directory).exists(), "a pod of somebody else has no log here");
        remove_of(root.path(), &ours).unwrap();
        assert!(!Path::new(&directory).exists());
        remove_of(root.path(), &ours).unwrap();
    }

    #[test]
    fn no_name_leads_out_of_the_root() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("logs");
        fs::create_dir(&root).unwrap();
        let victim = outside.path().join("victim_u");
        fs::create_dir(&victim).unwrap();
        remove_of(&root, &pod("x/../../victim", true)).unwrap();
        assert!(victim.exists());
        for directory in [victim.to_str().unwrap(), root.to_str().unwrap(), "/", ""] {
            assert!(remove(&root, directory).is_err(), "{directory}");
        }
        let dots = format!("{}/..", root.display());
        assert!(remove(&root, &dots).is_err());
        assert!(victim.exists() && root.exists());
    }
}
