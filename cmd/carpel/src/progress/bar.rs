//! The text of a progress line.

use std::time::Duration;

use carpel_proto::operator::{Pull, PullLayerStage, PullStage};

use crate::{size, table::printable};

const SPINNER: [&str; 4] = ["-", "\\", "|", "/"];

const BAR_COLUMNS: u64 = 24;

/// What a line shows.
pub(super) struct State<'a> {
    /// Absent if the runtime does not tell.
    pub(super) pull: Option<&'a Pull>,
    pub(super) elapsed: Duration,
    /// Lines drawn so far.
    pub(super) frame: usize,
}

/// At most `columns - 1` characters: in the last column some terminals begin a new line.
pub(super) fn render(reference: &str, state: &State<'_>, columns: usize) -> String {
    let spinner = SPINNER[state.frame / 2 % SPINNER.len()];
    let seconds = state.elapsed.as_secs();
    let clock = format!("{}:{:02}", seconds / 60, seconds % 60);
    let text = match state.pull {
        None => format!("{spinner} {clock}  pulling {reference}"),
        Some(pull) => match pull.stage() {
            PullStage::Unspecified | PullStage::Resolving => {
                format!("{spinner} {clock}  resolving {reference}")
            }
            PullStage::Fetching => format!("{spinner} {clock}  {}  {reference}", layers(pull, state.elapsed)),
            PullStage::Committing | PullStage::Done => format!("{spinner} {clock}  storing {reference}"),
        },
    };
    printable(&text).chars().take(columns - 1).collect()
}

/// A line for a log.
pub(super) fn plain(reference: &str, pull: Option<&Pull>) -> String {
    let text = match pull {
        Some(pull) if pull.stage() == PullStage::Fetching => {
            let sum = sum(pull);
            let (bytes, total) = (size::human(sum.bytes), size::human(sum.total));
            format!("pulling {reference}: {bytes} of {total}, layers {}/{}", sum.done, pull.layers.len())
        }
        Some(_) | None => format!("pulling {reference}"),
    };
    printable(&text)
}

/// The layers of a pull together.
struct Sum {
    bytes: u64,
    total: u64,
    done: usize,
}

fn sum(pull: &Pull) -> Sum {
    let fetched = pull.layers.iter().filter(|layer| layer.stage() != PullLayerStage::Present);
    let (bytes, total) = fetched.fold((0u64, 0u64), |(bytes, total), layer| {
        // What a server says must not overflow a progress bar.
        (bytes.saturating_add(layer.bytes.min(layer.total)), total.saturating_add(layer.total))
    });
    let complete = |stage| matches!(stage, PullLayerStage::Done | PullLayerStage::Present);
    let done = pull.layers.iter().filter(|layer| complete(layer.stage())).count();
    Sum { bytes, total, done }
}

/// Bar, bytes, speed and layers of a pull under way.
fn layers(pull: &Pull, elapsed: Duration) -> String {
    let Sum { bytes, total, done } = sum(pull);
    let filled = (u128::from(bytes) * u128::from(BAR_COLUMNS)).checked_div(u128::from(total)).unwrap_or(0);
    let filled = usize::try_from(filled).unwrap_or(0);
    let empty = usize::try_from(BAR_COLUMNS).unwrap_or(0).saturating_sub(filled);
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    format!(
        "[{}{}] {}/{}  {}/s  layers {done}/{}",
        "#".repeat(filled),
        ".".repeat(empty),
        size::human(bytes),
        size::human(total),
        size::human(bytes.saturating_mul(1000) / millis),
        pull.layers.len(),
    )
}

#[cfg(test)]
mod tests {
    use carpel_proto::operator::PullLayer;

    use super::*;

    fn layer(stage: PullLayerStage, bytes: u64, total: u64) -> PullLayer {
        PullLayer { digest: String::new(), stage: stage.into(), bytes, total }
    }

    fn line(pull: Option<&Pull>, columns: usize) -> String {
        render("reg/app:1", &State { pull, elapsed: Duration::from_secs(64), frame: 0 }, columns)
    }

    #[test]
    fn a_runtime_that_tells_nothing_gets_a_clock() {
        assert_eq!(line(None, 80), "- 1:04  pulling reg/app:1");
        assert_eq!(line(None, 10), "- 1:04  p");
    }

    #[test]
    fn bytes_and_layers_are_summed_up() {
        let layers = vec![
            layer(PullLayerStage::Present, 0, 999),
            layer(PullLayerStage::Done, 1 << 20, 1 << 20),
            layer(PullLayerStage::Fetching, 0, 1 << 20),
        ];
        let pull = Pull { stage: PullStage::Fetching.into(), layers, ..Default::default() };
        assert_eq!(
            line(Some(&pull), 100),
            "- 1:04  [############............] 1.00 MiB/2.00 MiB  16.0 KiB/s  layers 2/3  reg/app:1"
        );
    }

    #[test]
    fn a_log_gets_whole_lines() {
        let layers = vec![layer(PullLayerStage::Fetching, 1 << 19, 1 << 20)];
        let pull = Pull { stage: PullStage::Fetching.into(), layers, ..Default::default() };
        assert_eq!(plain("reg/app:1", Some(&pull)), "pulling reg/app:1: 512 KiB of 1.00 MiB, layers 0/1");
        assert_eq!(plain("reg/app:1", None), "pulling reg/app:1");
    }

    #[test]
    fn absurd_numbers_are_survived() {
        let layers = vec![layer(PullLayerStage::Fetching, u64::MAX, u64::MAX); 3];
        let pull = Pull { stage: PullStage::Fetching.into(), layers, ..Default::default() };
        assert!(line(Some(&pull), 200).contains("[########################]"));
        let nothing = Pull { stage: PullStage::Fetching.into(), ..Default::default() };
        assert!(line(Some(&nothing), 200).contains("[........................] 0 B/0 B"));
    }
}
