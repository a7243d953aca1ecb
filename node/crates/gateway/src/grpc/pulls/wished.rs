//! What an administrator is told of a wish: each node that has a part in it, whenever something of it changes.
//!
//! The last message is an error where a node failed for good, this node stops, or fewer have the model than were asked
//! for, as somebody asked otherwise meanwhile. A node that failed while another can take its place ends nothing. One
//! that is not waited for, as it is not heard, is told as such behind the others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use ollamax_core::catalog::Replicas;
use ollamax_proto::v1;
use ollamax_transfer::{Overview, PullError, PullProgress, Stage};
use ollamax_types::{ErrorCode, NodeId};

use super::{PullStream, convert};
use crate::grpc::daemon::AdminError;
use crate::wishfile::places;

/// Who does not wait for the end hears of a wish for so long, until somebody is on its way.
pub(super) const ACCEPT_WAIT: Duration = Duration::from_secs(10);
/// What is said of a node that has no part in the plan any more.
const REPLACED: &str = "another node takes its place";
/// What is said of a node that is not waited for.
const AWAY: &str = "it is not heard; it stays wanted there, and comes when the node is back";

/// Where somebody said that copies are wanted.
pub(super) struct Said {
    pub(super) replicas: Replicas,
    /// The nodes that all of them are just now; `None`: the record cannot be read.
    pub(super) all: Box<dyn Fn() -> Option<BTreeSet<NodeId>> + Send + Sync>,
}

/// How nodes are called.
pub(super) type NameOf = Arc<dyn Fn(NodeId) -> String + Send + Sync>;
type Looks = BoxStream<'static, Arc<Overview>>;
type Message = Result<v1::PullProgress, Status>;

/// What is told, and to whom.
struct Telling {
    looks: Looks,
    /// Until when somebody hears of it who does not wait for its end.
    accept_by: Option<Instant>,
    name_of: NameOf,
    /// Where whoever hears of it said that copies are wanted.
    said: Option<Said>,
    last: Option<Arc<Overview>>,
}

/// Tells what changes. With a time, it ends when the pull is taken on, then at the latest.
pub(super) fn told(looks: Looks, accept_by: Option<Instant>, name_of: NameOf, said: Option<Said>) -> PullStream {
    let telling = Telling { looks, accept_by, name_of, said, last: None };
    let steps = stream::unfold(Some(telling), |telling| async move { telling?.step().await });
    steps.flat_map(stream::iter).boxed()
}

// === impl Telling ===

impl Telling {
    async fn step(mut self) -> Option<(Vec<Message>, Option<Self>)> {
        let is_planned = self.last.as_ref().is_some_and(|last| !last.copies.is_empty());
        let next = match self.accept_by {
            None => self.looks.next().await,
            Some(at) => match timeout_at(at, self.looks.next()).await {
                Ok(next) => next,
                // It is on record, and whoever pulls has something else to do first.
                Err(_) if is_planned => return None,
                Err(_) => return Some((vec![Err(self.unplanned())], None)),
            },
        };
        let Some(now) = next else {
            return Some((vec![Err(self.error("this node", &PullError::Stopping))], None));
        };
        let mut told: Vec<Message> = self.news(&now).iter().map(|state| Ok(self.message(state))).collect();
        if now.is_over {
            let open = now.copies.iter().map(|copy| &copy.progress).filter(|progress| !progress.is_over());
            told.extend(open.map(|open| Ok(self.message(&ended(open, ErrorCode::PeerUnreachable, AWAY)))));
            told.extend(self.failure(&now).or_else(|| self.overtaken(&now)).map(Err));
            return Some((told, None));
        }
        let is_taken_on = self.accept_by.is_some() && now.copies.iter().any(|copy| is_on_its_way(&copy.progress.stage));
        self.last = Some(now);
        Some((told, (!is_taken_on).then_some(self)))
    }

    /// What is to be told of `now`, behind what was told before.
    fn news(&self, now: &Overview) -> Vec<PullProgress> {
        let before = self.last.as_ref().map(|last| last.copies.as_slice()).unwrap_or_default();
        let is_new = |state: &PullProgress| !before.iter().any(|copy| copy.progress == *state);
        let mut news: Vec<PullProgress> =
            now.copies.iter().map(|copy| &copy.progress).filter(|state| is_new(state)).cloned().collect();
        let is_gone = |node: NodeId| !now.copies.iter().any(|copy| copy.node == node);
        let left = before.iter().filter(|copy| is_gone(copy.node) && !copy.progress.is_over());
        news.extend(left.map(|copy| ended(&copy.progress, ErrorCode::PullCancelled, REPLACED)));
        news
    }

