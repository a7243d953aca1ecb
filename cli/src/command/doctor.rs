//! `ollamax doctor`: checks of this machine and its way to the others.

use serde_json::json;

use ollamax_proto::v1::check::Outcome;
use ollamax_proto::v1::{Check, DoctorRequest};

use crate::args::{Global, Output};
use crate::client;
use crate::error::Failure;
use crate::output;

/// Runs all checks; exit code 10 when one fails.
pub(crate) async fn run(global: &Global) -> Result<(), Failure> {
    let checks = client::connect(global).await?.doctor(DoctorRequest {}).await?.into_inner().checks;
    if global.output == Output::Json {
        let shown: Vec<_> = checks
            .iter()
            .map(|check| json!({"id": check.id, "outcome": word(check.outcome()), "found": check.found, "fix": check.fix}))
            .collect();
        output::json("Doctor", json!({"checks": shown}))?;
    } else {
        output::text(&page(&checks))?;
    }
    let failed = checks.iter().any(|check| check.outcome() == Outcome::Fail);
    if failed { Err(Failure::degraded()) } else { Ok(()) }
}

fn page(checks: &[Check]) -> String {
    let mut page = String::new();
    for check in checks {
        page += &format!("{:<7} {:<13} {}\n", word(check.outcome()), check.id, check.found);
        if !check.fix.is_empty() && check.outcome() != Outcome::Skipped {
            page += &format!("{:<21} try: {}\n", "", check.fix);
        }
    }
    page
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Warn => "warning",
        Outcome::Fail => "failed",
        Outcome::Skipped | Outcome::Unspecified => "skipped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_shows_how_to_mend_it() {
        let mut failed = Check {
            id: "disk".to_owned(),
            found: "1 MiB free".to_owned(),
            fix: "free some".to_owned(),
            ..Check::default()
        };
        failed.set_outcome(Outcome::Fail);
        let mut fine = Check { id: "clock".to_owned(), found: "2 ms".to_owned(), ..Check::default() };
        fine.set_outcome(Outcome::Ok);
        insta::assert_snapshot!(page(&[fine, failed]), @r"
        ok      clock         2 ms
        failed  disk          1 MiB free
                              try: free some
        ");
    }
}
