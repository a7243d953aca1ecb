//! Models that have too few copies, models that cannot have enough, copies that do not go, and copies that do not come
//! because a person removed them.
//!
//! Always holds: a handful of models is named one by one, and more are one line with the reasons of most of them. A
//! model is told for what can be done about it: one that has too few nodes is told as that alone. That a copy comes by
//! itself is said only where it does. Whoever is being emptied is no place for the copy that it has yet.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ollamax_core::placement::Unfit;
use ollamax_proto::v1::node_view::{Health, State};
use ollamax_proto::v1::{Attention, Cordon, NodeView, StatusReply};
use ollamax_types::{ModelName, NodeId};

use super::{entry, span};

/// Models that are named one by one.
const NAMED_MAX: usize = 5;
const COMES_WHY: &str = "what is missing comes as soon as a node that has been there for a while has room for it";
const NAMED_COMES_WHY: &str =
    "it is wanted on nodes by their names and comes to no other; it comes when they are there and have room";
const LASTING_WHY: &str =
    "it is removed only while another node that is heard keeps that version, and when its runtime lets it go";
const LEFT_OUT_WHY: &str = "it was removed there by hand, so nothing puts it back there; others may get it instead";
const NAMED_LEFT_OUT_WHY: &str =
    "it was removed there by hand, so nothing puts it back there; it is wanted on named nodes, and no other gets it";
/// What keeps a model from more copies, where nothing is wrong with any node.
pub(in crate::grpc) const NO_OTHER_WHY: &str = "there is no other node";
const NO_MAJORITY_WHY: &str = "no majority of voters answers, and nothing is planned before one does";
const PIN_WHY: &str = "no other version may take its place, and no node can give this one";

/// What is known of copies.
#[derive(Debug, Clone, Copy, Default)]
pub struct Copies<'a> {
    /// Models with too few copies, in order.
    pub few: &'a [Few],
    /// Wishes that ended without a copy that is missed, in order.
    pub failed: &'a [Failed],
    /// Models for which there are not nodes enough, and what is wrong with the others.
    pub impossible: &'a [(ModelName, Vec<(NodeId, Unfit)>)],
    /// Models that are pinned to a version that nobody has.
    pub pinned: &'a [ModelName],
    /// Copies that were told to go long ago and are still there.
    pub lasting: &'a [Lasting],
    /// Copies that a person removed.
    pub left_out: &'a [LeftOut],
    /// Silence after which copies are made anew elsewhere.
    pub repair_after: Duration,
}

/// A model with too few copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Few {
    /// Which model.
    pub name: ModelName,
    /// Copies on nodes that have not been silent for long.
    pub has: u32,
    /// Copies that it should have.
    pub wants: u32,
    /// Who has one, silent or not.
    pub holders: BTreeSet<NodeId>,
    /// It is wanted on nodes by their names, so that nobody stands in for one.
    pub is_named: bool,
    /// What ended its wish; `None` where it goes on.
    pub ended: Option<Ended>,
}

/// A wish that ended, of a model that has no copies too few.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Of which model.
    pub name: ModelName,
    /// With what.
    pub ended: Ended,
}

/// With what a wish ended that nobody goes on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What nodes told.
    pub why: String,
    /// The command that asks for the same once more.
    pub again: String,
}

/// A copy that was told to go and is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lasting {
    /// Of which model.
    pub name: ModelName,
    /// Where.
    pub node: NodeId,
    /// For how long it has been so.
    pub waits_ms: u64,
}

/// A copy that a person removed, whose node is left out since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Of which model.
    pub name: ModelName,
    /// Where.
    pub node: NodeId,
    /// For how long it has been so.
    pub since_ms: u64,
    /// The nodes that are to be named for it to be there again as well, itself among them; `None`: the wish names none.
    pub named: Option<BTreeSet<NodeId>>,
}

