//! The copies of a model that a pull makes: how far they are together, and which there would be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use ollamax_core::catalog::models::{holders, pin_of};
use ollamax_core::catalog::{Fault, Replicas, read};
use ollamax_core::placement::{Planned, plan_pull};
use ollamax_proto::v1;
use ollamax_proto::v1::pull_progress::Stage;
use ollamax_tools::views::Pulled;
use ollamax_transfer::ports::Ask;
use ollamax_types::{ModelName, NodeId};

use super::some_of;
use crate::adapters::ledger_over_metadata::not_asked_yet;
use crate::sites::Sites;
use crate::slot::MemberEngines;

/// Time between two looks at copies that go, although nothing changed: a node may have gone silent.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// From then on it is told how long a registry has given no answer.
const SLOW_AFTER: Duration = Duration::from_secs(5);

/// How far each node of a pull is.
#[derive(Debug, Default)]
pub(super) struct Copies(BTreeMap<u64, Noted>);

/// What a node said last, and since when it does that.
#[derive(Debug)]
struct Noted {
    state: v1::PullProgress,
    since: Instant,
}

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
    pub(super) fn note(&mut self, state: v1::PullProgress, now: Instant) {
        let before = self.0.get(&state.node_id).filter(|noted| noted.state.stage() == state.stage());
        let since = before.map_or(now, |noted| noted.since);
        self.0.insert(state.node_id, Noted { state, since });
    }

    /// Bytes that are there, of how many, and a line for people; `None`: no node has said anything. Who has failed does
    /// not count. A node that does not know yet how much there is gets as much as the others.
    pub(super) fn so_far(&self, now: Instant, is_heard: &dyn Fn(NodeId) -> bool) -> Option<(u64, Option<u64>, String)> {
        if self.0.is_empty() {
            return None;
        }
        let all: Vec<&Noted> = self.0.values().filter(|noted| noted.state.stage() != Stage::Failed).collect();
        let done = all.iter().map(|noted| noted.state.verified_bytes).sum();
        let most = all.iter().map(|noted| noted.state.total_bytes).max().filter(|most| *most > 0);
        let total_of = |noted: &&Noted| match noted.state.total_bytes {
            0 if noted.state.stage() != Stage::Done => most,
            bytes => Some(bytes),
        };
        let total = all.iter().map(total_of).sum();
        let (there, open): (Vec<&Noted>, Vec<&Noted>) =
            all.iter().copied().partition(|noted| noted.state.stage() == Stage::Done);
        let (heard, silent): (Vec<&Noted>, Vec<&Noted>) =
            open.into_iter().partition(|noted| is_heard(NodeId(noted.state.node_id)));
        let mut text = format!("{} of {} nodes have it", there.len(), all.len());
        if let Some(noted) = heard.first() {
            text.push_str(&noted.course(now));
        }
        if !silent.is_empty() {
            let names: Vec<String> = silent.iter().map(|noted| noted.state.node_name.clone()).collect();
            let verb = if names.len() == 1 { "is" } else { "are" };
            text.push_str(&format!("; {} {verb} not heard", some_of(&names)));
        }
        if let Some(remark) = self.remark() {
            text.push_str(&format!("; {remark}"));
        }
        Some((done, total, text))
    }

    /// What there is of it: the nodes that have it, and why it may not be what is newest.
    pub(super) fn there(&self) -> Pulled {
        let there = self.0.values().filter(|noted| noted.state.stage() == Stage::Done);
        Pulled { nodes: there.map(|noted| noted.state.node_name.clone()).collect(), remark: self.remark() }
    }

    fn remark(&self) -> Option<String> {
        let mut remarks = self.0.values().map(|noted| &noted.state.remark);
        remarks.find(|remark| !remark.is_empty()).cloned()
    }
}

// === impl Noted ===

