//! What `torture` is asked for on its command line. Whatever cannot be meant ends with exit code 2 and says why.

use clap::{Parser, ValueEnum};

use crate::plan::Family;

/// Longest run, seconds: a week.
const SECONDS_MAX: u64 = 7 * 24 * 3_600;

/// What is another command, to which no option of this one belongs.
const PLANTED: &str = "\
`cargo xtask torture --planted` puts known mistakes into simulated clusters, and shows that each is found.";

/// How the report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

/// Random faults against a cluster of real processes under load, and a judgement of everything that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "torture", bin_name = "cargo xtask torture", after_help = PLANTED)]
pub(crate) struct Options {
    /// No round begins after this many seconds; the first always does.
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    pub(crate) seconds: u64,
    /// From what all chance is drawn. Not said: a fresh number, which the report tells.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How many nodes: 3 or 5.
    #[arg(long, default_value_t = 3, value_parser = nodes)]
    pub(crate) nodes: usize,
    /// Which faults, with commas: F1 (killed), F2 (ended in a call), F3 (power cut), F4 (paused), F5 (parted), F6 (bad
    /// links), F7 (half-open), F8 (behind), F9 (bad disks), F10 (slow syncs), F11 (damaged files), F12 (busy disk), F13
    /// (clock jumps), F14 (membership), F16 (overload). Not said: all of them.
    #[arg(long, value_delimiter = ',', value_parser = Family::parse)]
    pub(crate) faults: Vec<Family>,
    /// How the report is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) output: Output,
}

// === impl Options ===

impl Options {
    /// The chosen faults, each once and in order.
    pub(crate) fn families(&self) -> Vec<Family> {
        let chosen = |family: &Family| self.faults.is_empty() || self.faults.contains(family);
        Family::ALL.into_iter().filter(chosen).collect()
    }

    /// The command that runs the same plan again.
    pub(crate) fn replay(&self, seed: u64) -> String {
        let faults: Vec<&str> = self.families().into_iter().map(Family::id).collect();
        let Self { seconds, nodes, .. } = self;
        let faults = faults.join(",");
        format!("cargo xtask torture --seed {seed} --seconds {seconds} --nodes {nodes} --faults {faults}")
    }
}

fn nodes(text: &str) -> Result<usize, String> {
    match text {
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("a cluster under torture has 3 or 5 nodes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, String> {
        let words = ["torture"].iter().chain(words);
        Options::try_parse_from(words).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_said_is_read_and_the_rest_has_defaults() {
        let options = parse(&[]).expect("nothing has to be said");
        assert_eq!((options.seconds, options.seed, options.nodes, options.output), (180, None, 3, Output::Table));
        assert_eq!(options.families(), Family::ALL);
        let options = parse(&["--seconds", "9", "--seed", "7", "--nodes", "5", "--faults", "F5,f1,F5", "-o", "json"]);
        let options = options.expect("good words");
        assert_eq!((options.seconds, options.seed, options.nodes, options.output), (9, Some(7), 5, Output::Json));
        assert_eq!(options.families(), [Family::F1, Family::F5]);
    }

    #[test]
    fn mistakes_are_named_and_end_with_exit_code_2() {
        let check = |words: &[&str], named: &str| {
            let error = Options::try_parse_from(["torture"].iter().chain(words)).expect_err("a mistake");
            assert_eq!(error.exit_code(), 2, "{words:?}");
            assert!(error.to_string().contains(named), "{words:?}: {error}");
        };
        check(&["--nodes", "4"], "3 or 5 nodes");
        check(&["--seconds", "0"], "0");
        check(&["--faults", "F17"], "F17");
        check(&["--faults", ""], "is no fault");
        check(&["--loops", "3"], "--loops");
    }

    #[test]
    fn the_line_of_a_replay_names_everything_and_is_read_back_as_the_same() {
        let options = parse(&["--faults", "F16,F3", "--seconds", "20"]).expect("good words");
        let line = options.replay(99);
        assert_eq!(line, "cargo xtask torture --seed 99 --seconds 20 --nodes 3 --faults F3,F16");
        let words: Vec<&str> = line.split(' ').skip(3).collect();
        let again = parse(&words).expect("its own words");
        assert_eq!(again.seed, Some(99));
        assert_eq!(again.replay(99), line);
    }
}
