//! Whether this node can run pods: each thing a runtime needs of the kernel, of the disk and of the
//! configuration, what was found, and what to do about what is lacking.
//!
//! Nothing is changed: interfaces are tried in a network namespace that vanishes with the thread that made
//! it. No runtime need be running, so this also serves before the first start.

mod cgroup;
mod config;
mod finding;
mod kernel;
mod netlink;
mod network;
mod security;
mod storage;

use std::path::PathBuf;

use finding::Finding;
pub(crate) use finding::Verdict;
use serde::Serialize;

use crate::{cli::Format, output, table::Table};

/// Is this node fit to run pods?
///
/// Checks kernel, cgroups, network, disk and configuration, and says what to do about what is missing.
/// Nothing is changed, and no runtime need be running. Only root sees everything.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo carpel check
  sudo carpel check --config ./config.toml
  carpel check -o json | jq '.findings[] | select(.status != \"ok\")'

The exit code is 1 if something is missing without which pods do not run; warnings do not count.")]
pub(crate) struct Args {
    /// Configuration of the daemon, if it is not in /etc/carpel
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The daemon's program [default: beside carpel, or in PATH]
    #[arg(long, value_name = "FILE")]
    carpeld: Option<PathBuf>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Whether nothing is missing.
    fit: bool,
    findings: Vec<Finding>,
}

/// Examines the node, and returns the exit code.
pub(crate) async fn execute(args: &Args, format: Format) -> anyhow::Result<u8> {
    let (config, mut findings) = config::examine(args).await;
    findings.extend(kernel::examine(&config));
    findings.extend(cgroup::examine());
    findings.extend(security::examine());
    findings.extend(network::examine(&config));
    findings.extend(storage::examine(&config));
    let report = Report { fit: findings.iter().all(|finding| finding.status != Verdict::Missing), findings };
    match format {
        Format::Table => output::print(report.text())?,
        Format::Json => output::print_json(&report)?,
    }
    Ok(u8::from(!report.fit))
}

impl Report {
    fn text(&self) -> String {
        let mut table = Table::new(["CHECK", "STATUS", "FOUND"]);
        for finding in &self.findings {
            table.row([finding.name.to_owned(), finding.status.to_string(), finding.found.clone()]);
        }
        let mut text = table.render();
        for finding in &self.findings {
            if let Some(advice) = &finding.advice {
                text.push_str(&format!("\n{} ({}): {advice}\n", finding.name, finding.status));
            }
        }
        let warnings = self.findings.iter().filter(|finding| finding.status == Verdict::Warning).count();
        let missing = self.findings.iter().filter(|finding| finding.status == Verdict::Missing).count();
        text.push_str(&match (missing, warnings) {
            (0, 0) => "\nThis node is fit to run pods.\n".to_owned(),
            (0, _) => format!("\nThis node is fit to run pods, with warnings: {warnings}.\n"),
            (_, _) => {
                format!("\nThis node is not fit to run pods. Missing: {missing}, warnings: {warnings}.\n")
            }
        });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_makes_the_node_unfit_and_comes_with_advice() {
        let findings =
            vec![Finding::ok("kernel", "6.8"), Finding::missing("overlayfs", "no", "modprobe overlay")];
        let text = Report { fit: false, findings }.text();
        assert!(text.contains("kernel      ok"), "{text}");
        assert!(text.contains("overlayfs (missing): modprobe overlay"), "{text}");
        assert!(text.contains("not fit"), "{text}");
    }
}