impl Noted {
    /// What it does, behind what is said before.
    fn course(&self, now: Instant) -> String {
        let stage = self.state.stage();
        let (name, took) = (&self.state.node_name, now.saturating_duration_since(self.since));
        let text = format!("; {name}: {}", stage.as_str_name().to_lowercase());
        if stage != Stage::Resolving || took < SLOW_AFTER {
            return text;
        }
        format!("{text}, for {} s without an answer of the registry", took.as_secs())
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
pub(super) fn plan_lines(
    look: &Look,
    name_of: &dyn Fn(NodeId) -> String,
    is_heard: &dyn Fn(NodeId) -> bool,
) -> Vec<String> {
    let Look { name, holders, planned } = look;
    match planned {
        Planned::Plan { ingester, targets } => {
            let mut lines = vec![format!("{} asks the registry for {name}", name_of(*ingester))];
            lines.extend(targets.iter().map(|node| {
                let verb = if holders.contains(node) { "has it, and gets what is newer" } else { "gets it" };
                let when = if is_heard(*node) { "" } else { " when it is heard again" };
                format!("{} {verb}{when}", name_of(*node))
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
            let (mut copies, now) = (Copies::default(), Instant::now());
            for state in states {
                copies.note(state.clone(), now);
            }
            let (done, total, text) = copies.so_far(now, &|node| node != NodeId(9)).expect("somebody said something");
            assert_eq!((done, total, text.as_str()), expected);
        };
        assert_eq!(Copies::default().so_far(Instant::now(), &|_| true), None);
        let resolving = state(1, Stage::Resolving, (0, 0));
        check(std::slice::from_ref(&resolving), (0, None, "0 of 1 nodes have it; n1: resolving"));
        let fetching = [state(1, Stage::Fetching, (3, 10)), state(2, Stage::Waiting, (0, 10))];
        check(&fetching, (3, Some(20), "0 of 2 nodes have it; n1: fetching"));
        let had = [state(1, Stage::Done, (0, 0)), state(2, Stage::Fetching, (4, 10))];
        check(&had, (4, Some(10), "1 of 2 nodes have it; n2: fetching"));
        // Another node has taken the place of one that failed; the newest word of each counts.
        let replaced = [resolving, state(1, Stage::Failed, (0, 0)), state(3, Stage::Done, (10, 10))];
        check(&replaced, (10, Some(10), "1 of 1 nodes have it"));
        // One that is silent has said nothing of how much there is, and gets as much.
        let silent = [state(1, Stage::Done, (10, 10)), state(9, Stage::Waiting, (0, 0))];
        check(&silent, (10, Some(20), "1 of 2 nodes have it; n9 is not heard"));
        let remark = "the registry did not answer".to_owned();
        let remarked = v1::PullProgress { remark, ..state(1, Stage::Done, (10, 10)) };
        check(&[remarked], (10, Some(10), "1 of 1 nodes have it; the registry did not answer"));
    }

    #[test]
    fn how_long_a_registry_has_given_no_answer_is_told() {
        let (mut copies, began) = (Copies::default(), Instant::now());
        copies.note(state(1, Stage::Waiting, (0, 0)), began);
        copies.note(state(1, Stage::Resolving, (0, 0)), began + SLOW_AFTER);
        copies.note(state(1, Stage::Resolving, (0, 0)), began + 2 * SLOW_AFTER);
        let check = |after: Duration, expected: &str| {
            let (_, _, text) = copies.so_far(began + SLOW_AFTER + after, &|_| true).expect("it said something");
            assert_eq!(text, expected);
        };
        check(Duration::from_secs(4), "0 of 1 nodes have it; n1: resolving");
        let slow = "0 of 1 nodes have it; n1: resolving, for 12 s without an answer of the registry";
        check(Duration::from_secs(12), slow);
    }

    #[test]
    fn who_has_it_is_told_by_name_with_why_it_may_not_be_the_newest() {
        let (mut copies, now) = (Copies::default(), Instant::now());
        copies.note(state(2, Stage::Done, (1, 1)), now);
        copies.note(state(1, Stage::Failed, (0, 0)), now);
        assert_eq!(copies.there(), Pulled { nodes: vec!["n2".to_owned()], remark: None });
        let remark = "the registry did not answer".to_owned();
        copies.note(v1::PullProgress { remark: remark.clone(), ..state(2, Stage::Done, (1, 1)) }, now);
        assert_eq!(copies.there().remark, Some(remark));
    }

    #[test]
    fn what_would_come_of_a_pull_is_told_node_by_node() {
        let lines = |planned: Planned| {
            let look = Look { name: "m".parse().expect("a name"), holders: [NodeId(1)].into(), planned };
            plan_lines(&look, &|node| format!("n{node}"), &|node| node != NodeId(9))
        };
        let planned = lines(Planned::Plan { ingester: NodeId(1), targets: vec![NodeId(1), NodeId(2)] });
        assert_eq!(planned, ["n1 asks the registry for m:latest", "n1 has it, and gets what is newer", "n2 gets it"]);
        let planned = lines(Planned::Plan { ingester: NodeId(2), targets: vec![NodeId(2), NodeId(9)] });
        assert_eq!(planned, ["n2 asks the registry for m:latest", "n2 gets it", "n9 gets it when it is heard again"]);
        let impossible = lines(Planned::Impossible(vec![(NodeId(3), Unfit::Gateway)]));
        assert_eq!(impossible, ["m:latest cannot be had there: n3 is a gateway"]);
        assert_eq!(lines(Planned::Nothing), ["nothing would change"]);
    }
}
