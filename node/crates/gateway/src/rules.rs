//! The rules for models as JSON: the setting `models/rules`, and the file that people write.
//!
//! What is read here is what the leader may act on, so a text is taken whole or not at all, and all that is wrong with
//! it is said at once. What is written reads back as itself. What a rule does is decided in `core`; what the nodes say
//! of themselves, against which it is held, is put together here, so that what is shown is what the leader does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use ollamax_core::catalog::{Fault, View, read as state};
use ollamax_core::health::Health;
use ollamax_core::retention::{Disk, PATTERN_BYTES_MAX, RULES_MAX, Rule, Rules, SiteFacts, Then};
use ollamax_scheduler::PeerLoad;
use ollamax_types::limits::SETTING_VALUE_BYTES_MAX;
use ollamax_types::{Beat, ModelName, NodeId, RuntimeState};

/// The setting that holds them.
pub const SETTING: &str = "models/rules";

/// Most days of a condition.
const DAYS_MAX: u32 = 36_500;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesText {
    #[serde(default)]
    on: bool,
    #[serde(default)]
    rules: Vec<RuleText>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    #[serde(rename = "match")]
    pattern: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unused_days: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    age_days: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    phase_days: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk_percent: Option<u32>,
    then: ThenText,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ThenText {
    Deprecate,
    Disable,
    DropCopy,
    Delete,
}

/// The rules in a text.
///
/// # Errors
/// All that is wrong with it, a line for each.
pub fn read(text: &[u8]) -> Result<Rules, Vec<String>> {
    if text.len() > SETTING_VALUE_BYTES_MAX {
        return Err(vec![format!("{} bytes are more than {SETTING_VALUE_BYTES_MAX}", text.len())]);
    }
    let read: RulesText = serde_json::from_slice(text).map_err(|error| vec![error.to_string()])?;
    let mut problems = Vec::new();
    if read.rules.len() > RULES_MAX {
        problems.push(format!("{} rules are more than {RULES_MAX}", read.rules.len()));
    }
    let rules: Vec<Rule> = read.rules.into_iter().map(RuleText::rule).collect();
    for (number, rule) in (1_usize..).zip(&rules) {
        problems.extend(problems_of(rule).into_iter().map(|problem| format!("rule {number}: {problem}")));
    }
    if problems.is_empty() { Ok(Rules { on: read.on, rules }) } else { Err(problems) }
}

/// The rules as a text for people and for the setting.
#[must_use]
pub fn write(rules: &Rules) -> String {
    let text = RulesText { on: rules.on, rules: rules.rules.iter().map(RuleText::of).collect() };
    serde_json::to_string_pretty(&text).expect("words and numbers are JSON")
}

/// The rules that are set; none, and off, where none are. A setting that an older release took and that is none of ours
/// is as if there were none, so that nothing is removed for it.
///
/// # Errors
/// When the state cannot be read.
pub fn of(view: &dyn View) -> Result<Rules, Fault> {
    let setting = state::setting(view, SETTING)?;
    Ok(setting.and_then(|setting| read(&setting.value).ok()).unwrap_or_default())
}

/// What the nodes say of themselves, for a plan: this one, and the others as they were heard. A model is loaded where
/// its weights are, under whatever name. A node whose runtime does not answer is as one that is not heard: nobody knows
/// what is loaded there.
///
/// # Errors
/// When the state cannot be read.
pub fn sites(view: &dyn View, own: &Beat, peers: &[PeerLoad]) -> Result<BTreeMap<NodeId, SiteFacts>, Fault> {
    let heard = peers.iter().map(|peer| (&*peer.beat, peer.health == Health::Alive));
    let beats: BTreeMap<NodeId, (&Beat, bool)> =
        std::iter::once((own, true)).chain(heard).map(|(beat, is_heard)| (beat.node, (beat, is_heard))).collect();
    let mut sites: BTreeMap<NodeId, SiteFacts> =
        beats.iter().map(|(node, (beat, is_heard))| (*node, site(beat, *is_heard))).collect();
    for location in state::locations(view)? {
        let (Some((beat, _)), Some(site)) = (beats.get(&location.node), sites.get_mut(&location.node)) else {
            continue;
        };
        if beat.resident.iter().any(|resident| resident.weights == location.model.weights) {
            site.loaded.insert(location.model.name.key());
        }
    }
    Ok(sites)
}

fn site(beat: &Beat, is_heard: bool) -> SiteFacts {
    let sizes = beat.models_total_bytes.zip(beat.models_free_bytes);
    SiteFacts {
        disk: sizes.map(|(total_bytes, free_bytes)| Disk { total_bytes, free_bytes }),
        is_heard: is_heard && beat.runtime_state == RuntimeState::Up,
        loaded: beat.resident.iter().map(|resident| resident.name.key()).collect(),
    }
}

fn problems_of(rule: &Rule) -> Vec<String> {
    let mut problems = Vec::new();
    problems.extend(pattern_problem(&rule.pattern));
    if !rule.has_condition() {
        let conditions = "unused_days, age_days, phase_days or disk_percent";
        problems.push(format!("it has no condition: {conditions}"));
    }
    let days = [("unused_days", rule.unused_days), ("age_days", rule.age_days), ("phase_days", rule.phase_days)];
    for (word, days) in days {
        if days.is_some_and(|days| days > DAYS_MAX) {
            problems.push(format!("{word} is at most {DAYS_MAX}"));
        }
    }
    if rule.disk_percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
        problems.push("disk_percent is between 1 and 100".to_owned());
    }
    if rule.phase_days.is_some() && rule.then == Then::Deprecate {
        problems.push("phase_days counts from when a model was deprecated or disabled: it cannot deprecate".to_owned());
    }
    problems
}

