//! The words of `ollamax node`.

use std::str::FromStr;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// All members
    #[command(after_help = "Example:\n  ollamax node list")]
    List,
    /// One member in full
    #[command(after_help = "Example:\n  ollamax node show b")]
    Show {
        /// Id or name
        node: String,
    },
    /// Send a node no new requests, while running ones finish; or with --models have its models go elsewhere, while it
    /// goes on answering with those that are still there
    #[command(after_help = "Examples:
  ollamax node drain b
  ollamax node drain b --models --dry-run
  ollamax node drain b --models --wait && ollamax node drain b")]
    Drain(DrainArgs),
    /// Send a drained node requests again
    #[command(after_help = "Example:\n  ollamax node undrain b")]
    Undrain {
        /// Id or name
        node: String,
    },
    /// Give a node no new models; those that it has stay
    #[command(after_help = "Example:\n  ollamax node cordon b")]
    Cordon {
        /// Id or name
        node: String,
    },
    /// Give a node models again, also one whose models were to go elsewhere
    #[command(after_help = "Example:\n  ollamax node uncordon b")]
    Uncordon {
        /// Id or name
        node: String,
    },
    /// Say something of a node that wishes for models can ask for
    #[command(after_help = "Examples:
  ollamax node label b room=a rack=2
  ollamax node label b rack-
  ollamax node label b")]
    Label {
        /// Id or name
        node: String,
        /// KEY=VALUE sets a label, KEY- removes it [default: the labels are shown]
        #[arg(value_name = "KEY=VALUE|KEY-")]
        words: Vec<LabelWord>,
    },
    /// Remove a member for good; its id is never used again
    #[command(after_help = "Example:\n  ollamax node remove c")]
    Remove {
        /// Id or name
        node: String,
        /// Remove it although it is alive
        #[arg(long)]
        force: bool,
        /// Do not ask; needed where there is no terminal
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Id or name
    pub(crate) node: String,
    /// Its models go to other nodes, and no new ones come
    #[arg(long)]
    pub(crate) models: bool,
    /// Show what would become of each model, and change nothing
    #[arg(long, requires = "models", conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Wait until they have gone
    #[arg(long, requires = "models")]
    pub(crate) wait: bool,
}

/// One change of a node's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelWord {
    /// `KEY=VALUE`.
    Set(String, String),
    /// `KEY-`.
    Unset(String),
}

// === impl LabelWord ===

impl FromStr for LabelWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok((key, value)) = label(text) {
            return Ok(Self::Set(key, value));
        }
        let key = text.strip_suffix('-').filter(|key| !key.is_empty() && !key.contains('='));
        key.map(|key| Self::Unset(key.to_owned())).ok_or_else(|| "it is KEY=VALUE, or KEY- to remove one".to_owned())
    }
}

/// `KEY=VALUE`, as wishes and nodes have them.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_sets_a_label_or_removes_one() {
        let set = |key: &str, value: &str| Ok(LabelWord::Set(key.to_owned(), value.to_owned()));
        let unset = |key: &str| Ok(LabelWord::Unset(key.to_owned()));
        let check = |text: &str, expected: Result<LabelWord, ()>| {
            assert_eq!(text.parse::<LabelWord>().map_err(|_| ()), expected, "{text:?}");
        };
        check("room=a", set("room", "a"));
        check("room=", set("room", ""));
        check("room=a=b", set("room", "a=b"));
        check("gpu-kind=x-", set("gpu-kind", "x-"));
        check("room-", unset("room"));
        check("gpu-kind-", unset("gpu-kind"));
        for text in ["", "-", "room", "=a", "=-"] {
            check(text, Err(()));
        }
    }
}
