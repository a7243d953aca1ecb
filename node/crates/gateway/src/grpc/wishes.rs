//! What is wished for: a file that says it, compared and applied, and how far each wish is.
//!
//! A file is taken whole or not at all; its changes are made one after the other, so that what was done before a
//! failure stays done and the same file again does the rest. How far a wish is follows from the record, and from who is
//! heard here: no leader is asked. A wish that nothing but failures stands against has failed, and says what was told;
//! impossible is one that the nodes themselves cannot have.

use std::collections::{BTreeMap, BTreeSet};

use ollamax_core::catalog::{Failure, Fault, Member, Refusal, Replicas, View, Wish, models, read};
use ollamax_core::placement::{Outlook, Shortage, Unfit};
use ollamax_proto::v1;
use ollamax_proto::v1::wish_view::State;
use ollamax_types::{ErrorCode, NodeId, RequestId};

use super::attention::NO_OTHER_WHY;
use super::daemon::AdminError;
use super::pulls::{Pulls, parse};
use crate::wishfile::{self, Change, CompareError, Declared};

/// How the members are called, and that they left where they did: another node may have the name since.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<NodeId, String>);

/// What is missing, and what has no place and why, by the name of the model.
#[derive(Debug, Default)]
struct Lacking {
    short: BTreeMap<String, Shortage>,
    impossible: BTreeMap<String, Vec<(NodeId, Unfit)>>,
}

// === impl Pulls ===

impl Pulls {
    pub(super) fn planned_wishes(&self, text: &str) -> Result<v1::WishChanges, AdminError> {
        let declared = declared(text)?;
        let view = self.0.metadata()?.view();
        let (changes, names) = (compared(&*view, &declared)?, Names::of(&*view)?);
        Ok(v1::WishChanges { changes: changes.iter().map(|change| shown(change, &names)).collect() })
    }

    pub(super) async fn applied_wishes(&self, id: RequestId, text: &str) -> Result<v1::WishChanges, AdminError> {
        let declared = declared(text)?;
        let view = self.0.fresh(false).await?.view();
        let (changes, names) = (compared(&*view, &declared)?, Names::of(&*view)?);
        let commands: Vec<_> = changes.iter().filter_map(|change| Some((change, change.command()?))).collect();
        let (mut made, all) = (Vec::new(), commands.len());
        for (change, command) in commands {
            if let Err(error) = self.0.change_here(id.clone(), command).await {
                return Err(half_done(error, change, made.len(), all));
            }
            made.push(shown(change, &names));
        }
        Ok(v1::WishChanges { changes: made })
    }

    pub(super) fn wishes(&self, name: &str) -> Result<v1::ListWishesReply, AdminError> {
        let wanted = if name.is_empty() { None } else { Some(parse(name)?) };
        let view = self.0.metadata()?.view();
        let names = Names::of(&*view)?;
        let lacking = Lacking::of(&self.0.daemon.shortfall()?);
        let found: Vec<Wish> = match &wanted {
            Some(name) => read::wish(&*view, name)?.into_iter().collect(),
            None => read::wishes(&*view)?,
        };
        if let (Some(name), true) = (wanted, found.is_empty()) {
            return Err(Refusal::WishNotFound(name).into());
        }
        let wishes = found.iter().map(|wish| Ok(wish_view(wish, &holders(&*view, wish)?, &lacking, &names)));
        Ok(v1::ListWishesReply { wishes: wishes.collect::<Result<_, Fault>>()? })
    }
}

// === impl Lacking ===

impl Lacking {
    fn of(outlook: &Outlook) -> Self {
        let short = outlook.under.iter().map(|short| (short.name.to_string(), short.clone()));
        let impossible = outlook.impossible.iter().map(|(name, reasons)| (name.to_string(), reasons.clone()));
        Self { short: short.collect(), impossible: impossible.collect() }
    }
}

// === impl Names ===

impl Names {
    pub(super) fn of(view: &dyn View) -> Result<Self, Fault> {
        Ok(Self::of_members(&read::members(view)?))
    }

    pub(super) fn of_members(members: &[Member]) -> Self {
        let called = |member: &Member| match member.is_standing() {
            true => (member.id, member.name.clone()),
            false => (member.id, format!("{} (left)", member.name)),
        };
        Self(members.iter().map(called).collect())
    }

    /// Its id, where it is not on record.
    pub(super) fn name(&self, node: NodeId) -> String {
        self.0.get(&node).cloned().unwrap_or_else(|| node.to_string())
    }

    fn all<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeId>) -> Vec<String> {
        nodes.into_iter().map(|node| self.name(*node)).collect()
    }
}

fn declared(text: &str) -> Result<Vec<Declared>, AdminError> {
    wishfile::read(text).map_err(|problems| wrong(&problems))
}

