//! Compiles the protocol without `protoc`: protox parses, tonic-prost-build writes the Rust.
#![forbid(unsafe_code)]

use std::{env, error::Error, fs, path::PathBuf};

const PROTO: &str = "runtime/v1/api.proto";
/// Not part of CRI, and therefore not of `descriptors.bin` either.
const OPERATOR_PROTO: &str = "carpel/v1/operator.proto";

/// Messages whose derived `Debug` would print a secret or a container's data; `src/redact.rs` writes theirs.
const REDACTED: [&str; 6] = [
    ".runtime.v1.AuthConfig",
    ".runtime.v1.KeyValue",
    ".runtime.v1.ExecSyncResponse",
    ".runtime.v1.ExecResponse",
    ".runtime.v1.AttachResponse",
    ".runtime.v1.PortForwardResponse",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO}");
    println!("cargo:rerun-if-changed={OPERATOR_PROTO}");
    println!("cargo:rerun-if-changed=build.rs");

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true).open_file(PROTO)?;

    // Encoded by protox itself: prost-types does not know debug_redact and would drop it.
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .btree_map(".")
        .bytes(".runtime.v1.ExecSyncResponse")
        .skip_debug(REDACTED)
        .compile_fds(compiler.file_descriptor_set())?;
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .compile_fds(protox::compile([OPERATOR_PROTO], ["."])?)?;
    Ok(())
}
