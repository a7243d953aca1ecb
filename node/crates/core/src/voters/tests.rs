//! Rows for who votes, who goes, and when nothing may be done.

mod explored;

use ollamax_types::Timestamp;

use super::Change::{Demote, Promote, Replace};
use super::*;
use crate::catalog::{MemberState, mem};

const HOUR: u64 = 3_600;

fn member(id: u64, role: Role, departed: bool) -> Member {
    let state = if departed { MemberState::Departed { at: Timestamp(1) } } else { MemberState::Active };
    Member { role, state, ..mem::member(id) }
}

/// One letter each from id 1: v(oter), l(earner), g(ateway), d(eparted voter).
fn members(letters: &str) -> Vec<Member> {
    let of = |(letter, id): (char, u64)| match letter {
        'l' => member(id, Role::Learner, false),
        'g' => member(id, Role::Gateway, false),
        letter => member(id, Role::Voter, letter == 'd'),
    };
    letters.chars().zip(1..).map(of).collect()
}

fn healthy_for(seconds: u64) -> Standing {
    Standing { healthy_for: Some(Duration::from_secs(seconds)), ..Standing::default() }
}

fn silent_for(seconds: u64) -> Standing {
    Standing { silent: Duration::from_secs(seconds), healthy_for: None, wavered: true }
}

fn wavered(seconds: u64) -> Standing {
    Standing { wavered: true, ..healthy_for(seconds) }
}

