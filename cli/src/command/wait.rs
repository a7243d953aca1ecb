//! `ollamax wait`: until a condition holds, or the time is over.
//!
//! Each look asks the node anew, and a node that does not answer yet is waited for; only what no waiting mends ends it
//! early. What a look means is decided by [`judge`] alone.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};

use ollamax_proto::v1::node_view::{Health, State};
use ollamax_proto::v1::status_reply::Phase;
use ollamax_proto::v1::{NodeView, RangeRequest, StatusReply, StatusRequest};

use crate::args::{Condition, Global, Output, WaitArgs};
use crate::client;
use crate::command::node;
use crate::error::Failure;
use crate::{output, text};

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long one look may take, whatever is left of the time.
const LOOK_MIN: Duration = Duration::from_secs(2);
/// How long one look may take at most: a linearizable read gives up by itself before.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// Any key that values may have; only how fresh the answer is matters.
const ANY_KEY: &str = "user/";

/// What one look found.
#[derive(Debug)]
struct Seen {
    status: Result<StatusReply, Failure>,
    /// Up to which revision a linearizable read was complete, where one was asked for.
    read: Option<Result<u64, Failure>>,
}

/// What it means for the condition.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It holds: this is how.
    Holds(String),
    /// Not yet: what is seen, and what to try when the time is over.
    NotYet { seen: String, next: String },
    /// Waiting longer does not help.
    Never(Failure),
}

/// Looks until it holds.
pub(crate) async fn run(global: &Global, args: WaitArgs) -> Result<(), Failure> {
    let WaitArgs { condition, timeout } = args;
    let begin = Instant::now();
    let too_long = || Failure::usage("--timeout is longer than any clock counts", "ollamax wait --timeout 60s");
    let deadline = begin.checked_add(timeout).ok_or_else(too_long)?;
    let (mut waited, mut told) = (Duration::ZERO, String::new());
    loop {
        let found = look(global, &condition, deadline).await;
        match judge(&condition, &found) {
            Verdict::Holds(how) => return show(global, &condition, &how, waited),
            Verdict::Never(failure) => return Err(failure),
            Verdict::NotYet { seen, next } if Instant::now() >= deadline => {
                let span = humantime::format_duration(timeout);
                let what = format!("{condition} did not come true within {span}");
                return Err(Failure::new(9, what, format!("seen last: {seen}"), next));
            }
            Verdict::NotYet { seen, .. } => {
                if seen != told && output::may_draw(global.output) {
                    output::talk(global.output, &format!("waiting for {condition}: {seen}"));
                }
                told = seen;
            }
        }
        sleep_until(deadline.min(Instant::now() + LOOK_INTERVAL)).await;
        waited = begin.elapsed();
    }
}

async fn look(global: &Global, condition: &Condition, deadline: Instant) -> Seen {
    let limit = deadline.saturating_duration_since(Instant::now()).clamp(LOOK_MIN, LOOK_MAX);
    let silent = |_| {
        let (what, next) = (format!("the daemon did not answer within {} s", limit.as_secs()), "ollamax logs");
        Seen { status: Err(Failure::new(7, what, "", next)), read: None }
    };
    timeout(limit, Box::pin(ask(global, condition))).await.unwrap_or_else(silent)
}

async fn ask(global: &Global, condition: &Condition) -> Seen {
    let status = status(global).await;
    let read = if status.is_ok() && *condition == Condition::CaughtUp { Some(read(global).await) } else { None };
    Seen { status, read }
}

async fn status(global: &Global) -> Result<StatusReply, Failure> {
    Ok(client::connect(global).await?.status(StatusRequest {}).await?.into_inner())
}

/// A read that waits until this node has applied everything that was acknowledged before; it says up to where.
async fn read(global: &Global) -> Result<u64, Failure> {
    let key = ANY_KEY.to_owned();
    let request = RangeRequest { key, prefix: true, limit: 1, keys_only: true, ..RangeRequest::default() };
    let found = client::connect_kv(global).await?.range(request).await?.into_inner();
    Ok(found.header.unwrap_or_default().revision)
}

fn show(global: &Global, condition: &Condition, how: &str, waited: Duration) -> Result<(), Failure> {
    if global.output == Output::Json {
        let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        let fields = json!({"condition": condition.to_string(), "seen": how, "waitedMs": waited_ms});
        return output::json("Wait", fields);
    }
    output::line(how)
}

