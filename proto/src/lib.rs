//! The CRI v1 protocol, compiled: the messages, the two services, their clients and servers.
//!
//! `runtime/v1/api.proto` is the source; nothing generated is committed, and no `protoc` is needed.
//! `hack/protocheck` compares the result with Kubernetes' own `k8s.io/cri-api`, field by field.
//!
//! ```text
//! kubelet, crictl ──► v1::runtime_service_server::RuntimeService   37 methods ┐ one unix socket,
//!                     v1::image_service_server::ImageService        6 methods ├ all services
//! carpel only     ──► operator::operator_server::Operator           3 methods ┘
//! carpel          ──► v1::runtime_service_client, v1::image_service_client, operator::operator_client
//! ```
//!
//! It is not a place for behaviour: nothing here validates a request or decides an answer (that is
//! `carpel-cri`), and no message is ever written to disk. A method that a server does not override answers
//! `Unimplemented`, which clients take as "this runtime is older" and fall back.
//!
//! Choices a reader meets in the generated types:
//!
//! - maps are `BTreeMap`, so that the same message always has the same bytes and is walked in the same order;
//! - `ExecSyncResponse` carries [`Bytes`](prost::bytes::Bytes), so that up to 16 MiB of output is not copied;
//!   `KeyValue.value` is `Vec<u8>`, because an environment value need not be UTF-8;
//! - server streams are `tonic::codegen::BoxStream`;
//! - `Debug` hides what a log must not hold: credentials, environment values, the output of commands, and
//!   streaming URLs (they hold a one-use token).
#![forbid(unsafe_code)]

mod redact;

/// Package `runtime.v1`: CRI v1 as of Kubernetes 1.37.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines, clippy::excessive_nesting)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// Package `carpel.v1`: what `carpel` asks of `carpeld` beyond CRI, on the same socket.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines, clippy::excessive_nesting)]
pub mod operator {
    tonic::include_proto!("carpel.v1");
}

/// The encoded `google.protobuf.FileDescriptorSet` of CRI, with source positions and comments.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
