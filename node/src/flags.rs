//! The command line of `ollamax-node`: its commands, and a flag of `run` for every configuration key.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::{NodeConfig, example, layers};
use crate::offline::Form;
use crate::recovery::{ApplyArgs, PlanArgs};
use crate::reset::ResetArgs;
use crate::restore::{Origin, RestoreArgs, VerifyArgs};

/// The key that has a short flag too.
const STATIC_PEERS: &str = "p2p.static_peers";
/// The key that is for tests, so that help does not show it; it has a short flag, too.
const FIXTURES: &str = "api.conformance_fixtures";

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
    /// Look whether everything in a data directory is there and whole.
    Verify {
        /// Which directory.
        data_dir: PathBuf,
        /// How to show it.
        form: Form,
    },
    /// Show what a survivor holds.
    RecoverPlan(PlanArgs),
    /// Make a new cluster of one survivor.
    RecoverApply(ApplyArgs),
    /// Make a node nothing again.
    Reset(ResetArgs),
    /// Check a backup.
    VerifyBackup(VerifyArgs),
    /// Make a new cluster of a backup.
    Restore(RestoreArgs),
}

/// The whole command line.
#[must_use]
pub(crate) fn command() -> Command {
    Command::new("ollamax-node")
        .version(env!("CARGO_PKG_VERSION"))
        .about("One node of an OllamaMax cluster")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(run())
        .subcommand(
            Command::new("adopt")
                .about("Declare a copied or restored data directory to be the only one of its node")
                .long_about(
                    "Declare a copied or restored data directory to be the only one of its node.\n\
                     Two nodes with one identity would damage the cluster: make sure that the original never runs again.",
                )
                .arg(data_dir().required(true).help("The directory")),
        )
        .subcommand(
            Command::new("verify")
                .about("Look whether everything that a data directory promises is there and whole; changes nothing")
                .long_about(
                    "Look whether everything that a data directory promises is there and whole; changes nothing.\n\
                     The daemon on it must be stopped. Exit code 0: sound; 1: damaged; 3: nothing there; 4: in use;\n\
                     6: not allowed.",
                )
                .arg(data_dir().required(true).help("The directory"))
                .arg(output()),
        )
        .subcommand(recover())
        .subcommand(
            Command::new("reset")
                .about("Make a node nothing again: its state, identity and keys go, models stay")
                .arg(data_dir().required(true).help("The node's data directory"))
                .arg(output())
                .arg(
                    Arg::new("confirm")
                        .long("confirm")
                        .action(ArgAction::SetTrue)
                        .help("Do it; without, only what would go is shown"),
                ),
        )
        .subcommand(backup())
        .subcommand(restore())
}

fn data_dir() -> Arg {
    Arg::new("data-dir")
        .long("data-dir")
        .env("OLLAMAX_DATA_DIR")
        .value_name("DIR")
        .value_parser(clap::value_parser!(PathBuf))
}

fn output() -> Arg {
    Arg::new("output")
        .long("output")
        .short('o')
        .value_parser(["table", "json"])
        .default_value("table")
        .help("How to show the result")
}

fn recover() -> Command {
    let with = || {
        Arg::new("with")
            .long("with")
            .value_name("FILE")
            .action(ArgAction::Append)
            .value_parser(clap::value_parser!(PathBuf))
            .help("What another survivor wrote with `recover plan --write`; repeatable")
    };
    Command::new("recover")
        .about("What is left of a cluster whose majority is gone for good, with the daemon down")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("plan")
                .about("Show what this survivor holds, what would be lost, and which survivor is the safest")
                .arg(data_dir().required(true).help("The survivor's data directory; it is not changed"))
                .arg(with())
                .arg(
                    Arg::new("write")
                        .long("write")
                        .value_name("FILE")
                        .value_parser(clap::value_parser!(PathBuf))
                        .help("Write what this survivor holds into a file, for `--with`"),
                )
                .arg(output()),
        )
        .subcommand(
            Command::new("apply")
                .about("Make this survivor the only member of a new cluster, with everything that its log has")
                .arg(data_dir().required(true).help("The data directory of the safest survivor"))
                .arg(with())
                .arg(
                    Arg::new("confirm")
                        .long("confirm")
                        .value_name("CLUSTER")
                        .help("The name of the cluster that is given up"),
                )
                .arg(output()),
        )
}

