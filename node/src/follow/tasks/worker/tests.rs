//! What a node does with the tasks that it is given, on a paused clock, over a record and a bench in memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use ollamax_core::catalog::TaskState;
use ollamax_types::NodeId;

use super::*;
use crate::follow::tasks::mem::{MemBench, MemRecord, task};

const OWN: NodeId = NodeId(2);
const SECOND: Duration = Duration::from_secs(1);

/// A worker at its record and its bench, while somebody does something to them.
async fn beside(record: &MemRecord, bench: &Arc<MemBench>, script: impl Future<Output = ()>) {
    let stop = CancellationToken::new();
    let working = work(Arc::new(record.clone()), Arc::clone(bench) as _, stop.clone());
    let scripted = async {
        script.await;
        stop.cancel();
    };
    tokio::join!(working, scripted);
}

fn bench<W>(working: impl Fn(Work) -> W + Send + Sync + 'static) -> Arc<MemBench>
where
    W: Future<Output = Result<Value, ToolError>> + Send + 'static,
{
    Arc::new(MemBench::new(working))
}

/// One that never comes to an end.
fn endless() -> Arc<MemBench> {
    bench(|_| pending())
}

fn given(number: u8, attempt: u32) -> Task {
    Task { state: TaskState::Working { node: OWN }, attempt, ..task(number) }
}

fn is_completed(record: &MemRecord, number: u8) -> bool {
    matches!(record.get(number).state, TaskState::Completed { .. })
}

#[tokio::test(start_paused = true)]
async fn what_is_given_to_this_node_is_done_once_and_nothing_else() {
    let record = MemRecord::new(OWN.0);
    let bench = bench(|work: Work| async move {
        assert_eq!((work.task, work.begun), (TaskId([3; 16]), 2), "others go on with what it began then");
        assert_eq!(work.caller.principal, Principal::of_socket(7));
        Ok(json!({"nodes": ["a"]}))
    });
    record.put(task(1));
    record.put(Task { state: TaskState::Working { node: NodeId(3) }, ..task(2) });
    record.put(Task { losses: 1, ..given(3, 3) });
    beside(&record, &bench, sleep(SECOND)).await;
    assert_eq!(record.get(3).state, TaskState::Completed { result_json: r#"{"nodes":["a"]}"#.to_owned() });
    assert_eq!((bench.counts(), record.counts()), ((1, 0), (0, 1)));
}

#[tokio::test(start_paused = true)]
async fn leases_are_renewed_three_times_each_with_how_far_it_is() {
    let record = MemRecord::new(OWN.0);
    let bench = bench(|work: Work| async move {
        work.progress.tell(3, Some(10), "half way");
        pending().await
    });
    record.put(given(1, 1));
    record.put(given(2, 1));
    beside(&record, &bench, sleep(3 * TASK_LEASE + SECOND)).await;
    let (tells, ends) = record.counts();
    assert!((9..=10).contains(&tells) && ends == 0, "{tells} tells, {ends} ends");
    let progress = record.get(1).progress;
    assert_eq!((progress.done, progress.total, progress.text.as_str()), (3, 10, "half way"));
}

#[tokio::test(start_paused = true)]
async fn what_is_to_stop_hears_of_it_and_says_itself_how_it_ends() {
    let record = MemRecord::new(OWN.0);
    let bench = bench(|work: Work| async move {
        work.cancelled.cancelled().await;
        Err(ToolError::new(ErrorCode::PullCancelled, "it was ended", ""))
    });
    record.put(given(1, 1));
    beside(&record, &bench, async {
        sleep(SECOND).await;
        assert_eq!(bench.counts(), (1, 1));
        record.put(Task { cancel_asked: true, ..record.get(1) });
        sleep(SECOND).await;
    })
    .await;
    assert_eq!(record.get(1).state, TaskState::Cancelled);
    assert_eq!(record.get(1).progress.text, "it was ended");
}

#[tokio::test(start_paused = true)]
async fn what_was_to_stop_before_this_node_had_it_is_ended_by_its_work() {
    let record = MemRecord::new(OWN.0);
    let bench = bench(|work: Work| async move {
        assert!(work.cancelled.is_cancelled(), "from its beginning");
        Err(ToolError::new(ErrorCode::PullCancelled, "what attempt 1 began was ended", ""))
    });
    record.put(Task { cancel_asked: true, ..given(1, 2) });
    beside(&record, &bench, sleep(SECOND)).await;
    assert_eq!((record.get(1).state, bench.counts()), (TaskState::Cancelled, (1, 0)));
    assert_eq!(record.get(1).progress.text, "what attempt 1 began was ended");
}

#[tokio::test(start_paused = true)]
async fn what_has_moved_is_broken_off_without_a_word() {
    let (record, bench) = (MemRecord::new(OWN.0), endless());
    record.put(given(1, 1));
    beside(&record, &bench, async {
        sleep(SECOND).await;
        assert_eq!(bench.counts(), (1, 1));
        record.put(Task { state: TaskState::Working { node: NodeId(3) }, attempt: 2, ..record.get(1) });
        sleep(SECOND).await;
        assert_eq!((bench.counts(), record.counts().1), ((1, 0), 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_tell_lets_go_and_begins_again_only_in_another_attempt() {
    let (record, bench) = (MemRecord::new(OWN.0), endless());
    record.put(given(1, 1));
    beside(&record, &bench, async {
        sleep(SECOND).await;
        record.cut_off(true);
        sleep(2 * TASK_LEASE).await;
        assert_eq!(bench.counts(), (1, 0));
        record.cut_off(false);
        record.put(task(2));
        sleep(SECOND).await;
        assert_eq!(bench.counts(), (1, 0), "by now another node may have it");
        record.put(given(1, 2));
        sleep(SECOND).await;
        assert_eq!(bench.counts(), (2, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_told_is_let_go_before_its_lease_on_record_is_over() {
    let (record, bench) = (MemRecord::new(OWN.0), endless());
    let was_let_go = async |seen_late: Duration| {
        record.cut_off(true);
        record.set_log_time(Timestamp(10_000));
        let given_at = Timestamp(10_000 - u64::try_from(seen_late.as_millis()).expect("a little"));
        record.put(Task { updated_at: given_at, ..given(1, 1) });
        beside(&record, &bench, async {
            sleep(TASK_LEASE.saturating_sub(seen_late + 2 * SECOND)).await;
            assert_eq!(bench.counts().1, 1, "{seen_late:?}");
            sleep(SECOND + SECOND / 2).await;
            assert_eq!(bench.counts().1, 0, "{seen_late:?}");
        })
        .await;
    };
    was_let_go(Duration::ZERO).await;
    was_let_go(3 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_in_the_way_and_passes_costs_no_task_its_attempt() {
    let (record, times) = (MemRecord::new(OWN.0), Arc::new(AtomicUsize::new(0)));
    let bench = bench({
        let times = Arc::clone(&times);
        move |work: Work| {
            let time = times.fetch_add(1, Ordering::SeqCst);
            let passing = [ErrorCode::NoQuorum, ErrorCode::OutcomeUnknown, ErrorCode::Draining];
            async move {
                assert_eq!(work.begun, 1);
                passing.get(time).map_or(Ok(json!("done")), |code| Err(ToolError::new(*code, "not now", "")))
            }
        }
    });
    record.put(given(1, 1));
    beside(&record, &bench, sleep(5 * SECOND)).await;
    assert!(is_completed(&record, 1));
    assert_eq!((bench.counts(), record.counts().1), ((4, 0), 1));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_refused_is_no_reason_to_begin_again() {
    let (record, bench) = (MemRecord::new(OWN.0), bench(|_| async { Ok(json!("done")) }));
    record.refuse_ends();
    record.put(given(1, 1));
    beside(&record, &bench, async {
        sleep(SECOND).await;
        record.put(task(2));
        sleep(SECOND).await;
    })
    .await;
    assert_eq!(bench.counts(), (1, 0), "once in each attempt");
}

#[tokio::test(start_paused = true)]
async fn an_end_is_told_until_it_is_taken() {
    let (record, bench) = (MemRecord::new(OWN.0), bench(|_| async { Ok(json!("done")) }));
    record.cut_off(true);
    record.put(given(1, 1));
    beside(&record, &bench, async {
        sleep(3 * SECOND).await;
        assert!(!is_completed(&record, 1));
        record.cut_off(false);
        sleep(2 * SECOND).await;
        assert!(is_completed(&record, 1));
    })
    .await;
    assert_eq!((bench.counts(), record.counts().1), ((1, 0), 1));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_asked_for_again_is_done_again_although_its_attempt_has_the_same_number() {
    let (record, bench) = (MemRecord::new(OWN.0), bench(|_| async { Ok(json!("done")) }));
    record.put(given(1, 1));
    beside(&record, &bench, async {
        sleep(SECOND).await;
        assert!(is_completed(&record, 1));
        record.put(given(1, 1));
        sleep(SECOND).await;
        assert!(is_completed(&record, 1));
    })
    .await;
    assert_eq!(bench.counts(), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_ends_nothing() {
    let (record, bench) = (MemRecord::new(OWN.0), endless());
    record.put(given(1, 1));
    beside(&record, &bench, sleep(SECOND)).await;
    assert_eq!((bench.counts(), record.counts().1), ((1, 0), 0), "the work is broken off, and the lease runs out");
}

#[tokio::test(start_paused = true)]
async fn the_record_is_read_only_where_a_look_may_find_something_new() {
    let record = MemRecord::new(OWN.0);
    let mut worker = Worker::new(Arc::new(record.clone()), endless(), CancellationToken::new());
    // How often it was read, and the number of the job that is held.
    let look = |worker: &mut Worker| {
        worker.look().expect("readable");
        (record.reads(), worker.jobs.values().map(|job| job.number).next())
    };
    let id = given(1, 1).id;
    assert_eq!(look(&mut worker), (1, None));
    record.pass();
    assert_eq!(look(&mut worker), (1, None), "no task has changed");
    record.put(given(1, 1));
    assert_eq!(look(&mut worker), (2, Some(0)));
    let now = record.pass();
    assert_eq!(look(&mut worker), (2, Some(0)));
    worker.worked(id, 0, Some(now + 1));
    assert_eq!(look(&mut worker), (3, Some(0)), "its end is not applied here yet");
    record.pass();
    assert_eq!(look(&mut worker), (4, Some(1)), "its end is applied, so this is another one, whatever changed");
    worker.worked(id, 1, Some(now));
    assert_eq!(look(&mut worker), (5, Some(2)), "it ended behind the last look");
    worker.worked(id, 1, Some(now));
    assert_eq!(look(&mut worker), (5, Some(2)), "what was dropped says nothing any more");
}

#[tokio::test(start_paused = true)]
async fn a_busy_cluster_costs_a_node_without_tasks_no_looks() {
    let (record, bench) = (MemRecord::new(OWN.0), endless());
    record.put(task(1));
    beside(&record, &bench, async {
        for _ in 0..100 {
            record.pass();
            sleep(SECOND).await;
        }
        assert_eq!(record.reads(), 1);
    })
    .await;
}
