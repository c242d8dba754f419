//! The streaming room's processes and connections, out of the pod room.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use carpel_pod::{
    AttachRequest, ContainerState, ContainerTerminal, ExecProcess, ExecRequest, ExecStreams, Pods, ShimError,
};
use carpel_streaming::{Answer, AttachTarget, Backend, BackendError, ExecTarget, Process, Size, Terminal};
use futures::future::Either;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{mpsc, oneshot},
};

/// How long a port of a pod may take to answer.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a command may go on, its streams ended, after its client has gone.
const ABANDONED: Duration = Duration::from_secs(5);

/// Streams to and from pods.
#[derive(Debug, Clone)]
pub(crate) struct PodBackend(pub(crate) Pods);

impl Backend for PodBackend {
    fn exec(&self, target: ExecTarget) -> Answer<'_, Process> {
        Box::pin(async move {
            let wanted = target.streams;
            let streams = if wanted.tty {
                ExecStreams::Pty
            } else {
                ExecStreams::Pipes { stdin: wanted.stdin, stdout: wanted.stdout, stderr: wanted.stderr }
            };
            let request = ExecRequest { command: target.command, streams };
            let session = self.0.exec(&target.container, request).await.map_err(told)?;
            let (exit, terminal) = watch(Attended::new(session.process, wanted.tty), wanted.tty);
            Ok(Process {
                stdin: session.stdin.filter(|_| wanted.stdin).map(|stdin| Box::new(stdin) as _),
                stdout: session.stdout.map(|stdout| Box::new(stdout) as _),
                stderr: session.stderr.map(|stderr| Box::new(stderr) as _),
                terminal,
                exit,
            })
        })
    }

    fn attach(&self, target: AttachTarget) -> Answer<'_, Process> {
        Box::pin(async move {
            let wanted = target.joined;
            let request = AttachRequest { stdin: wanted.stdin, stdout: wanted.stdout, stderr: wanted.stderr };
            let session = self.0.attach(&target.container, request).await.map_err(told)?;
            let terminal =
                wanted.tty.then(|| Box::new(AttachedTerminal(session.terminal)) as Box<dyn Terminal>);
            Ok(Process {
                stdin: session.stdin.map(|stdin| Box::new(stdin) as _),
                stdout: session.stdout.map(|stdout| Box::new(stdout) as _),
                stderr: session.stderr.map(|stderr| Box::new(stderr) as _),
                terminal,
                exit: Box::pin(exited(self.0.clone(), target.container)),
            })
        })
    }

    fn connect(&self, pod: String, port: u16) -> Answer<'_, TcpStream> {
        Box::pin(async move {
            let netns = self.0.netns_of(&pod).map_err(told)?;
            let made = tokio::task::spawn_blocking(move || match netns {
                Some(netns) => carpel_sys::netns::enter(netns.as_fd(), sockets),
                None => Ok(sockets()),
            });
            Ok(dial(made.await?.map_err(told)?, port).await?)
        })
    }
}

/// The whole chain of causes: the client sees nothing else.
fn told(error: impl std::error::Error + Send + Sync + 'static) -> BackendError {
    BackendError::from(format!("{:#}", anyhow::Error::from(error)))
}

/// A socket for each loopback address: servers listen on either, and the namespace may lack one. Each belongs to the
/// namespace that it was made in, wherever it is used later.
fn sockets() -> [(IpAddr, std::io::Result<OwnedFd>); 2] {
    [(Ipv4Addr::LOCALHOST.into(), AddressFamily::INET), (Ipv6Addr::LOCALHOST.into(), AddressFamily::INET6)]
        .map(|(ip, family)| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            (ip, socket_with(family, SocketType::STREAM, flags, None).map_err(Into::into))
        })
}

