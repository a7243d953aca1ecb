//! Merges the layers of a configuration: defaults < file < environment < flags.
//!
//! The defaults are the schema: every key is a leaf of the serialised default value. Each given value is tried on
//! its own, so that all unknown keys and all bad values come out of one run. Nothing here reads a file or the
//! environment; layers come in as data.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Prefix of environment variables.
pub(crate) const ENV_PREFIX: &str = "OLLAMAX_";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody set it.
    Default,
    /// A configuration file.
    File(String),
    /// An environment variable.
    Env(String),
    /// A command-line flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Which key, or the file.
    pub(crate) subject: String,
    /// What is wrong, and what would be right.
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)
    }
}

/// Values as text (environment, flags) or typed (file), in the order in which they override.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    file: Option<(String, Value)>,
    env: Vec<(String, String)>,
    flags: Vec<(String, String)>,
}

impl Layers {
    /// Adds the parsed file.
    #[must_use]
    pub(crate) fn with_file(mut self, path: &str, content: Value) -> Self {
        self.file = Some((path.to_owned(), content));
        self
    }

    /// Adds environment variables, `OLLAMAX_*` only; names in `except` belong to somebody else.
    #[must_use]
    pub(crate) fn with_env(mut self, vars: impl IntoIterator<Item = (String, String)>, except: &[&str]) -> Self {
        self.env = vars
            .into_iter()
            .filter(|(name, _)| name.starts_with(ENV_PREFIX) && !except.contains(&name.as_str()))
            .collect();
        self.env.sort();
        self
    }

    /// Adds flags as (dotted key, text).
    #[must_use]
    pub(crate) fn with_flags(mut self, flags: Vec<(String, String)>) -> Self {
        self.flags = flags;
        self
    }
}

/// A configuration with the origin of each key.
#[derive(Debug)]
pub(crate) struct Effective<T> {
    /// The merged value.
    pub(crate) config: T,
    /// Dotted key to origin, for every key.
    pub(crate) origins: BTreeMap<String, Origin>,
}

/// The environment variable that sets a dotted key.
#[must_use]
pub(crate) fn env_name(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// All dotted keys of a configuration with their default values, in declaration order.
#[must_use]
pub(crate) fn leaves(defaults: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    collect(defaults, "", &mut found);
    found
}

fn collect(value: &Value, prefix: &str, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                collect(inner, &key, found);
            }
        }
        leaf => found.push((prefix.to_owned(), leaf.clone())),
    }
}

/// Merges the layers into a configuration, and tells every unknown key (with the nearest known one) and every value
/// that its key does not take. What is wrong is left out of the result, so that the rest can still be checked.
pub(crate) fn merge<T>(layers: &Layers) -> (Effective<T>, Vec<Problem>)
where
    T: Default + Serialize + DeserializeOwned,
{
    let defaults = serde_json::to_value(T::default()).expect("a configuration of plain fields serialises");
    let keys = leaves(&defaults);
    let mut merge = Merge::<T> {
        result: defaults.clone(),
        origins: keys.iter().map(|(key, _)| (key.clone(), Origin::Default)).collect(),
        keys,
        defaults,
        problems: Vec::new(),
        target: std::marker::PhantomData,
    };
    if let Some((path, content)) = &layers.file {
        merge.take_file(path, content);
    }
    for (name, text) in &layers.env {
        merge.take_env(name, text);
    }
    for (key, text) in &layers.flags {
        merge.take_text(key, text, &Origin::Flag(format!("--{key}")));
    }
    merge.finish()
}

struct Merge<T> {
    defaults: Value,
    keys: Vec<(String, Value)>,
    result: Value,
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
    target: std::marker::PhantomData<T>,
}

impl<T: Default + Serialize + DeserializeOwned> Merge<T> {
    fn take_file(&mut self, path: &str, content: &Value) {
        let mut given = Vec::new();
        self.collect_given(content, "", &mut given);
        for (key, value) in given {
            match self.default_of(&key) {
                Some(_) => self.try_values(&key, vec![value], &Origin::File(path.to_owned())),
                None => self.unknown(&key, path),
            }
        }
    }

    /// A table in the file is walked only while the schema has a table there too.
    fn collect_given(&self, value: &Value, prefix: &str, given: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(fields) if self.default_of(prefix).is_none() => {
                for (name, inner) in fields {
                    let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                    self.collect_given(inner, &key, given);
                }
            }
            other => given.push((prefix.to_owned(), other.clone())),
        }
    }

    fn take_env(&mut self, name: &str, text: &str) {
        match self.keys.iter().find(|(key, _)| env_name(key) == name).map(|(key, _)| key.clone()) {
            Some(key) => self.take_text(&key, text, &Origin::Env(name.to_owned())),
            None => {
                let names: Vec<String> = self.keys.iter().map(|(key, _)| env_name(key)).collect();
                let hint = nearest(name, names.iter().map(String::as_str));
                self.problems
                    .push(Problem { subject: name.to_owned(), message: format!("unknown environment variable{hint}") });
            }
        }
    }

    fn take_text(&mut self, key: &str, text: &str, origin: &Origin) {
        let Some(default) = self.default_of(key) else { return self.unknown(key, &origin.to_string()) };
        let values = readings(default, text);
        self.try_values(key, values, origin);
    }

    fn try_values(&mut self, key: &str, readings: Vec<Value>, origin: &Origin) {
        let mut reason = String::from("empty");
        for value in readings {
            let mut trial = self.defaults.clone();
            set(&mut trial, key, value.clone());
            match serde_json::from_value::<T>(trial) {
                Ok(_) => {
                    set(&mut self.result, key, value);
                    self.origins.insert(key.to_owned(), origin.clone());
                    return;
                }
                Err(error) => reason = error.to_string(),
            }
        }
        self.problems.push(Problem { subject: key.to_owned(), message: format!("{reason} ({origin})") });
    }

    fn unknown(&mut self, key: &str, place: &str) {
        let hint = nearest(key, self.keys.iter().map(|(key, _)| key.as_str()));
        self.problems.push(Problem { subject: key.to_owned(), message: format!("unknown key in {place}{hint}") });
    }

    fn default_of(&self, key: &str) -> Option<&Value> {
        self.keys.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    fn finish(mut self) -> (Effective<T>, Vec<Problem>) {
        let config = serde_json::from_value(self.result).unwrap_or_else(|error| {
            self.problems.push(Problem { subject: "configuration".to_owned(), message: error.to_string() });
            T::default()
        });
        (Effective { config, origins: self.origins }, self.problems)
    }
}

