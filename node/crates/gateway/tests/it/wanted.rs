//! What is wanted of models at the administrators' door: pulls and what ends or slows them, wishes that a file says,
//! and copies that move.

use std::collections::BTreeSet;

use ollamax_core::catalog::{Command, OnceKey, PhaseWord, PlanKind, Replicas, Want};
use ollamax_gateway::grpc::{Admin, AdminError, By, TakenBack};
use ollamax_proto::v1;
use ollamax_proto::v1::wish_change::Kind;
use ollamax_proto::v1::wish_view::State;
use ollamax_types::{ErrorCode, NodeId, RequestId};

use crate::desk::{Desk, SIZE_BYTES, check_refused, digest, named, refused};

const NO_NODE: (ErrorCode, &str, &str) = (ErrorCode::NodeNotFound, "there is no node \"n9\"", "ollamax node list");
const FILE: &str = "[[model]]\nname = \"m\"\nreplicas = 3\n\n[[model]]\nname = \"qwen3:8b\"\nnodes = [\"n1\", \"3\"]\n";

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn pull() -> v1::PullRequest {
    v1::PullRequest { name: "m".to_owned(), ..v1::PullRequest::default() }
}

fn cancel(node: &str) -> v1::CancelPullRequest {
    v1::CancelPullRequest { name: "m".to_owned(), node: node.to_owned() }
}

fn file(text: &str) -> v1::WishFile {
    v1::WishFile { text: text.to_owned() }
}

fn kinds(changes: &v1::WishChanges) -> Vec<(&str, Kind, &str)> {
    changes.changes.iter().map(|change| (change.name.as_str(), change.kind(), change.text.as_str())).collect()
}

/// A copy of `m` from node 1 to another one.
fn to(node: &str) -> v1::MoveRequest {
    v1::MoveRequest { name: "m".to_owned(), from: "n1".to_owned(), to: node.to_owned(), dry_run: false }
}

/// What the leader would do: one more copy of `m`, on node 3.
fn repair(round: u64) -> v1::OutlookView {
    let planned = v1::PlannedMove {
        name: "m:latest".to_owned(),
        kind: "repair".to_owned(),
        round,
        ingester: 1,
        targets: vec![1, 2, 3],
        node: 0,
    };
    v1::OutlookView { moves: vec![planned], ..v1::OutlookView::default() }
}

impl Desk {
    /// Who shall hold `m`, and what that was planned for.
    fn planned(&self) -> (Vec<u64>, PlanKind) {
        let plan = self.wish("m").and_then(|wish| wish.plan).expect("planned");
        (plan.targets.iter().map(|node| node.0).collect(), plan.kind)
    }
}

#[tokio::test]
async fn a_pull_puts_on_record_what_was_asked_for_and_how_it_was_said() {
    let desk = Desk::start().await;
    desk.models().pull(pull()).await.expect("taken");
    let wish = desk.wished.wish(&named("m")).expect("on record");
    assert_eq!((wish.replicas, wish.asked_by.as_str(), wish.insecure), (Replicas::Count(2), "admin", false));

    let named_nodes = v1::PullRequest { nodes: words(&["n3", "2", "n2"]), insecure: true, ..pull() };
    desk.models().pull(named_nodes).await.expect("taken");
    let wish = desk.wished.wish(&named("m")).expect("on record");
    assert_eq!((wish.replicas, wish.insecure), (Replicas::Nodes([3, 2].map(NodeId).to_vec()), true));

    let label = v1::NodeLabel { key: "room".to_owned(), value: "a".to_owned() };
    let asked = v1::PullRequest { replicas: Some(1), labels: vec![label], avoid: words(&["n2"]), ..pull() };
    desk.models().pull(asked).await.expect("taken");
    let wish = desk.wished.wish(&named("m")).expect("on record");
    assert_eq!((wish.replicas, wish.want.avoid), (Replicas::Count(1), BTreeSet::from([NodeId(2)])));
    assert_eq!(wish.want.labels.get("room").map(String::as_str), Some("a"));
    desk.finish().await;
}

