//! Where the pods' files are.
//!
//! ```text
//!  <root>/pods/<id>.json            identity record             <state>/pods/<id>/shim.sock
//!  <root>/containers/<id>/container.json                                        /shim.log
//!                        /config.json /upper  /work                                          /exits/<container>
//!  <root>/quarantine/   damaged records                                         /resolv.conf  /hostname
//!  <root>/trash/        to be deleted, off every path
//! ```

use std::{
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use carpel_shim_api::record::{EXITS_DIR, SOCKET_NAME};

use crate::{ContainerId, FileError, PodId};

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
    state: PathBuf,
}

impl Layout {
    /// Makes the folders that are absent.
    pub(crate) fn create(root: &Path, state: &Path) -> Result<Layout, FileError> {
        let layout = Layout { root: root.to_owned(), state: state.to_owned() };
        let folders = [
            layout.root.clone(),
            layout.state.clone(),
            layout.pod_records(),
            layout.containers(),
            layout.quarantine(),
            layout.trash(),
            layout.pod_dirs(),
        ];
        for folder in &folders {
            make_private_dir(folder)?;
        }
        Ok(layout)
    }

    pub(crate) fn pod_records(&self) -> PathBuf {
        self.root.join("pods")
    }

    pub(crate) fn pod_record(&self, id: &PodId) -> PathBuf {
        self.pod_records().join(format!("{id}.json"))
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub(crate) fn container(&self, id: &ContainerId) -> PathBuf {
        self.containers().join(id.as_str())
    }

    pub(crate) fn container_record(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("container.json")
    }

    pub(crate) fn runtime_spec(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("config.json")
    }

    pub(crate) fn upper(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("upper")
    }

    pub(crate) fn work(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("work")
    }

    /// An empty folder, for whoever needs one more layer.
    pub(crate) fn empty(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("empty")
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub(crate) fn pod_dirs(&self) -> PathBuf {
        self.state.join("pods")
    }

    pub(crate) fn pod_dir(&self, id: &PodId) -> PathBuf {
        self.pod_dirs().join(id.as_str())
    }

    pub(crate) fn socket(&self, id: &PodId) -> PathBuf {
        self.pod_dir(id).join(SOCKET_NAME)
    }

    pub(crate) fn shim_log(&self, id: &PodId) -> PathBuf {
        self.pod_dir(id).join("shim.log")
    }

    pub(crate) fn exit_record(&self, pod: &PodId, container: &ContainerId) -> PathBuf {
        self.pod_dir(pod).join(EXITS_DIR).join(container.as_str())
    }

    pub(crate) fn resolv_conf(&self, id: &PodId) -> PathBuf {
        self.pod_dir(id).join("resolv.conf")
    }

    pub(crate) fn hostname(&self, id: &PodId) -> PathBuf {
        self.pod_dir(id).join("hostname")
    }
}

/// Makes a folder, and its parents, that only root can look into; one that exists is made so.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), FileError> {
    let failed = |source| FileError { action: "create folder", path: path.to_owned(), source };
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(failed)
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            std::fs::DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(failed)
        }
        Err(err) => Err(failed(err)),
    }
}
