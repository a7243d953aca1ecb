//! The queue before a log that answers when it is told to.

use std::future::ready;
use std::pin::pin;
use std::time::Duration;

use futures::stream;
use openraft::raft::WriteResponse;

use ollamax_core::catalog::command::Command;
use ollamax_types::{Clock, RequestId, Timestamp};

use crate::raft::{Answered, log_id};

use super::*;

/// A group that has reached the log: the stamps of its changes, and what lets it be answered.
struct Group {
    stamps: Vec<Timestamp>,
    go: oneshot::Sender<Answers>,
}

impl Group {
    /// Every change of it took effect.
    fn answer(self) {
        let written = |index| Ok(Ok(WriteResponse { log_id: log_id(1, index), response: Answered::done() }));
        let count = self.stamps.len() as u64;
        assert!(self.go.send(stream::iter((0..count).map(written)).boxed()).is_ok(), "the group is on its way");
    }

    /// Consensus ends before it answers.
    fn abandon(self) {
        assert!(self.go.send(stream::iter([Err(Fatal::Stopped)]).boxed()).is_ok(), "the group is on its way");
    }
}

fn entry() -> Entry {
    Entry {
        least_version: 1,
        log_time: Timestamp(0),
        request: RequestId::default(),
        principal: "admin".into(),
        namespace: String::new(),
        session: None,
        fence_term: None,
        once: None,
        command: Command::SetSetting { key: "k".into(), value: vec![1] },
    }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

/// Runs a script beside the queue and its log; the queue must not end before it.
async fn with_log<S, F>(script: S)
where
    S: FnOnce(Arc<Queue>, mpsc::Receiver<Group>) -> F,
    F: Future<Output = ()>,
{
    let (queue, proposed) = Queue::new();
    let (groups, reached) = mpsc::channel(16);
    let stamper = Arc::new(Stamper::new(Clock::manual(Timestamp(1_000))));
    let write = move |changes: Vec<Sealed>| {
        let groups = groups.clone();
        async move {
            let (go, answers) = oneshot::channel::<Answers>();
            let stamps = changes.iter().map(|sealed| envelope::log_time(&sealed.0)).collect();
            groups.send(Group { stamps, go }).await.expect("the script looks at every group");
            Ok(stream::once(answers).filter_map(|answers| ready(answers.ok())).flatten().boxed())
        }
    };
    tokio::select! {
        () = run(proposed, stamper, write) => unreachable!("the entrance is still there"),
        () = script(Arc::new(queue), reached) => {}
    }
}

/// Puts a caller into the queue.
macro_rules! enter {
    ($queue:ident, $deadline:expr) => {{
        let mut place = Box::pin($queue.write(entry(), $deadline));
        assert!(futures::poll!(&mut place).is_pending());
        place
    }};
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_groups_are_on_their_way_goes_out_together() {
    with_log(|queue, mut reached| async move {
        let mut waiting = Vec::new();
        let mut on_their_way = Vec::new();
        for _ in 0..GROUPS_MAX {
            waiting.push(enter!(queue, later()));
            on_their_way.push(reached.recv().await.expect("nobody alone waits for others"));
        }
        for _ in 0..3 {
            waiting.push(enter!(queue, later()));
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(reached.try_recv().is_err(), "as many groups as may are on their way");
        let mut stamps: Vec<Timestamp> = on_their_way.iter().flat_map(|group| group.stamps.clone()).collect();
        on_their_way.into_iter().for_each(Group::answer);
        let together = reached.recv().await.expect("the next group");
        assert_eq!(together.stamps.len(), 3);
        stamps.extend(&together.stamps);
        assert!(stamps.is_sorted() && stamps[0] >= Timestamp(1_000), "{stamps:?}");
        together.answer();
        for place in waiting {
            let written = place.await.expect("answered").expect("written");
            assert_eq!(written.response, Answered::done());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_has_left_or_is_late_is_not_written() {
    with_log(|queue, mut reached| async move {
        let mut on_their_way = Vec::new();
        let mut first = Vec::new();
        for _ in 0..GROUPS_MAX {
            first.push(enter!(queue, later()));
            on_their_way.push(reached.recv().await.expect("a group"));
        }
        drop(enter!(queue, later()));
        let late = enter!(queue, Instant::now() + Duration::from_millis(5));
        let patient = enter!(queue, later());
        assert_eq!(late.await.err(), Some(Unanswered::Late));
        assert_eq!(queue.write(entry(), Instant::now()).await.err(), Some(Unanswered::Late));
        on_their_way.into_iter().for_each(Group::answer);
        let next = reached.recv().await.expect("the next group");
        assert_eq!(next.stamps.len(), 1, "the patient one alone");
        next.answer();
        assert!(patient.await.is_ok());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_went_out_without_an_answer_is_of_unknown_outcome() {
    with_log(|queue, mut reached| async move {
        let mut place = pin!(queue.write(entry(), Instant::now() + Duration::from_millis(5)));
        assert!(futures::poll!(&mut place).is_pending());
        let silent = reached.recv().await.expect("a group");
        assert_eq!(place.await.err(), Some(Unanswered::Unknown("no majority answered in time")));
        silent.answer();

        let place = enter!(queue, later());
        reached.recv().await.expect("a group").abandon();
        assert_eq!(place.await.err(), Some(Unanswered::Unknown("consensus stopped before it answered")));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn consensus_that_takes_nothing_says_so_and_nothing_was_written() {
    let (queue, proposed) = Queue::new();
    let stamper = Arc::new(Stamper::new(Clock::manual(Timestamp(1_000))));
    let refuse = |_: Vec<Sealed>| ready(Err(Fatal::Stopped));
    tokio::select! {
        () = run(proposed, stamper, refuse) => unreachable!("the entrance is still there"),
        refused = queue.write(entry(), later()) => {
            assert_eq!(refused.err(), Some(Unanswered::Stopped("raft stopped".to_owned())));
        }
    }
    // Now nobody takes from the queue.
    assert_eq!(queue.write(entry(), later()).await.err(), Some(Unanswered::Stopped("consensus has stopped".into())));
}