    /// Why a wish that is over is not met.
    fn failure(&self, now: &Overview) -> Option<Status> {
        let failed = now.copies.iter().find_map(|copy| match &copy.progress.stage {
            Stage::Failed(error) => Some((copy.node, error.clone())),
            _ => None,
        });
        match failed {
            Some((node, error)) => Some(of_stage(&(self.name_of)(node), &error, now).into()),
            None => now.error().map(|error| self.error("any", &error)),
        }
    }

    /// What is told of a wish that is met and is not what was asked for any more, unless all have it that were meant.
    fn overtaken(&self, now: &Overview) -> Option<Status> {
        let Said { replicas: said, all } = self.said.as_ref()?;
        let done = now.copies.iter().filter(|copy| copy.progress.stage == Stage::Done).map(|copy| copy.node);
        let done: BTreeSet<NodeId> = done.collect();
        let is_met = match said {
            Replicas::Count(count) => done.len() >= *count as usize,
            Replicas::All => all().is_some_and(|all| all.is_subset(&done)),
            Replicas::Nodes(nodes) => nodes.iter().all(|node| done.contains(node)),
        };
        if is_met || are_same(said, &now.replicas) {
            return None;
        }
        let (name, name_of) = (&now.name, &*self.name_of);
        let what = format!("somebody else asked for {name} meanwhile, and that is what counts");
        let why =
            format!("it is wanted on {} now, and not on {}", places(&now.replicas, name_of), places(said, name_of));
        let words = match said {
            Replicas::Count(count) => format!("--replicas {count}"),
            Replicas::All => "--replicas all".to_owned(),
            Replicas::Nodes(nodes) => {
                let nodes: Vec<String> = nodes.iter().map(|node| name_of(*node)).collect();
                format!("--node {}", nodes.join(","))
            }
        };
        let next =
            format!("ollamax model wishes; to have it so all the same: ollamax model pull {name} {words} --wait");
        Some(AdminError::new(ErrorCode::PreconditionFailed, what, why, next).into())
    }

    /// What is told of a wish that is on record, and that no node was given in all the time.
    fn unplanned(&self) -> Status {
        let name = self.last.as_ref().map_or_else(|| "the model".to_owned(), |last| last.name.to_string());
        let why = "it is wanted, and comes as soon as a node can have it";
        AdminError::new(
            ErrorCode::PreconditionFailed,
            format!("no node fetches {name} yet"),
            why,
            "ollamax model wishes, which says what is in the way",
        )
        .into()
    }

    fn message(&self, state: &PullProgress) -> v1::PullProgress {
        convert::to_wire(state, &*self.name_of)
    }

    fn error(&self, node: &str, error: &PullError) -> Status {
        AdminError::of_pull(node, error).into()
    }
}

/// A part of a wish that is not followed any more, as a node's failure that ends nothing.
fn ended(progress: &PullProgress, code: ErrorCode, text: &str) -> PullProgress {
    let (node, text) = (progress.node, text.to_owned());
    PullProgress { stage: Stage::Failed(PullError::Elsewhere { node, code, text }), ..progress.clone() }
}

/// A node's failure at the end of a wish. What is on record stays wished for, and what ends that is told: it takes no
/// copy, as nodes may serve the version of before.
fn of_stage(node: &str, error: &PullError, over: &Overview) -> AdminError {
    let told = AdminError::of_pull(node, error);
    // One that only this node knows is none of the record.
    if !matches!(error, PullError::Elsewhere { .. }) {
        return told;
    }
    let end = format!("ollamax model pull {} --cancel", over.name);
    AdminError { next: format!("{}; it stays wished for until it is pulled again, or: {end}", told.next), ..told }
}

/// Whether two wishes are for the same places, in whichever order nodes are named.
fn are_same(one: &Replicas, other: &Replicas) -> bool {
    match (one, other) {
        (Replicas::Nodes(one), Replicas::Nodes(other)) => {
            one.iter().collect::<BTreeSet<_>>() == other.iter().collect::<BTreeSet<_>>()
        }
        _ => one == other,
    }
}

