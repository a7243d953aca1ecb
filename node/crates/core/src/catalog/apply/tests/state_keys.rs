//! The keys of what clients carry, row by row: when one is taken, which one seals, who may bring it.

use ollamax_types::SecretKey;

use super::*;
use crate::catalog::record::StateKeys;

const DAY: u64 = STATE_KEY_EVERY.as_secs() * 1_000;

fn add(byte: u8) -> Command {
    Command::AddStateKey { secret: SecretKey::new([byte; 32]) }
}

/// The first bytes of all keys, and of the one that seals.
fn shown(keys: &StateKeys) -> (Vec<u8>, Option<u8>) {
    let first = |key: &crate::catalog::StateKey| key.secret.expose()[0];
    (keys.keys.iter().map(first).collect(), keys.sealing().map(first))
}

#[test]
fn a_key_comes_each_day_of_log_time_and_seals_a_day_later() {
    let mut view = check_in_cluster(vec![]);
    assert_eq!(read::state_keys(&view), Ok(StateKeys::default()));
    let rows: [(u64, u8, &[u8], u8); 7] = [
        (5, 1, &[1], 1),
        // Another leader had drawn one, too.
        (5, 2, &[1], 1),
        (DAY + 4, 3, &[1], 1),
        (DAY + 5, 4, &[1, 4], 1),
        (2 * DAY + 5, 5, &[1, 4, 5], 4),
        (3 * DAY + 5, 6, &[4, 5, 6], 5),
        (3 * DAY + 6, 7, &[4, 5, 6], 5),
    ];
    for (index, (log_time, byte, keys, sealing)) in (3..).zip(rows) {
        let answer = view.apply(index, 1, &entry(log_time, add(byte))).expect("no fault");
        assert_eq!(answer, Answer::Done, "{log_time}");
        let held = read::state_keys(&view).expect("readable");
        assert_eq!(shown(&held), (keys.to_vec(), Some(sealing)), "{log_time}");
        if let Some(newest) = held.keys.last().filter(|newest| newest.number == index) {
            assert_eq!(newest.made_at, Timestamp(log_time));
        }
    }
}

#[test]
fn keys_need_the_version_that_knows_them_and_the_term_in_which_they_were_drawn() {
    let view = check_in_cluster(vec![]);
    let fenced = Entry { fence_term: Some(1), ..entry(1, add(1)) };
    let answer = apply(&view, 9, 2, &fenced).expect("no fault").answer;
    assert_eq!(answer, refused(Refusal::Fenced { expected: 1, actual: 2 }));
    let Command::InitCluster { cluster, name, public_key, first, .. } = init() else { panic!("it founds") };
    let old = check(vec![(
        0,
        Command::InitCluster { cluster, name, public_key, first, version: 4 },
        member_answer(1, "n1", false),
    )]);
    let answer = apply(&old, 9, 2, &entry(1, add(1))).expect("no fault").answer;
    assert_eq!(answer, refused(Refusal::VersionTooLow { needed: 5, actual: 4 }));
}
