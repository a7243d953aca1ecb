//! Client sessions: a command that comes again gets the answer that it got before, and has no second effect.
//!
//! Always holds: an answer is kept for each executed sequence that lies less than the window below the highest; what
//! lies further below is never executed, nor is anything in a session that has ended, whether it was swept or not. A
//! client may leave sequences out: those of commands that never came to the leader, say.

use ollamax_types::Timestamp;
use ollamax_types::limits::{SESSION_TTL_MAX, SESSION_TTL_MIN, SESSION_WINDOW_MAX, SESSIONS_MAX};

use super::draft::Draft;
use super::limit::{check_ttl, exceeded};
use super::{Applied, Scene, Step, Stop, invalid, once as requests, put};
use crate::catalog::command::{Answer, Command, Refusal};
use crate::catalog::read;
use crate::catalog::record::{Counts, Due, Key, Record, Remembered, Session};
use crate::catalog::view::{Fault, Mutation};

pub(super) fn open(scene: &Scene<'_>, ttl_ms: u64, window: u32) -> Step {
    check_ttl("a session", ttl_ms, SESSION_TTL_MIN, SESSION_TTL_MAX)?;
    if window == 0 || window > SESSION_WINDOW_MAX {
        return Err(invalid(format!("the window of a session is 1 to {SESSION_WINDOW_MAX}, not {window}")));
    }
    let counts = read::counts(scene.view)?;
    if counts.sessions >= SESSIONS_MAX {
        return Err(exceeded("this cluster", counts.sessions + 1, SESSIONS_MAX, "sessions"));
    }
    let (id, ends_at) = (scene.index, scene.entry.log_time.plus_ms(ttl_ms));
    let principal = scene.entry.principal.clone();
    let session = Session { principal, ttl_ms, ends_at, window, highest: 0, due_at: scene.noted(ends_at) };
    let mutations = vec![
        put(Key::Counts, Record::Counts(Counts { sessions: counts.sessions + 1, ..counts })),
        put(Key::Session(id), Record::Session(session)),
        put(Key::Deadline(ends_at, Due::Session(id)), Record::Present),
    ];
    Ok(Applied::new(mutations, Answer::Session { session: id }))
}

pub(super) fn close(scene: &Scene<'_>, id: u64) -> Step {
    let Some(session) = read::session(scene.view, id)? else {
        return Ok(Applied::done(Vec::new()));
    };
    let draft = Draft::new(scene.view);
    end(&draft, id, &session)?;
    Ok(Applied::done(draft.into_mutations()))
}

/// Removes a session and the answers that it holds. A deadline that is not noted stays, and finds nothing when it
/// comes.
pub(super) fn end(draft: &Draft<'_>, id: u64, session: &Session) -> Result<(), Stop> {
    for sequence in oldest(session, session.highest)..=session.highest {
        draft.delete(Key::SessionAnswer(id, sequence));
    }
    draft.delete(Key::Session(id));
    if let Some(at) = session.due_at {
        draft.delete(Key::Deadline(at, Due::Session(id)));
    }
    let counts = read::counts(draft)?;
    let sessions = counts.sessions.checked_sub(1);
    let sessions = sessions.ok_or_else(|| Fault::Invariant("more sessions than counted".to_owned()))?;
    draft.put(Key::Counts, Record::Counts(Counts { sessions, ..counts }));
    Ok(())
}

/// The least sequence whose answer is kept when `highest` is the highest.
fn oldest(session: &Session, highest: u64) -> u64 {
    highest.saturating_sub(u64::from(session.window) - 1).max(1)
}

/// Executes a command of a session, unless it was executed before.
pub(super) fn once(scene: &Scene<'_>, (id, sequence): (u64, u64), term: u64) -> Step {
    let now = scene.entry.log_time;
    let session = read::session(scene.view, id)?.filter(|session| session.ends_at > now);
    let session = session.ok_or(Refusal::SessionExpired(id))?;
    if let Some(Remembered { revision, term, answer }) = read::session_answer(scene.view, id, sequence)? {
        return Ok(Applied { mutations: Vec::new(), answer, before: Some((revision, term)) });
    }
    let least = oldest(&session, session.highest);
    if sequence < least {
        return Err(Refusal::SequenceTooOld { session: id, sequence, oldest: least }.into());
    }
    if scene.entry.command == (Command::CloseSession { session: id }) {
        return Err(invalid(format!("session {id} is closed by a command outside it")));
    }
    let applied = match requests::keyed(scene, term) {
        Err(Stop::Refused(refusal)) => Applied::new(Vec::new(), Answer::Refused(refusal)),
        other => other?,
    };
    let highest = session.highest.max(sequence);
    // What lies above the last highest was never executed, so a jump leaves nothing to forget there.
    let forgotten = least..oldest(&session, highest).min(session.highest.saturating_add(1));
    let (revision, term) = applied.before.unwrap_or((scene.index, term));
    let remembered = Remembered { revision, term, answer: applied.answer.clone() };
    let mut mutations = applied.mutations;
    let due_at = deadline_of(&mut mutations, id).unwrap_or(session.due_at);
    let ends_at = session.ends_at.max(now.plus_ms(session.ttl_ms));
    let renewed = Session { highest, ends_at, due_at, ..session };
    mutations.extend(forgotten.map(|sequence| Mutation::Delete(Key::SessionAnswer(id, sequence))));
    mutations.push(put(Key::SessionAnswer(id, sequence), Record::Remembered(remembered)));
    mutations.push(put(Key::Session(id), Record::Session(renewed)));
    Ok(Applied { mutations, answer: applied.answer, before: applied.before })
}

/// What the command itself wrote of its own session: nothing but where the deadline stands. That is taken over, and the
/// session is written once.
fn deadline_of(mutations: &mut Vec<Mutation>, id: u64) -> Option<Option<Timestamp>> {
    let own = mutations.iter().position(|mutation| matches!(mutation, Mutation::Put(Key::Session(of), _) if *of == id));
    match mutations.remove(own?) {
        Mutation::Put(_, Record::Session(changed)) => Some(changed.due_at),
        Mutation::Put(..) | Mutation::Delete(_) => None,
    }
}