/// Whether the name is known there and the model fits.
const fn is_on_its_way(stage: &Stage) -> bool {
    match stage {
        Stage::Waiting | Stage::Resolving | Stage::Failed(_) => false,
        Stage::Checking | Stage::Fetching | Stage::Verifying | Stage::Publishing | Stage::Settling | Stage::Done => {
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream::pending;

    use ollamax_transfer::NodeCopy;

    use super::*;
    use crate::grpc::daemon::CODE_KEY;

    /// What nodes 1, 2, … do; `None`: it has no part in it.
    fn look(stages: &[Option<Stage>], is_over: bool) -> Arc<Overview> {
        let copy = |(id, stage): (u64, &Option<Stage>)| {
            let (node, stage) = (NodeId(id), stage.clone()?);
            let progress = PullProgress {
                name: "m".parse().expect("a name"),
                node,
                stage,
                digest: None,
                blobs: Arc::default(),
                sources: vec![],
                bytes_per_second: None,
                left: None,
                wait: None,
                remark: None,
            };
            Some(NodeCopy { node, progress })
        };
        let copies = (1..).zip(stages).filter_map(copy).collect();
        let name = "m".parse().expect("a name");
        Arc::new(Overview { name, round: 7, digest: None, replicas: Replicas::Count(2), copies, is_over })
    }

    /// Everything that is said of these looks, after which nothing happens any more where `goes_on`.
    async fn said(looks: Vec<Arc<Overview>>, goes_on: bool, wait: bool) -> Vec<String> {
        let looks = stream::iter(looks);
        let looks = if goes_on { looks.chain(pending()).boxed() } else { looks.boxed() };
        let accept_by = (!wait).then(|| Instant::now() + ACCEPT_WAIT);
        let shown = |message: Message| match message {
            Ok(state) => format!("{} {}", state.node_name, state.stage().as_str_name()),
            Err(status) => {
                let code = status.metadata().get(CODE_KEY).and_then(|code| code.to_str().ok());
                format!("{} {}", code.unwrap_or_default(), status.message())
            }
        };
        told(looks, accept_by, Arc::new(|node| format!("n{node}")), None).map(shown).collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn who_asked_for_more_than_somebody_who_came_later_is_told_that_it_is_not_so() {
        let check_among =
            async |members: u64, what: &str, said: Replicas, now: Replicas, expected: Option<[&str; 2]>| {
                let done = look(&[Some(Stage::Done), Some(Stage::Done)], true);
                let over = Arc::new(Overview { replicas: now, ..(*done).clone() });
                let name_of: NameOf = Arc::new(|node| format!("n{node}"));
                let mut last = None;
                let all = Box::new(move || Some((1..=members).map(NodeId).collect::<BTreeSet<NodeId>>()));
                let said = Some(Said { replicas: said, all });
                let mut told = told(stream::iter([over]).boxed(), None, name_of, said);
                while let Some(message) = told.next().await {
                    last = Some(message);
                }
                let error = AdminError::new(
                    ErrorCode::PreconditionFailed,
                    "somebody else asked for m:latest meanwhile, and that is what counts",
                    expected.map(|[why, _]| why).unwrap_or_default(),
                    expected.map(|[_, next]| next).unwrap_or_default(),
                );
                let found = last.and_then(Result::err).map(|status| format!("{status:?}"));
                let expected = expected.map(|_| format!("{:?}", Status::from(error)));
                assert_eq!(found, expected, "{what}");
            };
        let check = async |what: &str, said: Replicas, now: Replicas, expected: Option<[&str; 2]>| {
            check_among(3, what, said, now, expected).await;
        };
        let named = |nodes: &[u64]| Replicas::Nodes(nodes.iter().copied().map(NodeId).collect());
        let count = Replicas::Count;
        check("as it was asked for", count(2), count(2), None).await;
        check("others want more", count(1), count(2), None).await;
        check("all are there that were asked for", count(2), count(1), None).await;
        check("the named ones have it", named(&[2, 1]), count(2), None).await;
        check("in another order", named(&[3, 1]), named(&[1, 3]), None).await;
        let next = |words: &str| {
            format!("ollamax model wishes; to have it so all the same: ollamax model pull m:latest {words} --wait")
        };
        let why = "it is wanted on 2 nodes now, and not on 3 nodes";
        check("fewer", count(3), count(2), Some([why, &next("--replicas 3")])).await;
        let why = "it is wanted on n1 now, and not on all nodes";
        check("one by its name", Replicas::All, named(&[1]), Some([why, &next("--replicas all")])).await;
        check_among(2, "all have it all the same", Replicas::All, named(&[1]), None).await;
        let why = "it is wanted on 2 nodes now, and not on n2, n3";
        check("a number", named(&[2, 3]), count(2), Some([why, &next("--node n2,n3")])).await;
    }

    #[tokio::test(start_paused = true)]
    async fn each_change_of_a_node_is_told_once_and_the_end_is_silent() {
        use Stage::{Done, Fetching, Resolving, Waiting};
        let looks = vec![
            look(&[], false),
            look(&[Some(Resolving), Some(Waiting)], false),
            look(&[Some(Fetching), Some(Waiting)], false),
            look(&[Some(Done), Some(Fetching)], false),
            look(&[Some(Done), Some(Done)], true),
        ];
        let expected = ["n1 RESOLVING", "n2 WAITING", "n1 FETCHING", "n1 DONE", "n2 FETCHING", "n2 DONE"];
        assert_eq!(said(looks.clone(), false, true).await, expected);
        // Who does not wait hears no more than that somebody is on its way.
        assert_eq!(said(looks, true, false).await, expected[..3]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_wait_is_let_go_when_it_takes_long_and_told_where_there_is_no_plan() {
        let looks = vec![look(&[], false), look(&[Some(Stage::Waiting)], false)];
        assert_eq!(said(looks, true, false).await, ["n1 WAITING"]);
        let unplanned = said(vec![look(&[], false)], true, false).await;
        assert_eq!(unplanned, ["precondition_failed no node fetches m:latest yet"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_counts_when_nobody_takes_its_place() {
        let failed = || Some(Stage::Failed(PullError::Cancelled));
        let replaced = vec![
            look(&[failed(), Some(Stage::Waiting)], false),
            look(&[None, Some(Stage::Fetching)], false),
            look(&[None, Some(Stage::Done)], true),
        ];
        assert_eq!(said(replaced, false, true).await, ["n1 FAILED", "n2 WAITING", "n2 FETCHING", "n2 DONE"]);
        let dropped = vec![
            look(&[Some(Stage::Fetching)], false),
            look(&[None, Some(Stage::Fetching)], false),
            look(&[None, Some(Stage::Done)], true),
        ];
        assert_eq!(said(dropped, false, true).await, ["n1 FETCHING", "n2 FETCHING", "n1 FAILED", "n2 DONE"]);
        let away = vec![look(&[Some(Stage::Done), Some(Stage::Waiting)], true)];
        assert_eq!(said(away, false, true).await, ["n1 DONE", "n2 WAITING", "n2 FAILED"]);
        let stays = vec![look(&[Some(Stage::Fetching), failed()], false), look(&[Some(Stage::Done), failed()], true)];
        let expected = ["n1 FETCHING", "n2 FAILED", "n1 DONE", "pull_cancelled the pull was cancelled"];
        assert_eq!(said(stays, false, true).await, expected);
    }

    #[test]
    fn who_failed_is_told_that_the_wish_stays_and_what_ends_it() {
        let failed = || {
            let (node, code, text) = (NodeId(1), ErrorCode::DigestMismatch, "another file".to_owned());
            PullError::Elsewhere { node, code, text }
        };
        let next = |error: &PullError, stages: &[Option<Stage>]| of_stage("n1", error, &look(stages, true)).next;
        let again = "repeat the command: it is fetched anew; it stays wished for until it is pulled again, or: ";
        let ends = format!("{again}ollamax model pull m:latest --cancel");
        let alone = [Some(Stage::Failed(failed()))];
        assert_eq!(next(&failed(), &alone), ends, "others may have the version of before");
        assert_eq!(next(&failed(), &[Some(Stage::Failed(failed())), Some(Stage::Done)]), ends);
        assert!(!next(&PullError::Cancelled, &[]).contains("wished"), "it was taken off the record");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_stops_says_so() {
        let words = "draining this node is stopping; the pull goes on when it starts again";
        for wait in [true, false] {
            assert_eq!(said(vec![look(&[], false)], false, wait).await, [words]);
        }
    }
}
