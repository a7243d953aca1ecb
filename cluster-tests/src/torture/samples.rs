//! What the nodes said of themselves, and what their logs hold, held against itself over the whole run: one leader in a
//! term, the same entry and the same state at the same index, and nothing that goes back while a process lives.
//!
//! A sample is one answer of one process. Samples of one node come in the order in which they were taken; those of
//! different nodes may come in any order, because a term has one leader and an index one state for ever.

use std::collections::BTreeMap;

use ollamax_proto::v1;

/// States of the last so many indexes are remembered.
const STATES_MAX: usize = 50_000;
/// The same of entries.
const ENTRIES_MAX: usize = 200_000;

/// One answer of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) node: usize,
    pub(crate) pid: u64,
    pub(crate) term: u64,
    /// 0: it knows none.
    pub(crate) leader: u64,
    pub(crate) committed: u64,
    pub(crate) applied: u64,
    /// Hash of the state at `applied`; empty: it did not say.
    pub(crate) hash: Vec<u8>,
}

/// Which promise a sample breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    OneLeader,
    OneLog,
    OneState,
    Forward,
}

/// Everything that was heard so far.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// By term: who led, and who said so first.
    leaders: BTreeMap<u64, (u64, usize)>,
    /// By index: the state, and who said so first.
    states: BTreeMap<u64, (Vec<u8>, usize)>,
    /// By index: the sum of the committed entry, and in whose log it was first.
    entries: BTreeMap<u64, (u64, usize)>,
    /// By node: its last sample.
    last: BTreeMap<usize, Sample>,
    faults: Vec<(Broken, String)>,
    counts: Counts,
}

/// How much was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Samples.
    pub(crate) samples: u64,
    /// Samples that named a leader.
    pub(crate) leaders: u64,
    /// Entries of logs that had been seen before, in the same log or another.
    pub(crate) entries: u64,
    /// Samples whose state another node had named for the same index.
    pub(crate) states: u64,
    /// Samples of a process of which there was an earlier one.
    pub(crate) pairs: u64,
}

// === impl Sample ===

impl Sample {
    /// `None`: the node takes part in nothing at this moment.
    pub(crate) fn of(node: usize, status: &v1::StatusReply) -> Option<Self> {
        let (raft, view) = (status.raft.as_ref()?, status.view.as_ref()?);
        Some(Self {
            node,
            pid: status.pid,
            term: raft.term,
            leader: raft.leader,
            committed: raft.committed_index,
            applied: view.applied_index,
            hash: status.state_hash.clone(),
        })
    }
}

// === impl Book ===

impl Book {
    /// Takes one sample in.
    pub(crate) fn note(&mut self, sample: Sample) {
        self.counts.samples += 1;
        self.leader(&sample);
        self.state(&sample);
        self.forward(&sample);
        self.last.insert(sample.node, sample);
    }

    /// Up to where a node has said that it is committed.
    pub(crate) fn committed(&self, node: usize) -> u64 {
        self.last.get(&node).map_or(0, |sample| sample.committed)
    }