fn compared(view: &dyn View, declared: &[Declared]) -> Result<Vec<Change>, AdminError> {
    wishfile::compare(view, declared).map_err(|error| match error {
        CompareError::Problems(problems) => wrong(&problems),
        CompareError::Fault(fault) => fault.into(),
    })
}

/// A file of which nothing was done.
fn wrong(problems: &[String]) -> AdminError {
    let next = "correct it; docs/operations/replication.md says what it may hold";
    AdminError::new(ErrorCode::BadRequest, "the file of wishes is wrong", problems.join("; "), next)
}

/// Why not all of a file was done.
fn half_done(error: AdminError, change: &Change, made: usize, all: usize) -> AdminError {
    let what = format!("{}: {}", change.name(), error.what);
    let why = format!("{made} of {all} changes were made before; {}", error.why);
    AdminError { what, why: why.trim_end_matches("; ").to_owned(), ..error }
}

fn shown(change: &Change, names: &Names) -> v1::WishChange {
    let kind = match change {
        Change::Ask { .. } => v1::wish_change::Kind::Ask,
        Change::Forget { .. } => v1::wish_change::Kind::Forget,
        Change::Pin { .. } => v1::wish_change::Kind::Pin,
        Change::Unpin { .. } => v1::wish_change::Kind::Unpin,
        Change::Same { .. } => v1::wish_change::Kind::Same,
    };
    let text = change.text(&|node| names.name(node));
    v1::WishChange { name: change.name().to_string(), kind: kind.into(), text }
}

/// Who has the version of a wish, or the one that the name stands for while the round has none.
pub(super) fn holders(view: &dyn View, wish: &Wish) -> Result<BTreeSet<NodeId>, Fault> {
    let copies = read::locations_of(view, &wish.name)?;
    Ok(models::holders(wish.digest, models::pin_of(view, &wish.name)?, &copies))
}

fn wish_view(wish: &Wish, holders: &BTreeSet<NodeId>, lacking: &Lacking, names: &Names) -> v1::WishView {
    let (state, reason) = state_of(wish, holders, lacking, names);
    let (count, nodes) = match &wish.replicas {
        Replicas::Count(count) => (Some(*count), Vec::new()),
        Replicas::All => (None, Vec::new()),
        Replicas::Nodes(nodes) => (None, names.all(nodes)),
    };
    v1::WishView {
        name: wish.name.to_string(),
        count,
        all: wish.replicas == Replicas::All,
        nodes,
        holders: names.all(holders),
        labels: labels(&wish.want.labels),
        gpu_memory_bytes_min: wish.want.gpu_memory_bytes_min,
        disk_free_bytes_min: wish.want.disk_free_bytes_min,
        avoid: names.all(&wish.want.avoid),
        declared: wish.declared,
        asked_by: wish.asked_by.clone(),
        asked_at_ms: wish.asked_at.0,
        digest: wish.digest.map(|digest| digest.0.to_vec()).unwrap_or_default(),
        size_bytes: wish.size_bytes,
        state: state.into(),
        reason,
        kind: wish.plan.as_ref().map(|plan| plan.kind.as_str().to_owned()).unwrap_or_default(),
    }
}

/// Labels in wire form, in order.
pub(super) fn labels(labels: &BTreeMap<String, String>) -> Vec<v1::NodeLabel> {
    let label = |(key, value): (&String, &String)| v1::NodeLabel { key: key.clone(), value: value.clone() };
    labels.iter().map(label).collect()
}

/// How far a wish is, and where it goes no further, why.
fn state_of(wish: &Wish, holders: &BTreeSet<NodeId>, lacking: &Lacking, names: &Names) -> (State, String) {
    let name = wish.name.to_string();
    let reasons = lacking.impossible.get(&name);
    if let Some(reasons) = reasons.filter(|reasons| !are_failures(reasons)) {
        let word = |(node, unfit): &(NodeId, Unfit)| match (unfit, wish.failures.get(node)) {
            (Unfit::Told(_), Some(failure)) => told(&names.name(*node), failure),
            _ => unfit.of(&names.name(*node)),
        };
        let words: Vec<String> = reasons.iter().map(word).collect();
        let why = if words.is_empty() { NO_OTHER_WHY.to_owned() } else { words.join("; ") };
        return (State::Impossible, why);
    }
    let ended = ended(wish, holders, reasons.map_or(&[][..], Vec::as_slice));
    if !ended.is_empty() {
        let words: Vec<String> = ended.iter().map(|(node, failure)| told(&names.name(*node), failure)).collect();
        return (State::Failed, words.join("; "));
    }
    let Some(plan) = &wish.plan else { return (State::UnderWay, String::new()) };
    let are_held = wish.digest.is_some() && plan.targets.iter().all(|target| holders.contains(target));
    match lacking.short.get(&name) {
        _ if !are_held => (State::UnderWay, String::new()),
        Some(short) => (State::Short, format!("{} of {} copies are there", short.has, short.wants)),
        None => (State::Met, String::new()),
    }
}

