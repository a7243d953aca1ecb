//! Typed reading of the state: one function per key family.
//!
//! Readers of whole families go page by page, so that no view has to build the whole of it at once. A record of
//! another kind than its key says is a [`Fault`].

use ollamax_types::{Digest, ModelName, NodeId, PeerId, TaskId, Timestamp, TokenId};

use super::record::{
    Blob, Cluster, Counts, Due, Key, KeyRange, Lease, Location, Member, Migration, Model, Once, Record, Remembered,
    Session, Setting, StateKeys, Task, Token, Usage, Value, Version, Wish,
};
use super::view::{Fault, View};

const PAGE: usize = 512;
/// Tasks that are held at once while each is shown.
const TASKS_HELD: usize = 32;

fn mismatch(key: &Key) -> Fault {
    Fault::Mismatch { key: key.to_string() }
}

macro_rules! typed {
    ($name:ident, $kind:ident, $output:ty) => {
        fn $name(key: &Key, record: Record) -> Result<$output, Fault> {
            match record {
                Record::$kind(value) => Ok(value),
                _ => Err(mismatch(key)),
            }
        }
    };
}

typed!(as_cluster, Cluster, Cluster);
typed!(as_member, Member, Member);
typed!(as_node, NodeId, NodeId);
typed!(as_token, Token, Token);
typed!(as_location, Location, Location);
typed!(as_setting, Setting, Setting);
typed!(as_value, Value, Value);
typed!(as_usage, Usage, Usage);
typed!(as_lease, Lease, Lease);
typed!(as_session, Session, Session);
typed!(as_remembered, Remembered, Remembered);
typed!(as_counts, Counts, Counts);
typed!(as_blob, Blob, Blob);
typed!(as_once, Once, Once);
typed!(as_state_keys, StateKeys, StateKeys);

fn as_migration(key: &Key, record: Record) -> Result<Migration, Fault> {
    match record {
        Record::Migration(row) => Ok(*row),
        _ => Err(mismatch(key)),
    }
}

fn as_wish(key: &Key, record: Record) -> Result<Wish, Fault> {
    match record {
        Record::Wish(wish) => Ok(*wish),
        _ => Err(mismatch(key)),
    }
}

fn as_model(key: &Key, record: Record) -> Result<Model, Fault> {
    match record {
        Record::Model(model) => Ok(*model),
        _ => Err(mismatch(key)),
    }
}

fn as_version(key: &Key, record: Record) -> Result<Version, Fault> {
    match record {
        Record::Version(version) => Ok(*version),
        _ => Err(mismatch(key)),
    }
}

fn as_task(key: &Key, record: Record) -> Result<Task, Fault> {
    match record {
        Record::Task(task) => Ok(*task),
        _ => Err(mismatch(key)),
    }
}

type Typed<T> = fn(&Key, Record) -> Result<T, Fault>;

fn one<T>(view: &dyn View, key: &Key, typed: Typed<T>) -> Result<Option<T>, Fault> {
    view.get(key)?.map(|record| typed(key, record)).transpose()
}

/// Up to `limit` records of a range, from its start.
fn first<T>(view: &dyn View, range: &KeyRange, limit: usize, typed: Typed<T>) -> Result<Vec<T>, Fault> {
    view.scan(range, None, limit)?.into_iter().map(|(key, record)| typed(&key, record)).collect()
}

fn all<T>(view: &dyn View, range: &KeyRange, typed: Typed<T>) -> Result<Vec<T>, Fault> {
    let mut found = Vec::new();
    each(view, range, PAGE, |key, record| {
        found.push(typed(key, record)?);
        Ok(())
    })?;
    Ok(found)
}

/// Shows each record of a range; so many are held at once.
fn each(
    view: &dyn View,
    range: &KeyRange,
    held: usize,
    mut show: impl FnMut(&Key, Record) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut after: Option<Key> = None;
    loop {
        let page = view.scan(range, after.as_ref(), held)?;
        let is_last = page.len() < held;
        after = page.last().map(|(key, _)| key.clone());
        for (key, record) in page {
            show(&key, record)?;
        }
        if is_last {
            return Ok(());
        }
    }
}

/// The cluster record; `None` before `InitCluster`.
///
/// # Errors
/// When the state cannot be read, as everywhere in this file.
pub fn cluster(view: &dyn View) -> Result<Option<Cluster>, Fault> {
    one(view, &Key::Cluster, as_cluster)
}

