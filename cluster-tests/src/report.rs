//! What a benchmark found: one row per case, each value with median, least and most over the runs. Rows that have no
//! column in common stand in tables of their own.

use std::fmt;

use comfy_table::{Table, presets};
use serde::{Serialize, Serializer};

use crate::machine::Machine;

/// Bytes of one MiB, in which memory is told.
pub(crate) const MIB: f64 = 1_048_576.0;

/// One benchmark's findings.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) bench: &'static str,
    pub(crate) machine: Machine,
    /// Programs measured, with their versions. An object in JSON.
    #[serde(serialize_with = "by_name")]
    pub(crate) versions: Vec<(String, String)>,
    pub(crate) runs: usize,
    /// Measured time of one point, seconds.
    pub(crate) point_seconds: f64,
    pub(crate) rows: Vec<Row>,
    pub(crate) aims: Vec<Aim>,
    /// What is compared with nothing here, and what that takes.
    pub(crate) left_out: Vec<String>,
    /// What else a reader has to know.
    pub(crate) notes: Vec<String>,
}

// === impl Report ===

impl Report {
    /// Why this run is not a good one: what failed; under `--check` also aims that were missed or not looked at.
    pub(crate) fn faults(&self, check: bool) -> Vec<String> {
        let failing = self.rows.iter().filter(|row| row.success_rate < 1.0).map(|row| {
            let Row { case, clients, .. } = row;
            format!("{case} at {clients} clients: requests failed, {:.4} % succeeded", row.success_rate * 100.0)
        });
        failing.chain(self.shortfalls(check)).collect()
    }

    /// The part of it that only `--check` asks for. It is all of it where requests may fail, and an aim says how many.
    pub(crate) fn shortfalls(&self, check: bool) -> Vec<String> {
        let missed = self.aims.iter().filter(|aim| !aim.met);
        let missed = missed.map(|aim| format!("{}: wanted {}, found {}: missed", aim.what, aim.wanted, aim.found));
        let unchecked = self.left_out.iter().map(|what| format!("not checked: {what}"));
        missed.chain(unchecked).filter(|_| check).collect()
    }
}

/// One case.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) clients: usize,
    /// Requests that succeeded, of all that were made, 0 to 1.
    pub(crate) success_rate: f64,
    /// By name, in the order of the table. An object in JSON.
    #[serde(serialize_with = "by_name")]
    pub(crate) values: Vec<(&'static str, Spread)>,
}

fn by_name<S: Serializer, N: Serialize, V: Serialize>(pairs: &[(N, V)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// One value over the runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` when nothing was measured.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, min, max })
    }
}

/// A number that we want to reach, and whether we did.
#[derive(Debug, Serialize)]
pub(crate) struct Aim {
    pub(crate) what: String,
    pub(crate) wanted: String,
    pub(crate) found: String,
    #[serde(serialize_with = "met_or_missed", rename = "outcome")]
    pub(crate) met: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn met_or_missed<S: Serializer>(met: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(outcome(*met))
}

const fn outcome(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "bench {}: {} runs, {} s each point", self.bench, self.runs, self.point_seconds)?;
        writeln!(f, "{}", self.machine)?;
        for (name, version) in &self.versions {
            writeln!(f, "{name} {version}")?;
        }
        for rows in self.rows.chunk_by(is_alike) {
            writeln!(f, "{}", table(rows))?;
        }
        for aim in &self.aims {
            writeln!(f, "{}: wanted {}, found {}: {}", aim.what, aim.wanted, aim.found, outcome(aim.met))?;
        }
        for note in self.left_out.iter().chain(&self.notes) {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

/// Whether two rows stand in one table: they share a column.
fn is_alike(row: &Row, next: &Row) -> bool {
    row.values.iter().any(|(name, _)| next.values.iter().any(|(other, _)| other == name))
}

/// The columns are those of the row that has most.
fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let names = rows.iter().max_by_key(|row| row.values.len()).map(|row| &row.values);
    let names: Vec<&str> = names.into_iter().flatten().map(|(name, _)| *name).collect();
    let titles = ["CASE", "CLIENTS", "OK"].into_iter().map(str::to_owned);
    table.set_header(titles.chain(names.iter().map(|name| name.to_uppercase())));
    for row in rows {
        let cell = |name: &&str| {
            let found = row.values.iter().find(|(own, _)| own == name).map(|(_, spread)| spread);
            found.map_or_else(
                || "-".to_owned(),
                |spread| format!("{} [{}..{}]", shown(spread.median), shown(spread.min), shown(spread.max)),
            )
        };
        let first = [row.case.clone(), row.clients.to_string(), format!("{:.2} %", row.success_rate * 100.0)];
        table.add_row(first.into_iter().chain(names.iter().map(cell)));
    }
    table
}

/// As many digits as a person reads.
fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_median_least_and_most() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of(vec![4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of(Vec::new()), None);
    }

