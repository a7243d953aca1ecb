//! Ollama's JSON, as far as this node reads it. Unknown fields are ignored; `details` objects stay text, unread.
//!
//! A model whose name or digest cannot be read is left out of a list and counted, not an error: one odd entry must
//! not hide the others.

use std::collections::BTreeMap;

use jiff::Timestamp as Moment;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use ollamax_types::{Digest, ModelRecord, Residency, Timestamp, capabilities_of, limits};

use crate::weights::{Learnt, Told};

/// `GET /api/version`.
#[derive(Debug, Deserialize)]
pub(crate) struct Version {
    pub(crate) version: String,
}

/// `GET /api/tags`.
#[derive(Debug, Deserialize)]
pub(crate) struct Tags {
    #[serde(default)]
    models: Option<Vec<Tag>>,
}

#[derive(Debug, Deserialize)]
struct Tag {
    name: String,
    #[serde(default)]
    modified_at: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    details: Option<Box<RawValue>>,
    #[serde(default)]
    capabilities: Option<Box<RawValue>>,
}

/// `POST /api/show`, as far as it tells of the weights and of what the model can do.
#[derive(Debug, Deserialize)]
pub(crate) struct Shown {
    #[serde(default)]
    modelfile: String,
    #[serde(default)]
    modified_at: String,
    #[serde(default)]
    capabilities: Option<Box<RawValue>>,
}

/// `GET /api/ps`.
#[derive(Debug, Deserialize)]
pub(crate) struct Processes {
    #[serde(default)]
    models: Option<Vec<Process>>,
}

#[derive(Debug, Deserialize)]
struct Process {
    name: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    size_vram: u64,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    details: Option<Box<RawValue>>,
    #[serde(default)]
    expires_at: String,
    #[serde(default)]
    context_length: u32,
}

/// `{"error":"…"}`.
#[derive(Debug, Deserialize)]
pub(crate) struct ErrorText {
    pub(crate) error: String,
}

/// `POST /api/create` from one uploaded file.
#[derive(Debug, Serialize)]
pub(crate) struct Create<'a> {
    pub(crate) model: &'a str,
    pub(crate) files: BTreeMap<&'static str, String>,
    pub(crate) stream: bool,
}

/// `POST /api/pull`.
#[derive(Debug, Serialize)]
pub(crate) struct Pull<'a> {
    pub(crate) model: &'a str,
    /// By plain HTTP.
    pub(crate) insecure: bool,
    pub(crate) stream: bool,
}

/// `POST /api/push`.
#[derive(Debug, Serialize)]
pub(crate) struct Push<'a> {
    pub(crate) model: &'a str,
    /// By plain HTTP.
    pub(crate) insecure: bool,
    pub(crate) stream: bool,
}

/// One line of `POST /api/create`, `/api/pull` and `/api/push`.
#[derive(Debug, Deserialize)]
pub(crate) struct WorkLine {
    #[serde(default)]
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) error: String,
    /// The file that it speaks of.
    #[serde(default)]
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) total: i64,
    #[serde(default)]
    pub(crate) completed: i64,
}

/// `POST /api/copy`.
#[derive(Debug, Serialize)]
pub(crate) struct Copy<'a> {
    pub(crate) source: &'a str,
    pub(crate) destination: &'a str,
}

/// `DELETE /api/delete` and `POST /api/show`.
#[derive(Debug, Serialize)]
pub(crate) struct Named<'a> {
    pub(crate) model: &'a str,
}

// === impl Tags ===

impl Tags {
    /// The readable entries, and how many were not.
    pub(crate) fn into_records(self) -> (Vec<ModelRecord>, usize) {
        let tags = self.models.unwrap_or_default();
        let listed = tags.len();
        let records: Vec<ModelRecord> = tags.into_iter().filter_map(Tag::into_record).collect();
        let skipped = listed - records.len();
        (records, skipped)
    }
}

impl Tag {
    fn into_record(self) -> Option<ModelRecord> {
        let digest = self.digest.parse().ok()?;
        Some(ModelRecord {
            name: self.name.parse().ok()?,
            digest,
            weights: digest,
            size_bytes: self.size,
            modified_at: timestamp(&self.modified_at),
            details_json: details_text(self.details),
            capabilities: words(self.capabilities.as_deref()),
        })
    }
}

// === impl Shown ===

impl Shown {
    /// What it says of the model that was listed with this time.
    pub(crate) fn told(&self, modified_at: Timestamp) -> Told {
        if !self.modified_at.is_empty() && timestamp(&self.modified_at) != modified_at {
            return Told::OfAnother;
        }
        Told::OfIt(Learnt { weights: self.named(), capabilities: words(self.capabilities.as_deref()) })
    }

    /// The SHA-256 in the first `FROM` of the modelfile, which names the weights by their path in the runtime's store;
    /// later ones name projectors.
    fn named(&self) -> Option<Digest> {
        const HEX_DIGITS: usize = 64;
        let from = self.modelfile.lines().find_map(|line| line.strip_prefix("FROM "))?;
        let (_, file) = from.trim_end().rsplit_once("sha256-")?;
        (file.len() == HEX_DIGITS).then(|| file.parse().ok())?
    }
}

// === impl Processes ===

impl Processes {
    /// The readable entries, and how many were not.
    pub(crate) fn into_residencies(self) -> (Vec<Residency>, usize) {
        let processes = self.models.unwrap_or_default();
        let listed = processes.len();
        let resident: Vec<Residency> = processes.into_iter().filter_map(Process::into_residency).collect();
        let skipped = listed - resident.len();
        (resident, skipped)
    }
}