/// A member by id, departed or not.
///
/// # Errors
/// When the state cannot be read.
pub fn member(view: &dyn View, node: NodeId) -> Result<Option<Member>, Fault> {
    one(view, &Key::Member(node), as_member)
}

/// Whether a node was a member and is none any more. Its record may have been forgotten meanwhile: ids are given out in
/// order and never again, so a lower one that is missing has departed. Once true, this stays true.
///
/// # Errors
/// When the state cannot be read.
pub fn has_departed(view: &dyn View, node: NodeId) -> Result<bool, Fault> {
    match member(view, node)? {
        Some(member) => Ok(!member.is_standing()),
        None => Ok(cluster(view)?.is_some_and(|cluster| node.0 < cluster.next_node_id)),
    }
}

/// The id of the member that has not departed and holds this key.
///
/// # Errors
/// When the state cannot be read.
pub fn member_by_peer(view: &dyn View, peer: &PeerId) -> Result<Option<NodeId>, Fault> {
    one(view, &Key::MemberByPeer(peer.clone()), as_node)
}

/// All members by id, departed ones among them.
///
/// # Errors
/// When the state cannot be read.
pub fn members(view: &dyn View) -> Result<Vec<Member>, Fault> {
    all(view, &KeyRange::Members, as_member)
}

/// The member that a person means: by id, else by name. Departed ones are not found.
///
/// # Errors
/// When the state cannot be read.
pub fn find_member(view: &dyn View, text: &str) -> Result<Option<Member>, Fault> {
    if let Ok(id) = text.parse::<NodeId>()
        && let Some(found) = member(view, id)?.filter(Member::is_standing)
    {
        return Ok(Some(found));
    }
    Ok(members(view)?.into_iter().find(|member| member.name == text && member.is_standing()))
}

/// The first `limit` members by id, departed ones among them.
pub(super) fn some_members(view: &dyn View, limit: usize) -> Result<Vec<Member>, Fault> {
    first(view, &KeyRange::Members, limit, as_member)
}

/// A join token.
///
/// # Errors
/// When the state cannot be read.
pub fn token(view: &dyn View, id: &TokenId) -> Result<Option<Token>, Fault> {
    one(view, &Key::Token(id.clone()), as_token)
}

/// All join tokens by id.
///
/// # Errors
/// When the state cannot be read.
pub fn tokens(view: &dyn View) -> Result<Vec<Token>, Fault> {
    all(view, &KeyRange::Tokens, as_token)
}

/// All copies of one model.
///
/// # Errors
/// When the state cannot be read.
pub fn locations_of(view: &dyn View, model: &ModelName) -> Result<Vec<Location>, Fault> {
    all(view, &KeyRange::LocationsOf(model.key()), as_location)
}

/// All copies of all models, by model.
///
/// # Errors
/// When the state cannot be read.
pub fn locations(view: &dyn View) -> Result<Vec<Location>, Fault> {
    all(view, &KeyRange::Locations, as_location)
}

/// All models of one node.
///
/// # Errors
/// When the state cannot be read.
pub fn models_of(view: &dyn View, node: NodeId) -> Result<Vec<Location>, Fault> {
    all(view, &KeyRange::ModelsOf(node), as_location)
}

/// One node's copy of one model, by model key.
pub fn node_model(view: &dyn View, node: NodeId, model_key: &str) -> Result<Option<Location>, Fault> {
    one(view, &Key::NodeModel(node, model_key.to_owned()), as_location)
}

/// Up to `limit` models of one node.
pub(super) fn some_models_of(view: &dyn View, node: NodeId, limit: usize) -> Result<Vec<Location>, Fault> {
    first(view, &KeyRange::ModelsOf(node), limit, as_location)
}

/// A configuration key.
///
/// # Errors
/// When the state cannot be read.
pub fn setting(view: &dyn View, key: &str) -> Result<Option<Setting>, Fault> {
    one(view, &Key::Setting(key.to_owned()), as_setting)
}