/// Whether the condition holds.
fn judge(condition: &Condition, found: &Seen) -> Verdict {
    let status = match &found.status {
        Ok(status) => status,
        Err(failure) => return of_failure(failure),
    };
    let own = &status.node_name;
    let not_yet = |seen: String, next: &str| Verdict::NotYet { seen, next: next.to_owned() };
    match status.phase() {
        Phase::Member => {}
        Phase::Waiting => {
            let next = "ollamax init (first node) or ollamax join TOKEN (others)";
            return not_yet(format!("{own} belongs to no cluster yet"), next);
        }
        Phase::Joining => return not_yet(format!("{own} waits for the state of its cluster"), "ollamax status"),
        Phase::Stopping => return not_yet(format!("{own} is stopping"), "start it again: ollamax-node run"),
        Phase::Removed => {
            let what = format!("{own} was removed from its cluster");
            return Verdict::Never(Failure::new(4, what, "its id is never used again", "ollamax status"));
        }
        Phase::Unspecified => return not_yet(format!("{own} does not say where it stands"), "ollamax status"),
    }
    match condition {
        Condition::Ready => Verdict::Holds(format!("{own} is ready.")),
        Condition::Quorum => quorum(status),
        Condition::Leader => match leader(status) {
            Some(leader) => Verdict::Holds(format!("{leader} leads.")),
            None => not_yet(format!("{own} knows of nobody who leads"), "ollamax raft status"),
        },
        Condition::CaughtUp => match &found.read {
            Some(Ok(revision)) => {
                Verdict::Holds(format!("{own} has everything that was acknowledged, up to revision {revision}."))
            }
            Some(Err(failure)) => of_failure(failure),
            None => not_yet(format!("{own} was not asked"), "ollamax raft status"),
        },
        Condition::Node(wanted) => member(status, wanted),
        Condition::Members(wanted) => {
            let present: Vec<&NodeView> = present(status).collect();
            let count = present.iter().filter(|node| node.health() == Health::Alive).count();
            if count >= *wanted {
                return Verdict::Holds(format!("{} of the cluster answer.", text::count(count, "member")));
            }
            not_yet(format!("{count} of {} members answer", present.len()), "ollamax node list")
        }
    }
}

/// A node that does not answer may yet; one that must not be asked will not let this user ask later either.
fn of_failure(failure: &Failure) -> Verdict {
    match failure.exit() {
        2 | 6 => Verdict::Never(failure.clone()),
        _ => Verdict::NotYet { seen: failure.what().to_owned(), next: failure.next().to_owned() },
    }
}

fn quorum(status: &StatusReply) -> Verdict {
    let raft = status.raft.clone().unwrap_or_default();
    match leader(status).filter(|_| raft.has_quorum) {
        Some(leader) => {
            let voters = text::count(raft.voters.len(), "voter");
            Verdict::Holds(format!("{leader} leads and hears a majority of {voters}."))
        }
        None => Verdict::NotYet {
            seen: "no leader is heard that has a majority of the voters".to_owned(),
            next: "ollamax status shows which members are missing".to_owned(),
        },
    }
}

/// Who leads, as far as this node knows.
fn leader(status: &StatusReply) -> Option<String> {
    let id = status.raft.as_ref().map(|raft| raft.leader).filter(|id| *id != 0)?;
    let found = status.nodes.iter().find(|node| node.id == id);
    Some(found.map_or_else(|| format!("node {id}"), |node| node.name.clone()))
}

fn present(status: &StatusReply) -> impl Iterator<Item = &NodeView> {
    status.nodes.iter().filter(|node| node.state() != State::Departed)
}

fn member(status: &StatusReply, wanted: &str) -> Verdict {
    let seen = match present(status).find(|node| node.name == wanted || node.id.to_string() == wanted) {
        Some(found) if found.health() == Health::Alive => return Verdict::Holds(format!("{} answers.", found.name)),
        Some(found) => format!("{} is {}", found.name, node::health(found)),
        None => format!("no member is called {wanted}"),
    };
    Verdict::NotYet { seen, next: "ollamax node list".to_owned() }
}

#[cfg(test)]
mod tests {
    use ollamax_proto::v1::RaftView;

    use super::*;

    fn node(id: u64, health: Health, state: State) -> NodeView {
        let mut node = NodeView { id, name: format!("n{id}"), ..NodeView::default() };
        node.set_health(health);
        node.set_state(state);
        node
    }

