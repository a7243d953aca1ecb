//! A command line that makes no sense: clap's own words for people, the same as a failure for programs.

use std::ffi::OsString;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::args::Cli;
use crate::error::Failure;

/// Whether the words ask for JSON. Those that cannot be parsed are read as far as they can be.
pub(crate) fn wants_json(words: &[OsString]) -> bool {
    let words: Vec<&str> = words.iter().skip(1).filter_map(|word| word.to_str()).take_while(|w| *w != "--").collect();
    let joined = |word: &&str| *word == "--output=json" || matches!(short(word), Some("ojson" | "o=json"));
    let named = |word: &str| word == "--output" || short(word) == Some("o");
    words.iter().any(joined) || words.windows(2).any(|pair| named(pair[0]) && pair[1] == "json")
}

/// A word of short flags, without those that take no value and may stand before `-o` in it: `-vojson`.
fn short(word: &str) -> Option<&str> {
    word.strip_prefix('-').map(|flags| flags.trim_start_matches('v'))
}

/// What clap found, in the shape of every other failure.
pub(crate) fn failure(error: &clap::Error, words: &[OsString]) -> Failure {
    let next = format!("{} --help", path(words));
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Failure::usage("no command was given", next);
    }
    let text = error.to_string();
    let mut parts = text.split("\n\n").map(one_line);
    let what = parts.next().unwrap_or_default();
    let tip = parts.find_map(|part| part.strip_prefix("tip: ").map(str::to_owned)).unwrap_or_default();
    Failure::new(2, what.trim_start_matches("error: "), tip, next)
}

/// Points a word that Ollama has at the top, and that stands under `model` here, to its place.
pub(crate) fn point_to_models(error: &mut clap::Error, words: &[OsString]) {
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidSubcommand) else { return };
    let top = Cli::command();
    let mut before = words.iter().skip(1).filter_map(|word| word.to_str()).take_while(|word| word != unknown);
    let is_at_the_top = before.all(|word| top.find_subcommand(word).is_none());
    let meant = top.find_subcommand("model").and_then(|model| model.find_subcommand(unknown));
    let Some(meant) = meant.filter(|_| is_at_the_top) else { return };
    let tip = format!("the words for models begin with model: 'ollamax model {}'", meant.get_name());
    // What only looks alike would lead away.
    error.remove(ContextKind::SuggestedSubcommand);
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
}

/// The command that was meant, as far as its words are known.
fn path(words: &[OsString]) -> String {
    let (mut path, mut command) = ("ollamax".to_owned(), &Cli::command());
    for word in words.iter().skip(1).filter_map(|word| word.to_str()) {
        if let Some(below) = command.find_subcommand(word) {
            path = format!("{path} {word}");
            command = below;
        }
    }
    path
}

fn one_line(part: &str) -> String {
    part.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn json_is_heard_in_every_spelling() {
        let check = |line: &str, expected| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(wants_json(&words), expected, "{line}");
        };
        check("ollamax nodee -o json", true);
        check("ollamax -ojson nodee", true);
        check("ollamax nodee --output=json", true);
        check("ollamax --output json", true);
        check("ollamax -vojson nodee", true);
        check("ollamax nodee -vo json", true);
        check("ollamax nodee -v json", false);
        check("ollamax nodee -o table", false);
        check("ollamax run demo -- -o json", false);
        check("-ojson", false);
    }

    #[test]
    fn clap_s_words_fill_the_three_lines() {
        let check = |line: &str, expected: [&str; 3]| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let mut error = Cli::try_parse_from(&words).expect_err("refused");
            point_to_models(&mut error, &words);
            assert_eq!(
                failure(&error, &words),
                Failure::new(2, expected[0], expected[1], expected[2]),
                "{line}: {error}"
            );
        };
        let similar = "a similar subcommand exists: 'doctor'";
        check("ollamax doktor", ["unrecognized subcommand 'doktor'", similar, "ollamax --help"]);
        check(
            "ollamax model import",
            ["the following required arguments were not provided: <FILE>", "", "ollamax model import --help"],
        );
        check(
            "ollamax status -o yaml",
            [
                "invalid value 'yaml' for '--output <OUTPUT>' [possible values: table, json]",
                "",
                "ollamax status --help",
            ],
        );
        let tip = |word: &str| format!("the words for models begin with model: 'ollamax model {word}'");
        for (line, word, meant) in [
            ("ollamax list", "list", "list"),
            ("ollamax -o json ls", "ls", "list"),
            ("ollamax pull llama3.2", "pull", "pull"),
            ("ollamax rm llama3.2 --yes", "rm", "rm"),
            ("ollamax --data-dir d show llama3.2", "show", "show"),
        ] {
            check(line, [&format!("unrecognized subcommand '{word}'"), &tip(meant), "ollamax --help"]);
        }
        check("ollamax dev pull", ["unrecognized subcommand 'pull'", "", "ollamax dev --help"]);
        check("ollamax", ["no command was given", "", "ollamax --help"]);
    }
}