impl Process {
    fn into_residency(self) -> Option<Residency> {
        let digest = self.digest.parse().ok()?;
        Some(Residency {
            name: self.name.parse().ok()?,
            digest,
            weights: digest,
            size_bytes: self.size,
            size_vram_bytes: self.size_vram,
            context_length: self.context_length,
            expires_at: self.expires_at,
            details_json: details_text(self.details),
        })
    }
}

/// A moment as Ollama writes it; 0 when it cannot be read.
fn timestamp(text: &str) -> Timestamp {
    let millis = text.parse::<Moment>().map_or(0, Moment::as_millisecond);
    Timestamp(u64::try_from(millis).unwrap_or(0))
}

/// The object as text; `{}` when there is none, or when it is larger than a record may hold.
fn details_text(details: Option<Box<RawValue>>) -> String {
    let text = details.as_deref().map_or("{}", RawValue::get);
    if text.len() <= limits::MODEL_DETAILS_BYTES_MAX && text.starts_with('{') {
        text.to_owned()
    } else {
        "{}".to_owned()
    }
}

/// What a model can do, as records keep it; nothing where it is said in another form.
fn words(told: Option<&RawValue>) -> Vec<String> {
    let words: Option<Vec<String>> = told.and_then(|told| serde_json::from_str(told.get()).ok());
    capabilities_of(words.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "365c0bd3c000a25d28ddbf732fe1c6add414de7275464c4e4d1c3b5fcb5d8ad1";

    #[test]
    fn reads_a_list_as_ollama_writes_it() {
        let text = format!(
            r#"{{"models":[{{"name":"llama3.2:1b","model":"llama3.2:1b",
            "modified_at":"2026-08-01T12:00:00.123456789+02:00",
            "size":1321098329,"digest":"{DIGEST}","details":{{"family":"llama", "families":["llama"]}},
            "capabilities":["vision","completion"],"new_field":[1]}},
            {{"name":"odd","digest":"{DIGEST}","capabilities":{{"tools":true}}}},
            {{"name":"bad name","digest":"{DIGEST}"}},{{"name":"ok","digest":"short"}}]}}"#
        );
        let tags: Tags = serde_json::from_str(&text).expect("valid");
        let (records, skipped) = tags.into_records();
        assert_eq!(skipped, 2);
        assert_eq!(records.len(), 2, "{records:?}");
        assert_eq!(records[1].capabilities, Vec::<String>::new(), "another form hides nothing else");
        let record = &records[0];
        assert_eq!(record.name.to_string(), "llama3.2:1b");
        assert_eq!(record.digest.to_string(), DIGEST);
        assert_eq!(record.modified_at, Timestamp(1_785_578_400_123));
        assert_eq!(record.details_json, r#"{"family":"llama", "families":["llama"]}"#);
        assert_eq!(record.capabilities, ["completion", "vision"]);
    }

    #[test]
    fn weights_are_read_from_the_first_from_of_a_modelfile() {
        let check = |modelfile: String, expected: Option<&str>| {
            let shown = Shown { modelfile, modified_at: String::new(), capabilities: None };
            let weights = expected.map(|text| text.parse().expect("a digest"));
            assert_eq!(shown.told(Timestamp(5)), Told::OfIt(Learnt { weights, capabilities: vec![] }), "{shown:?}");
        };
        let head = "# Modelfile generated by \"ollama show\"\n# To build a new Modelfile based on this, replace FROM \
                    with:\n# FROM qwen:latest\n\n";
        let other = "b".repeat(64);
        let projector = format!("FROM /models/blobs/sha256-{other}\n");
        check(format!("{head}FROM /models/blobs/sha256-{DIGEST}\n{projector}TEMPLATE x\n"), Some(DIGEST));
        check(format!("FROM C:\\sha256-x\\blobs\\sha256-{DIGEST}\r\n"), Some(DIGEST));
        check(format!("{head}FROM qwen:cloud\n{projector}"), None);
        check(format!("{head}FROM \n{projector}"), None);
        check(format!("FROM /models/blobs/sha256-{DIGEST}0\n"), None);
        check(format!("FROM /models/blobs/sha256-{}\n", "g".repeat(64)), None);
        check(format!("# FROM /models/blobs/sha256-{DIGEST}\n"), None);
        check(String::new(), None);
    }

    #[test]
    fn what_is_shown_of_a_manifest_that_came_after_the_list_is_not_taken_for_the_listed_one() {
        let head = format!(r#""modelfile":"FROM /x/sha256-{DIGEST}","modified_at":"2026-08-01T12:00:00.5+02:00""#);
        let text = format!(r#"{{{head},"capabilities":["tools"]}}"#);
        let shown: Shown = serde_json::from_str(&text).expect("valid");
        let learnt = Learnt { weights: DIGEST.parse().ok(), capabilities: vec!["tools".to_owned()] };
        assert_eq!(shown.told(Timestamp(1_785_578_400_500)), Told::OfIt(learnt));
        assert_eq!(shown.told(Timestamp(1_785_578_400_499)), Told::OfAnother);
    }

    #[test]
    fn an_empty_or_null_list_is_a_value() {
        for text in [r#"{"models":[]}"#, r#"{"models":null}"#, "{}"] {
            let tags: Tags = serde_json::from_str(text).expect("valid");
            assert_eq!(tags.into_records(), (vec![], 0), "{text}");
        }
    }

    #[test]
    fn details_beyond_the_limit_are_left_out() {
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(limits::MODEL_DETAILS_BYTES_MAX));
        for text in [long.as_str(), "null", "[1]"] {
            let raw = RawValue::from_string(text.to_owned()).expect("valid");
            assert_eq!(details_text(Some(raw)), "{}");
        }
    }
}
