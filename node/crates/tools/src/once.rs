//! What makes two calls one: the key that a caller sends, bound to who sends it and to what.
//!
//! Always: two callers, or two tools, never share a key; one key with the same arguments is the same call, however they
//! are written; with others it can be told that it is not.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use ollamax_types::TaskId;

use crate::principal::Principal;

/// The argument by which a caller says that it repeats a call.
pub const KEY: &str = "idempotency_key";
/// The argument by which a caller asks what would happen.
pub const DRY_RUN: &str = "dry_run";

/// The argument by which a caller says how soon a task is to be begun.
pub(crate) const PRIORITY: &str = "priority";

/// A call that has effect once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OnceKey {
    /// Which call, among those of all callers and tools.
    pub key: [u8; 32],
    /// Of its arguments.
    pub digest: [u8; 32],
}

// === impl OnceKey ===

impl OnceKey {
    /// That of a call; `None` where its caller sent no key.
    #[must_use]
    pub fn of(principal: &Principal, tool: &str, arguments: &Value) -> Option<Self> {
        let sent = arguments.get(KEY)?.as_str()?;
        let subject = principal.subject().to_string();
        let mut key = blake3::Hasher::new();
        for part in [subject.as_str(), tool, sent] {
            // With its length before it, no part can go on in the next one.
            key.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            key.update(part.as_bytes());
        }
        Some(Self { key: *key.finalize().as_bytes(), digest: of_canonical(arguments) })
    }

    /// The id of the task that comes of it: the same for the same call, whoever asks which node; nobody who does not
    /// know the key can guess it.
    #[must_use]
    pub fn task(&self) -> TaskId {
        let mut bytes = [0; 16];
        for half in self.key.chunks_exact(16).chain(self.digest.chunks_exact(16)) {
            for (byte, part) in bytes.iter_mut().zip(half) {
                *byte ^= part;
            }
        }
        TaskId(bytes)
    }

    /// That of a call to which somebody agreed in an earlier round: whoever comes with the same round again makes the
    /// same call. `round` is what nobody can guess, and no other round has.
    #[must_use]
    pub fn of_round(round: &str, arguments: &Value) -> Self {
        let key = blake3::Hasher::new_derive_key("ollamax, a round of a call").update(round.as_bytes()).finalize();
        Self { key: *key.as_bytes(), digest: of_canonical(arguments) }
    }

    /// That of a step of a task's work, since the task was begun in this attempt. What a task was given never changes,
    /// so there is nothing beside the key to compare.
    pub(crate) fn of_step(task: TaskId, begun: u32, step: &str) -> Self {
        let mut key = blake3::Hasher::new_derive_key("ollamax, a step of a task");
        key.update(&task.0).update(&begun.to_le_bytes()).update(step.as_bytes());
        let key = *key.finalize().as_bytes();
        Self { key, digest: key }
    }
}

/// Of the arguments as they were sent, but for the order of names.
#[must_use]
pub fn digest_of(arguments: &Value) -> [u8; 32] {
    *blake3::hash(sorted(arguments).to_string().as_bytes()).as_bytes()
}

fn of_canonical(arguments: &Value) -> [u8; 32] {
    *blake3::hash(canonical(arguments).to_string().as_bytes()).as_bytes()
}