/// Node 1 leads; what it makes of the others is given, those that are not named are unknown to it.
fn with<T>(letters: &str, voters: &[u64], seen: &[(u64, Standing)], decide: impl Fn(&Group<'_>) -> T) -> T {
    with_knobs(&Knobs::default(), letters, voters, seen, decide)
}

fn with_knobs<T>(
    knobs: &Knobs,
    letters: &str,
    voters: &[u64],
    seen: &[(u64, Standing)],
    decide: impl Fn(&Group<'_>) -> T,
) -> T {
    let (members, voters) = (members(letters), voters.iter().copied().map(NodeId).collect());
    let seen = seen.iter().map(|(id, standing)| (NodeId(*id), *standing)).collect();
    decide(&Group { members: &members, voters: &voters, leader: NodeId(1), seen: &seen, knobs })
}

fn check(letters: &str, voters: &[u64], seen: &[(u64, Standing)], expected: Option<Change>) {
    assert_eq!(with(letters, voters, seen, plan), expected, "{letters} {voters:?} {seen:?}");
}

/// All of these have been healthy for long.
fn stable(ids: &[u64]) -> Vec<(u64, Standing)> {
    ids.iter().map(|id| (*id, healthy_for(60))).collect()
}

#[test]
fn plans_one_change_at_a_time_towards_the_wanted_number() {
    check("v", &[1], &[], None);
    check("vv", &[1], &stable(&[2]), Some(Promote(NodeId(2))));
    check("vv", &[1], &[], None);
    check("vvv", &[1, 2], &stable(&[2, 3]), Some(Promote(NodeId(3))));
    check("vvvv", &[1, 2, 3], &stable(&[2, 3, 4]), None);
    check("vvvvv", &[1, 2, 3], &stable(&[2, 3, 5]), Some(Promote(NodeId(5))));
    check("vvvvvvv", &[1, 2, 3, 4, 5], &stable(&[2, 3, 4, 5, 6, 7]), None);
    check("vlgv", &[1], &stable(&[2, 3, 4]), Some(Promote(NodeId(4))));
    check("vllll", &[1], &stable(&[2, 3, 4, 5]), None);
}

#[test]
fn departed_voters_go_first_and_the_last_voter_stays() {
    check("vdvv", &[1, 2, 3], &stable(&[2, 3, 4]), Some(Demote(NodeId(2))));
    check("vdvv", &[1, 3], &stable(&[3, 4]), Some(Promote(NodeId(4))));
    check("vvvvd", &[1, 2, 3, 4, 5], &stable(&[2, 3, 4]), Some(Demote(NodeId(5))));
    check("vvvvd", &[1, 2, 3, 4], &stable(&[2, 3, 4]), Some(Demote(NodeId(4))));
    check("vv", &[1, 2, 9], &stable(&[2]), Some(Demote(NodeId(9))));
    check("d", &[1], &[], None);
    check("dv", &[1], &stable(&[2]), Some(Promote(NodeId(2))));
    check("dv", &[1], &[], None);
    check("dv", &[1, 2], &stable(&[2]), Some(Demote(NodeId(1))));
}

#[test]
fn nobodys_vote_is_taken_while_no_majority_of_the_others_is_heard() {
    // Three voters: one has departed and still answers, another is silent. Without the first nothing could be changed.
    let silent_two = [(2, silent_for(5)), (3, healthy_for(60))];
    check("vvd", &[1, 2, 3], &silent_two, None);
    check("vvd", &[1, 2, 3], &stable(&[2, 3]), Some(Demote(NodeId(3))));
    // A standby takes a seat first, and then the departed one can go.
    let with_standby = [(2, silent_for(5)), (3, healthy_for(60)), (4, healthy_for(60))];
    check("vvdv", &[1, 2, 3], &with_standby, Some(Promote(NodeId(4))));
    check("vvdv", &[1, 2, 3, 4], &with_standby, Some(Demote(NodeId(3))));
    // Five voters, two of them silent.
    let two_silent = [(2, healthy_for(60)), (3, healthy_for(60)), (4, silent_for(5)), (5, silent_for(5))];
    check("vvdvv", &[1, 2, 3, 4, 5], &two_silent, None);
    // Of two that have departed the silent one goes first.
    let two_gone = [(2, healthy_for(60)), (3, healthy_for(60)), (4, silent_for(5))];
    check("vvdd", &[1, 2, 3, 4], &two_gone, Some(Demote(NodeId(4))));
    // Of too many the silent one goes, although another is only behind.
    let behind = Standing { silent: Duration::ZERO, healthy_for: None, wavered: true };
    check("vvvvl", &[1, 2, 3, 4], &[(2, silent_for(5)), (3, healthy_for(60)), (4, behind)], Some(Demote(NodeId(2))));
}

#[test]
fn of_too_many_voters_the_unhealthy_one_goes() {
    let seen = [(2, silent_for(2)), (3, healthy_for(60)), (4, healthy_for(60))];
    check("vvvvl", &[1, 2, 3, 4], &seen, Some(Demote(NodeId(2))));
    check("vvvvl", &[1, 2, 3, 4], &stable(&[2, 3, 4]), Some(Demote(NodeId(4))));
}

#[test]
fn the_first_seats_are_given_at_once_and_later_ones_to_who_was_healthy_long_enough() {
    check("vv", &[1], &[(2, healthy_for(0))], Some(Promote(NodeId(2))));
    check("vvv", &[1, 2], &[(2, healthy_for(0)), (3, healthy_for(0))], Some(Promote(NodeId(3))));
    // Who wavered waits, and so does everybody once there are three.
    check("vv", &[1], &[(2, wavered(9))], None);
    check("vv", &[1], &[(2, wavered(10))], Some(Promote(NodeId(2))));
    let three = |last: Standing| [(2, healthy_for(60)), (3, healthy_for(60)), (4, last)];
    check("vvvvv", &[1, 2, 3], &three(healthy_for(9)), None);
    check("vvvvv", &[1, 2, 3], &three(healthy_for(10)), Some(Promote(NodeId(4))));
    check("vvvvv", &[1, 2, 3], &three(silent_for(0)), None);
}

#[test]
fn a_voter_that_was_silent_for_long_gives_its_seat_to_a_stable_candidate() {
    let group = |three: Standing, four: Standing| [(2, healthy_for(60)), (3, three), (4, four)];
    let replaced = Some(Replace { silent: NodeId(3), by: NodeId(4) });
    check("vvvv", &[1, 2, 3], &group(silent_for(600), healthy_for(60)), replaced);
    check("vvvv", &[1, 2, 3], &group(silent_for(599), healthy_for(60)), None);
    // The standby flaps, is silent itself, or may not vote.
    check("vvvv", &[1, 2, 3], &group(silent_for(600), wavered(3)), None);
    check("vvvv", &[1, 2, 3], &group(silent_for(600), silent_for(5)), None);
    check("vvvl", &[1, 2, 3], &group(silent_for(600), healthy_for(60)), None);
    // It came back in time.
    check("vvvv", &[1, 2, 3], &group(wavered(0), healthy_for(60)), None);
    // It came back too late, and is a standby now.
    let seen = [(2, healthy_for(60)), (3, healthy_for(60)), (4, healthy_for(60))];
    check("vvvv", &[1, 2, 4], &seen, None);
}

#[test]
fn without_a_candidate_the_silent_go_when_fewer_voters_bear_more_failures() {
    let dead = silent_for(600);
    let five = |four: Standing, five: Standing| [(2, healthy_for(60)), (3, healthy_for(60)), (4, four), (5, five)];
    // Two of five: three voters bear one failure, five with two dead bear none.
    check("vvvvv", &[1, 2, 3, 4, 5], &five(dead, silent_for(700)), Some(Demote(NodeId(5))));
    check("vvvvv", &[1, 2, 3, 4], &five(dead, silent_for(700))[..3], Some(Demote(NodeId(4))));
    check("vvvvv", &[1, 2, 3], &five(dead, dead), None);
    // One of five: four voters bear one failure, as five with one dead do.
    check("vvvvv", &[1, 2, 3, 4, 5], &five(healthy_for(60), dead), None);
    // Never below three.
    check("vvv", &[1, 2, 3], &[(2, healthy_for(60)), (3, dead)], None);
    // A dead one that came back gets its seat again.
    check("vvvvv", &[1, 2, 3], &five(dead, wavered(10)), Some(Promote(NodeId(5))));
}

#[test]
fn nothing_is_done_about_the_silent_while_they_are_no_minority_or_where_it_is_switched_off() {
    let dead = silent_for(48 * HOUR);
    let off = Knobs { cleanup_dead: false, ..Knobs::default() };
    type Row<'a> = (&'a str, &'a [u64], Vec<(u64, Standing)>);
    let rows: [Row<'_>; 4] = [
        ("vv", &[1, 2], vec![(2, dead)]),
        ("vvvl", &[1, 2, 3], vec![(2, dead), (3, dead), (4, healthy_for(60))]),
        ("vvvv", &[1, 2, 3], vec![(2, dead), (3, dead), (4, healthy_for(60))]),
        ("vvvvv", &[1, 2, 3, 4, 5], vec![(2, healthy_for(60)), (3, dead), (4, dead), (5, dead)]),
    ];
    for (letters, voters, seen) in rows {
        check(letters, voters, &seen, None);
        assert_eq!(with(letters, voters, &seen, removable), None, "{letters} {seen:?}");
    }
    let seen = [(2, healthy_for(60)), (3, dead), (4, healthy_for(60)), (5, healthy_for(60))];
    assert!(with("vvvvv", &[1, 2, 3], &seen, plan).is_some());
    assert!(with("vvvvv", &[1, 2, 4], &seen, removable).is_some());
    let first = |group: &Group<'_>| group.without_the_dead(&group.candidates());
    assert_eq!(with_knobs(&off, "vvvvv", &[1, 2, 3], &seen, first), None);
    assert_eq!(with_knobs(&off, "vvvvv", &[1, 2, 4], &seen, removable), None);
}

#[test]
fn candidates_that_were_silent_for_longer_are_removed_if_enough_are_left() {
    let check = |letters: &str, voters: &[u64], seen: &[(u64, Standing)], expected: Option<u64>| {
        assert_eq!(with(letters, voters, seen, removable), expected.map(NodeId), "{letters} {voters:?} {seen:?}");
    };
    let (long, short) = (silent_for(24 * HOUR), silent_for(24 * HOUR - 1));
    let four = |last: Standing| [(2, healthy_for(60)), (3, healthy_for(60)), (4, last)];
    check("vvvv", &[1, 2, 3], &four(long), Some(4));
    check("vvvv", &[1, 2, 3], &four(short), None);
    check("vvvv", &[1, 2, 3], &four(healthy_for(0)), None);
    // Only those that may vote.
    check("vvvl", &[1, 2, 3], &four(long), None);
    check("vvvg", &[1, 2, 3], &four(long), None);
    // Three members stay three, also when one of them never voted.
    check("vvv", &[1, 2, 3], &[(2, healthy_for(60)), (3, long)], None);
    check("vvv", &[1, 2], &[(2, healthy_for(60)), (3, long)], None);
    // A voter, where four are left; the one that was silent longest first.
    let five = |three: Standing, last: Standing| [(2, healthy_for(60)), (3, three), (4, healthy_for(60)), (5, last)];
    check("vvvvv", &[1, 2, 3, 4, 5], &five(healthy_for(60), long), Some(5));
    check("vvvvv", &[1, 2, 4], &five(silent_for(30 * HOUR), long), Some(3));
    // A whole rack went out: half of the candidates are silent.
    let six = [(2, healthy_for(60)), (3, healthy_for(60)), (4, long), (5, long), (6, long)];
    check("vvvvvv", &[1, 2, 3], &six, None);
}

#[test]
fn says_when_a_silent_member_will_be_removed() {
    let check = |silent: u64, voters: &[u64], expected: Option<u64>| {
        let seen = [(2, healthy_for(60)), (3, healthy_for(60)), (4, silent_for(silent))];
        let found = with("vvvv", voters, &seen, |group| removed_in(group, NodeId(4)));
        assert_eq!(found, expected.map(Duration::from_secs), "{silent}");
    };
    check(0, &[1, 2, 3], None);
    check(2, &[1, 2, 3], Some(24 * HOUR - 2));
    check(30 * HOUR, &[1, 2, 3], Some(0));
    check(2, &[1, 2, 4], None); // two voters would be left
}

#[test]
fn failures_that_are_borne() {
    for (healthy, voters, expected) in
        [(1, 1, 0), (2, 2, 0), (3, 3, 1), (2, 3, 0), (1, 3, 0), (4, 4, 1), (5, 5, 2), (3, 5, 0), (0, 0, 0)]
    {
        assert_eq!(tolerance(healthy, voters), expected, "{healthy} of {voters}");
    }
    let seen = [(2, healthy_for(0)), (3, silent_for(5))];
    assert_eq!(with("vvv", &[1, 2, 3], &seen, |group| healthy(group, group.voters)), 2);
}

#[test]
fn always_ends_at_the_wanted_number() {
    for count in 1..12_u64 {
        let letters = "v".repeat(usize::try_from(count).expect("few"));
        let seen = stable(&(2..=count).collect::<Vec<_>>());
        for start in 1..=count {
            let mut voters: BTreeSet<u64> = (1..=start).collect();
            for _ in 0..20 {
                match with(&letters, &voters.iter().copied().collect::<Vec<_>>(), &seen, plan) {
                    Some(Promote(node)) => assert!(voters.insert(node.0)),
                    Some(Demote(node)) => assert!(voters.remove(&node.0)),
                    Some(change @ Replace { .. }) => unreachable!("nobody is silent: {change:?}"),
                    None => break,
                }
            }
            assert_eq!(voters.len(), wanted(letters.len()), "{count} members, {start} voters");
        }
    }
}