/// What wants a decision about copies.
pub(super) fn missing(status: &StatusReply, copies: Copies<'_>, found: &mut Vec<Attention>) {
    too_few(status, copies, found);
    not_pulled(copies.failed, found);
    if copies.impossible.len() > NAMED_MAX {
        let what = format!("{} models fit on fewer nodes than are wanted", copies.impossible.len());
        let reasons = copies.impossible.iter().flat_map(|(_, reasons)| reasons);
        let why = most(reasons.map(|(node, unfit)| unfit.of(&called(status, *node))));
        found.push(entry("wish_impossible", what, why, "ollamax model wishes".to_owned()));
    } else {
        found.extend(copies.impossible.iter().map(|(name, why)| impossible(status, name, why)));
    }
    if copies.pinned.len() > NAMED_MAX {
        let what = format!("{} models are pinned to versions that nobody has", copies.pinned.len());
        found.push(entry("pin_not_held", what, PIN_WHY.to_owned(), "ollamax model list".to_owned()));
    } else {
        found.extend(copies.pinned.iter().map(|name| {
            let what = format!("{name} is pinned and nobody has that version");
            entry("pin_not_held", what, PIN_WHY.to_owned(), format!("ollamax model history {name}"))
        }));
    }
    not_going(status, copies.lasting, found);
    not_coming(status, copies.left_out, found);
}

/// Models that were asked for, and that nobody goes on with: a name that its registry does not know, above all.
fn not_pulled(failed: &[Failed], found: &mut Vec<Attention>) {
    if failed.len() > NAMED_MAX {
        let why = most(failed.iter().map(|failed| failed.ended.why.clone()));
        let what = format!("{} pulls have failed", failed.len());
        found.push(entry("wish_failed", what, why, "ollamax model wishes".to_owned()));
        return;
    }
    found.extend(failed.iter().map(|Failed { name, ended: Ended { why, again } }| {
        let end = format!("ollamax model pull {name} --cancel");
        let next = format!("to have it tried again: {again}; to want it no more: {end}");
        entry("wish_failed", format!("the pull of {name} has failed"), why.clone(), next)
    }));
}

/// Copies that nothing puts back, because a person removed them. That is what was wanted, unless somebody says
/// otherwise; a model that has too few copies for it is told besides.
fn not_coming(status: &StatusReply, left_out: &[LeftOut], found: &mut Vec<Attention>) {
    let members: BTreeMap<u64, &str> = standing(status).map(|node| (node.id, node.name.as_str())).collect();
    let name_of = |node: &NodeId| members.get(&node.0).copied();
    let left_out: Vec<(&LeftOut, &str)> =
        left_out.iter().filter_map(|left_out| Some((left_out, name_of(&left_out.node)?))).collect();
    if left_out.len() > NAMED_MAX {
        let first: Vec<String> =
            left_out.iter().take(NAMED_MAX).map(|(LeftOut { name, .. }, node)| format!("{name} on {node}")).collect();
        let what = format!("{} copies are left out: {}, and more", left_out.len(), first.join(", "));
        let next = "ollamax model why NAME; to have it there again: ollamax model pull NAME --node NODE,NODE";
        let why = most(left_out.iter().map(|(left_out, _)| why_left_out(left_out).to_owned()));
        found.push(entry("copy_left_out", what, why, next.to_owned()));
        return;
    }
    found.extend(left_out.into_iter().map(|(left_out, node)| {
        let LeftOut { name, since_ms, named, .. } = left_out;
        let what = format!("{node} is left out of who gets {name}, for {}", span(*since_ms));
        let again = match named {
            None => format!("on {node}: ollama pull {name}"),
            Some(named) => {
                let named: Vec<&str> = named.iter().filter_map(name_of).collect();
                format!("ollamax model pull {name} --node {}", named.join(","))
            }
        };
        let why = why_left_out(left_out).to_owned();
        entry("copy_left_out", what, why, format!("to have it there again: {again}"))
    }));
}

/// Why a copy does not come back; nobody stands in for a node that is named.
const fn why_left_out(left_out: &LeftOut) -> &'static str {
    if left_out.named.is_some() { NAMED_LEFT_OUT_WHY } else { LEFT_OUT_WHY }
}

/// Copies that stay although they were told to go. One on a node that is silent waits for that node, which is told.
fn not_going(status: &StatusReply, lasting: &[Lasting], found: &mut Vec<Attention>) {
    let heard: BTreeMap<u64, &NodeView> =
        standing(status).filter(|node| !is_silent(node)).map(|node| (node.id, node)).collect();
    let lasting: Vec<(&Lasting, &NodeView)> =
        lasting.iter().filter_map(|lasting| Some((lasting, *heard.get(&lasting.node.0)?))).collect();
    if lasting.len() > NAMED_MAX {
        let what = format!("{} copies were told to go and are still there", lasting.len());
        found.push(entry("copy_stays", what, LASTING_WHY.to_owned(), "ollamax model list".to_owned()));
        return;
    }
    found.extend(lasting.into_iter().map(|(Lasting { name, waits_ms, .. }, node)| {
        let what = format!("{name} is still on {}, told to go {} ago", node.name, span(*waits_ms));
        let next = format!("look for `remove a copy` in the log of {}; ollamax model why {name}", node.name);
        entry("copy_stays", what, LASTING_WHY.to_owned(), next)
    }));
}

