//! 001: leases and sessions note where their deadline stands.
//!
//! Up to cluster version 2 a lease that is revoked, and a session that is closed, leave their deadline behind until its
//! time comes: 30 days for the longest lease, and as many as somebody cares to grant and revoke. Since version 3 they
//! note it and take it along. This migration makes it so for those of before: it removes the deadlines of what has
//! ended and notes the others; then every lease and session must have the deadline that it notes. Back, the notes go;
//! what was removed said nothing. What is granted or opened later is always in the new form.

use std::collections::BTreeMap;

use ollamax_types::Timestamp;
use ollamax_types::limits::MIGRATION_STEP_ITEMS_MAX;

use super::{Phase, Spec, Step, Trouble};
use crate::catalog::read;
use crate::catalog::record::{Due, Key, KeyRange, Lease, Record, Session};
use crate::catalog::view::{Fault, Mutation, View};

pub(super) const SPEC: Spec = Spec {
    number: 1,
    phase: Phase::Core,
    name: "noted_deadlines",
    about: "leases and sessions take their deadline along when they end; deadlines of what has ended go",
    needs: 3,
    up,
    down: Some(down),
};

/// Where the leases begin, and where the sessions do: ids are indexes of entries, and the first one makes the cluster.
const LEASES: Key = Key::Lease(0);
const SESSIONS: Key = Key::Session(0);

/// Deadlines first, then leases, then sessions.
fn up(view: &dyn View, after: Option<&Key>) -> Result<Step, Trouble> {
    match after {
        Some(Key::Lease(_)) => walk(view, &KeyRange::Leases, after, Some(SESSIONS), has_its_deadline),
        Some(Key::Session(_)) => walk(view, &KeyRange::Sessions, after, None, has_its_deadline),
        _ => deadlines(view, after),
    }
}

/// Leases first, then sessions.
fn down(view: &dyn View, after: Option<&Key>) -> Result<Step, Trouble> {
    match after {
        Some(Key::Session(_)) => walk(view, &KeyRange::Sessions, after, None, without_note),
        _ => walk(view, &KeyRange::Leases, after, Some(SESSIONS), without_note),
    }
}

/// Removes or notes a page of deadlines.
fn deadlines(view: &dyn View, after: Option<&Key>) -> Result<Step, Trouble> {
    let mut seen = BTreeMap::new();
    walk(view, &KeyRange::Deadlines, after, Some(LEASES), |view, key, _| {
        let Key::Deadline(at, due) = *key else { return Err(Fault::Mismatch { key: key.to_string() }.into()) };
        if matches!(due, Due::Task(_) | Due::Once(_)) {
            // Both came later, and have always noted it.
            return Ok(None);
        }
        let Some(holder) = holder(view, due)? else { return Ok(Some(Mutation::Delete(key.clone()))) };
        let noted = holder.due_at();
        if let Some(other) = seen.insert(due, at).or(noted).filter(|other| *other != at) {
            let (what, at, other) = (due_key(due), at.0, other.0);
            return Err(Trouble::Contradiction(format!("{what} has a deadline at {at} and another one at {other}")));
        }
        Ok(noted.is_none().then(|| holder.noting(due, Some(at))))
    })
}

/// A page of a range, record by record. Behind its last one the walk goes on at `then`.
fn walk(
    view: &dyn View,
    range: &KeyRange,
    after: Option<&Key>,
    then: Option<Key>,
    mut look: impl FnMut(&dyn View, &Key, Record) -> Result<Option<Mutation>, Trouble>,
) -> Result<Step, Trouble> {
    let page = view.scan(range, after, MIGRATION_STEP_ITEMS_MAX)?;
    let is_last = page.len() < MIGRATION_STEP_ITEMS_MAX;
    let (looked_at, last) = (page.len() as u64, page.last().map(|(key, _)| key.clone()));
    let mut mutations = Vec::new();
    for (key, record) in page {
        mutations.extend(look(view, &key, record)?);
    }
    Ok(Step { mutations, looked_at, next: if is_last { then } else { last } })
}

/// A lease or session, as what has a deadline.
enum Holder {
    Lease(Lease),
    Session(Session),
}

fn holder(view: &dyn View, due: Due) -> Result<Option<Holder>, Fault> {
    Ok(match due {
        Due::Lease(id) => read::lease(view, id)?.map(Holder::Lease),
        Due::Session(id) => read::session(view, id)?.map(Holder::Session),
        Due::Task(_) | Due::Once(_) => None,
    })
}

fn due_key(due: Due) -> Key {
    match due {
        Due::Lease(id) => Key::Lease(id),
        Due::Session(id) => Key::Session(id),
        Due::Task(id) => Key::Task(id),
        Due::Once(key) => Key::Once(key),
    }
}

/// What a record of a page is.
fn held(key: &Key, record: Record) -> Result<(Due, Holder), Fault> {
    match (key, record) {
        (Key::Lease(id), Record::Lease(lease)) => Ok((Due::Lease(*id), Holder::Lease(lease))),
        (Key::Session(id), Record::Session(session)) => Ok((Due::Session(*id), Holder::Session(session))),
        _ => Err(Fault::Mismatch { key: key.to_string() }),
    }
}

/// Nothing ends by itself without a deadline.
fn has_its_deadline(view: &dyn View, key: &Key, record: Record) -> Result<Option<Mutation>, Trouble> {
    let (due, holder) = held(key, record)?;
    let there = match holder.due_at() {
        Some(at) => view.get(&Key::Deadline(at, due))?.is_some(),
        None => false,
    };
    if there { Ok(None) } else { Err(Trouble::Contradiction(format!("{key} has no deadline: it would never end"))) }
}

fn without_note(_: &dyn View, key: &Key, record: Record) -> Result<Option<Mutation>, Trouble> {
    let (due, holder) = held(key, record)?;
    Ok(holder.due_at().is_some().then(|| holder.noting(due, None)))
}

// === impl Holder ===

impl Holder {
    const fn due_at(&self) -> Option<Timestamp> {
        match self {
            Self::Lease(lease) => lease.due_at,
            Self::Session(session) => session.due_at,
        }
    }

    /// The same with another note.
    fn noting(self, due: Due, due_at: Option<Timestamp>) -> Mutation {
        let record = match self {
            Self::Lease(lease) => Record::Lease(Lease { due_at, ..lease }),
            Self::Session(session) => Record::Session(Session { due_at, ..session }),
        };
        Mutation::Put(due_key(due), record)
    }
}
