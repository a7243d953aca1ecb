//! Which act comes next, over a state in memory.

use ollamax_core::catalog::mem::MemView;
use ollamax_core::catalog::{
    CLUSTER_VERSION, Cluster, Counts, Entry, Key, Location, Model, Mutation, NAMES_VERSION, Record, Setting,
};
use ollamax_core::retention::Disk;
use ollamax_types::{ClusterId, DAY_MS, ModelRecord, RequestId};

use super::*;

const NOW: Timestamp = Timestamp(100 * DAY_MS);

fn name(text: &str) -> ModelName {
    text.parse().expect("a name")
}

/// Held by two nodes, and not used for a long time.
fn idle(text: &str) -> Vec<Mutation> {
    let model = Model { used_on: 10, ..Model::new(name(text), Timestamp(DAY_MS)) };
    let mut rows = vec![Mutation::Put(Key::Model(name(text).key()), Record::Model(Box::new(model)))];
    for node in [1, 2].map(NodeId) {
        let model = ModelRecord {
            name: name(text),
            digest: Digest([1; 32]),
            weights: Digest([text.as_bytes()[0]; 32]),
            size_bytes: 7,
            modified_at: Timestamp(1),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        };
        let location = Location { node, model };
        rows.push(Mutation::Put(Key::Location(name(text).key(), node), Record::Location(location.clone())));
        rows.push(Mutation::Put(Key::NodeModel(node, name(text).key()), Record::Location(location)));
    }
    rows
}

fn set(text: &str) -> Mutation {
    let setting = Setting { value: text.as_bytes().to_vec(), revision: 1 };
    Mutation::Put(Key::Setting(rules::SETTING.to_owned()), Record::Setting(setting))
}

fn heard(free_bytes: u64) -> BTreeMap<NodeId, SiteFacts> {
    let disk = |free_bytes| Some(Disk { total_bytes: 100, free_bytes });
    let site = |free_bytes| SiteFacts { disk: disk(free_bytes), is_heard: true, ..SiteFacts::default() };
    BTreeMap::from([(NodeId(1), site(50)), (NodeId(2), site(free_bytes))])
}

#[test]
fn rules_that_are_off_remove_nothing_and_a_look_takes_each_model_once() {
    let rule = r#""rules":[{"match":"*","unused_days":60,"then":"drop_copy"}]"#;
    let planned = |rows: &[Mutation]| {
        let mut view = MemView::default();
        view.write(&[idle("a"), idle("b")].concat());
        view.write(rows);
        plan_now(&view, NOW, heard(50)).expect("readable")
    };
    assert_eq!(planned(&[]), [], "there are none");
    assert_eq!(planned(&[set(&format!("{{{rule}}}"))]), [], "they are off until somebody turns them on");
    assert_eq!(planned(&[set(&format!(r#"{{"on":false,{rule}}}"#))]), []);
    let acts = planned(&[set(&format!(r#"{{"on":true,{rule}}}"#))]);
    let mut open = BTreeSet::from([name("a"), name("b"), name("c")]);
    for expected in [Some("a:latest"), Some("b:latest"), None] {
        let next = next_act(acts.clone(), &mut open).map(|act| act.name.to_string());
        assert_eq!(next.as_deref(), expected);
    }
    assert_eq!(next_act(acts, &mut BTreeSet::new()), None, "the plan was about others");
}

fn cluster(version: u32) -> Mutation {
    let cluster = Cluster {
        id: ClusterId([1; 16]),
        name: "lab".to_owned(),
        public_key: [3; 32],
        created_at: Timestamp(1),
        next_node_id: 3,
        version,
    };
    Mutation::Put(Key::Cluster, Record::Cluster(cluster))
}

fn entry(command: Command) -> Entry {
    Entry {
        least_version: 1,
        log_time: NOW,
        request: RequestId::default(),
        principal: PRINCIPAL.to_owned(),
        namespace: String::new(),
        session: None,
        fence_term: None,
        once: None,
        command,
    }
}

#[test]
fn a_name_that_comes_back_behind_the_plan_stays_and_the_others_go() {
    let gone = |text: &str| {
        let model = Model { unheld_since: Some(Timestamp(60 * DAY_MS)), ..Model::new(name(text), Timestamp(DAY_MS)) };
        Mutation::Put(Key::Model(name(text).key()), Record::Model(Box::new(model)))
    };
    let counts = Counts { models: 3, ..Counts::default() };
    let rows = |version| {
        let counted = Mutation::Put(Key::Counts, Record::Counts(counts));
        [idle("held"), vec![cluster(version), gone("a"), gone("b"), counted]].concat()
    };
    let mut view = MemView::default();
    view.write(&rows(NAMES_VERSION - 1));
    assert_eq!(names_now(&view, NOW).expect("readable").commands(), [], "it forgets no names yet");
    view.write(&rows(NAMES_VERSION));
    let plan = names_now(&view, NOW).expect("readable");
    assert_eq!(plan.going.iter().map(|old| old.name.clone()).collect::<Vec<_>>(), [name("a"), name("b")]);
    // Somebody has it again before the leader's change is on record.
    view.write(&idle("b"));
    view.write(&[gone("b")]);
    for command in plan.commands() {
        assert_eq!(view.apply(2, 1, &entry(command)).expect("applies"), Answer::Done);
    }
    let left: Vec<ModelName> = read::models(&view).expect("readable").into_iter().map(|model| model.name).collect();
    assert_eq!(left, [name("b"), name("held")]);
    assert_eq!(read::counts(&view), Ok(Counts { models: 2, ..counts }));
    assert_eq!(names_now(&view, NOW).expect("readable").commands(), [], "what is held is left alone");
}

#[test]
fn a_copy_that_was_told_to_go_makes_room_although_its_disk_does_not_say_so_yet() {
    let mut view = MemView::default();
    view.write(&[cluster(CLUSTER_VERSION)]);
    view.write(&[idle("a"), idle("b")].concat());
    view.write(&[set(r#"{"on":true,"rules":[{"match":"*","disk_percent":90,"then":"drop_copy"}]}"#)]);
    let planned = |view: &MemView| plan_now(view, NOW, heard(5)).expect("readable");
    let shown = planned(&view);
    assert_eq!(
        shown.iter().map(|act| (act.name.clone(), act.node)).collect::<Vec<_>>(),
        [(name("a"), Some(NodeId(2)))]
    );
    assert_eq!(view.apply(2, 1, &entry(shown[0].command())).expect("applies"), Answer::Done);
    assert_eq!(planned(&view), [], "the disk is as full as before, and one copy was enough");
}

#[tokio::test(start_paused = true)]
async fn a_leader_lets_nodes_be_heard_before_it_looks_and_looks_again_after_a_while_or_by_other_rules() {
    let mut watch = Watch::begun(1);
    let (some, others) = (Rules::default(), Rules { on: true, ..Rules::default() });
    for (wait, rules, expected) in [
        (Duration::ZERO, &some, false),
        (HEAR_TIMEOUT - ASK_INTERVAL, &some, false),
        (ASK_INTERVAL, &some, true),
        (ASK_INTERVAL, &some, false),
        (ASK_INTERVAL, &others, true),
        (LOOK_INTERVAL - ASK_INTERVAL, &others, false),
        (ASK_INTERVAL, &others, true),
    ] {
        tokio::time::advance(wait).await;
        assert_eq!(watch.is_due(rules.clone()), expected, "{wait:?} later");
    }
}
