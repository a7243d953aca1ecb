//! Migrations and their ledger, row by row: there and back, in steps, out of order, against contradictions.

use super::*;
use crate::catalog::migrations::{Phase, Spec, Trouble};
use crate::catalog::record::{Due, KeyRange, Lease, Migration, MigrationStatus, Session};

const MINUTE_MS: u64 = 60_000;

fn migrate(down: bool) -> Command {
    Command::Migrate { number: 1, down, force: false }
}

/// A cluster at version 2 and commands at rising indexes.
struct World {
    view: MemView,
    index: u64,
}

impl World {
    fn at_version(version: u32) -> Self {
        let Command::InitCluster { cluster, name, public_key, first, .. } = init() else { unreachable!("init is one") };
        let mut world = Self { view: MemView::default(), index: 0 };
        world.ask(0, Command::InitCluster { cluster, name, public_key, first, version });
        world
    }

    fn ask(&mut self, log_time: u64, command: Command) -> Answer {
        self.index += 1;
        self.view.apply(self.index, 1, &entry(log_time, command)).expect("no fault")
    }

    fn row(&mut self, log_time: u64, command: Command) -> Migration {
        match self.ask(log_time, command) {
            Answer::Migration(row) => *row,
            other => unreachable!("{other:?}"),
        }
    }

    /// Sends a command until what it began has ended; how many steps that took.
    fn walk(&mut self, log_time: u64, command: &Command) -> (Migration, u64) {
        for steps in 1.. {
            let row = self.row(log_time + steps, command.clone());
            if !matches!(row.status, MigrationStatus::Applying | MigrationStatus::Reverting) {
                return (row, steps);
            }
        }
        unreachable!("the loop has no end")
    }

    fn grant(&mut self, ttl_ms: u64) -> u64 {
        match self.ask(0, Command::GrantLease { ttl_ms }) {
            Answer::Lease { lease, .. } => lease,
            other => unreachable!("{other:?}"),
        }
    }

    fn open(&mut self) -> u64 {
        match self.ask(0, Command::OpenSession { ttl_ms: MINUTE_MS, window: 1 }) {
            Answer::Session { session } => session,
            other => unreachable!("{other:?}"),
        }
    }

    fn deadlines(&self) -> Vec<(u64, Due)> {
        let found = read::deadlines(&self.view, 999).expect("readable");
        found.into_iter().map(|(at, due)| (at.0, due)).collect()
    }

    /// What lease and session note of their deadlines.
    fn notes(&self, lease: u64, session: u64) -> (Option<u64>, Option<u64>) {
        let lease = read::lease(&self.view, lease).expect("readable").expect("there");
        let session = read::session(&self.view, session).expect("readable").expect("there");
        (lease.due_at.map(|at| at.0), session.due_at.map(|at| at.0))
    }
}

