//! Shows a person that a pull goes on: bytes and layers where the runtime tells (Carpel), a clock elsewhere.
//! It writes to standard error, and only to a terminal.

mod bar;

use std::{
    future::Future,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use carpel_proto::operator::{Pull, PullsRequest};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::client::Client;

const REDRAW: Duration = Duration::from_millis(100);

/// Awaits `work`, and meanwhile shows how far the pull of `reference` has come.
pub(crate) async fn during_pull<T>(client: &Client, reference: &str, work: impl Future<Output = T>) -> T {
    if !io::stderr().is_terminal() {
        return work.await;
    }
    let (sender, reports) = watch::channel(None);
    let reporter = tokio::spawn(collect_reports(client.clone(), reference.to_owned(), sender));
    let mut line = Line::new(reference);
    let mut ticks = interval(REDRAW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(work);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            _ = ticks.tick() => line.draw(reports.borrow().as_ref()),
        }
    };
    reporter.abort();
    line.clear();
    outcome
}

/// Passes on what the daemon says about the pull; ends at once where the runtime says nothing. What goes
/// wrong here is left to the pull itself to tell.
async fn collect_reports(client: Client, reference: String, reports: watch::Sender<Option<Pull>>) {
    let Ok(answer) = client.operator().pulls(PullsRequest { reference }).await else { return };
    let mut stream = answer.into_inner();
    while let Ok(Some(report)) = stream.message().await {
        reports.send_replace(report.pulls.into_iter().next());
    }
}

/// The one line of the terminal that is drawn again and again.
struct Line<'a> {
    reference: &'a str,
    since: Instant,
    drawn: usize,
}

impl<'a> Line<'a> {
    fn new(reference: &'a str) -> Self {
        Self { reference, since: Instant::now(), drawn: 0 }
    }

    fn draw(&mut self, pull: Option<&Pull>) {
        let columns = rustix::termios::tcgetwinsize(io::stderr()).map_or(80, |size| usize::from(size.ws_col));
        let state = bar::State { pull, elapsed: self.since.elapsed(), frame: self.drawn };
        let text = bar::render(self.reference, &state, columns.max(20));
        self.drawn += 1;
        // A terminal that is gone needs no progress.
        let _gone = write!(io::stderr(), "\r\x1b[K{text}");
    }

    fn clear(&self) {
        if self.drawn > 0 {
            let _gone = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
