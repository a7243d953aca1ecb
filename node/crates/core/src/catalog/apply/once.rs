//! Requests with a key: one that comes again, at whichever node and in whatever entry, gets the answer that it got
//! before, and has no second effect.
//!
//! Always holds: the effect and the memory of it are one set of mutations. A refusal is not remembered, nor is an
//! answer after which the same command is sent again to go on. Where there is no room to remember, the oldest answer
//! makes it; where none is found, there is no effect either.

use ollamax_types::Timestamp;
use ollamax_types::limits::{ONCE_KEPT_FOR, ONCE_MAX};

use super::draft::Draft;
use super::limit::exceeded;
use super::{Applied, Scene, Step, Stop, execute, invalid, put};
use crate::catalog::command::{Answer, Command, OnceKey, Refusal};
use crate::catalog::read;
use crate::catalog::record::{Counts, Due, Key, Once, Record};
use crate::catalog::view::{Fault, Mutation, View};

/// Deadlines among which the oldest answer is looked for, where there is no room for another.
const ROOM_LOOK_MAX: usize = 256;

/// Keys that are read for a request with a key, beside those of its command.
pub(super) const KEYS: usize = 2 + ROOM_LOOK_MAX;

/// Executes a command, unless it came with a key under which it was executed before.
pub(super) fn keyed(scene: &Scene<'_>, term: u64) -> Step {
    let Some(OnceKey { key, digest }) = scene.entry.once else { return execute(scene) };
    if scene.entry.command == Command::Expire {
        return Err(invalid("what ends by itself ends without a key"));
    }
    let held = read::once(scene.view, &key)?;
    if let Some(held) = held.as_ref().filter(|held| held.ends_at > scene.entry.log_time) {
        if held.digest != digest {
            return Err(Refusal::OnceReused.into());
        }
        let before = Some((held.revision, held.term));
        return Ok(Applied { mutations: Vec::new(), answer: held.answer.clone(), before });
    }
    let Applied { mut mutations, answer, before } = execute(scene)?;
    if goes_on(&answer) {
        return Ok(Applied { mutations, answer, before });
    }
    match held {
        // It has passed its time, and nobody has removed it yet.
        Some(held) => mutations.push(Mutation::Delete(Key::Deadline(held.ends_at, Due::Once(key)))),
        None => count_one_more(scene, &mut mutations)?,
    }
    let ends_at = ends_at(scene.entry.log_time);
    let once = Once { digest, revision: scene.index, term, answer: answer.clone(), ends_at };
    mutations.push(put(Key::Once(key), Record::Once(once)));
    mutations.push(put(Key::Deadline(ends_at, Due::Once(key)), Record::Present));
    Ok(Applied { mutations, answer, before })
}

/// Whether the same command is sent again after this answer.
const fn goes_on(answer: &Answer) -> bool {
    matches!(answer, Answer::More | Answer::Migration(_))
}

fn ends_at(now: Timestamp) -> Timestamp {
    now.plus_ms(ONCE_KEPT_FOR.as_secs() * 1_000)
}

/// The command may have counted something itself; the record is written once.
fn count_one_more(scene: &Scene<'_>, mutations: &mut Vec<Mutation>) -> Result<(), Stop> {
    let own = mutations.iter_mut().find_map(|mutation| match mutation {
        Mutation::Put(Key::Counts, Record::Counts(counts)) => Some(counts),
        Mutation::Put(..) | Mutation::Delete(_) => None,
    });
    let counts = match &own {
        Some(counts) => **counts,
        None => read::counts(scene.view)?,
    };
    if counts.once >= ONCE_MAX {
        // As many as before: one goes for the one that comes.
        let (at, key) = oldest(scene.view)?.ok_or_else(|| full(counts.once))?;
        mutations.extend([Mutation::Delete(Key::Once(key)), Mutation::Delete(Key::Deadline(at, Due::Once(key)))]);
        return Ok(());
    }
    let once = counts.once + 1;
    match own {
        Some(counts) => counts.once = once,
        None => mutations.push(put(Key::Counts, Record::Counts(Counts { once, ..counts }))),
    }
    Ok(())
}

fn full(held: u64) -> Stop {
    exceeded("this cluster", held + 1, ONCE_MAX, "keys of requests")
}

/// The answer that was given first of those that are kept. A command does not touch it: what ends by itself ends
/// without a key.
fn oldest(view: &dyn View) -> Result<Option<(Timestamp, [u8; 32])>, Stop> {
    let deadlines = read::deadlines(view, ROOM_LOOK_MAX)?.into_iter();
    let mut kept = deadlines.filter_map(|(at, due)| if let Due::Once(key) = due { Some((at, key)) } else { None });
    Ok(kept.next())
}

/// Forgets an answer whose time has passed.
pub(super) fn forget(draft: &Draft<'_>, key: [u8; 32], now: Timestamp) -> Result<(), Stop> {
    if read::once(draft, &key)?.is_none_or(|held| held.ends_at > now) {
        return Ok(());
    }
    draft.delete(Key::Once(key));
    let counts = read::counts(draft)?;
    let once = counts.once.checked_sub(1).ok_or_else(|| Fault::Invariant("more keys than counted".to_owned()))?;
    draft.put(Key::Counts, Record::Counts(Counts { once, ..counts }));
    Ok(())
}
