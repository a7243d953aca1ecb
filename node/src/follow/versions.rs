//! The leader notes which version each name stands for.
//!
//! Whoever changed it: a pull, a rollback, somebody with the runtime's own words. What is noted is decided by
//! [`plan_notes`] from the record alone, so another leader goes on where this one ended. A version that a round has
//! just given to a name is on record before any node has it; until then the one before it is no news. A note that was
//! refused is left alone for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::models::standing_digest;
use ollamax_core::catalog::{Command, Fault, How, Location, Model, View, Wish, read};
use ollamax_metadata as metadata;
use ollamax_metadata::ProposeError;
use ollamax_security::draw_request_id;
use ollamax_types::{Clock, ErrorCode, Timestamp};

use crate::follow::presence::leading_term;
use crate::follow::{change_in_term, next_look, pause_after};

/// Time between two looks although nothing changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Least time between two looks, whatever changes.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Most notes of one look; the next one goes on.
const NOTES_MAX: usize = 64;
/// How long a name is left alone whose note was refused.
const REFUSED_FOR: Duration = Duration::from_secs(600);

/// The record's time beside this node's clock. Files are dated by clocks, which the record's time may be days behind.
#[derive(Debug, Clone, Copy)]
struct Now {
    log: Timestamp,
    wall: Timestamp,
}

// === impl Now ===

impl Now {
    /// A moment of the record, by this node's clock.
    const fn by_clock(self, moment: Timestamp) -> Timestamp {
        Timestamp(self.wall.0.saturating_sub(self.log.ms_since(moment)))
    }
}

/// The versions that are to be noted, at most so many, but for the names that are left alone.
fn plan_notes(
    view: &dyn View,
    now: Now,
    is_left: &dyn Fn(&str) -> bool,
    notes_max: usize,
) -> Result<Vec<Command>, Fault> {
    let mut copies: BTreeMap<String, Vec<Location>> = BTreeMap::new();
    for location in read::locations(view)? {
        copies.entry(location.model.name.key()).or_default().push(location);
    }
    let known: BTreeMap<String, Model> =
        read::models(view)?.into_iter().map(|model| (model.name.key(), model)).collect();
    let mut notes = Vec::new();
    for (key, copies) in copies {
        if notes.len() >= notes_max {
            break;
        }
        if !is_left(&key) {
            notes.extend(note_of(view, now, &copies, known.get(&key))?);
        }
    }
    Ok(notes)
}

/// What is to be noted of one name.
fn note_of(view: &dyn View, now: Now, copies: &[Location], known: Option<&Model>) -> Result<Option<Command>, Fault> {
    let Some(digest) = standing_digest(copies, known.and_then(Model::pinned)) else { return Ok(None) };
    let newest = copies.iter().filter(|copy| copy.model.digest == digest).max_by_key(|copy| copy.model.modified_at);
    let Some(copy) = newest else { return Ok(None) };
    let head = match known.filter(|model| model.head > 0) {
        Some(model) => read::version(view, &model.name, model.head)?.map(|version| version.digest),
        None => None,
    };
    if head == Some(digest) {
        return Ok(None);
    }
    let name = copy.model.name.clone();
    let wish = read::wish(view, &name)?;
    let is_of_before = |wish: &Wish| copy.model.modified_at <= now.by_clock(wish.asked_at);
    let is_on_its_way = |wish: &Wish| head.is_some() && wish.digest == head && is_of_before(wish);
    if wish.as_ref().is_some_and(is_on_its_way) {
        return Ok(None);
    }
    let how = if wish.is_some_and(|wish| wish.digest == Some(digest)) { How::Pulled } else { How::Found };
    Ok(Some(Command::NoteVersion { name, digest, size_bytes: copy.model.size_bytes, how }))
}

/// Notes while this node leads, until `stop`.
pub(crate) async fn follow(metadata: metadata::Handle, clock: Clock, stop: CancellationToken) {
    let mut changes = metadata.changes();
    let mut took = Duration::ZERO;
    let mut refused: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        let pause = pause_after(took).max(LOOK_AGAIN_AFTER);
        if stop.run_until_cancelled(next_look(&mut changes, pause, LOOK_INTERVAL)).await != Some(true) {
            return;
        }
        let Some(term) = leading_term(&metadata) else { continue };
        refused.retain(|_, at| at.elapsed() < REFUSED_FOR);
        let began = Instant::now();
        let planned = due(&metadata, &clock, &refused);
        took = began.elapsed();
        let noting = note(&metadata, planned, term, &mut refused);
        if stop.run_until_cancelled(noting).await.is_none() {
            return;
        }
    }
}

/// What this cluster lets be noted.
fn due(metadata: &metadata::Handle, clock: &Clock, refused: &BTreeMap<String, Instant>) -> Result<Vec<Command>, Fault> {
    let view = metadata.view();
    let Some(cluster) = read::cluster(&*view)? else { return Ok(Vec::new()) };
    let now = Now { log: metadata.log_time(), wall: clock.now() };
    let notes = plan_notes(&*view, now, &|key| refused.contains_key(key), NOTES_MAX)?;
    Ok(notes.into_iter().filter(|note| note.least_version() <= cluster.version).collect())
}

