//! What a fake Ollama plays: its models, its speed, its memory and its faults. Plain data, readable from JSON.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use ollamax_types::{Digest, ModelName};

/// Everything that can be scripted. A field that is left out has the value of a small, fast, healthy Ollama.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// What `/api/version` answers.
    pub version: String,
    /// The models in the store.
    pub models: Vec<ModelScript>,
    /// A folder in which the models lie, in Ollama's layout. `models` are put there when the fake starts; from then on
    /// what lies there counts, and nothing else.
    pub store: Option<PathBuf>,
    /// A file with the root certificate that its machine trusts, in PEM. With it, it pulls over TLS.
    pub trusts: Option<PathBuf>,
    /// Requests that one runner works on at once (`OLLAMA_NUM_PARALLEL`); more wait.
    pub slots: usize,
    /// Requests that may wait for a load before the instant 503 (`OLLAMA_MAX_QUEUE`).
    pub max_queue: usize,
    /// Memory for runners, bytes; a load beyond it first evicts idle runners.
    pub vram_bytes: u64,
    /// Time of one load, milliseconds.
    pub load_ms: u64,
    /// Time from the slot to the first token, milliseconds.
    pub first_byte_ms: u64,
    /// Time between two tokens, microseconds.
    pub token_us: u64,
    /// Tokens of an answer when the request does not limit them.
    pub tokens: u64,
    /// How much scripted times vary, percent of themselves, both ways.
    pub jitter_percent: u64,
    /// Source of the variation.
    pub seed: u64,
    /// Enters the digest of every model made by `/api/create`: two runtimes with different salts disagree.
    pub create_salt: String,
    /// What goes wrong, first matching rule first.
    pub faults: Vec<FaultRule>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            version: "0.24.0".to_owned(),
            models: Vec::new(),
            store: None,
            trusts: None,
            slots: 1,
            max_queue: 512,
            vram_bytes: 8 << 30,
            load_ms: 0,
            first_byte_ms: 0,
            token_us: 0,
            tokens: 8,
            jitter_percent: 0,
            seed: 0,
            create_salt: String::new(),
            faults: Vec::new(),
        }
    }
}

impl Script {
    /// A script whose store holds these models.
    #[must_use]
    pub fn with_models(models: impl IntoIterator<Item = ModelScript>) -> Self {
        Self { models: models.into_iter().collect(), ..Self::default() }
    }

    /// The model of this name, compared as Ollama compares.
    #[must_use]
    pub fn find(&self, name: &ModelName) -> Option<&ModelScript> {
        self.models.iter().find(|model| model.parsed().as_ref() == Some(name))
    }
}

/// One model of the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelScript {
    /// Name as listed, tag included.
    pub name: String,
    /// Stands for all that the manifest names: equal content means equal digest and equal answers on every fake.
    pub content: String,
    /// Stands for the weights file, and is the content where it is empty. Models of equal weights share one runner,
    /// which is listed under the name that loaded first.
    pub weights: String,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// Bytes in memory once loaded.
    pub vram_bytes: u64,
    /// RFC 3339.
    pub modified_at: String,
    /// `details.family`.
    pub family: String,
    /// `details.parameter_size`.
    pub parameter_size: String,
    /// `details.quantization_level`.
    pub quantization: String,
    /// Trained context, tokens.
    pub context_length: u32,
    /// Length of its vectors.
    pub embedding_length: usize,
    /// As in `/api/show`; without `completion` it answers no chat, without `embedding` no vectors.
    pub capabilities: Vec<String>,
    /// The manifest's digest where there is a manifest; `None`: made from the content.
    #[serde(skip)]
    pub digest_is: Option<Digest>,
    /// The weights' digest where there is a file; `None`: made from what stands for it.
    #[serde(skip)]
    pub weights_are: Option<Digest>,
}

impl Default for ModelScript {
    fn default() -> Self {
        Self {
            name: "demo:latest".to_owned(),
            content: "demo".to_owned(),
            weights: String::new(),
            size_bytes: 2 << 20,
            vram_bytes: 64 << 20,
            modified_at: "2026-01-02T03:04:05Z".to_owned(),
            family: "llama".to_owned(),
            parameter_size: "1M".to_owned(),
            quantization: "F16".to_owned(),
            context_length: 4_096,
            embedding_length: 16,
            capabilities: vec!["completion".to_owned(), "embedding".to_owned()],
            digest_is: None,
            weights_are: None,
        }
    }
}