fn too_few(status: &StatusReply, copies: Copies<'_>, found: &mut Vec<Attention>) {
    let impossible: BTreeSet<&ModelName> = copies.impossible.iter().map(|(name, _)| name).collect();
    let is_possible = |few: &&Few| !impossible.contains(&few.name);
    let few: Vec<&Few> = copies.few.iter().filter(is_possible).collect();
    if few.len() > NAMED_MAX {
        let what = format!("{} models have too few copies", few.len());
        let why = most(few.iter().map(|few| reason(status, few, copies.repair_after).0));
        found.push(entry("under_replicated", what, why, "ollamax model wishes".to_owned()));
        return;
    }
    found.extend(few.into_iter().map(|few| {
        let Few { name, has, wants, .. } = few;
        let what = format!("{name} has {has} of {wants} copies");
        let (why, next) = reason(status, few, copies.repair_after);
        entry("under_replicated", what, why, next)
    }));
}

/// Why copies are missing: with what the wish ended, or who is missed and what will happen, the longest silence first.
/// And what there is to do.
fn reason(status: &StatusReply, few: &Few, repair_after: Duration) -> (String, String) {
    let Few { name, holders, is_named, ended, .. } = few;
    let look = format!("ollamax model why {name}");
    if status.raft.as_ref().is_some_and(|raft| !raft.has_quorum) {
        return (NO_MAJORITY_WHY.to_owned(), look);
    }
    if let Some(Ended { why, again }) = ended {
        let end = if holders.is_empty() {
            format!("ollamax model rm {name}")
        } else {
            format!("ollamax model pull {name} --cancel")
        };
        return (why.clone(), format!("to have it tried again: {again}; to want it no more: {end}"));
    }
    let mut silent: Vec<&NodeView> = standing(status).filter(|node| is_silent(node)).collect();
    silent.retain(|node| holders.contains(&NodeId(node.id)));
    let Some(node) = silent.into_iter().max_by_key(|node| node.silent_ms) else {
        let why = if *is_named { NAMED_COMES_WHY } else { COMES_WHY };
        return (why.to_owned(), look);
    };
    let after_ms = u64::try_from(repair_after.as_millis()).unwrap_or(u64::MAX);
    let (silent, silence) = (&node.name, span(node.silent_ms));
    if *is_named {
        let why = "it is wanted there by its name, so no other gets a copy instead";
        return (format!("{silent} is silent for {silence}; {why}"), look);
    }
    if node.silent_ms < after_ms {
        return (format!("{silent} is silent for {silence}; after {} a new copy is made", span(after_ms)), look);
    }
    (format!("{silent} is silent for {silence}; a new copy is made where there is room"), look)
}

/// The reasons of many models, those of most of them first.
fn most(reasons: impl Iterator<Item = String>) -> String {
    let mut models: BTreeMap<String, usize> = BTreeMap::new();
    for reason in reasons {
        *models.entry(reason).or_default() += 1;
    }
    let mut models: Vec<(String, usize)> = models.into_iter().collect();
    models.sort_by_key(|(_, count)| Reverse(*count));
    let word = |(reason, count): &(String, usize)| {
        let thing = if *count == 1 { "model" } else { "models" };
        format!("{reason} ({count} {thing})")
    };
    match models.as_slice() {
        [] => "there are not nodes enough".to_owned(),
        [(reason, _)] => reason.clone(),
        all => {
            let mut words: Vec<String> = all.iter().take(NAMED_MAX).map(word).collect();
            if all.len() > NAMED_MAX {
                words.push("and more".to_owned());
            }
            words.join("; ")
        }
    }
}

/// What a node is called; its id, where it is no member.
fn called(status: &StatusReply, node: NodeId) -> String {
    let known = standing(status).find(|view| view.id == node.0);
    known.map_or_else(|| format!("node {node}"), |view| view.name.clone())
}

