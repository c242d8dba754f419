//! One layer, from compressed bytes to a durable directory. The blocking half of a pull or an import.

use std::io::{self, BufRead};
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Limits;
use crate::digest::{ChainId, Digest};
use crate::error::ErrorKind;
use crate::inflate::{self, Inflated, TooMuch};
use crate::pipe::Aborted;
use crate::store::{LayerLease, LayerRecord, Staging, Store, StoreError};
use crate::tar::TarError;
use crate::unpack::{self, UnpackError, Unpacked};

/// Why a layer cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    #[error("cannot inflate the layer")]
    Inflate(#[source] io::Error),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error("content of the layer has diff ID {actual}, the image config says {expected}")]
    DiffId { expected: Digest, actual: Digest },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LayerError {
    /// What a caller may act on.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            LayerError::Inflate(error) | LayerError::Unpack(UnpackError::Tar(TarError::Read(error))) => {
                stream_kind(error)
            }
            LayerError::Unpack(error) => error.kind(),
            LayerError::DiffId { .. } => ErrorKind::Integrity,
            LayerError::Store(error) => error.kind(),
        }
    }

    /// Whether the layer failed only because its bytes stopped coming: then the transfer knows why.
    pub(crate) fn is_aborted(&self) -> bool {
        match self {
            LayerError::Inflate(error) | LayerError::Unpack(UnpackError::Tar(TarError::Read(error))) => {
                cause::<Aborted>(error)
            }
            _ => false,
        }
    }
}

fn cause<T: std::error::Error + 'static>(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<T>())
}

fn stream_kind(error: &io::Error) -> ErrorKind {
    if cause::<TooMuch>(error) {
        ErrorKind::TooLarge
    } else if cause::<Aborted>(error) {
        ErrorKind::Cancelled
    } else {
        ErrorKind::InvalidImage
    }
}

/// A layer that is unpacked in `tmp/` and checked against its diff ID.
pub(crate) struct Ready {
    staging: Staging,
    unpacked: Unpacked,
    diff_id: Digest,
}

/// Inflates and unpacks a blob of `compressed` bytes into a fresh staging folder. Blocking.
pub(crate) fn unpack(
    store: &Arc<Store>,
    input: impl BufRead,
    compressed: u64,
    diff_id: &Digest,
    limits: &Limits,
) -> Result<Ready, LayerError> {
    let staging = Staging::create(store)?;
    let stream =
        Inflated::new(input, compressed, diff_id.algorithm(), limits).map_err(LayerError::Inflate)?;
    let (unpacked, stream) = unpack::unpack(inflate::buffered(stream), &staging.diff(), limits)?;
    // What the buffer still holds was hashed when it was read; only the stream behind it counts.
    let actual = stream.into_inner().finish().map_err(LayerError::Inflate)?;
    if actual != *diff_id {
        return Err(LayerError::DiffId { expected: diff_id.clone(), actual });
    }
    Ok(Ready { staging, unpacked, diff_id: diff_id.clone() })
}

/// Makes a ready layer durable and gives it its name, once the layers below it are in the store. Blocking.
pub(crate) fn commit(ready: Ready, chain: ChainId, below: &[PathBuf]) -> Result<LayerLease, LayerError> {
    let Ready { staging, unpacked, diff_id } = ready;
    unpack::inherit_parents(&staging.diff(), &unpacked.implicit, below).map_err(StoreError::Io)?;
    let record = LayerRecord { chain, diff_id, bytes: unpacked.bytes, inodes: unpacked.inodes };
    Ok(staging.sync(record)?.commit()?)
}
