//! Tells the cluster which models the runtime beside this node holds, whenever the two disagree.
//!
//! The decision is [`plan_report`]: what the runtime lists against what the catalog records for this node. Reports
//! are idempotent, so a report whose outcome is unknown is simply made again from fresh facts.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Answer, Command, Location, read};
use ollamax_outbound::{Report, RuntimeHandle};
use ollamax_scheduler as scheduler;
use ollamax_scheduler::RuntimeReport;
use ollamax_types::limits::{MODEL_DETAILS_BYTES_MAX, REPORT_MODELS_MAX};
use ollamax_types::{ModelRecord, NodeId, RequestId, Role};

use crate::import::{TEMPORARY_PREFIX, TEMPORARY_TAG};
use crate::slot::MemberEngines;

/// Wait before the state is compared again although nothing was heard.
const COMPARE_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The next report to make, if any: at most `REPORT_MODELS_MAX` of each kind.
#[must_use]
pub(crate) fn plan_report(node: NodeId, listed: &[ModelRecord], recorded: &[Location]) -> Option<Command> {
    let finished = listed.iter().filter(|model| !is_unfinished(model));
    let wanted: BTreeMap<String, ModelRecord> =
        finished.map(|model| (model.name.key(), within_limits(model.clone()))).collect();
    let known: BTreeMap<String, &ModelRecord> =
        recorded.iter().map(|location| (location.model.name.key(), &location.model)).collect();
    let present: Vec<ModelRecord> = wanted
        .iter()
        .filter(|(key, model)| known.get(*key) != Some(model))
        .map(|(_, model)| model.clone())
        .take(REPORT_MODELS_MAX)
        .collect();
    let absent: Vec<String> =
        known.keys().filter(|key| !wanted.contains_key(*key)).take(REPORT_MODELS_MAX).cloned().collect();
    (!present.is_empty() || !absent.is_empty()).then_some(Command::ReportModels { node, present, absent })
}

/// An import that is still under way, or was cut off.
fn is_unfinished(model: &ModelRecord) -> bool {
    let [_, _, name, tag] = model.name.parts();
    name.starts_with(TEMPORARY_PREFIX) && tag == TEMPORARY_TAG
}

/// Details that are too large to record are left out; everything else of the model stays.
fn within_limits(mut model: ModelRecord) -> ModelRecord {
    if model.details_json.len() > MODEL_DETAILS_BYTES_MAX {
        "{}".clone_into(&mut model.details_json);
    }
    model
}

/// Keeps the catalog and the scheduler in step with the runtime until `stop`.
pub(crate) async fn follow(engines: MemberEngines, runtime: RuntimeHandle, stop: CancellationToken) {
    let handing_over = hand_over(engines.scheduler.clone(), runtime.report());
    tokio::select! {
        () = stop.cancelled() => {}
        () = handing_over => {}
        () = keep_catalog(&engines, runtime.report()) => {}
    }
}

/// The scheduler hears of every change at once, also while a report waits for a majority that is away.
async fn hand_over(scheduler: scheduler::Handle, mut reports: watch::Receiver<Report>) {
    loop {
        let report = for_scheduler(&reports.borrow_and_update());
        scheduler.set_runtime(report);
        if reports.changed().await.is_err() {
            return;
        }
    }
}