impl ModelScript {
    /// A small model; its name is its content, so fakes with the same name agree on the digest.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let name = if name.contains(':') { name.to_owned() } else { format!("{name}:latest") };
        Self { content: name.clone(), name, ..Self::default() }
    }

    /// The name, parsed; `None` when the script spells it wrongly.
    #[must_use]
    pub fn parsed(&self) -> Option<ModelName> {
        self.name.parse().ok()
    }

    /// SHA-256 of the manifest, or of what stands for it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest_is.unwrap_or_else(|| Digest(Sha256::digest(format!("manifest of {}", self.content)).into()))
    }

    /// SHA-256 of the weights file, or of what stands for it.
    #[must_use]
    pub fn weights_digest(&self) -> Digest {
        let weights = if self.weights.is_empty() { &self.content } else { &self.weights };
        self.weights_are.unwrap_or_else(|| Digest(Sha256::digest(format!("weights of {weights}")).into()))
    }

    /// A model made from this one, as by `FROM` and another system prompt: another manifest over the same weights.
    #[must_use]
    pub fn alias(&self, name: &str) -> Self {
        let weights = if self.weights.is_empty() { self.content.clone() } else { self.weights.clone() };
        let Self { name, content, .. } = Self::named(name);
        Self { name, content, weights, digest_is: None, ..self.clone() }
    }

    /// Whether `/api/show` lists the capability.
    #[must_use]
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|own| own == capability)
    }
}

/// Which requests a fault meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// Whatever arrives.
    Everything,
    /// `/api/version`, `/api/tags`, `/api/ps` and `/`.
    Health,
    /// Requests that need a runner.
    Inference,
    /// `/api/pull`.
    Pull,
    /// `/api/create`, `/api/delete`, blobs.
    Management,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// At once 503 with Ollama's text.
    Busy,
    /// Accepts and never answers.
    Hang,
    /// The first byte comes this much later, milliseconds.
    SlowFirstByte(u64),
    /// The connection is dropped after this many lines or events of the stream.
    CutAfterLines(u64),
    /// After this many lines a line `{"error":…}` ends the stream, inside HTTP 200.
    ErrorAfterLines(u64),
    /// 200 with an HTML page.
    Garbage,
    /// 500 with the text of a crashed runner; the model is no longer resident.
    RunnerCrash,
    /// The connection is closed instead of an answer.
    Reset,
    /// Any other status and error text.
    Status(u16, String),
}

/// A fault and when it strikes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRule {
    /// Which requests.
    pub on: On,
    /// What happens to them.
    pub fault: Fault,
    /// How often; `None` means always.
    #[serde(default)]
    pub times: Option<u32>,
}

impl FaultRule {
    /// Strikes every time.
    #[must_use]
    pub const fn always(on: On, fault: Fault) -> Self {
        Self { on, fault, times: None }
    }

    /// Strikes the next time only.
    #[must_use]
    pub const fn once(on: On, fault: Fault) -> Self {
        Self { on, fault, times: Some(1) }
    }
}

/// Finds the fault that meets a request and counts it down. Rules that are used up are dropped.
pub(crate) fn take_fault(rules: &mut Vec<FaultRule>, kind: On) -> Option<Fault> {
    let index = rules.iter().position(|rule| rule.on == kind || rule.on == On::Everything)?;
    let fault = rules[index].fault.clone();
    if let Some(left) = &mut rules[index].times {
        *left = left.saturating_sub(1);
        if *left == 0 {
            rules.remove(index);
        }
    }
    Some(fault)
}

/// A scripted time, varied by a number drawn from the script's seed.
pub(crate) fn vary(time: Duration, jitter_percent: u64, drawn: u64) -> Duration {
    let span = jitter_percent.min(100);
    let permille = 1_000 - span * 10 + drawn % (span * 20 + 1);
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(micros.saturating_mul(permille) / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_content_means_equal_digest_whatever_the_name() {
        let (a, b) = (ModelScript::named("a"), ModelScript { name: "b:latest".to_owned(), ..ModelScript::named("a") });
        assert_eq!(a.digest(), b.digest());
        assert_ne!(a.digest(), ModelScript::named("c").digest());
        let alias = a.alias("c");
        assert_eq!((alias.weights_digest(), alias.digest()), (a.weights_digest(), ModelScript::named("c").digest()));
    }

    #[test]
    fn a_rule_strikes_as_often_as_it_says() {
        let mut rules = vec![FaultRule::once(On::Inference, Fault::Busy), FaultRule::always(On::Health, Fault::Hang)];
        assert_eq!(take_fault(&mut rules, On::Management), None);
        assert_eq!(take_fault(&mut rules, On::Inference), Some(Fault::Busy));
        assert_eq!(take_fault(&mut rules, On::Inference), None);
        assert_eq!(take_fault(&mut rules, On::Health), Some(Fault::Hang));
        assert_eq!(take_fault(&mut rules, On::Health), Some(Fault::Hang));
    }

    #[test]
    fn variation_stays_within_its_percentage() {
        let time = Duration::from_millis(100);
        for drawn in 0..1_000 {
            let varied = vary(time, 20, drawn * 7_919);
            assert!((80..=120).contains(&varied.as_millis()), "{varied:?}");
            assert_eq!(vary(time, 0, drawn), time);
        }
    }

    #[test]
    fn a_script_is_read_from_json_with_defaults() {
        let text = r#"{"models":[{"name":"m:1b"}],"faults":[{"on":"inference","fault":{"cut_after_lines":3}}]}"#;
        let script: Script = serde_json::from_str(text).expect("valid");
        assert_eq!(script.slots, 1);
        assert_eq!(script.faults[0], FaultRule::always(On::Inference, Fault::CutAfterLines(3)));
        assert!(serde_json::from_str::<Script>(r#"{"slot":1}"#).is_err());
    }
}
