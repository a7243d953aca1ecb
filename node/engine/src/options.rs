//! The `options` of a request: defaults, then the model's parameters, then the request's own.
//!
//! Unknown names are ignored, as Ollama does; a known name with a wrong type is an error with Ollama's text. Values out
//! of range are brought to the nearest sensible one where llama.cpp would otherwise abort.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::limits;

/// How the runner of a model is started; a change means another runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Tokens that the model sees at once.
    pub(crate) num_ctx: u32,
    /// Prompt tokens computed in one go.
    pub(crate) num_batch: u32,
    /// Layers on the GPU; `None` means all.
    pub(crate) num_gpu: Option<u32>,
    /// Threads; `None` means one per processor.
    pub(crate) num_thread: Option<u32>,
    /// Map the file instead of reading it.
    pub(crate) use_mmap: bool,
}

/// How the next token is chosen and when to stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sampling {
    pub(crate) num_keep: i64,
    pub(crate) num_predict: i64,
    pub(crate) seed: i64,
    pub(crate) temperature: f32,
    pub(crate) top_k: i64,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
    pub(crate) typical_p: f32,
    pub(crate) repeat_last_n: i64,
    pub(crate) repeat_penalty: f32,
    pub(crate) presence_penalty: f32,
    pub(crate) frequency_penalty: f32,
    pub(crate) stop: Vec<String>,
}

/// All options of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    num_ctx: Option<i64>,
    num_batch: i64,
    num_gpu: i64,
    num_thread: i64,
    use_mmap: bool,
    /// How to choose tokens.
    pub(crate) sampling: Sampling,
}

/// An option of the wrong type.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub(crate) enum OptionError {
    /// One value.
    #[error("option {name:?} must be of type {kind}")]
    Type {
        /// The option.
        name: String,
        /// What it must be.
        kind: &'static str,
    },
    /// An element of a list.
    #[error("option {0:?} must be of an array of strings")]
    Element(String),
    /// More stop sequences than allowed.
    #[error("option \"stop\" must have at most {max} entries", max = limits::STOPS_MAX)]
    TooManyStops,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            num_ctx: None,
            num_batch: 512,
            num_gpu: -1,
            num_thread: 0,
            use_mmap: true,
            sampling: Sampling {
                num_keep: 4,
                num_predict: -1,
                seed: -1,
                temperature: 0.8,
                top_k: 40,
                top_p: 0.9,
                min_p: 0.0,
                typical_p: 1.0,
                repeat_last_n: 64,
                repeat_penalty: 1.1,
                presence_penalty: 0.0,
                frequency_penalty: 0.0,
                stop: Vec::new(),
            },
        }
    }
}

// === impl Options ===

impl Options {
    /// Defaults, then each map in turn.
    pub(crate) fn from_maps<'a>(maps: impl IntoIterator<Item = &'a Map<String, Value>>) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for map in maps {
            for (name, value) in map {
                options.set(name, value)?;
            }
        }
        Ok(options)
    }

    /// What the runner of a model trained on `trained` tokens is started with.
    pub(crate) fn settings(&self, trained: Option<u64>) -> Settings {
        let most = trained.and_then(|tokens| u32::try_from(tokens).ok()).filter(|tokens| *tokens > 0);
        let wanted = self.num_ctx.map_or(limits::CONTEXT_DEFAULT, |tokens| clamp(tokens, 4, i64::from(u32::MAX)));
        Settings {
            num_ctx: wanted.min(most.unwrap_or(limits::CONTEXT_MAX)),
            num_batch: clamp(self.num_batch, 1, 8192),
            num_gpu: u32::try_from(self.num_gpu).ok(),
            num_thread: (self.num_thread > 0).then(|| clamp(self.num_thread, 1, 512)),
            use_mmap: self.use_mmap,
        }
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), OptionError> {
        if value.is_null() {
            return Ok(());
        }
        let sampling = &mut self.sampling;
        match name {
            "num_ctx" => self.num_ctx = Some(integer(name, value)?),
            "num_batch" => self.num_batch = integer(name, value)?,
            "num_gpu" => self.num_gpu = integer(name, value)?,
            "num_thread" => self.num_thread = integer(name, value)?,
            "main_gpu" | "draft_num_predict" => drop(integer(name, value)?),
            "use_mmap" => self.use_mmap = boolean(name, value)?,
            "num_keep" => sampling.num_keep = integer(name, value)?,
            "num_predict" => sampling.num_predict = integer(name, value)?,
            "seed" => sampling.seed = integer(name, value)?,
            "top_k" => sampling.top_k = integer(name, value)?,
            "repeat_last_n" => sampling.repeat_last_n = integer(name, value)?,
            "temperature" => sampling.temperature = float(name, value)?,
            "top_p" => sampling.top_p = float(name, value)?,
            "min_p" => sampling.min_p = float(name, value)?,
            "typical_p" => sampling.typical_p = float(name, value)?,
            "repeat_penalty" => sampling.repeat_penalty = float(name, value)?,
            "presence_penalty" => sampling.presence_penalty = float(name, value)?,
            "frequency_penalty" => sampling.frequency_penalty = float(name, value)?,
            "stop" => sampling.stop = strings(name, value)?,
            _ => tracing::debug!(option = name, "unknown option ignored"),
        }
        Ok(())
    }
}