/// A pattern is a name, or has `*` in it and otherwise what names have.
fn pattern_problem(pattern: &str) -> Option<String> {
    let is_of_names = |c: char| c.is_ascii_alphanumeric() || "_-.:/*".contains(c);
    let is_pattern = pattern.contains('*') && pattern.chars().all(is_of_names);
    if pattern.len() > PATTERN_BYTES_MAX {
        Some(format!("a pattern has at most {PATTERN_BYTES_MAX} bytes"))
    } else if is_pattern || pattern.parse::<ModelName>().is_ok() {
        None
    } else {
        Some(format!("{pattern:?} is no name of a model and no pattern like llama*"))
    }
}

// === impl RuleText ===

impl RuleText {
    fn rule(self) -> Rule {
        let Self { pattern, unused_days, age_days, phase_days, disk_percent, then } = self;
        Rule { pattern, unused_days, age_days, phase_days, disk_percent, then: then.then() }
    }

    fn of(rule: &Rule) -> Self {
        Self {
            pattern: rule.pattern.clone(),
            unused_days: rule.unused_days,
            age_days: rule.age_days,
            phase_days: rule.phase_days,
            disk_percent: rule.disk_percent,
            then: ThenText::of(rule.then),
        }
    }
}

// === impl ThenText ===

impl ThenText {
    const fn then(self) -> Then {
        match self {
            Self::Deprecate => Then::Deprecate,
            Self::Disable => Then::Disable,
            Self::DropCopy => Then::DropCopy,
            Self::Delete => Then::Delete,
        }
    }

