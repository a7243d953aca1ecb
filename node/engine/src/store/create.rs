//! Making a model from an uploaded GGUF file or from another model.
//!
//! Everything is checked before anything is written; layers come first, the manifest last. Layers that the replaced
//! model alone used are removed afterwards. A failure leaves the old model as it was.

use std::fs;
use std::sync::PoisonError;

use serde_json::{Map, Value, json};

use crate::gguf::{Arrays, Gguf, GgufError};
use crate::name::Name;
use crate::store::manifest::{CONFIG_TYPE, ImageConfig, Layer, MANIFEST_TYPE, Manifest};
use crate::store::{Digest, Store, StoreError, write_atomically};
use crate::template;

/// What the new model is made of.
#[derive(Debug)]
pub(crate) struct CreateSpec {
    /// Its name.
    pub(crate) name: Name,
    /// Where the weights come from.
    pub(crate) source: Source,
    /// Replaces the template (Jinja).
    pub(crate) template: Option<String>,
    /// Replaces the system text.
    pub(crate) system: Option<String>,
    /// Replaces options, one by one.
    pub(crate) parameters: Map<String, Value>,
    /// Replaces the licence texts.
    pub(crate) licenses: Vec<String>,
    /// Replaces the opening messages.
    pub(crate) messages: Vec<Value>,
}

/// Where weights come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// An uploaded blob.
    Blob(Digest),
    /// Another model.
    Model(Name),
}

/// Why a model was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    /// The blob was not uploaded.
    #[error("blob sha256:{0} is not here; upload it with POST /api/blobs/sha256:{0} first")]
    NoBlob(String),
    /// The file is no model.
    #[error("{0}")]
    Gguf(#[from] GgufError),
    /// The model to start from is not here, and this runtime does not pull.
    #[error("model '{0}' not found")]
    NoModel(String),
    /// A template in a language that this runtime does not speak, or with a mistake in it.
    #[error("{0}")]
    Template(#[from] template::TemplateError),
    /// The disk refused.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl Store {
    /// Makes the model; gives the progress texts of what was done.
    pub(crate) fn create(&self, spec: &CreateSpec) -> Result<Vec<String>, CreateError> {
        if let Some(text) = &spec.template {
            template::check(text)?;
        }
        let mut steps = Vec::new();
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut layers, config) = match &spec.source {
            Source::Blob(digest) => self.layers_of_blob(digest, &mut steps)?,
            Source::Model(name) => self.layers_of_model(name)?,
        };
        self.replace_texts(&mut layers, spec)?;
        for layer in &layers {
            steps.push(format!("using existing layer {}", layer.digest));
        }
        let config = self.put_config(config, &layers)?;
        let manifest = Manifest { schema_version: 2, media_type: MANIFEST_TYPE.to_owned(), config, layers };
        let name = self.find(&spec.name).unwrap_or_else(|_| spec.name.clone());
        let replaced = self.manifest(&name).map(|(old, _)| old.digests()).unwrap_or_default();
        steps.push("writing manifest".to_owned());
        write_atomically(&self.manifest_path(&name), &encode(&manifest)?)?;
        if let Err(error) = self.remove_unused(replaced) {
            tracing::warn!(%error, "layers of the replaced model stay on disk");
        }
        steps.push("success".to_owned());
        Ok(steps)
    }

    fn layers_of_blob(
        &self,
        digest: &Digest,
        steps: &mut Vec<String>,
    ) -> Result<(Vec<Layer>, ImageConfig), CreateError> {
        let path = self.blob_path(digest);
        if !self.has_blob(digest) {
            return Err(CreateError::NoBlob(digest.hex().to_owned()));
        }
        steps.push("parsing GGUF".to_owned());
        let head = Gguf::open(&path, Arrays::Short).inspect_err(|_| self.drop_unusable(digest))?;
        let size = fs::metadata(&path).map_err(StoreError::io("read", &path))?.len();
        let family = head.architecture().unwrap_or_default().to_owned();
        let config = ImageConfig {
            model_format: "gguf".to_owned(),
            model_families: Some(vec![family.clone()]),
            model_family: family,
            model_type: head.parameter_size(),
            file_type: head.quantization().to_owned(),
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            rootfs: Value::Null,
        };
        Ok((vec![Layer::new("model", digest, size)], config))
    }

    /// What is no model serves nobody: the file goes, so that a refused upload leaves nothing behind.
    fn drop_unusable(&self, digest: &Digest) {
        if let Err(error) = self.remove_unused(vec![digest.clone()]) {
            tracing::warn!(%error, "a refused upload stays on disk");
        }
    }

    fn layers_of_model(&self, name: &Name) -> Result<(Vec<Layer>, ImageConfig), CreateError> {
        let missing = |error| match error {
            StoreError::NotFound => CreateError::NoModel(name.to_string()),
            error => CreateError::Store(error),
        };
        let (manifest, _) = self.find(name).and_then(|name| self.manifest(&name)).map_err(missing)?;
        let digest = Digest::parse(&manifest.config.digest);
        let path = digest.map(|digest| self.blob_path(&digest)).unwrap_or_default();
        let config = serde_json::from_slice(&super::read_bounded(&path)?);
        let config = config
            .map_err(|error| StoreError::Manifest { path: path.display().to_string(), reason: error.to_string() })?;
        Ok((manifest.layers, config))
    }

    fn replace_texts(&self, layers: &mut Vec<Layer>, spec: &CreateSpec) -> Result<(), StoreError> {
        let mut replace = |kind: &str, texts: Vec<Vec<u8>>| -> Result<(), StoreError> {
            layers.retain(|layer| !layer.is(kind));
            for text in texts {
                let (digest, _) = self.put_blob(&text)?;
                layers.push(Layer::new(kind, &digest, text.len() as u64));
            }
            Ok(())
        };
        if let Some(text) = &spec.template {
            replace("template", vec![text.clone().into_bytes()])?;
        }
        if let Some(text) = &spec.system {
            replace("system", vec![text.clone().into_bytes()])?;
        }
        if !spec.licenses.is_empty() {
            replace("license", spec.licenses.iter().map(|text| text.clone().into_bytes()).collect())?;
        }
        if !spec.messages.is_empty() {
            replace("messages", vec![encode(&spec.messages)?])?;
        }
        if !spec.parameters.is_empty() {
            let mut merged = Map::new();
            if let Source::Model(name) = &spec.source {
                merged = self.open_model(name)?.parameters;
            }
            merged.extend(spec.parameters.clone());
            merged.sort_keys();
            replace("params", vec![encode(&merged)?])?;
        }
        Ok(())
    }

    fn put_config(&self, mut config: ImageConfig, layers: &[Layer]) -> Result<Layer, StoreError> {
        let ids: Vec<_> = layers.iter().map(|layer| layer.digest.as_str()).collect();
        config.rootfs = json!({"type": "layers", "diff_ids": ids});
        let bytes = encode(&config)?;
        let (digest, _) = self.put_blob(&bytes)?;
        Ok(Layer { media_type: CONFIG_TYPE.to_owned(), digest: digest.tagged(), size: bytes.len() as u64 })
    }
}

fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value)
        .map_err(|error| StoreError::Manifest { path: "new model".to_owned(), reason: error.to_string() })
}
