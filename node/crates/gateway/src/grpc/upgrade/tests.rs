//! Each check of an upgrade, row by row: what is changed in a healthy picture, and what is then said of it.

use super::*;

fn node(id: u64) -> NodeView {
    let mut node = NodeView {
        id,
        name: format!("n{id}"),
        voter: true,
        applied_index: 5_000,
        daemon_version: "0.1.0".to_owned(),
        disk_free_bytes: Some(8 << 30),
        applies_up_to: 3,
        applies_known: 3,
        ..NodeView::default()
    };
    node.set_health(Health::Alive);
    node.set_state(State::Active);
    node
}

fn migration(status: Standing, needs: u32) -> v1::Migration {
    let name = "noted_deadlines".to_owned();
    let mut migration = v1::Migration { number: 1, name, needs, ..v1::Migration::default() };
    migration.set_status(status);
    migration
}

fn healthy() -> (StatusReply, Beside) {
    let raft = RaftView {
        leader: 1,
        has_quorum: true,
        voters: vec![1, 2, 3],
        failure_tolerance: 1,
        committed_index: 5_000,
        last_log_index: 5_001,
        compared_index: 4_096,
        ..RaftView::default()
    };
    let nodes = (1..=3).map(node).collect();
    let status = StatusReply { raft: Some(raft), nodes, snapshot_index: 4_000, ..StatusReply::default() };
    let migrations = vec![migration(Standing::Applied, 3)];
    (status, Beside { voters_changing: false, cluster_version: 3, migrations })
}

type Change = fn(&mut StatusReply, &mut Beside);

fn raft(status: &mut StatusReply) -> &mut RaftView {
    status.raft.get_or_insert_default()
}

/// The one check with this id, after a change.
fn check(change: Change, id: &str, outcome: Outcome, expected: &str) {
    let (mut status, mut beside) = healthy();
    change(&mut status, &mut beside);
    let found = checks(&status, &beside);
    let told: Vec<&Check> = found.iter().filter(|check| check.id == id).collect();
    let [told] = told[..] else { unreachable!("{id}: {found:?}") };
    assert_eq!((told.outcome(), told.found.as_str()), (outcome, expected), "{id}");
    assert!(outcome == Outcome::Ok || !told.fix.is_empty(), "{id} says what to do");
}

#[test]
fn a_healthy_cluster_has_nothing_to_mend() {
    let (status, beside) = healthy();
    for check in checks(&status, &beside) {
        assert_eq!(check.outcome(), Outcome::Ok, "{check:?}");
    }
    check(|_, _| {}, "quorum", Outcome::Ok, "a majority of the voters answers; n1 leads");
    check(|_, _| {}, "tolerance", Outcome::Ok, "1 of 3 voters can be spared at a time");
    check(|_, _| {}, "releases", Outcome::Ok, "every member runs 0.1.0");
    check(|_, _| {}, "disks", Outcome::Ok, "at least 8192 MiB are free everywhere");
    check(|_, _| {}, "snapshot", Outcome::Ok, "this node's last snapshot lies 1001 entries back");
    let expected = "the cluster runs version 3; it goes up when the last member applies more, and not back";
    check(|_, _| {}, "way_back", Outcome::Ok, expected);
}

#[test]
fn what_would_cost_changes_fails() {
    let expected = "no majority of the voters answers: nothing can be changed";
    check(|status, _| raft(status).has_quorum = false, "quorum", Outcome::Fail, expected);
    let expected = "none of 3 voters can be spared now: changes would stop";
    check(|status, _| raft(status).failure_tolerance = 0, "tolerance", Outcome::Fail, expected);
    let two: Change = |status, _| {
        raft(status).voters = vec![1, 2];
        raft(status).failure_tolerance = 0;
    };
    let expected = "none of 2 voters can be spared: changes wait while one restarts";
    check(two, "tolerance", Outcome::Warn, expected);
    check(|status, _| status.nodes[2].set_health(Health::Dead), "members", Outcome::Fail, "not heard: n3");
    let learner: Change = |status, _| {
        status.nodes[2].voter = false;
        status.nodes[2].set_health(Health::Suspect);
    };
    check(learner, "members", Outcome::Warn, "not heard: n3");
    let departed: Change = |status, _| {
        status.nodes[2].set_health(Health::Dead);
        status.nodes[2].set_state(State::Departed);
    };
    check(departed, "members", Outcome::Ok, "all 2 members answer");
    let expected = "a change of the voters is under way";
    check(|_, beside| beside.voters_changing = true, "voters", Outcome::Fail, expected);
    let expected = "another state than the majority: n2, 9";
    check(|status, _| raft(status).deviating = vec![2, 9], "states", Outcome::Fail, expected);
    let expected = "the states of the voters differ, and none has a majority";
    check(|status, _| raft(status).states_undecided = true, "states", Outcome::Fail, expected);
}

