//! A recovery, explored: every history of a few voters that elect, write and replicate as Raft does, and in each of its
//! states every set of survivors that a disaster may leave.

use std::collections::BTreeSet;

use stateright::{Checker, Model, Property};

use super::*;

const ENTRIES: usize = 3;

/// So many voters, and elections.
struct Voters {
    count: usize,
    terms: u64,
}

/// Logs as the terms of their entries; the index is the place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Cluster {
    logs: Vec<Vec<u64>>,
    term: u64,
    leader: Option<usize>,
    /// Entries that were acknowledged, as index and term.
    acknowledged: BTreeSet<(usize, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    Elect(usize),
    Write,
    Replicate(usize),
}

// === impl Cluster ===

impl Cluster {
    fn end(&self, node: usize) -> LogEnd {
        let log = &self.logs[node];
        LogEnd { term: log.last().copied().unwrap_or_default(), index: log.len() as u64 }
    }

    fn holds(&self, node: usize, (index, term): (usize, u64)) -> bool {
        self.logs[node].get(index) == Some(&term)
    }

    fn is_majority(&self, count: usize) -> bool {
        count * 2 > self.logs.len()
    }

    /// What the leader has on a majority, in its own term, is acknowledged with everything before it.
    fn acknowledge(&mut self, leader: usize) {
        let log = self.logs[leader].clone();
        let on_majority = |index: &usize| {
            let holders = (0..self.logs.len()).filter(|node| self.holds(*node, (*index, self.term))).count();
            log[*index] == self.term && self.is_majority(holders)
        };
        if let Some(last) = (0..log.len()).rev().find(on_majority) {
            self.acknowledged.extend((0..=last).map(|index| (index, log[index])));
        }
    }

    /// Every set of nodes that may be left, each as it would tell what it holds.
    fn disasters(&self) -> Vec<Vec<Survivor>> {
        let nodes: Vec<u64> = (1..=self.logs.len() as u64).collect();
        let told = |node: usize| {
            let LogEnd { term, index } = self.end(node);
            survivor(node as u64 + 1, (term, index), &nodes)
        };
        let left = |set: usize| (0..nodes.len()).filter(move |node| set >> node & 1 == 1);
        (1..1 << nodes.len()).map(|set| left(set).map(told).collect()).collect()
    }

    /// Whether this survivor has all of these entries.
    fn has(&self, node: NodeId, entries: impl IntoIterator<Item = (usize, u64)>) -> bool {
        let node = usize::try_from(node.0).expect("a small number") - 1;
        entries.into_iter().all(|entry| self.holds(node, entry))
    }

    /// The acknowledged entries that one of them has.
    fn known_to(&self, survivors: &[Survivor]) -> Vec<(usize, u64)> {
        let known = |entry: &(usize, u64)| survivors.iter().any(|survivor| self.has(survivor.node, [*entry]));
        self.acknowledged.iter().copied().filter(known).collect()
    }
}

impl Model for Voters {
    type State = Cluster;
    type Action = Act;

    fn init_states(&self) -> Vec<Cluster> {
        vec![Cluster { logs: vec![Vec::new(); self.count], term: 0, leader: None, acknowledged: BTreeSet::new() }]
    }

    fn actions(&self, cluster: &Cluster, acts: &mut Vec<Act>) {
        if cluster.term < self.terms {
            acts.extend((0..self.count).map(Act::Elect));
        }
        if let Some(leader) = cluster.leader {
            acts.push(Act::Write);
            acts.extend((0..self.count).filter(|node| *node != leader).map(Act::Replicate));
        }
    }

    fn next_state(&self, last: &Cluster, act: Act) -> Option<Cluster> {
        let mut cluster = last.clone();
        match act {
            Act::Elect(node) => {
                let willing = (0..self.count).filter(|voter| cluster.end(*voter) <= cluster.end(node)).count();
                if !cluster.is_majority(willing) {
                    return None;
                }
                (cluster.term, cluster.leader) = (cluster.term + 1, Some(node));
            }
            Act::Write => {
                let leader = cluster.leader?;
                if cluster.logs[leader].len() == ENTRIES {
                    return None;
                }
                cluster.logs[leader].push(cluster.term);
                cluster.acknowledge(leader);
            }
            Act::Replicate(node) => {
                let leader = cluster.leader?;
                cluster.logs[node] = cluster.logs[leader].clone();
                cluster.acknowledge(leader);
            }
        }
        Some(cluster)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "the safest has what any survivor has of what was acknowledged",
                |_, cluster: &Cluster| {
                    cluster.disasters().iter().all(|survivors| {
                        let plan = plan(survivors).expect("they belong together");
                        cluster.has(plan.safest, cluster.known_to(survivors))
                    })
                },
            ),
            Property::always("where nothing may be lost, nothing is", |_, cluster: &Cluster| {
                cluster.disasters().iter().all(|survivors| {
                    let plan = plan(survivors).expect("they belong together");
                    plan.may_lose || cluster.has(plan.safest, cluster.acknowledged.iter().copied())
                })
            }),
            Property::sometimes("something was lost, and the plan said that it may be", |_, cluster: &Cluster| {
                cluster.disasters().iter().any(|survivors| {
                    let plan = plan(survivors).expect("they belong together");
                    plan.may_lose && !cluster.has(plan.safest, cluster.acknowledged.iter().copied())
                })
            }),
            Property::sometimes("an entry was replaced that was never acknowledged", |_, cluster: &Cluster| {
                cluster.acknowledged.iter().any(|(index, term)| *index == 0 && *term > 1)
            }),
        ]
    }
}

#[test]
fn whatever_happened_before_a_disaster_the_safest_survivor_has_all_that_is_left() {
    for (count, terms) in [(3, 3), (4, 2)] {
        let checked = Voters { count, terms }.checker().spawn_bfs().join();
        println!("{count} voters: {} states", checked.unique_state_count());
        checked.assert_properties();
    }
}