/// Up to `limit` configuration keys that start with `prefix`, after `after`, in order.
///
/// # Errors
/// When the state cannot be read.
pub fn settings(
    view: &dyn View,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Setting)>, Fault> {
    let after = after.map(|key| Key::Setting(key.to_owned()));
    let page = view.scan(&KeyRange::Settings(prefix.to_owned()), after.as_ref(), limit)?;
    page.into_iter()
        .map(|(key, record)| {
            let setting = as_setting(&key, record)?;
            if let Key::Setting(name) = key { Ok((name, setting)) } else { Err(mismatch(&key)) }
        })
        .collect()
}

/// A value by namespace and key.
///
/// # Errors
/// When the state cannot be read.
pub fn value(view: &dyn View, namespace: &str, key: &str) -> Result<Option<Value>, Fault> {
    one(view, &Key::Value(namespace.to_owned(), key.to_owned()), as_value)
}

/// Up to `limit` values of a namespace whose keys start with `prefix`, after `after`, in order.
///
/// # Errors
/// When the state cannot be read.
pub fn values(
    view: &dyn View,
    namespace: &str,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Value)>, Fault> {
    let after = after.map(|key| Key::Value(namespace.to_owned(), key.to_owned()));
    let page = view.scan(&KeyRange::Values(namespace.to_owned(), prefix.to_owned()), after.as_ref(), limit)?;
    page.into_iter()
        .map(|(id, record)| {
            let value = as_value(&id, record)?;
            if let Key::Value(_, key) = id { Ok((key, value)) } else { Err(mismatch(&id)) }
        })
        .collect()
}

/// What the values of a namespace under a prefix take; `None` before the first.
///
/// # Errors
/// When the state cannot be read.
pub fn usage(view: &dyn View, namespace: &str, prefix: &str) -> Result<Option<Usage>, Fault> {
    one(view, &Key::Usage(namespace.to_owned(), prefix.to_owned()), as_usage)
}

/// A lease by id; one that has passed its time may be there still.
///
/// # Errors
/// When the state cannot be read.
pub fn lease(view: &dyn View, id: u64) -> Result<Option<Lease>, Fault> {
    one(view, &Key::Lease(id), as_lease)
}

/// Up to `limit` leases after `after`, by id.
///
/// # Errors
/// When the state cannot be read.
pub fn leases(view: &dyn View, after: Option<u64>, limit: usize) -> Result<Vec<(u64, Lease)>, Fault> {
    let page = view.scan(&KeyRange::Leases, after.map(Key::Lease).as_ref(), limit)?;
    page.into_iter()
        .map(|(id, record)| {
            let lease = as_lease(&id, record)?;
            if let Key::Lease(number) = id { Ok((number, lease)) } else { Err(mismatch(&id)) }
        })
        .collect()
}

/// Namespace and key of up to `limit` values that go with a lease.
///
/// # Errors
/// When the state cannot be read.
pub fn values_of_lease(view: &dyn View, lease: u64, limit: usize) -> Result<Vec<(String, String)>, Fault> {
    let page = view.scan(&KeyRange::LeaseValues(lease), None, limit)?;
    page.into_iter()
        .map(
            |(id, _)| {
                if let Key::LeaseValue(_, namespace, key) = id { Ok((namespace, key)) } else { Err(mismatch(&id)) }
            },
        )
        .collect()
}

/// A client session by id; one that has passed its time may be there still.
///
/// # Errors
/// When the state cannot be read.
pub fn session(view: &dyn View, id: u64) -> Result<Option<Session>, Fault> {
    one(view, &Key::Session(id), as_session)
}

/// What a command of a session answered, while it is kept.
///
/// # Errors
/// When the state cannot be read.
pub fn session_answer(view: &dyn View, session: u64, sequence: u64) -> Result<Option<Remembered>, Fault> {
    one(view, &Key::SessionAnswer(session, sequence), as_remembered)
}

/// How many there are of what is bounded in number.
///
/// # Errors
/// When the state cannot be read.
pub fn counts(view: &dyn View) -> Result<Counts, Fault> {
    Ok(one(view, &Key::Counts, as_counts)?.unwrap_or_default())
}

/// Up to `limit` things that end by themselves, the next first.
///
/// # Errors
/// When the state cannot be read.
pub fn deadlines(view: &dyn View, limit: usize) -> Result<Vec<(Timestamp, Due)>, Fault> {
    let page = view.scan(&KeyRange::Deadlines, None, limit)?;
    page.into_iter()
        .map(|(id, _)| if let Key::Deadline(at, due) = id { Ok((at, due)) } else { Err(mismatch(&id)) })
        .collect()
}

