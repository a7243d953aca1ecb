//! What the suite found, as it wrote it down: a folder for each scenario, with the moment at which it began in its
//! name, and all its checks inside.
//!
//! Nothing is taken from what the suite prints. It runs one scenario after the other, so each one ends when the next
//! begins. A folder without checks is of a scenario that broke off, and has failed; one whose checks cannot be read is
//! an error.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use ollamax_types::Timestamp;

/// How the name of a scenario's folder begins.
const PREFIX: &str = "server-";
/// How it ends: `-2026-10-01T09-00-00-000Z`.
const MOMENT_CHARS: usize = 25;
/// The file with the checks.
const CHECKS: &str = "checks.json";
/// What is said of a scenario without that file: the suite writes it in the end.
const BROKE_OFF: &str = "the suite broke it off, and wrote no checks";
/// The check that is made in every scenario, of the messages and not of what they are about.
const WIRE: &str = "wire-schema-valid";

/// One check, as the suite writes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Check {
    id: String,
    status: Status,
    #[serde(default, rename = "errorMessage")]
    error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    Success,
    Failure,
    Warning,
    Skipped,
    Info,
}

/// How a scenario ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every requirement was met; `warnings` recommendations were not.
    Passed {
        /// How many.
        warnings: usize,
    },
    /// Nothing was looked at.
    Skipped,
    /// What was not met, each with what the suite says of it.
    Failed(Vec<String>),
}

/// Scenarios by name.
pub(crate) type Scenarios = BTreeMap<String, Verdict>;

/// From when to when something went on, both ends among it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) begin: Timestamp,
    pub(crate) end: Timestamp,
}

/// How a scenario ended, and when it ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) verdict: Verdict,
    pub(crate) when: Span,
}

// === impl Span ===

impl Span {
    /// Whether some moment is in both.
    pub(crate) fn meets(self, other: Self) -> bool {
        self.begin <= other.end && other.begin <= self.end
    }
}

/// Reads what a run of the suite left in a folder: scenarios by name. `ended`: when the suite was seen to have ended.
///
/// # Errors
/// When something cannot be read, is not what the suite writes, or is of a scenario that ran twice.
pub(crate) fn read(folder: &Path, ended: Timestamp) -> Result<BTreeMap<String, Ran>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry.with_context(|| format!("read {}", folder.display()))?;
        let Some((name, begin)) = scenario_of(&entry.file_name().to_string_lossy()) else { continue };
        found.push((begin, name, verdict_in(&entry.path())?));
    }
    found.sort_by_key(|(begin, ..)| *begin);
    let ends: Vec<Timestamp> = found.iter().skip(1).map(|(begin, ..)| *begin).chain([ended]).collect();
    let mut all = BTreeMap::new();
    for ((begin, name, verdict), end) in found.into_iter().zip(ends) {
        let ran = Ran { verdict, when: Span { begin, end } };
        // Which of two runs counts, nobody can say.
        ensure!(all.insert(name.clone(), ran).is_none(), "{name} ran twice in {}", folder.display());
    }
    Ok(all)
}

/// The scenario to which a folder belongs, and when it began.
fn scenario_of(folder: &str) -> Option<(String, Timestamp)> {
    let rest = folder.strip_prefix(PREFIX)?;
    let (name, moment) = rest.split_at_checked(rest.len().checked_sub(MOMENT_CHARS)?)?;
    let begin = moment_of(moment.strip_prefix('-')?)?;
    (!name.is_empty()).then(|| (name.to_owned(), begin))
}

/// The moment of `2026-10-01T09-00-00-000Z`, which is in UTC: the suite puts `-` for what no file's name may have.
fn moment_of(text: &str) -> Option<Timestamp> {
    let (day, time) = text.split_once('T')?;
    let (seconds, fraction) = time.rsplit_once('-')?;
    let moment: jiff::Timestamp = format!("{day}T{}.{fraction}", seconds.replace('-', ":")).parse().ok()?;
    u64::try_from(moment.as_millisecond()).ok().map(Timestamp)
}

/// What the checks in a scenario's folder say.
fn verdict_in(folder: &Path) -> Result<Verdict> {
    let file = folder.join(CHECKS);
    let text = match fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Verdict::Failed(vec![BROKE_OFF.to_owned()])),
        Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
    };
    let checks: Vec<Check> =
        serde_json::from_slice(&text).with_context(|| format!("{} is not what the suite writes", file.display()))?;
    Ok(verdict_of(&checks))
}

fn verdict_of(checks: &[Check]) -> Verdict {
    let of = |status: Status| checks.iter().filter(move |check| check.status == status);
    let failures: Vec<String> = of(Status::Failure).map(Check::said).collect();
    if !failures.is_empty() {
        return Verdict::Failed(failures);
    }
    let warnings = of(Status::Warning).count();
    let met = of(Status::Success).filter(|check| check.id != WIRE).count();
    if met + warnings == 0 { Verdict::Skipped } else { Verdict::Passed { warnings } }
}

// === impl Check ===

