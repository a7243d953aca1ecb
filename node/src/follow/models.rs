//! Tells the scheduler what is polled of the runtime beside this node, and the cluster which models it holds.
//!
//! The scheduler hears at once, whatever the cluster does: requests that wait for a runtime that went down depend on
//! it. What the cluster is told is decided by [`plan_report`]: what the runtime lists against what the catalog records
//! for this node. As long as the runtime has listed nothing, what lies in its store speaks for it, and only adds. What
//! a model can do is told by its configuration in the store, else by the runtime, once the cluster keeps it. Of what is
//! gone it is said what no person removed: what this node did for the cluster, and what has a manifest that is none any
//! more, as a runtime does not list that either. Reports are idempotent, so a report whose outcome is unknown is simply
//! made again from fresh facts.

mod damaged;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Answer, CAPABILITIES_VERSION, Command, Location, read};
use ollamax_outbound::{Report, RuntimeHandle};
use ollamax_scheduler as scheduler;
use ollamax_scheduler::RuntimeReport;
use ollamax_security::draw_request_id;
use ollamax_transfer::Adopted;
use ollamax_types::limits::{MODEL_DETAILS_BYTES_MAX, REPORT_MODELS_MAX};
use ollamax_types::{Digest, ErrorCode, ModelRecord, NodeId, Role, RuntimeState};

use crate::import::plan::is_temporary;
use crate::slot::MemberEngines;

use damaged::{damaged_of, without_damaged};

/// Wait before the state is compared again although nothing was heard.
const COMPARE_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Wait before the newest report is read although nothing was heard: an expiry that moved wakes nobody.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Who says which models there are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Listed<'a> {
    /// The runtime: these and no others.
    Runtime(&'a [ModelRecord]),
    /// The files in its store, before it has listed anything itself. It may keep its models elsewhere, and words some
    /// details in its own way: so nothing is taken away by them, and what is on record of the same digest stays.
    Store(&'a [ModelRecord]),
}

/// What models can do by their configurations in the store, by manifest.
pub(crate) type Abilities<'a> = BTreeMap<Digest, &'a [String]>;

/// The next report to make, if any: at most `REPORT_MODELS_MAX` of each kind. Without `abilities` nothing is said of
/// what models can do: an older cluster does not keep it.
#[must_use]
pub(crate) fn plan_report(
    node: NodeId,
    listed: Listed<'_>,
    recorded: &[Location],
    abilities: Option<&Abilities<'_>>,
) -> Option<Command> {
    let (Listed::Runtime(models) | Listed::Store(models)) = listed;
    let known: BTreeMap<String, &ModelRecord> =
        recorded.iter().map(|location| (location.model.name.key(), &location.model)).collect();
    let finished = models.iter().filter(|model| !is_temporary(&model.name));
    let wanted: BTreeMap<String, ModelRecord> = finished
        .map(|model| {
            let key = model.name.key();
            let model = to_record(model, known.get(&key).copied(), abilities);
            (key, model)
        })
        .collect();
    let is_news = |key: &str, model: &ModelRecord| match (known.get(key), listed) {
        (None, _) => true,
        (Some(recorded), Listed::Runtime(_)) => *recorded != model,
        (Some(recorded), Listed::Store(_)) => recorded.digest != model.digest,
    };
    let present: Vec<ModelRecord> = wanted
        .iter()
        .filter(|(key, model)| is_news(key, model))
        .map(|(_, model)| model.clone())
        .take(REPORT_MODELS_MAX)
        .collect();
    let absent: Vec<String> = match listed {
        Listed::Runtime(_) => {
            known.keys().filter(|key| !wanted.contains_key(*key)).take(REPORT_MODELS_MAX).cloned().collect()
        }
        Listed::Store(_) => Vec::new(),
    };
    let removed = Vec::new();
    (!present.is_empty() || !absent.is_empty()).then_some(Command::ReportModels { node, present, absent, removed })
}

/// The same report, with those of the models that are gone which no person removed.
fn with_removed(report: Command, recorded: &[Location], was_removed: &dyn Fn(&Location) -> bool) -> Command {
    match report {
        Command::ReportModels { node, present, absent, .. } => {
            let removed: BTreeSet<String> =
                recorded.iter().filter(|held| was_removed(held)).map(|held| held.model.name.key()).collect();
            let removed = absent.iter().filter(|key| removed.contains(*key)).cloned().collect();
            Command::ReportModels { node, present, absent, removed }
        }
        other => other,
    }
}

/// What the catalog shall say of a model. Details that are too large to record are left out. Weights that were recorded
/// and that the runtime has not been asked for since it started stay: a manifest never changes its weights. What the
/// model can do stays likewise.
fn to_record(listed: &ModelRecord, recorded: Option<&ModelRecord>, abilities: Option<&Abilities<'_>>) -> ModelRecord {
    let mut model = listed.clone();
    if model.details_json.len() > MODEL_DETAILS_BYTES_MAX {
        "{}".clone_into(&mut model.details_json);
    }
    let same = recorded.filter(|recorded| recorded.digest == model.digest);
    if model.known_weights().is_none() {
        model.weights = same.map_or(model.weights, |recorded| recorded.weights);
    }
    let sources = abilities.map(|abilities| {
        let configuration: &[String] = abilities.get(&model.digest).copied().unwrap_or_default();
        let kept = same.map(|recorded| &recorded.capabilities[..]).unwrap_or_default();
        [configuration, &listed.capabilities[..], kept]
    });
    let told = sources.into_iter().flatten().find(|words| !words.is_empty());
    model.capabilities = told.map(<[String]>::to_vec).unwrap_or_default();
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

/// Ends with the reports, or with the engines.
async fn tell_cluster(engines: &MemberEngines, mut reports: watch::Receiver<Report>) {
    let mut adopted = engines.transfer.adopted();
    let mut before = reports.borrow().clone();
    loop {
        let report = reports.borrow_and_update().clone();
        let store = Arc::clone(&adopted.borrow_and_update());
        if is_other_store(&before, &report) {
            engines.transfer.look_again();
        }
        let settled = settle(engines, &report, &store).await;
        let again = tokio::time::sleep(if settled { COMPARE_AGAIN_AFTER } else { COMPARE_AGAIN_AFTER / 10 });
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return },
            // Once the runtime lists its models itself, its store has nothing to add.
            changed = adopted.changed(), if report.models.is_none() => if changed.is_err() { return },
            () = again => {}
        }
        before = report;
    }
}