/// What a text may mean for a key with this default: lists are split at commas, and a key without a default takes
/// numbers and words alike.
fn readings(default: &Value, text: &str) -> Vec<Value> {
    let scalar = serde_json::from_str::<Value>(text).ok().filter(|value| !value.is_object() && !value.is_array());
    let word = Value::String(text.to_owned());
    match default {
        Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            vec![Value::Array(items.map(|item| Value::String(item.to_owned())).collect())]
        }
        Value::String(_) => vec![word],
        Value::Null => scalar.into_iter().chain([word]).collect(),
        _ => vec![scalar.unwrap_or(word)],
    }
}

fn set(root: &mut Value, key: &str, value: Value) {
    let mut at = root;
    for name in key.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[name];
    }
    *at = value;
}

fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> String {
    let scored = known.map(|name| (strsim::damerau_levenshtein(given, name), name));
    match scored.min() {
        Some((distance, name)) if distance <= given.len().max(4) / 2 => format!("; did you mean {name}?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Sample {
        api: Api,
        name: Option<String>,
        limit: u32,
    }

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Api {
        listen: String,
        open: bool,
        advertise: Vec<String>,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self { api: Api::default(), name: None, limit: 3 }
        }
    }

    impl Default for Api {
        fn default() -> Self {
            Self { listen: "127.0.0.1:1".to_owned(), open: false, advertise: Vec::new() }
        }
    }

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn valid(layers: &Layers) -> Effective<Sample> {
        let (effective, problems) = merge::<Sample>(layers);
        assert_eq!(problems, []);
        effective
    }

    #[test]
    fn each_layer_overrides_the_one_below_and_origins_say_which() {
        let layers = Layers::default()
            .with_file("f.toml", serde_json::json!({"limit": 4, "api": {"listen": "a", "open": true}}))
            .with_env(env(&[("OLLAMAX_LIMIT", "5"), ("OLLAMAX_API_LISTEN", "b"), ("OTHER", "x")]), &[])
            .with_flags(env(&[("limit", "6")]));
        let effective = valid(&layers);
        assert_eq!(effective.config.limit, 6);
        assert_eq!(effective.config.api.listen, "b");
        assert!(effective.config.api.open);
        assert_eq!(effective.origins["limit"], Origin::Flag("--limit".to_owned()));
        assert_eq!(effective.origins["api.listen"], Origin::Env("OLLAMAX_API_LISTEN".to_owned()));
        assert_eq!(effective.origins["api.open"], Origin::File("f.toml".to_owned()));
        assert_eq!(effective.origins["name"], Origin::Default);
    }

    #[test]
    fn every_key_can_be_set_by_environment_and_by_flag() {
        for (key, default) in leaves(&serde_json::to_value(Sample::default()).expect("plain")) {
            let text = match default {
                Value::Bool(_) => "true",
                Value::Number(_) => "9",
                _ => "text",
            };
            for layers in [
                Layers::default().with_env(vec![(env_name(&key), text.to_owned())], &[]),
                Layers::default().with_flags(vec![(key.clone(), text.to_owned())]),
            ] {
                let effective = valid(&layers);
                assert_ne!(effective.origins[&key], Origin::Default, "{key}");
            }
        }
    }

    #[test]
    fn reports_every_problem_at_once_with_the_nearest_key() {
        let layers = Layers::default()
            .with_file("f.toml", serde_json::json!({"limt": 4, "api": {"listen": 7, "opne": true}}))
            .with_env(
                env(&[("OLLAMAX_API_LISTN", "b"), ("OLLAMAX_LIMIT", "many"), ("OLLAMAX_HOME", "x")]),
                &["OLLAMAX_HOME"],
            );
        let (effective, problems) = merge::<Sample>(&layers);
        assert_eq!(effective.config, Sample::default(), "what is wrong is left out");
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 5, "{texts:#?}");
        for needle in [
            "limt: unknown key in f.toml; did you mean limit?",
            "api.opne: unknown key in f.toml; did you mean api.open?",
            "api.listen: invalid type",
            "did you mean OLLAMAX_API_LISTEN?",
            "limit: invalid type: string \"many\", expected u32 (environment OLLAMAX_LIMIT)",
        ] {
            assert!(texts.iter().any(|text| text.contains(needle)), "{needle} in {texts:#?}");
        }
    }

    #[test]
    fn lists_are_split_at_commas_and_optional_keys_take_words_and_numbers() {
        let layers = Layers::default().with_flags(env(&[("api.advertise", "a:1, b:2"), ("name", "12")]));
        let effective = valid(&layers);
        assert_eq!(effective.config.api.advertise, ["a:1", "b:2"]);
        assert_eq!(effective.config.name.as_deref(), Some("12"));
    }
}
