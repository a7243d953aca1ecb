//! Sessions, leases, copies of a model and a task, explored: every order in which a few clients, nodes, the network and
//! time can act, up to a bound.
//!
//! The models call `apply` itself on the state in memory. What must never be is asked of every state that can be
//! reached; what must be possible (a sequence that is too old, a lease that ends) shows that the models can get there.

mod copies;
mod tasks;

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use stateright::{Checker, Model, Property};

use super::*;
use crate::catalog::record::{Key, KeyRange, Record};
use crate::catalog::txn::{Op, Txn};
use crate::catalog::view::View;

const SESSION_TTL: u64 = ms(SESSION_TTL_MIN);
const LEASE_TTL: u64 = ms(LEASE_TTL_MIN);
const SESSION_WINDOW: u32 = 2;
const SEQUENCES: u64 = 4;
/// Entries in one history.
const SESSION_INDEX_MAX: u64 = 9;
const LEASE_INDEX_MAX: u64 = 8;
const KEY: &str = "user/k";

const fn ms(whole: Duration) -> u64 {
    whole.as_secs() * 1_000
}

fn put(bytes: &[u8], lease: Option<u64>) -> Command {
    let put = Op::Put { key: KEY.to_owned(), bytes: bytes.to_vec(), lease };
    Command::Txn(Txn { then: vec![put], ..Txn::default() })
}

/// A state with the index of its last entry and log time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct World {
    view: MemView,
    index: u64,
    now: u64,
}

// === impl World ===

impl World {
    fn new() -> Self {
        let mut world = Self { view: MemView::default(), index: 0, now: 1 };
        world.apply(None, init());
        world
    }

    fn apply(&mut self, session: Option<(u64, u64)>, command: Command) -> Applied {
        self.index += 1;
        let entry = Entry { session, least_version: CLUSTER_VERSION, ..entry(self.now, command) };
        let applied = apply(&self.view, self.index, 1, &entry).expect("no fault");
        self.view.write(&applied.mutations);
        applied
    }

    fn value(&self) -> Option<crate::catalog::record::Value> {
        read::value(&self.view, "", KEY).expect("readable")
    }
}

// === sessions ===

/// One client in one session. The network keeps every message that was sent, and may deliver it at any time again.
struct Sessions;

#[derive(Debug, Clone, PartialEq, Eq)]
struct SessionState {
    world: World,
    session: u64,
    sent: u64,
    /// How often each sequence had an effect.
    effects: BTreeMap<u64, u32>,
    answers: BTreeMap<u64, Answer>,
    /// An answer that differed from the first one.
    changed: bool,
    too_old: bool,
    /// Something had an effect in a session that had ended.
    haunted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum SessionAct {
    Send,
    Deliver(u64),
    TimePasses,
    Expire,
}

impl Hash for SessionState {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        format!("{self:?}").hash(hasher);
    }
}

impl Model for Sessions {
    type State = SessionState;
    type Action = SessionAct;

    fn init_states(&self) -> Vec<SessionState> {
        let mut world = World::new();
        let open = Command::OpenSession { ttl_ms: SESSION_TTL, window: SESSION_WINDOW };
        let Answer::Session { session } = world.apply(None, open).answer else { panic!("a session") };
        vec![SessionState {
            world,
            session,
            sent: 0,
            effects: BTreeMap::new(),
            answers: BTreeMap::new(),
            changed: false,
            too_old: false,
            haunted: false,
        }]
    }

    fn actions(&self, state: &SessionState, actions: &mut Vec<SessionAct>) {
        if state.sent < SEQUENCES {
            actions.push(SessionAct::Send);
        }
        actions.extend((1..=state.sent).map(SessionAct::Deliver));
        if state.world.now <= SESSION_TTL {
            actions.push(SessionAct::TimePasses);
        }
        actions.push(SessionAct::Expire);
    }

    fn next_state(&self, last: &SessionState, action: SessionAct) -> Option<SessionState> {
        let mut state = last.clone();
        match action {
            SessionAct::Send => state.sent += 1,
            SessionAct::TimePasses => state.world.now += SESSION_TTL / 2 + 1,
            SessionAct::Expire => drop(state.world.apply(None, Command::Expire)),
            SessionAct::Deliver(sequence) => deliver(&mut state, sequence),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a sequence has effect at most once", |_, state: &SessionState| {
                state.effects.values().all(|count| *count <= 1)
            }),
            Property::always("what comes again gets the first answer", |_, state: &SessionState| !state.changed),
            Property::always("nothing has effect in a session that has ended", |_, state: &SessionState| {
                !state.haunted
            }),
            Property::always("the value was written as often as there were effects", |_, state: &SessionState| {
                let written = state.world.value().map_or(0, |value| value.version);
                written == state.effects.values().map(|count| u64::from(*count)).sum::<u64>()
            }),
            Property::sometimes("a sequence is too old", |_, state: &SessionState| state.too_old),
            Property::sometimes("a session ends", |_, state: &SessionState| {
                read::session(&state.world.view, state.session).expect("readable").is_none()
            }),
        ]
    }

    fn within_boundary(&self, state: &SessionState) -> bool {
        state.world.index <= SESSION_INDEX_MAX
    }
}

fn deliver(state: &mut SessionState, sequence: u64) {
    let now = state.world.now;
    let session = read::session(&state.world.view, state.session).expect("readable");
    let runs = session.is_some_and(|session| session.ends_at.0 > now);
    let before = state.world.value();
    let applied = state.world.apply(Some((state.session, sequence)), put(format!("{sequence}").as_bytes(), None));
    if before != state.world.value() {
        *state.effects.entry(sequence).or_default() += 1;
        state.haunted |= !runs;
    }
    match applied.answer {
        Answer::Refused(Refusal::SequenceTooOld { .. }) => state.too_old = true,
        Answer::Refused(Refusal::SessionExpired(_)) => {}
        answer => {
            let first = state.answers.entry(sequence).or_insert_with(|| answer.clone());
            state.changed |= *first != answer;
        }
    }
}