/// Whether nothing but what nodes have failed with stands against a wish.
pub(super) fn are_failures(reasons: &[(NodeId, Unfit)]) -> bool {
    !reasons.is_empty() && reasons.iter().all(|(_, unfit)| matches!(unfit, Unfit::Told(_)))
}

/// The failures with which a wish ended, the first that of whoever asks the registry; none where it goes on or is met.
/// `reasons` are those for which it has no place.
pub(super) fn ended<'a>(
    wish: &'a Wish,
    holders: &BTreeSet<NodeId>,
    reasons: &[(NodeId, Unfit)],
) -> Vec<(NodeId, &'a Failure)> {
    let holds = |node: &NodeId| wish.digest.is_some() && holders.contains(node);
    let failed = |node: &NodeId| Some((*node, wish.failures.get(node).filter(|_| !holds(node))?));
    let targets = wish.plan.iter().flat_map(|plan| &plan.targets);
    let missing: Vec<&NodeId> = targets.filter(|target| !holds(target)).collect();
    if missing.is_empty() {
        let told = if are_failures(reasons) { reasons } else { &[][..] };
        return told.iter().filter_map(|(node, _)| failed(node)).collect();
    }
    let first = wish.plan.as_ref().and_then(|plan| failed(&plan.ingester));
    let all: Vec<(NodeId, &Failure)> = missing.iter().filter_map(|node| failed(node)).collect();
    if first.is_none() && all.len() < missing.len() {
        return Vec::new();
    }
    let ingester = first.map(|(node, _)| node);
    first.into_iter().chain(all.into_iter().filter(|(node, _)| Some(*node) != ingester)).collect()
}

