//! The words of `ollamax model`.
//!
//! How many copies somebody wants is read here, and said again here in the words in which it was asked.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};

use ollamax_types::{Capability, Rate, RateProblem};

use super::RegistryCommand;
use super::wishes::{ApplyArgs, MoveArgs, WhereArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// All models
    #[command(visible_alias = "ls")]
    #[command(after_help = "Examples:\n  ollamax model list\n  ollamax model list --capability embedding")]
    List {
        /// Only models that can do this, as far as it is known; repeatable, or several with commas between: all of it
        #[arg(long = "capability", value_name = "WORD", value_delimiter = ',', value_parser = capability())]
        capabilities: Vec<Capability>,
    },
    /// One model and its copies
    #[command(after_help = "Example:\n  ollamax model show demo")]
    Show {
        /// Name, for example llama3.2 or demo:latest
        name: String,
    },
    /// Write a model of this node into one file that proves itself, for sites without the internet
    #[command(after_help = "Examples:
  ollamax model export llama3.2 llama3.2.ollamax
  ollamax model export llama3.2 - | ssh elsewhere ollamax model import -")]
    Export {
        /// Name, for example llama3.2 or demo:latest
        name: String,
        /// The file to write, which must not be there yet; `-` is standard output
        file: PathBuf,
    },
    /// Take a model from a bundle of `export` onto this node, or create one from a GGUF file in the runtimes of chosen
    /// nodes
    #[command(after_help = "Examples:
  ollamax model import llama3.2.ollamax
  ollamax model import llama3.2.ollamax --check
  ollamax model import model.gguf --name mine --node a,b")]
    Import(ImportArgs),
    /// Have one node fetch a model from its registry and the others from it; they go on whether this command waits or
    /// not
    #[command(after_help = "Examples:
  ollamax model pull llama3.2
  ollamax model pull llama3.2 --replicas 3 --wait
  ollamax model pull llama3.2 --node a,b --wait
  ollamax model pull llama3.2 --cancel")]
    Pull(PullArgs),
    /// What this node pulls, and what it could not pull in the last hour
    #[command(after_help = "Examples:\n  ollamax model pulls\n  ollamax model pulls -o json | jq .pulls")]
    Pulls,
    /// Have the runtime of one node make a model of GGUF files or from another model, and copy it to others
    ///
    /// Made on the node that has BASE, else on this one; what had the name there gives way, as with Ollama.
    #[command(after_help = "Examples:
  ollamax model create lab/brief --from llama3.2 --modelfile Modelfile
  ollamax model create lab/mine mine.gguf --quantize q4_K_M --replicas 2
  ollamax model create lab/mine -f Modelfile -o json")]
    Create(CreateArgs),
    /// Have the runtime of a node that holds a model push it to the registry of its name
    ///
    /// It signs with the key of that runtime: the account that its machine was signed in to is the one that counts, and
    /// each node has its own. ollamax-engine does not push.
    #[command(after_help = "Examples:
  ollamax model push me/mine
  ollamax model push registry.lan:5000/team/mine --node gpu-1 --insecure")]
    Push(PushArgs),
    /// Slow the pulls of a model down on all nodes, or let them go as fast as they can
    #[command(after_help = "Examples:
  ollamax model limit llama3.2 20MB/s
  ollamax model limit llama3.2 none")]
    Limit {
        /// Name, for example llama3.2
        name: String,
        /// At most so fast on each node, like 20MB/s or 100Mbit/s; `none`: as fast as it goes
        #[arg(value_name = "RATE|none")]
        rate: PullRate,
    },
    /// Read the files of models again, from the disk, and replace what is damaged
    #[command(after_help = "Examples:
  ollamax model verify
  ollamax model verify llama3.2 --node a,b
  ollamax model verify --no-repair -o json | jq .files")]
    Verify(VerifyArgs),
    /// What would change if a file said which models are wished for; changes nothing
    #[command(after_help = "Examples:\n  ollamax model plan wishes.toml\n  ollamax model plan - < wishes.toml")]
    Plan {
        /// The file, as docs/operations/replication.md describes it; `-` is standard input
        file: PathBuf,
    },
    /// Have a file say which models are wished for, on how many nodes and on which
    #[command(after_help = "Examples:
  ollamax model apply wishes.toml
  ollamax model apply wishes.toml --yes --wait")]
    Apply(ApplyArgs),
    /// What is wished for, and how far it is
    #[command(after_help = "Examples:\n  ollamax model wishes\n  ollamax model wishes -o json | jq .wishes")]
    Wishes,
    /// Have a copy of a model go from one node to another; the new one is there before the old one goes
    #[command(after_help = "Examples:
  ollamax model move llama3.2 --from a --to b --dry-run
  ollamax model move llama3.2 --from a --to b --wait")]
    Move(MoveArgs),
    /// Have missing copies made now, also those that lie on nodes which are silent only for a short time
    #[command(after_help = "Examples:\n  ollamax model repair --dry-run\n  ollamax model repair")]
    Repair {
        /// Show the next plan, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Have copies go from full disks to empty ones, once; to have it always: `ollamax autopilot set rebalance true`
    #[command(after_help = "Examples:\n  ollamax model rebalance --dry-run\n  ollamax model rebalance")]
    Rebalance {
        /// Show the next plan, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    #[command(flatten)]
    Registry(RegistryCommand),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Name, for example llama3.2 [default: all models of the node]
    pub(crate) name: Option<String>,
    /// Node whose files are read, id or name; repeatable, or several with commas between [default: this node]
    #[arg(long = "node", value_name = "NODE", value_delimiter = ',')]
    pub(crate) nodes: Vec<String>,
    /// Leave what is damaged as it is
    #[arg(long)]
    pub(crate) no_repair: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The bundle, `-` for standard input, or the GGUF file
    pub(crate) file: PathBuf,
    /// Name of the model; a GGUF file needs one [default: the bundle's]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Node that shall have what a GGUF file makes, id or name; repeatable, or several with commas between [default:
    /// this node]
    #[arg(long = "node", value_name = "NODE", value_delimiter = ',')]
    pub(crate) nodes: Vec<String>,
    /// Replace another model of this name
    #[arg(long)]
    pub(crate) replace: bool,
    /// Read a bundle and compare all of it, and change nothing
    #[arg(long, conflicts_with_all = ["replace", "name", "nodes"])]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Name, for example llama3.2 or registry.lan:5000/team/demo:v2
    pub(crate) name: String,
    /// How many nodes shall have it, or `all` that can [default: as on record, else two, or one where no two can]
    #[arg(long, value_name = "N|all", conflicts_with_all = ["nodes", "cancel"])]
    pub(crate) replicas: Option<Replicas>,
    /// Node that shall have it, id or name; repeatable, or several with commas between. These alone: a node that
    /// has it because a number of copies was asked for loses its copy when they have theirs
    #[arg(long = "node", value_name = "NODE", value_delimiter = ',')]
    pub(crate) nodes: Vec<String>,
    #[command(flatten)]
    pub(crate) places: WhereArgs,
    /// Ask the registry over plain HTTP
    #[arg(long, conflicts_with = "cancel")]
    pub(crate) insecure: bool,
    /// Show how far it is until it is over
    #[arg(long, conflicts_with = "cancel")]
    pub(crate) wait: bool,
    /// Fetch at most so fast on each node, like 20MB/s or 100Mbit/s, until the pull is over or its node starts again
    #[arg(long, value_name = "RATE", conflicts_with = "cancel")]
    pub(crate) limit_rate: Option<Rate>,
    /// End the pull; what was fetched is kept for the next one
    #[arg(long)]
    pub(crate) cancel: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name of the new model; with further copies one that no registry has, like lab/mine
    pub(crate) name: String,
    /// GGUF file that it is made of; several where a model has several, an adapter goes into the Modelfile
    #[arg(value_name = "FILE.gguf", conflicts_with = "from")]
    pub(crate) files: Vec<PathBuf>,
    /// Model that it is made from
    #[arg(long, value_name = "BASE")]
    pub(crate) from: Option<String>,
    /// What else it has: FROM, PARAMETER, TEMPLATE, SYSTEM, ADAPTER, LICENSE, MESSAGE
    #[arg(short = 'f', long, visible_alias = "file", value_name = "FILE")]
    pub(crate) modelfile: Option<PathBuf>,
    /// Make the weights smaller, like q4_K_M
    #[arg(long, value_name = "Q")]
    pub(crate) quantize: Option<String>,
    /// How many nodes shall have it in the end [default: the one that makes it]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) replicas: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Name, for example me/mine or registry.lan:5000/team/mine:v2
    pub(crate) name: String,
    /// Node that holds it and whose runtime pushes it, id or name [default: this one, else another that holds it]
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Speak to the registry over plain HTTP
    #[arg(long)]
    pub(crate) insecure: bool,
}

/// How fast a pull may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PullRate {
    /// So fast at most.
    AtMost(Rate),
    /// As fast as it can.
    None,
}

/// How many nodes shall have a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replicas {
    /// So many.
    Count(u32),
    /// All that can.
    All,
}