#[test]
fn however_messages_repeat_a_sequence_has_effect_once() {
    Sessions.checker().spawn_bfs().join().assert_properties();
}

// === leases ===

/// One client with one lease, a value that may go with it, and a leader that expires what has passed its time.
struct Leases;

#[derive(Debug, Clone, PartialEq, Eq)]
struct LeaseState {
    world: World,
    lease: Option<u64>,
    /// Until when the client was told that its lease runs; 0 once it was given up.
    promised: u64,
    /// The value goes with the lease.
    bound: bool,
    /// What an answer of `Done` to the last command says: nothing that has passed its time is left.
    swept: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LeaseAct {
    Grant,
    Renew,
    Revoke,
    Bind,
    Unbind,
    TimePasses,
    Expire,
}

impl Hash for LeaseState {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        format!("{self:?}").hash(hasher);
    }
}

impl Model for Leases {
    type State = LeaseState;
    type Action = LeaseAct;

    fn init_states(&self) -> Vec<LeaseState> {
        vec![LeaseState { world: World::new(), lease: None, promised: 0, bound: false, swept: false }]
    }

    fn actions(&self, state: &LeaseState, actions: &mut Vec<LeaseAct>) {
        match state.lease {
            None => actions.push(LeaseAct::Grant),
            Some(_) => actions.extend([LeaseAct::Renew, LeaseAct::Revoke, LeaseAct::Bind]),
        }
        if state.world.now <= 3 * LEASE_TTL {
            actions.push(LeaseAct::TimePasses);
        }
        actions.extend([LeaseAct::Unbind, LeaseAct::Expire]);
    }

    fn next_state(&self, last: &LeaseState, action: LeaseAct) -> Option<LeaseState> {
        let mut state = LeaseState { swept: false, ..last.clone() };
        let lease = state.lease.unwrap_or_default();
        let now = state.world.now;
        match action {
            LeaseAct::TimePasses => state.world.now += LEASE_TTL / 2,
            LeaseAct::Grant => {
                let granted = state.world.apply(None, Command::GrantLease { ttl_ms: LEASE_TTL });
                if let Answer::Lease { lease, ttl_ms } = granted.answer {
                    (state.lease, state.promised) = (Some(lease), now + ttl_ms);
                }
            }
            LeaseAct::Renew => {
                if let Answer::Lease { ttl_ms, .. } = state.world.apply(None, Command::RenewLease { lease }).answer {
                    state.promised = now + ttl_ms;
                }
            }
            LeaseAct::Revoke => {
                state.world.apply(None, Command::RevokeLease { lease });
                (state.lease, state.promised, state.bound) = (None, 0, false);
            }
            LeaseAct::Bind => {
                let bound = state.world.apply(None, put(b"bound", Some(lease)));
                state.bound = state.bound || matches!(bound.answer, Answer::Txn { .. });
            }
            LeaseAct::Unbind => {
                state.world.apply(None, put(b"free", None));
                state.bound = false;
            }
            LeaseAct::Expire => state.swept = state.world.apply(None, Command::Expire).answer == Answer::Done,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no lease ends before its time", |_, state: &LeaseState| {
                state.lease.is_none() || state.world.now >= state.promised || lease_of(state).is_some()
            }),
            Property::always("what goes with a lease stays as long as it", |_, state: &LeaseState| {
                let holds = state.world.value().is_some_and(|value| value.bytes == b"bound");
                !state.bound || state.world.now >= state.promised || holds
            }),
            Property::always("nothing outlives its time once it was swept", |_, state: &LeaseState| {
                !state.swept || lease_of(state).is_none_or(|lease| lease.ends_at.0 > state.world.now)
            }),
            Property::always("what goes with a lease is gone with it", |_, state: &LeaseState| {
                let of = state.world.value().and_then(|value| value.lease);
                of.is_none_or(|lease| read::lease(&state.world.view, lease).expect("readable").is_some())
            }),
            Property::always("a lease counts what goes with it", |_, state: &LeaseState| {
                let bound = state.world.value().and_then(|value| value.lease).is_some();
                lease_of(state).is_none_or(|lease| lease.values == u32::from(bound))
            }),
            Property::always("all leases are counted", |_, state: &LeaseState| {
                let held = state.world.view.scan(&KeyRange::Leases, None, usize::MAX).expect("readable").len();
                let counts = state.world.view.get(&Key::Counts).expect("readable");
                counts.is_none_or(|counts| matches!(counts, Record::Counts(counts) if counts.leases as usize == held))
            }),
            Property::sometimes("a lease ends by itself", |_, state: &LeaseState| {
                state.lease.is_some() && lease_of(state).is_none()
            }),
            Property::sometimes("a lease is renewed beyond its first end", |_, state: &LeaseState| {
                state.promised > 1 + LEASE_TTL && state.world.now > 1 + LEASE_TTL && lease_of(state).is_some()
            }),
        ]
    }

    fn within_boundary(&self, state: &LeaseState) -> bool {
        state.world.index <= LEASE_INDEX_MAX
    }
}

fn lease_of(state: &LeaseState) -> Option<crate::catalog::record::Lease> {
    read::lease(&state.world.view, state.lease?).expect("readable")
}

#[test]
fn however_time_passes_a_lease_lasts_as_long_as_was_promised() {
    Leases.checker().spawn_bfs().join().assert_properties();
}