async fn note(
    metadata: &metadata::Handle,
    planned: Result<Vec<Command>, Fault>,
    term: u64,
    refused: &mut BTreeMap<String, Instant>,
) {
    let notes = planned.unwrap_or_else(|fault| {
        tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read which versions are to be noted");
        Vec::new()
    });
    let principal = format!("node/{}", metadata.node());
    for command in notes {
        let made = change_in_term(metadata, draw_request_id(), &principal, command.clone(), term).await;
        match (made, command) {
            (Ok(_), Command::NoteVersion { name, digest, .. }) => {
                tracing::info!(model = %name, %digest, "a name stands for another version");
            }
            (Err(ProposeError::Refused(refusal)), Command::NoteVersion { name, .. }) => {
                tracing::warn!(model = %name, error = %refusal, "a version is not noted; tried again later");
                refused.insert(name.key(), Instant::now());
            }
            (Err(error), _) => {
                tracing::debug!(code = %error.code(), %error, "note a version; tried again soon");
                return;
            }
            (Ok(_), _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::mem::{self, MemView};
    use ollamax_core::catalog::{Key, Mutation, Pin, Record, Replicas, Version};
    use ollamax_types::{Digest, ModelName, ModelRecord, NodeId};

    use super::*;

    fn name() -> ModelName {
        "llama3.2".parse().expect("a name")
    }

    fn digest(byte: u8) -> Digest {
        Digest([byte; 32])
    }

    fn copy(node: u64, byte: u8, modified_ms: u64) -> Vec<Mutation> {
        let model = ModelRecord {
            name: name(),
            digest: digest(byte),
            weights: digest(byte),
            size_bytes: 7,
            modified_at: Timestamp(modified_ms),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        };
        let location = Location { node: NodeId(node), model };
        vec![Mutation::Put(Key::Location(name().key(), NodeId(node)), Record::Location(location))]
    }

    /// The history ends with this version.
    fn known(byte: u8, pin: Option<u8>) -> Vec<Mutation> {
        let pin = pin.map(|byte| Pin { digest: digest(byte), by: "admin".to_owned(), at: Timestamp(1) });
        let model = Model { head: 1, first: 1, pin, ..Model::new(name(), Timestamp(1)) };
        let (at, by) = (Timestamp(1), "node/1".to_owned());
        let version = Version { number: 1, digest: digest(byte), size_bytes: 7, at, how: How::Found, by };
        vec![
            Mutation::Put(Key::Model(name().key()), Record::Model(Box::new(model))),
            Mutation::Put(Key::Version(name().key(), 1), Record::Version(Box::new(version))),
        ]
    }

    fn wished(byte: u8, asked_ms: u64) -> Vec<Mutation> {
        let wish = Wish {
            round: 1,
            replicas: Replicas::Count(1),
            digest: Some(digest(byte)),
            size_bytes: 7,
            asked_at: Timestamp(asked_ms),
            asked_by: "admin".to_owned(),
            ..mem::wish(name())
        };
        vec![Mutation::Put(Key::Wish(name().key()), Record::Wish(Box::new(wish)))]
    }

    #[test]
    fn a_version_is_noted_once_when_a_name_comes_to_stand_for_it() {
        let check = |rows: Vec<Vec<Mutation>>, expected: Option<(u8, How)>| {
            let mut view = MemView::default();
            view.write(&rows.concat());
            let note = |(byte, how)| Command::NoteVersion { name: name(), digest: digest(byte), size_bytes: 7, how };
            let expected: Vec<Command> = expected.map(note).into_iter().collect();
            // The record's time is a second behind this node's clock.
            let now = Now { log: Timestamp(9), wall: Timestamp(1_009) };
            assert_eq!(plan_notes(&view, now, &|_| false, 9).expect("readable"), expected, "{rows:?}");
            assert_eq!(plan_notes(&view, now, &|_| true, 9).expect("readable"), []);
        };
        check(vec![], None);
        check(vec![copy(1, 1, 5)], Some((1, How::Found)));
        check(vec![copy(1, 1, 5), wished(1, 4)], Some((1, How::Pulled)));
        check(vec![copy(1, 1, 5), known(1, None)], None);
        check(vec![copy(1, 1, 5), copy(2, 2, 6), known(1, None)], Some((2, How::Found)));
        // Pinned, it stands for what it is pinned at, for as long as a node has that.
        check(vec![copy(1, 1, 5), copy(2, 2, 6), known(1, Some(1))], None);
        check(vec![copy(2, 2, 6), known(1, Some(1))], Some((2, How::Found)));
        // Rolled back to 1: it is on its way while nobody put 2 there since.
        check(vec![copy(1, 2, 1_005), known(1, None), wished(1, 5)], None);
        check(vec![copy(1, 2, 1_006), known(1, None), wished(1, 5)], Some((2, How::Found)));
    }
}
