//! The state in memory: the second form of [`View`], for tests and simulations.
//!
//! Records lie in key order, as `store` keeps them. Nothing here fails except by a [`Fault`] of `apply` itself.

use std::collections::BTreeMap;
use std::ops::Bound;

use ollamax_types::{Digest, NodeId, TaskId, Timestamp, TokenId};

use super::command::{Answer, Entry};
use super::record::{Due, Key, KeyRange, Record};
use super::view::{Fault, Mutation, View};

pub use self::records::{member, wish};

mod records;

/// All records of a state, in memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemView {
    records: BTreeMap<Key, Record>,
}

// === impl MemView ===

impl MemView {
    /// Carries out mutations, in order.
    pub fn write(&mut self, mutations: &[Mutation]) {
        for mutation in mutations {
            match mutation {
                Mutation::Put(key, record) => self.records.insert(key.clone(), record.clone()),
                Mutation::Delete(key) => self.records.remove(key),
            };
        }
    }

    /// Applies one entry and carries out its mutations.
    ///
    /// # Errors
    /// The fault of `apply`; nothing is changed then.
    pub fn apply(&mut self, index: u64, term: u64, entry: &Entry) -> Result<Answer, Fault> {
        let applied = super::apply(self, index, term, entry)?;
        self.write(&applied.mutations);
        Ok(applied.answer)
    }

    /// Everything, in key order.
    pub fn records(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.records.iter()
    }
}

impl View for MemView {
    fn get(&self, key: &Key) -> Result<Option<Record>, Fault> {
        Ok(self.records.get(key).cloned())
    }

    fn scan(&self, range: &KeyRange, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Record)>, Fault> {
        let found =
            self.records.range((start(range, after), Bound::Unbounded)).take_while(|(key, _)| holds(range, key));
        Ok(found.take(limit).map(|(key, record)| (key.clone(), record.clone())).collect())
    }
}

/// Where the keys of a range begin behind a cursor.
pub(super) fn start(range: &KeyRange, after: Option<&Key>) -> Bound<Key> {
    let first = least(range);
    match after {
        Some(after) if *after >= first => Bound::Excluded(after.clone()),
        _ => Bound::Included(first),
    }
}

fn least(range: &KeyRange) -> Key {
    match range {
        KeyRange::Members => Key::Member(NodeId(0)),
        KeyRange::Tokens => Key::Token(TokenId(String::new())),
        KeyRange::Locations => Key::Location(String::new(), NodeId(0)),
        KeyRange::LocationsOf(model) => Key::Location(model.clone(), NodeId(0)),
        KeyRange::ModelsOf(node) => Key::NodeModel(*node, String::new()),
        KeyRange::Settings(prefix) => Key::Setting(prefix.clone()),
        KeyRange::Values(namespace, prefix) => Key::Value(namespace.clone(), prefix.clone()),
        KeyRange::Leases => Key::Lease(0),
        KeyRange::LeaseValues(lease) => Key::LeaseValue(*lease, String::new(), String::new()),
        KeyRange::SessionAnswers(session) => Key::SessionAnswer(*session, 0),
        KeyRange::Sessions => Key::Session(0),
        KeyRange::Deadlines => Key::Deadline(Timestamp(0), Due::Lease(0)),
        KeyRange::Migrations => Key::Migration(0),
        KeyRange::Blobs => Key::Blob(Digest([0; 32])),
        KeyRange::Wishes => Key::Wish(String::new()),
        KeyRange::Models => Key::Model(String::new()),
        KeyRange::VersionsOf(model) => Key::Version(model.clone(), 0),
        KeyRange::Tasks => Key::Task(TaskId([0; 16])),
        KeyRange::OpenTasks => Key::OpenTask(String::new(), TaskId([0; 16])),
        KeyRange::OpenTasksOf(subject) => Key::OpenTask(subject.clone(), TaskId([0; 16])),
    }
}

/// Whether a key is of a range.
pub(super) fn holds(range: &KeyRange, key: &Key) -> bool {
    match (range, key) {
        (KeyRange::Members, Key::Member(_))
        | (KeyRange::Tokens, Key::Token(_))
        | (KeyRange::Locations, Key::Location(..))
        | (KeyRange::Leases, Key::Lease(_))
        | (KeyRange::Sessions, Key::Session(_))
        | (KeyRange::Deadlines, Key::Deadline(..))
        | (KeyRange::Migrations, Key::Migration(_))
        | (KeyRange::Blobs, Key::Blob(_))
        | (KeyRange::Wishes, Key::Wish(_))
        | (KeyRange::Models, Key::Model(_))
        | (KeyRange::Tasks, Key::Task(_))
        | (KeyRange::OpenTasks, Key::OpenTask(..)) => true,
        (KeyRange::LocationsOf(model), Key::Location(of, _)) | (KeyRange::VersionsOf(model), Key::Version(of, _)) => {
            model == of
        }
        (KeyRange::ModelsOf(node), Key::NodeModel(of, _)) => node == of,
        (KeyRange::Settings(prefix), Key::Setting(key)) => key.starts_with(prefix),
        (KeyRange::Values(namespace, prefix), Key::Value(of, key)) => namespace == of && key.starts_with(prefix),
        (KeyRange::LeaseValues(lease), Key::LeaseValue(of, ..)) => lease == of,
        (KeyRange::SessionAnswers(session), Key::SessionAnswer(of, _)) => session == of,
        (KeyRange::OpenTasksOf(subject), Key::OpenTask(of, _)) => subject == of,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::record::Setting;
    use ollamax_types::PeerId;

    fn setting(key: &str) -> Mutation {
        Mutation::Put(Key::Setting(key.to_owned()), Record::Setting(Setting { value: vec![], revision: 1 }))
    }

    fn check(prefix: &str, after: Option<&str>, limit: usize, expected: &[&str]) {
        let mut view = MemView::default();
        let member = Mutation::Put(Key::MemberByPeer(PeerId("p".into())), Record::NodeId(NodeId(1)));
        view.write(&[setting("a"), setting("b/1"), setting("b/2"), setting("b/3"), setting("c"), member]);
        let after = after.map(|key| Key::Setting(key.to_owned()));
        let found = view.scan(&KeyRange::Settings(prefix.to_owned()), after.as_ref(), limit).expect("readable");
        let keys: Vec<String> = found.into_iter().map(|(key, _)| key.to_string()).collect();
        let expected: Vec<String> = expected.iter().map(|key| format!("setting/{key}")).collect();
        assert_eq!(keys, expected, "{prefix:?} after {after:?}");
    }

    #[test]
    fn scans_a_range_in_order_from_a_cursor() {
        check("b/", None, 9, &["b/1", "b/2", "b/3"]);
        check("b/", Some("b/1"), 1, &["b/2"]);
        check("b/", Some("a"), 9, &["b/1", "b/2", "b/3"]);
        check("b/", Some("b/3"), 9, &[]);
        check("", None, 9, &["a", "b/1", "b/2", "b/3", "c"]);
        check("x", None, 9, &[]);
    }
}
