//! Plans, row by row: what a rule does, what holds it back, and in which order.

use super::*;
use crate::catalog::Since;

mod laws;
mod read;

/// Today, in days since 1970.
const TODAY: u32 = 1_000;

fn days_ago(days: u32) -> Timestamp {
    Timestamp(u64::from(TODAY - days) * DAY_MS)
}

fn digest(byte: u8) -> Digest {
    Digest([byte; 32])
}

fn since(days: u32) -> Since {
    Since { at: days_ago(days), by: "admin".to_owned(), note: String::new() }
}

fn copy(node: u64) -> CopyFacts {
    CopyFacts {
        node: NodeId(node),
        digest: digest(1),
        weights: digest(100),
        size_bytes: 10,
        is_going: false,
        belongs: true,
    }
}

/// Not used for 63 days, at its version for 80, known for 90; nobody asked for it, and nodes 1 to 3 have it.
fn model(name: &str) -> ModelFacts {
    ModelFacts {
        name: name.parse().expect("a name"),
        phase: Phase::Active,
        is_pinned: false,
        is_declared: false,
        is_under_way: false,
        wanted: None,
        digest: Some(digest(1)),
        copies: vec![copy(1), copy(2), copy(3)],
        used_on: TODAY - 63,
        noted_at: days_ago(90),
        version_at: days_ago(80),
    }
}

/// A node that is heard, with a disk of 100 bytes.
fn site(free_bytes: u64) -> SiteFacts {
    let disk = Some(Disk { total_bytes: 100, free_bytes });
    SiteFacts { disk, is_heard: true, loaded: BTreeSet::new() }
}

/// Nodes 1 to 3: the second has the fullest disk.
fn facts(models: Vec<ModelFacts>) -> Facts {
    let sites = [(1, site(50)), (2, site(7)), (3, site(20))];
    Facts { now: days_ago(0), models, sites: sites.map(|(node, site)| (NodeId(node), site)).into() }
}

fn rule(then: Then) -> Rule {
    let pattern = "*".to_owned();
    Rule { pattern, unused_days: None, age_days: None, phase_days: None, disk_percent: None, then }
}

fn unused(days: u32, then: Then) -> Rule {
    Rule { unused_days: Some(days), ..rule(then) }
}

fn full(percent: u32, then: Then) -> Rule {
    Rule { disk_percent: Some(percent), ..rule(then) }
}

fn rules(rules: &[Rule]) -> Rules {
    Rules { on: true, rules: rules.to_vec() }
}

/// The only act of a plan, as deed, node and reason.
fn only(facts: &Facts, rule: &Rule) -> Option<(Deed, Option<u64>, String)> {
    let acts = plan(facts, &rules(std::slice::from_ref(rule)));
    assert!(acts.len() <= 1, "{acts:?}");
    acts.into_iter().next().map(|act| (act.deed, act.node.map(|node| node.0), act.why))
}

#[test]
fn a_rule_acts_when_all_its_conditions_hold() {
    let check = |model: ModelFacts, rule: &Rule, expected: Option<(Deed, &str)>| {
        let found = only(&facts(vec![model]), rule).map(|(deed, _, why)| (deed, why));
        assert_eq!(found, expected.map(|(deed, why)| (deed, why.to_owned())), "{rule:?}");
    };
    let word = |why| Some((Deed::Deprecate, why));
    let (m, deprecate) = (|| model("m"), Then::Deprecate);
    check(m(), &rule(deprecate), None);
    check(m(), &unused(60, deprecate), word("not used for 63 days; rule 1 says 60"));
    check(m(), &unused(63, deprecate), word("not used for 63 days; rule 1 says 63"));
    check(m(), &unused(64, deprecate), None);
    let unknown = ModelFacts { used_on: 0, ..m() };
    check(unknown, &unused(64, deprecate), word("not used for 90 days; rule 1 says 64"));
    let both = |age| Rule { age_days: Some(age), ..unused(60, deprecate) };
    check(m(), &both(80), word("not used for 63 days, at this version for 80 days; rule 1 says 60, 80"));
    check(m(), &both(81), None);
    check(m(), &full(93, deprecate), word("the disk is 93 % full; rule 1 says 93"));
    check(m(), &full(94, deprecate), None);
    let old = |days| Rule { phase_days: Some(days), ..rule(Then::Disable) };
    let deprecated = || ModelFacts { phase: Phase::Deprecated(since(31)), ..m() };
    check(deprecated(), &old(31), Some((Deed::Disable, "deprecated for 31 days; rule 1 says 31")));
    check(deprecated(), &old(32), None);
    check(m(), &old(0), None);
    check(m(), &Rule { pattern: "n*".to_owned(), ..unused(60, deprecate) }, None);
}

