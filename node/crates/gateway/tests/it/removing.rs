//! What goes at the administrators' door: copies, models, versions that lie aside, and what the rules would take.

use std::collections::BTreeSet;

use ollamax_core::catalog::{Command, Cordon, OnceKey, Phase, PhaseWord, Replicas, Want, read};
use ollamax_gateway::grpc::{Admin, By};
use ollamax_proto::v1;
use ollamax_types::{ErrorCode, NodeId, RequestId};

use crate::desk::{Desk, SIZE_BYTES, check_refused, digest, kept, named, refused};

const RULES: &str = r#"{"rules": [{"match": "*", "unused_days": 0, "then": "deprecate"}]}"#;

/// The copies of `m` on these nodes, or all of it.
fn remove(nodes: &[&str]) -> v1::RemoveModelRequest {
    let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
    v1::RemoveModelRequest { name: "m".to_owned(), nodes, dry_run: false, force: false }
}

fn insist(nodes: &[&str]) -> v1::RemoveModelRequest {
    v1::RemoveModelRequest { force: true, ..remove(nodes) }
}

fn set(rules: &str) -> v1::RulesRequest {
    v1::RulesRequest { set: Some(rules.to_owned()), ..v1::RulesRequest::default() }
}

impl Desk {
    /// `m` at version 1 on these nodes, all of which are heard.
    async fn with_copies(nodes: &[u64]) -> Self {
        let desk = Self::start().await;
        for node in nodes {
            desk.has(*node, "m", 1).await;
            desk.hear(*node);
        }
        desk
    }

    /// What would go.
    async fn look(&self, asked: v1::RemoveModelRequest) -> v1::RemoveModelReply {
        let asked = v1::RemoveModelRequest { dry_run: true, ..asked };
        self.models().remove_model(asked).await.expect("told").into_inner()
    }

    /// Whose copies of `m` shall go, and whether somebody insisted.
    fn going(&self) -> Vec<(u64, bool, String)> {
        let drops = self.model("m").map(|model| model.drops).unwrap_or_default();
        drops.into_iter().map(|(node, dropped)| (node.0, dropped.insisted, dropped.by)).collect()
    }

    /// The rules that are set.
    fn rules(&self) -> Option<String> {
        let setting = read::setting(&*self.metadata.view(), "models/rules").expect("readable");
        setting.map(|setting| String::from_utf8(setting.value).expect("text"))
    }
}

/// Whose copies a removal takes.
fn going_of(told: &v1::RemoveModelReply) -> Vec<&str> {
    told.plan.iter().flat_map(|plan| &plan.acts).map(|act| act.node_name.as_str()).collect()
}

#[tokio::test]
async fn a_removal_is_told_before_it_is_done_and_then_stands_on_record() {
    let desk = Desk::with_copies(&[1, 2, 3]).await;
    let before = desk.revision();
    let asked = v1::RemoveModelRequest { dry_run: true, ..remove(&["n2", "2"]) };
    let shown = desk.models().remove_model(asked).await.expect("possible").into_inner();
    let act = v1::ActView {
        name: "m:latest".to_owned(),
        node_id: 2,
        node_name: "n2".to_owned(),
        deed: "drop".to_owned(),
        digest: digest(1).0.to_vec(),
        size_bytes: SIZE_BYTES,
        frees_bytes: SIZE_BYTES,
        ..v1::ActView::default()
    };
    let expected = v1::RemoveModelReply {
        name: "m:latest".to_owned(),
        plan: Some(v1::PlanView { acts: vec![act], frees_bytes: SIZE_BYTES }),
        left: vec!["n1".to_owned(), "n3".to_owned()],
        // Nobody asked for it.
        is_forgotten: true,
        ..v1::RemoveModelReply::default()
    };
    assert_eq!((shown, desk.revision(), desk.going()), (expected.clone(), before, Vec::new()));

    let done = desk.models().remove_model(remove(&["n2"])).await.expect("possible").into_inner();
    assert_eq!(done, expected);
    assert_eq!(desk.going(), [(2, false, "node/1 for admin".to_owned())]);
    desk.finish().await;
}

