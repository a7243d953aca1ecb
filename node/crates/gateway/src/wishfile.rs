//! The declared wishes: read from TOML, compared with what is on record.
//!
//! The file is the last word for the models that it lists, and for those that it once listed: they are not wished for
//! any more, while their copies stay as found and a pin stays until somebody lifts it. What people asked for by
//! themselves is not touched. A file is taken whole or not at all: all that is wrong with its words is told at once,
//! each with its line, and then all that the cluster does not know. Nothing here changes anything.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use toml::{Spanned, Value};

use ollamax_types::limits::{LABEL_BYTES_MAX, WISH_TARGETS_MAX, WISHES_MAX};
use ollamax_types::{Digest, ModelName, size};

mod compare;

pub(crate) use compare::places;
pub use compare::{Change, CompareError, compare};

/// Largest file that is read.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Most labels that one model may ask of a node.
const LABELS_MAX: usize = 32;
/// Least digits of a digest of which only the beginning is written.
const DIGEST_DIGITS_MIN: usize = 12;
const DIGEST_DIGITS: usize = 64;

/// What the file says of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Which model.
    pub name: ModelName,
    /// Where the file says so, from 1.
    pub line: usize,
    /// On which nodes.
    pub replicas: Wanted,
    /// Labels that a node must have.
    pub labels: BTreeMap<String, String>,
    /// Memory that the GPUs of a node must have.
    pub gpu_memory_bytes_min: u64,
    /// What stays free of the disk of a node that gets it.
    pub disk_free_bytes_min: u64,
    /// Nodes that do not get it.
    pub avoid: Vec<Word>,
    /// The version for which it stands: a digest, or the beginning of one.
    pub pin: Option<Word>,
}

/// On which nodes a model is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// On that many.
    Count(u32),
    /// On all that may hold models.
    All,
    /// On these, by name or id.
    Nodes(Vec<Word>),
}

/// A word whose meaning the cluster knows, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// As it is written.
    pub text: String,
    /// From 1.
    pub line: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    model: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: Spanned<String>,
    replicas: Option<Spanned<Value>>,
    nodes: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    labels: BTreeMap<String, Spanned<String>>,
    gpu_memory_min: Option<Spanned<String>>,
    disk_free_min: Option<Spanned<String>>,
    #[serde(default)]
    avoid: Vec<Spanned<String>>,
    pin: Option<Spanned<String>>,
}

/// What a file says, in its order.
///
/// # Errors
/// All that is wrong with it, a line for each: `line 7: …`.
pub fn read(text: &str) -> Result<Vec<Declared>, Vec<String>> {
    if text.len() > FILE_BYTES_MAX {
        return Err(vec![format!("{} bytes are more than {FILE_BYTES_MAX}", text.len())]);
    }
    let file: File = toml::from_str(text).map_err(|error| vec![in_one_line(text, &error)])?;
    let mut reader = Reader { text, problems: Vec::new() };
    if file.model.len() as u64 > WISHES_MAX {
        reader.problems.push(format!("{} models are more than {WISHES_MAX}", file.model.len()));
    }
    let mut seen: BTreeMap<ModelName, usize> = BTreeMap::new();
    let mut declared = Vec::new();
    for row in file.model {
        let Some(model) = reader.declared(row) else { continue };
        if let Some(first) = seen.insert(model.name.clone(), model.line) {
            reader.note(model.line, format_args!("{} stands in line {first} already", model.name));
        }
        declared.push(model);
    }
    if reader.problems.is_empty() { Ok(declared) } else { Err(reader.problems) }
}

/// A text, and what is wrong with it so far.
struct Reader<'a> {
    text: &'a str,
    problems: Vec<String>,
}

// === impl Reader ===

