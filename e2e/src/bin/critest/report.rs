//! What became of the specs, from ginkgo's report.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The report's file name.
pub(crate) const NAME: &str = "report.json";

/// What became of the specs that the arguments selected.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    /// Each with its reason.
    pub(crate) failed: Vec<String>,
    /// The specs, by the reason; one name for each time.
    skipped: BTreeMap<String, Vec<String>>,
}

impl Tally {
    pub(crate) fn is_empty(&self) -> bool {
        self.passed == 0 && self.failed.is_empty() && self.skipped.is_empty()
    }

    pub(crate) fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        for (reason, names) in other.skipped {
            self.skipped.entry(reason).or_default().extend(names);
        }
    }

    /// Tells which specs failed, and which were skipped why.
    pub(crate) fn print(&self) {
        for (reason, names) in &self.skipped {
            println!("critest: skipped {} times: {reason}", names.len());
            let mut once = names.clone();
            once.sort();
            once.dedup();
            once.iter().for_each(|name| println!("    {name}"));
        }
        self.failed.iter().for_each(|name| println!("critest: failed: {name}"));
    }

    /// A spec that the arguments did not select is "skipped" in the report too, but without a reason.
    fn count(&mut self, spec: &Value) {
        let containers = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten();
        let mut name: Vec<&str> = containers.filter_map(Value::as_str).collect();
        name.extend(spec["LeafNodeText"].as_str());
        let name = name.join(" ");
        let reason = spec["Failure"]["Message"].as_str().unwrap_or_default();
        let attempts = spec["NumAttempts"].as_u64().unwrap_or_default();
        match (spec["State"].as_str().unwrap_or_default(), spec["LeafNodeType"] == "It") {
            ("passed", true) if attempts > 1 => {
                self.failed.push(format!("{name}: passed only at attempt {attempts}"));
            }
            ("passed", true) => self.passed += 1,
            ("passed", false) => {}
            ("skipped" | "pending", _) if reason.is_empty() => {}
            ("skipped" | "pending", _) => {
                self.skipped.entry(reason.to_owned()).or_default().push(name);
            }
            (state, _) => self.failed.push(format!("{name}: {state}: {reason}")),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped: usize = self.skipped.values().map(Vec::len).sum();
        write!(f, "{} passed, {} failed, {skipped} skipped", self.passed, self.failed.len())
    }
}

/// Reads the report of a run in `folder`. The one of parallel nodes is in a folder that critest made there.
pub(crate) fn read(folder: &Path) -> Tally {
    let mut tally = Tally::default();
    let report = find(folder).and_then(|path| fs::read(path).ok()).unwrap_or_default();
    let report: Value = serde_json::from_slice(&report).unwrap_or_default();
    let suites = report.as_array().into_iter().flatten();
    for spec in suites.flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten()) {
        tally.count(spec);
    }
    tally
}

fn find(folder: &Path) -> Option<PathBuf> {
    let below = fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let mut places = std::iter::once(folder.to_owned()).chain(below).map(|folder| folder.join(NAME));
    places.find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(name: &str, state: &str, attempts: u64, reason: &str) -> Value {
        json!({ "ContainerHierarchyTexts": ["group"], "LeafNodeText": name, "LeafNodeType": "It",
                "State": state, "NumAttempts": attempts, "Failure": { "Message": reason } })
    }

    #[test]
    fn a_second_attempt_is_a_failure_and_an_unselected_spec_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let nested = folder.path().join("cri-test1");
        fs::create_dir(&nested).unwrap();
        let specs = [
            spec("a", "passed", 1, ""),
            spec("b", "passed", 2, ""),
            spec("c", "skipped", 0, "not here"),
            spec("d", "skipped", 0, ""),
            spec("e", "interrupted", 1, "too slow"),
            json!({ "LeafNodeType": "BeforeSuite", "State": "passed", "NumAttempts": 1 }),
        ];
        fs::write(nested.join(NAME), json!([{ "SpecReports": specs }]).to_string()).unwrap();
        let mut tally = read(folder.path());
        assert_eq!(tally.failed, ["group b: passed only at attempt 2", "group e: interrupted: too slow"]);
        assert_eq!(tally.to_string(), "1 passed, 2 failed, 1 skipped");
        tally.add(read(folder.path()));
        assert_eq!(tally.to_string(), "2 passed, 4 failed, 2 skipped");
        assert_eq!(tally.skipped["not here"], ["group c", "group c"]);
    }

    #[test]
    fn no_report_is_an_empty_tally() {
        assert!(read(tempfile::tempdir().unwrap().path()).is_empty());
    }
}