/// What became of a migration; `None`: nobody has asked for it.
///
/// # Errors
/// When the state cannot be read.
pub fn migration(view: &dyn View, number: u32) -> Result<Option<Migration>, Fault> {
    one(view, &Key::Migration(number), as_migration)
}

/// The ledger of migrations, by number.
///
/// # Errors
/// When the state cannot be read.
pub fn migrations(view: &dyn View) -> Result<Vec<Migration>, Fault> {
    all(view, &KeyRange::Migrations, as_migration)
}

/// What a file with this SHA-256 must be; `None`: nobody has told its BLAKE3.
///
/// # Errors
/// When the state cannot be read.
pub fn blob(view: &dyn View, sha256: &Digest) -> Result<Option<Blob>, Fault> {
    one(view, &Key::Blob(*sha256), as_blob)
}

/// Up to `limit` files whose BLAKE3 is on record, behind `after`, by their SHA-256.
///
/// # Errors
/// When the state cannot be read.
pub fn blobs(view: &dyn View, after: Option<Digest>, limit: usize) -> Result<Vec<(Digest, Blob)>, Fault> {
    let page = view.scan(&KeyRange::Blobs, after.map(Key::Blob).as_ref(), limit)?;
    page.into_iter()
        .map(|(id, record)| {
            let blob = as_blob(&id, record)?;
            if let Key::Blob(sha256) = id { Ok((sha256, blob)) } else { Err(mismatch(&id)) }
        })
        .collect()
}

/// The wish for a model; `None`: nobody has asked for it, or nobody does any more.
///
/// # Errors
/// When the state cannot be read.
pub fn wish(view: &dyn View, model: &ModelName) -> Result<Option<Wish>, Fault> {
    one(view, &Key::Wish(model.key()), as_wish)
}

/// All wishes, by model.
///
/// # Errors
/// When the state cannot be read.
pub fn wishes(view: &dyn View) -> Result<Vec<Wish>, Fault> {
    all(view, &KeyRange::Wishes, as_wish)
}

/// What is kept of a name beside its copies and its wish; `None`: nothing was ever done with it.
///
/// # Errors
/// When the state cannot be read.
pub fn model(view: &dyn View, name: &ModelName) -> Result<Option<Model>, Fault> {
    model_at(view, &name.key())
}

/// As [`model`], by model key.
pub(super) fn model_at(view: &dyn View, model_key: &str) -> Result<Option<Model>, Fault> {
    one(view, &Key::Model(model_key.to_owned()), as_model)
}

/// All records of names, by model.
///
/// # Errors
/// When the state cannot be read.
pub fn models(view: &dyn View) -> Result<Vec<Model>, Fault> {
    all(view, &KeyRange::Models, as_model)
}

/// One version of a name by its number.
///
/// # Errors
/// When the state cannot be read.
pub fn version(view: &dyn View, name: &ModelName, number: u64) -> Result<Option<Version>, Fault> {
    one(view, &Key::Version(name.key(), number), as_version)
}

/// The history of a name, the oldest version first.
///
/// # Errors
/// When the state cannot be read.
pub fn versions(view: &dyn View, name: &ModelName) -> Result<Vec<Version>, Fault> {
    all(view, &KeyRange::VersionsOf(name.key()), as_version)
}

/// A task; `None`: there was none, or it is over since long ago.
///
/// # Errors
/// When the state cannot be read.
pub fn task(view: &dyn View, id: &TaskId) -> Result<Option<Task>, Fault> {
    one(view, &Key::Task(*id), as_task)
}

/// All tasks, by id.
///
/// # Errors
/// When the state cannot be read.
pub fn tasks(view: &dyn View) -> Result<Vec<Task>, Fault> {
    all(view, &KeyRange::Tasks, as_task)
}

/// The tasks that are not over, by subject and id. Their records are small: none has a result yet.
///
/// # Errors
/// When the state cannot be read.
pub fn open_tasks(view: &dyn View) -> Result<Vec<Task>, Fault> {
    let mut found = Vec::new();
    each_open_task(view, &mut |task| found.push(task))?;
    Ok(found)
}

