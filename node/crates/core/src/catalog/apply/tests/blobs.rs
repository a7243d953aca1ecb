//! Files and their BLAKE3, row by row.

use ollamax_types::Root;

use super::*;
use crate::catalog::command::BoundBlob;
use crate::catalog::record::{Blob, Counts};

const SIZE_BYTES: u64 = 7;

fn blob(sha256: u8, root: u8) -> BoundBlob {
    BoundBlob { sha256: Digest([sha256; 32]), size_bytes: SIZE_BYTES, root: Root([root; 32]) }
}

fn bind(node: u64, blobs: &[BoundBlob]) -> Command {
    Command::BindBlobs { node: NodeId(node), blobs: blobs.to_vec() }
}

fn conflict(sha256: u8) -> Answer {
    refused(Refusal::RootConflict { sha256: Digest([sha256; 32]) })
}

/// Nodes 1 and 2, and node 3, a gateway; then these.
fn check_in_two(rows: Vec<(u64, Command, Answer)>) -> MemView {
    let start = vec![
        (0, join("t", "n2", 2), member_answer(2, "n2", false)),
        (0, token_with("g", Role::Gateway, 1, HOUR_MS), Answer::Done),
        (0, join_as("g", Role::Gateway, newcomer("n3", 3, 3)), member_answer(3, "n3", false)),
    ];
    check_in_cluster([start, rows].concat())
}

#[test]
fn a_file_is_bound_once_and_another_reading_of_it_is_refused() {
    let longer = BoundBlob { size_bytes: SIZE_BYTES + 1, ..blob(1, 11) };
    let view = check_in_two(vec![
        (5, bind(1, &[]), Answer::Done),
        (5, bind(1, &[blob(1, 11), blob(2, 12)]), Answer::Done),
        (6, bind(2, &[blob(1, 11)]), Answer::Done), // the same
        (6, bind(2, &[blob(1, 99)]), conflict(1)),
        (6, bind(2, &[longer]), conflict(1)),
        (6, bind(2, &[blob(3, 13), blob(2, 99)]), conflict(2)), // 3 is not taken either
        (6, bind(2, &[blob(4, 14), blob(4, 15)]), conflict(4)),
        (6, bind(2, &[blob(5, 15), blob(5, 15), blob(1, 11)]), Answer::Done),
        (7, bind(9, &[blob(6, 16)]), refused(Refusal::NodeNotFound(NodeId(9)))),
        (7, Command::RemoveMember { node: NodeId(2) }, Answer::Done),
        (8, bind(2, &[blob(6, 16)]), refused(Refusal::NodeNotFound(NodeId(2)))),
    ]);
    let found = |sha256: u8| read::blob(&view, &Digest([sha256; 32])).expect("readable");
    let bound = |root: u8, by: u64, at: u64| {
        let (root, bound_by, bound_at) = (Root([root; 32]), NodeId(by), Timestamp(at));
        Some(Blob { size_bytes: SIZE_BYTES, root, bound_by, bound_at })
    };
    assert_eq!((found(1), found(2), found(5)), (bound(11, 1, 5), bound(12, 1, 5), bound(15, 2, 6)));
    assert_eq!((found(3), found(4), found(6)), (None, None, None));
    assert_eq!(read::counts(&view), Ok(Counts { blobs: 3, ..Counts::default() }));
    let again = apply(&view, 99, 1, &entry(9, bind(1, &[blob(1, 11), blob(5, 15)]))).expect("no fault");
    assert_eq!(again, Applied::done(vec![]), "no change, no mutation");
}

