//! Tasks and answers to requests with a key: round trips, golden samples, and what a newer release may have written.

use ollamax_core::catalog::{Once, Task, TaskProgress, TaskState};
use ollamax_types::TaskId;

use super::*;

fn id() -> impl Strategy<Value = TaskId> {
    any::<[u8; 16]>().prop_map(TaskId)
}

fn state() -> impl Strategy<Value = TaskState> {
    prop_oneof![
        Just(TaskState::Waiting),
        Just(TaskState::Queued),
        any::<u64>().prop_map(|node| TaskState::Working { node: NodeId(node) }),
        ".{0,20}".prop_map(|result_json| TaskState::Completed { result_json }),
        (prop::sample::select(ErrorCode::ALL), ".{0,20}", ".{0,20}").prop_map(|(code, text, next)| TaskState::Failed {
            code,
            text,
            next
        }),
        Just(TaskState::Cancelled),
    ]
}

fn task() -> impl Strategy<Value = Task> {
    let texts = (".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}");
    let numbers = (any::<u8>(), any::<u32>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<u32>());
    let progress = (any::<u64>(), any::<u64>(), ".{0,20}");
    let progress = progress.prop_map(|(done, total, text)| TaskProgress { done, total, text });
    let progress = prop_oneof![Just(TaskProgress::default()), progress];
    let times = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    (id(), texts, numbers, state(), progress, times).prop_map(|(id, texts, numbers, state, progress, times)| Task {
        id,
        tool: texts.0,
        arguments_json: texts.1,
        subject: texts.2,
        priority: numbers.0,
        repeatable: numbers.2,
        needs_approval: numbers.4,
        plan: texts.4,
        state,
        attempt: numbers.1,
        losses: numbers.5,
        cancel_asked: numbers.3,
        progress,
        asked_by: texts.3,
        created_at: Timestamp(times.0),
        begun_at: Timestamp(times.3),
        updated_at: Timestamp(times.1),
        due_at: Timestamp(times.2),
    })
}

/// Tasks, answers to requests with a key, and the deadlines of both.
pub(super) fn pair() -> impl Strategy<Value = (Key, Record)> {
    let digests = (any::<[u8; 32]>(), any::<[u8; 32]>());
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
    let due = prop_oneof![id().prop_map(Due::Task), any::<[u8; 32]>().prop_map(Due::Once)];
    prop_oneof![
        // The id is in the key alone.
        task().prop_map(|task| (Key::Task(task.id), Record::Task(Box::new(task)))),
        (digests, numbers, answer()).prop_map(|((key, digest), (revision, term, ends), answer)| {
            let once = Once { digest, revision, term, answer, ends_at: Timestamp(ends) };
            (Key::Once(key), Record::Once(once))
        }),
        (any::<u64>(), due).prop_map(|(at, due)| (Key::Deadline(Timestamp(at), due), Record::Present)),
        (".{0,20}", id()).prop_map(|(subject, id)| (Key::OpenTask(subject, id), Record::Present)),
    ]
}

fn sample(state: TaskState) -> Task {
    Task {
        id: TaskId([7; 16]),
        tool: "t".to_owned(),
        arguments_json: "{}".to_owned(),
        subject: "s".to_owned(),
        priority: 5,
        repeatable: true,
        needs_approval: true,
        plan: "l".to_owned(),
        state,
        attempt: 2,
        losses: 4,
        cancel_asked: true,
        progress: TaskProgress { done: 3, total: 300, text: "p".to_owned() },
        asked_by: "a".to_owned(),
        created_at: Timestamp(1),
        begun_at: Timestamp(5),
        updated_at: Timestamp(2),
        due_at: Timestamp(3),
    }
}

