//! What ends by itself: the leader asks for it as soon as the first deadline has passed in log time.
//!
//! A deadline whose lease or session was renewed moves to its new end, so that renewing costs no second record; those
//! of tasks stand where they end. One
//! command works on a bounded number of deadlines and values; [`Answer::More`] says that others have passed too.

use ollamax_types::limits::{EXPIRE_ITEMS_MAX, LEASE_VALUES_MAX};

use super::draft::Draft;
use super::{Applied, Scene, Step, Stop, leases, once, sessions, tasks};
use crate::catalog::command::Answer;
use crate::catalog::read;
use crate::catalog::record::{Due, Key, Lease, Record, Session};

pub(super) fn expire(scene: &Scene<'_>) -> Step {
    let now = scene.entry.log_time;
    let deadlines = read::deadlines(scene.view, EXPIRE_ITEMS_MAX + 1)?;
    let passed: Vec<_> = deadlines.into_iter().take_while(|(at, _)| *at <= now).collect();
    let draft = Draft::new(scene.view);
    let (mut room, mut looked_at) = (u64::from(LEASE_VALUES_MAX), 0);
    for (at, due) in passed.iter().take(EXPIRE_ITEMS_MAX) {
        if !look(scene, &draft, *due, &mut room)? {
            break;
        }
        draft.delete(Key::Deadline(*at, *due));
        looked_at += 1;
    }
    let answer = if looked_at < passed.len() { Answer::More } else { Answer::Done };
    Ok(Applied::new(draft.into_mutations(), answer))
}

/// Ends what has passed its time, or sets its next deadline. `false`: there is no room for it in this command.
fn look(scene: &Scene<'_>, draft: &Draft<'_>, due: Due, room: &mut u64) -> Result<bool, Stop> {
    let now = scene.entry.log_time;
    match due {
        Due::Lease(id) => {
            let Some(lease) = read::lease(draft, id)? else { return Ok(true) };
            if lease.ends_at > now {
                draft.put(Key::Deadline(lease.ends_at, due), Record::Present);
                if let Some(due_at) = scene.noted(lease.ends_at) {
                    draft.put(Key::Lease(id), Record::Lease(Lease { due_at: Some(due_at), ..lease }));
                }
                return Ok(true);
            }
            let Some(left) = room.checked_sub(u64::from(lease.values)) else { return Ok(false) };
            *room = left;
            leases::end(draft, id, lease)?;
        }
        Due::Session(id) => {
            let Some(session) = read::session(draft, id)? else { return Ok(true) };
            if session.ends_at > now {
                draft.put(Key::Deadline(session.ends_at, due), Record::Present);
                if let Some(due_at) = scene.noted(session.ends_at) {
                    draft.put(Key::Session(id), Record::Session(Session { due_at: Some(due_at), ..session }));
                }
                return Ok(true);
            }
            sessions::end(draft, id, &session)?;
        }
        Due::Task(id) => tasks::look(draft, &id, (now, scene.index))?,
        Due::Once(key) => once::forget(draft, key, now)?,
    }
    Ok(true)
}
