//! The table of migrations, what a choice means, and trying a walk without changing anything.

use ollamax_types::Timestamp;
use ollamax_types::limits::{MIGRATION_REHEARSAL_STEPS_MAX, MIGRATION_STEP_ITEMS_MAX};

use super::*;
use crate::catalog::CLUSTER_VERSION;
use crate::catalog::mem::MemView;
use crate::catalog::record::{Due, Lease, Record};

fn nothing(_: &dyn View, _: Option<&Key>) -> Result<Step, Trouble> {
    Ok(Step { mutations: Vec::new(), looked_at: 0, next: None })
}

fn endless(_: &dyn View, _: Option<&Key>) -> Result<Step, Trouble> {
    Ok(Step { mutations: Vec::new(), looked_at: 1, next: Some(Key::Counts) })
}

const fn spec(number: u32, phase: Phase, needs: u32) -> Spec {
    Spec { number, phase, name: "x", about: "x", needs, up: nothing, down: Some(nothing) }
}

/// One of each range, two of the first.
const TABLE: [Spec; 8] = [
    spec(1, Phase::Core, 3),
    spec(2, Phase::Core, 4),
    spec(100, Phase::Models, 3),
    spec(200, Phase::Memory, 3),
    spec(300, Phase::CliTools, 3),
    spec(400, Phase::Guidance, 3),
    spec(500, Phase::Knowledge, 3),
    spec(699, Phase::Operations, 3),
];

fn row(number: u32, status: MigrationStatus) -> Migration {
    Migration {
        number,
        name: "x".to_owned(),
        phase: 0,
        group: "core".to_owned(),
        started_at: Timestamp(1),
        finished_at: None,
        actor: "admin".to_owned(),
        duration_ms: 0,
        status,
        error: String::new(),
        reverted_at: None,
        reverted_by: String::new(),
        revert_duration_ms: 0,
        reversible: true,
        forced: false,
        began_at: Timestamp(1),
        cursor: None,
        looked_at: 0,
        changed: 0,
    }
}

#[test]
fn every_migration_lies_in_the_range_of_its_phase_and_is_known_to_all_members_that_can_apply_it() {
    assert!(ALL.is_sorted_by(|a, b| a.number < b.number), "in order, each once");
    for spec in ALL.iter().chain(&TABLE) {
        assert!(spec.phase.numbers().contains(&spec.number), "{spec:?}");
    }
    for spec in ALL {
        assert!((3..=CLUSTER_VERSION).contains(&spec.needs), "{spec:?}");
        assert!(!spec.name.is_empty() && !spec.about.is_empty(), "{spec:?}");
    }
}

#[test]
fn seven_ranges_follow_each_other_without_a_gap() {
    let mut next = 1;
    for phase in Phase::ALL {
        assert_eq!(*phase.numbers().start(), next, "{phase:?}");
        next = phase.numbers().end() + 1;
        assert_eq!(Phase::of_text(phase.group()), Some(phase));
        assert_eq!(Phase::of_text(&phase.number().to_string()), Some(phase));
    }
    assert_eq!(next, 700);
    for text in ["7", "", "Core", "-1"] {
        assert_eq!(Phase::of_text(text), None, "{text:?}");
    }
}

#[test]
fn a_choice_is_done_in_order_and_what_waits_is_named() {
    use MigrationStatus::{Applied, Applying, Failed, Reverted, Reverting};

    let up = Choice::default();
    let down = Choice { down: true, ..up };
    let check = |ledger: &[(u32, MigrationStatus)], choice: Choice, run: &[u32], waiting: &[u32]| {
        let ledger: Vec<Migration> = ledger.iter().map(|(number, status)| row(*number, *status)).collect();
        let expected = Plan { run: run.to_vec(), waiting: waiting.to_vec() };
        assert_eq!(plan(&TABLE, &ledger, 3, &choice), expected, "{choice:?}");
    };
    check(&[], up, &[1, 100, 200, 300, 400, 500, 699], &[2]);
    check(&[(1, Applied), (100, Applying), (200, Failed), (300, Reverted)], up, &[100, 200, 300, 400, 500, 699], &[2]);
    for phase in Phase::ALL {
        let expected: Vec<u32> =
            TABLE.iter().filter(|spec| spec.phase == phase && spec.needs == 3).map(|s| s.number).collect();
        let waiting: &[u32] = if phase == Phase::Core { &[2] } else { &[] };
        check(&[], Choice { phase: Some(phase), ..up }, &expected, waiting);
    }
    check(&[], Choice { from: Some(2), to: Some(300), ..up }, &[100, 200, 300], &[2]);
    check(&[], Choice { from: Some(301), to: Some(300), ..up }, &[], &[]);

    let applied = [(1, Applied), (100, Applied), (200, Applied), (300, Reverted), (400, Reverting), (500, Failed)];
    check(&applied, down, &[500], &[]);
    check(&applied, Choice { to: Some(1), ..down }, &[500, 400, 200, 100, 1], &[]);
    check(&applied, Choice { from: Some(400), to: Some(100), ..down }, &[400, 200, 100], &[]);
    check(&applied, Choice { phase: Some(Phase::Core), ..down }, &[1], &[]);
    check(&[], Choice { to: Some(1), ..down }, &[], &[]);
}

#[test]
fn an_older_cluster_is_offered_nothing_that_its_members_do_not_know() {
    let plan = plan(ALL, &[], 2, &Choice::default());
    assert_eq!(plan, Plan { run: vec![], waiting: vec![1] });
}

#[test]
fn a_rehearsal_sees_its_own_changes_counts_them_and_leaves_the_state_as_it_is() {
    let count = 2 * MIGRATION_STEP_ITEMS_MAX as u64 + 5;
    let mut view = MemView::default();
    for id in 2..2 + count {
        let (at, lease) = (Timestamp(id), Lease { ttl_ms: 1, ends_at: Timestamp(id), values: 0, due_at: None });
        view.write(&[Mutation::Put(Key::Deadline(at, Due::Lease(id)), Record::Present)]);
        // Every third one has ended.
        if id % 3 != 0 {
            view.write(&[Mutation::Put(Key::Lease(id), Record::Lease(lease))]);
        }
    }
    let before = view.clone();
    let leases = (2..2 + count).filter(|id| id % 3 != 0).count() as u64;
    let told = rehearse(&view, ALL[0].up).expect("readable");
    assert_eq!(told, Rehearsal { looked_at: count + leases, changed: count, ..Rehearsal::default() });
    assert_eq!(view, before);

    view.write(&[Mutation::Delete(Key::Deadline(Timestamp(4), Due::Lease(4)))]);
    let told = rehearse(&view, ALL[0].up).expect("readable");
    assert_eq!(told.contradiction.as_deref(), Some("lease/4 has no deadline: it would never end"));
    let told = rehearse(&view, endless).expect("readable");
    assert!(told.broken_off && told.looked_at == MIGRATION_REHEARSAL_STEPS_MAX as u64, "{told:?}");
}
