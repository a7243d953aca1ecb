//! The leader gives tasks to nodes: who gets what is decided by `core::tasks`, and each gift is fenced by the term in
//! which it was decided.
//!
//! It reads the tasks when one has changed, and while one is queued also a second after the last time, whatever changed
//! meanwhile, since a node may have come or gone. What is refused is decided anew from fresh facts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Fault, TaskState};
use ollamax_core::tasks::assign;
use ollamax_metadata::ProposeError;
use ollamax_types::ErrorCode;

use super::Lead;
use crate::follow::{next_look, pause_after};

/// Time between two looks, and while a task is queued the most between two readings, although none changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What the last look found.
struct Looked {
    at: Instant,
    term: u64,
    /// Index of the entry that had changed a task last.
    changed_at: u64,
    /// Something waits for a node that is fit.
    is_any_queued: bool,
}

// === impl Looked ===

impl Looked {
    /// Whether another look would decide the same.
    fn still_holds(&self, term: u64, changed_at: u64) -> bool {
        self.term == term && self.changed_at == changed_at && !self.holds_for().is_zero()
    }

    /// How long it holds while no task changes: hosts may be others by then.
    fn holds_for(&self) -> Duration {
        if self.is_any_queued { LOOK_INTERVAL.saturating_sub(self.at.elapsed()) } else { LOOK_INTERVAL }
    }
}

/// Gives tasks out while this node leads, until `stop`.
pub(super) async fn lead(lead: Arc<dyn Lead>, stop: CancellationToken) {
    let mut changes = lead.changes();
    let (mut looked, mut took): (Option<Looked>, _) = (None, Duration::ZERO);
    loop {
        let interval = looked.as_ref().map_or(LOOK_INTERVAL, Looked::holds_for);
        let woken = next_look(&mut changes, pause_after(took), interval);
        if stop.run_until_cancelled(woken).await != Some(true) {
            return;
        }
        took = Duration::ZERO;
        let Some(term) = lead.term() else {
            looked = None;
            continue;
        };
        match stop.run_until_cancelled(give_out(&*lead, term, &mut looked, &mut took)).await {
            Some(Ok(())) => {}
            Some(Err(fault)) => {
                looked = None;
                tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read the tasks to give them out");
            }
            None => return,
        }
    }
}

/// One look, where the last one does not hold any more; `took` is how long the decision took.
async fn give_out(lead: &dyn Lead, term: u64, looked: &mut Option<Looked>, took: &mut Duration) -> Result<(), Fault> {
    // Read first: what changes behind it is found by the next look.
    let (at, changed_at) = (Instant::now(), lead.tasks_changed_at()?);
    if looked.as_ref().is_some_and(|looked| looked.still_holds(term, changed_at)) {
        return Ok(());
    }
    let tasks = lead.tasks()?;
    let is_any_queued = tasks.iter().any(|task| task.state == TaskState::Queued);
    let given = if is_any_queued { assign(&tasks, &lead.hosts()?) } else { Vec::new() };
    *looked = Some(Looked { at, term, changed_at, is_any_queued });
    *took = at.elapsed();
    for (id, node) in given {
        match lead.give(id, node, term).await {
            Ok(()) => tracing::info!(task = %id, %node, "a task was given to a node"),
            Err(ProposeError::Refused(refusal)) => {
                tracing::debug!(task = %id, %node, %refusal, "a task was not given; decided anew");
            }
            Err(error) => {
                tracing::debug!(task = %id, code = %error.code(), %error, "give a task to a node; decided anew");
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ollamax_core::tasks::Host;
    use ollamax_types::NodeId;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::follow::tasks::mem::{MemRecord, task};

    fn hosts(nodes: &[u64]) -> Vec<Host> {
        nodes.iter().map(|node| Host { node: NodeId(*node), is_fit: true }).collect()
    }

    async fn looks(record: &MemRecord, hosts_now: Vec<Host>, term: Option<u64>) -> usize {
        record.set_lead(term, hosts_now);
        let leading = lead(Arc::new(record.clone()), CancellationToken::new());
        assert!(timeout(3 * LOOK_INTERVAL, leading).await.is_err(), "it leads until it is stopped");
        record.working().len()
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_leads_gives_tasks_out_and_in_its_own_term() {
        let record = MemRecord::new(1);
        record.put(task(1));
        record.put(task(2));
        assert_eq!(looks(&record, hosts(&[1, 2]), None).await, 0);
        assert_eq!(looks(&record, vec![], Some(4)).await, 0, "nobody is fit");
        record.set_term_now(5);
        assert_eq!(looks(&record, hosts(&[1, 2]), Some(4)).await, 0, "another one leads by now");
        record.set_term_now(4);
        assert_eq!(looks(&record, hosts(&[1, 2]), Some(4)).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_waits_for_a_node_that_is_fit_and_goes_to_it_although_nothing_changed() {
        let record = MemRecord::new(1);
        record.put(task(1));
        record.set_lead(Some(1), vec![]);
        record.set_term_now(1);
        let stop = CancellationToken::new();
        let leading = lead(Arc::new(record.clone()), stop.clone());
        let comes = async {
            sleep(2 * LOOK_INTERVAL).await;
            assert!(record.working().is_empty());
            record.set_lead(Some(1), hosts(&[2]));
            sleep(2 * LOOK_INTERVAL).await;
            stop.cancel();
        };
        tokio::join!(leading, comes);
        assert_eq!(record.working(), [NodeId(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_comes_is_found_a_second_after_the_last_look_whatever_changed_meanwhile() {
        let (record, stop) = (MemRecord::new(1), CancellationToken::new());
        record.set_lead(Some(1), vec![]);
        record.set_term_now(1);
        let leading = lead(Arc::new(record.clone()), stop.clone());
        let comes = async {
            record.put(task(1));
            sleep(LOOK_INTERVAL * 9 / 10).await;
            assert_eq!((record.reads(), record.working()), (1, vec![]));
            record.set_lead(Some(1), hosts(&[2]));
            record.pass();
            sleep(LOOK_INTERVAL * 4 / 10).await;
            assert_eq!(record.working(), [NodeId(2)]);
            stop.cancel();
        };
        tokio::join!(leading, comes);
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_are_read_when_one_changed_and_at_intervals_while_one_is_queued() {
        const TIMES: usize = 40;
        let (record, stop) = (MemRecord::new(1), CancellationToken::new());
        record.set_lead(Some(1), vec![]);
        record.set_term_now(1);
        let leading = lead(Arc::new(record.clone()), stop.clone());
        // How often they are read while all kinds of things change, four times in an interval.
        let busy = async || {
            let before = record.reads();
            for _ in 0..TIMES {
                record.pass();
                sleep(LOOK_INTERVAL / 4).await;
            }
            record.reads() - before
        };
        let changes = async {
            assert_eq!(busy().await, 1, "nothing is there: one look, and no other");
            record.put(task(1));
            let reads = busy().await;
            assert!((TIMES / 8..=TIMES / 4 + 2).contains(&reads), "{reads} looks for a node that is fit");
            record.set_lead(Some(1), hosts(&[2]));
            sleep(2 * LOOK_INTERVAL).await;
            assert_eq!(record.working(), [NodeId(2)]);
            assert_eq!(busy().await, 0, "nothing is queued");
            record.set_lead(Some(2), hosts(&[2]));
            assert_eq!(busy().await, 1, "it leads anew");
            stop.cancel();
        };
        tokio::join!(leading, changes);
    }
}
