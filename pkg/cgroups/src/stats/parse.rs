//! Pressure files: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and a `full` line.

/// Time lost for want of something.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one process waited.
    pub some: Stall,
    /// All that were not idle waited.
    pub full: Stall,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
    /// Microseconds, ever.
    pub total_us: u64,
}

impl Pressure {
    /// Reads a pressure file. A `full` line is missing for CPUs before Linux 5.13: zeros.
    pub(crate) fn parse(text: &str) -> Option<Pressure> {
        let line = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(Stall::parse)
        };
        Some(Pressure { some: line("some")??, full: line("full").unwrap_or(Some(Stall::default()))? })
    }
}

impl Stall {
    fn parse(line: &str) -> Option<Stall> {
        let mut stall = Stall::default();
        for word in line.split_whitespace() {
            let (key, value) = word.split_once('=')?;
            match key {
                "avg10" => stall.avg10 = value.parse().ok()?,
                "avg60" => stall.avg60 = value.parse().ok()?,
                "avg300" => stall.avg300 = value.parse().ok()?,
                "total" => stall.total_us = value.parse().ok()?,
                // A kernel may count more.
                _ => {}
            }
        }
        Some(stall)
    }
}