/// Whether the runtime is another one, or lists other models. What is learnt of their weights is no change.
fn is_other_store(before: &Report, now: &Report) -> bool {
    let models = |report: &Report| {
        let models = report.models.clone()?;
        Some(models.iter().map(|model| (model.name.clone(), model.digest)).collect::<Vec<_>>())
    };
    (before.kind, &before.url) != (now.kind, &now.url) || models(before) != models(now)
}

/// Makes one report if the two disagree; true when they agree.
async fn settle(engines: &MemberEngines, report: &Report, store: &Adopted) -> bool {
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
    let Ok(Some(cluster)) = read::cluster(&*view) else { return false };
    let sound = without_damaged(report, &recorded, store).await;
    let report = sound.as_ref().unwrap_or(report);
    let Some(command) = plan(engines.node, report, store, &recorded, cluster.version) else { return true };
    let damaged = damaged_of(&command, &recorded, store).await;
    let is_known = |held: &Location| engines.carried_out.has(held) || damaged.contains(&held.model.name.key());
    let command = with_removed(command, &recorded, &is_known);
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

/// The next report by the word of the runtime, else by its store, to a cluster of this version. A model that lacks a
/// file is none.
fn plan(node: NodeId, report: &Report, store: &Adopted, recorded: &[Location], version: u32) -> Option<Command> {
    let abilities: Abilities<'_> =
        store.models.iter().map(|found| (found.model.digest, &*found.model.capabilities)).collect();
    let abilities = (version >= CAPABILITIES_VERSION).then_some(&abilities);
    if let Some(models) = &report.models {
        return plan_report(node, Listed::Runtime(models), recorded, abilities);
    }
    let complete = store.models.iter().filter(|model| model.complete);
    let models: Vec<ModelRecord> = complete.map(|model| model.model.clone()).collect();
    plan_report(node, Listed::Store(&models), recorded, abilities)
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
    use ollamax_core::catalog::CLUSTER_VERSION;
    use ollamax_transfer::Scanned;
    use ollamax_types::{RuntimeKind, Timestamp};

    use super::*;

    fn model(name: &str, digest: u8) -> ModelRecord {
        ModelRecord {
            name: name.parse().expect("a name"),
            digest: Digest([digest; 32]),
            weights: Digest([digest; 32]),
            size_bytes: 1,
            modified_at: Timestamp(1),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        }
    }

    fn check(listed: &[(&str, u8)], recorded: &[(&str, u8)], present: &[&str], absent: &[&str]) {
        let node = NodeId(1);
        let listed: Vec<ModelRecord> = listed.iter().map(|(name, digest)| model(name, *digest)).collect();
        let recorded: Vec<Location> =
            recorded.iter().map(|(name, digest)| Location { node, model: model(name, *digest) }).collect();
        let (mut found_present, mut found_absent) = (Vec::new(), Vec::new());
        if let Some(Command::ReportModels { present, absent, .. }) =
            plan_report(node, Listed::Runtime(&listed), &recorded, None)
        {
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
    fn what_this_node_removed_for_the_cluster_is_told_as_such() {
        let recorded: Vec<Location> =
            ["a", "b", "c"].map(|name| Location { node: NodeId(1), model: model(name, 1) }).to_vec();
        let key = |name: &str| model(name, 1).name.key();
        let told = |listed: &[ModelRecord]| {
            let report = plan_report(NodeId(1), Listed::Runtime(listed), &recorded, None).expect("some are gone");
            let was_removed = |held: &Location| held.model.name.key() != key("b");
            match with_removed(report, &recorded, &was_removed) {
                Command::ReportModels { absent, removed, .. } => (absent, removed),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(told(&[]), (vec![key("a"), key("b"), key("c")], vec![key("a"), key("c")]));
        assert_eq!(told(&[model("a", 1)]), (vec![key("b"), key("c")], vec![key("c")]), "it is there still");
        assert_eq!(told(&[model("a", 1), model("c", 1)]), (vec![key("b")], vec![]));
    }

    /// What is reported of models that lie in the store, when these are recorded.
    fn of_store(found: &[ModelRecord], recorded: &[ModelRecord]) -> Vec<ModelRecord> {
        let recorded: Vec<Location> =
            recorded.iter().map(|model| Location { node: NodeId(1), model: model.clone() }).collect();
        match plan_report(NodeId(1), Listed::Store(found), &recorded, None) {
            Some(Command::ReportModels { present, absent, .. }) => {
                assert_eq!(absent, Vec::<String>::new());
                present
            }
            _ => Vec::new(),
        }
    }

    #[test]
    fn the_store_speaks_for_a_runtime_that_has_listed_nothing_and_only_adds() {
        let (one, two) = (model("a", 1), model("a", 2));
        assert_eq!(of_store(&[], &[]), vec![]);
        assert_eq!(of_store(std::slice::from_ref(&one), &[]), vec![one.clone()]);
        assert_eq!(of_store(std::slice::from_ref(&two), std::slice::from_ref(&one)), vec![two.clone()]);
        assert_eq!(of_store(&[], std::slice::from_ref(&one)), vec![], "the runtime may keep it elsewhere");
        assert_eq!(of_store(&[model("A", 1), model("b", 1)], std::slice::from_ref(&one)), vec![model("b", 1)]);
        let worded = ModelRecord {
            details_json: r#"{"family":"llama"}"#.to_owned(),
            weights: Digest([9; 32]),
            size_bytes: 7,
            modified_at: Timestamp(9),
            ..one.clone()
        };
        assert_eq!(of_store(std::slice::from_ref(&worded), &[one]), vec![], "the same digest stays as it is recorded");
        let unfinished = "unfinished.00112233445566ff.import.ollamax.registry.ollama.ai/library/a";
        assert_eq!(of_store(&[model(unfinished, 1)], &[]), vec![]);
    }

    #[test]
    fn what_the_runtime_listed_counts_even_if_it_is_nothing_and_what_lacks_a_file_never() {
        let scanned = |name, complete| Scanned { model: model(name, 1), blobs: vec![], complete };
        let store =
            Adopted { models: Arc::new(vec![scanned("whole", true), scanned("partial", false)]), ..Adopted::default() };
        let names = |report: &Report| -> Vec<String> {
            match plan(NodeId(1), report, &store, &[], CLUSTER_VERSION) {
                Some(Command::ReportModels { present, .. }) => {
                    present.into_iter().map(|model| model.name.to_string()).collect()
                }
                _ => Vec::new(),
            }
        };
        let silent = Report::absent(RuntimeKind::Ollama);
        assert_eq!(names(&silent), ["whole:latest"]);
        assert_eq!(names(&Report { models: Some(Arc::default()), ..silent.clone() }), Vec::<String>::new());
        let listed = Report { models: Some(Arc::new(vec![model("other", 1)])), ..silent };
        assert_eq!(names(&listed), ["other:latest"]);
    }

    #[test]
    fn the_store_is_looked_through_again_when_the_runtime_or_its_list_is_another_one() {
        let silent = Report::absent(RuntimeKind::Ollama);
        let with = |models: &[(&str, u8)]| {
            let models = models.iter().map(|(name, digest)| model(name, *digest)).collect();
            Report { models: Some(Arc::new(models)), ..silent.clone() }
        };
        let known = ModelRecord { weights: Digest([9; 32]), modified_at: Timestamp(2), ..model("a", 1) };
        let known = Report { models: Some(Arc::new(vec![known])), ..silent.clone() };
        let elsewhere = Report { url: "http://127.0.0.1:5".to_owned(), ..silent.clone() };
        let up = Report { state: RuntimeState::Up, ..silent.clone() };
        let rows = [
            (&silent, &silent, false),
            (&silent, &up, false),
            (&silent, &elsewhere, true),
            (&silent, &Report::absent(RuntimeKind::Engine), true),
            (&silent, &with(&[]), true),
            (&with(&[("a", 1)]), &with(&[("a", 1)]), false),
            (&with(&[("a", 1)]), &with(&[("a", 2)]), true),
            (&with(&[("a", 1)]), &with(&[("a", 1), ("b", 1)]), true),
            (&with(&[("a", 1)]), &known, false),
        ];
        for (before, now, expected) in rows {
            assert_eq!(is_other_store(before, now), expected, "{before:?} {now:?}");
        }
    }

    #[test]
    fn weights_are_reported_once_they_are_known_and_not_taken_back_by_a_restart() {
        let unknown = model("a", 1);
        let known = ModelRecord { weights: Digest([9; 32]), ..unknown.clone() };
        let report = |listed: &ModelRecord, recorded: &ModelRecord| {
            let recorded = [Location { node: NodeId(1), model: recorded.clone() }];
            match plan_report(NodeId(1), Listed::Runtime(std::slice::from_ref(listed)), &recorded, None) {
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

    /// What is on record of a model that is held already, told by the store, the runtime and the record.
    fn abilities(store: &[&str], listed: &[&str], recorded: &[&str], version: u32) -> Vec<String> {
        let able = |words: &[&str], digest: u8| {
            let capabilities = words.iter().map(|word| (*word).to_owned()).collect();
            ModelRecord { capabilities, ..model("a", digest) }
        };
        let scanned = Scanned { model: able(store, 1), blobs: vec![], complete: true };
        let store = Adopted { models: Arc::new(vec![scanned]), ..Adopted::default() };
        let silent = Report::absent(RuntimeKind::Ollama);
        let report = Report { models: Some(Arc::new(vec![able(listed, 1)])), ..silent };
        let before = Location { node: NodeId(1), model: able(recorded, 1) };
        match plan(NodeId(1), &report, &store, std::slice::from_ref(&before), version) {
            Some(Command::ReportModels { mut present, .. }) => present.remove(0).capabilities,
            _ => before.model.capabilities,
        }
    }

    #[test]
    fn what_a_model_can_do_is_told_by_its_configuration_else_the_runtime_and_is_not_taken_back() {
        let four = CAPABILITIES_VERSION;
        assert_eq!(abilities(&["tools"], &["vision"], &[], four), ["tools"]);
        assert_eq!(abilities(&[], &["vision"], &["tools"], four), ["vision"]);
        assert_eq!(abilities(&[], &[], &["tools"], four), ["tools"], "the runtime was not asked yet");
        assert_eq!(abilities(&["tools"], &["vision"], &[], four - 1), Vec::<String>::new(), "nobody would keep it");
        // What is on record of another version says nothing.
        let recorded = ModelRecord { capabilities: vec!["tools".to_owned()], ..model("a", 2) };
        assert_eq!(to_record(&model("a", 1), Some(&recorded), Some(&Abilities::new())), model("a", 1));
    }

    #[test]
    fn a_report_with_abilities_needs_their_version_and_one_without_does_not() {
        let able = ModelRecord { capabilities: vec!["tools".to_owned()], ..model("a", 1) };
        let store = Adopted::default();
        let report = Report { models: Some(Arc::new(vec![able])), ..Report::absent(RuntimeKind::Ollama) };
        for version in 1..=CLUSTER_VERSION {
            let command = plan(NodeId(1), &report, &store, &[], version).expect("a model is news");
            let needed = if version < CAPABILITIES_VERSION { 1 } else { CAPABILITIES_VERSION };
            assert_eq!(command.least_version(), needed, "at version {version}");
        }
    }

    #[test]
    fn a_long_list_becomes_a_series() {
        let listed: Vec<ModelRecord> = (0..REPORT_MODELS_MAX + 5).map(|at| model(&format!("m{at}"), 1)).collect();
        let Some(Command::ReportModels { present, .. }) = plan_report(NodeId(1), Listed::Runtime(&listed), &[], None)
        else {
            panic!("a report");
        };
        assert_eq!(present.len(), REPORT_MODELS_MAX);
        let recorded: Vec<Location> = present.into_iter().map(|model| Location { node: NodeId(1), model }).collect();
        let Some(Command::ReportModels { present, .. }) =
            plan_report(NodeId(1), Listed::Runtime(&listed), &recorded, None)
        else {
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
        for listed in [Listed::Runtime, Listed::Store] {
            let big = std::slice::from_ref(&big);
            let Some(Command::ReportModels { present, .. }) = plan_report(NodeId(1), listed(big), &[], None) else {
                panic!("a report");
            };
            let recorded: Vec<Location> =
                present.into_iter().map(|model| Location { node: NodeId(1), model }).collect();
            assert_eq!(plan_report(NodeId(1), listed(big), &recorded, None), None);
        }
    }
}