#[tokio::test]
async fn the_last_copy_goes_when_somebody_insists_or_the_model_was_disabled() {
    let desk = Desk::with_copies(&[1, 2]).await;
    let (code, what) = (ErrorCode::PreconditionFailed, "that would remove the last copy of m:latest");
    let next = "ollamax model rm m:latest --force";
    for nodes in [&["n1", "n2"][..], &[]] {
        check_refused(desk.models().remove_model(remove(nodes)).await, code, what, next);
        // What would go is shown all the same, and what speaks against it.
        let told = desk.look(remove(nodes)).await;
        assert_eq!(going_of(&told), ["n1", "n2"]);
        let guard = told.refusal.expect("a guard");
        assert_eq!((guard.code.as_str(), guard.what.as_str(), guard.next.as_str()), (code.as_str(), what, next));
        assert_eq!(desk.look(insist(nodes)).await.refusal, None);
    }
    assert!(desk.going().is_empty());
    desk.models().remove_model(insist(&["n1"])).await.expect("insisted");
    desk.models().remove_model(insist(&["n2"])).await.expect("insisted");
    let by = || "node/1 for admin".to_owned();
    assert_eq!(desk.going(), [(1, true, by()), (2, true, by())]);
    desk.finish().await;

    let desk = Desk::with_copies(&[1]).await;
    let disabled = Command::SetPhase { name: named("m"), phase: PhaseWord::Disabled, note: String::new() };
    desk.change(disabled).await;
    let told = desk.models().remove_model(remove(&[])).await.expect("nobody uses it").into_inner();
    assert!(told.left.is_empty() && told.is_forgotten, "{told:?}");
    assert!(matches!(desk.model("m").map(|model| model.phase), Some(Phase::Deleted(_))));
    desk.finish().await;
}

#[tokio::test]
async fn a_version_is_not_left_on_nodes_alone_that_are_not_heard() {
    let desk = Desk::with_copies(&[1]).await;
    desk.has(2, "m", 1).await;
    let before = desk.revision();
    let told = refused(desk.models().remove_model(remove(&["n1"])).await);
    assert_eq!(
        (told.code.as_str(), told.what.as_str()),
        ("precondition_failed", "no node that is heard would have m:latest")
    );
    assert_eq!(told.why, "it would be left on n2 alone, and that is not heard");
    assert_eq!(told.next, "ollamax node list; or the same again with --force");
    let guard = desk.look(remove(&["n1"])).await.refusal.map(|guard| guard.what);
    assert_eq!((guard, desk.revision()), (Some(told.what), before));

    desk.hear(2);
    let told = desk.models().remove_model(remove(&["n1"])).await.expect("n2 is heard").into_inner();
    assert_eq!((told.left, told.silent), (vec!["n2".to_owned()], Vec::<String>::new()));
    desk.finish().await;

    let desk = Desk::with_copies(&[1]).await;
    desk.has(2, "m", 1).await;
    let told = desk.models().remove_model(insist(&["n1"])).await.expect("insisted").into_inner();
    assert_eq!(told.silent, ["n2"], "it is told all the same");
    desk.finish().await;

    // Fewer copies of the pinned version would be left than are asked for: that is told first.
    let desk = Desk::with_wish().await;
    desk.change(Command::PinModel { name: named("m"), digest: Some(digest(1)) }).await;
    let (pinned, unpin) = ("m:latest is pinned at 010101010101", "ollamax model unpin m:latest");
    let guard = desk.look(remove(&["n1"])).await.refusal.map(|guard| guard.what);
    assert_eq!(guard.as_deref(), Some(pinned));
    let code = ErrorCode::PreconditionFailed;
    check_refused(desk.models().remove_model(remove(&["n1"])).await, code, pinned, unpin);
    desk.finish().await;
}

#[tokio::test]
async fn copies_that_somebody_asked_for_stay_and_the_others_are_counted_where_they_belong() {
    let desk = Desk::with_wish().await;
    desk.has(3, "m", 1).await;
    for node in [2, 3] {
        desk.hear(node);
    }
    let want = Want { avoid: BTreeSet::from([NodeId(3)]), ..Want::default() };
    desk.ask("m", Replicas::Count(2), want).await;
    let (code, what) = (ErrorCode::PreconditionFailed, "m:latest is wanted on 2 nodes; 1 would be left");
    let fewer = "ollamax model pull m:latest --replicas 1";
    // Three nodes have it, and one of them is to be avoided.
    check_refused(desk.models().remove_model(remove(&["n1"])).await, code, what, fewer);
    desk.change(Command::SetCordon { node: NodeId(2), cordon: Cordon::Emptying }).await;
    let none = "m:latest is wanted on 2 nodes; 0 would be left";
    let where_it_is = "ollamax model wishes shows where it is wanted; or the same again with --force";
    check_refused(desk.models().remove_model(remove(&["n1"])).await, code, none, where_it_is);
    // What does not belong where it is may go, whatever is left.
    desk.models().remove_model(remove(&["n3"])).await.expect("nobody wants it there");
    assert_eq!(desk.going(), [(3, false, "node/1 for admin".to_owned())]);
    assert!(desk.wish("m").is_some());

    // The whole model goes with its wish.
    let told = desk.models().remove_model(insist(&[])).await.expect("insisted").into_inner();
    assert!(told.is_forgotten && told.left.is_empty(), "{told:?}");
    assert_eq!(desk.wish("m"), None);
    desk.finish().await;
}