/// A wish that names who has left is told as that: whatever else is mended, it comes to nothing there. An id is never
/// given out again, and a name may be.
fn impossible(status: &StatusReply, name: &ModelName, why: &[(NodeId, Unfit)]) -> Attention {
    let of = standing(status).count();
    let is_told = |node: &NodeView| why.iter().any(|(other, _)| other.0 == node.id);
    let emptied = standing(status).filter(|node| node.cordon() == Cordon::Emptying && !is_told(node));
    let emptied: Vec<String> = emptied.map(|node| format!("{} is being emptied", node.name)).collect();
    let fits = of.saturating_sub(why.len() + emptied.len());
    let word = |node: NodeId| match status.nodes.iter().find(|view| view.id == node.0) {
        Some(view) if view.state() == State::Departed => format!("{} (node {node})", view.name),
        Some(view) => view.name.clone(),
        None => format!("node {node}"),
    };
    let (departed, others): (Vec<_>, Vec<_>) = why.iter().partition(|(_, unfit)| *unfit == Unfit::Departed);
    let reasons: Vec<String> = others.iter().map(|(node, unfit)| unfit.of(&word(*node))).collect();
    if !departed.is_empty() {
        let nodes: Vec<String> = departed.iter().map(|(node, _)| word(*node)).collect();
        let are = if nodes.len() > 1 { "are no members" } else { "is no member" };
        let what = format!("{name} is wanted on {}, which {are} any more", nodes.join(", "));
        let alone = "a wish for nodes by their names is met nowhere else".to_owned();
        let why = reasons.into_iter().chain([alone]).collect::<Vec<_>>().join("; ");
        let next = format!("name others: ollamax model pull {name} --node NODE,NODE, or say a number: --replicas 2");
        return entry("wish_impossible", what, why, next);
    }
    // What was told stands until somebody asks anew.
    let has_failed = why.iter().any(|(_, unfit)| matches!(unfit, Unfit::Told(_)));
    let mend = match (has_failed, reasons.is_empty() && emptied.is_empty()) {
        (true, _) => "mend that and pull it again",
        (false, true) => "add a node",
        (false, false) => "mend that",
    };
    let next = if fits == 0 {
        format!("ollamax model why {name}")
    } else {
        format!("{mend}, or want less: ollamax model pull {name} --replicas {fits}")
    };
    let reasons: Vec<String> = reasons.into_iter().chain(emptied).collect();
    let why = if reasons.is_empty() { NO_OTHER_WHY.to_owned() } else { reasons.join("; ") };
    entry("wish_impossible", format!("{name} fits on {fits} of {of} nodes"), why, next)
}

fn standing(status: &StatusReply) -> impl Iterator<Item = &NodeView> {
    status.nodes.iter().filter(|node| node.state() != State::Departed)
}

fn is_silent(node: &NodeView) -> bool {
    matches!(node.health(), Health::Suspect | Health::Dead)
}

#[cfg(test)]
mod tests {
    use ollamax_proto::v1::RaftView;
    use ollamax_types::ErrorCode;

    use super::*;

    fn status() -> StatusReply {
        let node = |id: u64| NodeView { id, name: format!("n{id}"), ..NodeView::default() };
        let mut status = StatusReply { nodes: (1..=4).map(node).collect(), ..StatusReply::default() };
        status.nodes[3].set_state(State::Departed);
        status
    }

    fn name(number: usize) -> ModelName {
        format!("m{number}").parse().expect("a name")
    }

    fn few(number: usize, holders: &[u64]) -> Few {
        let holders = holders.iter().copied().map(NodeId).collect();
        Few { name: name(number), has: 1, wants: 2, holders, is_named: false, ended: None }
    }

    fn silent(id: usize, silent_ms: u64) -> StatusReply {
        let mut status = status();
        status.nodes[id - 1].set_health(Health::Dead);
        status.nodes[id - 1].silent_ms = silent_ms;
        status
    }

    /// Id, what, why and the next command of each line.
    fn told(status: &StatusReply, few: &[Few], impossible: &[(ModelName, Vec<(NodeId, Unfit)>)]) -> Vec<[String; 4]> {
        let repair_after = Duration::from_secs(600);
        let mut found = Vec::new();
        missing(status, Copies { few, impossible, repair_after, ..Copies::default() }, &mut found);
        found.into_iter().map(|Attention { id, what, why, next }| [id, what, why, next]).collect()
    }

