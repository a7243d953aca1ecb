//! Copies that an administrator has removed: what goes is told before it is done, by the same state that guards it.
//!
//! Who is heard is no part of that state, so it is judged here: whoever does not insist leaves each version on a node
//! that is heard by this one, if it is left at all. A dry run tells what would go also where a guard speaks against it,
//! and then which one. Of several reasons a pin is told: whoever insists then knows what goes with it.

use std::collections::BTreeSet;

use ollamax_core::catalog::{Command, Model, Refusal, UNLESS_PINNED_VERSION, read};
use ollamax_core::health::Health;
use ollamax_core::retention::{self, Removal};
use ollamax_proto::v1;
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, RequestId};

use super::case;
use crate::grpc::daemon::AdminError;
use crate::grpc::pulls::{Pulls, parse};
use crate::grpc::wishes::Names;

// === impl Pulls ===

impl Pulls {
    /// Removes copies, or only says which would go. Without nodes the wish for the model goes along. `unless_pinned`:
    /// not when the name is pinned by then, whoever insists; a cluster of an older version does not ask that.
    pub(in crate::grpc) async fn remove_copies(
        &self,
        id: RequestId,
        asked: &v1::RemoveModelRequest,
        unless_pinned: bool,
    ) -> Result<v1::RemoveModelReply, AdminError> {
        let (command, told, refusal) = self.removing(asked, unless_pinned).await?;
        if asked.dry_run {
            return Ok(v1::RemoveModelReply { refusal: refusal.map(shown), ..told });
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        self.0.change(id, command).await?;
        Ok(told)
    }

    /// The change that removes copies, what is told of it, and what speaks against it, as far as that was looked at.
    pub(in crate::grpc) async fn removing(
        &self,
        asked: &v1::RemoveModelRequest,
        unless_pinned: bool,
    ) -> Result<(Command, v1::RemoveModelReply, Option<AdminError>), AdminError> {
        let (name, view) = (parse(&asked.name)?, self.0.fresh(asked.dry_run).await?.view());
        let mut nodes: Vec<NodeId> = Vec::new();
        for node in &asked.nodes {
            let found = self.0.find(node)?.id;
            if !nodes.contains(&found) {
                nodes.push(found);
            }
        }
        let removal = retention::removal(&*view, &name, &nodes, asked.force)?;
        let (forget, is_wanted) = (nodes.is_empty(), read::wish(&*view, &name)?.is_some());
        let names = Names::of(&*view)?;
        if removal.going.is_empty() && !(forget && is_wanted) {
            let holders: Vec<NodeId> = read::locations_of(&*view, &name)?.iter().map(|copy| copy.node).collect();
            return Err(nothing_goes(&holders, &name, &nodes, &names));
        }
        let heard = self.heard(&removal)?;
        let pinned = read::model(&*view, &name)?.as_ref().and_then(Model::pinned);
        let unheard = if asked.force { None } else { check_heard(&name, &removal, &heard, &names, pinned).err() };
        let mut told = told(&name, &removal, (forget, is_wanted), &names, &heard);
        told.pinned = pinned.map(|digest| digest.0.to_vec()).unwrap_or_default();
        let knows_it = read::cluster(&*view)?.is_some_and(|cluster| cluster.version >= UNLESS_PINNED_VERSION);
        let unless_pinned = unless_pinned && knows_it;
        let command = Command::DropCopies { name, nodes, forget, force: asked.force, unless_pinned };
        let asks_guards = asked.dry_run || unheard.is_some();
        let guard = if asks_guards { self.guard_against(command.clone())? } else { None };
        Ok((command, told, against(unheard, guard)))
    }

    /// What is still to go of what somebody asked to remove before, as this node knows it. Who has left is no node.
    pub(in crate::grpc) fn going(&self, asked: &v1::RemoveModelRequest) -> Result<v1::RemoveModelReply, AdminError> {
        let (name, view) = (parse(&asked.name)?, self.0.metadata()?.view());
        let nodes: Vec<NodeId> =
            asked.nodes.iter().filter_map(|node| self.0.find(node).ok()).map(|found| found.id).collect();
        let are_gone = nodes.is_empty() && !asked.nodes.is_empty();
        let going = if are_gone { Vec::new() } else { retention::going(&*view, &name, &nodes)? };
        let names = Names::of(&*view)?;
        let acts = going.iter().map(|parting| act(&name, parting, &names)).collect();
        let plan = Some(v1::PlanView { acts, frees_bytes: going.iter().map(|parting| parting.frees_bytes).sum() });
        Ok(v1::RemoveModelReply { name: name.to_string(), plan, ..v1::RemoveModelReply::default() })
    }

    /// The guard that would hold copies back; an error where it is no guard that speaks against it.
    fn guard_against(&self, command: Command) -> Result<Option<Refusal>, AdminError> {
        let Some(refusal) = self.0.refusal_of(command)? else { return Ok(None) };
        let is_guard = matches!(refusal, Refusal::Pinned { .. } | Refusal::LastCopy { .. } | Refusal::BelowWish { .. });
        if is_guard { Ok(Some(refusal)) } else { Err(refusal.into()) }
    }

    /// Who is heard of those that have the model behind that.
    fn heard(&self, removal: &Removal) -> Result<BTreeSet<NodeId>, AdminError> {
        let scheduler = self.0.engines()?.scheduler;
        let is_heard = |node: &NodeId| scheduler.health(*node) == Health::Alive;
        Ok(removal.staying.keys().copied().filter(is_heard).collect())
    }
}

/// Why nothing would go: nobody has the model, these nodes do not, or theirs is to go already.
fn nothing_goes(holders: &[NodeId], name: &ModelName, nodes: &[NodeId], names: &Names) -> AdminError {
    let listed = |nodes: &[NodeId]| nodes.iter().map(|node| names.name(*node)).collect::<Vec<_>>().join(", ");
    let is_named = |node: &NodeId| nodes.is_empty() || nodes.contains(node);
    let waiting: Vec<NodeId> = holders.iter().copied().filter(is_named).collect();
    if !waiting.is_empty() {
        let what = format!("{name} is to go from {} already", listed(&waiting));
        let why = "each node does it by itself, one that is away when it is back";
        return AdminError::new(ErrorCode::ModelNotFound, what, why, format!("ollamax model why {name}"));
    }
    if holders.is_empty() {
        return case::unknown(name);
    }
    let verb = if nodes.len() == 1 { "does" } else { "do" };
    let what = format!("{} {verb} not have {name}", listed(nodes));
    let why = format!("it is on {}", listed(holders));
    AdminError::new(ErrorCode::ModelNotFound, what, why, format!("ollamax model show {name}"))
}

/// What is told of all that speaks against a removal: a pin before who is heard, and that before the other guards.
fn against(unheard: Option<AdminError>, guard: Option<Refusal>) -> Option<AdminError> {
    match (unheard, guard) {
        (Some(unheard), None | Some(Refusal::LastCopy { .. } | Refusal::BelowWish { .. })) => Some(unheard),
        (_, guard) => guard.map(AdminError::from),
    }
}

/// No version is left on silent nodes alone. That none is left at all is judged where the command is applied.
fn check_heard(
    name: &ModelName,
    removal: &Removal,
    heard: &BTreeSet<NodeId>,
    names: &Names,
    pinned: Option<Digest>,
) -> Result<(), AdminError> {
    for parting in &removal.going {
        let left = removal.staying.iter().filter(|(_, digest)| **digest == parting.digest);
        let left: Vec<NodeId> = left.map(|(node, _)| *node).collect();
        if left.is_empty() || left.iter().any(|node| heard.contains(node)) {
            continue;
        }
        let silent: Vec<String> = left.iter().map(|node| names.name(*node)).collect();
        let what = format!("no node that is heard would have {name}");
        let pin = if pinned == Some(parting.digest) { "; the name is pinned at that version" } else { "" };
        let why = format!("it would be left on {} alone, and that is not heard{pin}", silent.join(", "));
        let next = "ollamax node list; or the same again with --force";
        return Err(AdminError::new(ErrorCode::PreconditionFailed, what, why, next));
    }
    Ok(())
}

fn act(name: &ModelName, parting: &retention::Parting, names: &Names) -> v1::ActView {
    v1::ActView {
        name: name.to_string(),
        node_id: parting.node.0,
        node_name: names.name(parting.node),
        deed: "drop".to_owned(),
        digest: parting.digest.0.to_vec(),
        size_bytes: parting.size_bytes,
        frees_bytes: parting.frees_bytes,
        ..v1::ActView::default()
    }
}

fn told(
    name: &ModelName,
    removal: &Removal,
    (forget, is_wanted): (bool, bool),
    names: &Names,
    heard: &BTreeSet<NodeId>,
) -> v1::RemoveModelReply {
    let acts = removal.going.iter().map(|parting| act(name, parting, names)).collect();
    let silent = removal.staying.keys().filter(|node| !heard.contains(*node));
    v1::RemoveModelReply {
        name: name.to_string(),
        plan: Some(v1::PlanView { acts, frees_bytes: removal.frees_bytes() }),
        left: removal.staying.keys().map(|node| names.name(*node)).collect(),
        is_forgotten: forget || !is_wanted,
        silent: silent.map(|node| names.name(*node)).collect(),
        ..v1::RemoveModelReply::default()
    }
}

fn shown(error: AdminError) -> v1::GuardView {
    let AdminError { code, what, why, next } = error;
    v1::GuardView { code: code.as_str().to_owned(), what, why, next }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ollamax_core::retention::Parting;

    use super::*;

    #[test]
    fn a_removal_is_told_with_what_it_frees_and_who_is_left() {
        let parting = |node: u64, frees_bytes: u64| Parting {
            node: NodeId(node),
            digest: Digest([7; 32]),
            size_bytes: 10,
            frees_bytes,
        };
        let staying = BTreeMap::from([(NodeId(3), Digest([7; 32])), (NodeId(4), Digest([8; 32]))]);
        let removal = Removal { going: vec![parting(1, 10), parting(2, 0)], staying };
        let name: ModelName = "m".parse().expect("a name");
        let check = |known: (bool, bool), is_forgotten: bool| {
            let reply = told(&name, &removal, known, &Names::default(), &BTreeSet::from([NodeId(4)]));
            let plan = reply.plan.expect("a plan");
            let acts: Vec<(u64, &str, u64, u64)> = plan
                .acts
                .iter()
                .map(|act| (act.node_id, act.node_name.as_str(), act.size_bytes, act.frees_bytes))
                .collect();
            assert_eq!(acts, [(1, "1", 10, 10), (2, "2", 10, 0)]);
            let left = vec!["3".to_owned(), "4".to_owned()];
            assert_eq!((plan.frees_bytes, reply.left, reply.is_forgotten), (10, left, is_forgotten));
            assert_eq!(reply.silent, ["3"]);
        };
        check((false, true), false);
        check((false, false), true);
        check((true, true), true);
    }

    #[test]
    fn where_nothing_would_go_it_is_said_why() {
        let name: ModelName = "m".parse().expect("a name");
        let ids = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect::<Vec<_>>();
        let check = |holders: &[u64], nodes: &[u64], what: &str, why: &str, next: &str| {
            let error = nothing_goes(&ids(holders), &name, &ids(nodes), &Names::default());
            assert_eq!((error.what.as_str(), error.why.as_str(), error.next.as_str()), (what, why, next));
            assert_eq!(error.code, ErrorCode::ModelNotFound);
        };
        let (pull, show) = ("ollamax model pull m:latest", "ollamax model show m:latest");
        check(&[], &[], "model m:latest not found", "no node has it", pull);
        check(&[], &[3], "model m:latest not found", "no node has it", pull);
        check(&[1, 2], &[3], "3 does not have m:latest", "it is on 1, 2", show);
        check(&[1], &[3, 4], "3, 4 do not have m:latest", "it is on 1", show);
        let (why, next) =
            ("each node does it by itself, one that is away when it is back", "ollamax model why m:latest");
        check(&[1, 2], &[], "m:latest is to go from 1, 2 already", why, next);
        check(&[1, 2], &[2, 3], "m:latest is to go from 2 already", why, next);
    }

    #[test]
    fn no_version_is_left_on_silent_nodes_alone() {
        let name: ModelName = "m".parse().expect("a name");
        let refused = |staying: &[(u64, u8)], heard: &[u64], pinned: Option<u8>| {
            let going = vec![Parting { node: NodeId(1), digest: Digest([7; 32]), size_bytes: 1, frees_bytes: 1 }];
            let staying = staying.iter().map(|(node, byte)| (NodeId(*node), Digest([*byte; 32]))).collect();
            let heard: BTreeSet<NodeId> = heard.iter().copied().map(NodeId).collect();
            let pinned = pinned.map(|byte| Digest([byte; 32]));
            let refused = check_heard(&name, &Removal { going, staying }, &heard, &Names::default(), pinned).err();
            refused.map(|error| error.why)
        };
        let check = |staying: &[(u64, u8)], heard: &[u64], expected: Option<&str>| {
            assert_eq!(refused(staying, heard, None).as_deref(), expected, "{heard:?}");
        };
        check(&[(2, 7)], &[2], None);
        check(&[(2, 7), (3, 7)], &[3], None);
        check(&[(2, 7)], &[], Some("it would be left on 2 alone, and that is not heard"));
        check(&[(2, 7), (3, 8), (4, 7)], &[3], Some("it would be left on 2, 4 alone, and that is not heard"));
        check(&[(3, 8)], &[], None);
        let alone = "it would be left on 2 alone, and that is not heard";
        let with_pin = "it would be left on 2 alone, and that is not heard; the name is pinned at that version";
        assert_eq!(refused(&[(2, 7)], &[], Some(7)).as_deref(), Some(with_pin));
        assert_eq!(refused(&[(2, 7)], &[], Some(8)).as_deref(), Some(alone), "the pin is of another version");
    }

    #[test]
    fn a_pin_is_told_before_who_is_not_heard_and_that_before_the_other_guards() {
        let name: ModelName = "m".parse().expect("a name");
        let pin = || Refusal::Pinned { name: name.clone(), digest: Digest([7; 32]) };
        let last = || Refusal::LastCopy { name: name.clone() };
        let check = |is_heard: bool, guard: Option<Refusal>, expected: Option<&str>| {
            let unheard = AdminError::new(ErrorCode::PreconditionFailed, "not heard", "", "");
            let told = against(Some(unheard).filter(|_| !is_heard), guard.clone()).map(|error| error.what);
            assert_eq!(told.as_deref(), expected, "{guard:?}, heard: {is_heard}");
        };
        let (pinned, gone) = ("m:latest is pinned at 070707070707", "that would remove the last copy of m:latest");
        check(false, Some(pin()), Some(pinned));
        check(true, Some(pin()), Some(pinned));
        check(false, Some(last()), Some("not heard"));
        check(true, Some(last()), Some(gone));
        check(false, None, Some("not heard"));
        check(true, None, None);
    }
}