#[tokio::test]
async fn a_removal_with_a_key_takes_the_copies_once_and_not_what_comes_back() {
    let desk = Desk::with_copies(&[1, 2, 3]).await;
    let once = Some(OnceKey { key: [1; 32], digest: [1; 32] });
    let by = By { request: RequestId::default(), principal: "uid/7".to_owned(), once };
    let removed = async || {
        let told = Admin::of(desk.house.clone()).remove_by(&by, &insist(&["n1", "n2"])).await.expect("told");
        going_of(&told).into_iter().map(ToOwned::to_owned).collect::<Vec<String>>()
    };
    assert_eq!(removed().await, ["n1", "n2"]);
    assert_eq!(removed().await, ["n1", "n2"], "they are there still");
    let key = || vec![named("m").key()];
    desk.change(Command::ReportModels { node: NodeId(1), present: vec![], absent: key(), removed: key() }).await;
    assert_eq!(removed().await, ["n2"]);
    desk.has(1, "m", 1).await;
    assert_eq!(removed().await, ["n2"], "what came back is wanted again");
    let other = By { once: Some(OnceKey { key: [1; 32], digest: [2; 32] }), ..by.clone() };
    let error = Admin::of(desk.house.clone()).remove_by(&other, &insist(&["n1"])).await.expect_err("another request");
    assert_eq!(error.code, ErrorCode::PreconditionFailed, "the key is that of the first one: {error:?}");
    assert_eq!(desk.going().len(), 1);
    desk.finish().await;
}

#[tokio::test]
async fn copies_of_a_pinned_version_stay_and_what_is_not_there_cannot_go() {
    let desk = Desk::with_wish().await;
    desk.hear(2);
    desk.change(Command::PinModel { name: named("m"), digest: Some(digest(1)) }).await;
    let (pinned, unpin) = ("m:latest is pinned at 010101010101", "ollamax model unpin m:latest");
    for nodes in [&["n1"][..], &[]] {
        let told = desk.look(remove(nodes)).await;
        let guard = told.refusal.expect("a guard");
        assert_eq!((told.pinned, guard.what.as_str(), guard.next.as_str()), (vec![1; 32], pinned, unpin));
        check_refused(desk.models().remove_model(remove(nodes)).await, ErrorCode::PreconditionFailed, pinned, unpin);
    }
    let before = desk.revision();
    let told = desk.look(insist(&[])).await;
    assert_eq!((told.pinned, told.refusal), (vec![1; 32], None), "whoever insists is told of the pin too");
    for (asked, (code, what, next)) in [
        (remove(&["n9"]), (ErrorCode::NodeNotFound, "there is no node \"n9\"", "ollamax node list")),
        (remove(&["n3"]), (ErrorCode::ModelNotFound, "n3 does not have m:latest", "ollamax model show m:latest")),
        (
            v1::RemoveModelRequest { name: "nothing".to_owned(), ..remove(&[]) },
            (ErrorCode::ModelNotFound, "model nothing:latest not found", "ollamax model pull nothing:latest"),
        ),
        (
            v1::RemoveModelRequest { name: String::new(), ..remove(&[]) },
            (ErrorCode::BadRequest, "\"\" is not a model name", "ollamax model pull llama3.2"),
        ),
    ] {
        let asked = v1::RemoveModelRequest { dry_run: true, ..asked };
        check_refused(desk.models().remove_model(asked).await, code, what, next);
    }
    assert_eq!((desk.revision(), desk.going()), (before, Vec::new()));
    desk.finish().await;
}

#[tokio::test]
async fn a_wish_without_a_copy_is_removed_alone() {
    let desk = Desk::start().await;
    desk.ask("m", Replicas::Count(1), Want::default()).await;
    let told = desk.models().remove_model(remove(&[])).await.expect("there is a wish").into_inner();
    assert!(told.is_forgotten && told.plan.is_some_and(|plan| plan.acts.is_empty()));
    assert_eq!(desk.wish("m"), None);
    desk.finish().await;
}

