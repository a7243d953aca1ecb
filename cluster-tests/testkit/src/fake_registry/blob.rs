//! Models of a fake registry: files that are made while they are read, so that large ones need neither disk nor memory.

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use ollamax_types::Digest;

/// A page of a made file: a mark that says which one it is, and bytes that all pages share.
const PAGE_BYTES: usize = 4 << 10;
/// Bytes that are made at once for a digest.
const READ_BYTES: usize = 1 << 20;

/// A file that is made of a number: equal numbers and lengths are equal files, and no page is like another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// The number.
    pub seed: u64,
    /// Its length.
    pub size_bytes: u64,
}

/// A model as it is pushed.
#[derive(Debug, Clone)]
pub struct FakeModel {
    /// The weights.
    pub weights: Blob,
    /// Small files by their media type.
    pub small: Vec<(String, Bytes)>,
    /// The file that tells what model it is.
    pub config: Value,
}

/// A file of the registry.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// Made while it is read.
    Made(Blob),
    /// Kept as it is.
    Kept(Bytes),
}

// === impl Blob ===

impl Blob {
    /// Fills `into` with its bytes from `from` on. It ends where the caller says: behind its length it goes on.
    pub fn read(&self, from: u64, into: &mut [u8]) {
        let page = self.page();
        let (mut at, mut rest) = (from, into);
        while !rest.is_empty() {
            let number = at / PAGE_BYTES as u64;
            let offset = usize::try_from(at % PAGE_BYTES as u64).expect("less than a page");
            let length = rest.len().min(PAGE_BYTES - offset);
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(length);
            piece.copy_from_slice(&page[offset..offset + length]);
            let mark = mix(self.seed ^ mix(number)).to_le_bytes();
            piece.iter_mut().zip(mark.iter().skip(offset)).for_each(|(byte, marked)| *byte = *marked);
            (at, rest) = (at + length as u64, after);
        }
    }

    /// Its SHA-256. Makes the whole file once.
    #[must_use]
    pub fn sha256(&self) -> Digest {
        let (mut hasher, mut buffer, mut at) = (Sha256::new(), vec![0; READ_BYTES], 0);
        while at < self.size_bytes {
            let length = usize::try_from(self.size_bytes - at).map_or(READ_BYTES, |left| left.min(READ_BYTES));
            self.read(at, &mut buffer[..length]);
            hasher.update(&buffer[..length]);
            at += length as u64;
        }
        Digest(hasher.finalize().into())
    }

    /// What its pages share.
    fn page(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES];
        for (number, word) in (0..).zip(page.chunks_exact_mut(8)) {
            word.copy_from_slice(&mix(self.seed.wrapping_add(number)).to_le_bytes());
        }
        page
    }
}

// === impl FakeModel ===

impl FakeModel {
    /// A small language model with weights of this length; another seed makes another model.
    #[must_use]
    pub fn of(seed: u64, weights_bytes: u64) -> Self {
        let small = [
            ("application/vnd.ollama.image.template", "{{ .Prompt }}"),
            ("application/vnd.ollama.image.params", r#"{"stop":["<end>"]}"#),
        ];
        let config = json!({
            "model_format": "gguf",
            "model_family": "llama",
            "model_families": ["llama"],
            "model_type": "1M",
            "file_type": "F16",
            "architecture": "amd64",
            "os": "linux",
        });
        Self {
            weights: Blob { seed, size_bytes: weights_bytes },
            small: small.map(|(kind, text)| (kind.to_owned(), Bytes::from_static(text.as_bytes()))).into(),
            config,
        }
    }

    /// Its manifest, in the form of Ollama's registry. Makes the weights once.
    #[must_use]
    pub fn manifest(&self) -> Bytes {
        self.parts().0
    }

    /// The manifest, and the files that it names.
    pub(super) fn parts(&self) -> (Bytes, Vec<(Digest, Content)>) {
        let mut files = vec![(self.weights.sha256(), Content::Made(self.weights.clone()))];
        let kept = self.small.iter().map(|(_, bytes)| bytes.clone()).chain([self.config.to_string().into()]);
        files.extend(kept.map(|bytes| (sha256_of(&bytes), Content::Kept(bytes))));
        let small = self.small.iter().map(|(kind, _)| kind.as_str());
        let kinds = ["application/vnd.ollama.image.model"].into_iter().chain(small);
        let kinds = kinds.chain(["application/vnd.docker.container.image.v1+json"]);
        let mut layers: Vec<Value> = kinds
            .zip(&files)
            .map(|(kind, (sha256, content))| {
                json!({ "mediaType": kind, "digest": format!("sha256:{sha256}"), "size": content.size_bytes() })
            })
            .collect();
        let config = layers.pop();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": config,
            "layers": layers,
        });
        (manifest.to_string().into(), files)
    }
}