    /// Three members, one of them silent, and one that has departed.
    fn status(phase: Phase, leader: u64, has_quorum: bool) -> StatusReply {
        let mut reply = StatusReply {
            node_name: "n1".to_owned(),
            raft: Some(RaftView { leader, has_quorum, voters: vec![1, 2, 3], ..RaftView::default() }),
            nodes: vec![
                node(1, Health::Alive, State::Active),
                node(2, Health::Alive, State::Drained),
                node(3, Health::Dead, State::Active),
                node(4, Health::Alive, State::Departed),
            ],
            ..StatusReply::default()
        };
        reply.set_phase(phase);
        reply
    }

    fn check(condition: &str, status: StatusReply, expected: Result<&str, &str>) {
        let condition: Condition = condition.parse().expect("a condition");
        let verdict = judge(&condition, &Seen { status: Ok(status), read: None });
        match (&verdict, expected) {
            (Verdict::Holds(how), Ok(text)) => assert_eq!(how, text, "{condition}"),
            (Verdict::NotYet { seen, next }, Err(text)) => {
                assert_eq!(seen, text, "{condition}");
                assert!(next.contains("ollamax"), "{condition}: {next}");
            }
            _ => unreachable!("{condition}: {verdict:?}, not {expected:?}"),
        }
    }

    #[test]
    fn each_condition_holds_when_it_should_and_says_what_is_missing() {
        let member = || status(Phase::Member, 1, true);
        check("ready", member(), Ok("n1 is ready."));
        check("ready", status(Phase::Waiting, 0, false), Err("n1 belongs to no cluster yet"));
        check("members=1", status(Phase::Joining, 1, true), Err("n1 waits for the state of its cluster"));
        check("quorum", status(Phase::Stopping, 1, true), Err("n1 is stopping"));
        check("quorum", member(), Ok("n1 leads and hears a majority of 3 voters."));
        let headless = "no leader is heard that has a majority of the voters";
        check("quorum", status(Phase::Member, 1, false), Err(headless));
        check("quorum", status(Phase::Member, 0, true), Err(headless));
        check("leader", status(Phase::Member, 2, false), Ok("n2 leads."));
        check("leader", status(Phase::Member, 9, true), Ok("node 9 leads."));
        check("leader", status(Phase::Member, 0, false), Err("n1 knows of nobody who leads"));
        check("node=n2", member(), Ok("n2 answers."));
        check("node=2", member(), Ok("n2 answers."));
        check("node=n3", member(), Err("n3 is dead"));
        check("node=n4", member(), Err("no member is called n4"));
        check("members=2", member(), Ok("2 members of the cluster answer."));
        check("members=3", member(), Err("2 of 3 members answer"));
    }

    #[test]
    fn a_node_has_caught_up_when_a_linearizable_read_came_back() {
        let found = |read| Seen { status: Ok(status(Phase::Member, 1, true)), read };
        let holds = Verdict::Holds("n1 has everything that was acknowledged, up to revision 44.".to_owned());
        assert_eq!(judge(&Condition::CaughtUp, &found(Some(Ok(44)))), holds);
        let refused = Failure::new(8, "no quorum", "", "ollamax status");
        let not_yet = Verdict::NotYet { seen: "no quorum".to_owned(), next: "ollamax status".to_owned() };
        assert_eq!(judge(&Condition::CaughtUp, &found(Some(Err(refused)))), not_yet);
        assert!(matches!(judge(&Condition::CaughtUp, &found(None)), Verdict::NotYet { .. }));
    }

    #[test]
    fn a_silent_daemon_is_waited_for_and_what_no_waiting_mends_is_told_at_once() {
        let of = |exit: u8| {
            let failure = Failure::new(exit, "what", "why", "next");
            judge(&Condition::Ready, &Seen { status: Err(failure), read: None })
        };
        for exit in [1, 4, 7, 8, 9] {
            assert_eq!(of(exit), Verdict::NotYet { seen: "what".to_owned(), next: "next".to_owned() }, "{exit}");
        }
        for exit in [2, 6] {
            assert_eq!(of(exit), Verdict::Never(Failure::new(exit, "what", "why", "next")));
        }
        let removed = Seen { status: Ok(status(Phase::Removed, 1, true)), read: None };
        assert!(matches!(judge(&Condition::Ready, &removed), Verdict::Never(failure) if failure.exit() == 4));
    }
}