#[test]
fn golden_samples_of_tasks_and_keyed_answers_have_not_changed() {
    let key_hex = format!("15{}", "07".repeat(16));
    let (code, text, next) = (ErrorCode::DiskFull, "t".to_owned(), "n".to_owned());
    for (state, state_hex) in [
        (TaskState::Waiting, "3202 0a00"),
        (TaskState::Queued, "3202 1200"),
        (TaskState::Working { node: NodeId(3) }, "3202 1803"),
        (TaskState::Completed { result_json: "1".to_owned() }, "3205 2203 0a0131"),
        (TaskState::Failed { code, text, next }, "3215 2213 1211 0a09 6469736b5f66756c6c 120174 1a016e"),
        (TaskState::Cancelled, "3204 2202 1a00"),
    ] {
        let (head, behind) = ("0a0174 12027b7d 1a0173 2005 2801", "3802 4001 4a08 0803 10ac02 1a0170 520161");
        let value_hex =
            format!("01{head} {state_hex} {behind} 5801 6002 6803 7001 7804 800105 8a01016c").replace(' ', "");
        golden(&Key::Task(TaskId([7; 16])), &Record::Task(Box::new(sample(state))), &key_hex, &value_hex);
    }
    let plain = Task {
        repeatable: false,
        needs_approval: false,
        plan: String::new(),
        attempt: 0,
        losses: 0,
        cancel_asked: false,
        progress: TaskProgress::default(),
        begun_at: Timestamp(0),
        due_at: Timestamp(0),
        ..sample(TaskState::Queued)
    };
    let value_hex = "01 0a0174 12027b7d 1a0173 2005 3202 1200 520161 5801 6002".replace(' ', "");
    golden(&Key::Task(TaskId([7; 16])), &Record::Task(Box::new(plain)), &key_hex, &value_hex);

    let once = Once { digest: [8; 32], revision: 9, term: 2, answer: Answer::Done, ends_at: Timestamp(300) };
    let value_hex = format!("010a20{} 1206 0809 1002 1a00 18ac02", "08".repeat(32)).replace(' ', "");
    golden(&Key::Once([7; 32]), &Record::Once(once), &format!("16{}", "07".repeat(32)), &value_hex);

    let open_hex = format!("19730001{}", "07".repeat(16));
    golden(&Key::OpenTask("s".to_owned(), TaskId([7; 16])), &Record::Present, &open_hex, "01");

    let at = |due| Key::Deadline(Timestamp(2), due);
    let task_hex = format!("0e000000000000000203{}", "07".repeat(16));
    golden(&at(Due::Task(TaskId([7; 16]))), &Record::Present, &task_hex, "01");
    golden(&at(Due::Once([7; 32])), &Record::Present, &format!("0e000000000000000204{}", "07".repeat(32)), "01");
}

#[test]
fn a_task_of_a_newer_release_and_one_under_another_id_are_refused() {
    let key = Key::Task(TaskId([7; 16]));
    let record = Record::Task(Box::new(sample(TaskState::Queued)));
    assert!(encode_record(&key, &record).is_ok());
    assert!(encode_record(&Key::Task(TaskId([8; 16])), &record).is_err());
    let standing = |standing| Some(disk::TaskStanding { standing });
    let queued = disk::task_standing::Standing::Queued(disk::LogBlank {});
    let known = disk::TaskRecord { standing: standing(Some(queued)), ..disk::TaskRecord::default() };
    assert!(decode_record(&key, &seal(1, &known)).is_ok());
    let over = |outcome| standing(Some(disk::task_standing::Standing::Over(disk::TaskOutcome { outcome })));
    let failure = disk::TaskFailure { code: "of_the_future".to_owned(), ..disk::TaskFailure::default() };
    for changed in [
        disk::TaskRecord { standing: None, ..known.clone() },
        disk::TaskRecord { standing: standing(None), ..known.clone() },
        disk::TaskRecord { standing: over(None), ..known.clone() },
        disk::TaskRecord { standing: over(Some(disk::task_outcome::Outcome::Failed(failure))), ..known.clone() },
        disk::TaskRecord { priority: 256, ..known },
    ] {
        assert!(decode_record(&key, &seal(1, &changed)).is_err(), "{changed:?}");
    }
    let answer = disk::OnceRecord { digest: vec![8; 32], ends_at_ms: 1, ..disk::OnceRecord::default() };
    assert!(decode_record(&Key::Once([7; 32]), &seal(1, &answer)).is_err());
}
