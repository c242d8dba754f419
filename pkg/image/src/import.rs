//! Importing images from archives.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{ErrorKind, IoFailure};
use crate::image::Image;
use crate::pull::Puller;

/// Why an archive was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive cannot be read.
    #[error("archive")]
    Io(#[from] IoFailure),
}

impl ImportError {
    /// What a caller may act on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ImportError::Io(failure) => failure.kind(),
        }
    }
}

pub(crate) async fn import(_puller: &Puller, archive: PathBuf) -> Result<Vec<Arc<Image>>, ImportError> {
    let error = std::io::Error::from(std::io::ErrorKind::Unsupported);
    Err(IoFailure::new("read", archive.display().to_string(), error).into())
}