impl Check {
    fn said(&self) -> String {
        let said = self.error.as_deref().unwrap_or("the suite does not say why");
        // Some messages hold whole answers, over several lines.
        format!("{}: {}", self.id, said.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_after_scenarios_and_other_files_are_none() {
        let check = |folder: &str, expected: Option<(&str, u64)>| {
            let expected = expected.map(|(name, begin)| (name.to_owned(), Timestamp(begin)));
            assert_eq!(scenario_of(folder), expected, "{folder}");
        };
        check("server-tools-list-1970-01-01T00-00-01-250Z", Some(("tools-list", 1_250)));
        check("server-server-stateless-1970-01-02T01-02-03-004Z", Some(("server-stateless", 90_123_004)));
        check("said.txt", None);
        check("server-2026-10-01T09-00-00-000Z", None);
        check("server-tools-list", None);
        check("server-tools-list-2026-10-01T09-00-61-000Z", None);
    }

    #[test]
    fn one_failure_fails_a_scenario_and_a_warning_does_not() {
        let check = |rows: &[(&str, Status)], expected: Verdict| {
            let checks = rows.iter().map(|(id, status)| {
                let error = (*status == Status::Failure).then(|| "expected 400,\n  got 200".to_owned());
                Check { id: (*id).to_owned(), status: *status, error }
            });
            assert_eq!(verdict_of(&checks.collect::<Vec<_>>()), expected, "{rows:?}");
        };
        check(&[("a", Status::Success), (WIRE, Status::Success)], Verdict::Passed { warnings: 0 });
        check(&[("a", Status::Success), ("b", Status::Warning)], Verdict::Passed { warnings: 1 });
        check(&[("a", Status::Warning), (WIRE, Status::Success)], Verdict::Passed { warnings: 1 });
        check(&[("a", Status::Skipped), ("b", Status::Info), (WIRE, Status::Success)], Verdict::Skipped);
        check(&[], Verdict::Skipped);
        let failed = Verdict::Failed(vec!["b: expected 400, got 200".to_owned()]);
        check(&[("a", Status::Success), ("b", Status::Failure), (WIRE, Status::Success)], failed);
        let failed = Verdict::Failed(vec![format!("{WIRE}: expected 400, got 200")]);
        check(&[("a", Status::Success), (WIRE, Status::Failure)], failed);
    }

    #[test]
    fn what_the_suite_writes_is_read_and_what_it_does_not_write_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let scenario = folder.path().join("server-ping-2026-10-01T09-00-00-000Z");
        fs::create_dir(&scenario).expect("made");
        let checks = r#"[{"id": "ping", "name": "Ping", "status": "SUCCESS", "details": {"result": {}}}]"#;
        fs::write(scenario.join(CHECKS), checks).expect("written");
        fs::write(folder.path().join("said.txt"), "everything").expect("written");
        let all = read(folder.path(), Timestamp(u64::MAX)).expect("read");
        assert_eq!(all.keys().collect::<Vec<_>>(), ["ping"]);
        assert_eq!(all["ping"].verdict, Verdict::Passed { warnings: 0 });
        let again = folder.path().join("server-ping-2026-10-01T09-00-01-000Z");
        fs::create_dir(&again).expect("made");
        fs::write(again.join(CHECKS), checks).expect("written");
        assert!(read(folder.path(), Timestamp(u64::MAX)).is_err(), "it ran twice");
        fs::remove_dir_all(&again).expect("removed");
        fs::write(scenario.join(CHECKS), r#"[{"id": "ping", "status": "FINE"}]"#).expect("written");
        assert!(read(folder.path(), Timestamp(u64::MAX)).is_err());
    }

    #[test]
    fn each_scenario_ends_when_the_next_one_begins_and_one_that_broke_off_has_failed() {
        let folder = tempfile::tempdir().expect("a folder");
        let make = |name: &str, checks: Option<&str>| {
            let scenario = folder.path().join(name);
            fs::create_dir(&scenario).expect("made");
            if let Some(checks) = checks {
                fs::write(scenario.join(CHECKS), checks).expect("written");
            }
        };
        let good = Some(r#"[{"id": "a", "status": "SUCCESS"}]"#);
        make("server-ping-1970-01-01T00-00-05-000Z", good);
        make("server-tools-list-1970-01-01T00-00-02-000Z", None);
        make("server-caching-1970-01-01T00-00-09-500Z", good);
        let all = read(folder.path(), Timestamp(9_900)).expect("read");
        let check = |name: &str, begin: u64, end: u64, verdict: Verdict| {
            let when = Span { begin: Timestamp(begin), end: Timestamp(end) };
            assert_eq!(all[name], Ran { verdict, when }, "{name}");
        };
        check("tools-list", 2_000, 5_000, Verdict::Failed(vec![BROKE_OFF.to_owned()]));
        check("ping", 5_000, 9_500, Verdict::Passed { warnings: 0 });
        check("caching", 9_500, 9_900, Verdict::Passed { warnings: 0 });
    }
}