impl Reader<'_> {
    /// One model; `None` where even its name is none. What is wrong is noted.
    fn declared(&mut self, row: Row) -> Option<Declared> {
        let Row { name, replicas, nodes, labels, gpu_memory_min, disk_free_min, avoid, pin } = row;
        let name = self.word(name);
        let line = name.line;
        let Ok(name) = name.text.parse::<ModelName>() else {
            self.note(line, format_args!("{:?} is no name of a model", name.text));
            return None;
        };
        let replicas = self.wanted(&name, line, replicas, nodes);
        let labels = self.labels(line, labels);
        let gpu_memory_bytes_min = gpu_memory_min.map_or(0, |size| self.size_bytes(size));
        let disk_free_bytes_min = disk_free_min.map_or(0, |size| self.size_bytes(size));
        let avoid = self.words(avoid);
        let pin = pin.and_then(|pin| self.pin(pin));
        Some(Declared { name, line, replicas, labels, gpu_memory_bytes_min, disk_free_bytes_min, avoid, pin })
    }

    fn wanted(
        &mut self,
        name: &ModelName,
        line: usize,
        replicas: Option<Spanned<Value>>,
        nodes: Option<Spanned<Vec<Spanned<String>>>>,
    ) -> Wanted {
        match (replicas, nodes) {
            (Some(_), Some(nodes)) => {
                let line = self.line(&nodes);
                self.note(line, format_args!("{name} has replicas and nodes: one of them says it"));
            }
            (None, None) => self.note(line, format_args!("{name} has neither replicas nor nodes")),
            (Some(replicas), None) => return self.replicas(&replicas),
            (None, Some(nodes)) => {
                let line = self.line(&nodes);
                let words = self.words(nodes.into_inner());
                if !(1..=WISH_TARGETS_MAX).contains(&words.len()) {
                    self.note(line, format_args!("nodes are between 1 and {WISH_TARGETS_MAX}"));
                }
                return Wanted::Nodes(words);
            }
        }
        Wanted::All
    }

    fn replicas(&mut self, replicas: &Spanned<Value>) -> Wanted {
        let count = match replicas.get_ref() {
            Value::String(word) if word == "all" => return Wanted::All,
            Value::Integer(count) => u32::try_from(*count).ok(),
            _ => None,
        };
        let count = count.filter(|count| (1..=WISH_TARGETS_MAX).contains(&(*count as usize)));
        if count.is_none() {
            let line = self.line(replicas);
            self.note(line, format_args!("replicas is a number between 1 and {WISH_TARGETS_MAX}, or \"all\""));
        }
        count.map_or(Wanted::All, Wanted::Count)
    }

    fn labels(&mut self, line: usize, labels: BTreeMap<String, Spanned<String>>) -> BTreeMap<String, String> {
        if labels.len() > LABELS_MAX {
            self.note(line, format_args!("labels are at most {LABELS_MAX}"));
        }
        let mut read = BTreeMap::new();
        for (key, value) in labels {
            let Word { text, line } = self.word(value);
            if !is_label(&key) {
                self.note(line, format_args!("{key:?} is no label: it has up to {LABEL_BYTES_MAX} of a-z 0-9 . _ -"));
            }
            if text.len() > LABEL_BYTES_MAX {
                self.note(line, format_args!("the value of {key:?} has more than {LABEL_BYTES_MAX} bytes"));
            }
            read.insert(key, text);
        }
        read
    }

    fn size_bytes(&mut self, size: Spanned<String>) -> u64 {
        let Word { text, line } = self.word(size);
        let bytes = size::bytes_of(&text);
        if bytes.is_none() {
            self.note(line, format_args!("{text:?} is no size like 16GB"));
        }
        bytes.unwrap_or_default()
    }

    fn pin(&mut self, pin: Spanned<String>) -> Option<Word> {
        let Word { text, line } = self.word(pin);
        let digits = text.strip_prefix("sha256:").unwrap_or(&text).to_ascii_lowercase();
        let is_long = (DIGEST_DIGITS_MIN..=DIGEST_DIGITS).contains(&digits.len());
        if is_long && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Some(Word { text: digits, line });
        }
        self.note(line, format_args!("{text:?} is no digest and no beginning of one, {DIGEST_DIGITS_MIN} digits long"));
        None
    }

    fn words(&self, words: Vec<Spanned<String>>) -> Vec<Word> {
        words.into_iter().map(|word| self.word(word)).collect()
    }

    fn word(&self, word: Spanned<String>) -> Word {
        let line = self.line(&word);
        Word { text: word.into_inner(), line }
    }

    fn line<T>(&self, thing: &Spanned<T>) -> usize {
        line_of(self.text, thing.span().start)
    }

    fn note(&mut self, line: usize, problem: fmt::Arguments<'_>) {
        self.problems.push(format!("line {line}: {problem}"));
    }
}

// === impl Word ===

impl Word {
    /// Whether a digest begins like this one. A pin has its digits in lower case.
    fn begins(&self, digest: &Digest) -> bool {
        digest.to_string().starts_with(&self.text)
    }

    /// What is wrong with it.
    fn problem(&self, problem: fmt::Arguments<'_>) -> String {
        format!("line {}: {problem}", self.line)
    }
}

/// The line of a place in a text, from 1.
fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// What is wrong with a file, and where; toml's own text is a drawing over several lines.
fn in_one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    let Some(span) = error.span() else { return message };
    // At the end of a file its last line is meant, not the empty one behind it.
    let at = span.start.min(text.len().saturating_sub(1));
    format!("line {}: {message}", line_of(text, at))
}

fn is_label(key: &str) -> bool {
    let is_of_labels = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=LABEL_BYTES_MAX).contains(&key.len()) && key.bytes().all(is_of_labels)
}

#[cfg(test)]
mod tests;
