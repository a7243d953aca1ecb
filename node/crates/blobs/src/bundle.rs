//! A model in one file: what it consists of, in which order, and how it is read with suspicion.
//!
//! A bundle is a plain file of tar (ustar). Unpacked into the store of a runtime it is the model, and
//! `sha256sum -c ollamamax/SHA256SUMS` proves it there without a program of ours:
//!
//! ```text
//! ollamamax/bundle.json                        which model, which files: name, size, SHA-256, BLAKE3
//! ollamamax/SHA256SUMS                         of all of this but the trees and itself
//! ollamamax/manifest.json                      the manifest, byte for byte
//! ollamamax/trees/sha256-<hex>                 the hashes of the pieces of the file behind it, where it has several
//! blobs/sha256-<hex>                           a file of the model; the smallest comes first
//! manifests/<host>/<namespace>/<model>/<tag>   the manifest again, behind all files: nobody sees the model before
//! ```
//!
//! No owner, time or node is in it: the same model is the same bundle, byte for byte. Read are the three small files
//! first; behind them trees and files in any order, each once, and everything else is passed over. Names are compared
//! with the few that are expected and never used as a path. What a bundle says of itself is not believed: each piece
//! is compared with its tree, each tree with the file's BLAKE3, each file with its SHA-256, the files with the
//! manifest, and the manifest with its digest. Whoever made the bundle may still have made another model of that name:
//! its digest says which model it is.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use ollamax_types::chunk::chunk_count;
use ollamax_types::{Digest, ModelName, Root};

use crate::fault::Fault;
use crate::manifest::{BlobSpec, Manifest};
use crate::tree::ChunkHash;

mod reading;
mod tar;
mod writing;

pub use self::reading::Reader as BundleReader;
pub use self::writing::Writer as BundleWriter;

/// Version of the form.
pub const BUNDLE_VERSION: u32 = 1;

/// Under it lies what the runtime does not look at.
const OWN: &str = "ollamamax/";
const PAGE: &str = "ollamamax/bundle.json";
const SUMS: &str = "ollamamax/SHA256SUMS";
const MANIFEST: &str = "ollamamax/manifest.json";
/// Before the digest of the file that a tree is of.
const TREES: &str = "ollamamax/trees/sha256-";
/// Before the digest of a file.
const BLOBS: &str = "blobs/sha256-";
/// Largest `bundle.json` and `SHA256SUMS` that are read; those of a manifest with the most layers are smaller.
const PAGE_BYTES_MAX: u64 = 2 << 20;
/// As much of what a bundle says as an error repeats, characters.
const TOLD_CHARS_MAX: usize = 300;

/// What a bundle holds: a model, and the BLAKE3 of each of its files.
#[derive(Debug, Clone)]
pub struct Contents {
    name: ModelName,
    manifest: Manifest,
    files: BTreeMap<Digest, Listed>,
}

/// What is on the list of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listed {
    size_bytes: u64,
    root: Root,
}

