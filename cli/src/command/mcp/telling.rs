//! What the assistant hears of a request while it is answered, and at the end: in the assistant's own words for it,
//! whichever node tells it and under which id it was asked.
//!
//! Always: progress never goes back, also where a second node begins again; a subscription is acknowledged once, and
//! where it was opened again its assistant hears that something may have changed meanwhile; of a task that was taken
//! and that nobody tells of any more it hears so, and nothing of one that it heard to be over.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::era::{Era, of_handshake};

const SUBSCRIPTION_KEY: &str = "io.modelcontextprotocol/subscriptionId";
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";
/// What is heard of a task.
const OF_TASK: &str = "notifications/tasks";
/// Where an acknowledgement names the tasks that were taken.
const TASK_IDS: &str = "taskIds";
/// How a task stands behind which nothing comes.
const OVER: [&str; 3] = ["completed", "failed", "cancelled"];
/// What is told of a task that no node tells of.
const UNHEARD: &str = "this is how it stood when it was last heard of: no node that answers now tells you of this \
                       task; you hear how it stands when one does";
/// What a subscription may be to, and what is heard of it.
const CHANGES: [(&str, &str); 3] = [
    ("toolsListChanged", "notifications/tools/list_changed"),
    ("promptsListChanged", "notifications/prompts/list_changed"),
    ("resourcesListChanged", "notifications/resources/list_changed"),
];

/// A message on its way to the assistant.
#[derive(Debug)]
pub(crate) struct Told {
    /// Of the work that it belongs to.
    pub(crate) work: u64,
    pub(crate) message: Value,
    /// Nothing comes of this work behind it.
    pub(crate) is_last: bool,
}

/// The way of one work's messages.
#[derive(Debug, Clone)]
pub(crate) struct Out {
    pub(crate) work: u64,
    pub(crate) told: mpsc::Sender<Told>,
}

/// How a request is told of.
#[derive(Debug)]
pub(crate) struct Telling {
    words: Words,
    /// Nobody hears of what this process asks for itself.
    out: Option<Out>,
}

/// The assistant's words for a request, and what it has heard of it.
#[derive(Debug)]
struct Words {
    id: Value,
    era: Era,
    progress: Option<f64>,
    acknowledged: u64,
    /// The tasks that a subscription was taken for, by id.
    tasks: BTreeMap<String, Heard>,
}

/// What the assistant heard of a task.
#[derive(Debug, Default)]
struct Heard {
    last: Option<Value>,
    is_over: bool,
    /// That nobody tells of it was told.
    is_unheard: bool,
}

// === impl Telling ===

impl Telling {
    pub(crate) fn new(id: Value, era: Era, out: Out) -> Self {
        Self { words: Words::new(id, era), out: Some(out) }
    }

    /// For what this process asks for itself.
    pub(crate) fn nobody() -> Self {
        Self { words: Words::new(Value::Null, Era::Modern), out: None }
    }

    /// How many nodes have taken the subscription, one after the other.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.words.acknowledged
    }

    /// Hands on a notification. Where it is dropped before there is room for it, it is as if it had not come.
    pub(crate) async fn note(&mut self, note: Value) {
        let Some(Out { work, told }) = &self.out else { return };
        let mut room = told.reserve().await.ok();
        for message in self.words.of_note(note) {
            let message = Told { work: *work, message, is_last: false };
            match room.take() {
                Some(room) => room.send(message),
                // Where nobody takes it, the whole bridge ends.
                None => drop(told.send(message).await),
            }
        }
    }

    /// Tells that nobody tells of anything now.
    pub(crate) async fn nobody_tells(&mut self) {
        for message in self.words.of_silence(&BTreeSet::new()) {
            self.send(message, false).await;
        }
    }

    /// Hands on the last word.
    pub(crate) async fn last(self, answer: Value) {
        let message = self.words.of_answer(answer);
        self.send(message, true).await;
    }

    async fn send(&self, message: Value, is_last: bool) {
        if let Some(Out { work, told }) = &self.out {
            // Where nobody takes it, the whole bridge ends.
            drop(told.send(Told { work: *work, message, is_last }).await);
        }
    }
}

// === impl Words ===

impl Words {
    fn new(id: Value, era: Era) -> Self {
        Self { id, era, progress: None, acknowledged: 0, tasks: BTreeMap::new() }
    }