#[test]
fn files_are_bounded_in_size_number_and_holder() {
    let view = check_in_two(vec![]);
    assert_eq!(invalid_text(&view, bind(3, &[blob(1, 1)])), "node 3 is a gateway and holds no models");
    let huge = BoundBlob { size_bytes: BLOB_BYTES_MAX + 1, ..blob(1, 1) };
    let text = invalid_text(&view, bind(1, &[huge]));
    assert_eq!(text, format!("the file 010101010101 has {} bytes; the limit is {BLOB_BYTES_MAX}", BLOB_BYTES_MAX + 1));
    let many = |count: usize| -> Vec<BoundBlob> {
        let sha256 = |number: usize| {
            let mut digest = Digest([0; 32]);
            digest.0[..8].copy_from_slice(&(number as u64).to_be_bytes());
            digest
        };
        (0..count).map(|number| BoundBlob { sha256: sha256(number), ..blob(1, 1) }).collect()
    };
    let text = invalid_text(&view, bind(1, &many(BIND_BLOBS_MAX + 1)));
    assert_eq!(text, "the list of files has 257 items; the limit is 256");
    let mut view = view;
    assert_eq!(view.apply(50, 1, &entry(1, bind(1, &many(BIND_BLOBS_MAX)))), Ok(Answer::Done), "within the keys");

    let nearly = Counts { blobs: BLOBS_MAX - 1, ..Counts::default() };
    view.write(&[put(Key::Counts, Record::Counts(nearly))]);
    let (what, unit) = ("this cluster".to_owned(), "files".to_owned());
    let exceeded = Refusal::QuotaExceeded { what, needed: BLOBS_MAX + 1, limit: BLOBS_MAX, unit };
    let two = entry(1, bind(1, &[blob(1, 1), blob(2, 2)]));
    assert_eq!(view.apply(51, 1, &two), Ok(refused(exceeded.clone())));
    assert_eq!(view.apply(52, 1, &entry(1, bind(1, &[blob(1, 1)]))), Ok(Answer::Done), "the last one");
    assert_eq!(view.apply(53, 1, &two), Ok(refused(exceeded)));
    assert_eq!(view.apply(54, 1, &entry(1, bind(1, &[blob(1, 1)]))), Ok(Answer::Done), "it is there already");
}

#[test]
fn what_was_bound_long_ago_is_forgotten_in_steps() {
    let mut view = check_in_two(vec![
        (5, bind(1, &[blob(1, 11), blob(2, 12), blob(4, 14)]), Answer::Done),
        (6, bind(1, &[blob(3, 13), blob(5, 15)]), Answer::Done),
    ]);
    let forget = |before: u64, after: Option<u8>, limit: u32| Command::ForgetBlobs {
        before: Timestamp(before),
        after: after.map(|byte| Digest([byte; 32])),
        limit,
    };
    let left = |view: &MemView| {
        let found = read::blobs(view, None, 9).expect("readable");
        assert_eq!(read::counts(view).expect("readable").blobs, found.len() as u64, "they are counted");
        found.into_iter().map(|(sha256, _)| sha256.0[0]).collect::<Vec<_>>()
    };
    let rows: [(Command, Answer, &[u8]); 6] = [
        (forget(5, None, 9), Answer::Done, &[1, 2, 3, 4, 5]),
        (forget(6, Some(1), 1), Answer::More, &[1, 3, 4, 5]),
        (forget(6, Some(2), 1), Answer::Done, &[1, 3, 5]),
        (forget(6, None, 1), Answer::Done, &[3, 5]),
        (forget(7, Some(3), 9), Answer::Done, &[3]),
        (forget(7, None, 9), Answer::Done, &[]),
    ];
    for (step, (command, answer, expected)) in rows.into_iter().enumerate() {
        let shown = format!("{command:?}");
        assert_eq!(view.apply(50 + step as u64, 1, &entry(9, command)), Ok(answer), "{shown}");
        assert_eq!(left(&view), expected, "{shown}");
    }
    assert_eq!(view.apply(60, 1, &entry(9, bind(1, &[blob(1, 99)]))), Ok(Answer::Done), "whoever has it binds it anew");
    for limit in [0, FORGET_BLOBS_MAX as u32 + 1] {
        assert_eq!(invalid_text(&view, forget(9, None, limit)), "the limit must be 1 to 512");
    }
}

#[test]
fn many_files_are_looked_at_within_the_keys_of_a_command() {
    const FILES: u64 = 1_500;
    let mut view = check_in_two(vec![]);
    let of = |number: u64| {
        let mut digest = Digest([0; 32]);
        digest.0[..8].copy_from_slice(&number.to_be_bytes());
        digest
    };
    for number in 0..FILES {
        // The old ones lie behind those that the first step looks at.
        let bound_at = Timestamp(if number < 1_200 { 9 } else { 1 });
        let blob = Blob { size_bytes: SIZE_BYTES, root: Root([1; 32]), bound_by: NodeId(1), bound_at };
        view.write(&[put(Key::Blob(of(number)), Record::Blob(blob))]);
    }
    view.write(&[put(Key::Counts, Record::Counts(Counts { blobs: FILES, ..Counts::default() }))]);
    let forget = |after| Command::ForgetBlobs { before: Timestamp(5), after, limit: 512 };
    let first = apply(&view, 50, 1, &entry(9, forget(None))).expect("no fault");
    assert_eq!(first, Applied::new(vec![], Answer::More), "nothing old among the first 1,000");
    assert_eq!(view.apply(51, 1, &entry(9, forget(Some(of(999))))), Ok(Answer::Done));
    assert_eq!(read::counts(&view).expect("readable").blobs, 1_200);
}
