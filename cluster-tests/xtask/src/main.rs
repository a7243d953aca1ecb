//! `cargo xtask setup|env|test|demo|bench|torture|conformance|upgrade-test|soak`: what a person or a machine does with
//! a checkout, in one command each.
//!
//! It compiles in seconds and depends on nothing heavy, because it installs what the heavy crates need before they are
//! compiled. It never links against the product: it drives cargo and the built binaries as a user would. Every command
//! ends with exit code 0 only when all of it worked, 1 when something failed, 2 when it was called wrongly. Help is
//! shown before anything is built.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program for the terminal: what it prints is its result")]

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

mod bench;
mod conformance;
mod demo;
mod gates;
mod ollama;
mod previous;
mod soak;
mod torture;

mod closing;
mod http;
mod rocksdb;
mod setup;
mod steps;
mod waiting;
mod workspace;

use crate::workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup                        install what build and tests need (Debian and Ubuntu), or name it
  env                          lines for a shell, so that plain cargo commands share what these build
  test [--keep-going]          every gate: format, house style, lints, documentation, build, tests
  test ollama                  the suite beside real Ollamas, whose programs OLLAMA_BINS=a:b names
  demo [--once]                a three-node cluster on this machine: ask, kill, ask again
  bench NAME [--check]         measure `gateway`, `metadata` or `node` (-o json); --check: a missed aim is a failure
                               `bench metadata --against etcd [--quick]`: beside etcd, which is fetched where apt is
                               `bench snapshot [--state-mib N]`: a large state on its way, cut once; aims count
                               `bench transfer [--quick]`: one file for many nodes, beside nginx, aria2, rqbit, sendme
                               `bench mcp [--quick]`: the assistants' door, also while the leader is killed every 5 s;
                               `--write`: what was found into docs/architecture/mcp.md
                               `bench endurance [--minutes N]`: clients for an hour, a kill every minute; a loss counts
  torture [OPTIONS]            random faults against a cluster under load, and a judgement of all that was seen
                               `--seconds N`: no round begins after so many, 180; `--seed S`: a fresh one
                               `--nodes 3|5`; `--faults F1,F5,…`: all; `-o json`: the report as JSON
                               `torture --planted`: known mistakes, put in to see that each is found
  conformance mcp [OPTIONS]    the official suite of MCP, fetched by npx: one node, a random one of three for each
                               request, and so while the leader is killed every 5 s; `--only one,random,kills`;
                               `--seed S`; `--write`: the table into docs/architecture/conformance.md
  upgrade-test [--from REV]    a cluster goes from the release before to this one and back, under load; REV: another
                               commit than the last one whose cluster version is lower
  soak [--rounds N] [--seed S] [--from REV]
                               the cluster suites, that one too, and five minutes of torture again and again, each
                               round with a fresh seed
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(problem) => {
            eprintln!("error: {problem:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        words if wants_help(words) => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        ["setup"] => setup::run_for_tests(&Workspace::locate()?).map(|()| ExitCode::SUCCESS),
        ["env"] => {
            print!("{}", exports(&Workspace::locate()?));
            Ok(ExitCode::SUCCESS)
        }
        ["test"] => gates::run(&Workspace::locate()?, false),
        ["test", "--keep-going"] => gates::run(&Workspace::locate()?, true),
        ["test", "ollama"] => ollama::run(&Workspace::locate()?),
        ["demo"] => demo::run(&Workspace::locate()?, demo::Stay::UntilStopped),
        ["demo", "--once"] => demo::run(&Workspace::locate()?, demo::Stay::Leave),
        ["bench", name, rest @ ..] if !name.starts_with('-') => bench::run(&Workspace::locate()?, name, rest),
        ["torture", "--planted"] => torture::planted(&Workspace::locate()?),
        ["torture", rest @ ..] if rest.contains(&"--planted") => {
            Ok(usage_error("`torture --planted` takes no other option"))
        }
        ["torture", rest @ ..] => torture::run(&Workspace::locate()?, rest),
        ["conformance", "mcp", rest @ ..] => conformance::run(&Workspace::locate()?, rest),
        ["upgrade-test"] => previous::run(&Workspace::locate()?, None),
        ["upgrade-test", "--from", revision] => previous::run(&Workspace::locate()?, Some(*revision)),
        ["soak", rest @ ..] => match soak::Plan::parse(rest) {
            Ok(plan) => soak::run(&Workspace::locate()?, &plan),
            Err(problem) => Ok(usage_error(&problem)),
        },
        [demo::GUARD, binary, folder] => demo::guard(binary.as_ref(), folder.as_ref()),
        other => Ok(usage_error(&format!("`{}` is no command of cargo xtask", other.join(" ")))),
    }
}

/// Whether somebody asks what there is, of whichever command.
fn wants_help(words: &[&str]) -> bool {
    words.first().is_none_or(|first| *first == "help") || words.iter().any(|word| matches!(*word, "-h" | "--help"))
}

/// `export NAME='VALUE'`, quoted for a POSIX shell.
fn exports(workspace: &Workspace) -> String {
    let quoted = |value: &OsString| value.to_string_lossy().replace('\'', "'\\''");
    let variables = workspace.environment();
    variables.iter().map(|(name, value)| format!("export {name}='{}'\n", quoted(value))).collect()
}

fn usage_error(problem: &str) -> ExitCode {
    eprintln!("error: {problem}\n\n{USAGE}");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_asked_for_behind_every_command_too() {
        let check = |words: &[&str], expected: bool| assert_eq!(wants_help(words), expected, "{words:?}");
        let alone: [&[&str]; 4] = [&[], &["help"], &["-h"], &["--help"]];
        for words in alone {
            check(words, true);
        }
        for command in ["setup", "env", "test", "demo", "bench", "torture", "conformance", "upgrade-test", "soak"] {
            check(&[command, "--help"], true);
            check(&[command, "-h"], true);
            check(&[command, "--seed", "7"], false);
            assert!(USAGE.contains(&format!("\n  {command} ")), "{command}");
        }
        check(&["torture", "--nodes", "5", "--help"], true);
        check(&["bench", "gateway", "--check"], false);
    }

    #[test]
    fn help_names_the_options_of_torture() {
        for option in ["--seconds", "--seed", "--nodes", "--faults", "-o json", "--planted"] {
            assert!(USAGE.contains(option), "{option}");
        }
    }
}