/// The arguments as they are compared and kept: what is not said is left out, and so is what asks for no more than one
/// effect, or for none; names are in order.
pub(crate) fn canonical(arguments: &Value) -> Value {
    let Value::Object(fields) = arguments else { return arguments.clone() };
    let said =
        fields.iter().filter(|(name, value)| !value.is_null() && name.as_str() != KEY && name.as_str() != DRY_RUN);
    let said: Map<String, Value> = said.map(|(name, value)| (name.clone(), value.clone())).collect();
    sorted(&Value::Object(said))
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let ordered: BTreeMap<&String, &Value> = fields.iter().collect();
            Value::Object(ordered.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(arguments: &Value) -> OnceKey {
        OnceKey::of(&Principal::of_socket(1), "pull", arguments).expect("a key was sent")
    }

    #[test]
    fn the_same_call_is_the_same_however_it_is_written() {
        let first = of(&json!({"name": "m", "at": {"a": 1, "b": [{"c": 2, "d": 3}]}, "idempotency_key": "k"}));
        for again in [
            json!({"idempotency_key": "k", "at": {"b": [{"d": 3, "c": 2}], "a": 1}, "name": "m"}),
            json!({"idempotency_key": "k", "at": {"b": [{"d": 3, "c": 2}], "a": 1}, "name": "m", "nodes": null}),
            json!({"idempotency_key": "k", "at": {"a": 1, "b": [{"c": 2, "d": 3}]}, "name": "m", "dry_run": false}),
        ] {
            assert_eq!(of(&again), first, "{again}");
        }
        for other in [
            json!({"idempotency_key": "k", "name": "n", "at": {"a": 1, "b": [{"c": 2, "d": 3}]}}),
            json!({"idempotency_key": "k", "name": "m", "at": {"a": 1, "b": [{"c": 3, "d": 2}]}}),
            json!({"idempotency_key": "k", "name": "m"}),
        ] {
            let found = of(&other);
            assert!(found.key == first.key && found.digest != first.digest, "{other}");
        }
    }

    #[test]
    fn a_round_is_one_call_and_no_callers_key_is_a_round() {
        let arguments = json!({"name": "m"});
        let first = OnceKey::of_round("r", &arguments);
        assert_eq!(OnceKey::of_round("r", &json!({"name": "m", "dry_run": false})), first);
        assert_ne!(OnceKey::of_round("s", &arguments).key, first.key);
        let other = OnceKey::of_round("r", &json!({"name": "n"}));
        assert!(other.key == first.key && other.digest != first.digest);
        assert_ne!(of(&json!({"name": "m", "idempotency_key": "r"})).key, first.key);
    }

    #[test]
    fn one_call_with_a_key_is_one_task_and_another_call_another() {
        let id = |key: u8, digest: u8| {
            let mut once = OnceKey { key: [0; 32], digest: [0; 32] };
            (once.key[0], once.digest[17]) = (key, digest);
            once.task()
        };
        assert_eq!(id(1, 2), id(1, 2));
        for other in [id(1, 3), id(3, 2), id(2, 1)] {
            assert_ne!(id(1, 2), other);
        }
    }

    #[test]
    fn a_step_of_a_task_is_one_in_all_attempts_and_another_when_it_is_begun_anew() {
        let (task, other) = (TaskId([1; 16]), TaskId([2; 16]));
        let first = OnceKey::of_step(task, 1, "pull");
        assert_eq!(OnceKey::of_step(task, 1, "pull"), first);
        for key in [
            OnceKey::of_step(task, 3, "pull"),
            OnceKey::of_step(task, 1, "delete"),
            OnceKey::of_step(other, 1, "pull"),
            of(&json!({"name": "m", "idempotency_key": "pull"})),
            OnceKey::of_round("pull", &json!({})),
        ] {
            assert_ne!(key.key, first.key);
        }
    }

    #[test]
    fn a_digest_minds_all_that_was_sent_and_not_its_order() {
        let first = digest_of(&json!({"a": 1, "b": {"c": 2, "d": 3}}));
        assert_eq!(digest_of(&json!({"b": {"d": 3, "c": 2}, "a": 1})), first);
        for other in [
            json!({"a": 1, "b": {"c": 2, "d": 4}}),
            json!({"a": 1, "b": {"c": 2, "d": 3}, "idempotency_key": "k"}),
            json!({"a": 1, "b": {"c": 2, "d": 3}, "dry_run": false}),
        ] {
            assert_ne!(digest_of(&other), first, "{other}");
        }
    }

    #[test]
    fn callers_tools_and_keys_do_not_meet() {
        let key = |uid, tool, key: &str| {
            let arguments = json!({"idempotency_key": key});
            OnceKey::of(&Principal::of_socket(uid), tool, &arguments).expect("a key was sent").key
        };
        let first = key(1, "pull", "k");
        for other in
            [key(2, "pull", "k"), key(1, "pin", "k"), key(1, "pull", "l"), key(1, "pul", "lk"), key(11, "pull", "k")]
        {
            assert_ne!(first, other);
        }
        let nobody = Principal::loopback();
        for arguments in [json!({}), json!({"idempotency_key": null}), json!({"idempotency_key": 1}), json!(["k"])] {
            assert_eq!(OnceKey::of(&nobody, "pull", &arguments), None, "{arguments}");
        }
    }
}