fn backup() -> Command {
    let verify = Command::new("verify")
        .about("Check a backup: without its key that it is whole, with it that it can be restored")
        .arg(backup_name())
        .arg(key_file())
        .arg(bucket_config())
        .arg(output());
    Command::new("backup")
        .about("Look at a backup; needs no daemon")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(verify)
}

fn restore() -> Command {
    Command::new("restore")
        .about("Make a new cluster of a backup, in a directory that belongs to no cluster; needs no daemon")
        .long_about(
            "Make a new cluster of a backup, in a directory that belongs to no cluster; needs no daemon.\n\
             The backup is checked to its last byte before anything is made of it. The cluster that comes of it has a\n\
             new identity and this machine as its only member; the others join it anew.",
        )
        .arg(backup_name())
        .arg(key_file().required(true))
        .arg(bucket_config())
        .arg(data_dir().required(true).help("The directory; made where it is not there"))
        .arg(Arg::new("name").long("name").value_name("NAME").help("Name of this node [default: the host name]"))
        .arg(output())
}

fn backup_name() -> Arg {
    Arg::new("backup")
        .value_name("BACKUP")
        .required(true)
        .value_parser(clap::value_parser!(PathBuf))
        .help("The backup: a file, or s3://BUCKET/KEY")
}

fn bucket_config() -> Arg {
    config_file().help("Configuration file (TOML) whose backup.s3.* reach the bucket; OLLAMAX_BACKUP_S3_* overrides it")
}

fn config_file() -> Arg {
    Arg::new("config")
        .long("config")
        .env("OLLAMAX_CONFIG")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
}

fn key_file() -> Arg {
    Arg::new("key-file")
        .long("key-file")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("File with AGE-SECRET-KEY-..., mode 0600; - is standard input")
}

fn run() -> Command {
    let mut run = Command::new("run")
        .about("Run the daemon in the foreground until SIGTERM")
        .arg(
            data_dir().help("Data directory [default: /var/lib/ollamax for user ollamax, else $XDG_DATA_HOME/ollamax]"),
        )
        .arg(config_file().help("Configuration file (TOML)"))
        .arg(
            Arg::new("print-config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("Show the effective configuration with the origin of each value, and exit"),
        )
        .arg(
            Arg::new("static-peers")
                .long("static-peers")
                .value_name("HOST:PORT,...")
                .conflicts_with(STATIC_PEERS)
                .help("Speak to these members alone and discover nobody; the same as --p2p.static_peers"),
        )
        .arg(
            Arg::new("conformance-fixtures")
                .long("conformance-fixtures")
                .action(ArgAction::SetTrue)
                .conflicts_with(FIXTURES)
                .hide(true)
                .help("Show at /mcp also what the official suite of MCP looks for; the same as --api.conformance_fixtures"),
        );
    let meanings = example::meanings();
    for key in key_names() {
        let help = meanings.get(&key).cloned().unwrap_or_default();
        let variable = layers::env_name(&key);
        let is_hidden = key == FIXTURES;
        run = run.arg(
            Arg::new(key.clone())
                .long(key)
                .value_name("VALUE")
                .help_heading("Configuration keys")
                .hide(is_hidden)
                .help(format!("{help} [env: {variable}]")),
        );
    }
    run
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
        Some(("verify", verify)) => {
            Asked::Verify { data_dir: path(verify, "data-dir").unwrap_or_default(), form: form(verify) }
        }
        Some(("recover", recover)) => parse_recover(recover),
        Some(("reset", reset)) => Asked::Reset(ResetArgs {
            data_dir: path(reset, "data-dir").unwrap_or_default(),
            confirm: reset.get_flag("confirm"),
            form: form(reset),
        }),
        Some(("backup", backup)) => parse_backup(backup),
        Some(("restore", restore)) => Asked::Restore(RestoreArgs {
            from: origin(restore),
            key_file: path(restore, "key-file").unwrap_or_default(),
            data_dir: path(restore, "data-dir").unwrap_or_default(),
            name: restore.get_one::<String>("name").cloned(),
            form: form(restore),
        }),
        Some((_, run)) => Asked::Run {
            data_dir: run.get_one::<PathBuf>("data-dir").cloned(),
            file: run.get_one::<PathBuf>("config").cloned(),
            flags: keys(run),
            print_config: run.get_flag("print-config"),
        },
        None => Asked::Run { data_dir: None, file: None, flags: Vec::new(), print_config: false },
    }
}