/// Reads one of the words for what a model can do, and names them all to completions.
fn capability() -> impl TypedValueParser<Value = Capability> {
    PossibleValuesParser::new(Capability::ALL.map(Capability::as_str)).try_map(|word| word.parse::<Capability>())
}

// === impl PullRate ===

impl FromStr for PullRate {
    type Err = RateProblem;

    fn from_str(text: &str) -> Result<Self, RateProblem> {
        if text == "none" { Ok(Self::None) } else { text.parse().map(Self::AtMost) }
    }
}

// === impl Replicas ===

impl FromStr for Replicas {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let count = text.parse::<u32>().ok().filter(|count| *count > 0);
        count.map(Self::Count).ok_or_else(|| "it is a number above 0, or all".to_owned())
    }
}

impl fmt::Display for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::All => f.write_str("all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_the_daemon_reads_it_and_none_is_one_too() {
        assert_eq!("none".parse(), Ok(PullRate::None));
        assert_eq!("20MB/s".parse::<PullRate>().ok(), Rate::of(20_000_000).map(PullRate::AtMost));
        let problem = "20".parse::<PullRate>().unwrap_err();
        assert_eq!(problem.to_string(), "\"20\" has no unit; write it like 20MB/s");
        assert!("off".parse::<PullRate>().is_err());
    }

    #[test]
    fn each_word_for_what_a_model_can_do_is_taken_and_no_other() {
        use clap::Parser as _;

        let read = |words: &[&str]| {
            let cli = crate::args::Cli::try_parse_from([&["ollamax", "model", "list"][..], words].concat());
            cli.map(|cli| match cli.command {
                crate::args::Command::Model(ModelCommand::List { capabilities }) => capabilities,
                other => panic!("{other:?}"),
            })
        };
        assert!(read(&[]).expect("all models").is_empty());
        for one in Capability::ALL {
            assert_eq!(read(&["--capability", one.as_str()]).expect("a word"), [one]);
        }
        let several = read(&["--capability", "vision,tools", "--capability", "thinking"]).expect("three words");
        assert_eq!(several, [Capability::Vision, Capability::Tools, Capability::Thinking]);
        let error = read(&["--capability", "embeding"]).expect_err("misspelt").to_string();
        assert!(error.contains("'embedding'"), "{error}");
    }

    /// The command under `model` that these words are.
    fn parsed(line: &str) -> ModelCommand {
        use clap::Parser as _;

        let cli = crate::args::Cli::try_parse_from(format!("ollamax model {line}").split(' ')).expect(line);
        match cli.command {
            crate::args::Command::Model(command) => command,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ollama_s_own_words_and_lists_with_commas_are_understood() {
        assert!(matches!(parsed("ls"), ModelCommand::List { .. }));
        for line in ["delete m --yes", "rm m --yes"] {
            let ModelCommand::Registry(RegistryCommand::Rm(args)) = parsed(line) else { panic!("{line}") };
            assert_eq!((args.name.as_str(), args.yes), ("m", true), "{line}");
        }
        for flag in ["-f", "--file", "--modelfile"] {
            let ModelCommand::Create(args) = parsed(&format!("create m {flag} Modelfile")) else { panic!("{flag}") };
            assert_eq!(args.modelfile, Some(PathBuf::from("Modelfile")), "{flag}");
        }
        let ModelCommand::Import(args) = parsed("import f.gguf --name m --node a,b --node c") else { panic!("import") };
        assert_eq!(args.nodes, ["a", "b", "c"]);
    }

    #[test]
    fn replicas_are_read_as_they_are_shown() {
        for (text, expected) in [("1", Replicas::Count(1)), ("64", Replicas::Count(64)), ("all", Replicas::All)] {
            assert_eq!(text.parse(), Ok(expected));
            assert_eq!(expected.to_string(), text);
        }
        for text in ["", "0", "-1", "+", "two", "All", "4294967296", "1.5"] {
            assert!(text.parse::<Replicas>().is_err(), "{text}");
        }
    }
}
