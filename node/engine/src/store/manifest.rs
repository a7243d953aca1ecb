//! What a manifest says, and the model that its layers make.
//!
//! The bytes of a manifest depend on nothing but the layers, so the same model has the same digest on every machine.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::gguf::{Arrays, Gguf};
use crate::name::Name;
use crate::store::{Digest, Store, StoreError, read_bounded};

pub(super) const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(super) const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_PREFIX: &str = "application/vnd.ollama.image.";

/// A manifest, as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    pub(super) media_type: String,
    pub(super) config: Layer,
    #[serde(default)]
    pub(super) layers: Vec<Layer>,
}

/// One blob of a manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Layer {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
}

/// The configuration blob, as far as it matters here.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct ImageConfig {
    #[serde(default)]
    pub(super) model_format: String,
    #[serde(default)]
    pub(super) model_family: String,
    #[serde(default)]
    pub(super) model_families: Option<Vec<String>>,
    #[serde(default)]
    pub(super) model_type: String,
    #[serde(default)]
    pub(super) file_type: String,
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) rootfs: Value,
}

/// What lists show about a model's weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Details {
    pub(crate) parent_model: String,
    pub(crate) format: String,
    pub(crate) family: String,
    pub(crate) families: Option<Vec<String>>,
    pub(crate) parameter_size: String,
    pub(crate) quantization_level: String,
}

/// A model as requests use it.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    /// Its stored name.
    pub(crate) name: Name,
    /// Hash of its manifest.
    pub(crate) digest: Digest,
    /// Hash of its weights.
    pub(crate) weights: Digest,
    /// Family, size and form of the weights.
    pub(crate) details: Details,
    /// A template of its own, in whatever language.
    pub(crate) template: Option<String>,
    /// A system text of its own.
    pub(crate) system: Option<String>,
    /// Options that requests may override.
    pub(crate) parameters: Map<String, Value>,
    /// Licence texts.
    pub(crate) licenses: Vec<String>,
    /// Messages that open every conversation.
    pub(crate) messages: Vec<Value>,
}

impl Manifest {
    /// Bytes of everything.
    pub(super) fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).fold(self.config.size, u64::saturating_add)
    }

    /// Every blob it names, the weights first.
    pub(super) fn digests(&self) -> Vec<Digest> {
        let weights = self.layers.iter().filter(|layer| layer.is("model"));
        let others = self.layers.iter().filter(|layer| !layer.is("model"));
        weights.chain(others).chain([&self.config]).filter_map(|layer| Digest::parse(&layer.digest)).collect()
    }
}

impl Layer {
    pub(super) fn new(kind: &str, digest: &Digest, size: u64) -> Self {
        Self { media_type: format!("{LAYER_PREFIX}{kind}"), digest: digest.tagged(), size }
    }

    pub(super) fn is(&self, kind: &str) -> bool {
        self.media_type.strip_prefix(LAYER_PREFIX) == Some(kind)
    }
}

/// Reads the details of a manifest from its configuration.
pub(super) fn details(store: &Store, manifest: &Manifest) -> Result<Details, StoreError> {
    let config: ImageConfig = parse(store, &manifest.config)?;
    Ok(Details {
        parent_model: String::new(),
        format: config.model_format,
        family: config.model_family,
        families: config.model_families,
        parameter_size: config.model_type,
        quantization_level: config.file_type,
    })
}

/// Reads a model's small layers.
pub(super) fn load(store: &Store, name: Name, manifest: &Manifest, bytes: &[u8]) -> Result<Model, StoreError> {
    let weights = manifest.layers.iter().find(|layer| layer.is("model")).and_then(|l| Digest::parse(&l.digest));
    let weights = weights.ok_or_else(|| StoreError::Manifest {
        path: name.to_string(),
        reason: "it names no model weights".to_owned(),
    })?;
    let text = |kind: &str| -> Result<Option<String>, StoreError> {
        manifest.layers.iter().find(|layer| layer.is(kind)).map(|layer| read_text(store, layer)).transpose()
    };
    let parameters = manifest.layers.iter().find(|layer| layer.is("params"));
    let messages = manifest.layers.iter().find(|layer| layer.is("messages"));
    let licenses = manifest.layers.iter().filter(|layer| layer.is("license"));
    Ok(Model {
        digest: Digest::of(bytes),
        weights,
        details: details(store, manifest)?,
        template: text("template")?.or(text("prompt")?),
        system: text("system")?,
        parameters: parameters.map(|layer| parse(store, layer)).transpose()?.unwrap_or_default(),
        messages: messages.map(|layer| parse(store, layer)).transpose()?.unwrap_or_default(),
        licenses: licenses.map(|layer| read_text(store, layer)).collect::<Result<_, _>>()?,
        name,
    })
}

impl Model {
    /// Reads the head of the weights.
    pub(crate) fn head(&self, store: &Store, arrays: Arrays) -> Result<Gguf, StoreError> {
        let path = store.blob_path(&self.weights);
        Gguf::open(&path, arrays).map_err(|source| StoreError::Weights { path: path.display().to_string(), source })
    }
}

fn blob_bytes(store: &Store, layer: &Layer) -> Result<Vec<u8>, StoreError> {
    let damaged = |reason: &str| StoreError::Manifest { path: layer.digest.clone(), reason: reason.to_owned() };
    let digest = Digest::parse(&layer.digest).ok_or_else(|| damaged("the digest is malformed"))?;
    match read_bounded(&store.blob_path(&digest)) {
        Err(StoreError::NotFound) => Err(damaged("the layer is missing; create or pull the model again")),
        result => result,
    }
}

fn read_text(store: &Store, layer: &Layer) -> Result<String, StoreError> {
    Ok(String::from_utf8_lossy(&blob_bytes(store, layer)?).into_owned())
}

fn parse<T: for<'de> Deserialize<'de>>(store: &Store, layer: &Layer) -> Result<T, StoreError> {
    let reason =
        |error: serde_json::Error| StoreError::Manifest { path: layer.digest.clone(), reason: error.to_string() };
    serde_json::from_slice(&blob_bytes(store, layer)?).map_err(reason)
}
