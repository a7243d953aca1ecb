//! Tells the scheduler what is polled of the runtime beside this node, and the cluster which models it holds.
//!
//! The scheduler hears at once, whatever the cluster does: requests that wait for a runtime that went down depend on
//! it. What the cluster is told is decided by [`plan_report`]: what the runtime lists against what the catalog records
//! for this node. Reports are idempotent, so a report whose outcome is unknown is simply made again from fresh facts.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Answer, Command, Location, read};
use ollamax_outbound::{Report, RuntimeHandle};
use ollamax_scheduler as scheduler;
use ollamax_scheduler::RuntimeReport;
use ollamax_security::draw_request_id;
use ollamax_types::limits::{MODEL_DETAILS_BYTES_MAX, REPORT_MODELS_MAX};
use ollamax_types::{ErrorCode, ModelRecord, NodeId, Role, RuntimeState};

use crate::import::plan::is_temporary;
use crate::slot::MemberEngines;

/// Wait before the state is compared again although nothing was heard.
const COMPARE_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Wait before the newest report is read although nothing was heard: an expiry that moved wakes nobody.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The next report to make, if any: at most `REPORT_MODELS_MAX` of each kind.
#[must_use]
pub(crate) fn plan_report(node: NodeId, listed: &[ModelRecord], recorded: &[Location]) -> Option<Command> {
    let known: BTreeMap<String, &ModelRecord> =
        recorded.iter().map(|location| (location.model.name.key(), &location.model)).collect();
    let finished = listed.iter().filter(|model| !is_temporary(&model.name));
    let wanted: BTreeMap<String, ModelRecord> = finished
        .map(|model| {
            let key = model.name.key();
            let model = to_record(model, known.get(&key).copied());
            (key, model)
        })
        .collect();
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

/// What the catalog shall say of a model. Details that are too large to record are left out. Weights that were recorded
/// and that the runtime has not been asked for since it started stay: a manifest never changes its weights.
fn to_record(listed: &ModelRecord, recorded: Option<&ModelRecord>) -> ModelRecord {
    let mut model = listed.clone();
    if model.details_json.len() > MODEL_DETAILS_BYTES_MAX {
        "{}".clone_into(&mut model.details_json);
    }
    let same = recorded.filter(|recorded| recorded.digest == model.digest && model.known_weights().is_none());
    model.weights = same.map_or(model.weights, |recorded| recorded.weights);
    model
}

/// Keeps the catalog and the scheduler in step with the runtime until `stop`.
pub(crate) async fn follow(engines: MemberEngines, runtime: RuntimeHandle, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tell_scheduler(&engines.scheduler, runtime.report()) => {}
        () = tell_cluster(&engines, runtime.report()) => {}
    }
}

/// Ends with the reports.
async fn tell_scheduler(scheduler: &scheduler::Handle, mut reports: watch::Receiver<Report>) {
    loop {
        scheduler.set_runtime(for_scheduler(&reports.borrow_and_update()));
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(READ_AGAIN_AFTER) => {}
        }
    }
}

/// Ends with the reports.
async fn tell_cluster(engines: &MemberEngines, mut reports: watch::Receiver<Report>) {
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
            tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read this node's models");
            return false;
        }
    };
    let Some(command) = plan_report(engines.node, listed, &recorded) else { return true };
    let principal = format!("node/{}", engines.node);
    let id = draw_request_id();
    let span = tracing::error_span!("models", request_id = id.0);
    let told = engines.metadata.propose(id, &principal, command).await;
    span.in_scope(|| match told {
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
    })
}

/// A runtime that answers and has not listed its models yet cannot be sent work: an empty list would say that it has
/// none, and clients would hear "not found".
fn for_scheduler(report: &Report) -> RuntimeReport {
    let state = match (&report.state, &report.models) {
        (RuntimeState::Up, None) => RuntimeState::Down("it has not listed its models yet".to_owned()),
        (state, _) => state.clone(),
    };
    RuntimeReport {
        kind: report.kind,
        version: report.version.clone(),
        state,
        models: report.models.clone().unwrap_or_default(),
        resident: report.resident.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ollamax_types::{Digest, RuntimeKind, Timestamp};

    use super::*;

    fn model(name: &str, digest: u8) -> ModelRecord {
        ModelRecord {
            name: name.parse().expect("a name"),
            digest: Digest([digest; 32]),
            weights: Digest([digest; 32]),
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
        let unfinished = "unfinished.00112233445566ff.import.ollamax.registry.ollama.ai/library/a";
        check(&[(unfinished, 1), ("unfinished", 1)], &[], &["unfinished:latest"], &[]);
    }

    #[test]
    fn weights_are_reported_once_they_are_known_and_not_taken_back_by_a_restart() {
        let unknown = model("a", 1);
        let known = ModelRecord { weights: Digest([9; 32]), ..unknown.clone() };
        let report = |listed: &ModelRecord, recorded: &ModelRecord| {
            let recorded = [Location { node: NodeId(1), model: recorded.clone() }];
            match plan_report(NodeId(1), std::slice::from_ref(listed), &recorded) {
                Some(Command::ReportModels { present, .. }) => present,
                _ => vec![],
            }
        };
        assert_eq!(report(&known, &unknown), vec![known.clone()]);
        assert_eq!(report(&known, &known), vec![]);
        assert_eq!(report(&unknown, &known), vec![]);
        let touched = ModelRecord { modified_at: Timestamp(2), ..unknown };
        let expected = ModelRecord { modified_at: Timestamp(2), ..known.clone() };
        assert_eq!(report(&touched, &known), vec![expected]);
        assert_eq!(report(&model("a", 2), &known), vec![model("a", 2)], "another manifest may have other weights");
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
    fn a_runtime_that_has_not_listed_its_models_is_not_taken_for_empty() {
        let listing = Report { state: RuntimeState::Up, ..Report::absent(RuntimeKind::Ollama) };
        assert!(matches!(for_scheduler(&listing).state, RuntimeState::Down(_)));
        let empty = Report { models: Some(Arc::default()), ..listing };
        assert_eq!(for_scheduler(&empty).state, RuntimeState::Up);
        let absent = Report { state: RuntimeState::Absent, models: None, ..empty };
        assert_eq!(for_scheduler(&absent).state, RuntimeState::Absent);
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
