//! What a model's manifest says, read with suspicion; its bytes are its identity.
//!
//! A manifest comes from a registry, from another node or from a file that another program may be writing, so nothing
//! of it is used before all of it was checked: its length, the number of layers, each digest and size, their sum. A
//! digest that was read names a file and can name nothing else: 64 lower-case hex digits, no path. What is handed on
//! are the bytes as they came, never a form written anew: every runtime and node knows the model by their SHA-256.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sha2::{Digest as _, Sha256};

use ollamax_types::Digest;
use ollamax_types::limits::{BLOB_BYTES_MAX, MANIFEST_BYTES_MAX, MANIFEST_LAYERS_MAX, MODEL_BYTES_MAX};

/// The version of the form that is understood.
const SCHEMA_VERSION: u64 = 2;
/// The layer that a runtime loads.
const WEIGHTS_TYPE: &str = "application/vnd.ollama.image.model";
/// What an error repeats of somebody else's text, characters.
const TOLD_CHARS_MAX: usize = 100;

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What the file is to the model.
    pub media_type: String,
    /// Its name.
    pub sha256: Digest,
    /// Its size.
    pub size_bytes: u64,
}

/// A file of a model, as its manifest names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlobSpec {
    /// SHA-256 of its bytes.
    pub sha256: Digest,
    /// How many it has.
    pub size_bytes: u64,
}

/// The files that make one version of a model. Cheap to clone.
#[derive(Clone)]
pub struct Manifest {
    bytes: Arc<[u8]>,
    digest: Digest,
    config: Option<Layer>,
    layers: Arc<[Layer]>,
    size_bytes: u64,
}

/// Bytes that are no manifest which may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// No JSON, or not of this form. A file that is being written looks like this too.
    #[error("the manifest is no JSON of a manifest: {0}")]
    Shape(String),
    /// Another form.
    #[error("the manifest has schema version {0}; 2 is understood")]
    Version(u64),
    /// Too many layers.
    #[error("the manifest has {found} layers; the limit is {MANIFEST_LAYERS_MAX}")]
    Layers {
        /// How many it has.
        found: usize,
    },
    /// A name that is none.
    #[error("the manifest names {0:?}, which is no sha256 digest")]
    Digest(String),
    /// A file that is too large.
    #[error("the manifest gives {sha256} {size_bytes} bytes; the limit is {BLOB_BYTES_MAX}")]
    Size {
        /// Which file.
        sha256: Digest,
        /// What it is said to have.
        size_bytes: u64,
    },
    /// One file cannot have two sizes.
    #[error("the manifest gives {sha256} two sizes, {first} and {second}")]
    Contradiction {
        /// Which file.
        sha256: Digest,
        /// The size that is told first.
        first: u64,
        /// The one that is told later.
        second: u64,
    },
    /// The model is too large.
    #[error("the manifest's layers add up to more than {MODEL_BYTES_MAX} bytes")]
    Sum,
    /// A model without a file.
    #[error("the manifest names no layer")]
    Empty,
    /// It was not read at all.
    #[error("the manifest has more than {MANIFEST_BYTES_MAX} bytes")]
    TooLong,
}

// === impl Manifest ===

