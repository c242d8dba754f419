//! What the command line asks for.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

pub(crate) const USAGE: &str =
    "usage: critest TOOLS IMAGES [--nodes N] [--websocket] [--rounds N] [GINKGO ARGUMENT…]";

/// The protocol of exec, attach and port-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Spdy,
    WebSocket,
}

/// How the suite is to be run.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The folder of critest and ginkgo.
    pub(crate) tools: PathBuf,
    /// The layout of the suite's images.
    pub(crate) images: PathBuf,
    /// How often, one after the other.
    pub(crate) rounds: usize,
    /// How many specs run beside each other.
    nodes: usize,
    transport: Transport,
    ginkgo: Vec<String>,
}

impl Plan {
    /// Options end at the first argument that is none: the rest is for ginkgo.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Plan, String> {
        let mut arguments = arguments.peekable();
        let (Some(tools), Some(images)) = (arguments.next(), arguments.next()) else {
            return Err("TOOLS and IMAGES are missing".to_owned());
        };
        let mut plan = Plan {
            tools: tools.into(),
            images: images.into(),
            rounds: 1,
            nodes: 1,
            transport: Transport::Spdy,
            ginkgo: Vec::new(),
        };
        while let Some(option) = arguments.next_if(|argument| argument.starts_with("--")) {
            match option.as_str() {
                "--websocket" => plan.transport = Transport::WebSocket,
                "--nodes" => plan.nodes = number(&option, arguments.next())?,
                "--rounds" => plan.rounds = number(&option, arguments.next())?,
                _ => return Err(format!("unknown: {option}")),
            }
        }
        plan.ginkgo = arguments.collect();
        Ok(plan)
    }

    /// The suite's own arguments.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if self.nodes > 1 {
            arguments.push(format!("-parallel={}", self.nodes));
        }
        if self.transport == Transport::WebSocket {
            arguments.extend(["exec", "attach", "portforward"].map(|verb| format!("-websocket-{verb}")));
        }
        arguments.extend_from_slice(&self.ginkgo);
        arguments
    }

    /// The PATH for the suite: parallel nodes are started by a `ginkgo` that it looks for there.
    pub(crate) fn path(&self) -> OsString {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.tools.clone()).chain(std::env::split_paths(&path));
        std::env::join_paths(folders).expect("no folder of PATH has a colon")
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Spdy => "SPDY",
            Transport::WebSocket => "WebSocket",
        };
        match self.nodes {
            1 => write!(f, "serial, {transport}"),
            nodes => write!(f, "{nodes} nodes, {transport}"),
        }
    }
}

fn number(option: &str, value: Option<String>) -> Result<usize, String> {
    let value = value.ok_or_else(|| format!("{option} needs a number"))?;
    match value.parse() {
        Ok(number) if (1..=10_000).contains(&number) => Ok(number),
        _ => Err(format!("{option} takes 1 to 10000, not {value:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &str) -> Result<Plan, String> {
        Plan::parse(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_come_before_ginkgos_arguments() {
        let plan = plan("t i --nodes 4 --websocket --rounds 20 -ginkgo.focus=a --nodes").unwrap();
        assert_eq!((plan.rounds, plan.to_string().as_str()), (20, "4 nodes, WebSocket"));
        let websocket = ["-websocket-exec", "-websocket-attach", "-websocket-portforward"];
        let arguments: Vec<_> = ["-parallel=4"].into_iter().chain(websocket).collect();
        assert_eq!(plan.arguments(), [&arguments[..], &["-ginkgo.focus=a", "--nodes"]].concat());
    }

    #[test]
    fn alone_it_is_one_serial_round_over_spdy() {
        let plan = plan("t i").unwrap();
        assert_eq!((plan.rounds, plan.to_string().as_str()), (1, "serial, SPDY"));
        assert!(plan.arguments().is_empty());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for words in ["", "t", "t i --rounds", "t i --rounds 0", "t i --nodes x", "t i --parallel 2"] {
            plan(words).unwrap_err();
        }
    }
}
