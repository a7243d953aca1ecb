//! Notes which models were served here, a day for each, for whoever wants to know what nobody uses.
//!
//! What a runtime has in memory is looked at once a minute and counts as served, since somebody may ask it at its own
//! port; what comes and goes between two looks is missed. The scheduler knows it from memory; the record keeps the last
//! day of the whole cluster. Only a later day than that is told, so a model in use costs one change a day, whatever is
//! asked of it. Rules count in log time, which is behind the clocks when the whole cluster was off: a day that has not
//! come there yet is told as the one that is there, and the next one when that has come. What is not told for an hour
//! at a stop is lost, and the model counts as unused for a day longer.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Command, Fault, View, read};
use ollamax_metadata as metadata;
use ollamax_metadata::ProposeError;
use ollamax_scheduler as scheduler;
use ollamax_security::draw_request_id;
use ollamax_types::limits::REPORT_MODELS_MAX;
use ollamax_types::{ErrorCode, ModelName, NodeId};

/// Time between two looks at what the runtime has in memory.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// So many looks for each time that it is told.
const LOOKS: u32 = 60;

/// What is to be told of these days, none of them later than `today`: a change for each day, and more where there are
/// many names. A name without a record of its own is told when it has one.
fn plan_uses(
    view: &dyn View,
    node: NodeId,
    served: &BTreeMap<ModelName, u32>,
    today: u32,
) -> Result<Vec<Command>, Fault> {
    let mut by_day: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (name, day) in served {
        let day = today.min(*day);
        if read::model(view, name)?.is_some_and(|model| model.used_on < day) {
            by_day.entry(day).or_default().push(name.key());
        }
    }
    let uses = by_day.into_iter().flat_map(|(day, names)| {
        let some: Vec<Vec<String>> = names.chunks(REPORT_MODELS_MAX).map(<[String]>::to_vec).collect();
        some.into_iter().map(move |names| Command::NoteUse { node, day, names })
    });
    Ok(uses.collect())
}

/// Tells once an hour, until `stop`.
pub(crate) async fn follow(metadata: metadata::Handle, scheduler: scheduler::Handle, stop: CancellationToken) {
    loop {
        for _ in 0..LOOKS {
            if stop.run_until_cancelled(sleep(LOOK_INTERVAL)).await.is_none() {
                return;
            }
            scheduler.note_loaded();
        }
        if stop.run_until_cancelled(tell(&metadata, &scheduler)).await.is_none() {
            return;
        }
    }
}

async fn tell(metadata: &metadata::Handle, scheduler: &scheduler::Handle) {
    let uses = match due(metadata, scheduler) {
        Ok(uses) => uses,
        Err(fault) => {
            tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read which models were used");
            return;
        }
    };
    let principal = format!("node/{}", metadata.node());
    for command in uses {
        let told = metadata.propose(draw_request_id(), &principal, command).await;
        match told.and_then(metadata::Committed::accepted) {
            Ok(_) => {}
            Err(ProposeError::Refused(refusal)) => {
                tracing::warn!(error = %refusal, "models that were used here count as unused until they are noted");
            }
            Err(error) => {
                tracing::debug!(code = %error.code(), %error, "tell which models were used; tried again in an hour");
                return;
            }
        }
    }
}

/// What this cluster lets be told.
fn due(metadata: &metadata::Handle, scheduler: &scheduler::Handle) -> Result<Vec<Command>, Fault> {
    let view = metadata.view();
    let Some(cluster) = read::cluster(&*view)? else { return Ok(Vec::new()) };
    let today = metadata.log_time().day();
    let uses = plan_uses(&*view, metadata.node(), &scheduler.served(), today)?;
    Ok(uses.into_iter().filter(|told| told.least_version() <= cluster.version).collect())
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::mem::MemView;
    use ollamax_core::catalog::{Key, Model, Mutation, Record};
    use ollamax_types::Timestamp;

    use super::*;

    fn name(text: &str) -> ModelName {
        text.parse().expect("a name")
    }

    #[test]
    fn only_a_later_day_is_told_that_has_come_and_only_of_what_has_a_record() {
        let mut view = MemView::default();
        for (text, used_on) in [("a", 0), ("b", 5), ("c", 6), ("d", 4)] {
            let model = Model { used_on, ..Model::new(name(text), Timestamp(1)) };
            view.write(&[Mutation::Put(Key::Model(name(text).key()), Record::Model(Box::new(model)))]);
        }
        let served: BTreeMap<ModelName, u32> =
            [("a", 5), ("b", 5), ("c", 5), ("d", 6), ("e", 6)].map(|(text, day)| (name(text), day)).into();
        let node = NodeId(1);
        let check = |view: &MemView, today: u32, expected: &[(u32, &[&str])]| {
            let expected = expected.iter().map(|(day, names)| {
                let names = names.iter().map(|text| name(text).key()).collect();
                Command::NoteUse { node, day: *day, names }
            });
            let told = plan_uses(view, node, &served, today).expect("readable");
            assert_eq!(told, expected.collect::<Vec<_>>(), "on day {today}");
        };
        check(&view, 7, &[(5, &["a"]), (6, &["d"])]);
        // Log time comes back to the clocks.
        check(&view, 4, &[(4, &["a"])]);
        let told = Model { used_on: 4, ..Model::new(name("a"), Timestamp(1)) };
        view.write(&[Mutation::Put(Key::Model(name("a").key()), Record::Model(Box::new(told)))]);
        check(&view, 4, &[]);
        check(&view, 5, &[(5, &["a", "d"])]);
    }

    #[test]
    fn many_names_are_told_in_parts_that_the_record_takes() {
        let (mut view, mut served) = (MemView::default(), BTreeMap::new());
        for number in 0..=REPORT_MODELS_MAX {
            let name = name(&format!("m{number}"));
            let model = Model::new(name.clone(), Timestamp(1));
            view.write(&[Mutation::Put(Key::Model(name.key()), Record::Model(Box::new(model)))]);
            served.insert(name, 7);
        }
        let told = plan_uses(&view, NodeId(1), &served, 7).expect("readable");
        let counts: Vec<usize> = told
            .iter()
            .map(|told| if let Command::NoteUse { day: 7, names, .. } = told { names.len() } else { 0 })
            .collect();
        assert_eq!(counts, [REPORT_MODELS_MAX, 1]);
    }
}
