//! Runs checks that share something expensive (a kubelet, a cluster), which tests of the ordinary harness cannot: it
//! has no end at which to take the shared thing down and look for what it left.
//!
//! A program of checks is a test target with `harness = false`. Its output is that of the ordinary harness, so that the
//! list of names is the list of checks (`-- --list`), a word on the command line selects checks, and the last line
//! counts them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A check: its name, and what it does, which panics when it fails.
pub type Check<F> = (&'static str, F);

/// Which checks to run, and what became of them.
#[derive(Debug)]
pub struct Run {
    words: Vec<String>,
    exact: bool,
    list: bool,
    at_once: usize,
    passed: usize,
    failed: Vec<(&'static str, String)>,
    left_out: usize,
    begin: Instant,
}

impl Run {
    /// Reads the command line: words that select checks, `--exact`, `--list`, `--test-threads=N` for how many run at
    /// once (all unless given). What else steers the ordinary harness (`--nocapture`, …) is for the other test targets
    /// of the same command.
    pub fn from_arguments() -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
        let threads = arguments.iter().find_map(|argument| argument.strip_prefix("--test-threads="));
        Self {
            at_once: threads.map_or(usize::MAX, |number| number.parse().expect("a number of threads")),
            exact: has("--exact"),
            list: has("--list"),
            words: arguments.into_iter().filter(|argument| !argument.starts_with('-')).collect(),
            passed: 0,
            failed: Vec::new(),
            left_out: 0,
            begin: Instant::now(),
        }
    }

    /// Leaves the selected ones; with `--list` it prints them and leaves none.
    pub fn select<F>(&mut self, checks: Vec<Check<F>>) -> Vec<Check<F>> {
        let (mut chosen, rest): (Vec<_>, Vec<_>) =
            checks.into_iter().partition(|(name, _)| self.selects(name));
        self.left_out += rest.len();
        if self.list {
            chosen.iter().for_each(|(name, _)| say(&format!("{name}: test")));
            chosen.clear();
        }
        chosen
    }

    /// Whether a check of that name is to run.
    pub fn selects(&self, name: &str) -> bool {
        let fits = |word: &String| if self.exact { name == word } else { name.contains(word.as_str()) };
        self.words.is_empty() || self.words.iter().any(fits)
    }

    /// Runs checks at the same time; `after` each, what it made can be taken away.
    pub fn together<C: Sync>(&mut self, context: &C, checks: &[Check<fn(&C)>], after: fn(&C)) {
        let next = AtomicUsize::new(0);
        let (done, outcomes) = std::sync::mpsc::channel();
        let work = |done: std::sync::mpsc::Sender<_>| {
            while let Some((name, run)) = checks.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.send((*name, timed(|| run(context)))).expect("the report is taken until all ended");
                after(context);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.at_once.min(checks.len()) {
                let (work, done) = (&work, done.clone());
                scope.spawn(move || work(done));
            }
            drop(done);
            for (name, outcome) in outcomes {
                self.note(name, outcome);
            }
        });
    }

    /// Runs one check by itself.
    pub fn alone(&mut self, name: &'static str, run: impl FnOnce()) {
        self.note(name, timed(run));
    }

    /// Prints the failures and the counts.
    pub fn finish(self) -> ExitCode {
        if self.list {
            return ExitCode::SUCCESS;
        }
        for (name, message) in &self.failed {
            say(&format!("\n---- {name} ----\n{message}"));
        }
        let verdict = if self.failed.is_empty() { "ok" } else { "FAILED" };
        say(&format!(
            "\ntest result: {verdict}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
            self.passed,
            self.failed.len(),
            self.left_out,
            self.begin.elapsed().as_secs_f64()
        ));
        ExitCode::from(u8::from(!self.failed.is_empty()))
    }

    fn note(&mut self, name: &'static str, (outcome, took): (Result<(), String>, Duration)) {
        match outcome {
            Ok(()) => {
                self.passed += 1;
                say(&format!("test {name} ... ok ({:.1} s)", took.as_secs_f64()));
            }
            Err(message) => {
                say(&format!("test {name} ... FAILED"));
                self.failed.push((name, message));
            }
        }
    }
}

/// Runs it; what it panicked with, and how long it took.
fn timed(run: impl FnOnce()) -> (Result<(), String>, Duration) {
    let begin = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(run)).map_err(|panic| text(&*panic));
    (outcome, begin.elapsed())
}

fn text(panic: &(dyn Any + Send)) -> String {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

#[allow(clippy::print_stdout, reason = "the report of a test program")]
fn say(line: &str) {
    println!("{line}");
}
