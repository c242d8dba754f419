//! The index: which images and layers were committed, in one redb file.
//!
//! Values are a SHA-256 of the JSON behind it, then the JSON: redb checks its own pages after a crash, not
//! every value at every read. A file that cannot be opened at all, or makes redb panic, is set aside by the
//! caller and rebuilt from the `record.json` and `layer.json` files.
//!
//! When the disk is full even a removal has pages to write. `reserve` holds a few megabytes for that
//! moment: it is deleted, the transaction is tried again, and it is laid back when there is room.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Digest as _;

use super::{ImageRecord, LayerRecord, StoreError};
use crate::digest::{ChainId, Digest};
use crate::error::{ErrorKind, IoFailure};

const IMAGES: TableDefinition<&str, &[u8]> = TableDefinition::new("images");
const LAYERS: TableDefinition<&str, &[u8]> = TableDefinition::new("layers");

/// Some hundred small records: redb's default cache of a gigabyte is not for us.
const CACHE_BYTES: usize = 2 << 20;

/// What a transaction over a few records needs many times over.
const RESERVE_BYTES: u64 = 4 << 20;

/// One transaction.
#[derive(Default)]
pub(super) struct Change {
    pub(super) put_images: Vec<ImageRecord>,
    pub(super) drop_images: Vec<Digest>,
    pub(super) put_layers: Vec<LayerRecord>,
    pub(super) drop_layers: Vec<ChainId>,
}

/// What was read at start.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) images: Vec<ImageRecord>,
    pub(super) layers: Vec<LayerRecord>,
    /// Keys and values that do not check.
    pub(super) damaged: Vec<(String, Vec<u8>)>,
}

/// The open file, or the place where it would be.
pub(super) struct Index {
    path: PathBuf,
    reserve: PathBuf,
    database: Option<Database>,
}

impl Index {
    /// Opens or creates the file and reads everything. Any error means that the file is damaged or the disk
    /// is.
    pub(super) fn open(path: PathBuf, reserve: PathBuf) -> Result<(Index, Contents), StoreError> {
        let attempt = catch_unwind(AssertUnwindSafe(|| {
            let database = open_database(&path)?;
            let contents = read(&database)?;
            Ok::<_, redb::Error>((database, contents))
        }));
        let outcome =
            attempt.unwrap_or_else(|_| Err(redb::Error::Corrupted("reading it panicked".to_owned())));
        let (database, contents) = outcome.map_err(|error| failed("open", error))?;
        let index = Index { path, reserve, database: Some(database) };
        index.lay_reserve();
        Ok((index, contents))
    }

    /// Makes all of a change durable, or none of it. `everything` gives what the index should have held
    /// before: if the file turns out to be damaged, a new one is written from that.
    pub(super) fn apply(
        &mut self,
        change: Change,
        everything: impl FnOnce() -> Change,
    ) -> Result<(), StoreError> {
        let first = match &self.database {
            Some(database) => write(database, &change),
            None => Err(StoreError::IndexClosed),
        };
        let Err(error) = first else {
            self.lay_reserve();
            return Ok(());
        };
        if error.kind() == ErrorKind::NoSpace {
            // Nothing to say if it is gone already: then the second try fails and says why.
            let _ = fs::remove_file(&self.reserve);
        }
        // After an I/O error redb refuses everything until the file is opened anew.
        self.close();
        let second = guarded(|| open_database(&self.path)).map_err(|error| failed("open", error));
        let second = second.and_then(|database| {
            let outcome = write(&database, &change);
            self.database = Some(database);
            outcome
        });
        match second {
            Err(second) if second.kind() != ErrorKind::NoSpace => {
                tracing::error!(
                    error = &second as &dyn std::error::Error,
                    "image index is damaged, writing a new one"
                );
                self.rewrite(change, everything())
            }
            outcome => outcome,
        }
    }

