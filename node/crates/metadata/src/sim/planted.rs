//! Mistakes that are known, each made on purpose, to see that the worlds find it, and only because of it: a proof that
//! would not notice them proves nothing. `cargo xtask torture --planted` prints what this test prints.

use std::collections::BTreeMap;

use super::node::OPENRAFT;
use super::types::Bug;
use super::world;

/// Begins each line of the table, so that it is told from what else is printed.
const ROW: &str = "| ";

/// One mistake, and what it takes to find it.
struct Planted {
    /// Its number in the plan of what reliability means.
    number: &'static str,
    bug: Bug,
    what: &'static str,
    /// What its first violation says, one of these.
    says: &'static [&'static str],
    /// Found in so many worlds.
    worlds: u64,
}

static PLANTED: [Planted; 9] = [
    Planted {
        number: "B1",
        bug: Bug::DurableBeforeSync,
        what: "entries are called durable before the sync",
        // openraft itself notices when a follower's log goes back.
        says: &["I3:", "I5:", "I6:", OPENRAFT],
        worlds: 50,
    },
    Planted {
        number: "B2",
        bug: Bug::VoteInMemory,
        what: "a vote is kept in memory only",
        // And when a vote is older than the log behind it.
        says: &["I1:", "I5:", "I7:", OPENRAFT],
        worlds: 50,
    },
    Planted {
        number: "B3",
        bug: Bug::ReadWithoutMajority,
        what: "a leader answers reads without asking its majority",
        says: &["I2:"],
        worlds: 20,
    },
    Planted {
        number: "B4",
        bug: Bug::RetryWithoutSequence,
        what: "a change is sent again without its sequence",
        says: &["I4:"],
        worlds: 20,
    },
    Planted {
        number: "B5",
        bug: Bug::LabelBeforeContent,
        what: "a snapshot's label is read before its content",
        says: &["I6:"],
        worlds: 100,
    },
    Planted {
        number: "B6",
        bug: Bug::MarkBehindState,
        what: "the applied mark is written apart from the state",
        says: &["I6:", "I4:", "Cannot re-apply"],
        worlds: 20,
    },
    Planted {
        number: "B7",
        bug: Bug::WipedAsBefore,
        what: "a wiped node is accepted under its old id",
        says: &["I12:"],
        worlds: 20,
    },
    Planted {
        number: "B8",
        bug: Bug::FeedOverSnapshot,
        what: "a watch drops what a snapshot skips",
        says: &["I8:"],
        worlds: 20,
    },
    Planted {
        number: "B8",
        bug: Bug::ResumeFromNow,
        what: "a watch drops what comes before it is resumed",
        says: &["I8:"],
        worlds: 20,
    },
];

/// What the search for one of them came to.
struct Search {
    planted: &'static Planted,
    /// The first world that is violated, and its first violation.
    found: Option<(u64, String)>,
    /// The first violation of the same world without the mistake.
    without: Option<String>,
}

// === impl Search ===

impl Search {
    /// Looks into one world after the other, and then into the one that shows it as it is without. `clean`: what those
    /// said that were looked at before.
    fn of(planted: &'static Planted, clean: &mut BTreeMap<u64, Option<String>>) -> Self {
        let found = (1..=planted.worlds).find_map(|seed| Some((seed, first_violation(seed, Some(planted.bug))?)));
        let without = found.as_ref().and_then(|(seed, _)| {
            let without = clean.entry(*seed).or_insert_with(|| first_violation(*seed, None));
            without.clone()
        });
        Self { planted, found, without }
    }

    fn is_proof(&self) -> bool {
        let is_meant = |said: &str| self.planted.says.iter().any(|says| said.contains(says));
        self.without.is_none() && self.found.as_ref().is_some_and(|(_, said)| is_meant(said))
    }

    fn row(&self) -> String {
        let Self { planted, found, without } = self;
        let seed = found.as_ref().map_or_else(|| format!("none of {}", planted.worlds), |(seed, _)| seed.to_string());
        let said = found.as_ref().map_or("", |(_, said)| said.as_str());
        let without = if found.is_none() { "" } else { without.as_deref().unwrap_or("nothing") };
        let is_proved = if self.is_proof() { "yes" } else { "NO" };
        row([planted.number, planted.what, is_proved, &seed, said, without])
    }
}

/// Cells in columns, each cut to what a terminal can show.
fn row([number, what, is_proved, seed, said, without]: [&str; 6]) -> String {
    format!("{ROW}{number:3} | {what:50} | {is_proved:5} | {seed:11} | {said:60.60} | {without:16.60} |\n")
}

fn first_violation(seed: u64, bug: Option<Bug>) -> Option<String> {
    world(seed, bug).violations.into_iter().next()
}

#[test]
fn every_planted_bug_is_found() {
    let mut clean = BTreeMap::new();
    let searches: Vec<Search> = PLANTED.iter().map(|planted| Search::of(planted, &mut clean)).collect();
    let head = row(["bug", "what is planted", "found", "world", "what it says first", "says without it"]);
    let rows: String = searches.iter().map(Search::row).collect();
    // What the harness says of a test that runs alone has no end of line.
    println!("\n{head}{rows}");
    let missed: Vec<Bug> = searches.iter().filter(|one| !one.is_proof()).map(|one| one.planted.bug).collect();
    assert!(missed.is_empty(), "not found, or not because of it: {missed:?}");
}
