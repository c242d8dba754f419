//! Results as Markdown tables.

use crate::life::Mode;
use crate::memory::{CONTAINERS, Kept};
use crate::peer::Peer;
use crate::streams::{ROUNDS, Rates, WAYS};

/// One of the figures that are kept.
type Figure = fn(&Kept) -> f64;

/// Prints times and memory, a column for each runtime.
pub(crate) fn print(mode: Mode, rounds: usize, pods: usize, peers: &[Peer], kept: &[Kept]) {
    let title = match mode {
        Mode::Host => "The node's network",
        Mode::Builtin => "A network of its own: built-in bridge (containerd: CNI bridge)",
        Mode::Cni => "A network of its own: the same CNI bridge",
    };
    println!("### {title}\n");
    row(
        &format!("{rounds} pods each, taking turns; p50 / p99 ms"),
        peers.iter().map(|peer| peer.name.to_owned()),
    );
    println!("|---|{}", "---:|".repeat(peers.len()));
    let Some(first) = peers.first() else { return };
    for verb in first.took.keys() {
        let cells = peers.iter().map(|peer| {
            let mut samples = peer.took[verb].clone();
            samples.sort_by(f64::total_cmp);
            format!("{} / {}", figure(percentile(&samples, 50)), figure(percentile(&samples, 99)))
        });
        row(verb.title(), cells);
    }
    let started = peers.iter().map(|peer| figure(peer.fresh_kib / 1024.0));
    row("daemon's resident memory, MiB, just started", started);
    let each = format!("a pod of {CONTAINERS} containers");
    let figures: [(String, Figure); 5] = [
        (format!("helper processes, {each}"), |kept| kept.helpers),
        (format!("their private memory, KiB, {each}"), |kept| kept.private_kib),
        (format!("their proportional memory, KiB, {each}"), |kept| kept.proportional_kib),
        ("daemon's resident memory, MiB, no pod any more".to_owned(), |kept| kept.idle_kib / 1024.0),
        (format!("daemon's resident memory, MiB, {pods} pods"), |kept| kept.loaded_kib / 1024.0),
    ];
    for (name, of) in figures {
        row(&name, kept.iter().map(|kept| figure(of(kept))));
    }
    println!();
}

/// Prints how fast bytes went, a column for each runtime.
pub(crate) fn print_rates(mib: usize, peers: &[Peer], rates: &[Rates]) {
    println!("### Streams\n");
    let title = format!("{mib} MiB, {ROUNDS} times, taking turns; p50 (least) MiB/s");
    row(&title, peers.iter().map(|peer| peer.name.to_owned()));
    println!("|---|{}", "---:|".repeat(peers.len()));
    for way in WAYS {
        let cells = rates.iter().map(|rates| {
            let Some(mut samples) = rates.get(&way).cloned() else { return "–".to_owned() };
            samples.sort_by(f64::total_cmp);
            format!("{} ({})", figure(percentile(&samples, 50)), figure(samples[0]))
        });
        row(&way.title(), cells);
    }
    println!();
}

fn row(name: &str, cells: impl Iterator<Item = String>) {
    println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
}

/// Three digits that say something.
fn figure(value: f64) -> String {
    let decimals = match value {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// The sample below which `percent` of the others lie (nearest rank).
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted[rank.saturating_sub(1)]
}