impl Manifest {
    /// Reads and checks the whole of it.
    ///
    /// # Errors
    /// With the first thing that is wrong.
    pub fn read(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLong);
        }
        let Object(told) = serde_json::from_slice::<Object<Told>>(bytes)
            .map_err(|error| ManifestError::Shape(clipped(&error.to_string())))?;
        if told.schema_version != SCHEMA_VERSION {
            return Err(ManifestError::Version(told.schema_version));
        }
        if told.layers.found > MANIFEST_LAYERS_MAX {
            return Err(ManifestError::Layers { found: told.layers.found });
        }
        // What Ollama writes where a model has no configuration: an object whose values are all empty.
        let config = told.config.filter(|Object(config)| !config.digest.is_empty()).map(checked).transpose()?;
        let layers = told.layers.kept.into_iter().map(checked).collect::<Result<Arc<[Layer]>, _>>()?;
        let size_bytes = sum(layers.iter().chain(&config))?;
        let digest = Digest(Sha256::digest(bytes).into());
        Ok(Self { bytes: bytes.into(), digest, config, layers, size_bytes })
    }

    /// The SHA-256 of its bytes: which version of a model it is.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Its bytes as they were read.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the model says of itself, if it does.
    #[must_use]
    pub const fn config(&self) -> Option<&Layer> {
        self.config.as_ref()
    }

    /// Its layers, in order.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Every file that it needs, each once: layers, then configuration.
    #[must_use]
    pub fn blobs(&self) -> Vec<BlobSpec> {
        let mut seen = BTreeSet::new();
        let all = self.layers.iter().chain(&self.config).map(Layer::spec);
        all.filter(|spec| seen.insert(spec.sha256)).collect()
    }

    /// Bytes of layers and configuration as a runtime's list counts them: a layer that is named twice counts twice.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The file that a runtime loads; a model that another service serves has none.
    #[must_use]
    pub fn weights(&self) -> Option<Digest> {
        self.layers.iter().find(|layer| layer.media_type == WEIGHTS_TYPE).map(|layer| layer.sha256)
    }
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Manifest({}, {} layers, {} bytes)", self.digest.short(), self.layers.len(), self.size_bytes)
    }
}

// === impl Layer ===

impl Layer {
    const fn spec(&self) -> BlobSpec {
        BlobSpec { sha256: self.sha256, size_bytes: self.size_bytes }
    }
}

fn checked(Object(told): Object<ToldLayer>) -> Result<Layer, ManifestError> {
    let ToldLayer { media_type, digest, size: size_bytes } = told;
    let Some(sha256) = sha256_of(&digest) else { return Err(ManifestError::Digest(clipped(&digest))) };
    if size_bytes > BLOB_BYTES_MAX {
        return Err(ManifestError::Size { sha256, size_bytes });
    }
    Ok(Layer { media_type, sha256, size_bytes })
}

/// `sha256:` and 64 lower-case hex digits, as the file in a store is called.
fn sha256_of(text: &str) -> Option<Digest> {
    let digits = text.strip_prefix("sha256:")?;
    let is_plain = digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_plain.then(|| digits.parse().ok()).flatten()
}

/// The bytes of all files, each of which has one size.
fn sum<'a>(layers: impl Iterator<Item = &'a Layer>) -> Result<u64, ManifestError> {
    let (mut sizes, mut sum) = (BTreeMap::new(), 0_u64);
    for Layer { sha256, size_bytes, .. } in layers {
        let first = *sizes.entry(*sha256).or_insert(*size_bytes);
        if first != *size_bytes {
            return Err(ManifestError::Contradiction { sha256: *sha256, first, second: *size_bytes });
        }
        sum = sum.checked_add(*size_bytes).filter(|sum| *sum <= MODEL_BYTES_MAX).ok_or(ManifestError::Sum)?;
    }
    if sizes.is_empty() { Err(ManifestError::Empty) } else { Ok(sum) }
}

fn clipped(text: &str) -> String {
    text.chars().take(TOLD_CHARS_MAX).collect()
}

/// The manifest as it is written, as far as it is read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    schema_version: u64,
    #[serde(default)]
    config: Option<Object<ToldLayer>>,
    #[serde(default)]
    layers: ToldLayers,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToldLayer {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
}

/// As many layers as a manifest may have; those beyond are counted and not kept.
#[derive(Debug, Default)]
struct ToldLayers {
    kept: Vec<Object<ToldLayer>>,
    found: usize,
}

impl<'de> Deserialize<'de> for ToldLayers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Layers;

        impl<'de> Visitor<'de> for Layers {
            type Value = ToldLayers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of layers")
            }

            /// `null`: how Ollama writes an empty list.
            fn visit_unit<E>(self) -> Result<ToldLayers, E> {
                Ok(ToldLayers::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ToldLayers, A::Error> {
                let mut layers = ToldLayers::default();
                while layers.found < MANIFEST_LAYERS_MAX {
                    let Some(layer) = list.next_element()? else { return Ok(layers) };
                    layers.kept.push(layer);
                    layers.found += 1;
                }
                while list.next_element::<IgnoredAny>()?.is_some() {
                    layers.found += 1;
                }
                Ok(layers)
            }
        }

        deserializer.deserialize_any(Layers)
    }
}

