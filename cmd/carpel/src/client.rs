//! The connection to a runtime, and what its errors mean to a person.
//!
//! One channel carries all services; it reconnects by itself when the daemon restarts. Nothing here knows
//! what a command does.

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use carpel_proto::{
    operator::operator_client::OperatorClient,
    v1::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

/// Two streams of an `ExecSync` at the largest a runtime gives (16 MiB each), and what is around them.
const ANSWER_MAX_BYTES: usize = 64 << 20;

/// How long a question may take that a runtime answers from memory.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Sockets of other runtimes, to name in a hint the ones that exist here.
const OTHER_SOCKETS: [&str; 3] =
    ["/run/carpel/carpel.sock", "/run/containerd/containerd.sock", "/run/crio/crio.sock"];

/// Nothing usable listens at the address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The address is for another kind of transport.
    #[error("{0:?} is not the address of a unix socket")]
    Address(String),
    /// The socket does not answer.
    #[error("cannot connect to the runtime at {address}")]
    Socket { address: PathBuf, source: io::Error },
    /// The socket answers, but not as a gRPC server.
    #[error("what listens at {address} is not a container runtime")]
    Protocol { address: PathBuf, source: tonic::transport::Error },
}

impl ConnectError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Address(_) => {
                Some("give a path such as /run/carpel/carpel.sock, or unix:// and a path".into())
            }
            Self::Socket { address, source } => Some(match source.kind() {
                io::ErrorKind::PermissionDenied => "only root may use the socket: try again with sudo".into(),
                io::ErrorKind::NotFound => format!("nothing listens there. {}", start_or_choose(address)),
                io::ErrorKind::ConnectionRefused => {
                    format!("the socket is a leftover: its daemon has ended. {}", start_or_choose(address))
                }
                _ => start_or_choose(address),
            }),
            Self::Protocol { .. } => Some("name the runtime's CRI socket with --address".into()),
        }
    }
}

fn start_or_choose(address: &Path) -> String {
    let start = "Start Carpel (systemctl start carpeld, and journalctl -u carpeld if it fails)";
    let others: Vec<&str> = OTHER_SOCKETS
        .into_iter()
        .filter(|socket| Path::new(socket) != address && Path::new(socket).exists())
        .collect();
    if others.is_empty() {
        format!("{start}, or name its socket with --address or CARPEL_ADDRESS")
    } else {
        format!("{start}, or choose one of this node with --address: {}", others.join(", "))
    }
}

/// A call that the runtime refused or could not carry out.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {message} ({code:?})")]
pub(crate) struct CallError {
    /// What was asked for: a verb and its object.
    what: String,
    code: Code,
    message: String,
}

impl CallError {
    fn new(what: String, status: &Status) -> Self {
        let message = match (status.message(), status.code()) {
            ("", code) => code.description().to_owned(),
            (message, _) => message.to_owned(),
        };
        Self { what, code: status.code(), message }
    }

    /// The gRPC code of the answer.
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self.code {
            Code::Unimplemented => {
                "the runtime at this socket does not offer this; `carpel info` says which it is"
            }
            Code::Unavailable => "the daemon ended or restarts: try again, and see journalctl -u carpeld",
            Code::DeadlineExceeded => {
                "the runtime took too long; see its log, and whether the node is overloaded"
            }
            Code::Unauthenticated | Code::PermissionDenied => {
                "for a private registry give --username and --password-stdin to `carpel pull`"
            }
            Code::ResourceExhausted => "see with `df` and `carpel check` whether disk or memory is full",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// A runtime that answered once.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to the socket at `address`, a path that may begin with `unix://`.
    pub(crate) async fn connect(address: &str) -> Result<Self, ConnectError> {
        let path = socket_path(address)?;
        // Tried once by itself, because its error says more than the channel's.
        UnixStream::connect(&path)
            .await
            .map_err(|source| ConnectError::Socket { address: path.clone(), source })?;
        let socket = path.clone();
        // The URI is never resolved; its host becomes the :authority, which Go's servers insist on.
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await
            .map_err(|source| ConnectError::Protocol { address: path, source })?;
        Ok(Self { channel })
    }

    /// Pods and containers.
    pub(crate) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX_BYTES)
    }

    /// Images.
    pub(crate) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX_BYTES)
    }

    /// What only Carpel offers.
    pub(crate) fn operator(&self) -> OperatorClient<Channel> {
        OperatorClient::new(self.channel.clone())
    }
}

fn socket_path(address: &str) -> Result<PathBuf, ConnectError> {
    let path = address.strip_prefix("unix://").or_else(|| address.strip_prefix("unix:")).unwrap_or(address);
    if path.is_empty() || path.contains("://") {
        return Err(ConnectError::Address(address.to_owned()));
    }
    Ok(PathBuf::from(path))
}

/// Awaits an answer that a healthy runtime gives at once; `what` is a verb and its object.
pub(crate) async fn ask<T>(
    what: impl Into<String>,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    match timeout(ANSWER_LIMIT, call).await {
        Ok(answer) => answer.map(Response::into_inner).map_err(|status| CallError::new(what.into(), &status)),
        Err(_) => {
            let text = format!("no answer in {} s", ANSWER_LIMIT.as_secs());
            Err(CallError::new(what.into(), &Status::deadline_exceeded(text)))
        }
    }
}

/// Awaits the end of work whose length only the runtime knows: a pull, a start, a stop.
pub(crate) async fn wait<T>(
    what: impl Into<String>,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    call.await.map(Response::into_inner).map_err(|status| CallError::new(what.into(), &status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_carry_a_scheme() {
        for address in ["/run/x.sock", "unix:///run/x.sock", "unix:/run/x.sock"] {
            assert_eq!(socket_path(address).unwrap(), Path::new("/run/x.sock"), "{address}");
        }
        for address in ["", "unix://", "http://localhost:1", "tcp://[::1]:1"] {
            assert!(matches!(socket_path(address), Err(ConnectError::Address(_))), "{address}");
        }
    }

    #[test]
    fn a_refusal_says_what_was_asked_and_why() {
        let error = CallError::new("stop pod web".into(), &Status::unimplemented("method X"));
        assert_eq!(error.to_string(), "cannot stop pod web: method X (Unimplemented)");
        assert!(error.hint().unwrap().contains("carpel info"));
        // A status without text still says something.
        let error = CallError::new("stop pod web".into(), &Status::new(Code::NotFound, ""));
        assert!(error.to_string().contains("not found"), "{error}");
    }
}