#[test]
fn what_version_2_left_behind_goes_and_what_it_did_not_note_is_noted_and_back() {
    let mut world = World::at_version(2);
    let (kept, ended, session, closed) = (world.grant(MINUTE_MS), world.grant(9_000), world.open(), world.open());
    world.ask(0, Command::RevokeLease { lease: ended });
    world.ask(0, Command::CloseSession { session: closed });
    let old = world.deadlines();
    assert_eq!(old.len(), 4, "two of them of nothing: {old:?}");
    assert_eq!(world.ask(0, migrate(false)), refused(Refusal::VersionTooLow { needed: 3, actual: 2 }));
    world.ask(0, Command::RaiseVersion { version: 3 });
    assert_eq!(world.notes(kept, session), (None, None));

    let (row, steps) = world.walk(1_000, &migrate(false));
    assert_eq!((row.status, row.looked_at, row.changed, steps), (MigrationStatus::Applied, 6, 4, 3));
    assert_eq!((row.number, &*row.name, row.phase, &*row.group), (1, "noted_deadlines", 0, "core"));
    assert_eq!((row.started_at, row.finished_at, row.duration_ms), (Timestamp(1_001), Some(Timestamp(1_003)), 2));
    assert_eq!((&*row.actor, &*row.error, row.reversible, row.forced), ("admin", "", true, false));
    assert_eq!((row.reverted_at, &*row.reverted_by, row.revert_duration_ms), (None, "", 0));
    assert_eq!(read::migrations(&world.view), Ok(vec![row.clone()]));
    assert_eq!(world.deadlines(), [(MINUTE_MS, Due::Lease(kept)), (MINUTE_MS, Due::Session(session))]);
    assert_eq!(world.notes(kept, session), (Some(MINUTE_MS), Some(MINUTE_MS)));

    let before = world.view.clone();
    assert_eq!(world.row(5_000, migrate(false)), row, "done once");
    assert_eq!(world.view, before);

    let (row, steps) = world.walk(6_000, &migrate(true));
    assert_eq!((row.status, row.looked_at, row.changed, steps), (MigrationStatus::Reverted, 2, 2, 2));
    assert_eq!((row.reverted_at, &*row.reverted_by, row.revert_duration_ms), (Some(Timestamp(6_002)), "admin", 1));
    assert_eq!((row.started_at, row.finished_at), (Timestamp(1_001), Some(Timestamp(1_003))), "kept");
    assert_eq!(world.notes(kept, session), (None, None));
    assert_eq!(world.deadlines().len(), 2);
    assert_eq!(world.row(7_000, migrate(true)), row, "done once");
    // What is granted from now on is in the new form all the same, and there again is a new run.
    let newer = world.grant(MINUTE_MS);
    assert_eq!(world.notes(newer, session), (Some(MINUTE_MS), None));
    let (row, _) = world.walk(8_000, &migrate(false));
    assert_eq!((row.status, row.changed, row.reverted_at), (MigrationStatus::Applied, 2, None));
}

#[test]
fn from_version_3_on_whoever_ends_takes_the_deadline_along_also_a_moved_one() {
    let mut world = World::at_version(3);
    let (lease, session) = (world.grant(MINUTE_MS), world.open());
    world.ask(30_000, Command::RenewLease { lease });
    let put =
        Entry { session: Some((session, 1)), ..entry(30_000, Command::SetSetting { key: "k".into(), value: vec![] }) };
    world.index += 1;
    world.view.apply(world.index, 1, &put).expect("no fault");
    world.ask(MINUTE_MS, Command::Expire);
    assert_eq!(world.notes(lease, session), (Some(90_000), Some(90_000)), "moved and noted");
    world.ask(90_000, Command::RevokeLease { lease });
    world.ask(90_000, Command::CloseSession { session });
    assert!(world.deadlines().is_empty(), "{:?}", world.deadlines());
}

#[test]
fn a_session_that_moves_its_own_deadline_notes_where_to() {
    let mut world = World::at_version(3);
    let session = world.open();
    let ask = |world: &mut World, sequence: u64, log_time: u64, command: Command| {
        world.index += 1;
        let entry = Entry { session: Some((session, sequence)), ..entry(log_time, command) };
        world.view.apply(world.index, 1, &entry).expect("no fault");
    };
    ask(&mut world, 1, 30_000, Command::DeleteSetting { key: "k".to_owned() });
    ask(&mut world, 2, MINUTE_MS, Command::Expire);
    let found = read::session(&world.view, session).expect("readable").expect("there");
    assert_eq!((found.due_at, found.ends_at, found.highest), (Some(Timestamp(90_000)), Timestamp(120_000), 2));
    assert_eq!(world.deadlines(), [(90_000, Due::Session(session))]);
}

