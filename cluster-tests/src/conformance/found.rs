//! What the suite found, as it wrote it down: a folder for each scenario, with all its checks.
//!
//! Nothing is taken from what the suite prints. A folder that cannot be read is an error, not a scenario that passed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// How the name of a scenario's folder begins.
const PREFIX: &str = "server-";
/// How it ends: `-2026-10-01T09-00-00-000Z`.
const MOMENT_CHARS: usize = 25;
/// The file with the checks.
const CHECKS: &str = "checks.json";
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

/// Reads what a run left in a folder.
///
/// # Errors
/// When something cannot be read, is not what the suite writes, or is of a scenario that ran twice.
pub(crate) fn read(folder: &Path) -> Result<Scenarios> {
    let mut scenarios = Scenarios::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry.with_context(|| format!("read {}", folder.display()))?;
        let Some(name) = scenario_of(&entry.file_name().to_string_lossy()) else { continue };
        let file = entry.path().join(CHECKS);
        let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let checks: Vec<Check> = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not what the suite writes", file.display()))?;
        // Which of two runs counts, nobody can say.
        ensure!(scenarios.insert(name, verdict_of(&checks)).is_none(), "{} is of a second run", file.display());
    }
    Ok(scenarios)
}

/// The scenario to which a folder belongs.
fn scenario_of(folder: &str) -> Option<String> {
    let rest = folder.strip_prefix(PREFIX)?;
    let end = rest.len().checked_sub(MOMENT_CHARS)?;
    let (name, moment) = rest.split_at_checked(end)?;
    (moment.starts_with('-') && moment.ends_with('Z') && !name.is_empty()).then(|| name.to_owned())
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
        let check = |folder: &str, expected: Option<&str>| {
            assert_eq!(scenario_of(folder).as_deref(), expected, "{folder}");
        };
        check("server-tools-list-2026-10-01T09-00-00-000Z", Some("tools-list"));
        check("server-server-stateless-2026-10-01T09-00-00-000Z", Some("server-stateless"));
        check("said.txt", None);
        check("server-2026-10-01T09-00-00-000Z", None);
        check("server-tools-list", None);
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
        let expected = Scenarios::from([("ping".to_owned(), Verdict::Passed { warnings: 0 })]);
        assert_eq!(read(folder.path()).expect("read"), expected);
        let again = folder.path().join("server-ping-2026-10-01T09-00-01-000Z");
        fs::create_dir(&again).expect("made");
        fs::write(again.join(CHECKS), checks).expect("written");
        assert!(read(folder.path()).is_err(), "it ran twice");
        fs::remove_dir_all(&again).expect("removed");
        fs::write(scenario.join(CHECKS), r#"[{"id": "ping", "status": "FINE"}]"#).expect("written");
        assert!(read(folder.path()).is_err());
        fs::remove_file(scenario.join(CHECKS)).expect("removed");
        assert!(read(folder.path()).is_err());
    }
}