#[test]
fn a_deed_is_done_once_and_step_by_step() {
    let check = |phase: Phase, then: Then, expected: Option<Deed>| {
        let found = only(&facts(vec![ModelFacts { phase: phase.clone(), ..model("m") }]), &unused(1, then));
        assert_eq!(found.map(|(deed, ..)| deed), expected, "{phase:?} {then:?}");
    };
    let (deprecated, disabled) = (Phase::Deprecated(since(1)), Phase::Disabled(since(1)));
    check(Phase::Active, Then::Deprecate, Some(Deed::Deprecate));
    check(Phase::Active, Then::Disable, Some(Deed::Disable));
    check(Phase::Active, Then::Delete, None);
    check(deprecated.clone(), Then::Deprecate, None);
    check(deprecated.clone(), Then::Disable, Some(Deed::Disable));
    check(deprecated, Then::Delete, None);
    check(disabled.clone(), Then::Deprecate, None);
    check(disabled.clone(), Then::Disable, None);
    check(disabled, Then::Delete, Some(Deed::Delete));
    for then in [Then::Deprecate, Then::Disable, Then::Delete] {
        check(Phase::Deleted(since(1)), then, None);
    }
}

/// A change of the facts that one row is about.
type Turn = fn(&mut Facts);

fn loaded(facts: &mut Facts, node: u64) {
    let key = facts.models[0].name.key();
    facts.sites.get_mut(&NodeId(node)).expect("a node").loaded.insert(key);
}

fn unheard(facts: &mut Facts, node: u64) {
    facts.sites.get_mut(&NodeId(node)).expect("a node").is_heard = false;
}

#[test]
fn a_copy_goes_only_where_the_others_are_enough() {
    let check = |what: &str, turn: Turn, expected: Option<u64>| {
        let mut facts = facts(vec![model("m")]);
        turn(&mut facts);
        let found = only(&facts, &unused(1, Then::DropCopy)).and_then(|(deed, node, _)| {
            assert_eq!(deed, Deed::Drop, "{what}");
            node
        });
        assert_eq!(found, expected, "{what}");
    };
    let nodes = |nodes: &[u64]| Some(Replicas::Nodes(nodes.iter().copied().map(NodeId).collect()));
    check("of the fullest disk", |_| {}, Some(2));
    check("not where it is loaded", |facts| loaded(facts, 2), Some(3));
    check("not where nobody is heard", |facts| unheard(facts, 2), Some(3));
    check("of another node than one that removes it", |facts| facts.models[0].copies[1].is_going = true, Some(3));
    check("not of a model that is pinned", |facts| facts.models[0].is_pinned = true, None);
    check("not of one that is under way", |facts| facts.models[0].is_under_way = true, None);
    check("not the last one", |facts| facts.models[0].copies.truncate(1), None);
    check("none", |facts| facts.models[0].copies.clear(), None);
    check("not the last one that is heard", |facts| (1..3).for_each(|node| unheard(facts, node)), None);
    check(
        "not the last one that stays",
        |facts| {
            facts.models[0].copies.iter_mut().take(2).for_each(|copy| copy.is_going = true);
        },
        None,
    );
    check("not the last one of its version", |facts| facts.models[0].copies[1].digest = digest(2), Some(3));
    check("one more than is wanted", |facts| facts.models[0].wanted = Some(Replicas::Count(2)), Some(2));
    check("not one that is wanted", |facts| facts.models[0].wanted = Some(Replicas::Count(3)), None);
    check("not of one that all shall have", |facts| facts.models[0].wanted = Some(Replicas::All), None);
    check(
        "another version does not count",
        |facts| {
            facts.models[0].wanted = Some(Replicas::Count(2));
            facts.models[0].copies[0].digest = digest(2);
        },
        None,
    );
    check(
        "nor does one that is not heard",
        |facts| {
            facts.models[0].wanted = Some(Replicas::Count(2));
            unheard(facts, 1);
        },
        None,
    );
    check(
        "what is wanted is not known",
        |facts| {
            facts.models[0].wanted = Some(Replicas::Count(1));
            facts.models[0].digest = None;
        },
        None,
    );
    check(
        "a declared one is kept to its number",
        |facts| {
            facts.models[0].is_declared = true;
            facts.models[0].wanted = Some(Replicas::Count(2));
        },
        Some(2),
    );
    for (wanted, expected) in [(nodes(&[2]), Some(3)), (nodes(&[1, 2]), Some(3)), (nodes(&[1, 2, 3]), None)] {
        let mut facts = facts(vec![model("m")]);
        facts.models[0].wanted.clone_from(&wanted);
        let found = only(&facts, &unused(1, Then::DropCopy)).and_then(|(_, node, _)| node);
        assert_eq!(found, expected, "{wanted:?}");
    }
}