    #[test]
    fn a_model_with_too_few_copies_is_told_with_who_is_missed_and_what_will_happen() {
        let check = |status: &StatusReply, holders: &[u64], why: &str| {
            let [line]: [[String; 4]; 1] = told(status, &[few(1, holders)], &[]).try_into().expect("one line");
            let name = name(1);
            let what = format!("{name} has 1 of 2 copies");
            assert_eq!(
                line,
                ["under_replicated".to_owned(), what, why.to_owned(), format!("ollamax model why {name}")]
            );
        };
        let comes = COMES_WHY;
        check(&status(), &[1, 2], comes);
        let late = "n2 is silent for 4 min; after 10 min a new copy is made";
        check(&silent(2, 240_000), &[1, 2], late);
        check(&silent(3, 240_000), &[1, 2], comes);
        check(&silent(4, 240_000), &[1, 4], comes);
        let lost = "n2 is silent for 11 min; a new copy is made where there is room";
        check(&silent(2, 660_000), &[1, 2], lost);
        let mut leaderless = silent(2, 660_000);
        leaderless.raft = Some(RaftView::default());
        check(&leaderless, &[1, 2], NO_MAJORITY_WHY);

        let named = |status: &StatusReply| reason(status, &Few { is_named: true, ..few(1, &[1, 2]) }, Duration::ZERO).0;
        assert_eq!(named(&status()), NAMED_COMES_WHY);
        let silent = named(&silent(2, 660_000));
        assert_eq!(silent, "n2 is silent for 11 min; it is wanted there by its name, so no other gets a copy instead");
    }

    #[test]
    fn a_wish_that_ended_is_told_with_what_was_told_and_how_it_goes_on_or_ends() {
        let check = |has: u32, holders: &[u64], end: &str| {
            let again = "ollamax model pull m1:latest --node n1".to_owned();
            let ended = Some(Ended { why: "n1: full".to_owned(), again: again.clone() });
            let few = Few { has, ended, ..few(1, holders) };
            let [line]: [[String; 4]; 1] = told(&silent(2, 240_000), &[few], &[]).try_into().expect("one line");
            let next = format!("to have it tried again: {again}; to want it no more: {end}");
            assert_eq!(line[2..], ["n1: full".to_owned(), next]);
        };
        check(0, &[], "ollamax model rm m1:latest");
        check(0, &[2], "ollamax model pull m1:latest --cancel"); // what failed was an update
        check(1, &[2], "ollamax model pull m1:latest --cancel");
    }

    #[test]
    fn a_pull_that_failed_is_told_though_no_copy_is_missed() {
        let told = |pulls: usize| {
            let ended = Ended { why: "n1: no such model".to_owned(), again: "again".to_owned() };
            let failed: Vec<Failed> =
                (0..pulls).map(|pull| Failed { name: name(pull), ended: ended.clone() }).collect();
            let mut found = Vec::new();
            missing(&status(), Copies { failed: &failed, ..Copies::default() }, &mut found);
            found.into_iter().map(|line| [line.id, line.what, line.why, line.next]).collect::<Vec<_>>()
        };
        let next = "to have it tried again: again; to want it no more: ollamax model pull m0:latest --cancel";
        assert_eq!(told(1), [["wish_failed", "the pull of m0:latest has failed", "n1: no such model", next]]);
        let why = "n1: no such model";
        assert_eq!(told(NAMED_MAX + 1), [["wish_failed", "6 pulls have failed", why, "ollamax model wishes"]]);
    }

    #[test]
    fn the_reasons_of_many_are_those_that_there_are() {
        let check = |reasons: &[&str], expected: &str| {
            assert_eq!(most(reasons.iter().map(|reason| (*reason).to_owned())), expected);
        };
        check(&[], "there are not nodes enough");
        check(&["a", "a"], "a");
        check(&["b", "c", "c"], "c (2 models); b (1 model)");
        check(
            &["1", "2", "3", "4", "5", "6"],
            "1 (1 model); 2 (1 model); 3 (1 model); 4 (1 model); 5 (1 model); and more",
        );
        let impossible: Vec<_> =
            (0..=NAMED_MAX).map(|number| (name(number), vec![(NodeId(2), Unfit::Gateway)])).collect();
        assert_eq!(told(&status(), &[], &impossible)[0][2], "n2 is a gateway");
    }

