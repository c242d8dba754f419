//! `carpel port-forward`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use crate::{
    client::Client,
    command::exec::signal_code,
    resolve::{Census, pod_name},
    stream::{
        TlsArgs,
        forward::{Forward, announce},
    },
};

/// Lead local ports to ports of a pod
///
/// Connections go to the loopback of the pod's network, so they reach servers that listen only there, and need
/// no route to the pod. It forwards TCP until Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel port-forward web 8080:80           http://127.0.0.1:8080 is the pod's port 80
  carpel port-forward web 5432 :9090        the same port here; any free port for 9090
  carpel port-forward --listen 192.0.2.7 web 8080:80     for others too: whoever reaches that address")]
pub(crate) struct Args {
    /// Address of this node to listen on
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    #[command(flatten)]
    tls: TlsArgs,
    /// Pod, by name or id
    pod: String,
    /// [LOCAL:]POD, LOCAL empty or 0 for any free port
    #[arg(required = true, value_name = "PORTS", value_parser = parse_ports)]
    ports: Vec<Ports>,
}

/// A local port, 0 for any, and the pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    local: u16,
    pod: u16,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected PORT, LOCAL:PORT or :PORT, each from 1 to 65535")]
struct PortsError;

fn parse_ports(text: &str) -> Result<Ports, PortsError> {
    let number = |text: &str| text.parse::<u16>().map_err(|_| PortsError);
    let (local, pod) = match text.split_once(':') {
        None => (number(text)?, number(text)?),
        Some(("", pod)) => (0, number(pod)?),
        Some((local, pod)) => (number(local)?, number(pod)?),
    };
    if pod == 0 { Err(PortsError) } else { Ok(Ports { local, pod }) }
}

pub(crate) async fn execute(client: &Client, args: &Args) -> anyhow::Result<u8> {
    let (mut interrupt, mut terminate) =
        (|| Ok::<_, std::io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)))()
            .context("cannot listen for Ctrl-C")?;
    let census = Census::take(client).await?;
    let pod = census.pod(&args.pod)?;
    let (id, name) = (pod.id.clone(), pod_name(pod).to_owned());
    let mut forwards = Vec::with_capacity(args.ports.len());
    for ports in &args.ports {
        forwards.push(Forward::listen(SocketAddr::new(args.listen, ports.local), ports.pod).await?);
    }
    // Said when all of them listen: a script may go on then.
    forwards.iter().for_each(|forward| announce(forward, &name));
    let mut running = JoinSet::new();
    for forward in forwards {
        running.spawn(forward.run(client.clone(), args.tls.clone(), id.clone()));
    }
    let ended = async { while running.join_next().await.is_some() {} };
    tokio::select! {
        () = ended => Ok(0),
        _ = interrupt.recv() => Ok(0),
        _ = terminate.recv() => Ok(signal_code(SignalKind::terminate().as_raw_value())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_pairs() {
        for (text, local, pod) in [("80", 80, 80), ("8080:80", 8080, 80), (":80", 0, 80), ("0:80", 0, 80)] {
            assert_eq!(parse_ports(text), Ok(Ports { local, pod }), "{text}");
        }
        for wrong in ["", ":", "80:", "0", "8080:0", "65536", "1:2:3", "http"] {
            assert_eq!(parse_ports(wrong), Err(PortsError), "{wrong}");
        }
    }
}
