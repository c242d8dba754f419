//! Shows that a pull goes on: bytes and layers where the runtime tells (Carpel), a clock elsewhere. It writes to
//! standard error: to a terminal a line that moves, elsewhere a line now and then, for the logs of jobs.

mod bar;

use std::{
    convert::Infallible,
    future::Future,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use carpel_proto::operator::{Pull, PullsRequest};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{client::Client, output};

const REDRAW: Duration = Duration::from_millis(100);
/// A pull that is quicker says nothing to a log.
const FIRST_LINE: Duration = Duration::from_secs(1);
const NEXT_LINE: Duration = Duration::from_secs(10);

/// Awaits `work`, and meanwhile shows how far the pull of `reference` has come.
pub(crate) async fn during_pull<T>(client: &Client, reference: &str, work: impl Future<Output = T>) -> T {
    let (sender, reports) = watch::channel(None);
    let reporter = tokio::spawn(collect_reports(client.clone(), reference.to_owned(), sender));
    let shown = async {
        if io::stderr().is_terminal() {
            draw(reference, reports).await
        } else {
            log(reference, reports).await
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        never = shown => match never {},
    };
    reporter.abort();
    outcome
}

/// One line that moves, and is gone when this is dropped.
async fn draw(reference: &str, reports: watch::Receiver<Option<Pull>>) -> Infallible {
    let mut line = Line::new(reference);
    let mut ticks = interval(REDRAW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        line.draw(reports.borrow().as_ref());
    }
}

/// A line now and then.
async fn log(reference: &str, reports: watch::Receiver<Option<Pull>>) -> Infallible {
    sleep(FIRST_LINE).await;
    loop {
        output::say(&bar::plain(reference, reports.borrow().as_ref()));
        sleep(NEXT_LINE).await;
    }
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
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if self.drawn > 0 {
            let _gone = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