#[tokio::test]
async fn a_pull_that_makes_no_sense_or_cannot_go_on_record_leaves_none() {
    let desk = Desk::start().await;
    let next = "ollamax model pull NAME --replicas 2, or --replicas all, or --node a,b";
    let bad = |what| (ErrorCode::BadRequest, what, next);
    for (asked, (code, what, next)) in [
        (v1::PullRequest { replicas: Some(0), ..pull() }, bad("no copies is no wish")),
        (
            v1::PullRequest { replicas: Some(1), nodes: words(&["n1"]), ..pull() },
            bad("a number of copies and named nodes are two wishes"),
        ),
        (
            v1::PullRequest { nodes: words(&["n4"]), ..pull() },
            (ErrorCode::PreconditionFailed, "node n4 is a gateway", "name another with --node: ollamax node list"),
        ),
        (v1::PullRequest { nodes: words(&["n1", "n9"]), ..pull() }, NO_NODE),
        (v1::PullRequest { avoid: words(&["n9"]), ..pull() }, NO_NODE),
        (
            v1::PullRequest { limit_bytes_per_second: Some(1), ..pull() },
            (ErrorCode::BadRequest, "1 bytes a second is no rate that can be set", "write it like 20MB/s"),
        ),
        (
            v1::PullRequest { name: "a b".to_owned(), ..pull() },
            (ErrorCode::BadRequest, "\"a b\" is not a model name", "ollamax model pull llama3.2"),
        ),
    ] {
        check_refused(desk.models().pull(asked).await, code, what, next);
    }
    desk.wished.set_quorum(false);
    let told = refused(desk.models().pull(pull()).await);
    assert_eq!((told.code.as_str(), told.next.as_str()), ("no_quorum", "ollamax status"));
    assert_eq!(told.why, "what is wanted goes on record first, and nothing was changed");
    assert_eq!(desk.wished.wish(&named("m")), None);
    desk.finish().await;
}

#[tokio::test]
async fn a_pull_that_is_ended_takes_its_wish_back_and_that_of_one_node_does_not() {
    let desk = Desk::start().await;
    let ended =
        async |desk: &Desk, node: &str| desk.models().cancel_pull(cancel(node)).await.expect("told").into_inner().found;
    assert!(!ended(&desk, "").await, "there is none");
    desk.models().pull(pull()).await.expect("taken");
    desk.elsewhere.keeps(2, Vec::new());
    assert!(ended(&desk, "n2").await);
    assert_eq!(desk.elsewhere.asked(), ["n2: cancel m:latest"]);
    assert!(desk.wished.wish(&named("m")).is_some());
    assert!(ended(&desk, "").await);
    assert_eq!(desk.wished.wish(&named("m")), None);

    let (code, what, next) = NO_NODE;
    check_refused(desk.models().cancel_pull(cancel("n9")).await, code, what, next);
    let what = "node 3: no connection";
    check_refused(desk.models().cancel_pull(cancel("n3")).await, ErrorCode::PeerUnreachable, what, "ollamax node list");
    desk.wished.set_quorum(false);
    assert_eq!(refused(desk.models().cancel_pull(cancel("")).await).code, "no_quorum");
    desk.finish().await;
}