    /// What the assistant hears of a notification.
    fn of_note(&mut self, mut note: Value) -> Vec<Value> {
        if let Some(params) = note.get_mut("params") {
            self.name_subscription(params);
        }
        let method = note["method"].as_str().unwrap_or_default().to_owned();
        match method.as_str() {
            "notifications/progress" => {
                let progress = note["params"]["progress"].as_f64();
                if progress.is_none() || progress <= self.progress {
                    return Vec::new();
                }
                self.progress = progress;
                vec![note]
            }
            // The one that a node may end is the one that it was asked for.
            "notifications/cancelled" => {
                if let Some(params) = note.get_mut("params").and_then(Value::as_object_mut) {
                    params.insert("requestId".to_owned(), self.id.clone());
                }
                vec![note]
            }
            ACKNOWLEDGED => self.of_acknowledgement(note),
            OF_TASK => self.of_task(note),
            _ => vec![note],
        }
    }

    /// What the assistant hears of it that a node took a subscription: the first time, what it took; then, what may
    /// have been missed and what this node does not tell of.
    fn of_acknowledgement(&mut self, note: Value) -> Vec<Value> {
        let granted = &note["params"]["notifications"];
        let taken: BTreeSet<&str> =
            granted[TASK_IDS].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut told = self.of_silence(&taken);
        for id in taken {
            self.tasks.entry(id.to_owned()).or_default().is_unheard = false;
        }
        self.acknowledged = self.acknowledged.saturating_add(1);
        if self.acknowledged == 1 {
            return vec![note];
        }
        told.extend(missed(granted, &self.id));
        told
    }

    fn of_task(&mut self, note: Value) -> Vec<Value> {
        let params = &note["params"];
        let Some(heard) = params["taskId"].as_str().and_then(|id| self.tasks.get_mut(id)) else { return vec![note] };
        // A node that takes the subscription over tells of all its tasks.
        if heard.is_over {
            return Vec::new();
        }
        heard.is_over = params["status"].as_str().is_some_and(|status| OVER.contains(&status));
        heard.last = Some(note.clone());
        vec![note]
    }

    /// How the tasks stood that go on and that are told of no more, once for each. Of one that nothing was heard of yet
    /// there is nothing to tell.
    fn of_silence(&mut self, taken: &BTreeSet<&str>) -> Vec<Value> {
        let unheard = self.tasks.iter_mut().filter(|(id, heard)| !heard.is_over && !taken.contains(id.as_str()));
        let once = unheard.filter_map(|(_, heard)| (!std::mem::replace(&mut heard.is_unheard, true)).then_some(heard));
        let last = once.filter_map(|heard| heard.last.clone());
        last.map(|mut note| {
            note["params"]["statusMessage"] = UNHEARD.into();
            note
        })
        .collect()
    }

    fn of_answer(&self, mut answer: Value) -> Value {
        answer["id"] = self.id.clone();
        if let Some(result) = answer.get_mut("result") {
            self.name_subscription(result);
        }
        if self.era == Era::Handshake { of_handshake(answer) } else { answer }
    }

    /// A subscription is called by the id of the request for it.
    fn name_subscription(&self, told: &mut Value) {
        let meta = told.get_mut("_meta").and_then(Value::as_object_mut);
        if let Some(named) = meta.and_then(|meta| meta.get_mut(SUBSCRIPTION_KEY)) {
            named.clone_from(&self.id);
        }
    }
}