/// Connects the first that somebody answers; else tells why the first did not. No thread waits with it: a server
/// that takes no connections costs nobody else anything.
async fn dial(sockets: [(IpAddr, std::io::Result<OwnedFd>); 2], port: u16) -> std::io::Result<TcpStream> {
    let mut first = None;
    for (ip, socket) in sockets {
        let connect = async {
            let socket = TcpSocket::from_std_stream(socket?.into());
            socket.connect(SocketAddr::new(ip, port)).await
        };
        match tokio::time::timeout(CONNECT, connect).await.unwrap_or(Err(ErrorKind::TimedOut.into())) {
            Ok(connected) => return Ok(connected),
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    Err(first.unwrap_or(ErrorKind::AddrNotAvailable.into()))
}

type Exit = std::pin::Pin<Box<dyn Future<Output = Result<i32, BackendError>> + Send>>;

/// Waits for an exec's end and resizes its terminal meanwhile: both belong to the one process.
fn watch(mut attended: Attended, tty: bool) -> (Exit, Option<Box<dyn Terminal>>) {
    let (sizes, mut resizes) = mpsc::channel::<(Size, oneshot::Sender<Result<(), BackendError>>)>(1);
    let exit = async move {
        loop {
            let next = {
                let wait = std::pin::pin!(attended.wait());
                let resize = std::pin::pin!(resizes.recv());
                match futures::future::select(wait, resize).await {
                    Either::Left((code, _)) => return code.map_err(told),
                    Either::Right((next, _)) => next,
                }
            };
            match next {
                Some((size, done)) => {
                    let outcome = attended.resize(size).await.map_err(told);
                    // Nobody waits for it if the session has ended.
                    let _gone = done.send(outcome);
                }
                None => return attended.wait().await.map_err(told),
            }
        }
    };
    let terminal = tty.then(|| Box::new(ExecTerminal(sizes)) as Box<dyn Terminal>);
    (Box::pin(exit), terminal)
}

/// An exec whose client watches it. A terminal hangs up by itself when its client goes; a command without one is
/// killed if it does not end with its streams.
struct Attended {
    /// Until it is known how it ended.
    process: Option<ExecProcess>,
    tty: bool,
}

impl Attended {
    fn new(process: ExecProcess, tty: bool) -> Attended {
        Attended { process: Some(process), tty }
    }

    async fn wait(&mut self) -> Result<i32, ShimError> {
        let Some(process) = &mut self.process else { return Err(ShimError::Gone) };
        let code = process.wait().await;
        self.process = None;
        code
    }

    async fn resize(&self, size: Size) -> Result<(), ShimError> {
        match &self.process {
            Some(process) => process.resize(size.width.into(), size.height.into()).await,
            None => Ok(()),
        }
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take().filter(|_| !self.tty) else { return };
        // Without a runtime the daemon itself ends, and nobody is left to wait.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if tokio::time::timeout(ABANDONED, process.wait()).await.is_ok() {
                return;
            }
            tracing::info!(pid = process.pid(), "an exec whose client has gone is killed");
            if let Err(error) = process.kill().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "an abandoned exec was not killed");
            }
        });
    }
}

struct ExecTerminal(mpsc::Sender<(Size, oneshot::Sender<Result<(), BackendError>>)>);

impl Terminal for ExecTerminal {
    fn resize(&self, size: Size) -> Answer<'_, ()> {
        Box::pin(async move {
            let (done, outcome) = oneshot::channel();
            self.0.send((size, done)).await?;
            outcome.await?
        })
    }
}

struct AttachedTerminal(ContainerTerminal);

impl Terminal for AttachedTerminal {
    fn resize(&self, size: Size) -> Answer<'_, ()> {
        Box::pin(async move { self.0.resize(size.width.into(), size.height.into()).await.map_err(told) })
    }
}

/// Resolves when the container has ended or is gone. How it ended is the container's status to tell, not the
/// session's: kubectl takes an exit code here for a session that failed, and shows all of the log once more.
async fn exited(pods: Pods, container: String) -> Result<i32, BackendError> {
    let mut events = pods.events();
    loop {
        match pods.find_container(&container).map(|found| found.state.clone()) {
            Ok(ContainerState::Exited(_)) => return Ok(0),
            Ok(ContainerState::Created | ContainerState::Running { .. }) => {}
            Ok(ContainerState::Unknown) | Err(_) => return Err("the container is gone".into()),
        }
        events.next().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_takes_no_connections_holds_no_thread() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (listener, port) = full().await;
            let hanging = tokio::spawn(dial(sockets(), port));
            tokio::task::yield_now().await;
            // What the rest of the daemon does on blocking threads goes on.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            assert!(!hanging.is_finished(), "the server was to take no connections");
            hanging.abort();
            drop(listener);
        });
    }

    /// A server whose queue of connections is full for good: the kernel answers no more of them.
    async fn full() -> (OwnedFd, u16) {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = OwnedFd::from(listener);
        rustix::net::listen(&listener, 0).unwrap();
        // Kept by nobody, and yet in the queue.
        for _ in 0..3 {
            let queued = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
            let _full = tokio::time::timeout(Duration::from_millis(200), queued).await;
        }
        (listener, port)
    }

    #[tokio::test]
    async fn either_loopback_address_is_dialled_and_the_first_refusal_told() {
        let listener = tokio::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = dial(sockets(), port).await.unwrap();
        assert_eq!(socket.peer_addr().unwrap().ip(), Ipv6Addr::LOCALHOST);
        drop((socket, listener));
        assert_eq!(dial(sockets(), port).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}