async fn keep_catalog(engines: &MemberEngines, mut reports: watch::Receiver<Report>) {
    loop {
        let report = reports.borrow_and_update().clone();
        let settled = settle(engines, &report).await;
        let again = tokio::time::sleep(if settled { COMPARE_AGAIN_AFTER } else { COMPARE_AGAIN_AFTER / 10 });
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

/// Makes one report if the two disagree; true when they agree.
async fn settle(engines: &MemberEngines, report: &Report) -> bool {
    let Some(listed) = &report.models else { return true };
    let view = engines.metadata.view();
    // Before this node's own record has arrived there is nothing to compare with.
    let Ok(Some(own)) = read::member(&*view, engines.node) else { return false };
    // Gateways hold no models, whatever runs beside them.
    if own.role == Role::Gateway {
        return true;
    }
    let recorded = match read::models_of(&*view, engines.node) {
        Ok(recorded) => recorded,
        Err(fault) => {
            tracing::error!(code = "storage_failed", error = %fault, "read this node's models");
            return false;
        }
    };
    let Some(command) = plan_report(engines.node, listed, &recorded) else { return true };
    let principal = format!("node/{}", engines.node);
    match engines.metadata.propose(RequestId::default(), &principal, command).await {
        Ok(committed) => match committed.answer {
            Answer::Refused(refusal) => {
                // The same report would be refused again: wait for the long interval.
                tracing::warn!(code = %refusal.code(), error = %refusal, "the cluster refuses this node's list of models");
                true
            }
            _ => false,
        },
        Err(error) => {
            tracing::debug!(code = %error.code(), %error, "report models; tried again soon");
            false
        }
    }
}

fn for_scheduler(report: &Report) -> RuntimeReport {
    RuntimeReport {
        kind: report.kind,
        version: report.version.clone(),
        state: report.state.clone(),
        models: report.models.clone().unwrap_or_default(),
        resident: report.resident.clone(),
    }
}

#[cfg(test)]
mod tests {
    use ollamax_types::{Digest, Timestamp};

    use super::*;

    fn model(name: &str, digest: u8) -> ModelRecord {
        ModelRecord {
            name: name.parse().expect("a name"),
            digest: Digest([digest; 32]),
            size_bytes: 1,
            modified_at: Timestamp(1),
            details_json: "{}".to_owned(),
        }
    }

    fn check(listed: &[(&str, u8)], recorded: &[(&str, u8)], present: &[&str], absent: &[&str]) {
        let node = NodeId(1);
        let listed: Vec<ModelRecord> = listed.iter().map(|(name, digest)| model(name, *digest)).collect();
        let recorded: Vec<Location> =
            recorded.iter().map(|(name, digest)| Location { node, model: model(name, *digest) }).collect();
        let (mut found_present, mut found_absent) = (Vec::new(), Vec::new());
        if let Some(Command::ReportModels { present, absent, .. }) = plan_report(node, &listed, &recorded) {
            found_present = present.into_iter().map(|model| model.name.to_string()).collect();
            found_absent = absent;
        }
        assert_eq!(found_present, present);
        let absent: Vec<String> = absent.iter().map(|name| model(name, 0).name.key()).collect();
        assert_eq!(found_absent, absent);
    }

    #[test]
    fn only_differences_are_reported() {
        check(&[("a", 1)], &[("a", 1)], &[], &[]);
        check(&[("A", 1)], &[("a", 1)], &[], &[]);
        check(&[("a", 1), ("b", 1)], &[("a", 1)], &["b:latest"], &[]);
        check(&[("a", 2)], &[("a", 1)], &["a:latest"], &[]);
        check(&[], &[("a", 1)], &[], &["a"]);
        check(&[("import-00ff:unfinished", 1), ("import-b", 1)], &[], &["import-b:latest"], &[]);
    }

    #[test]
    fn a_long_list_becomes_a_series() {
        let listed: Vec<ModelRecord> = (0..REPORT_MODELS_MAX + 5).map(|at| model(&format!("m{at}"), 1)).collect();
        let Some(Command::ReportModels { present, .. }) = plan_report(NodeId(1), &listed, &[]) else {
            panic!("a report");
        };
        assert_eq!(present.len(), REPORT_MODELS_MAX);
        let recorded: Vec<Location> = present.into_iter().map(|model| Location { node: NodeId(1), model }).collect();
        let Some(Command::ReportModels { present, .. }) = plan_report(NodeId(1), &listed, &recorded) else {
            panic!("the rest");
        };
        assert_eq!(present.len(), 5);
    }

    #[test]
    fn oversized_details_are_left_out_and_do_not_repeat_the_report() {
        let mut big = model("a", 1);
        big.details_json = "x".repeat(MODEL_DETAILS_BYTES_MAX + 1);
        let Some(Command::ReportModels { present, .. }) = plan_report(NodeId(1), &[big.clone()], &[]) else {
            panic!("a report");
        };
        let recorded: Vec<Location> = present.into_iter().map(|model| Location { node: NodeId(1), model }).collect();
        assert_eq!(plan_report(NodeId(1), &[big], &recorded), None);
    }
}