    #[test]
    fn a_model_that_cannot_have_enough_copies_is_told_as_that_alone() {
        let all = vec![(NodeId(1), Unfit::NoRuntime), (NodeId(2), Unfit::Dead), (NodeId(9), Unfit::Removed)];
        let check = |why: &[(NodeId, Unfit)], expected: [&str; 2], next: &str| {
            let [line]: [[String; 4]; 1] =
                told(&status(), &[few(1, &[1])], &[(name(1), why.to_vec())]).try_into().expect("one line");
            let next = next.replace("NAME", &name(1).to_string());
            let what = format!("{} {}", name(1), expected[0]);
            assert_eq!(line, ["wish_impossible".to_owned(), what, expected[1].to_owned(), next]);
        };
        let fewer = "mend that, or want less: ollamax model pull NAME --replicas 1";
        check(&all[..2], ["fits on 1 of 3 nodes", "n1 has no runtime that answers; n2 is not heard"], fewer);
        let reasons = "n1 has no runtime that answers; n2 is not heard; node 9 is no member";
        check(&all, ["fits on 0 of 3 nodes", reasons], "ollamax model why NAME");
        let fewer = "add a node, or want less: ollamax model pull NAME --replicas 3";
        check(&[], ["fits on 3 of 3 nodes", "there is no other node"], fewer);
        let failed = [(NodeId(3), Unfit::Told(ErrorCode::DiskFull))];
        let fewer = "mend that and pull it again, or want less: ollamax model pull NAME --replicas 2";
        check(&failed, ["fits on 2 of 3 nodes", "n3 has failed (disk_full)"], fewer);
        let others = "name others: ollamax model pull NAME --node NODE,NODE, or say a number: --replicas 2";
        let alone = "a wish for nodes by their names is met nowhere else";
        let what = "is wanted on n4 (node 4), which is no member any more";
        check(&[(NodeId(4), Unfit::Departed)], [what, alone], others);
        let three = [(NodeId(2), Unfit::Dead), (NodeId(4), Unfit::Departed), (NodeId(9), Unfit::Departed)];
        let what = "is wanted on n4 (node 4), node 9, which are no members any more";
        check(&three, [what, &format!("n2 is not heard; {alone}")], others);
    }

    #[test]
    fn a_node_that_is_being_emptied_is_no_place_for_the_copy_that_it_has() {
        let mut status = status();
        status.nodes[1].set_cordon(Cordon::Emptying);
        let check = |why: &[(u64, Unfit)], expected: [&str; 2], next: &str| {
            let why = why.iter().map(|(node, unfit)| (NodeId(*node), unfit.clone())).collect();
            let [line]: [[String; 4]; 1] = told(&status, &[], &[(name(1), why)]).try_into().expect("one line");
            let expected = [expected[0], expected[1], next].map(|text| text.replace("NAME", &name(1).to_string()));
            assert_eq!(line[1..], expected);
        };
        let (what, fewer) = ("NAME fits on 1 of 3 nodes", "or want less: ollamax model pull NAME --replicas 1");
        let failed = [(3, Unfit::Told(ErrorCode::DiskFull))];
        let both = "n3 has failed (disk_full); n2 is being emptied";
        check(&failed, [what, both], &format!("mend that and pull it again, {fewer}"));
        let both = "n3 is a gateway; n2 is being emptied";
        check(&[(3, Unfit::Gateway)], [what, both], &format!("mend that, {fewer}"));
        let both = "n2 takes no requests: it is drained, or starts or stops just now; n3 is a gateway";
        check(&[(2, Unfit::Drained), (3, Unfit::Gateway)], [what, both], &format!("mend that, {fewer}"));
    }

    #[test]
    fn a_pin_that_nobody_holds_is_told() {
        let told = |models: usize| {
            let (pinned, mut found): (Vec<ModelName>, _) = ((0..models).map(name).collect(), Vec::new());
            missing(&status(), Copies { pinned: &pinned, ..Copies::default() }, &mut found);
            found.into_iter().map(|line| (line.id, line.what, line.next)).collect::<Vec<_>>()
        };
        let line = |what: String, next: String| ("pin_not_held".to_owned(), what, next);
        let m0 = name(0);
        let what = format!("{m0} is pinned and nobody has that version");
        assert_eq!(told(1), [line(what, format!("ollamax model history {m0}"))]);
        assert_eq!(told(NAMED_MAX).len(), NAMED_MAX);
        let what = "6 models are pinned to versions that nobody has".to_owned();
        assert_eq!(told(NAMED_MAX + 1), [line(what, "ollamax model list".to_owned())]);
    }