    const fn of(then: Then) -> Self {
        match then {
            Then::Deprecate => Self::Deprecate,
            Then::Disable => Self::Disable,
            Then::DropCopy => Self::DropCopy,
            Then::Delete => Self::Delete,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ollamax_core::catalog::mem::MemView;
    use ollamax_core::catalog::{Key, Location, Mutation, Record, Setting};
    use ollamax_types::{Digest, ModelRecord, Residency, Timestamp};

    use super::*;
    use crate::samples;

    const EXAMPLE: &str = r#"{
  "on": true,
  "rules": [
    {
      "match": "*",
      "unused_days": 60,
      "then": "deprecate"
    },
    {
      "match": "me/*:q4",
      "age_days": 30,
      "phase_days": 0,
      "disk_percent": 90,
      "then": "drop_copy"
    },
    {
      "match": "llama3.2",
      "phase_days": 30,
      "then": "disable"
    },
    {
      "match": "old*",
      "unused_days": 365,
      "then": "delete"
    }
  ]
}"#;

    #[test]
    fn rules_read_back_as_they_are_written() {
        let rules = read(EXAMPLE.as_bytes()).expect("rules");
        assert_eq!(write(&rules), EXAMPLE);
        let thens: Vec<Then> = rules.rules.iter().map(|rule| rule.then).collect();
        assert_eq!(thens, [Then::Deprecate, Then::DropCopy, Then::Disable, Then::Delete]);
        let second = &rules.rules[1];
        let conditions = (second.unused_days, second.age_days, second.phase_days, second.disk_percent);
        assert_eq!((second.pattern.as_str(), conditions), ("me/*:q4", (None, Some(30), Some(0), Some(90))));
        assert_eq!(read(b"{}"), Ok(Rules::default()));
        assert_eq!(read(write(&Rules::default()).as_bytes()), Ok(Rules::default()));
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let check = |rules: &str, expected: &[&str]| {
            let problems = read(format!(r#"{{"rules": [{rules}]}}"#).as_bytes()).expect_err("no rules");
            assert_eq!(problems, expected, "{rules}");
        };
        let no_condition = "it has no condition: unused_days, age_days, phase_days or disk_percent";
        check(r#"{"match": "*", "then": "delete"}"#, &[&format!("rule 1: {no_condition}")]);
        check(
            r#"{"match": "*", "age_days": 1, "then": "delete"}, {"match": "", "then": "disable"}"#,
            &["rule 2: \"\" is no name of a model and no pattern like llama*", &format!("rule 2: {no_condition}")],
        );
        check(
            r#"{"match": "a b*", "unused_days": 36501, "disk_percent": 0, "phase_days": 1, "then": "deprecate"}"#,
            &[
                "rule 1: \"a b*\" is no name of a model and no pattern like llama*",
                "rule 1: unused_days is at most 36500",
                "rule 1: disk_percent is between 1 and 100",
                "rule 1: phase_days counts from when a model was deprecated or disabled: it cannot deprecate",
            ],
        );
        let one = |pattern: &str| format!(r#"{{"match": "{pattern}", "disk_percent": 100, "then": "drop_copy"}}"#);
        check(&one(&"*".repeat(PATTERN_BYTES_MAX + 1)), &["rule 1: a pattern has at most 256 bytes"]);
        check(&vec![one("*"); RULES_MAX + 1].join(","), &["65 rules are more than 64"]);
        assert!(read(format!(r#"{{"rules": [{}]}}"#, vec![one("*"); RULES_MAX].join(",")).as_bytes()).is_ok());
    }

    #[test]
    fn a_word_that_is_not_known_is_refused() {
        for text in [
            "",
            r#"{"off": true}"#,
            r#"{"rules": [{"match": "*", "unused": 1, "then": "delete"}]}"#,
            r#"{"rules": [{"match": "*", "unused_days": 1, "then": "remove"}]}"#,
            r#"{"rules": [{"match": "*", "unused_days": -1, "then": "delete"}]}"#,
            r#"{"rules": [{"match": "*", "unused_days": 1}]}"#,
            r#"{"rules": [{"unused_days": 1, "then": "delete"}]}"#,
        ] {
            assert_eq!(read(text.as_bytes()).expect_err(text).len(), 1, "{text}");
        }
        let long = " ".repeat(SETTING_VALUE_BYTES_MAX) + "{}";
        assert_eq!(read(long.as_bytes()), Err(vec!["65538 bytes are more than 65536".to_owned()]));
    }

    #[test]
    fn a_model_is_loaded_where_its_weights_are_and_who_has_no_runtime_is_not_heard() {
        let named = |name: &str| name.parse::<ModelName>().expect("a name");
        let beat = |node: u64, total_bytes: Option<u64>| Beat {
            resident: vec![Residency {
                name: named("m"),
                digest: Digest([1; 32]),
                weights: Digest([7; 32]),
                size_bytes: 1,
                size_vram_bytes: 0,
                context_length: 0,
                expires_at: String::new(),
                details_json: String::new(),
            }],
            models_total_bytes: total_bytes,
            models_free_bytes: Some(10),
            ..samples::beat(node)
        };
        let mut view = MemView::default();
        for (node, name, weights) in [(1, "alias", 7), (1, "other", 8), (3, "alias", 7)] {
            let model = ModelRecord {
                name: named(name),
                digest: Digest([2; 32]),
                weights: Digest([weights; 32]),
                size_bytes: 1,
                modified_at: Timestamp(1),
                details_json: "{}".to_owned(),
                capabilities: Vec::new(),
            };
            let location = Location { node: NodeId(node), model };
            view.write(&[Mutation::Put(Key::Location(named(name).key(), NodeId(node)), Record::Location(location))]);
        }
        let down = |node| Beat { runtime_state: RuntimeState::Down("hung".to_owned()), ..beat(node, None) };
        let peer = |beat, health| PeerLoad { beat: Arc::new(beat), health, silent_ms: 9, clock_skew_ms: 0 };
        let peers =
            [peer(beat(2, None), Health::Dead), peer(down(4), Health::Alive), peer(beat(5, None), Health::Alive)];
        let found = sites(&view, &beat(1, Some(100)), &peers).expect("readable");
        let loaded = |names: &[&str]| names.iter().map(|name| named(name).key()).collect();
        let own = SiteFacts {
            disk: Some(Disk { total_bytes: 100, free_bytes: 10 }),
            is_heard: true,
            loaded: loaded(&["m", "alias"]),
        };
        let other = |is_heard| SiteFacts { disk: None, is_heard, loaded: loaded(&["m"]) };
        let others = [(2, false), (4, false), (5, true)].map(|(node, is_heard)| (NodeId(node), other(is_heard)));
        let expected: BTreeMap<_, _> = std::iter::once((NodeId(1), own)).chain(others).collect();
        assert_eq!(found, expected);
        let unknown = sites(&view, &down(1), &[]).expect("readable");
        assert!(!unknown[&NodeId(1)].is_heard, "not even this one");
    }

    #[test]
    fn what_is_set_and_is_no_rules_removes_nothing() {
        let check = |value: Option<&str>, expected: &Rules| {
            let mut view = MemView::default();
            let put = |value: &str| Record::Setting(Setting { value: value.as_bytes().to_vec(), revision: 1 });
            let puts = value.map(|value| Mutation::Put(Key::Setting(SETTING.to_owned()), put(value)));
            view.write(&Vec::from_iter(puts));
            assert_eq!(&of(&view).expect("readable"), expected, "{value:?}");
        };
        check(None, &Rules::default());
        check(Some("yes"), &Rules::default());
        check(Some(EXAMPLE), &read(EXAMPLE.as_bytes()).expect("rules"));
    }
}