#[tokio::test]
async fn what_a_request_asked_for_is_taken_back_and_what_others_want_is_not() {
    let desk = Desk::start().await;
    let admin = Admin::of(desk.house.clone());
    let by = |key: u8| {
        let once = Some(OnceKey { key: [key; 32], digest: [1; 32] });
        By { request: RequestId::default(), principal: "uid/7".to_owned(), once }
    };
    let ask = async |key: u8, count: u32| {
        let (replicas, want) = (Replicas::Count(count), Want::default());
        let (name, insecure, declared, unsaid) = (named("m"), false, false, false);
        let command = Command::AskModel { name, replicas, insecure, want, declared, unsaid, away: Default::default() };
        admin.change_by(&by(key), command).await.expect("taken");
    };
    let end = async |key: u8| admin.take_back_by(&by(key), "m", None).await.expect("told");
    assert_eq!(end(1).await, TakenBack::Nothing, "it was never asked for");
    ask(1, 2).await;
    assert_eq!(end(1).await, TakenBack::Ended);
    assert_eq!(desk.wish("m"), None);
    ask(1, 2).await;
    assert_eq!(desk.wish("m"), None, "it is not asked for a second time");
    assert_eq!(end(1).await, TakenBack::Nothing);
    ask(2, 2).await;
    ask(3, 3).await;
    assert_eq!(end(2).await, TakenBack::Stays, "it was asked for otherwise since");
    assert_eq!(end(3).await, TakenBack::Ended);
    ask(5, 2).await;
    let heard = admin.answered(&by(5)).await.expect("told");
    assert_eq!(end(6).await, TakenBack::Stays, "that key is forgotten");
    let taken_back = admin.take_back_by(&by(6), "m", heard.as_ref()).await.expect("told");
    assert_eq!((taken_back, desk.wish("m")), (TakenBack::Ended, None), "and what it was answered is not");
    desk.ask("m", Replicas::Count(2), Want::default()).await;
    ask(4, 3).await;
    assert_eq!(end(4).await, TakenBack::Stays, "somebody else wanted it before");
    assert_eq!(desk.wish("m").map(|wish| wish.replicas), Some(Replicas::Count(3)));
    desk.finish().await;
}

#[tokio::test]
async fn every_member_is_told_of_a_limit_and_those_that_pull_are_counted() {
    let desk = Desk::start().await;
    desk.elsewhere.keeps(2, Vec::new());
    let limit = |bytes_per_second| v1::LimitPullRequest { name: "m".to_owned(), bytes_per_second };
    let told = desk.models().limit_pull(limit(Some(20_000_000))).await.expect("told").into_inner();
    assert_eq!(told.nodes, 1);
    let of = |node: &str, bytes: &str| format!("{node}: limit m:latest to {bytes}");
    assert_eq!(desk.elsewhere.asked(), ["n2", "n3", "n4"].map(|node| of(node, "20000000")));
    desk.models().limit_pull(limit(None)).await.expect("told");
    assert_eq!(desk.elsewhere.asked()[0], of("n2", "0"), "it is lifted");
    let (what, next) = ("0 bytes a second is no rate that can be set", "write it like 20MB/s");
    check_refused(desk.models().limit_pull(limit(Some(0))).await, ErrorCode::BadRequest, what, next);
    assert_eq!(desk.elsewhere.asked().len(), 6);
    let pulls = desk.models().list_pulls(v1::ListPullsRequest {}).await.expect("told").into_inner();
    assert!(pulls.pulls.is_empty(), "{pulls:?}");
    desk.finish().await;
}

#[tokio::test]
async fn wishes_are_listed_with_how_far_they_are_and_what_is_not_wished_for_is_not_found() {
    let desk = Desk::with_wish().await;
    let list = |name: &str| v1::ListWishesRequest { name: name.to_owned() };
    for asked in ["", "m"] {
        let told = desk.models().list_wishes(list(asked)).await.expect("told").into_inner();
        let shown: Vec<_> = told.wishes.iter().map(|wish| (wish.name.as_str(), wish.count, wish.state())).collect();
        assert_eq!(shown, [("m:latest", Some(2), State::Met)]);
        assert_eq!((&told.wishes[0].holders, told.wishes[0].declared), (&words(&["n1", "n2"]), false));
    }
    let (code, what) = (ErrorCode::ModelNotFound, "nobody has asked for other:latest");
    check_refused(desk.models().list_wishes(list("other")).await, code, what, "ollamax model pull NAME");
    let follow = v1::FollowWishRequest { name: "other".to_owned(), wait: true };
    check_refused(desk.models().follow_wish(follow).await, code, what, "ollamax model pull NAME");
    desk.finish().await;
}

