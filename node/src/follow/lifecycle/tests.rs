//! Which act comes next, over a state in memory.

use ollamax_core::catalog::mem::MemView;
use ollamax_core::catalog::{Key, Location, Model, Mutation, Record, Setting};
use ollamax_types::ModelRecord;

use super::*;

const DAY_MS: u64 = 24 * 3_600_000;
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
            weights: Digest([2; 32]),
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

fn heard() -> BTreeMap<NodeId, SiteFacts> {
    let site = || SiteFacts { is_heard: true, ..SiteFacts::default() };
    BTreeMap::from([1, 2].map(|node| (NodeId(node), site())))
}

#[test]
fn rules_that_are_off_remove_nothing_and_one_that_was_refused_stands_in_no_others_way() {
    let rule = r#""rules":[{"match":"*","unused_days":60,"then":"drop_copy"}]"#;
    let act = |rows: &[Mutation], refused: &[&str]| {
        let mut view = MemView::default();
        view.write(&[idle("a"), idle("b")].concat());
        view.write(rows);
        let refused: BTreeSet<ModelName> = refused.iter().map(|text| name(text)).collect();
        next_act(&view, NOW, heard(), &refused).expect("readable").map(|act| act.name.to_string())
    };
    assert_eq!(act(&[], &[]), None, "there are none");
    assert_eq!(act(&[set(&format!("{{{rule}}}"))], &[]), None, "they are off until somebody turns them on");
    assert_eq!(act(&[set(&format!(r#"{{"on":false,{rule}}}"#))], &[]), None);
    let on = set(&format!(r#"{{"on":true,{rule}}}"#));
    assert_eq!(act(std::slice::from_ref(&on), &[]).as_deref(), Some("a:latest"));
    assert_eq!(act(std::slice::from_ref(&on), &["a"]).as_deref(), Some("b:latest"));
    assert_eq!(act(std::slice::from_ref(&on), &["a", "b"]), None);
}