/// What may have been missed between two nodes, by what was subscribed to.
fn missed(granted: &Value, id: &Value) -> Vec<Value> {
    let note = |method: &str, uri: Option<&Value>| {
        let mut note = json!({"jsonrpc": "2.0", "method": method, "params": {"_meta": {SUBSCRIPTION_KEY: id}}});
        if let Some(uri) = uri {
            note["params"]["uri"] = uri.clone();
        }
        note
    };
    let lists =
        CHANGES.iter().filter(|(key, _)| granted[*key].as_bool() == Some(true)).map(|(_, method)| note(method, None));
    let resources = granted["resourceSubscriptions"].as_array().into_iter().flatten();
    lists.chain(resources.map(|uri| note("notifications/resources/updated", Some(uri)))).collect()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn progress(value: &Value) -> Value {
        let params = json!({"progressToken": "p", "progress": value});
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
    }

    #[test]
    fn progress_never_goes_back() {
        let mut words = Words::new(json!(7), Era::Handshake);
        let mut check = |value: Value, is_told: bool| {
            let note = progress(&value);
            let expected = if is_told { vec![note.clone()] } else { Vec::new() };
            assert_eq!(words.of_note(note), expected, "{value}");
        };
        check(json!(0), true);
        check(json!(0), false);
        check(json!(2.5), true);
        check(json!(1), false);
        check(json!("3"), false);
        check(json!(3), true);
    }

    #[test]
    fn a_subscription_is_acknowledged_once_and_what_was_missed_is_told() {
        let mut words = Words::new(json!("s"), Era::Modern);
        let granted = json!({"toolsListChanged": true, "promptsListChanged": false, "resourceSubscriptions": ["a:b"]});
        let acknowledged = |id: Value| {
            let params = json!({"_meta": {SUBSCRIPTION_KEY: id}, "notifications": granted.clone()});
            json!({"jsonrpc": "2.0", "method": ACKNOWLEDGED, "params": params})
        };
        assert_eq!(words.of_note(acknowledged(json!(41))), [acknowledged(json!("s"))]);
        let meta = json!({SUBSCRIPTION_KEY: "s"});
        let expected = [
            json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {"_meta": meta}}),
            json!({
                "jsonrpc": "2.0",
                "method": "notifications/resources/updated",
                "params": {"_meta": meta, "uri": "a:b"},
            }),
        ];
        assert_eq!(words.of_note(acknowledged(json!(42))), expected);
        let ended = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 42}});
        assert_eq!(words.of_note(ended)[0]["params"]["requestId"], "s");
        let note = json!({"jsonrpc": "2.0", "method": "notifications/message"});
        assert_eq!(words.of_note(note)[0]["method"], "notifications/message");
    }

    #[test]
    fn of_tasks_that_nobody_tells_of_the_assistant_hears_so_once_and_nothing_behind_an_end() {
        let mut words = Words::new(json!("s"), Era::Modern);
        let acknowledged = |ids: &[&str]| {
            let params = json!({"notifications": {TASK_IDS: ids}});
            json!({"jsonrpc": "2.0", "method": ACKNOWLEDGED, "params": params})
        };
        let task = |id: &str, status: &str, text: &str| {
            let params = json!({"taskId": id, "status": status, "statusMessage": text});
            json!({"jsonrpc": "2.0", "method": OF_TASK, "params": params})
        };
        let nobody = BTreeSet::new();
        let all = ["asks", "ends", "new", "runs"];
        assert_eq!(words.of_note(acknowledged(&all)), [acknowledged(&all)]);
        for (id, status) in [("asks", "input_required"), ("ends", "completed"), ("runs", "working")] {
            assert_eq!(words.of_note(task(id, status, "as told")), [task(id, status, "as told")]);
        }
        // Another node takes one of them.
        assert_eq!(words.of_note(acknowledged(&["asks"])), [task("runs", "working", UNHEARD)]);
        assert_eq!(words.of_note(acknowledged(&["asks"])), [] as [Value; 0]);
        // Then there is none, and then the first one is back.
        assert_eq!(words.of_silence(&nobody), [task("asks", "input_required", UNHEARD)]);
        assert_eq!(words.of_silence(&nobody), [] as [Value; 0]);
        assert_eq!(words.of_note(acknowledged(&all)), [] as [Value; 0]);
        assert_eq!(words.of_note(task("ends", "completed", "as told")), [] as [Value; 0]);
        assert_eq!(words.of_note(task("runs", "cancelled", "")), [task("runs", "cancelled", "")]);
        // It was told of in between, so it is told of anew.
        assert_eq!(words.of_silence(&nobody), [task("asks", "input_required", UNHEARD)]);
        // What was not subscribed to is handed on as it is.
        assert_eq!(words.of_note(task("other", "completed", "")), [task("other", "completed", "")]);
    }

    #[tokio::test]
    async fn what_there_was_no_room_for_is_not_taken_for_told() {
        let (told, mut coming) = mpsc::channel(1);
        let mut telling = Telling::new(json!("s"), Era::Modern, Out { work: 1, told });
        let granted = json!({"notifications": {TASK_IDS: ["a"]}});
        telling.note(json!({"jsonrpc": "2.0", "method": ACKNOWLEDGED, "params": granted})).await;
        let ended = json!({"jsonrpc": "2.0", "method": OF_TASK, "params": {"taskId": "a", "status": "completed"}});
        // The assistant reads nothing, and who tells it is left meanwhile.
        assert!(telling.note(ended.clone()).now_or_never().is_none());
        assert!(coming.try_recv().is_ok_and(|told| told.message["method"] == ACKNOWLEDGED));
        telling.note(ended.clone()).await;
        assert_eq!(coming.try_recv().map(|told| told.message), Ok(ended));
    }

    #[test]
    fn an_answer_has_the_assistants_id_and_its_eras_words() {
        let answer = json!({"id": 41, "result": {"resultType": "complete", "_meta": {SUBSCRIPTION_KEY: 41}}});
        let check = |era: Era, expected: Value| {
            assert_eq!(Words::new(json!("s"), era).of_answer(answer.clone()), expected);
        };
        let meta = json!({SUBSCRIPTION_KEY: "s"});
        check(Era::Modern, json!({"id": "s", "result": {"resultType": "complete", "_meta": meta}}));
        check(Era::Handshake, json!({"id": "s", "result": {"_meta": meta}}));
        let error = json!({"id": null, "error": {"code": 1}});
        assert_eq!(Words::new(json!(7), Era::Modern).of_answer(error), json!({"id": 7, "error": {"code": 1}}));
    }
}
