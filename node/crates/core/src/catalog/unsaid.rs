//! Where copies are wanted when nobody says it.
//!
//! Always holds: whoever says nothing of places takes no copy from those who said something. What is on record stays,
//! unless it came to nothing: somebody failed, nobody is at it, and no node has a copy of the name, whichever version.
//! Members that left are not asked for again.

use ollamax_types::{ErrorCode, NodeId};

use super::read;
use super::record::{Failure, Member, Replicas, Wish};
use super::view::{Fault, View};

/// Copies where nobody says a number and nothing is on record; one where no two can.
pub const COPIES_UNSAID: u32 = 2;

/// Where a wish goes on wanting copies when its model is asked for without a word of places; `None`: it came to
/// nothing, or all nodes that it names have left.
///
/// # Errors
/// When the state cannot be read.
pub fn places_kept(view: &dyn View, wish: &Wish) -> Result<Option<Replicas>, Fault> {
    if !wish.declared && came_to_nothing(view, wish)? {
        return Ok(None);
    }
    let Replicas::Nodes(nodes) = &wish.replicas else { return Ok(Some(wish.replicas.clone())) };
    let mut kept = Vec::new();
    for node in nodes.iter().copied() {
        if read::member(view, node)?.as_ref().is_some_and(Member::may_hold) {
            kept.push(node);
        }
    }
    Ok((!kept.is_empty()).then_some(Replicas::Nodes(kept)))
}

/// Whether a node has the version that a wish spreads.
pub(super) fn holds(view: &dyn View, wish: &Wish, node: NodeId) -> Result<bool, Fault> {
    let Some(digest) = wish.digest else { return Ok(false) };
    let held = read::node_model(view, node, &wish.name.key())?;
    Ok(held.is_some_and(|location| location.model.digest == digest))
}

/// What a person removed or ended is no failure of the wish, and one that nobody has planned yet is on its way. Where a
/// version of before is there, what failed was only to renew it.
fn came_to_nothing(view: &dyn View, wish: &Wish) -> Result<bool, Fault> {
    let is_ended = |failure: &Failure| failure.by_hand || failure.code == ErrorCode::PullCancelled;
    if wish.failures.values().all(is_ended) || read::has_copy(view, &wish.name)? {
        return Ok(false);
    }
    let Some(plan) = &wish.plan else { return Ok(true) };
    let has_failed = |node: &NodeId| wish.failures.contains_key(node);
    Ok(has_failed(&plan.ingester) || plan.targets.iter().all(has_failed))
}

#[cfg(test)]
mod tests {
    use ollamax_types::{Digest, ModelName, ModelRecord, Role, Timestamp};

    use super::*;
    use crate::catalog::mem::{self, MemView};
    use crate::catalog::record::{Key, Location, MemberState, Plan, Record};
    use crate::catalog::view::Mutation;

    const VERSION: Digest = Digest([1; 32]);

    fn name() -> ModelName {
        "m".parse().expect("a name")
    }

    fn ids(nodes: &[u64]) -> Vec<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    /// For three copies; whoever stands first asks the registry.
    fn wish(digest: Option<Digest>, targets: &[u64], failed: &[(u64, bool)]) -> Wish {
        let failure = |by_hand| Failure { code: ErrorCode::DiskFull, text: String::new(), at: Timestamp(2), by_hand };
        let targets = ids(targets);
        Wish {
            replicas: Replicas::Count(3),
            digest,
            plan: targets.first().copied().map(|ingester| Plan {
                ingester,
                targets,
                made_at: Timestamp(1),
                kind: Default::default(),
            }),
            failures: failed.iter().map(|(node, by_hand)| (NodeId(*node), failure(*by_hand))).collect(),
            ..mem::wish(name())
        }
    }

    fn copy(node: u64, digest: Digest) -> [Mutation; 2] {
        let (node, details_json) = (NodeId(node), "{}".to_owned());
        let (weights, modified_at, capabilities) = (digest, Timestamp(0), vec![]);
        let model =
            ModelRecord { name: name(), digest, weights, size_bytes: 1, modified_at, details_json, capabilities };
        let location = Location { node, model };
        [Key::NodeModel(node, name().key()), Key::Location(name().key(), node)]
            .map(|key| Mutation::Put(key, Record::Location(location.clone())))
    }

    fn member(id: u64, role: Role, state: MemberState) -> Mutation {
        let member = Member { role, state, ..mem::member(id) };
        Mutation::Put(Key::Member(member.id), Record::Member(member))
    }

    #[test]
    fn what_is_on_record_stays_unless_it_came_to_nothing() {
        let check = |what: &str, wish: &Wish, copies: &[[Mutation; 2]], stays: bool| {
            let mut view = MemView::default();
            view.write(&copies.concat());
            let expected = stays.then_some(Replicas::Count(3));
            assert_eq!(places_kept(&view, wish), Ok(expected), "{what}");
        };
        let both = [copy(1, VERSION), copy(2, VERSION)];
        let resolved = |failed: &[(u64, bool)]| wish(Some(VERSION), &[1, 2], failed);
        check("nobody has planned", &wish(None, &[], &[]), &[], true);
        check("nobody has planned, and a person removed one", &wish(None, &[], &[(3, true)]), &[], true);
        check("the version is not known", &wish(None, &[1, 2], &[]), &both, true);
        check("one lacks it", &resolved(&[]), &both[..1], true);
        check("all have it", &resolved(&[]), &both, true);
        check("all have it, whatever they told before", &resolved(&[(1, false), (2, false)]), &both, true);
        check("one has failed, and one has it", &resolved(&[(2, false)]), &both[..1], true);
        check("one has failed, and one is at it", &resolved(&[(2, false)]), &[], true);
        check("people removed all", &resolved(&[(1, true), (2, true)]), &[], true);
        check("whoever asks the registry has failed", &resolved(&[(1, false)]), &[], false);
        let before = [copy(1, Digest([2; 32])), copy(3, Digest([2; 32]))];
        check("a version of before is there, and nobody got the new one", &resolved(&[(1, false)]), &before, true);
        check("the same of a version that is not known", &wish(None, &[1, 2], &[(1, false)]), &before, true);
        check("and its nodes are none of the plan", &wish(None, &[2], &[(2, false)]), &before, true);
        check("there is no such name", &wish(None, &[1, 2], &[(1, false)]), &[], false);
        check("all have failed", &resolved(&[(1, false), (2, false)]), &[], false);
        check("its nodes were taken out of it", &wish(None, &[], &[(1, false)]), &[], false);
        let declared = Wish { declared: true, ..resolved(&[(1, false)]) };
        check("a file says how many", &declared, &[], true);
    }

    #[test]
    fn of_named_nodes_those_stay_that_are_members_and_hold_models() {
        let mut view = MemView::default();
        let departed = MemberState::Departed { at: Timestamp(1) };
        view.write(&[
            member(1, Role::Voter, MemberState::Active),
            member(2, Role::Learner, MemberState::Drained),
            member(3, Role::Voter, departed),
            member(4, Role::Gateway, MemberState::Active),
        ]);
        let check = |nodes: &[u64], kept: Option<&[u64]>| {
            let wish = Wish { replicas: Replicas::Nodes(ids(nodes)), ..wish(None, &[], &[]) };
            assert_eq!(places_kept(&view, &wish), Ok(kept.map(|kept| Replicas::Nodes(ids(kept)))), "{nodes:?}");
        };
        check(&[1, 2, 3, 4, 9], Some(&[1, 2]));
        check(&[3], None);
    }
}