#[tokio::test]
async fn a_file_of_wishes_is_planned_without_a_change_and_applied_once() {
    let desk = Desk::with_wish().await;
    let before = desk.revision();
    let planned = desk.models().plan_wishes(file(FILE)).await.expect("it makes sense").into_inner();
    let expected = [("m:latest", Kind::Ask, "~ 2 → 3"), ("qwen3:8b", Kind::Ask, "+ wanted on n1, n3")];
    assert_eq!((kinds(&planned), desk.revision()), (expected.to_vec(), before));

    let made = desk.models().apply_wishes(file(FILE)).await.expect("taken").into_inner();
    assert_eq!(kinds(&made), expected);
    let wished = |name: &str| desk.wish(name).map(|wish| (wish.replicas, wish.declared));
    assert_eq!(wished("m"), Some((Replicas::Count(3), true)));
    assert_eq!(wished("qwen3:8b"), Some((Replicas::Nodes([1, 3].map(NodeId).to_vec()), true)));
    let before = desk.revision();
    let again = desk.models().apply_wishes(file(FILE)).await.expect("taken").into_inner();
    assert_eq!((again.changes.len(), desk.revision()), (0, before));

    let rest = desk.models().apply_wishes(file("")).await.expect("taken").into_inner();
    let none = "- no longer declared; copies stay";
    assert_eq!(kinds(&rest), [("m:latest", Kind::Forget, none), ("qwen3:8b", Kind::Forget, none)]);
    assert_eq!((desk.wish("m"), desk.wish("qwen3:8b")), (None, None));
    desk.finish().await;
}

#[tokio::test]
async fn a_file_that_is_wrong_changes_nothing_and_one_that_is_refused_half_way_says_how_far_it_came() {
    let desk = Desk::with_wish().await;
    let before = desk.revision();
    for text in ["[[model]]\nname = \"m\"\n", "[[model]]\nname = \"m\"\nnodes = [\"n9\"]\n", "model = 1\n"] {
        for told in [
            refused(desk.models().plan_wishes(file(text)).await),
            refused(desk.models().apply_wishes(file(text)).await),
        ] {
            assert_eq!(
                (told.code.as_str(), told.what.as_str()),
                ("bad_request", "the file of wishes is wrong"),
                "{text}"
            );
            assert!(told.why.starts_with("line ") && told.next.contains("replication.md"), "{told:?}");
        }
    }
    assert_eq!(desk.revision(), before);

    desk.has(1, "off", 7).await;
    let phase = PhaseWord::Disabled;
    desk.change(Command::SetPhase { name: named("off"), phase, note: String::new() }).await;
    let text = "[[model]]\nname = \"m\"\nreplicas = 1\n\n[[model]]\nname = \"off\"\nreplicas = 1\n";
    let told = refused(desk.models().apply_wishes(file(text)).await);
    assert_eq!((told.code.as_str(), told.what.as_str()), ("forbidden", "off:latest: off:latest is disabled"));
    assert!(told.why.starts_with("1 of 2 changes were made before; "), "{told:?}");
    assert_eq!(told.next, "ollamax model enable off:latest");
    assert_eq!(desk.wish("m").map(|wish| (wish.replicas, wish.declared)), Some((Replicas::Count(1), true)));
    assert_eq!(desk.wish("off"), None);
    desk.finish().await;
}

#[tokio::test]
async fn a_move_is_shown_first_and_goes_on_record_as_one_target_more() {
    let desk = Desk::with_wish().await;
    desk.hear(3);
    let expected = v1::MoveView {
        name: "m:latest".to_owned(),
        kind: "rebalance".to_owned(),
        from: "n1".to_owned(),
        to: words(&["n3"]),
        leaves: "n1".to_owned(),
        size_bytes: SIZE_BYTES,
    };
    let asked = v1::MoveRequest { dry_run: true, ..to("n3") };
    let shown = desk.models().move_model(asked).await.expect("possible").into_inner();
    assert_eq!((shown.shown, desk.planned()), (Some(expected.clone()), (vec![1, 2], PlanKind::Asked)));
    let done = desk.models().move_model(to("n3")).await.expect("possible").into_inner();
    assert_eq!((done.shown, desk.planned()), (Some(expected), (vec![2, 3, 1], PlanKind::Rebalance)));
    desk.finish().await;
}

