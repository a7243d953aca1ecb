//! The autopilot's decisions, explored: every order in which machines fall silent, die, come back and depart, with the
//! leader's steps in between.
//!
//! A step is a change of voters that must commit in the old set and in the new one. It is only ever decided by a leader
//! that hears a majority.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Checker, Model, Property};

use super::*;

/// Steps after which a group that is left alone has come to rest.
const STEPS_MAX: usize = 8;

/// So many machines that may vote, all of which begin as voters up to the wanted number.
struct Machines(u64);

/// What one machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Doing {
    Well,
    /// Silent since a moment ago.
    Silent,
    /// Silent for so long that it may lose its seat.
    Dead,
    /// Taken out by an administrator; it answers until it is no voter any more.
    Departed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Lab {
    machines: BTreeMap<u64, Doing>,
    voters: BTreeSet<u64>,
    /// The last step could not commit.
    wedged: bool,
    /// The last step took the vote of a machine that was well, though there were not too many voters.
    unjust: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    FallSilent(u64),
    Die(u64),
    Return(u64),
    Depart(u64),
    Step,
}

// === impl Lab ===

impl Lab {
    fn answers(&self, machine: u64) -> bool {
        matches!(self.machines.get(&machine), Some(Doing::Well | Doing::Departed))
    }

    fn has_majority(&self, voters: &BTreeSet<u64>) -> bool {
        voters.iter().filter(|voter| self.answers(**voter)).count() * 2 > voters.len()
    }

    /// What the leader of this moment decides; nothing without a majority.
    fn decision(&self) -> Option<Change> {
        let leads = |voter: &&u64| self.machines.get(*voter) == Some(&Doing::Well);
        let leader = *self.voters.iter().find(leads).filter(|_| self.has_majority(&self.voters))?;
        let members: Vec<Member> =
            self.machines.iter().map(|(id, doing)| member(*id, Role::Voter, *doing == Doing::Departed)).collect();
        let seen = self.machines.iter().filter(|(id, _)| **id != leader).map(|(id, doing)| {
            let standing = match doing {
                Doing::Well | Doing::Departed => healthy_for(60),
                Doing::Silent => silent_for(5),
                Doing::Dead => silent_for(600),
            };
            (NodeId(*id), standing)
        });
        let voters = self.voters.iter().copied().map(NodeId).collect();
        let (seen, knobs) = (seen.collect(), Knobs::default());
        plan(&Group { members: &members, voters: &voters, leader: NodeId(leader), seen: &seen, knobs: &knobs })
    }

    fn after(&self, change: Change) -> BTreeSet<u64> {
        let mut voters = self.voters.clone();
        match change {
            Promote(node) => drop(voters.insert(node.0)),
            Demote(node) => drop(voters.remove(&node.0)),
            Replace { silent, by } => {
                voters.remove(&silent.0);
                voters.insert(by.0);
            }
        }
        voters
    }
}

impl Model for Machines {
    type State = Lab;
    type Action = Act;

    fn init_states(&self) -> Vec<Lab> {
        let machines: BTreeMap<u64, Doing> = (1..=self.0).map(|id| (id, Doing::Well)).collect();
        let voters = (1..=self.0).take(wanted(machines.len())).collect();
        vec![Lab { machines, voters, wedged: false, unjust: false }]
    }

    fn actions(&self, lab: &Lab, acts: &mut Vec<Act>) {
        for (machine, doing) in &lab.machines {
            match doing {
                Doing::Well => acts.extend([Act::FallSilent(*machine), Act::Depart(*machine)]),
                Doing::Silent => acts.extend([Act::Die(*machine), Act::Return(*machine)]),
                Doing::Dead => acts.push(Act::Return(*machine)),
                Doing::Departed => {}
            }
        }
        acts.push(Act::Step);
    }

    fn next_state(&self, last: &Lab, act: Act) -> Option<Lab> {
        let mut lab = Lab { wedged: false, unjust: false, ..last.clone() };
        match act {
            Act::FallSilent(machine) => drop(lab.machines.insert(machine, Doing::Silent)),
            Act::Die(machine) => drop(lab.machines.insert(machine, Doing::Dead)),
            Act::Return(machine) => drop(lab.machines.insert(machine, Doing::Well)),
            Act::Depart(machine) => {
                // As the state refuses it: the last one that may vote stays.
                let others = lab.machines.iter().filter(|(id, doing)| **id != machine && **doing != Doing::Departed);
                if others.count() == 0 {
                    return None;
                }
                lab.machines.insert(machine, Doing::Departed);
            }
            Act::Step => {
                let change = lab.decision()?;
                let voters = lab.after(change);
                lab.wedged = !lab.has_majority(&lab.voters) || !lab.has_majority(&voters);
                let standing = lab.machines.values().filter(|doing| **doing != Doing::Departed).count();
                let was_well = |node: NodeId| lab.machines.get(&node.0) == Some(&Doing::Well);
                lab.unjust = match change {
                    Demote(node) => was_well(node) && lab.voters.len() <= wanted(standing),
                    Replace { silent, .. } => was_well(silent),
                    Promote(_) => false,
                };
                lab.voters = voters;
            }
        }
        Some(lab)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a change of voters can always commit", |_, lab: &Lab| !lab.wedged),
            Property::always("nobody who is well loses a vote without need", |_, lab: &Lab| !lab.unjust),
            Property::always("there are voters", |_, lab: &Lab| !lab.voters.is_empty()),
            Property::always("a group that is left alone comes to rest", |_, lab: &Lab| {
                let mut lab = lab.clone();
                let mut step = || {
                    let change = lab.decision();
                    if let Some(change) = change {
                        lab.voters = lab.after(change);
                    }
                    change.is_none()
                };
                (0..=STEPS_MAX).any(|_| step())
            }),
            Property::sometimes("a dead voter loses its seat", |model: &Self, lab: &Lab| {
                let lost = |(id, doing): (&u64, &Doing)| *doing == Doing::Dead && !lab.voters.contains(id);
                // Of three nobody can take the seat.
                model.0 == 3 || lab.machines.iter().any(lost)
            }),
        ]
    }
}

#[test]
fn however_machines_come_and_go_no_step_of_the_autopilot_wedges_the_group() {
    for machines in [3, 4, 5] {
        let checked = Machines(machines).checker().spawn_bfs().join();
        println!("{machines} machines: {} states", checked.unique_state_count());
        checked.assert_properties();
    }
}
