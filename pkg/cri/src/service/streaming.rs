//! Exec, attach, port-forward: a URL for the one client that opens it.

use carpel_pod::ContainerState;
use carpel_proto::v1;
use carpel_spec::config::{StdinMode, Terminal};
use carpel_streaming::{AttachTarget, ExecTarget, Streams};
use tonic::{Request, Response, Status};

use super::RuntimeServer;
use crate::{
    parse::{Invalid, invalid},
    status::{NotRunning, ToStatus},
};

/// Ports of one request.
const PORTS_MAX: usize = 100;

impl RuntimeServer {
    pub(super) fn exec_url(
        &self,
        request: Request<v1::ExecRequest>,
    ) -> Result<Response<v1::ExecResponse>, Status> {
        let request = request.into_inner();
        let (stdin, stdout, stderr, tty) = (request.stdin, request.stdout, request.stderr, request.tty);
        let streams = checked(Streams { stdin, stdout, stderr, tty }).map_err(|error| error.to_status())?;
        if request.cmd.is_empty() {
            return Err(invalid("cmd", "is required").to_status());
        }
        let container = self.running(&request.container_id)?;
        let target = ExecTarget { container: container.id.to_string(), command: request.cmd, streams };
        let url = self.streaming.exec(target).map_err(|error| error.to_status())?;
        Ok(Response::new(v1::ExecResponse { url }))
    }

    pub(super) fn attach_url(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::AttachResponse>, Status> {
        let request = request.into_inner();
        let container = self.pods.find_container(&request.container_id).map_err(|error| error.to_status())?;
        match container.state {
            // Whoever joins before the start hears the first words.
            ContainerState::Created | ContainerState::Running { .. } => {}
            ContainerState::Exited(_) | ContainerState::Unknown => {
                return Err(NotRunning(container.id.to_string()).to_status());
            }
        }
        let (stdin, stdout, stderr, tty) = (request.stdin, request.stdout, request.stderr, request.tty);
        let streams = checked(Streams { stdin, stdout, stderr, tty }).map_err(|error| error.to_status())?;
        // The client opens what it asked for; what the container lacks of that stays silent.
        let tty = container.config.terminal == Terminal::Pty;
        let stdin = stdin && container.config.stdin != StdinMode::Closed;
        let joined = Streams { stdin, stderr: stderr && !tty, tty, ..streams };
        let target = AttachTarget { container: container.id.to_string(), streams, joined };
        let url = self.streaming.attach(target).map_err(|error| error.to_status())?;
        Ok(Response::new(v1::AttachResponse { url }))
    }

    pub(super) fn port_forward_url(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Result<Response<v1::PortForwardResponse>, Status> {
        let request = request.into_inner();
        let pod = self.pods.find_pod(&request.pod_sandbox_id).map_err(|error| error.to_status())?;
        if pod.state != carpel_pod::PodState::Ready {
            return Err(NotRunning(pod.id.to_string()).to_status());
        }
        let ports = ports(&request.port).map_err(|error| error.to_status())?;
        let url =
            self.streaming.port_forward(pod.id.to_string(), ports).map_err(|error| error.to_status())?;
        Ok(Response::new(v1::PortForwardResponse { url }))
    }

    fn running(&self, id: &str) -> Result<std::sync::Arc<carpel_pod::ContainerSnapshot>, Status> {
        let container = self.pods.find_container(id).map_err(|error| error.to_status())?;
        match container.state {
            ContainerState::Running { .. } => Ok(container),
            ContainerState::Created | ContainerState::Exited(_) | ContainerState::Unknown => {
                Err(NotRunning(container.id.to_string()).to_status())
            }
        }
    }
}

/// The ports that the request names, if any: clients of SPDY name theirs later.
fn ports(named: &[i32]) -> Result<Vec<u16>, Invalid> {
    if named.len() > PORTS_MAX {
        return Err(invalid("port", "names more than 100 ports"));
    }
    let port = |&port: &i32| u16::try_from(port).ok().filter(|&port| port > 0);
    named.iter().map(port).collect::<Option<_>>().ok_or_else(|| invalid("port", "must be 1 to 65535"))
}

/// A terminal has no stderr of its own, and a session without any stream has no use.
fn checked(streams: Streams) -> Result<Streams, Invalid> {
    if streams.tty && streams.stderr {
        return Err(invalid("stderr", "cannot be had together with tty: a terminal has one output"));
    }
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return Err(invalid("stdin", "or stdout or stderr is required"));
    }
    Ok(streams)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_streams_and_a_terminal_one_output() {
        let none = Streams { stdin: false, stdout: false, stderr: false, tty: false };
        assert!(checked(Streams { stdin: true, stdout: true, tty: true, ..none }).is_ok());
        assert_eq!(
            checked(Streams { stdout: true, stderr: true, tty: true, ..none }).unwrap_err().field,
            "stderr"
        );
        assert_eq!(checked(none).unwrap_err().field, "stdin");
    }

    #[test]
    fn ports_are_few_and_real() {
        assert_eq!(ports(&[]).unwrap(), [0u16; 0]);
        assert_eq!(ports(&[1, 65535]).unwrap(), [1, 65535]);
        for wrong in [&[0][..], &[-1], &[65536], &[80; 101]] {
            assert_eq!(ports(wrong).unwrap_err().field, "port");
        }
    }
}