    fn report(success_rate: f64, met: bool, left_out: &[&str]) -> Report {
        let spread = Spread { median: 2.0, min: 1.0, max: 3.0 };
        Report {
            bench: "metadata",
            machine: Machine::here(),
            versions: vec![("ollamax-node".to_owned(), "0.1.0".to_owned())],
            runs: 3,
            point_seconds: 2.0,
            rows: vec![Row { case: "c".to_owned(), clients: 64, success_rate, values: vec![("writes/s", spread)] }],
            aims: vec![Aim { what: "a".to_owned(), wanted: "at most 1 ms".to_owned(), found: "2 ms".to_owned(), met }],
            left_out: left_out.iter().map(|&what| what.to_owned()).collect(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn failures_always_count_and_aims_when_they_are_checked() {
        let check = |report: &Report, always: &[&str], checked: &[&str]| {
            assert_eq!(report.faults(false), always);
            assert_eq!(report.faults(true), [always, checked].concat());
            assert!(report.shortfalls(false).is_empty());
            assert_eq!(report.shortfalls(true), checked);
        };
        let failing = "c at 64 clients: requests failed, 99.9000 % succeeded";
        let missed = "a: wanted at most 1 ms, found 2 ms: missed";
        check(&report(1.0, true, &[]), &[], &[]);
        check(&report(0.999, true, &[]), &[failing], &[]);
        check(&report(1.0, false, &[]), &[], &[missed]);
        check(&report(1.0, true, &["no nginx"]), &[], &["not checked: no nginx"]);
        check(&report(0.999, false, &["no nginx"]), &[failing], &[missed, "not checked: no nginx"]);
    }

    #[test]
    fn what_is_left_out_is_shown_as_a_note() {
        let text = report(1.0, true, &["no nginx"]).to_string();
        assert!(text.contains("\nnote: no nginx\n"), "{text}");
    }

    #[test]
    fn rows_without_a_common_column_stand_in_tables_of_their_own() {
        let spread = Spread { median: 2.0, min: 1.0, max: 3.0 };
        let row = |names: &[&'static str]| Row {
            case: "c".to_owned(),
            clients: 1,
            success_rate: 1.0,
            values: names.iter().map(|name| (*name, spread)).collect(),
        };
        let rows = vec![row(&["a"]), row(&["b", "a"]), row(&["d"]), row(&[])];
        let text = Report { rows, ..report(1.0, true, &[]) }.to_string();
        let headers: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.trim_start().starts_with("CASE"))
            .map(|line| line.split_whitespace().skip(3).collect())
            .collect();
        assert_eq!(headers, [vec!["B", "A"], vec!["D"], vec![]]);
    }

    #[test]
    fn as_json_everything_is_found_by_its_name() {
        let report = report(0.5, true, &[]);
        let json = serde_json::to_value(&report).expect("plain data");
        assert!(json["machine"]["cores"].is_u64());
        assert_eq!(json["versions"]["ollamax-node"], "0.1.0");
        assert_eq!(json["runs"], 3);
        assert_eq!(json["rows"][0]["success_rate"], 0.5);
        assert_eq!(json["rows"][0]["values"]["writes/s"], serde_json::json!({"median": 2.0, "min": 1.0, "max": 3.0}));
    }
}