/// Why a bundle is not written or not read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is another kind of file.
    #[error("this is no bundle: {0}")]
    NotABundle(&'static str),
    /// A later release wrote it.
    #[error("the bundle is of version {found}; this release reads {BUNDLE_VERSION}")]
    Version {
        /// What it says of itself.
        found: u32,
    },
    /// Something is missing at its end.
    #[error("the bundle ends too early: at byte {at}, in {entry}")]
    Cut {
        /// In which entry.
        entry: String,
        /// How long it is.
        at: u64,
    },
    /// What stands between the files is not as it was written.
    #[error("the bundle is damaged at byte {at}: {problem}")]
    Torn {
        /// Where the entry begins.
        at: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A piece of a file is not as it was written.
    #[error("piece {index} of {sha256} is damaged")]
    Damaged {
        /// Which file.
        sha256: Digest,
        /// Which piece.
        index: u32,
    },
    /// A file is another one.
    #[error("{wanted} is not what its name says: its bytes make {found}")]
    Digest {
        /// What it should be.
        wanted: Digest,
        /// What it is.
        found: Digest,
    },
    /// Its parts do not belong together.
    #[error("the bundle says of itself what cannot be: {0}")]
    Contradiction(String),
    /// A file of the model did not come.
    #[error("{0} is missing in the bundle")]
    Missing(Digest),
    /// Whoever hands out the bundle does not.
    #[error("read the bundle: {0}")]
    Read(io::Error),
    /// Whoever takes the bundle does not.
    #[error("write the bundle: {0}")]
    Write(io::Error),
    /// A file of the model cannot be read.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// `bundle.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    version: u32,
    /// The full name, as it was spelled.
    name: String,
    /// `sha256:` and the digest of the manifest.
    manifest: String,
    /// The files, in the manifest's order.
    files: Vec<PageFile>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PageFile {
    sha256: String,
    size_bytes: u64,
    blake3: String,
}

/// What every version of `bundle.json` says.
#[derive(Debug, Deserialize)]
struct Versioned {
    version: u32,
}

// === impl Contents ===

impl Contents {
    /// A model, and the BLAKE3 of each of its files.
    ///
    /// # Errors
    /// When a file has none, or when one is there of what is no file of the model.
    pub fn new(name: ModelName, manifest: Manifest, roots: &BTreeMap<Digest, Root>) -> Result<Self, BundleError> {
        let mut files = BTreeMap::new();
        for BlobSpec { sha256, size_bytes } in manifest.blobs() {
            let Some(root) = roots.get(&sha256).copied() else {
                return Err(BundleError::Contradiction(format!("its list is without {sha256}")));
            };
            files.insert(sha256, Listed { size_bytes, root });
        }
        if let Some(stray) = roots.keys().find(|sha256| !files.contains_key(sha256)) {
            return Err(BundleError::Contradiction(format!("its list has {stray}, which is no file of the model")));
        }
        Ok(Self { name, manifest, files })
    }

    /// Which model it is.
    #[must_use]
    pub const fn name(&self) -> &ModelName {
        &self.name
    }

    /// Which version of it.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The BLAKE3 of a file of it.
    #[must_use]
    pub fn root(&self, sha256: Digest) -> Option<Root> {
        self.files.get(&sha256).map(|listed| listed.root)
    }

    /// Its files in the order in which they are written, the smallest first.
    #[must_use]
    pub fn files(&self) -> Vec<BlobSpec> {
        let specs = self.files.iter().map(|(sha256, listed)| listed.spec(*sha256));
        let mut files: Vec<BlobSpec> = specs.collect();
        files.sort_unstable_by_key(|spec| (spec.size_bytes, spec.sha256));
        files
    }

    /// The length of its bundle.
    #[must_use]
    pub fn bundle_bytes(&self) -> u64 {
        let page = self.page();
        let manifest_bytes = self.manifest.bytes().len() as u64;
        let small = [page.len() as u64, self.sums(&page).len() as u64, manifest_bytes].map(entry_bytes);
        let files = self.files.values().map(|Listed { size_bytes, .. }| {
            tree_bytes(*size_bytes).map_or(0, entry_bytes).saturating_add(entry_bytes(*size_bytes))
        });
        let last = self.manifest_path().map(|_| entry_bytes(manifest_bytes));
        let end = 2 * tar::BLOCK_BYTES as u64;
        small.into_iter().chain(files).chain(last).fold(end, u64::saturating_add)
    }

    /// Reads the three small files at the front.
    fn read(page: &[u8], sums: &[u8], manifest: &[u8]) -> Result<Self, BundleError> {
        let refused = |text: String| BundleError::Contradiction(shown(&text));
        let told: Page = serde_json::from_slice(page).map_err(|error| refused(format!("{PAGE}: {error}")))?;
        let manifest = Manifest::read(manifest).map_err(|error| refused(error.to_string()))?;
        if told.manifest != format!("sha256:{}", manifest.digest()) {
            return Err(refused(format!("its manifest is {}, and it promises {:?}", manifest.digest(), told.manifest)));
        }
        let name: ModelName =
            told.name.parse().map_err(|_| refused(format!("{:?} is no name of a model", told.name)))?;
        let mut roots = BTreeMap::new();
        let mut listed = Vec::new();
        for PageFile { sha256, size_bytes, blake3 } in &told.files {
            let sha256 = plain_digest(sha256).ok_or_else(|| refused(format!("{sha256:?} is no digest")))?;
            let root: Root = blake3.parse().map_err(|_| refused(format!("{blake3:?} is no BLAKE3")))?;
            roots.insert(sha256, root);
            listed.push(BlobSpec { sha256, size_bytes: *size_bytes });
        }
        if listed != manifest.blobs() {
            return Err(refused("its list of files is not that of its manifest".to_owned()));
        }
        let contents = Self::new(name, manifest, &roots)?;
        if sums != contents.sums(page).as_bytes() {
            return Err(refused(format!("{SUMS} is not of these files")));
        }
        Ok(contents)
    }

    fn page(&self) -> Vec<u8> {
        let file = |BlobSpec { sha256, size_bytes }: BlobSpec| {
            let blake3 = self.root(sha256).map(|root| root.to_string()).unwrap_or_default();
            PageFile { sha256: sha256.to_string(), size_bytes, blake3 }
        };
        let [host, namespace, model, tag] = self.name.parts();
        let page = Page {
            version: BUNDLE_VERSION,
            name: format!("{host}/{namespace}/{model}:{tag}"),
            manifest: format!("sha256:{}", self.manifest.digest()),
            files: self.manifest.blobs().into_iter().map(file).collect(),
        };
        serde_json::to_vec(&page).expect("text and numbers can be written")
    }

    /// `SHA256SUMS`, as `sha256sum -c` reads it in the folder into which the bundle was unpacked.
    fn sums(&self, page: &[u8]) -> String {
        let manifest = self.manifest.digest();
        let mut lines = vec![(Digest(Sha256::digest(page).into()), PAGE.to_owned()), (manifest, MANIFEST.to_owned())];
        let files = self.manifest.blobs().into_iter();
        lines.extend(files.map(|BlobSpec { sha256, .. }| (sha256, format!("{BLOBS}{sha256}"))));
        lines.extend(self.manifest_path().map(|path| (manifest, path)));
        lines.into_iter().map(|(sha256, path)| format!("{sha256}  {path}\n")).collect()
    }

    /// Where the runtime looks for the manifest; `None` where tar has no room for such a name.
    fn manifest_path(&self) -> Option<String> {
        let path = format!("manifests/{}", self.name.parts().join("/"));
        tar::head(&path, 0).map(|_| path)
    }
}

// === impl Listed ===

impl Listed {
    const fn spec(self, sha256: Digest) -> BlobSpec {
        BlobSpec { sha256, size_bytes: self.size_bytes }
    }
}

// === impl BundleError ===

impl BundleError {
    /// Whether the bundle was a sound one once, or was made wrongly: another copy of it may do.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        match self {
            Self::Cut { .. }
            | Self::Torn { .. }
            | Self::Damaged { .. }
            | Self::Digest { .. }
            | Self::Contradiction(_)
            | Self::Missing(_) => true,
            Self::NotABundle(_) | Self::Version { .. } | Self::Read(_) | Self::Write(_) | Self::Fault(_) => false,
        }
    }
}

/// An entry of so many bytes, with its head and what fills it up.
const fn entry_bytes(size_bytes: u64) -> u64 {
    size_bytes.saturating_add(tar::BLOCK_BYTES as u64).saturating_add(tar::padding(size_bytes))
}

/// The length of the tree that is written before a file of this size, if one is: a file of one piece proves itself.
fn tree_bytes(size_bytes: u64) -> Option<u64> {
    let chunks = u64::from(chunk_count(size_bytes));
    (chunks > 1).then_some(chunks * size_of::<ChunkHash>() as u64)
}

/// What a bundle says, for people: no more than they read, and nothing that a terminal obeys.
fn shown(text: &str) -> String {
    text.chars().take(TOLD_CHARS_MAX).map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// 64 lower-case hex digits.
fn plain_digest(digits: &str) -> Option<Digest> {
    let is_plain = digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;