fn clamp(value: i64, least: i64, most: i64) -> u32 {
    u32::try_from(value.clamp(least, most)).unwrap_or(u32::MAX)
}

fn wrong(name: &str, kind: &'static str) -> OptionError {
    OptionError::Type { name: name.to_owned(), kind }
}

#[expect(clippy::cast_possible_truncation, reason = "Ollama takes 2.9 for the integer 2")]
fn integer(name: &str, value: &Value) -> Result<i64, OptionError> {
    let number = value.as_i64().or_else(|| value.as_f64().map(|number| number as i64));
    number.ok_or_else(|| wrong(name, "integer"))
}

#[expect(clippy::cast_possible_truncation, reason = "llama.cpp works with this precision")]
fn float(name: &str, value: &Value) -> Result<f32, OptionError> {
    let number = value.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
    number.ok_or_else(|| wrong(name, "float32"))
}

fn boolean(name: &str, value: &Value) -> Result<bool, OptionError> {
    value.as_bool().ok_or_else(|| wrong(name, "boolean"))
}

fn strings(name: &str, value: &Value) -> Result<Vec<String>, OptionError> {
    let items = value.as_array().ok_or_else(|| wrong(name, "array"))?;
    if items.len() > limits::STOPS_MAX {
        return Err(OptionError::TooManyStops);
    }
    let text = |item: &Value| item.as_str().map(str::to_owned).ok_or_else(|| OptionError::Element(name.to_owned()));
    items.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Options, OptionError> {
        let Value::Object(map) = value else { panic!("an object") };
        Options::from_maps([&map])
    }

    #[test]
    fn a_wrong_type_is_answered_in_ollamas_words() {
        let check = |value: Value, expected: &str| {
            assert_eq!(read(value).expect_err("refused").to_string(), expected);
        };
        check(json!({"temperature": "hot"}), r#"option "temperature" must be of type float32"#);
        check(json!({"num_ctx": "2048"}), r#"option "num_ctx" must be of type integer"#);
        check(json!({"top_k": [1]}), r#"option "top_k" must be of type integer"#);
        check(json!({"use_mmap": 1}), r#"option "use_mmap" must be of type boolean"#);
        check(json!({"stop": "x"}), r#"option "stop" must be of type array"#);
        check(json!({"stop": [1]}), r#"option "stop" must be of an array of strings"#);
    }

    #[test]
    fn later_maps_win_and_unknown_names_are_ignored() {
        let model = json!({"temperature": 0.5, "stop": ["a"], "nonsense": {}});
        let request = json!({"temperature": 0, "seed": 7.9, "top_p": null});
        let maps = [&model, &request].map(|value| value.as_object().expect("object").clone());
        let options = Options::from_maps(&maps).expect("valid");
        assert_eq!((options.sampling.temperature, options.sampling.seed), (0.0, 7));
        assert_eq!((options.sampling.top_p, options.sampling.stop), (0.9, vec!["a".to_owned()]));
    }

    #[test]
    fn the_context_never_exceeds_what_the_model_was_trained_on() {
        let check = |value: Value, trained: Option<u64>, expected: u32| {
            assert_eq!(read(value).expect("valid").settings(trained).num_ctx, expected);
        };
        check(json!({}), Some(512), 512);
        check(json!({}), Some(131_072), 4096);
        check(json!({"num_ctx": 8192}), Some(131_072), 8192);
        check(json!({"num_ctx": 1e18}), Some(131_072), 131_072);
        check(json!({"num_ctx": -5}), None, 4);
        check(json!({"num_ctx": 1e18}), None, limits::CONTEXT_MAX);
    }
}
