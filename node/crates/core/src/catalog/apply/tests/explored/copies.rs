//! Copies of one model on two nodes, explored: asked for, planned, pinned, dropped, removed and fetched in every order.
//!
//! The nodes do what they are told and nothing else. Nobody insists on anything, so a copy always stays.

use super::*;
use crate::catalog::record::{Drop, Replicas, Wish};

const MODEL: &str = "m";
const VERSION: u8 = 7;
const NODES: [u64; 2] = [1, 2];
const STEPS_MAX: u32 = 6;

struct Copies;

#[derive(Debug, Clone, PartialEq, Eq)]
struct CopiesState {
    world: World,
    steps: u32,
    /// The last copy was to go, and was not given away.
    guarded: bool,
    /// A plan took back what was to go.
    withdrawn: bool,
    /// A node got what it had removed.
    came_back: bool,
    /// The same question, asked twice, had two answers.
    unsteady: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum CopiesAct {
    Ask,
    Plan { round: u64 },
    Pin,
    Drop(u64),
    Remove(u64),
    Fetch(u64),
}

// === impl CopiesState ===

impl CopiesState {
    fn wish(&self) -> Option<Wish> {
        read::wish(&self.world.view, &model(MODEL, 0).name).expect("readable")
    }

    fn drops(&self) -> BTreeMap<NodeId, Drop> {
        let model = read::model(&self.world.view, &model(MODEL, 0).name).expect("readable");
        model.map(|model| model.drops).unwrap_or_default()
    }

    fn has(&self, node: u64) -> bool {
        let key = model(MODEL, 0).name.key();
        read::node_model(&self.world.view, NodeId(node), &key).expect("readable").is_some()
    }

    fn targets(&self) -> Vec<NodeId> {
        self.wish().and_then(|wish| wish.plan).map(|plan| plan.targets).unwrap_or_default()
    }
}

impl Hash for CopiesState {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        format!("{self:?}").hash(hasher);
    }
}

fn ask() -> Command {
    let (name, replicas) = (model(MODEL, 0).name, Replicas::Count(1));
    Command::AskModel {
        name,
        replicas,
        insecure: false,
        want: Default::default(),
        declared: false,
        unsaid: false,
        away: Default::default(),
    }
}

impl Model for Copies {
    type State = CopiesState;
    type Action = CopiesAct;

    fn init_states(&self) -> Vec<CopiesState> {
        let mut world = World::new();
        world.apply(None, token("t"));
        world.apply(None, join("t", "n2", 2));
        for node in NODES {
            world.apply(None, report(node, &[(MODEL, VERSION)], &[]));
        }
        vec![CopiesState { world, steps: 0, guarded: false, withdrawn: false, came_back: false, unsteady: false }]
    }

    fn actions(&self, state: &CopiesState, actions: &mut Vec<CopiesAct>) {
        actions.extend([CopiesAct::Ask, CopiesAct::Pin]);
        actions.extend(state.wish().map(|wish| CopiesAct::Plan { round: wish.round }));
        let (drops, targets) = (state.drops(), state.targets());
        for node in NODES {
            let shall_go = drops.contains_key(&NodeId(node));
            if state.has(node) {
                actions.push(if shall_go { CopiesAct::Remove(node) } else { CopiesAct::Drop(node) });
            } else if targets.contains(&NodeId(node)) {
                actions.push(CopiesAct::Fetch(node));
            }
        }
    }

    fn next_state(&self, last: &CopiesState, action: CopiesAct) -> Option<CopiesState> {
        let mut state = CopiesState { steps: last.steps + 1, ..last.clone() };
        let (name, digest) = (model(MODEL, 0).name, Digest([VERSION; 32]));
        match action {
            CopiesAct::Ask => {
                let first = state.world.apply(None, ask()).answer;
                let mut twice = state.world.clone();
                state.unsteady |= twice.apply(None, ask()).answer != first;
            }
            CopiesAct::Plan { round } => {
                let (ingester, targets) = (NodeId(1), NODES.map(NodeId).to_vec());
                let plan = Command::PlanPull { name: name.clone(), round, ingester, targets, kind: Default::default() };
                state.world.apply(None, plan);
                state.world.apply(None, Command::ResolveWish { node: ingester, name, round, digest, size_bytes: 1 });
                state.withdrawn |= state.drops().len() < last.drops().len();
            }
            CopiesAct::Pin => drop(state.world.apply(None, Command::PinModel { name, digest: Some(digest) })),
            CopiesAct::Drop(node) => {
                let nodes = vec![NodeId(node)];
                let go = Command::DropCopies { name, nodes, forget: false, force: false, unless_pinned: false };
                let answer = state.world.apply(None, go).answer;
                state.guarded |= matches!(answer, Answer::Refused(Refusal::LastCopy { .. }));
            }
            CopiesAct::Remove(node) => drop(state.world.apply(None, report(node, &[], &[MODEL]))),
            CopiesAct::Fetch(node) => {
                state.world.apply(None, report(node, &[(MODEL, VERSION)], &[]));
                state.came_back = true;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a copy stays that shall not go", |_, state: &CopiesState| {
                let drops = state.drops();
                NODES.iter().any(|node| state.has(*node) && !drops.contains_key(&NodeId(*node)))
            }),
            Property::always("nobody shall hold and remove a model", |_, state: &CopiesState| {
                let drops = state.drops();
                state.targets().iter().all(|node| !drops.contains_key(node))
            }),
            Property::always("what shall go is there", |_, state: &CopiesState| {
                state.drops().keys().all(|node| state.has(node.0))
            }),
            Property::always("what the cluster removed is no person's doing", |_, state: &CopiesState| {
                state.wish().is_none_or(|wish| wish.failures.is_empty())
            }),
            Property::always("a question that is repeated has one answer", |_, state: &CopiesState| !state.unsteady),
            Property::sometimes("the last copy is asked to go", |_, state: &CopiesState| state.guarded),
            Property::sometimes("a plan ends what was to go", |_, state: &CopiesState| state.withdrawn),
            Property::sometimes("a copy comes back", |_, state: &CopiesState| state.came_back),
        ]
    }

    fn within_boundary(&self, state: &CopiesState) -> bool {
        state.steps <= STEPS_MAX
    }
}

#[test]
fn however_a_model_is_moved_a_copy_of_it_stays() {
    Copies.checker().spawn_bfs().join().assert_properties();
}
