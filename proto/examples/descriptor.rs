//! Writes the protocol's FileDescriptorSet to the file named by the only argument, for tools in other
//! languages (`hack/protocheck`, grpcurl's `-protoset`).
#![forbid(unsafe_code)]

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let (Some(path), None) = (arguments.next(), arguments.next()) else {
        return Err("usage: descriptor OUT".into());
    };
    let path = PathBuf::from(path);
    fs::write(&path, carpel_proto::FILE_DESCRIPTOR_SET)
        .map_err(|e| format!("write {}: {e}", path.display()))?;
    Ok(())
}