#[tokio::test]
async fn a_move_that_cannot_be_leaves_the_plan_as_it_is() {
    let desk = Desk::with_wish().await;
    let rm = "ollamax model rm m:latest --node n1";
    let refused = ErrorCode::PreconditionFailed;
    for (asked, (code, what, next)) in [
        (to("n2"), (refused, "n2 has m:latest already", rm)),
        (to("n4"), (refused, "n4 is a gateway", "ollamax node list")),
        (to("n9"), NO_NODE),
        (v1::MoveRequest { from: "n9".to_owned(), ..to("n3") }, NO_NODE),
        (
            v1::MoveRequest { from: "n3".to_owned(), ..to("n1") },
            (ErrorCode::ModelNotFound, "n3 does not have m:latest", "ollamax model wishes"),
        ),
        // It has one, and nobody hears it.
        (v1::MoveRequest { from: "n2".to_owned(), ..to("n3") }, (refused, "n2 is not heard", "ollamax model repair")),
        (
            v1::MoveRequest { name: "other".to_owned(), ..to("n3") },
            (ErrorCode::ModelNotFound, "nobody has asked for other:latest", "ollamax model pull NAME"),
        ),
    ] {
        check_refused(desk.models().move_model(asked).await, code, what, next);
    }
    desk.change(Command::PinModel { name: named("m"), digest: Some(digest(1)) }).await;
    let (what, next) = ("m:latest is pinned at 010101010101", "ollamax model unpin m:latest");
    check_refused(desk.models().move_model(to("n3")).await, refused, what, next);
    assert_eq!(desk.planned(), (vec![1, 2], PlanKind::Asked));
    desk.finish().await;
}

#[tokio::test]
async fn what_the_leader_would_do_is_shown_or_done_and_only_what_was_asked_for() {
    let desk = Desk::with_wish().await;
    let round = desk.wish("m").expect("on record").round;
    let ask = |rebalance: bool, dry_run: bool| v1::OutlookRequest { rebalance, dry_run };
    let expected = v1::MoveView {
        name: "m:latest".to_owned(),
        kind: "repair".to_owned(),
        from: "n1".to_owned(),
        to: words(&["n3"]),
        leaves: String::new(),
        size_bytes: SIZE_BYTES,
    };
    desk.house.foresee(Ok(repair(round)));
    let shown = desk.models().outlook(ask(false, true)).await.expect("told").into_inner();
    assert_eq!((shown.moves, desk.planned()), (vec![expected.clone()], (vec![1, 2], PlanKind::Asked)));
    desk.house.foresee(Ok(repair(round)));
    let other = desk.models().outlook(ask(true, false)).await.expect("told").into_inner();
    assert_eq!((other.moves, desk.planned().1), (Vec::new(), PlanKind::Asked), "a repair is no rebalance");

    desk.house.foresee(Ok(repair(round)));
    let done = desk.models().outlook(ask(false, false)).await.expect("told").into_inner();
    assert_eq!((done.moves, desk.planned()), (vec![expected], (vec![1, 2, 3], PlanKind::Repair)));

    desk.house.foresee(Ok(repair(round + 1)));
    let what = format!("round {} of m:latest has passed", round + 1);
    let again = desk.models().outlook(ask(false, false)).await;
    check_refused(again, ErrorCode::PreconditionFailed, &what, "ollamax model pulls");
    let (what, next) = ("no leader is known just now", "ollamax status");
    desk.house.foresee(Err(AdminError::new(ErrorCode::NoQuorum, what, "only the leader plans", next)));
    check_refused(desk.models().outlook(ask(false, false)).await, ErrorCode::NoQuorum, what, next);
    desk.finish().await;
}