#[tokio::test]
async fn each_node_lets_go_what_it_keeps_and_who_does_not_say_so_is_named() {
    let desk = Desk::start().await;
    desk.elsewhere.keeps(2, vec![kept("m", 1)]);
    let collect = |nodes: &[&str], dry_run: bool| {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        v1::CollectRequest { nodes, dry_run }
    };
    let expected = v1::CollectedView {
        node_id: 2,
        node_name: "n2".to_owned(),
        name: "m:latest".to_owned(),
        digest: digest(1).0.to_vec(),
        size_bytes: SIZE_BYTES,
    };
    let told = desk.models().collect(collect(&["n2"], true)).await.expect("told").into_inner();
    assert_eq!(told, v1::CollectReply { kept: vec![expected.clone()], ..Default::default() });
    assert_eq!(desk.elsewhere.asked(), ["n2: what would go"]);

    // All but the gateway; this node has no store, and node 3 cannot be reached.
    let told = desk.models().collect(collect(&[], false)).await.expect("told").into_inner();
    let silent = vec!["n1".to_owned(), "n3".to_owned()];
    assert_eq!(told, v1::CollectReply { kept: vec![expected], silent, ..Default::default() });
    assert_eq!(desk.elsewhere.asked(), ["n2: let go", "n2: what would go", "n3: let go"]);

    let (what, next) = ("there is no node \"n9\"", "ollamax node list");
    check_refused(desk.models().collect(collect(&["n2", "n9"], false)).await, ErrorCode::NodeNotFound, what, next);
    assert_eq!(desk.elsewhere.asked().len(), 3, "nobody was asked");
    desk.finish().await;
}

#[tokio::test]
async fn rules_are_set_switched_and_shown_with_what_they_would_do() {
    let desk = Desk::with_copies(&[1]).await;
    desk.note("m", 1).await;
    let told = desk.models().rules(v1::RulesRequest::default()).await.expect("there are none").into_inner();
    assert_eq!((told.on, told.plan, desk.rules()), (false, None, None), "looking sets nothing");

    let told = desk.models().rules(set(RULES)).await.expect("rules").into_inner();
    assert_eq!((told.on, desk.rules().as_ref()), (false, Some(&told.rules)));
    // They are shown whether they are on or not, and nothing is done.
    let plan = || v1::RulesRequest { plan: true, ..v1::RulesRequest::default() };
    let told = desk.models().rules(plan()).await.expect("a plan").into_inner();
    let acts: Vec<(String, String, u32, u64)> =
        told.plan.expect("asked for").acts.into_iter().map(|act| (act.name, act.deed, act.rule, act.node_id)).collect();
    assert_eq!(acts, [("m:latest".to_owned(), "deprecate".to_owned(), 1, 0)]);
    assert_eq!(desk.model("m").map(|model| model.phase), Some(Phase::Active));

    let switch = |on: bool| v1::RulesRequest { on: Some(on), ..v1::RulesRequest::default() };
    let told = desk.models().rules(switch(true)).await.expect("on").into_inner();
    assert!(told.on && desk.rules().is_some_and(|rules| rules.contains(r#""on": true"#)), "{:?}", desk.rules());
    let told = desk.models().why_model(v1::WhyModelRequest { name: "m".to_owned() }).await.expect("known").into_inner();
    let last = told.reasons.last().map(|reason| reason.text.clone());
    assert_eq!(last.as_deref(), Some("rule 1 would deprecate it now"));

    let before = desk.revision();
    let told = desk.models().rules(switch(true)).await.expect("on already").into_inner();
    assert_eq!((told.on, desk.revision()), (true, before), "nothing is written for nothing");
    desk.models().rules(switch(false)).await.expect("off");
    assert!(desk.rules().is_some_and(|rules| rules.contains(r#""on": false"#)), "{:?}", desk.rules());
    desk.finish().await;
}

#[tokio::test]
async fn what_is_no_rules_is_refused_whole_and_the_rules_that_there_are_stay() {
    let desk = Desk::start().await;
    let held = desk.models().rules(set(RULES)).await.expect("rules").into_inner().rules;
    let before = desk.revision();
    let bare = r#"{"rules": [{"match": "a*", "then": "delete"}, {"match": "", "age_days": 1, "then": "disable"}]}"#;
    for text in ["", "{", r#"{"on": 1}"#, bare] {
        // The switch beside it is not taken either.
        let told = refused(desk.models().rules(v1::RulesRequest { on: Some(true), ..set(text) }).await);
        assert_eq!(
            (told.code.as_str(), told.what.as_str()),
            ("bad_request", "these are no rules for models"),
            "{text}"
        );
        assert_eq!(told.next, "ollamax model rules show");
        assert!(text != bare || told.why.contains("rule 1: ") && told.why.contains("; rule 2: "), "{told:?}");
    }
    assert_eq!((desk.rules(), desk.revision()), (Some(held), before));
    desk.finish().await;
}
