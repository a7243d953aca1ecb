//! The models of a fake that keeps them on disk, in Ollama's layout.
//!
//! They are read anew at each question, as Ollama does: what somebody puts there is a model at once. What cannot be
//! read is left out, as Ollama leaves it out. Files are written in place, blobs before the manifest that names them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use ollamax_types::{Digest, ModelName, Timestamp};

use crate::fake_ollama::script::ModelScript;
use crate::fake_ollama::text;

/// Folders between `manifests` and a tag: host, namespace and model.
const FOLDERS_ABOVE_A_TAG: usize = 3;
/// Media type of the layer that holds the weights.
const WEIGHTS: &str = "application/vnd.ollama.image.model";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
    size: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: String,
    config: Layer,
    layers: Vec<Layer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    model_family: String,
    model_type: String,
    file_type: String,
    capabilities: Vec<String>,
}

// === impl Manifest ===

impl Manifest {
    fn blobs(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().chain([&self.config])
    }
}

/// Puts a model into a store, as a pull behind everybody's back does, and answers its digest. Its weights are as many
/// bytes as the script says, made from what stands for them.
///
/// # Errors
/// When the name is none, or the disk refuses.
pub fn shelve(store: &Path, model: &ModelScript) -> Result<Digest> {
    let name = model.parsed().with_context(|| format!("{:?} is no model name", model.name))?;
    let size = usize::try_from(model.size_bytes).context("size of the weights")?;
    let weights: Vec<u8> = model.weights_digest().0.into_iter().cycle().take(size).collect();
    let weights = put_blob(store, WEIGHTS, &weights)?;
    put_model(store, &name, weights, model)
}

/// Makes a model of weights that lie there, as `/api/create` does.
///
/// # Errors
/// When they do not lie there, or the disk refuses.
pub(crate) fn make(store: &Path, name: &ModelName, weights: Digest, model: &ModelScript) -> Result<Digest> {
    let size = blob_size(store, weights).with_context(|| format!("blob sha256:{weights} not found"))?;
    let weights = Layer { media_type: WEIGHTS.to_owned(), digest: format!("sha256:{weights}"), size };
    put_model(store, name, weights, model)
}

fn put_model(store: &Path, name: &ModelName, weights: Layer, model: &ModelScript) -> Result<Digest> {
    let config = json!({
        "model_format": "gguf", "model_family": model.family, "model_families": [model.family],
        "model_type": model.parameter_size, "file_type": model.quantization, "capabilities": model.capabilities,
        // Makes manifests differ where the content does although the weights are the same.
        "content": model.content,
    });
    let text = Manifest {
        schema_version: 2,
        media_type: "application/vnd.docker.distribution.manifest.v2+json".to_owned(),
        layers: vec![weights],
        config: put_blob(store, "application/vnd.docker.container.image.v1+json", config.to_string().as_bytes())?,
    };
    let text = serde_json::to_vec(&text).context("write a manifest as JSON")?;
    put_manifest(store, name, &text).with_context(|| format!("write the manifest of {name}"))?;
    Ok(digest_of(&text))
}

/// Takes a file that was uploaded.
///
/// # Errors
/// When the disk refuses.
pub(crate) fn take(store: &Path, bytes: &[u8]) -> Result<()> {
    put_blob(store, WEIGHTS, bytes).map(drop)
}

/// How large a file is that lies there.
pub(crate) fn blob_size(store: &Path, digest: Digest) -> Option<u64> {
    fs::metadata(blob_path(store, &format!("sha256:{digest}"))).ok().map(|meta| meta.len())
}

/// The models that lie there now.
pub(crate) fn models(store: &Path) -> Vec<ModelScript> {
    tags(store).iter().filter_map(|tag| read(store, tag)).collect()
}

/// Removes a model, and the blobs that no other one names.
///
/// # Errors
/// What the disk said.
pub(crate) fn remove(store: &Path, name: &ModelName) -> io::Result<()> {
    let is_it = |tag: &&PathBuf| name_of(store, tag).as_ref() == Some(name);
    let tags = tags(store);
    let Some(tag) = tags.iter().find(is_it) else { return Ok(()) };
    let blobs = |tag: &PathBuf| {
        let manifest = fs::read(tag).ok().and_then(|text| serde_json::from_slice::<Manifest>(&text).ok());
        manifest.map(|manifest| manifest.blobs().map(|blob| blob.digest.clone()).collect::<Vec<_>>())
    };
    let gone = blobs(tag).unwrap_or_default();
    fs::remove_file(tag)?;
    let kept: BTreeSet<String> = tags.iter().filter(|other| *other != tag).filter_map(blobs).flatten().collect();
    for digest in gone.into_iter().filter(|digest| !kept.contains(digest)).collect::<BTreeSet<_>>() {
        if let Err(error) = fs::remove_file(blob_path(store, &digest))
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
    }
    Ok(())
}

