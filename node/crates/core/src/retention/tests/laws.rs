//! The guards in worlds by seed, and whatever the rules: each act of a plan is judged again on what the acts before it
//! have left, until the rules have nothing more to do.

use super::*;

const SEEDS: u64 = 400;
/// Plans until a world has come to rest. Each act takes away a copy or goes a step in a model's life.
const PLANS_MAX: usize = 100;

/// Numbers that are decided by a seed.
struct Chance(u64);

// === impl Chance ===

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn days(&mut self) -> u32 {
        u32::try_from(self.below(90)).expect("small")
    }

    fn byte(&mut self, end: u64) -> u8 {
        u8::try_from(self.below(end)).expect("small")
    }
}

fn any_copy(chance: &mut Chance, node: u64) -> CopyFacts {
    let weights = chance.byte(6);
    CopyFacts {
        node: NodeId(node),
        digest: digest(if chance.one_in(5) { 2 } else { 1 }),
        weights: digest(weights),
        size_bytes: 1 + 3 * u64::from(weights),
        is_going: chance.one_in(8),
        belongs: !chance.one_in(5),
    }
}

fn any_model(chance: &mut Chance, number: u64) -> ModelFacts {
    let nodes: Vec<u64> = (1..=5).filter(|_| !chance.one_in(3)).collect();
    let wanted = match chance.below(6) {
        0 => Some(Replicas::All),
        1 => Some(Replicas::Nodes(vec![NodeId(1), NodeId(2)])),
        2 | 3 => Some(Replicas::Count(u32::from(chance.byte(4)))),
        _ => None,
    };
    let phase = match chance.below(4) {
        0 => Phase::Deprecated(since(chance.days())),
        1 => Phase::Disabled(since(chance.days())),
        _ => Phase::Active,
    };
    ModelFacts {
        name: format!("m{number}").parse().expect("a name"),
        phase,
        is_pinned: chance.one_in(8),
        is_declared: wanted.is_some() && chance.one_in(4),
        is_under_way: wanted.is_some() && chance.one_in(8),
        wanted,
        digest: (!chance.one_in(10)).then(|| digest(1)),
        copies: nodes.into_iter().map(|node| any_copy(chance, node)).collect(),
        used_on: if chance.one_in(4) { 0 } else { TODAY - chance.days() },
        noted_at: days_ago(chance.days()),
        version_at: days_ago(chance.days()),
    }
}

fn any_facts(chance: &mut Chance) -> Facts {
    let models: Vec<ModelFacts> = (0..20).map(|number| any_model(chance, number)).collect();
    let mut sites = BTreeMap::new();
    for node in 1..=5 {
        let disk = (!chance.one_in(5)).then(|| Disk { total_bytes: 200, free_bytes: chance.below(100) });
        let loaded = models.iter().filter(|_| chance.one_in(10)).map(|model| model.name.key()).collect();
        sites.insert(NodeId(node), SiteFacts { disk, is_heard: !chance.one_in(6), loaded });
    }
    Facts { now: days_ago(0), models, sites }
}

fn any_rules(chance: &mut Chance) -> Rules {
    let thens = [Then::Deprecate, Then::Disable, Then::DropCopy, Then::Delete];
    let one = |chance: &mut Chance| Rule {
        pattern: if chance.one_in(3) { "m1*".to_owned() } else { "*".to_owned() },
        unused_days: chance.one_in(2).then(|| chance.days()),
        age_days: chance.one_in(4).then(|| chance.days()),
        phase_days: chance.one_in(6).then(|| chance.days()),
        disk_percent: chance.one_in(3).then(|| 50 + chance.days() / 2),
        then: thens[usize::from(chance.byte(4))],
    };
    Rules { on: true, rules: (0..1 + chance.below(6)).map(|_| one(chance)).collect() }
}

/// How full a disk is without the copies that were told to go.
fn full_at_last(facts: &Facts, node: NodeId) -> Option<u32> {
    let disk = facts.sites[&node].disk?;
    let here: Vec<_> = facts.models.iter().flat_map(|model| &model.copies).filter(|copy| copy.node == node).collect();
    let stays = |weights: Digest| here.iter().any(|copy| copy.weights == weights && !copy.is_going);
    let leaving: BTreeMap<Digest, u64> = here.iter().map(|copy| (copy.weights, copy.size_bytes)).collect();
    let freed_bytes: u64 = leaving.iter().filter(|(weights, _)| !stays(**weights)).map(|(_, bytes)| bytes).sum();
    let free_bytes = (disk.free_bytes + freed_bytes).min(disk.total_bytes);
    Disk { free_bytes, ..disk }.used_percent()
}

