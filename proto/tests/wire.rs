//! The generated code at its boundary: what goes over a socket, what the bytes are, what `Debug` shows.
#![forbid(unsafe_code)]

use carpel_proto::v1::{
    self,
    image_service_client::ImageServiceClient,
    image_service_server::{ImageService, ImageServiceServer},
    runtime_service_client::RuntimeServiceClient,
    runtime_service_server::{RuntimeService, RuntimeServiceServer},
};
use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};

/// Overrides one method and leaves the other 42 to the generated code.
struct VersionOnly;

#[tonic::async_trait]
impl RuntimeService for VersionOnly {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Result<Response<v1::VersionResponse>, Status> {
        Ok(Response::new(v1::VersionResponse { runtime_name: "carpel".into(), ..Default::default() }))
    }
}

#[tonic::async_trait]
impl ImageService for VersionOnly {}

/// A server of both services on a socket in `dir`, and a channel to it.
async fn serve(dir: &std::path::Path) -> Channel {
    let socket = dir.join("cri.sock");
    let listener = UnixListener::bind(&socket).expect("bind");
    tokio::spawn(
        Server::builder()
            .add_service(RuntimeServiceServer::new(VersionOnly))
            .add_service(ImageServiceServer::new(VersionOnly))
            .serve_with_incoming(UnixListenerStream::new(listener)),
    );
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        }))
        .await
        .expect("connect")
}

#[tokio::test]
async fn unbuilt_methods_answer_unimplemented() {
    let dir = tempfile::tempdir().expect("tempdir");
    let channel = serve(dir.path()).await;
    let mut runtime = RuntimeServiceClient::new(channel.clone());
    let mut image = ImageServiceClient::new(channel);

    let version = runtime.version(v1::VersionRequest::default()).await.expect("version").into_inner();
    assert_eq!(version.runtime_name, "carpel");

    let unary = runtime.checkpoint_pod(v1::CheckpointPodRequest::default()).await.expect_err("unary");
    assert_eq!(unary.code(), Code::Unimplemented);
    // The kubelet falls back from a Stream* to its List* twin only if the code comes at once.
    let streamed = image.stream_images(v1::StreamImagesRequest::default()).await.expect_err("stream");
    assert_eq!(streamed.code(), Code::Unimplemented);
    let pull = image.pull_image(v1::PullImageRequest::default()).await.expect_err("image service");
    assert_eq!(pull.code(), Code::Unimplemented);
}

#[test]
fn environment_values_need_not_be_utf8() {
    let variable = v1::KeyValue { key: "RAW".into(), value: vec![0xff, 0x00, 0x80] };
    let encoded = variable.encode_to_vec();
    // Field 1, length 3; field 2, length 3: what a peer that calls the value a string would send too.
    assert_eq!(encoded, b"\x0a\x03RAW\x12\x03\xff\x00\x80");
    assert_eq!(v1::KeyValue::decode(&encoded[..]).expect("decode"), variable);
}

#[test]
fn signals_are_numbered_by_the_protocol_not_the_kernel() {
    assert_eq!(v1::Signal::Sigterm as i32, 23);
    assert_eq!(v1::Signal::Sigrtmax as i32, 65);
    assert_eq!(v1::Signal::from_str_name("SIGNAL_SIGRTMINPLUS3"), Some(v1::Signal::Sigrtminplus3));
}

#[test]
fn debug_of_a_pull_shows_no_credential() {
    let auth = v1::AuthConfig {
        username: "robot".into(),
        password: "s3cret-1".into(),
        auth: "s3cret-2".into(),
        server_address: "registry.test".into(),
        identity_token: "s3cret-3".into(),
        registry_token: String::new(),
    };
    let request = v1::PullImageRequest { auth: Some(auth), ..Default::default() };
    let shown = format!("{request:?} {request:#?}");
    assert!(!shown.contains("s3cret"), "{shown}");
    for seen in ["robot", "registry.test", "password: <redacted>", "registry_token: <empty>"] {
        assert!(shown.contains(seen), "{seen} is not in {shown}");
    }
}

#[test]
fn debug_shows_no_environment_output_or_token() {
    let envs = vec![v1::KeyValue { key: "DB_PASSWORD".into(), value: b"s3cret".to_vec() }];
    let config = v1::ContainerConfig { envs, ..Default::default() };
    let create = v1::CreateContainerRequest { config: Some(config), ..Default::default() };
    let shown = format!("{create:?}");
    assert!(shown.contains("DB_PASSWORD") && shown.contains("<6 bytes>"), "{shown}");
    assert!(!shown.contains(&format!("{:?}", b"s3cret")) && !shown.contains("s3cret"), "{shown}");

    let output = v1::ExecSyncResponse { stdout: "s3cret".into(), stderr: "s3cret!".into(), exit_code: 3 };
    assert_eq!(
        format!("{output:?}"),
        "ExecSyncResponse { stdout: <6 bytes>, stderr: <7 bytes>, exit_code: 3 }"
    );

    let url = || "http://127.0.0.1:1/exec/token".to_string();
    let shown = [
        format!("{:?}", v1::ExecResponse { url: url() }),
        format!("{:?}", v1::AttachResponse { url: url() }),
        format!("{:?}", v1::PortForwardResponse { url: url() }),
    ];
    assert_eq!(shown[0], "ExecResponse { url: <redacted> }");
    assert!(shown.iter().all(|s| !s.contains("token")), "{shown:?}");
}

/// The fields that the protocol marks as secret are the four whose `Debug` is hidden above: a new mark must
/// not go unseen. The mark is option 16 of FieldOptions (descriptor.proto), which
/// prost-types does not know and drops, so this walks the encoded descriptor set itself.
#[test]
fn the_protocol_marks_no_other_secret() {
    let mut marked = Vec::new();
    for file in fields(carpel_proto::FILE_DESCRIPTOR_SET, 1) {
        for message in fields(file, 4) {
            for field in fields(message, 2) {
                // debug_redact = true is the varint 1 under tag 16: 0x80 0x01 0x01.
                if fields(field, 8).any(|options| options.windows(3).any(|w| w == [0x80, 0x01, 0x01])) {
                    marked.push(format!("{}.{}", text(message, 1), text(field, 1)));
                }
            }
        }
    }
    let hidden = ["password", "auth", "identity_token", "registry_token"].map(|f| format!("AuthConfig.{f}"));
    assert_eq!(marked, hidden);
}

fn text(message: &[u8], number: u32) -> String {
    fields(message, number).next().map(|b| String::from_utf8_lossy(b).into_owned()).unwrap_or_default()
}

/// The length-delimited values of field `number`, in order.
fn fields(mut message: &[u8], number: u32) -> impl Iterator<Item = &[u8]> {
    use prost::encoding::{WireType, decode_key, decode_varint};
    std::iter::from_fn(move || {
        while !message.is_empty() {
            let (found, wire) = decode_key(&mut message).expect("key");
            match wire {
                WireType::Varint => drop(decode_varint(&mut message).expect("varint")),
                WireType::LengthDelimited => {
                    let length = decode_varint(&mut message).expect("length") as usize;
                    let value = message.split_off(..length).expect("value");
                    if found == number {
                        return Some(value);
                    }
                }
                other => panic!("a descriptor has no field of wire type {other:?}"),
            }
        }
        None
    })
}
