//! What had been told before an operation began: the greatest revision among the answers that were there by then.
//!
//! Operations that touch in one nanosecond overlap: clocks do not tell more.

use crate::history::record::Operation;

/// The greatest revision that had been told, and by which operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Floor {
    pub(super) revision: u64,
    /// `None`: nothing had been told.
    pub(super) told_by: Option<usize>,
}

/// The floor of each of `members`, in their order, as the answers of `members` alone tell it.
pub(super) fn floors(history: &[Operation], members: &[usize]) -> Vec<Floor> {
    let answer = |index: &usize| Some((history[*index].returned_ns?, history[*index].told()?, *index));
    let mut answers: Vec<(u64, u64, usize)> = members.iter().filter_map(answer).collect();
    answers.sort_unstable();
    let mut begins: Vec<(u64, usize)> =
        members.iter().enumerate().map(|(place, index)| (history[*index].invoked_ns, place)).collect();
    begins.sort_unstable();

    let mut floors = vec![Floor::default(); members.len()];
    let mut floor = Floor::default();
    let mut answers = answers.into_iter().peekable();
    for (invoked_ns, place) in begins {
        while let Some((_, revision, index)) = answers.next_if(|(returned_ns, ..)| *returned_ns < invoked_ns) {
            if floor.told_by.is_none() || revision > floor.revision {
                floor = Floor { revision, told_by: Some(index) };
            }
        }
        floors[place] = floor;
    }
    floors
}