/// What must be true of an act, said once more and in other words than the plan has.
fn judge(seed: u64, facts: &Facts, rules: &Rules, act: &Act) {
    let told = format!("seed {seed}: {act:?}");
    let model = facts.models.iter().find(|model| model.name == act.name).expect("a model of the facts");
    let is_heard = |node: NodeId| facts.sites[&node].is_heard;
    let is_loaded = |node: NodeId| facts.sites[&node].loaded.contains(&model.name.key());
    assert!(!model.is_pinned && !model.is_under_way, "{told}");
    match act.deed {
        Deed::Drop => {
            let node = act.node.expect("a node");
            let gone = model.copies.iter().find(|copy| copy.node == node).expect("a copy");
            let left: Vec<_> =
                model.copies.iter().filter(|copy| copy.node != node && !copy.is_going && is_heard(copy.node)).collect();
            assert!(!gone.is_going && is_heard(node) && !is_loaded(node), "{told}");
            assert!(left.iter().any(|copy| copy.digest == gone.digest), "{told}");
            match &model.wanted {
                None => {}
                Some(Replicas::All) => panic!("{told}"),
                Some(Replicas::Nodes(nodes)) => assert!(!nodes.contains(&node), "{told}"),
                Some(Replicas::Count(count)) => {
                    let wanted = left.iter().filter(|copy| Some(copy.digest) == model.digest && copy.belongs);
                    assert!(wanted.count() >= *count as usize, "{told}");
                }
            }
            if let Some(limit) = rules.rules[act.rule - 1].disk_percent {
                let full = full_at_last(facts, node).expect("a disk that is known");
                assert!(full >= limit && act.frees_bytes > 0, "{told}: {full} %");
            }
        }
        Deed::Delete => {
            assert!(matches!(model.phase, Phase::Disabled(_)) && !model.is_declared && act.node.is_none(), "{told}");
            assert!(model.copies.iter().all(|copy| is_heard(copy.node) && !is_loaded(copy.node)), "{told}");
        }
        Deed::Deprecate => assert_eq!((&model.phase, act.frees_bytes), (&Phase::Active, 0), "{told}"),
        Deed::Disable => {
            assert!(!matches!(model.phase, Phase::Disabled(_)) && !model.is_declared, "{told}");
            assert!(model.copies.iter().all(|copy| is_heard(copy.node) && !is_loaded(copy.node)), "{told}");
        }
    }
}

/// Carries an act out as the leader does: copies are told to go, and no disk says anything of it yet. Says what will go
/// from the disks.
fn carry_out(facts: &mut Facts, act: &Act) -> u64 {
    let index = facts.models.iter().position(|model| model.name == act.name).expect("a model of the facts");
    let model = &mut facts.models[index];
    let goes = |copy: &&mut CopyFacts| !copy.is_going && act.node.is_none_or(|node| copy.node == node);
    let mut gone = Vec::new();
    match act.deed {
        Deed::Deprecate => model.phase = Phase::Deprecated(since(0)),
        Deed::Disable => model.phase = Phase::Disabled(since(0)),
        Deed::Drop | Deed::Delete => {
            for copy in model.copies.iter_mut().filter(goes) {
                copy.is_going = true;
                gone.push(*copy);
            }
        }
    }
    if act.deed == Deed::Delete {
        (model.phase, model.wanted) = (Phase::Deleted(since(0)), None);
    }
    let stays = |copy: &CopyFacts| {
        let mut others = facts.models.iter().flat_map(|model| &model.copies);
        others.any(|other| other.node == copy.node && other.weights == copy.weights && !other.is_going)
    };
    gone.iter().filter(|copy| !stays(copy)).map(|copy| copy.size_bytes).sum()
}

#[test]
fn each_act_keeps_the_guards_on_what_the_acts_before_it_left() {
    let mut done: BTreeMap<Deed, usize> = BTreeMap::new();
    for seed in 0..SEEDS {
        let mut chance = Chance(seed);
        let (mut facts, rules) = (any_facts(&mut chance), any_rules(&mut chance));
        let mut plans = 0;
        loop {
            let acts = plan(&facts, &rules);
            assert_eq!(acts, plan(&facts, &rules), "seed {seed}: the same facts make the same plan");
            if acts.is_empty() {
                break;
            }
            for act in acts {
                judge(seed, &facts, &rules, &act);
                assert_eq!(act.frees_bytes, carry_out(&mut facts, &act), "seed {seed}: {act:?}");
                *done.entry(act.deed).or_default() += 1;
            }
            plans += 1;
            assert!(plans < PLANS_MAX, "seed {seed}: the rules come to no end");
        }
    }
    for deed in [Deed::Deprecate, Deed::Disable, Deed::Drop, Deed::Delete] {
        assert!(done.get(&deed).is_some_and(|count| *count > 50), "the worlds are about everything: {done:?}");
    }
}

#[test]
fn a_pinned_model_and_a_rule_without_a_condition_do_nothing() {
    for seed in 0..SEEDS {
        let mut chance = Chance(seed);
        let (mut facts, rules) = (any_facts(&mut chance), any_rules(&mut chance));
        let bare = |from: &Rule| rule(from.then);
        let without = Rules { on: true, rules: rules.rules.iter().map(bare).collect() };
        assert!(plan(&facts, &without).is_empty(), "seed {seed}");
        facts.models.iter_mut().for_each(|model| model.is_pinned = true);
        assert!(plan(&facts, &rules).is_empty(), "seed {seed}");
    }
}