    /// Takes in the log of a node, index and sum of each entry, as far as it is committed.
    pub(crate) fn note_log(&mut self, node: usize, committed: u64, log: &[(u64, u64)]) {
        for (index, sum) in log.iter().filter(|(index, _)| *index <= committed) {
            let Some((known, by)) = self.entries.get(index) else {
                self.entries.insert(*index, (*sum, node));
                if self.entries.len() > ENTRIES_MAX {
                    self.entries.pop_first();
                }
                continue;
            };
            self.counts.entries += 1;
            if known != sum {
                let what = format!("entry {index} in the log of node {node} is not what it was in that of node {by}");
                self.faults.push((Broken::OneLog, what));
            }
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// The faults that were found since the last look.
    pub(crate) fn take_faults(&mut self) -> Vec<(Broken, String)> {
        std::mem::take(&mut self.faults)
    }

    fn leader(&mut self, sample: &Sample) {
        let Sample { node, term, leader, .. } = sample;
        if *leader == 0 {
            return;
        }
        self.counts.leaders += 1;
        let (known, by) = *self.leaders.entry(*term).or_insert((*leader, *node));
        if known != *leader {
            let what = format!("term {term}: node {by} named leader {known}, node {node} names leader {leader}");
            self.faults.push((Broken::OneLeader, what));
        }
    }

    fn state(&mut self, sample: &Sample) {
        let Sample { node, applied, hash, .. } = sample;
        if hash.is_empty() || *applied == 0 {
            return;
        }
        let Some((known, by)) = self.states.get(applied) else {
            self.states.insert(*applied, (hash.clone(), *node));
            if self.states.len() > STATES_MAX {
                self.states.pop_first();
            }
            return;
        };
        self.counts.states += u64::from(by != node);
        if known != hash {
            let what =
                format!("at index {applied} the states of nodes {by} and {node} differ: {known:02x?} {hash:02x?}");
            self.faults.push((Broken::OneState, what));
        }
    }

    fn forward(&mut self, sample: &Sample) {
        let Some(last) = self.last.get(&sample.node).filter(|last| last.pid == sample.pid) else { return };
        self.counts.pairs += 1;
        let pairs = [
            ("term", last.term, sample.term),
            ("committed index", last.committed, sample.committed),
            ("applied index", last.applied, sample.applied),
        ];
        for (what, before, now) in pairs {
            if now < before {
                let fault =
                    format!("node {} (process {}): its {what} went from {before} to {now}", sample.node, sample.pid);
                self.faults.push((Broken::Forward, fault));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(node: usize, term: u64, leader: u64, applied: u64, hash: u8) -> Sample {
        Sample { node, pid: node as u64 + 100, term, leader, committed: applied, applied, hash: vec![hash] }
    }

    fn found(samples: &[Sample]) -> (Vec<Broken>, Counts) {
        let mut book = Book::default();
        samples.iter().cloned().for_each(|sample| book.note(sample));
        (book.take_faults().into_iter().map(|(broken, _)| broken).collect(), book.counts())
    }

    #[test]
    fn a_good_run_is_not_blamed_and_what_was_compared_is_counted() {
        let samples = [
            sample(0, 1, 1, 5, 1),
            sample(1, 1, 0, 5, 1),
            sample(1, 1, 1, 6, 2),
            sample(0, 2, 2, 6, 2),
            Sample { hash: Vec::new(), ..sample(2, 2, 2, 6, 9) },
        ];
        let counts = Counts { samples: 5, leaders: 4, entries: 0, states: 2, pairs: 2 };
        assert_eq!(found(&samples), (Vec::new(), counts));
    }

    #[test]
    fn two_leaders_of_one_term_are_caught_whoever_names_them_and_whenever() {
        assert_eq!(found(&[sample(0, 1, 1, 5, 1), sample(1, 1, 2, 4, 1)]).0, [Broken::OneLeader]);
        let later = [sample(0, 1, 1, 5, 1), sample(1, 2, 2, 6, 2), sample(2, 1, 3, 4, 3)];
        assert_eq!(found(&later).0, [Broken::OneLeader]);
    }

    #[test]
    fn two_states_of_one_index_are_caught_also_on_one_node() {
        assert_eq!(found(&[sample(0, 1, 1, 5, 1), sample(1, 1, 1, 5, 2)]).0, [Broken::OneState]);
        // After a restart it applied the same index to something else.
        let again = Sample { pid: 7, ..sample(0, 1, 1, 5, 2) };
        assert_eq!(found(&[sample(0, 1, 1, 5, 1), again]).0, [Broken::OneState]);
    }

    #[test]
    fn what_goes_back_within_one_process_is_caught_and_a_restart_may_go_back() {
        let first = || Sample { committed: 9, ..sample(0, 3, 1, 7, 1) };
        let check = |second: Sample, expected: &[Broken]| {
            assert_eq!(found(&[first(), second.clone()]).0, expected, "{second:?}");
        };
        check(Sample { term: 2, leader: 0, ..first() }, &[Broken::Forward]);
        check(Sample { committed: 8, ..first() }, &[Broken::Forward]);
        check(Sample { applied: 6, hash: vec![0], ..first() }, &[Broken::Forward]);
        check(Sample { pid: 9, applied: 6, committed: 6, hash: vec![0], ..first() }, &[]);
    }

    #[test]
    fn a_committed_entry_that_is_another_is_caught_in_the_same_log_too() {
        type Left<'a> = (usize, u64, &'a [(u64, u64)]);
        let check = |logs: &[Left], faults: usize, entries: u64| {
            let mut book = Book::default();
            logs.iter().for_each(|(node, committed, log)| book.note_log(*node, *committed, log));
            let found: Vec<Broken> = book.take_faults().into_iter().map(|(broken, _)| broken).collect();
            assert_eq!((found, book.counts().entries), (vec![Broken::OneLog; faults], entries), "{logs:?}");
        };
        check(&[(0, 9, &[(1, 10), (2, 20)]), (1, 9, &[(2, 20), (3, 30)])], 0, 1);
        check(&[(0, 9, &[(1, 10), (2, 20)]), (1, 9, &[(2, 21), (3, 30)])], 1, 1);
        check(&[(0, 9, &[(1, 10)]), (0, 9, &[(1, 11)])], 1, 1);
        // What is not committed may be replaced.
        check(&[(0, 1, &[(1, 10), (2, 20)]), (1, 9, &[(1, 10), (2, 21)])], 0, 1);
        check(&[(0, 9, &[(1, 10), (2, 20)]), (1, 1, &[(1, 10), (2, 21)])], 0, 1);
    }

    #[test]
    fn only_so_many_states_are_remembered() {
        let mut book = Book::default();
        for applied in 1..=STATES_MAX as u64 + 10 {
            book.note(sample(0, 1, 1, applied, 1));
        }
        assert_eq!(book.states.len(), STATES_MAX);
        assert!(!book.states.contains_key(&10) && book.states.contains_key(&11));
    }
}
