//! `--volume SOURCE:TARGET[:OPTIONS]`. There are no named volumes: both are paths.

use std::{io, path::PathBuf};

use carpel_proto::v1::{Mount, MountPropagation};

#[derive(Debug, thiserror::Error)]
pub(super) enum VolumeError {
    #[error("expected SOURCE:TARGET or SOURCE:TARGET:ro")]
    Shape,
    #[error("the target {0:?} in the container is not an absolute path")]
    Target(String),
    // The command line shows no causes, so this one is part of the text.
    #[error("cannot use {path} of this node: {cause}")]
    Source { path: PathBuf, cause: io::Error },
    #[error("the source {0:?} is not UTF-8")]
    Name(PathBuf),
    #[error("the option {0:?} is not one of ro, rw, rprivate, rslave and rshared")]
    Option(String),
}

pub(super) fn parse(text: &str) -> Result<Mount, VolumeError> {
    let mut parts = text.splitn(3, ':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else { return Err(VolumeError::Shape) };
    if source.is_empty() {
        return Err(VolumeError::Shape);
    }
    if !target.starts_with('/') {
        return Err(VolumeError::Target(target.to_owned()));
    }
    // Some runtimes make a folder of a source that does not exist; a person has mistyped it.
    let path =
        std::fs::canonicalize(source).map_err(|cause| VolumeError::Source { path: source.into(), cause })?;
    let host_path = path.into_os_string().into_string().map_err(|path| VolumeError::Name(path.into()))?;
    let mut mount = Mount { container_path: target.to_owned(), host_path, ..Default::default() };
    for option in parts.next().into_iter().flat_map(|options| options.split(',')) {
        match option {
            "ro" => mount.readonly = true,
            "rw" => mount.readonly = false,
            "rprivate" => mount.set_propagation(MountPropagation::PropagationPrivate),
            "rslave" => mount.set_propagation(MountPropagation::PropagationHostToContainer),
            "rshared" => mount.set_propagation(MountPropagation::PropagationBidirectional),
            _ => return Err(VolumeError::Option(option.to_owned())),
        }
    }
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().canonicalize().unwrap();
        let mount = parse(&format!("{}:/data", source.display())).unwrap();
        assert_eq!(
            (mount.host_path.as_str(), mount.container_path.as_str()),
            (source.to_str().unwrap(), "/data")
        );
        assert!(!mount.readonly);
        let mount = parse(&format!("{}:/data:ro,rslave", source.display())).unwrap();
        assert!(mount.readonly);
        assert_eq!(mount.propagation(), MountPropagation::PropagationHostToContainer);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(matches!(parse("/tmp"), Err(VolumeError::Shape)));
        assert!(matches!(parse(":/x"), Err(VolumeError::Shape)));
        assert!(matches!(parse("/:x"), Err(VolumeError::Target(_))));
        assert!(matches!(parse("/:/x:rw,z"), Err(VolumeError::Option(_))));
        let error = parse("/nonexistent:/x").unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }
}