#[test]
fn for_what_is_wanted_count_copies_that_belong_and_as_the_last_one_any_copy() {
    let check = |what: &str, wanted: Option<u32>, misplaced: &[usize], others: &[usize], expected: Option<u64>| {
        let mut model = ModelFacts { wanted: wanted.map(Replicas::Count), ..model("m") };
        misplaced.iter().for_each(|at| model.copies[*at].belongs = false);
        others.iter().for_each(|at| model.copies[*at].digest = digest(2));
        let found = only(&facts(vec![model]), &unused(1, Then::DropCopy)).and_then(|(_, node, _)| node);
        assert_eq!(found, expected, "{what}");
    };
    check("all belong: of the fullest disk", Some(2), &[], &[], Some(2));
    check("the one that does not makes up for none", Some(2), &[2], &[], Some(3));
    check("nor two of them", Some(1), &[0, 2], &[], Some(3));
    check("which go only behind enough that do", Some(2), &[0, 2], &[], None);
    check("and not all of them", Some(1), &[0, 1, 2], &[], None);
    check("without a wish each is as good", None, &[0, 1, 2], &[], Some(2));
    check("of another version another one is left, wherever", Some(1), &[1, 2], &[1, 2], Some(2));
    check("the last of a version stays, although it does not belong", Some(1), &[1], &[1], Some(3));
    check("and so it does where nothing else could go", Some(2), &[1], &[1], None);
}

#[test]
fn a_whole_model_goes_only_when_nobody_could_miss_it() {
    let check = |what: &str, turn: Turn, deletes: bool, disables: bool| {
        for (phase, then, expected) in
            [(Phase::Disabled(since(9)), Then::Delete, deletes), (Phase::Active, Then::Disable, disables)]
        {
            let mut facts = facts(vec![ModelFacts { phase, ..model("m") }]);
            turn(&mut facts);
            assert_eq!(only(&facts, &unused(1, then)).is_some(), expected, "{what}: {then:?}");
        }
    };
    check("as it is", |_| {}, true, true);
    check("asked for", |facts| facts.models[0].wanted = Some(Replicas::Count(3)), true, true);
    check("declared", |facts| facts.models[0].is_declared = true, false, false);
    check("pinned", |facts| facts.models[0].is_pinned = true, false, false);
    check("under way", |facts| facts.models[0].is_under_way = true, false, false);
    check("loaded somewhere", |facts| loaded(facts, 3), false, false);
    check("a holder is not heard", |facts| unheard(facts, 3), false, false);
    check("without a copy", |facts| facts.models[0].copies.clear(), false, true);
    check(
        "on its way out",
        |facts| {
            facts.models[0].copies.iter_mut().for_each(|copy| copy.is_going = true);
        },
        false,
        true,
    );
}

#[test]
fn copies_go_from_a_disk_until_it_is_below_its_watermark() {
    let own = |name: &str, weights: u8, used_on: u32| {
        let mut model = ModelFacts { used_on, ..model(name) };
        model.copies.iter_mut().for_each(|copy| copy.weights = digest(weights));
        model
    };
    let check = |models: Vec<ModelFacts>, percent: u32, expected: &[(&str, u64)]| {
        let acts = plan(&facts(models), &rules(&[full(percent, Then::DropCopy)]));
        let found: Vec<_> = acts.iter().map(|act| (act.name.to_string(), act.node.map_or(0, |node| node.0))).collect();
        let expected: Vec<_> = expected.iter().map(|(name, node)| (format!("{name}:latest"), *node)).collect();
        assert_eq!(found, expected, "{percent}");
        assert!(acts.iter().all(|act| act.frees_bytes == 10), "{acts:?}");
    };
    let three = || vec![own("a", 1, 30), own("b", 2, 10), own("c", 3, 20)];
    check(three(), 94, &[]);
    check(three(), 90, &[("b", 2)]);
    check(three(), 83, &[("b", 2), ("c", 2)]);
    check(three(), 74, &[("b", 2), ("c", 2), ("a", 3)]);
    // What was told to go counts as gone, whatever the disk says until then.
    let going = |models: &[usize]| {
        let mut all = three();
        models.iter().for_each(|model| all[*model].copies[1].is_going = true);
        all
    };
    check(going(&[1]), 90, &[]);
    check(going(&[1]), 83, &[("c", 2)]);
    check(going(&[1, 2]), 74, &[("b", 3)]);
    // So much goes once, and only where no model stays that uses the files.
    let both = |stays: bool| {
        let mut models = vec![own("a", 1, 30), own("b", 1, 10), own("c", 3, 20)];
        models.iter_mut().take(1 + usize::from(!stays)).for_each(|model| model.copies[1].is_going = true);
        models
    };
    check(both(false), 83, &[("c", 2)]);
    check(both(true), 90, &[("b", 2)]);
    // Files that another model of the node uses free nothing.
    check(vec![own("a", 1, 30), own("b", 1, 10)], 90, &[]);
    check(vec![own("a", 1, 30), own("b", 1, 10), own("c", 3, 20)], 90, &[("c", 2)]);
}