/// What the node of this name has failed with, for people.
pub(super) fn told(node: &str, failure: &Failure) -> String {
    let text = if failure.text.is_empty() { failure.code.as_str() } else { failure.text.as_str() };
    format!("{node}: {text}")
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::mem::{self, MemView};
    use ollamax_core::catalog::{Key, MemberState, Mutation, Plan, PlanKind, Record};
    use ollamax_types::{Digest, ModelName, Timestamp};

    use super::*;
    use crate::samples;

    fn wish(digest: Option<Digest>, targets: &[u64], failed: &[u64]) -> Wish {
        let targets: Vec<NodeId> = targets.iter().copied().map(NodeId).collect();
        let failure = |node: &u64| {
            let (code, text) = (ErrorCode::DiskFull, "full".to_owned());
            (NodeId(*node), Failure { code, text, at: Timestamp(2), by_hand: false })
        };
        Wish {
            digest,
            plan: targets.first().copied().map(|ingester| Plan {
                ingester,
                targets,
                made_at: Timestamp(1),
                kind: PlanKind::Asked,
            }),
            failures: failed.iter().map(failure).collect(),
            ..mem::wish("m".parse().expect("a name"))
        }
    }

    fn names() -> Names {
        Names([1, 2].map(|id| (NodeId(id), format!("n{id}"))).into())
    }

    /// With the reasons for which it has no place, where there are some.
    fn lacking(short: bool, reasons: &[(NodeId, Unfit)]) -> Lacking {
        let name = || "m".parse::<ModelName>().expect("a name");
        let outlook = Outlook {
            moves: vec![],
            under: if short { vec![Shortage { name: name(), has: 1, wants: 2 }] } else { vec![] },
            impossible: if reasons.is_empty() { vec![] } else { vec![(name(), reasons.to_vec())] },
            stuck: vec![],
        };
        Lacking::of(&outlook)
    }

    #[test]
    fn how_far_a_wish_is_follows_from_the_record_and_from_what_is_lacking() {
        let known = Some(Digest([1; 32]));
        let check = |what: &str, wish: Wish, holders: &[u64], lacking: Lacking, expected: (State, &str)| {
            let holders = holders.iter().copied().map(NodeId).collect();
            let found = state_of(&wish, &holders, &lacking, &names());
            assert_eq!((found.0, found.1.as_str()), expected, "{what}");
        };
        let quiet = Lacking::default;
        check("no plan", wish(None, &[], &[]), &[], quiet(), (State::UnderWay, ""));
        check("nobody has it", wish(known, &[1, 2], &[]), &[], quiet(), (State::UnderWay, ""));
        check("another version", wish(None, &[1, 2], &[]), &[1, 2], quiet(), (State::UnderWay, ""));
        check("all have it", wish(known, &[1, 2], &[]), &[1, 2], quiet(), (State::Met, ""));
        check("whatever was told", wish(known, &[1, 2], &[1, 2]), &[1, 2], quiet(), (State::Met, ""));
        check("one failed", wish(known, &[1, 2], &[2]), &[1], quiet(), (State::Failed, "n2: full"));
        check("one may succeed", wish(known, &[1, 2, 3], &[2]), &[1], quiet(), (State::UnderWay, ""));
        check("who asks failed", wish(None, &[1, 2], &[1]), &[], quiet(), (State::Failed, "n1: full"));
        let short = (State::Short, "1 of 2 copies are there");
        check("one is lost", wish(known, &[1, 2], &[]), &[1, 2], lacking(true, &[]), short);
        check("it is being made", wish(known, &[1, 2], &[]), &[1], lacking(true, &[]), (State::UnderWay, ""));
        let gateway = [(NodeId(2), Unfit::Gateway)];
        let impossible = (State::Impossible, "n2 is a gateway");
        check("no node", wish(known, &[1, 2], &[]), &[1], lacking(true, &gateway), impossible);
        let told = |node: u64| (NodeId(node), Unfit::Told(ErrorCode::DiskFull));
        let both = (State::Impossible, "n1: full; n2 is a gateway");
        let reasons = [told(1), (NodeId(2), Unfit::Gateway)];
        let none = Lacking { impossible: BTreeMap::from([("m:latest".to_owned(), vec![])]), ..Lacking::default() };
        let impossible = (State::Impossible, "there is no other node");
        check("nor is anything wrong with one", wish(known, &[1, 2], &[]), &[1, 2], none, impossible);
        check("no node, and one failed", wish(None, &[1], &[1]), &[], lacking(true, &reasons), both);
    }

    #[test]
    fn a_wish_that_nothing_but_failures_stands_against_has_failed_and_says_what_was_told() {
        let check = |targets: &[u64], failed: &[u64], holders: &[u64], told: &[u64], expected: (State, &str)| {
            let reasons: Vec<(NodeId, Unfit)> =
                told.iter().map(|node| (NodeId(*node), Unfit::Told(ErrorCode::DiskFull))).collect();
            let holders = holders.iter().copied().map(NodeId).collect();
            let wish = wish(Some(Digest([1; 32])), targets, failed);
            let found = state_of(&wish, &holders, &lacking(true, &reasons), &names());
            assert_eq!((found.0, found.1.as_str()), expected, "{targets:?} {failed:?} {holders:?} {told:?}");
        };
        check(&[1, 2], &[2], &[1], &[2], (State::Failed, "n2: full"));
        check(&[1, 2], &[1, 2], &[], &[1, 2], (State::Failed, "n1: full; n2: full"));
        // One goes on yet.
        check(&[1, 2, 3], &[2], &[1], &[2], (State::UnderWay, ""));
        // Who failed is no target any more.
        check(&[1], &[2], &[1], &[2], (State::Failed, "n2: full"));
        // Nor has it any more what it told.
        check(&[1], &[], &[1], &[2], (State::Short, "1 of 2 copies are there"));
    }

    #[test]
    fn a_node_that_left_is_not_taken_for_the_one_that_has_its_name_now() {
        let member = |id: u64, state| Member { name: "n3".to_owned(), state, ..samples::member(id) };
        let members = [member(3, MemberState::Departed { at: Timestamp(1) }), member(5, MemberState::Active)];
        let mut view = MemView::default();
        view.write(&members.map(|member| Mutation::Put(Key::Member(member.id), Record::Member(member))));
        let names = Names::of(&view).expect("readable");
        assert_eq!(names.all(&[NodeId(3), NodeId(5), NodeId(7)]), ["n3 (left)", "n3", "7"]);
    }

    #[test]
    fn a_file_that_was_done_in_part_says_how_far_it_came() {
        let change = Change::Forget { name: "m".parse().expect("a name") };
        let half = |why: &str| {
            let error = AdminError::new(ErrorCode::NoQuorum, "no quorum", why, "ollamax status");
            half_done(error, &change, 1, 3)
        };
        assert_eq!(half("").what, "m:latest: no quorum");
        assert_eq!(half("").why, "1 of 3 changes were made before");
        assert_eq!(half("two are down").why, "1 of 3 changes were made before; two are down");
        assert_eq!(half("").code, ErrorCode::NoQuorum);
    }

    #[test]
    fn a_file_that_is_wrong_says_so_in_all_its_lines() {
        let refused = declared("[[model]]\nname = \"a b\"\n[[model]]\nname = \"m\"\n").map_err(|error| error.why);
        let why = refused.expect_err("two things are wrong");
        assert!(why.contains("line 2: ") && why.contains("; line 4: "), "{why}");
    }
}