/// Gives a model a second name, by the bytes of its manifest.
///
/// # Errors
/// What the disk said.
pub(crate) fn copy(store: &Path, from: &ModelName, to: &ModelName) -> io::Result<()> {
    let tags = tags(store);
    let Some(tag) = tags.iter().find(|tag| name_of(store, tag).as_ref() == Some(from)) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    put_manifest(store, to, &fs::read(tag)?)
}

/// Lets a name stand for a manifest.
///
/// # Errors
/// What the disk said.
pub(crate) fn put_manifest(store: &Path, name: &ModelName, bytes: &[u8]) -> io::Result<()> {
    let path = manifest_path(store, name);
    fs::create_dir_all(path.parent().unwrap_or(store))?;
    fs::write(path, bytes)
}

/// The files that are tags by their place.
fn tags(store: &Path) -> Vec<PathBuf> {
    let mut level = vec![store.join("manifests")];
    for _ in 0..=FOLDERS_ABOVE_A_TAG {
        let entries = level.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
        level = entries.flatten().map(|entry| entry.path()).collect();
        level.sort_unstable();
    }
    level.retain(|path| path.is_file());
    level
}

/// The name that a tag's place says.
fn name_of(store: &Path, tag: &Path) -> Option<ModelName> {
    let place = tag.strip_prefix(store.join("manifests")).ok()?.to_str()?;
    let (model, tag) = place.rsplit_once('/')?;
    format!("{model}:{tag}").parse().ok()
}

/// One model; `None` where its files do not say so.
fn read(store: &Path, tag: &Path) -> Option<ModelScript> {
    let name = name_of(store, tag)?;
    let text = fs::read(tag).ok()?;
    let manifest: Manifest = serde_json::from_slice(&text).ok()?;
    let config: Config = serde_json::from_slice(&fs::read(blob_path(store, &manifest.config.digest)).ok()?).ok()?;
    let changed = fs::metadata(tag).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    let digest = digest_of(&text);
    Some(ModelScript {
        name: name.to_string(),
        content: digest.to_string(),
        digest_is: Some(digest),
        weights_are: Some(manifest.layers.iter().find(|layer| layer.media_type == WEIGHTS)?.digest.parse().ok()?),
        size_bytes: manifest.blobs().map(|blob| blob.size).sum(),
        modified_at: text::rfc3339(Timestamp(u64::try_from(changed.as_millis()).ok()?)),
        family: config.model_family,
        parameter_size: config.model_type,
        quantization: config.file_type,
        capabilities: config.capabilities,
        ..ModelScript::default()
    })
}