fn parse_recover(recover: &ArgMatches) -> Asked {
    match recover.subcommand() {
        Some(("apply", apply)) => Asked::RecoverApply(ApplyArgs {
            data_dir: path(apply, "data-dir").unwrap_or_default(),
            with: paths(apply, "with"),
            confirm: apply.get_one::<String>("confirm").cloned(),
            form: form(apply),
        }),
        Some((_, plan)) => Asked::RecoverPlan(PlanArgs {
            data_dir: path(plan, "data-dir").unwrap_or_default(),
            with: paths(plan, "with"),
            write: path(plan, "write"),
            form: form(plan),
        }),
        None => Asked::Run { data_dir: None, file: None, flags: Vec::new(), print_config: false },
    }
}

fn parse_backup(backup: &ArgMatches) -> Asked {
    match backup.subcommand() {
        Some((_, verify)) => Asked::VerifyBackup(VerifyArgs {
            from: origin(verify),
            key_file: path(verify, "key-file"),
            form: form(verify),
        }),
        None => Asked::Run { data_dir: None, file: None, flags: Vec::new(), print_config: false },
    }
}

fn origin(matches: &ArgMatches) -> Origin {
    Origin { name: path(matches, "backup").unwrap_or_default(), config: path(matches, "config") }
}

fn path(matches: &ArgMatches, name: &str) -> Option<PathBuf> {
    matches.get_one::<PathBuf>(name).cloned()
}

fn paths(matches: &ArgMatches, name: &str) -> Vec<PathBuf> {
    matches.get_many::<PathBuf>(name).unwrap_or_default().cloned().collect()
}

fn form(matches: &ArgMatches) -> Form {
    let is_json = matches.get_one::<String>("output").is_some_and(|text| text == "json");
    if is_json { Form::Json } else { Form::Text }
}

fn key_names() -> Vec<String> {
    let defaults = serde_json::to_value(NodeConfig::default()).expect("plain fields serialise");
    layers::leaves(&defaults).into_iter().map(|(key, _)| key).collect()
}