#[test]
fn many_records_go_in_steps_and_other_commands_come_between() {
    let mut world = World::at_version(2);
    let count = 3 * MIGRATION_STEP_ITEMS_MAX as u64;
    let leases: Vec<u64> = (0..count).map(|number| world.grant(MINUTE_MS + number)).collect();
    for lease in leases.iter().skip(1).step_by(2) {
        world.ask(0, Command::RevokeLease { lease: *lease });
    }
    world.ask(0, Command::RaiseVersion { version: 3 });
    let first = world.row(1, migrate(false));
    assert_eq!((first.status, first.looked_at), (MigrationStatus::Applying, MIGRATION_STEP_ITEMS_MAX as u64));
    assert!(matches!(first.cursor, Some(Key::Deadline(..))), "{first:?}");
    // One that was noted goes, one ahead of the walk is renewed, a new one comes.
    let (behind, ahead) = (leases[0], leases[leases.len() - 2]);
    world.ask(2, Command::RevokeLease { lease: behind });
    world.ask(MINUTE_MS - 1, Command::RenewLease { lease: ahead });
    let newer = world.grant(9_000);
    let (row, steps) = world.walk(3, &migrate(false));
    assert_eq!((row.status, row.changed), (MigrationStatus::Applied, count), "{row:?}");
    assert!(steps >= 5, "{steps} more steps");
    let found = read::leases(&world.view, None, 999).expect("readable");
    assert_eq!(found.len() as u64, count / 2);
    assert!(found.iter().any(|(id, _)| *id == newer));
    for (id, lease) in found {
        let at = lease.due_at.unwrap_or_else(|| unreachable!("{id} is not noted"));
        assert!(world.view.get(&Key::Deadline(at, Due::Lease(id))).expect("readable").is_some(), "{id}");
    }
    assert_eq!(world.deadlines().len() as u64, count / 2);
}

#[test]
fn records_that_contradict_each_other_end_it_by_name_and_nothing_is_repaired() {
    let lease = |due_at| Record::Lease(Lease { ttl_ms: 1, ends_at: Timestamp(9), values: 0, due_at });
    let session = |due_at| {
        let principal = "a".to_owned();
        Record::Session(Session { principal, ttl_ms: 1, ends_at: Timestamp(9), window: 1, highest: 0, due_at })
    };
    let deadline = |at| put(Key::Deadline(Timestamp(at), Due::Lease(7)), Record::Present);
    let noted = Some(Timestamp(9));
    let rows = [
        (vec![put(Key::Lease(7), lease(None))], "lease/7 has no deadline: it would never end"),
        (vec![put(Key::Lease(7), lease(noted))], "lease/7 has no deadline: it would never end"),
        (vec![put(Key::Session(8), session(noted))], "session/8 has no deadline: it would never end"),
        (vec![put(Key::Lease(7), lease(noted)), deadline(5)], "lease/7 has a deadline at 5 and another one at 9"),
        (
            vec![put(Key::Lease(7), lease(None)), deadline(5), deadline(6)],
            "lease/7 has a deadline at 6 and another one at 5",
        ),
    ];
    for (broken, expected) in rows {
        let mut world = World::at_version(3);
        world.view.write(&broken);
        let before = world.view.clone();
        let (row, _) = world.walk(1, &migrate(false));
        assert_eq!((row.status, &*row.error), (MigrationStatus::Failed, expected));
        let mut after = world.view.clone();
        after.write(&[Mutation::Delete(Key::Migration(1))]);
        assert_eq!(after, before, "{expected}");
    }
    // Once it is whole, it is begun anew.
    let mut world = World::at_version(3);
    world.view.write(&[put(Key::Lease(7), lease(None))]);
    assert_eq!(world.walk(1, &migrate(false)).0.status, MigrationStatus::Failed);
    world.view.write(&[deadline(9)]);
    let (row, _) = world.walk(10, &migrate(false));
    assert_eq!((row.status, &*row.error, row.started_at), (MigrationStatus::Applied, "", Timestamp(11)));
}

type Done = Result<crate::catalog::migrations::Step, Trouble>;

/// Two steps.
fn twice(_: &dyn View, after: Option<&Key>) -> Done {
    let next = if after.is_none() { Some(Key::Counts) } else { None };
    Ok(crate::catalog::migrations::Step { mutations: Vec::new(), looked_at: 1, next })
}

fn stuck(_: &dyn View, _: Option<&Key>) -> Done {
    Err(Trouble::Contradiction("no".to_owned()))
}

