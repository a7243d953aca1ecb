//! The command line of `ollamax-node`: its two commands, and a flag for every configuration key.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::{NodeConfig, example, layers};

/// What the process was asked to do.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Run the daemon.
    Run {
        /// The data directory; `None`: the default place.
        data_dir: Option<PathBuf>,
        /// The configuration file.
        file: Option<PathBuf>,
        /// Keys set by flags, as (dotted key, text).
        flags: Vec<(String, String)>,
        /// Show the effective configuration instead.
        print_config: bool,
    },
    /// Declare a copied data directory to be the only one.
    Adopt {
        /// Which directory.
        data_dir: PathBuf,
    },
}

/// The whole command line.
#[must_use]
pub(crate) fn command() -> Command {
    let data_dir = || {
        Arg::new("data-dir")
            .long("data-dir")
            .env("OLLAMAX_DATA_DIR")
            .value_name("DIR")
            .value_parser(clap::value_parser!(PathBuf))
    };
    let mut run = Command::new("run")
        .about("Run the daemon in the foreground until SIGTERM")
        .arg(
            data_dir().help("Data directory [default: /var/lib/ollamax for user ollamax, else $XDG_DATA_HOME/ollamax]"),
        )
        .arg(
            Arg::new("config")
                .long("config")
                .env("OLLAMAX_CONFIG")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Configuration file (TOML)"),
        )
        .arg(
            Arg::new("print-config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("Show the effective configuration with the origin of each value, and exit"),
        );
    let defaults = serde_json::to_value(NodeConfig::default()).expect("plain fields serialise");
    let meanings = example::meanings();
    for (key, _) in layers::leaves(&defaults) {
        let help = meanings.get(&key).cloned().unwrap_or_default();
        let variable = layers::env_name(&key);
        run = run.arg(
            Arg::new(key.clone())
                .long(key)
                .value_name("VALUE")
                .help_heading("Configuration keys")
                .help(format!("{help} [env: {variable}]")),
        );
    }
    Command::new("ollamax-node")
        .version(env!("CARGO_PKG_VERSION"))
        .about("One node of an OllamaMax cluster")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(run)
        .subcommand(
            Command::new("adopt")
                .about("Declare a copied or restored data directory to be the only one of its node")
                .long_about(
                    "Declare a copied or restored data directory to be the only one of its node.\n\
                     Two nodes with one identity would damage the cluster: make sure that the original never runs again.",
                )
                .arg(data_dir().required(true).help("The directory")),
        )
}

/// Reads the command line.
#[must_use]
pub(crate) fn parse(matches: &ArgMatches) -> Asked {
    match matches.subcommand() {
        Some(("adopt", adopt)) => {
            Asked::Adopt { data_dir: adopt.get_one::<PathBuf>("data-dir").cloned().unwrap_or_default() }
        }
        Some((_, run)) => Asked::Run {
            data_dir: run.get_one::<PathBuf>("data-dir").cloned(),
            file: run.get_one::<PathBuf>("config").cloned(),
            flags: keys(run),
            print_config: run.get_flag("print-config"),
        },
        None => Asked::Run { data_dir: None, file: None, flags: Vec::new(), print_config: false },
    }
}

fn keys(run: &ArgMatches) -> Vec<(String, String)> {
    let defaults = serde_json::to_value(NodeConfig::default()).expect("plain fields serialise");
    let keys = layers::leaves(&defaults).into_iter().map(|(key, _)| key);
    keys.filter_map(|key| run.get_one::<String>(&key).cloned().map(|text| (key, text))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_keys_become_flags() {
        command().debug_assert();
        let words = ["ollamax-node", "run", "--data-dir", "/d", "--api.listen", "127.0.0.1:0", "--print-config"];
        let Asked::Run { data_dir, flags, print_config, .. } = parse(&command().get_matches_from(words)) else {
            panic!("run");
        };
        assert_eq!(data_dir, Some(PathBuf::from("/d")));
        assert_eq!(flags, [("api.listen".to_owned(), "127.0.0.1:0".to_owned())]);
        assert!(print_config);
    }
}