fn keys(run: &ArgMatches) -> Vec<(String, String)> {
    let given = |name: &str, key: &str| Some((key.to_owned(), run.get_one::<String>(name).cloned()?));
    let fixed = given("static-peers", STATIC_PEERS);
    let fixtures = run.get_flag("conformance-fixtures").then(|| (FIXTURES.to_owned(), "true".to_owned()));
    key_names().iter().filter_map(|key| given(key, key)).chain(fixed).chain(fixtures).collect()
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
    fn static_peers_have_a_short_flag_and_are_named_once() {
        let asked = |words: &str| read(format!("ollamax-node run {words}").split(' ').map(OsString::from).collect());
        for words in ["--static-peers a:1,b:1", "--static-peers=a:1,b:1", "--p2p.static_peers a:1,b:1"] {
            let Ok(Asked::Run { flags, .. }) = asked(words) else { panic!("{words}") };
            assert_eq!(flags, [(STATIC_PEERS.to_owned(), "a:1,b:1".to_owned())], "{words}");
        }
        let refused = asked("--static-peers a:1 --p2p.static_peers b:1").expect_err("named twice");
        assert_eq!(refused.kind(), clap::error::ErrorKind::ArgumentConflict);
    }

    #[test]
    fn fixtures_have_a_short_flag_that_help_does_not_show() {
        let asked = |words: &str| read(format!("ollamax-node run {words}").split(' ').map(OsString::from).collect());
        for words in ["--conformance-fixtures", "--api.conformance_fixtures true"] {
            let Ok(Asked::Run { flags, .. }) = asked(words) else { panic!("{words}") };
            assert_eq!(flags, [(FIXTURES.to_owned(), "true".to_owned())], "{words}");
        }
        let help = asked("--help").expect_err("help").to_string();
        assert!(help.contains("--api.listen") && !help.contains("conformance"), "{help}");
    }

    #[test]
    fn a_directory_can_be_looked_at_for_people_and_for_programs() {
        for (line, expected) in [("", Form::Text), (" -o table", Form::Text), (" -o json", Form::Json)] {
            let line = format!("ollamax-node verify --data-dir /d{line}");
            let Ok(Asked::Verify { data_dir, form }) = read(line.split(' ').map(OsString::from).collect()) else {
                panic!("verify");
            };
            assert_eq!((data_dir, form), (PathBuf::from("/d"), expected), "{line}");
        }
    }

    #[test]
    fn commands_without_a_daemon_name_their_directory() {
        let asked = |line: &str| read(line.split(' ').map(OsString::from).collect());
        let plan = asked("ollamax-node recover plan --data-dir /d --with a.json --with b.json --write c.json -o json");
        let Ok(Asked::RecoverPlan(plan)) = plan else { panic!("plan") };
        assert_eq!((plan.data_dir, plan.with), ("/d".into(), vec!["a.json".into(), "b.json".into()]));
        assert_eq!((plan.write, plan.form), (Some("c.json".into()), Form::Json));
        let apply = asked("ollamax-node recover apply --data-dir /d --confirm lab");
        let Ok(Asked::RecoverApply(apply)) = apply else { panic!("apply") };
        assert_eq!((apply.confirm.as_deref(), apply.with.len(), apply.form), (Some("lab"), 0, Form::Text));
        let Ok(Asked::Reset(reset)) = asked("ollamax-node reset --data-dir /d --confirm") else { panic!("reset") };
        assert_eq!((reset.confirm, reset.data_dir), (true, PathBuf::from("/d")));
    }

    #[test]
    fn a_backup_is_checked_and_restored_by_its_file_and_a_key_that_is_never_a_word() {
        let asked = |line: &str| read(line.split(' ').map(OsString::from).collect());
        let verify = asked("ollamax-node backup verify a.oxb.age --key-file k -o json");
        let Ok(Asked::VerifyBackup(verify)) = verify else { panic!("verify") };
        assert_eq!((verify.from.name, verify.key_file), ("a.oxb.age".into(), Some("k".into())));
        assert_eq!(verify.form, Form::Json);
        let restore = asked("ollamax-node restore s3://lab/a --key-file - --data-dir /d --name n9 --config c.toml");
        let Ok(Asked::Restore(restore)) = restore else { panic!("restore") };
        assert_eq!((restore.key_file, restore.data_dir), ("-".into(), "/d".into()));
        assert_eq!((restore.from.name, restore.from.config), ("s3://lab/a".into(), Some("c.toml".into())));
        assert_eq!((restore.name.as_deref(), restore.form), (Some("n9"), Form::Text));
        for words in ["backup", "backup verify", "restore a --data-dir /d", "restore --key-file k --data-dir /d"] {
            assert!(asked(&format!("ollamax-node {words}")).is_err(), "{words}");
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
