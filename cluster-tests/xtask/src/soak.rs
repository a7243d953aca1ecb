//! `cargo xtask soak`: the integration suites, the clusters among them, and a long torture, again and again, each round
//! with a fresh seed. Suites that have a long form run it (`OLLAMAX_SOAK=1`); that of MCP's clients needs the package
//! registry of Node. The one that goes from the release before to this one gets that release's daemon, and is left out
//! where the history does not know it; every other round tortures five nodes instead of three.
//!
//! The first round that fails ends it. Its seed is printed before it begins and again at the end: `OLLAMAX_SEED`
//! replays the suites, and the torture tells its own line.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::process::ExitCode;

use anyhow::Result;

use crate::closing::Closing;
use crate::previous;
use crate::setup;
use crate::torture;
use crate::waiting::{Stopwatch, seconds};
use crate::workspace::{Workspace, succeed};

/// Rounds when nobody says otherwise.
const ROUNDS_DEFAULT: u32 = 10;
/// How long the torture of one round lasts.
const TORTURE_SECONDS: u64 = 300;

/// What to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    rounds: u32,
    seed: Option<u64>,
    /// The revision of the release before; `None`: it is looked for.
    from: Option<String>,
}

// === impl Plan ===

impl Plan {
    /// Reads `--rounds N`, `--seed S` and `--from REV`.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut plan = Self { rounds: ROUNDS_DEFAULT, seed: None, from: None };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("`{word}` needs a value"))?;
            let bad = |_| format!("`{word} {value}`: not a number in range");
            match *word {
                "--rounds" => plan.rounds = value.parse().map_err(bad)?,
                "--seed" => plan.seed = Some(value.parse().map_err(bad)?),
                "--from" => plan.from = Some((*value).to_owned()),
                other => return Err(format!("`{other}` is no option of soak")),
            }
        }
        Ok(plan)
    }

    /// The seed of one round: the given one and its successors, else a fresh one.
    fn seed_of(&self, round: u32) -> u64 {
        match self.seed {
            Some(first) => first.wrapping_add(u64::from(round)),
            None => RandomState::new().hash_one(round),
        }
    }
}

/// A round in turn tortures three nodes and five.
fn torture_options(round: u32, seed: u64) -> Vec<String> {
    let nodes = if round.is_multiple_of(2) { 3 } else { 5 };
    let numbers = [("--seconds", TORTURE_SECONDS), ("--seed", seed), ("--nodes", nodes)];
    numbers.into_iter().flat_map(|(name, number)| [name.to_owned(), number.to_string()]).collect()
}

/// Words as a shell takes them.
fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| word.replace('*', "'*'")).collect::<Vec<_>>().join(" ")
}

/// Runs the rounds; stops at the first that fails.
pub(crate) fn run(workspace: &Workspace, plan: &Plan) -> Result<ExitCode> {
    setup::run_for_tests(workspace)?;
    let daemon = match previous::make_if_known(workspace, plan.from.as_deref())? {
        Ok(daemon) => Some((previous::VARIABLE, daemon)),
        Err(unknown) => {
            eprintln!("warning: the suite of two releases is left out: {unknown}");
            None
        }
    };
    succeed(workspace.build())?;
    for round in 0..plan.rounds {
        let seed = plan.seed_of(round);
        println!("=== round {} of {}, seed {seed}", round + 1, plan.rounds);
        let watch = Stopwatch::start();
        let mut closing = Closing::default();
        // The whole workspace is named so that features, and with them the built libraries, stay the same.
        for words in [["--test", "*", "--", ""], ["--lib", "--", "sim::", "--nocapture"]] {
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            let mut tests = workspace.cargo(["test", "--workspace", "--locked"].iter().chain(&words));
            tests.env("OLLAMAX_SEED", seed.to_string()).env("OLLAMAX_SOAK", "1").envs(daemon.clone());
            let result = closing.run(tests);
            if let Err(problem) = result {
                println!("{}", closing.text());
                let daemon = daemon.map(|(name, path)| format!("{name}={} ", path.display())).unwrap_or_default();
                let words = quoted(&words);
                let replay = format!("OLLAMAX_SOAK=1 OLLAMAX_SEED={seed} {daemon}cargo test --workspace {words}");
                eprintln!("error: {problem:#}\nto replay this round: {replay}");
                return Ok(ExitCode::FAILURE);
            }
        }
        println!("{}", closing.text());
        let options = torture_options(round, seed);
        if let Err(problem) = succeed(torture::command(workspace, &options)) {
            eprintln!("error: {problem:#}\nto replay its plan: cargo xtask torture {}", options.join(" "));
            return Ok(ExitCode::FAILURE);
        }
        println!("=== round {}: {} in {}", round + 1, closing.totals(), seconds(watch.elapsed()));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_mistakes_are_named() {
        let check = |words: &[&str], expected: Result<Plan, &str>| {
            assert_eq!(Plan::parse(words), expected.map_err(str::to_owned), "{words:?}");
        };
        check(&[], Ok(Plan { rounds: ROUNDS_DEFAULT, seed: None, from: None }));
        check(&["--rounds", "3", "--seed", "7"], Ok(Plan { rounds: 3, seed: Some(7), from: None }));
        let from = Some("v0.1".to_owned());
        check(&["--from", "v0.1"], Ok(Plan { rounds: ROUNDS_DEFAULT, seed: None, from }));
        check(&["--rounds"], Err("`--rounds` needs a value"));
        check(&["--rounds", "many"], Err("`--rounds many`: not a number in range"));
        check(&["--loops", "3"], Err("`--loops` is no option of soak"));
    }

    #[test]
    fn a_given_seed_gives_the_same_rounds_and_none_gives_fresh_ones() {
        let fixed = Plan { rounds: 2, seed: Some(7), from: None };
        assert_eq!((fixed.seed_of(0), fixed.seed_of(1)), (7, 8));
        let fresh = Plan { rounds: 2, seed: None, from: None };
        assert_ne!(fresh.seed_of(0), fresh.seed_of(0));
    }

    #[test]
    fn rounds_torture_three_nodes_and_five_in_turn() {
        assert_eq!(torture_options(0, 7).join(" "), "--seconds 300 --seed 7 --nodes 3");
        assert_eq!(torture_options(1, 8).join(" "), "--seconds 300 --seed 8 --nodes 5");
    }
}