#[test]
fn lag_and_disks_are_told_by_name() {
    let expected = "more than 1000 entries behind: n2";
    check(|status, _| status.nodes[1].applied_index = 3_999, "caught_up", Outcome::Warn, expected);
    let expected = "nobody lies more than 1000 entries behind";
    check(|status, _| status.nodes[1].applied_index = 4_000, "caught_up", Outcome::Ok, expected);
    let low: Change = |status, _| status.nodes[0].disk_free_bytes = Some(1 << 30);
    check(low, "disks", Outcome::Warn, "less than 2048 MiB free: n1");
    let full: Change = |status, _| {
        status.nodes[0].disk_free_bytes = Some(1 << 30);
        status.nodes[1].disk_free_bytes = Some(0);
    };
    check(full, "disks", Outcome::Fail, "less than 512 MiB free: n2");
    let expected = "how much is free is not known of n3";
    check(|status, _| status.nodes[2].disk_free_bytes = None, "disks", Outcome::Warn, expected);
    let expected = "this node has taken no snapshot since it began";
    check(|status, _| status.snapshot_index = 0, "snapshot", Outcome::Ok, expected);
}

#[test]
fn releases_and_the_way_back_are_told() {
    let expected = "members run different releases: n1 0.1.0, n2 0.2.0, n3 0.1.0";
    check(|status, _| status.nodes[1].daemon_version = "0.2.0".to_owned(), "releases", Outcome::Warn, expected);
    let expected = "members run different releases: n1 0.1.0, n2 0.1.0, n3 not known";
    check(|status, _| status.nodes[2].daemon_version.clear(), "releases", Outcome::Warn, expected);
    let held: Change = |status, beside| {
        beside.cluster_version = 2;
        status.nodes[1].applies_up_to = 2;
    };
    let expected = "the cluster runs version 2, and raft.version_max holds it there on n2";
    check(held, "way_back", Outcome::Ok, expected);
    let expected = "every member applies more than version 2, which the cluster runs: it goes up now";
    check(|_, beside| beside.cluster_version = 2, "way_back", Outcome::Warn, expected);
    let expected = "the cluster runs version 3; what these apply is not known: n3";
    check(|status, _| status.nodes[2].applies_up_to = 0, "way_back", Outcome::Warn, expected);
}

#[test]
fn migrations_are_told_by_where_they_stand() {
    let rows: [(Standing, u32, Outcome, &str); 6] = [
        (Standing::Failed, 3, Outcome::Fail, "failed: 001 noted_deadlines"),
        (Standing::Applying, 3, Outcome::Fail, "under way: 001 noted_deadlines"),
        (Standing::Reverting, 3, Outcome::Fail, "under way: 001 noted_deadlines"),
        (Standing::Pending, 3, Outcome::Warn, "not applied: 001 noted_deadlines"),
        (Standing::Reverted, 3, Outcome::Warn, "not applied: 001 noted_deadlines"),
        (Standing::Pending, 4, Outcome::Ok, "waiting for a higher cluster version: 001 noted_deadlines"),
    ];
    for (status, needs, outcome, expected) in rows {
        let (_, beside) = healthy();
        let told = ledger(&Beside { migrations: vec![migration(status, needs)], ..beside });
        assert_eq!((told.outcome(), told.found.as_str()), (outcome, expected));
    }
    check(|_, _| {}, "migrations", Outcome::Ok, "every migration is applied");
}