#[test]
fn what_is_freed_is_what_no_other_model_of_the_node_uses() {
    let freed = |models: Vec<ModelFacts>| -> Vec<u64> {
        let acts = plan(&facts(models), &rules(&[unused(1, Then::Delete)]));
        acts.iter().map(|act| act.frees_bytes).collect()
    };
    let disabled = |name: &str| ModelFacts { phase: Phase::Disabled(since(1)), ..model(name) };
    assert_eq!(freed(vec![disabled("a")]), [30]);
    assert_eq!(freed(vec![disabled("a"), model("b")]), [0]);
    // The second takes the files along.
    assert_eq!(freed(vec![disabled("a"), disabled("b")]), [0, 30]);
    let mut going = disabled("a");
    going.copies[0].is_going = true;
    assert_eq!(freed(vec![going]), [20]);
}

#[test]
fn the_first_rule_counts_and_who_was_unused_for_longest_comes_first() {
    let named = |name: &str, used_on: u32| ModelFacts { used_on, ..model(name) };
    let facts = facts(vec![named("a", TODAY - 9), named("b", TODAY - 20), named("c", TODAY - 3)]);
    let acts = plan(&facts, &rules(&[unused(15, Then::Disable), unused(5, Then::Deprecate), unused(9, Then::Disable)]));
    let found: Vec<_> = acts.iter().map(|act| (act.name.to_string(), act.deed, act.rule)).collect();
    let act = |name: &str, deed, rule| (format!("{name}:latest"), deed, rule);
    assert_eq!(found, [act("b", Deed::Disable, 1), act("a", Deed::Deprecate, 2)]);
}

#[test]
fn a_plan_and_its_rules_are_bounded() {
    let many: Vec<_> = (0..=ACTS_MAX).map(|number| model(&format!("m{number}"))).collect();
    let acts = plan(&facts(many), &rules(&[unused(1, Then::Deprecate)]));
    assert_eq!(acts.len(), ACTS_MAX);
    let mut more = vec![unused(64, Then::Deprecate); RULES_MAX];
    more.push(unused(1, Then::Deprecate));
    assert!(plan(&facts(vec![model("m")]), &rules(&more)).is_empty());
    assert!(plan(&facts(vec![model("m")]), &Rules::default()).is_empty());
}

#[test]
fn what_will_come_is_told_with_its_day() {
    let check = |rule: &Rule, expected: Option<&str>| {
        let facts = facts(vec![model("m")]);
        let coming = foretell(&facts, &rules(std::slice::from_ref(rule)), &facts.models[0].name);
        let text = coming.map(|coming| coming.text(&|node| format!("n{node}")));
        assert_eq!(text.as_deref(), expected, "{rule:?}");
    };
    check(&unused(66, Then::DropCopy), Some("rule 1 would remove the copy on n2 in 3 days"));
    check(&unused(64, Then::Disable), Some("rule 1 would disable it in 1 day"));
    check(&unused(63, Then::Deprecate), Some("rule 1 would deprecate it now"));
    check(&unused(9, Then::Delete), None);
    check(&unused(63 + DAYS_AHEAD_MAX, Then::Disable), Some("rule 1 would disable it in 366 days"));
    check(&unused(64 + DAYS_AHEAD_MAX, Then::Disable), None);
    let nobody = "other".parse().expect("a name");
    assert_eq!(foretell(&facts(vec![model("m")]), &rules(&[unused(1, Then::Disable)]), &nobody), None);
}

#[test]
fn an_act_is_one_change_of_the_state_and_never_insists() {
    let act = |deed, node: Option<u64>| {
        let (name, why) = ("m".parse().expect("a name"), "because".to_owned());
        Act { name, node: node.map(NodeId), deed, rule: 1, why, frees_bytes: 0 }
    };
    let name: ModelName = "m".parse().expect("a name");
    let phase = |phase| Command::SetPhase { name: name.clone(), phase, note: "because".to_owned() };
    let (force, unless_pinned) = (false, false);
    let drop = |nodes, forget| Command::DropCopies { name: name.clone(), nodes, forget, force, unless_pinned };
    assert_eq!(act(Deed::Deprecate, None).command(), phase(PhaseWord::Deprecated));
    assert_eq!(act(Deed::Disable, None).command(), phase(PhaseWord::Disabled));
    assert_eq!(act(Deed::Drop, Some(2)).command(), drop(vec![NodeId(2)], false));
    assert_eq!(act(Deed::Delete, None).command(), drop(vec![], true));
}
