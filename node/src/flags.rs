//! The command line of `ollamax-node`: its commands, and a flag for every configuration key.

use std::ffi::{OsStr, OsString};
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
    /// Check a backup.
    VerifyBackup {
        /// Which file.
        file: PathBuf,
        /// The secret half of its key; without it only the outside is checked.
        key_file: Option<PathBuf>,
        /// Answer in one line of JSON.
        json: bool,
    },
    /// Make a new cluster of a backup.
    Restore {
        /// From which file.
        file: PathBuf,
        /// The secret half of its key.
        key_file: PathBuf,
        /// Into which directory.
        data_dir: PathBuf,
        /// The node's name.
        name: Option<String>,
        /// Answer in one line of JSON.
        json: bool,
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
    let meanings = example::meanings();
    for key in key_names() {
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
        .subcommand(backup())
        .subcommand(
            Command::new("restore")
                .about("Make a new cluster of a backup, in a directory that belongs to no cluster; needs no daemon")
                .long_about(
                    "Make a new cluster of a backup, in a directory that belongs to no cluster; needs no daemon.\n\
                     The backup is checked to its last byte before anything is written. The cluster that comes of it\n\
                     has a new identity and this machine as its only member; the others join it anew.",
                )
                .arg(file())
                .arg(key_file().required(true))
                .arg(data_dir().required(true).help("The directory; made where it is not there"))
                .arg(Arg::new("name").long("name").value_name("NAME").help("Name of this node [default: the host name]"))
                .arg(json()),
        )
}

fn backup() -> Command {
    Command::new("backup").about("Look at a backup; needs no daemon").subcommand_required(true).subcommand(
        Command::new("verify")
            .about("Check a backup: without its key that it is whole, with it that it can be restored")
            .arg(file())
            .arg(key_file())
            .arg(json()),
    )
}

fn file() -> Arg {
    Arg::new("file").value_name("FILE").required(true).value_parser(clap::value_parser!(PathBuf)).help("The backup")
}

fn key_file() -> Arg {
    Arg::new("key-file")
        .long("key-file")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("File with AGE-SECRET-KEY-..., mode 0600; - is standard input")
}

fn json() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Answer in one line of JSON")
}

/// Reads the command line, the first word being the program's name. Flags of `run` that look like configuration keys
/// and are none come out among the others, so that they are reported with everything else that is wrong.
///
/// # Errors
/// What clap finds wrong, and its answers to `--help` and `--version`.
pub(crate) fn read(words: Vec<OsString>) -> Result<Asked, clap::Error> {
    if words.get(1).is_none_or(|command| command != "run") {
        return Ok(parse(&command().try_get_matches_from(words)?));
    }
    let (words, unknown) = split_unknown_keys(words);
    let mut asked = parse(&command().try_get_matches_from(words)?);
    if let Asked::Run { flags, .. } = &mut asked {
        flags.extend(unknown);
    }
    Ok(asked)
}

/// Takes `--some.key VALUE` and `--some.key=VALUE` out where there is no such key. Only keys have dots.
fn split_unknown_keys(words: Vec<OsString>) -> (Vec<OsString>, Vec<(String, String)>) {
    let known = key_names();
    let (mut kept, mut unknown) = (Vec::new(), Vec::new());
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let Some((key, value)) = unknown_key(&word, &known) else {
            kept.push(word);
            continue;
        };
        let value = value.or_else(|| {
            let next = words.next_if(|next| !next.as_encoded_bytes().starts_with(b"--"))?;
            Some(next.to_string_lossy().into_owned())
        });
        unknown.push((key, value.unwrap_or_default()));
    }
    (kept, unknown)
}

/// The key that a word names in vain, and its value where it stands in the same word.
fn unknown_key(word: &OsStr, known: &[String]) -> Option<(String, Option<String>)> {
    let flag = word.to_str()?.strip_prefix("--")?;
    let (key, value) = flag.split_once('=').map_or((flag, None), |(key, value)| (key, Some(value.to_owned())));
    let is_unknown = key.contains('.') && !known.iter().any(|name| name == key);
    is_unknown.then(|| (key.to_owned(), value))
}