fn put_blob(store: &Path, media_type: &str, bytes: &[u8]) -> Result<Layer> {
    let digest = format!("sha256:{}", digest_of(bytes));
    let path = blob_path(store, &digest);
    let folder = store.join("blobs");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    Ok(Layer { media_type: media_type.to_owned(), digest, size: u64::try_from(bytes.len()).unwrap_or(u64::MAX) })
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

fn manifest_path(store: &Path, name: &ModelName) -> PathBuf {
    store.join("manifests").join(name.parts().join("/"))
}

/// `digest` as a manifest writes it, `sha256:` and 64 hex digits.
pub(crate) fn blob_path(store: &Path, digest: &str) -> PathBuf {
    store.join("blobs").join(digest.replace(':', "-"))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::FakeOllama;
    use crate::fake_ollama::Script;
    use crate::http::HttpClient;

    fn small(name: &str) -> ModelScript {
        ModelScript { size_bytes: 100, ..ModelScript::named(name) }
    }

    fn names(store: &Path) -> Vec<String> {
        models(store).into_iter().map(|model| model.name).collect()
    }

    #[test]
    fn what_is_put_there_is_a_model_with_the_digests_of_its_files() {
        let temp = tempfile::tempdir().expect("temp");
        let digest = shelve(temp.path(), &small("lab/demo:1b")).expect("put");
        let found = models(temp.path());
        let [model] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((model.name.as_str(), model.digest(), model.family.as_str()), ("lab/demo:1b", digest, "llama"));
        let weights = fs::read(blob_path(temp.path(), &format!("sha256:{}", model.weights_digest()))).expect("there");
        assert_eq!((weights.len(), digest_of(&weights)), (100, model.weights_digest()));
        assert!(model.size_bytes > 100 && model.modified_at.ends_with('Z') && model.can("embedding"), "{model:?}");
        let elsewhere = tempfile::tempdir().expect("temp");
        assert_eq!(shelve(elsewhere.path(), &small("lab/demo:1b")).expect("put"), digest);
    }

    #[test]
    fn a_model_goes_with_what_no_other_one_uses() {
        let temp = tempfile::tempdir().expect("temp");
        shelve(temp.path(), &small("a")).expect("put");
        shelve(temp.path(), &small("a").alias("b")).expect("put");
        assert_eq!(names(temp.path()), ["a:latest", "b:latest"]);
        let blobs = || fs::read_dir(temp.path().join("blobs")).expect("listed").count();
        assert_eq!(blobs(), 3, "one file of weights, two configurations");
        for (name, left) in [("A", 2), ("a", 2), ("b", 0)] {
            remove(temp.path(), &name.parse().expect("a name")).expect("removed");
            assert_eq!(blobs(), left, "after {name}");
        }
        assert!(names(temp.path()).is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let temp = tempfile::tempdir().expect("temp");
        assert!(models(temp.path()).is_empty(), "there is no store yet");
        shelve(temp.path(), &small("a")).expect("put");
        let library = temp.path().join("manifests/registry.ollama.ai/library");
        fs::write(library.join("a/half"), "{\"schemaVersion\":2,").expect("written");
        fs::write(library.join("stray"), "{}").expect("written");
        fs::create_dir_all(library.join("a/folder")).expect("made");
        assert_eq!(names(temp.path()), ["a:latest"]);
    }

    #[tokio::test]
    async fn a_fake_has_what_lies_there_at_this_moment() {
        let temp = tempfile::tempdir().expect("temp");
        let script = Script { store: Some(temp.path().to_owned()), ..Script::with_models([small("a")]) };
        let fake = FakeOllama::start(script).await.expect("a free port");
        let digest = shelve(temp.path(), &small("b")).expect("put");
        let http = HttpClient::new();
        let tags = http.get_json(&format!("{}/api/tags", fake.url())).await.expect("tags");
        let listed = tags["models"].as_array().expect("a list");
        assert_eq!(listed.len(), 2, "{tags}");
        assert!(listed.iter().any(|model| model["digest"] == digest.to_string()), "{tags}");

        let call = async |method, route: &str, body: &str| {
            let answer = http.call(method, &format!("{}{route}", fake.url()), body.to_owned()).await.expect("answer");
            answer.status
        };
        assert_eq!(call(Method::POST, "/api/chat", r#"{"model":"b","messages":[]}"#).await, 200);
        assert_eq!(call(Method::POST, "/api/create", r#"{"model":"d","from":"b","system":"x"}"#).await, 200);
        let of = |name: &str| models(temp.path()).into_iter().find(|model| model.name == name).expect("there");
        assert_eq!(of("d:latest").weights_digest(), of("b:latest").weights_digest());
        assert_ne!(of("d:latest").digest(), of("b:latest").digest());
        assert_eq!(call(Method::DELETE, "/api/delete", r#"{"model":"d"}"#).await, 200);
        let file = digest_of(b"GGUF and more");
        let body = format!(r#"{{"model":"d","files":{{"m.gguf":"sha256:{file}"}}}}"#);
        assert_eq!(call(Method::POST, "/api/create", &body).await, 400, "it was not uploaded");
        assert_eq!(call(Method::HEAD, &format!("/api/blobs/sha256:{file}"), "").await, 404);
        assert_eq!(call(Method::POST, &format!("/api/blobs/sha256:{file}"), "GGUF and more").await, 201);
        assert_eq!(call(Method::HEAD, &format!("/api/blobs/sha256:{file}"), "").await, 200);
        assert_eq!(call(Method::POST, "/api/create", &body).await, 200);
        assert_eq!(of("d:latest").weights_digest(), file);
        assert_eq!(call(Method::DELETE, "/api/delete", r#"{"model":"d"}"#).await, 200);
        assert_eq!(call(Method::POST, "/api/copy", r#"{"source":"x","destination":"c"}"#).await, 404);
        assert_eq!(call(Method::POST, "/api/copy", r#"{"source":"b","destination":"lab/c:1b"}"#).await, 200);
        assert_eq!(call(Method::DELETE, "/api/delete", r#"{"model":"a"}"#).await, 200);
        assert_eq!(call(Method::DELETE, "/api/delete", r#"{"model":"b"}"#).await, 200);
        let left = models(temp.path());
        let [copied] = left.as_slice() else { panic!("{left:?}") };
        assert_eq!((copied.name.as_str(), copied.digest()), ("lab/c:1b", digest));
    }
}
