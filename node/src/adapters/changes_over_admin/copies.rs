//! The copies of a model that a pull makes: how far they are together, and which there would be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ollamax_core::catalog::models::{holders, pin_of};
use ollamax_core::catalog::{Fault, Replicas, read};
use ollamax_core::placement::{Planned, plan_pull};
use ollamax_proto::v1;
use ollamax_proto::v1::pull_progress::Stage;
use ollamax_transfer::ports::Ask;
use ollamax_types::{ModelName, NodeId};

use crate::adapters::ledger_over_metadata::not_asked_yet;
use crate::sites::Sites;
use crate::slot::MemberEngines;

/// Time between two looks at copies that go, although nothing changed: a node may have gone silent.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How far each node of a pull is.
#[derive(Debug, Default)]
pub(super) struct Copies(BTreeMap<u64, v1::PullProgress>);

/// What is known of a model that is not asked for yet.
#[derive(Debug)]
pub(super) struct Look {
    name: ModelName,
    holders: BTreeSet<NodeId>,
    planned: Planned,
}

// === impl Copies ===

impl Copies {
    /// Notes what a node says.
    pub(super) fn note(&mut self, state: v1::PullProgress) {
        self.0.insert(state.node_id, state);
    }

    /// Bytes that are there, of how many, and a line for people. Who has failed does not count.
    pub(super) fn so_far(&self) -> (u64, Option<u64>, String) {
        let all: Vec<&v1::PullProgress> = self.0.values().filter(|state| state.stage() != Stage::Failed).collect();
        let done = all.iter().map(|state| state.verified_bytes).sum();
        let is_known = |state: &&v1::PullProgress| state.total_bytes > 0 || state.stage() == Stage::Done;
        let total = all.iter().all(is_known).then(|| all.iter().map(|state| state.total_bytes).sum());
        let there = all.iter().filter(|state| state.stage() == Stage::Done).count();
        let next = all.iter().find(|state| state.stage() != Stage::Done);
        let mut text = format!("{there} of {} nodes have it", all.len());
        if let Some(state) = next {
            text.push_str(&format!("; {}: {}", state.node_name, state.stage().as_str_name().to_lowercase()));
        }
        (done, total, text)
    }

    /// The nodes that have it.
    pub(super) fn there(&self) -> Vec<String> {
        let there = self.0.values().filter(|state| state.stage() == Stage::Done);
        there.map(|state| state.node_name.clone()).collect()
    }
}

// === impl Look ===

impl Look {
    /// As this node sees it now.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub(super) fn now(engines: &MemberEngines, name: &ModelName, replicas: Replicas) -> Result<Self, Fault> {
        let view = engines.metadata.view();
        let sites = Sites::now(&*view, &engines.scheduler)?;
        let holders = holders(None, pin_of(&*view, name)?, &read::locations_of(&*view, name)?);
        let want = read::wish(&*view, name)?.map(|wish| wish.want);
        let (name, asked_by) = (name.clone(), String::new());
        let ask = Ask {
            name: name.clone(),
            replicas,
            is_said: true,
            insecure: false,
            want,
            version: None,
            asked_by,
            once: None,
        };
        let planned = plan_pull(&not_asked_yet(&ask), &sites.with_holders(&holders), None);
        Ok(Self { name, holders, planned })
    }
}

/// What would come of it, line by line.
pub(super) fn plan_lines(look: &Look, name_of: &dyn Fn(NodeId) -> String) -> Vec<String> {
    let Look { name, holders, planned } = look;
    match planned {
        Planned::Plan { ingester, targets } => {
            let mut lines = vec![format!("{} asks the registry for {name}", name_of(*ingester))];
            lines.extend(targets.iter().map(|node| {
                let verb = if holders.contains(node) { "has it, and gets what is newer" } else { "gets it" };
                format!("{} {verb}", name_of(*node))
            }));
            lines
        }
        Planned::Impossible(reasons) => {
            let why: Vec<String> = reasons.iter().map(|(node, unfit)| unfit.of(&name_of(*node))).collect();
            let why = if why.is_empty() { "there are not nodes enough".to_owned() } else { why.join("; ") };
            vec![format!("{name} cannot be had there: {why}")]
        }
        Planned::Nothing => vec!["nothing would change".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use ollamax_core::placement::Unfit;

    use super::*;

    fn state(node: u64, stage: Stage, (verified_bytes, total_bytes): (u64, u64)) -> v1::PullProgress {
        let node_name = format!("n{node}");
        let mut state =
            v1::PullProgress { node_id: node, node_name, verified_bytes, total_bytes, ..v1::PullProgress::default() };
        state.set_stage(stage);
        state
    }

    #[test]
    fn all_nodes_are_told_as_one_and_the_sum_is_known_when_each_part_is() {
        let check = |states: &[v1::PullProgress], expected: (u64, Option<u64>, &str)| {
            let mut copies = Copies::default();
            for state in states {
                copies.note(state.clone());
            }
            let (done, total, text) = copies.so_far();
            assert_eq!((done, total, text.as_str()), expected);
        };
        let resolving = state(1, Stage::Resolving, (0, 0));
        check(std::slice::from_ref(&resolving), (0, None, "0 of 1 nodes have it; n1: resolving"));
        let fetching = [state(1, Stage::Fetching, (3, 10)), state(2, Stage::Waiting, (0, 10))];
        check(&fetching, (3, Some(20), "0 of 2 nodes have it; n1: fetching"));
        let had = [state(1, Stage::Done, (0, 0)), state(2, Stage::Fetching, (4, 10))];
        check(&had, (4, Some(10), "1 of 2 nodes have it; n2: fetching"));
        // Another node has taken the place of one that failed; the newest word of each counts.
        let replaced = [resolving, state(1, Stage::Failed, (0, 0)), state(3, Stage::Done, (10, 10))];
        check(&replaced, (10, Some(10), "1 of 1 nodes have it"));
    }

    #[test]
    fn who_has_it_is_told_by_name() {
        let mut copies = Copies::default();
        copies.note(state(2, Stage::Done, (1, 1)));
        copies.note(state(1, Stage::Failed, (0, 0)));
        assert_eq!(copies.there(), ["n2"]);
    }

    #[test]
    fn what_would_come_of_a_pull_is_told_node_by_node() {
        let lines = |planned: Planned| {
            let look = Look { name: "m".parse().expect("a name"), holders: [NodeId(1)].into(), planned };
            plan_lines(&look, &|node| format!("n{node}"))
        };
        let planned = lines(Planned::Plan { ingester: NodeId(1), targets: vec![NodeId(1), NodeId(2)] });
        assert_eq!(planned, ["n1 asks the registry for m:latest", "n1 has it, and gets what is newer", "n2 gets it"]);
        let impossible = lines(Planned::Impossible(vec![(NodeId(3), Unfit::Gateway)]));
        assert_eq!(impossible, ["m:latest cannot be had there: n3 is a gateway"]);
        assert_eq!(lines(Planned::Nothing), ["nothing would change"]);
    }
}