const fn spec(number: u32, needs: u32, down: bool) -> Spec {
    let down = if down { Some(twice as crate::catalog::migrations::Walk) } else { None };
    Spec { number, phase: Phase::Core, name: "x", about: "x", needs, up: twice, down }
}

const TABLE: [Spec; 4] =
    [spec(1, 3, true), spec(2, 3, true), Spec { down: Some(stuck), ..spec(3, 3, true) }, spec(4, 9, false)];

/// What a wish of that table answers: the status after it, or the refusal's text.
fn wish(view: &mut MemView, number: u32, down: bool, force: bool) -> String {
    let entry = entry(1, migrate(down));
    let cluster = read::cluster(view).expect("readable").expect("there");
    let scene = Scene { view: &*view, entry: &entry, index: 9, cluster };
    let applied = match migrations::step(&TABLE, &scene, migrations::Wish { number, down, force }) {
        Ok(applied) => applied,
        Err(Stop::Refused(refusal)) => return refusal.to_string(),
        Err(Stop::Fault(fault)) => unreachable!("{fault}"),
    };
    view.write(&applied.mutations);
    match applied.answer {
        Answer::Migration(row) => row.status.as_str().to_owned(),
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn they_go_in_order_there_and_back_unless_somebody_insists() {
    let mut view = World::at_version(3).view;
    let mut check = |number: u32, down: bool, force: bool, expected: &str| {
        assert_eq!(wish(&mut view, number, down, force), expected, "{number} down: {down} force: {force}");
    };
    let (up, down) = (false, true);
    check(9, up, true, "there is no migration 009 at cluster version 3");
    check(4, up, true, "there is no migration 004 at cluster version 3");
    check(1, down, true, "migration 001 was never applied; see: ollamax migrate status");
    check(2, up, false, "migration 002 comes after 001, which is not applied; first: ollamax migrate up --to 1");
    check(1, up, false, "applying");
    check(2, up, false, "migration 002 comes after 001, which is not applied; first: ollamax migrate up --to 1");
    check(1, down, false, "migration 001 is applying; first finish that: ollamax migrate up --to 1");
    check(1, up, false, "applied");
    check(3, up, true, "applying");
    check(3, up, false, "applied");
    check(1, down, false, "migration 001 goes back after 003, which is applied; first: ollamax migrate down --to 3");
    check(3, down, false, "failed");
    check(1, down, false, "migration 001 goes back after 003, which is failed; first: ollamax migrate down --to 3");
    check(1, down, true, "reverting");
    check(1, up, false, "migration 001 is reverting; first finish that: ollamax migrate down --to 1");
    check(1, up, true, "applying");
    check(1, down, true, "reverting");
    check(1, down, false, "reverted");
    check(1, down, false, "reverted");
    check(3, up, true, "applying");
    check(3, up, true, "applied");
}

#[test]
fn one_without_a_way_back_says_so_and_every_row_tells_that_it_was_forced() {
    const ONE_WAY: [Spec; 1] = [spec(1, 3, false)];
    let mut view = World::at_version(3).view;
    let cluster = read::cluster(&view).expect("readable").expect("there");
    let entry = entry(1, migrate(false));
    let ask = |view: &MemView, down: bool| {
        let scene = Scene { view, entry: &entry, index: 9, cluster: cluster.clone() };
        migrations::step(&ONE_WAY, &scene, migrations::Wish { number: 1, down, force: true })
    };
    let Ok(applied) = ask(&view, false) else { unreachable!("it may begin") };
    view.write(&applied.mutations);
    let row = read::migration(&view, 1).expect("readable").expect("there");
    assert_eq!((row.forced, row.reversible), (true, false));
    let Err(Stop::Refused(refusal)) = ask(&view, true) else { unreachable!("there is no way back") };
    assert_eq!(refusal, Refusal::Migration("migration 001 has no way back".to_owned()));
    let listed = view.scan(&KeyRange::Migrations, None, 9).expect("readable");
    assert_eq!(listed.len(), 1);
}
