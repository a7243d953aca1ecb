//! What the leader would do for the wishes, as nodes tell it to each other and to people.
//!
//! A node that leads says it in ids; the names of nodes are put in where somebody reads them. What another release
//! plans and this one does not know is left out, never guessed.

use std::collections::BTreeSet;

use ollamax_core::catalog::{Command, PlanKind};
use ollamax_core::placement::{Move, Outlook, Unfit};
use ollamax_proto::v1;
use ollamax_types::{ModelName, NodeId};

/// The word for a copy that goes; a plan has that of its kind.
const DROP: &str = "drop";
const KINDS: [PlanKind; 4] = [PlanKind::Asked, PlanKind::Repair, PlanKind::Rebalance, PlanKind::Emptying];

/// In wire form. `name_of` says how nodes are called in what is wrong with them.
#[must_use]
pub fn to_wire(outlook: &Outlook, name_of: &dyn Fn(NodeId) -> String) -> v1::OutlookView {
    let short = outlook.under.iter().map(|short| v1::Shortage {
        name: short.name.to_string(),
        has: short.has,
        wants: short.wants,
    });
    let lacking = |(name, reasons): &(ModelName, Vec<(NodeId, Unfit)>)| v1::Impossibility {
        name: name.to_string(),
        why: reasons.iter().map(|(node, unfit)| unfit.of(&name_of(*node))).collect(),
    };
    v1::OutlookView {
        moves: outlook.moves.iter().map(planned).collect(),
        short: short.collect(),
        impossible: outlook.impossible.iter().map(lacking).collect(),
        stuck: outlook.stuck.iter().map(lacking).collect(),
    }
}

fn planned(step: &Move) -> v1::PlannedMove {
    match step {
        Move::Plan { name, round, ingester, targets, kind } => v1::PlannedMove {
            name: name.to_string(),
            kind: kind.as_str().to_owned(),
            round: *round,
            ingester: ingester.0,
            targets: targets.iter().map(|target| target.0).collect(),
            node: 0,
        },
        Move::Drop { name, node } => v1::PlannedMove {
            name: name.to_string(),
            kind: DROP.to_owned(),
            node: node.0,
            ..v1::PlannedMove::default()
        },
    }
}

/// A plan that a leader tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) name: ModelName,
    pub(super) round: u64,
    pub(super) ingester: NodeId,
    pub(super) targets: Vec<NodeId>,
    pub(super) kind: PlanKind,
}

// === impl Planned ===

impl Planned {
    /// `None` for a copy that goes, which the leader sees to by itself, and for what cannot be understood.
    pub(super) fn from_wire(told: &v1::PlannedMove) -> Option<Self> {
        let kind = KINDS.into_iter().find(|kind| kind.as_str() == told.kind)?;
        Some(Self {
            name: told.name.parse().ok()?,
            round: told.round,
            ingester: NodeId(told.ingester),
            targets: told.targets.iter().copied().map(NodeId).collect(),
            kind,
        })
    }

    /// The change that makes it so.
    pub(super) fn command(&self) -> Command {
        let Self { name, round, ingester, targets, kind } = self.clone();
        Command::PlanPull { name, round, ingester, targets, kind }
    }

    /// As people read it, where these nodes have the model.
    pub(super) fn shown(
        &self,
        holders: &BTreeSet<NodeId>,
        size_bytes: u64,
        name_of: &dyn Fn(NodeId) -> String,
    ) -> v1::MoveView {
        let new = self.targets.iter().filter(|target| !holders.contains(target));
        let leaves = self.targets.last().filter(|_| self.kind == PlanKind::Rebalance);
        v1::MoveView {
            name: self.name.to_string(),
            kind: self.kind.as_str().to_owned(),
            from: name_of(self.ingester),
            to: new.map(|node| name_of(*node)).collect(),
            leaves: leaves.map(|node| name_of(*node)).unwrap_or_default(),
            size_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use ollamax_core::placement::Shortage;

    use super::*;

    fn name() -> ModelName {
        "m".parse().expect("a name")
    }

    fn plan(kind: PlanKind) -> Move {
        Move::Plan { name: name(), round: 7, ingester: NodeId(1), targets: vec![NodeId(1), NodeId(3)], kind }
    }

    #[test]
    fn what_a_leader_plans_arrives_as_the_change_that_makes_it_so() {
        for kind in KINDS {
            let arrived = Planned::from_wire(&planned(&plan(kind))).expect("understood");
            let targets = vec![NodeId(1), NodeId(3)];
            let expected = Command::PlanPull { name: name(), round: 7, ingester: NodeId(1), targets, kind };
            assert_eq!(arrived.command(), expected);
        }
        let dropped = Move::Drop { name: name(), node: NodeId(2) };
        assert_eq!(Planned::from_wire(&planned(&dropped)), None, "the leader drops by itself");
        let unknown = v1::PlannedMove { kind: "of a later release".to_owned(), ..planned(&plan(PlanKind::Repair)) };
        assert_eq!(Planned::from_wire(&unknown), None);
    }

    #[test]
    fn people_read_who_gets_a_copy_and_whose_goes() {
        let shown = |kind| {
            let arrived = Planned::from_wire(&planned(&plan(kind))).expect("understood");
            let shown = arrived.shown(&BTreeSet::from([NodeId(1)]), 9, &|node| format!("n{node}"));
            (shown.from, shown.to, shown.leaves)
        };
        let (from, to) = ("n1".to_owned(), vec!["n3".to_owned()]);
        assert_eq!(shown(PlanKind::Repair), (from.clone(), to.clone(), String::new()));
        assert_eq!(shown(PlanKind::Rebalance), (from, to, "n3".to_owned()));
    }

    #[test]
    fn what_is_wrong_with_nodes_is_told_with_their_names() {
        let outlook = Outlook {
            moves: Vec::new(),
            under: vec![Shortage { name: name(), has: 1, wants: 2 }],
            impossible: vec![(name(), vec![(NodeId(2), Unfit::Gateway)])],
            stuck: vec![(name(), vec![(NodeId(3), Unfit::Cordoned)])],
        };
        let told = to_wire(&outlook, &|node| format!("n{node}"));
        assert_eq!((told.short[0].has, told.short[0].wants), (1, 2));
        assert_eq!(told.impossible[0].why, ["n2 is a gateway"]);
        assert_eq!(told.stuck[0].why, ["n3 takes no new models"]);
    }
}