// === impl Content ===

impl Content {
    pub(super) fn size_bytes(&self) -> u64 {
        match self {
            Self::Made(blob) => blob.size_bytes,
            Self::Kept(bytes) => bytes.len() as u64,
        }
    }

    /// A piece of it; the caller keeps within its length.
    pub(super) fn piece(&self, from: u64, length: u64) -> Vec<u8> {
        let length = usize::try_from(length).expect("a piece fits into memory");
        match self {
            Self::Made(blob) => {
                let mut bytes = vec![0; length];
                blob.read(from, &mut bytes);
                bytes
            }
            Self::Kept(bytes) => {
                let from = usize::try_from(from).expect("within what is in memory");
                bytes[from..from + length].to_vec()
            }
        }
    }
}

pub(super) fn sha256_of(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// A number that looks like chance and is none (the last steps of SplitMix64).
pub(super) const fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(blob: &Blob) -> Vec<u8> {
        Content::Made(blob.clone()).piece(0, blob.size_bytes)
    }

    #[test]
    fn a_file_is_the_same_however_it_is_read() {
        let blob = Blob { seed: 7, size_bytes: 3 * PAGE_BYTES as u64 + 5 };
        let bytes = whole(&blob);
        for (from, length) in [(0, 1), (3, 9), (7, 1), (8, 4_088), (4_090, 20), (8_192, 4_101), (12_292, 1)] {
            let piece = Content::Made(blob.clone()).piece(from as u64, length as u64);
            assert_eq!(piece, bytes[from..from + length], "{from} {length}");
        }
        assert_eq!(blob.sha256(), sha256_of(&bytes));
    }

    #[test]
    fn no_page_is_like_another_and_no_file_like_one_of_another_number() {
        let bytes = whole(&Blob { seed: 7, size_bytes: 2 * PAGE_BYTES as u64 });
        assert_ne!(bytes[..PAGE_BYTES], bytes[PAGE_BYTES..]);
        assert_ne!(whole(&Blob { seed: 8, size_bytes: PAGE_BYTES as u64 }), bytes[..PAGE_BYTES]);
    }

    #[test]
    fn a_manifest_names_every_file_with_its_length() {
        let (bytes, files) = FakeModel::of(1, 5_000).parts();
        let manifest: Value = serde_json::from_slice(&bytes).expect("JSON");
        let layers = manifest["layers"].as_array().expect("a list").iter().chain([&manifest["config"]]);
        let named: Vec<(Value, Value)> = layers.map(|layer| (layer["digest"].clone(), layer["size"].clone())).collect();
        let there: Vec<(Value, Value)> = files
            .iter()
            .map(|(sha256, content)| (json!(format!("sha256:{sha256}")), json!(content.size_bytes())))
            .collect();
        assert_eq!((named.len(), named), (4, there));
        assert_eq!(bytes, FakeModel::of(1, 5_000).manifest(), "the same every time");
        assert_ne!(bytes, FakeModel::of(2, 5_000).manifest());
    }
}