/// A value that is written as an object. Without it a list of the same values would do, which no runtime reads.
#[derive(Debug)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData)).map(Object)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    const C: &str = "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";

    fn digest(text: &str) -> Digest {
        text.parse().expect("a digest")
    }

    fn layer(digest: &str, size: &str) -> String {
        format!(r#"{{"mediaType":"{WEIGHTS_TYPE}","digest":"{digest}","size":{size}}}"#)
    }

    fn manifest(layers: &[String]) -> String {
        format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(","))
    }

    fn check(text: &str, wanted: &Result<u64, ManifestError>) {
        let found = Manifest::read(text.as_bytes()).map(|manifest| manifest.size_bytes());
        assert_eq!(&found, wanted, "{}", clipped(text));
    }

    #[test]
    fn a_manifest_is_read_or_says_what_is_wrong_with_it() {
        use ManifestError::{Contradiction, Digest, Empty, Layers, Size, Sum, TooLong, Version};
        let one = |named: &str, size: &str| manifest(&[layer(named, size)]);
        check(&one(A, "7"), &Ok(7));
        check(&one(A, "0"), &Ok(0));
        check(&one(A, &BLOB_BYTES_MAX.to_string()), &Ok(BLOB_BYTES_MAX));
        check(&manifest(&[layer(A, "7"), layer(B, "8"), layer(A, "7")]), &Ok(22));
        for bad in ["sha256:../../x", "../../etc/passwd", "", "sha256:", &A[..70], &format!("{A}a"), &A[7..]] {
            check(&one(bad, "7"), &Err(Digest(bad.to_owned())));
        }
        for bad in [A.to_uppercase(), A.replace("aaaa", "AAAA"), A.replace("256:", "256-"), A.replace("256", "512")] {
            check(&one(&bad, "7"), &Err(Digest(bad.clone())));
        }
        check(&one(&"y".repeat(5_000), "7"), &Err(Digest("y".repeat(TOLD_CHARS_MAX))));
        let large = 1_u64 << 63;
        check(&one(A, &large.to_string()), &Err(Size { sha256: digest(A), size_bytes: large }));
        let contradiction = Contradiction { sha256: digest(A), first: 7, second: 8 };
        check(&manifest(&[layer(A, "7"), layer(B, "8"), layer(A, "8")]), &Err(contradiction));
        let most = BLOB_BYTES_MAX.to_string();
        check(&manifest(&[layer(A, &most), layer(B, "1")]), &Err(Sum));
        check(&manifest(&[]), &Err(Empty));
        check(r#"{"schemaVersion":2}"#, &Err(Empty));
        check(r#"{"schemaVersion":1,"fsLayers":[{"blobSum":"x"}]}"#, &Err(Version(1)));
        check(&" ".repeat(MANIFEST_BYTES_MAX + 1), &Err(TooLong));
        let short = format!(r#"{{"digest":"{A}","size":1}}"#);
        let many = |count: usize| manifest(&vec![short.clone(); count]);
        check(&many(MANIFEST_LAYERS_MAX), &Ok(MANIFEST_LAYERS_MAX as u64));
        check(&many(MANIFEST_LAYERS_MAX + 9), &Err(Layers { found: MANIFEST_LAYERS_MAX + 9 }));
        let million = format!(r#"{{"schemaVersion":2,"layers":[{}{{}}]}}"#, "{},".repeat(999_999));
        check(&million, &Err(TooLong));
    }

    #[test]
    fn what_is_no_manifest_has_the_wrong_shape() {
        let sound = manifest(&[layer(A, "7")]);
        let cut = |at: usize| sound[..at].to_owned();
        let shapes = [
            String::new(),
            "<!doctype html><html>".to_owned(),
            "null".to_owned(),
            "[2]".to_owned(),
            format!("{sound}x"),
            cut(sound.len() - 1),
            cut(20),
            manifest(&[layer(A, "-1")]),
            manifest(&[layer(A, "18446744073709551616")]),
            manifest(&[layer(A, "7.5")]),
            manifest(&[layer(A, r#""7""#)]),
            manifest(&[format!(r#"["x","{A}",7]"#)]),
            manifest(&["{}".to_owned()]),
            r#"{"layers":[]}"#.to_owned(),
            r#"{"schemaVersion":2,"layers":{}}"#.to_owned(),
            r#"{"schemaVersion":2,"layers":[],"layers":[]}"#.to_owned(),
        ];
        for text in shapes {
            let found = Manifest::read(text.as_bytes());
            assert!(matches!(found, Err(ManifestError::Shape(_))), "{found:?}: {text}");
        }
        let long = format!(r#"{{"schemaVersion":"{}"}}"#, "y".repeat(5_000));
        let Err(ManifestError::Shape(told)) = Manifest::read(long.as_bytes()) else { panic!("a text is no number") };
        assert!(told.len() <= TOLD_CHARS_MAX, "{told}");
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_what_is_read_keeps_the_limits(
            sizes in prop::collection::vec(any::<u64>().prop_map(|size| size >> (size % 64)), 0..5),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let layers: Vec<String> =
                sizes.iter().zip([A, B, C, A, B]).map(|(size, digest)| layer(digest, &size.to_string())).collect();
            let mut bytes = manifest(&layers).into_bytes();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(read) = Manifest::read(&bytes) {
                prop_assert!(read.size_bytes() <= MODEL_BYTES_MAX);
                let blobs = read.blobs();
                prop_assert!(!blobs.is_empty() && blobs.iter().all(|spec| spec.size_bytes <= BLOB_BYTES_MAX));
                let named: BTreeSet<Digest> = read.layers().iter().map(|layer| layer.sha256).collect();
                prop_assert_eq!(named.len(), blobs.len(), "each file once");
                prop_assert_eq!(read.bytes(), &bytes[..]);
            }
        }
    }

    #[test]
    fn ollamas_own_form_is_read_with_what_is_not_known_in_it() {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{{
            "mediaType":"application/vnd.docker.container.image.v1+json","digest":"{B}","size":485}},"layers":[
            {{"mediaType":"application/vnd.ollama.image.license","digest":"{A}","size":9,"from":"/x","name":"y"}},
            {{"mediaType":"application/vnd.ollama.image.model","digest":"{C}","size":100}},
            {{"mediaType":"application/vnd.ollama.image.params","digest":"{A}","size":9}}],"runner":"r"}}"#
        );
        let manifest = Manifest::read(text.as_bytes()).expect("a manifest");
        assert_eq!(manifest.weights(), Some(digest(C)));
        assert_eq!(manifest.config().map(|config| config.size_bytes), Some(485));
        assert_eq!(manifest.layers().len(), 3);
        assert_eq!(manifest.layers()[0].media_type, "application/vnd.ollama.image.license");
        assert_eq!(manifest.size_bytes(), 485 + 9 + 100 + 9);
        let spec = |sha256, size_bytes| BlobSpec { sha256, size_bytes };
        assert_eq!(manifest.blobs(), [spec(digest(A), 9), spec(digest(C), 100), spec(digest(B), 485)]);
    }

    #[test]
    fn a_model_that_has_no_layers_is_one_as_long_as_it_has_a_configuration() {
        let config = |digest: &str, size: u64| {
            let config = format!(r#"{{"mediaType":"","digest":"{digest}","size":{size}}}"#);
            Manifest::read(format!(r#"{{"schemaVersion":2,"config":{config},"layers":null}}"#).as_bytes())
        };
        let elsewhere = config(A, 5).expect("a configuration");
        assert_eq!((elsewhere.size_bytes(), elsewhere.weights(), elsewhere.layers().len()), (5, None, 0));
        assert_eq!(config("", 0).map(|manifest| manifest.digest()), Err(ManifestError::Empty));
    }

    #[test]
    fn the_digest_is_that_of_the_bytes_and_not_of_what_was_read() {
        let text = manifest(&[layer(A, "7")]);
        let spaced = text.replace(',', ", ");
        let read = |text: &str| Manifest::read(text.as_bytes()).expect("a manifest");
        assert_eq!(read(&text).layers(), read(&spaced).layers());
        assert_ne!(read(&text).digest(), read(&spaced).digest());
        assert_eq!(read(&spaced).bytes(), spaced.as_bytes());
        assert_eq!(read(&spaced).digest(), Digest(Sha256::digest(spaced.as_bytes()).into()));
    }
}