    /// Writes a new file with everything and the change, and puts it in place of the damaged one.
    fn rewrite(&mut self, change: Change, mut everything: Change) -> Result<(), StoreError> {
        self.close();
        let fresh = self.path.with_extension("new");
        let put = |error| StoreError::Io(IoFailure::new("replace", "index.redb", error));
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(put(error)),
            _ => {}
        }
        everything.put_images.extend(change.put_images);
        everything.put_layers.extend(change.put_layers);
        everything.drop_images = change.drop_images;
        everything.drop_layers = change.drop_layers;
        let database = guarded(|| open_database(&fresh)).map_err(|error| failed("create", error))?;
        write(&database, &everything)?;
        fs::rename(&fresh, &self.path).map_err(put)?;
        self.database = Some(database);
        Ok(())
    }

    /// Lets go of the file. redb writes its allocator's state when it closes, and panics if that is damaged.
    fn close(&mut self) {
        let database = self.database.take();
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::error!("image index panicked while it was closed");
        }
    }

    /// Lays the reserve if it is not there. Not having one is no error: it only may cost a removal.
    fn lay_reserve(&self) {
        if self.reserve.exists() {
            return;
        }
        let laid = fs::File::create_new(&self.reserve).and_then(|file| {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE_BYTES)
                .map_err(std::io::Error::from)
        });
        if let Err(error) = laid {
            tracing::debug!(%error, "no room for the reserve of the image store");
            let _ = fs::remove_file(&self.reserve);
        }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.close();
    }
}

/// Runs redb over a file that may be damaged: some damage it answers with a panic.
fn guarded<T>(run: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(redb::Error::Corrupted("it makes the database panic".to_owned())))
}

fn open_database(path: &Path) -> Result<Database, redb::Error> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    let database = builder.create(path)?;
    Ok(database)
}

fn read(database: &Database) -> Result<Contents, redb::Error> {
    let mut contents = Contents::default();
    let transaction = database.begin_read()?;
    match transaction.open_table(IMAGES) {
        Ok(table) => {
            for row in table.iter()? {
                let (key, value) = row?;
                match unseal::<ImageRecord>(value.value()).filter(|r| r.id.as_str() == key.value()) {
                    Some(record) => contents.images.push(record),
                    None => contents.damaged.push((key.value().to_owned(), value.value().to_vec())),
                }
            }
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    match transaction.open_table(LAYERS) {
        Ok(table) => {
            for row in table.iter()? {
                let (key, value) = row?;
                let record = unseal::<LayerRecord>(value.value());
                match record.filter(|r| r.chain.digest().as_str() == key.value()) {
                    Some(record) => contents.layers.push(record),
                    None => contents.damaged.push((key.value().to_owned(), value.value().to_vec())),
                }
            }
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(contents)
}

fn write(database: &Database, change: &Change) -> Result<(), StoreError> {
    type Rows = Result<Vec<(String, Vec<u8>)>, serde_json::Error>;
    let images: Rows = change.put_images.iter().map(|r| Ok((r.id.to_string(), seal(r)?))).collect();
    let layers: Rows = change.put_layers.iter().map(|r| Ok((r.chain.to_string(), seal(r)?))).collect();
    let (images, layers) = (images.map_err(StoreError::Encode)?, layers.map_err(StoreError::Encode)?);
    let commit = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(IMAGES)?;
            for (key, value) in &images {
                table.insert(key.as_str(), value.as_slice())?;
            }
            for key in &change.drop_images {
                table.remove(key.as_str())?;
            }
            let mut table = transaction.open_table(LAYERS)?;
            for (key, value) in &layers {
                table.insert(key.as_str(), value.as_slice())?;
            }
            for key in &change.drop_layers {
                table.remove(key.digest().as_str())?;
            }
        }
        transaction.commit()?;
        Ok(())
    };
    guarded(commit).map_err(|error| failed("write", error))
}

fn failed(action: &'static str, error: redb::Error) -> StoreError {
    StoreError::Index { action, source: Box::new(error) }
}

/// A record with its checksum in front.
fn seal<T: Serialize>(record: &T) -> Result<Vec<u8>, serde_json::Error> {
    let json = serde_json::to_vec(record)?;
    let mut sealed = sha2::Sha256::digest(&json).to_vec();
    sealed.extend_from_slice(&json);
    Ok(sealed)
}

/// The record, if its checksum is right.
fn unseal<T: DeserializeOwned>(sealed: &[u8]) -> Option<T> {
    let (sum, json) = sealed.split_at_checked(32)?;
    if sha2::Sha256::digest(json).as_slice() != sum {
        return None;
    }
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_is_seen() {
        let record = LayerRecord {
            chain: Digest::of(b"c").to_string().parse().unwrap(),
            diff_id: Digest::of(b"d"),
            bytes: 1,
            inodes: 2,
        };
        let mut sealed = seal(&record).unwrap();
        assert_eq!(unseal::<LayerRecord>(&sealed), Some(record));
        sealed[40] ^= 1;
        assert_eq!(unseal::<LayerRecord>(&sealed), None);
        assert_eq!(unseal::<LayerRecord>(&[0; 8]), None);
    }
}