    #[test]
    fn a_copy_that_does_not_go_is_told_where_its_node_is_heard() {
        let told = |status: &StatusReply, copies: usize| {
            let lasting = |number| Lasting { name: name(number), node: NodeId(2), waits_ms: 7_200_000 };
            let (lasting, mut found): (Vec<Lasting>, _) = ((0..copies).map(lasting).collect(), Vec::new());
            missing(status, Copies { lasting: &lasting, ..Copies::default() }, &mut found);
            found.into_iter().map(|line| (line.id, line.what, line.next)).collect::<Vec<_>>()
        };
        let line = |what: String, next: String| ("copy_stays".to_owned(), what, next);
        let m0 = name(0);
        let what = format!("{m0} is still on n2, told to go 2 h ago");
        let next = format!("look for `remove a copy` in the log of n2; ollamax model why {m0}");
        assert_eq!(told(&status(), 1), [line(what, next)]);
        assert!(told(&silent(2, 1), 1).is_empty());
        assert_eq!(told(&status(), NAMED_MAX).len(), NAMED_MAX);
        let what = "6 copies were told to go and are still there".to_owned();
        assert_eq!(told(&status(), NAMED_MAX + 1), [line(what, "ollamax model list".to_owned())]);
    }

    #[test]
    fn a_copy_that_a_person_removed_is_told_with_what_brings_it_back() {
        let told = |status: &StatusReply, copies: usize, node: u64, named: Option<&[u64]>| {
            let named: Option<BTreeSet<NodeId>> = named.map(|ids| ids.iter().copied().map(NodeId).collect());
            let left_out = |number| {
                let (name, named) = (name(number), named.clone());
                LeftOut { name, node: NodeId(node), since_ms: 7_200_000, named }
            };
            let (left_out, mut found): (Vec<LeftOut>, _) = ((0..copies).map(left_out).collect(), Vec::new());
            missing(status, Copies { left_out: &left_out, ..Copies::default() }, &mut found);
            let why = if named.is_some() { NAMED_LEFT_OUT_WHY } else { LEFT_OUT_WHY };
            assert!(found.iter().all(|line| line.id == "copy_left_out" && line.why == why), "{found:?}");
            found.into_iter().map(|line| (line.what, line.next)).collect::<Vec<_>>()
        };
        let m0 = name(0);
        let line = |again: &str| {
            let what = format!("n2 is left out of who gets {m0}, for 2 h");
            (what, format!("to have it there again: {again}"))
        };
        let named: Option<&[u64]> = Some(&[1, 2, 4]);
        let again = format!("ollamax model pull {m0} --node n1,n2");
        assert_eq!(told(&status(), 1, 2, named), [line(&again)], "who is no member any more is not named");
        assert_eq!(told(&silent(2, 1), 1, 2, named), [line(&again)], "whether it is heard says nothing");
        assert_eq!(told(&status(), 1, 2, None), [line(&format!("on n2: ollama pull {m0}"))]);
        assert!(told(&status(), 1, 4, named).is_empty(), "it is no member any more");
        assert_eq!(told(&status(), NAMED_MAX, 2, named).len(), NAMED_MAX);
        let first: Vec<String> = (0..NAMED_MAX).map(|number| format!("{} on n2", name(number))).collect();
        let what = format!("60 copies are left out: {}, and more", first.join(", "));
        let next = "ollamax model why NAME; to have it there again: ollamax model pull NAME --node NODE,NODE";
        assert_eq!(told(&status(), 60, 2, named), [(what, next.to_owned())]);
    }

    #[test]
    fn more_than_a_handful_are_one_line() {
        let ids = |models: usize| {
            let few: Vec<Few> = (0..models).map(|number| few(number, &[2])).collect();
            let impossible: Vec<_> = (100..100 + models).map(|number| (name(number), Vec::new())).collect();
            told(&silent(2, 240_000), &few, &impossible)
        };
        assert_eq!(ids(0), Vec::<[String; 4]>::new());
        assert_eq!(ids(NAMED_MAX).len(), 2 * NAMED_MAX);
        let lines = ids(NAMED_MAX + 1);
        let whats: Vec<&str> = lines.iter().map(|line| line[1].as_str()).collect();
        assert_eq!(whats, ["6 models have too few copies", "6 models fit on fewer nodes than are wanted"]);
        assert!(lines[0][2].contains("n2 is silent") && lines.iter().all(|line| line[3] == "ollamax model wishes"));
    }
}