/// Shows each task, by id. Few are held at once: one that is over may have a large result.
///
/// # Errors
/// When the state cannot be read.
pub fn each_task(view: &dyn View, show: &mut dyn FnMut(Task)) -> Result<(), Fault> {
    each(view, &KeyRange::Tasks, TASKS_HELD, |key, record| {
        show(as_task(key, record)?);
        Ok(())
    })
}

/// Shows each task that is not over, by subject and id.
///
/// # Errors
/// When the state cannot be read.
pub fn each_open_task(view: &dyn View, show: &mut dyn FnMut(Task)) -> Result<(), Fault> {
    each(view, &KeyRange::OpenTasks, PAGE, |key, _| {
        let Key::OpenTask(_, id) = key else { return Err(mismatch(key)) };
        if let Some(task) = task(view, id)? {
            show(task);
        }
        Ok(())
    })
}

/// What a request with this key was answered; one that has passed its time may be there still.
///
/// # Errors
/// When the state cannot be read.
pub fn once(view: &dyn View, key: &[u8; 32]) -> Result<Option<Once>, Fault> {
    one(view, &Key::Once(*key), as_once)
}

/// The keys that seal what clients carry; none before the first leader of version 5 has drawn one.
///
/// # Errors
/// When the state cannot be read.
pub fn state_keys(view: &dyn View) -> Result<StateKeys, Fault> {
    Ok(one(view, &Key::StateKeys, as_state_keys)?.unwrap_or_default())
}

/// Whether any node has a model, of whichever version.
pub(super) fn has_copy(view: &dyn View, name: &ModelName) -> Result<bool, Fault> {
    Ok(!first(view, &KeyRange::LocationsOf(name.key()), 1, as_location)?.is_empty())
}

#[cfg(test)]
mod tests {
    use ollamax_types::ModelRecord;

    use super::*;
    use crate::catalog::mem::{self, MemView};
    use crate::catalog::record::MemberState;
    use crate::catalog::view::Mutation;

    fn member(id: u64, name: &str, state: MemberState) -> Mutation {
        let member = Member { name: name.to_owned(), state, ..mem::member(id) };
        Mutation::Put(Key::Member(member.id), Record::Member(member))
    }

    #[test]
    fn a_member_is_found_by_id_and_else_by_name_unless_it_has_departed() {
        let departed = MemberState::Departed { at: Timestamp(1) };
        let mut view = MemView::default();
        view.write(&[
            member(1, "3", MemberState::Active),
            member(2, "old", departed),
            member(3, "gpu", MemberState::Drained),
            member(4, "gpu-2", departed),
            member(5, "old", MemberState::Active),
            member(6, "4", MemberState::Active),
        ]);
        let check = |text: &str, expected: Option<u64>| {
            let found = find_member(&view, text).expect("readable").map(|member| member.id);
            assert_eq!(found, expected.map(NodeId), "{text:?}");
        };
        check("1", Some(1));
        check("3", Some(3)); // the id, although a node of that name comes first
        check("gpu", Some(3));
        check("old", Some(5));
        check("gpu-2", None);
        check("2", None);
        check("4", Some(6)); // node 4 has departed, a node of that name has not
        check("0", None);
        check("", None);
    }

    #[test]
    fn whole_families_are_read_beyond_one_page() {
        let model = |number: usize| ModelRecord {
            name: format!("m{number}").parse().expect("a name"),
            digest: Digest([1; 32]),
            weights: Digest([1; 32]),
            size_bytes: 1,
            modified_at: Timestamp(1),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        };
        for count in [0, 1, PAGE, PAGE + 1, 2 * PAGE] {
            let put = |number| {
                let location = Location { node: NodeId(1), model: model(number) };
                Mutation::Put(Key::Location(location.model.name.key(), NodeId(1)), Record::Location(location))
            };
            let mut view = MemView::default();
            view.write(&(0..count).map(put).collect::<Vec<_>>());
            assert_eq!(locations(&view).expect("readable").len(), count);
        }
    }

    #[test]
    fn a_record_of_another_kind_than_its_key_is_a_fault() {
        let mut view = MemView::default();
        view.write(&[Mutation::Put(Key::Member(NodeId(1)), Record::NodeId(NodeId(1)))]);
        assert!(matches!(members(&view), Err(Fault::Mismatch { .. })));
        assert!(matches!(find_member(&view, "1"), Err(Fault::Mismatch { .. })));
    }
}
