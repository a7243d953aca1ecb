//! Migrations: numbered changes of what is on record already, each a pure walk over the state and one back.
//!
//! Always holds: a step looks at a bounded number of records and says where the next one goes on; what it reads may be
//! in the old form or in the new one, so that a walk may begin anew and other commands may come between its steps. A
//! migration needs at least the cluster version of the release that brought it, so that all members know it. Records
//! that contradict each other end the walk; they are never repaired here.

mod noted_deadlines;
mod rehearsal;

pub use rehearsal::{Rehearsal, rehearse};

use std::ops::RangeInclusive;

use super::record::{Key, Migration, MigrationStatus};
use super::view::{Fault, Mutation, View};

/// The parts of the product, in the order in which they came; each has a range of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Members, tokens, values, leases, sessions: what every cluster has.
    Core,
    /// Models and their copies.
    Models,
    /// Memory and conversations.
    Memory,
    /// Programs that are run for users.
    CliTools,
    /// Guidance and decisions.
    Guidance,
    /// Sources and their index.
    Knowledge,
    /// Costs, audit, schedules.
    Operations,
}

/// What a step of a migration changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// To be written in this order.
    pub mutations: Vec<Mutation>,
    /// Records that were looked at.
    pub looked_at: u64,
    /// The next step goes on behind this key; `None`: nothing is left.
    pub next: Option<Key>,
}

/// Why a walk ends early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Records contradict each other, in words.
    Contradiction(String),
    /// The state cannot be read or trusted.
    Fault(Fault),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// One step, behind a key that a step before has named; `None`: the first.
pub type Walk = fn(&dyn View, Option<&Key>) -> Result<Step, Trouble>;

/// A migration as a release knows it.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// In the range of its phase; never used again for another.
    pub number: u32,
    /// The part of the product that it is about.
    pub phase: Phase,
    /// For people and programs; never changed.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
    /// The cluster version that it needs.
    pub needs: u32,
    /// There.
    pub up: Walk,
    /// And back; `None`: there is no way back.
    pub down: Option<Walk>,
}

/// Everything that this release knows, by number.
pub const ALL: &[Spec] = &[noted_deadlines::SPEC];

/// The migration with a number, if this release knows it.
#[must_use]
pub fn find(number: u32) -> Option<&'static Spec> {
    ALL.iter().find(|spec| spec.number == number)
}

/// Which of them are meant. Both ends of the numbers are meant, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Choice {
    /// Back, from the highest number down.
    pub down: bool,
    /// Those of one phase.
    pub phase: Option<Phase>,
    /// The first one that is done.
    pub from: Option<u32>,
    /// The last one that is done.
    pub to: Option<u32>,
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Numbers.
    pub run: Vec<u32>,
    /// Numbers of those that wait for a higher cluster version.
    pub waiting: Vec<u32>,
}

// === impl Phase ===

impl Phase {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Core, Self::Models, Self::Memory, Self::CliTools, Self::Guidance, Self::Knowledge, Self::Operations];

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Core => 0,
            Self::Models => 1,
            Self::Memory => 2,
            Self::CliTools => 3,
            Self::Guidance => 4,
            Self::Knowledge => 5,
            Self::Operations => 6,
        }
    }

    /// What it is about.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Models => "models",
            Self::Memory => "memory",
            Self::CliTools => "cli-tools",
            Self::Guidance => "guidance",
            Self::Knowledge => "knowledge",
            Self::Operations => "operations",
        }
    }

    /// The numbers of its migrations. There is no migration 0.
    #[must_use]
    pub const fn numbers(self) -> RangeInclusive<u32> {
        let first = self.number() * 100;
        (if first == 0 { 1 } else { first })..=first + 99
    }

    /// The phase that somebody means by its number or its word.
    #[must_use]
    pub fn of_text(text: &str) -> Option<Self> {
        let number = text.parse::<u32>().ok();
        Self::ALL.into_iter().find(|phase| phase.group() == text || Some(phase.number()) == number)
    }
}

// === impl Choice ===

impl Choice {
    /// Whether nothing was named.
    const fn is_open(&self) -> bool {
        self.phase.is_none() && self.from.is_none() && self.to.is_none()
    }

    fn holds(&self, number: u32) -> bool {
        let (least, most) = if self.down { (self.to, self.from) } else { (self.from, self.to) };
        let of_phase = self.phase.is_none_or(|phase| phase.numbers().contains(&number));
        of_phase && least.is_none_or(|least| number >= least) && most.is_none_or(|most| number <= most)
    }
}

/// What there is to do of a choice. Up: all that are not applied. Back: all that were begun and are not taken back, or
/// the last of them when nothing was named.
#[must_use]
pub fn plan(table: &[Spec], ledger: &[Migration], version: u32, choice: &Choice) -> Plan {
    let status = |number: u32| ledger.iter().find(|row| row.number == number).map(|row| row.status);
    let wanted = |number: u32| match (choice.down, status(number)) {
        (false, status) => status != Some(MigrationStatus::Applied),
        (true, None | Some(MigrationStatus::Reverted)) => false,
        (true, Some(_)) => true,
    };
    let meant: Vec<&Spec> = table.iter().filter(|spec| choice.holds(spec.number) && wanted(spec.number)).collect();
    let (ready, waiting): (Vec<&Spec>, Vec<&Spec>) = meant.into_iter().partition(|spec| spec.needs <= version);
    let mut plan = Plan { run: numbers(&ready), waiting: numbers(&waiting) };
    if choice.down {
        plan.run.reverse();
        plan.run.truncate(if choice.is_open() { 1 } else { usize::MAX });
    }
    plan
}

fn numbers(specs: &[&Spec]) -> Vec<u32> {
    specs.iter().map(|spec| spec.number).collect()
}

#[cfg(test)]
mod tests;
