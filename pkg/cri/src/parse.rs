//! CRI messages in, the house's own types out. What does not parse is refused here, once, naming the
//! field; nobody below sees a CRI message.

mod container;
mod image;
mod resources;
mod sandbox;

use std::path::{Component, Path, PathBuf};

use thiserror::Error;

pub(crate) use container::container_config;
pub(crate) use image::pull_request;
pub(crate) use resources::resources;
pub(crate) use sandbox::sandbox_config;

/// A request that makes no sense, whatever the state. gRPC `InvalidArgument`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {what}")]
pub(crate) struct Invalid {
    /// The field, as the protocol spells it: `config.linux.cgroup_parent`.
    pub field: String,
    /// What is wrong with it.
    pub what: String,
}

/// Shorthand for an [`Invalid`].
pub(crate) fn invalid(field: impl Into<String>, what: impl Into<String>) -> Invalid {
    Invalid { field: field.into(), what: what.into() }
}

/// The longest text that any field may hold, in bytes; the API server's own limits are far below.
const TEXT_MAX_BYTES: usize = 256 << 10;

/// A field that must be there.
fn required<T>(value: Option<T>, field: &str) -> Result<T, Invalid> {
    value.ok_or_else(|| invalid(field, "is required"))
}

/// Text without control characters that end a line or a C string.
fn line(value: &str, field: &str) -> Result<String, Invalid> {
    if value.len() > TEXT_MAX_BYTES {
        return Err(invalid(field, format!("has {} bytes, over the limit of {TEXT_MAX_BYTES}", value.len())));
    }
    match value.bytes().find(|byte| matches!(byte, 0 | b'\n' | b'\r')) {
        Some(byte) => Err(invalid(field, format!("holds the control character 0x{byte:02x}"))),
        None => Ok(value.to_owned()),
    }
}

/// Text that must not be empty either.
fn name(value: &str, field: &str) -> Result<String, Invalid> {
    if value.is_empty() {
        return Err(invalid(field, "is required"));
    }
    line(value, field)
}

/// An absolute path without `..`.
fn absolute_path(value: &str, field: &str) -> Result<PathBuf, Invalid> {
    let path = PathBuf::from(line(value, field)?);
    if !path.is_absolute() {
        return Err(invalid(field, format!("{value:?} is not an absolute path")));
    }
    no_parent(&path, field)?;
    Ok(path)
}

/// A relative path of plain components: nothing that leads elsewhere.
fn relative_path(value: &str, field: &str) -> Result<PathBuf, Invalid> {
    let path = PathBuf::from(line(value, field)?);
    if path.components().any(|component| !matches!(component, Component::Normal(_) | Component::CurDir)) {
        return Err(invalid(field, format!("{value:?} must be a relative path without \"..\"")));
    }
    Ok(path)
}

fn no_parent(path: &Path, field: &str) -> Result<(), Invalid> {
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(invalid(field, format!("{} must not contain \"..\"", path.display())));
    }
    Ok(())
}

/// A user or group id. The kernel keeps 2^32-1 for "no id" (credentials(7)).
fn id(value: i64, field: &str) -> Result<u32, Invalid> {
    u32::try_from(value)
        .ok()
        .filter(|&id| id != u32::MAX)
        .ok_or_else(|| invalid(field, format!("{value} is not an id between 0 and {}", u32::MAX - 1)))
}

fn ids(values: &[i64], field: &str) -> Result<Vec<u32>, Invalid> {
    values.iter().map(|&value| id(value, field)).collect()
}

#[cfg(test)]
mod tests;