fn parse(matches: &ArgMatches) -> Asked {
    match matches.subcommand() {
        Some(("adopt", adopt)) => {
            Asked::Adopt { data_dir: adopt.get_one::<PathBuf>("data-dir").cloned().unwrap_or_default() }
        }
        Some(("backup", backup)) => {
            let verify = backup.subcommand_matches("verify").expect("a subcommand is required, and this is the one");
            Asked::VerifyBackup {
                file: path(verify, "file"),
                key_file: verify.get_one::<PathBuf>("key-file").cloned(),
                json: verify.get_flag("json"),
            }
        }
        Some(("restore", restore)) => Asked::Restore {
            file: path(restore, "file"),
            key_file: path(restore, "key-file"),
            data_dir: path(restore, "data-dir"),
            name: restore.get_one::<String>("name").cloned(),
            json: restore.get_flag("json"),
        },
        Some((_, run)) => Asked::Run {
            data_dir: run.get_one::<PathBuf>("data-dir").cloned(),
            file: run.get_one::<PathBuf>("config").cloned(),
            flags: keys(run),
            print_config: run.get_flag("print-config"),
        },
        None => Asked::Run { data_dir: None, file: None, flags: Vec::new(), print_config: false },
    }
}

/// A path that must be there.
fn path(matches: &ArgMatches, name: &str) -> PathBuf {
    matches.get_one::<PathBuf>(name).cloned().unwrap_or_default()
}

fn key_names() -> Vec<String> {
    let defaults = serde_json::to_value(NodeConfig::default()).expect("plain fields serialise");
    layers::leaves(&defaults).into_iter().map(|(key, _)| key).collect()
}

fn keys(run: &ArgMatches) -> Vec<(String, String)> {
    key_names().into_iter().filter_map(|key| run.get_one::<String>(&key).cloned().map(|text| (key, text))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_keys_become_flags() {
        command().debug_assert();
        let words = ["ollamax-node", "run", "--data-dir", "/d", "--api.listen", "127.0.0.1:0", "--print-config"];
        let Ok(Asked::Run { data_dir, flags, print_config, .. }) = read(words.map(OsString::from).to_vec()) else {
            panic!("run");
        };
        assert_eq!(data_dir, Some(PathBuf::from("/d")));
        assert_eq!(flags, [("api.listen".to_owned(), "127.0.0.1:0".to_owned())]);
        assert!(print_config);
    }

    #[test]
    fn a_backup_is_checked_and_restored_by_its_file_and_a_key_that_is_never_a_word() {
        let read = |words: &str| read(words.split(' ').map(OsString::from).collect());
        let verify = read("ollamax-node backup verify a.oxb.age --key-file k --json").expect("verify");
        let Asked::VerifyBackup { file, key_file, json: true } = verify else { panic!("verify") };
        assert_eq!((file, key_file), (PathBuf::from("a.oxb.age"), Some(PathBuf::from("k"))));
        let restore = read("ollamax-node restore a.oxb.age --key-file - --data-dir /d --name n9").expect("restore");
        let Asked::Restore { key_file, data_dir, name, json: false, .. } = restore else { panic!("restore") };
        assert_eq!((key_file, data_dir), (PathBuf::from("-"), PathBuf::from("/d")));
        assert_eq!(name.as_deref(), Some("n9"));
        for words in ["backup", "backup verify", "restore a --data-dir /d", "restore --key-file k --data-dir /d"] {
            assert!(read(&format!("ollamax-node {words}")).is_err(), "{words}");
        }
    }

    #[test]
    fn unknown_keys_are_reported_with_all_other_problems() {
        let words = "ollamax-node run --api.lisen 127.0.0.1:1 --log.level loud --raft.x=3 --peer.y --print-config";
        let Ok(Asked::Run { flags, print_config, .. }) = read(words.split(' ').map(OsString::from).collect()) else {
            panic!("run");
        };
        assert!(print_config);
        let problems = NodeConfig::load(None, Vec::new(), flags, false).expect_err("four problems");
        let subjects: Vec<&str> = problems.iter().map(|problem| problem.subject.as_str()).collect();
        for key in ["api.lisen", "raft.x", "peer.y", "log.level"] {
            assert!(subjects.contains(&key), "{key} in {problems:?}");
        }
        let hint = problems.iter().find(|problem| problem.subject == "api.lisen").map(ToString::to_string);
        assert_eq!(hint.as_deref(), Some("api.lisen: unknown key in flag --api.lisen; did you mean api.listen?"));
    }

    #[test]
    fn other_unknown_flags_are_refused_as_ever() {
        let words = ["ollamax-node", "run", "--colour", "red"];
        let refused = read(words.map(OsString::from).to_vec()).expect_err("no such flag");
        assert_eq!(refused.kind(), clap::error::ErrorKind::UnknownArgument);
    }
}
