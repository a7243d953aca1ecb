//! A runtime in memory that fetches from a shelf into its folder, and what goes wrong with it.
//!
//! It writes as Ollama does: files first, then the manifest, and no file that is not what its name says.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use ollamax_blobs::{BlobSpec, Manifest, Staging, Store, chunk_hash};
use ollamax_types::chunk::{chunk_count, chunk_range};
use ollamax_types::{Digest, ErrorCode, ModelName};

use crate::ports::{FetchStep, Place, RuntimeTrouble};
use crate::shelf::{Offered, Shelf};

/// What goes wrong with one fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchFault {
    /// It does not run.
    Down,
    /// It refuses.
    Refused,
    /// It says how far it is, again and again the same, and fetches nothing.
    Stuck,
    /// It breaks off behind the first file.
    Cut,
    /// It writes another manifest than it fetched.
    Rewritten,
}

/// What a runtime has to do with shelves.
#[derive(Debug, Default)]
pub(super) struct Fetching {
    pub(super) shelf: Option<Shelf>,
    pub(super) faults: VecDeque<FetchFault>,
    pub(super) asked: Vec<ModelName>,
}

/// A model on a shelf, for as long as this is kept.
pub struct MemOffer {
    offered: Offered,
    digests: Vec<Digest>,
}

type Told = Result<FetchStep, RuntimeTrouble>;

impl fmt::Debug for MemOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemOffer").field("name", self.name()).finish_non_exhaustive()
    }
}

// === impl MemOffer ===

impl MemOffer {
    /// Offers a model of these files, which grow in a folder first.
    ///
    /// # Panics
    /// When the folder does not take them.
    #[must_use]
    pub fn new(shelf: &Shelf, folder: &Path, target: &ModelName, files: &[Vec<u8>]) -> Self {
        let staging = Staging::open(&folder.join("staging"), None).expect("a folder of the test's own");
        let (mut parts, mut layers, mut digests) = (Vec::new(), Vec::new(), Vec::new());
        for bytes in files {
            let (sha256, size_bytes) = (Digest(Sha256::digest(bytes).into()), bytes.len() as u64);
            let part = staging.begin(BlobSpec { sha256, size_bytes }).expect("room for what is in memory already");
            for index in 0..chunk_count(size_bytes) {
                let range = chunk_range(size_bytes, index);
                let place = |at: u64| usize::try_from(at).expect("it is in memory");
                let chunk = &bytes[place(range.start)..place(range.end)];
                part.write(index, chunk, chunk_hash(size_bytes, index, chunk)).expect("its room was set aside");
            }
            layers.push(format!(r#"{{"mediaType":"x","digest":"sha256:{sha256}","size":{size_bytes}}}"#));
            parts.push(part);
            digests.push(sha256);
        }
        let text = format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(","));
        let manifest = Manifest::read(text.as_bytes()).expect("it was written to be read");
        Self { offered: shelf.offer(target, &manifest, &parts).expect("the shelf draws a number"), digests }
    }

    /// The name under which it is fetched.
    #[must_use]
    pub const fn name(&self) -> &ModelName {
        self.offered.name()
    }

    /// Its files, in order.
    #[must_use]
    pub fn digests(&self) -> &[Digest] {
        &self.digests
    }
}

/// Fetches what the name says, and tells all of it.
pub(super) fn fetch(
    place: &Place,
    shelf: Option<Shelf>,
    name: &ModelName,
    fault: Option<FetchFault>,
) -> BoxStream<'static, Told> {
    let went = |what: &str, bytes| Ok(FetchStep::Went { what: what.to_owned(), bytes });
    match fault {
        Some(FetchFault::Down) => stream::iter([Err(down())]).boxed(),
        Some(FetchFault::Refused) => stream::iter([Err(trouble(false, "it refuses"))]).boxed(),
        Some(FetchFault::Stuck) => {
            let again = stream::repeat_with(move || went("pulling", 1)).then(|told| async move {
                sleep(Duration::from_millis(60)).await;
                told
            });
            again.boxed()
        }
        Some(FetchFault::Cut | FetchFault::Rewritten) | None => {
            let mut told = vec![went("pulling manifest", 0)];
            let fetched = take(place, shelf, name, fault, &mut told);
            told.push(fetched.map(|()| FetchStep::Done));
            stream::iter(told).boxed()
        }
    }
}

fn take(
    place: &Place,
    shelf: Option<Shelf>,
    name: &ModelName,
    fault: Option<FetchFault>,
    told: &mut Vec<Told>,
) -> Result<(), RuntimeTrouble> {
    let absent = || trouble(false, "file does not exist");
    let (store, shelf) = (open(place)?, shelf.ok_or_else(absent)?);
    let [_, namespace, model, tag] = name.parts();
    let bytes = shelf.manifest(namespace, model, tag).ok_or_else(absent)?;
    let manifest = Manifest::read(&bytes).map_err(|error| trouble(false, &error.to_string()))?;
    for (number, blob) in manifest.blobs().into_iter().enumerate() {
        if fault == Some(FetchFault::Cut) && number > 0 {
            return Err(trouble(true, "it broke off"));
        }
        if !matches!(store.blob(blob), Ok(Some(_))) {
            let file = shelf.file(namespace, model, blob.sha256).ok_or_else(absent)?;
            let bytes = read(blob, |from| file.read(from, blob.size_bytes))?;
            write(&store.blob_path(blob.sha256), &bytes)?;
        }
        told.push(Ok(FetchStep::Went { what: format!("pulling {}", blob.sha256.short()), bytes: blob.size_bytes }));
    }
    let bytes = if fault == Some(FetchFault::Rewritten) { [&bytes[..], b" "].concat() } else { bytes.to_vec() };
    write(&path_of(&store, name), &bytes)
}

/// All bytes of a file, which are what its name says.
fn read(blob: BlobSpec, piece: impl Fn(u64) -> Result<Bytes, String>) -> Result<Vec<u8>, RuntimeTrouble> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < blob.size_bytes {
        bytes.extend_from_slice(&piece(bytes.len() as u64).map_err(|error| trouble(true, &error))?);
    }
    if Digest(Sha256::digest(&bytes).into()) == blob.sha256 {
        Ok(bytes)
    } else {
        Err(trouble(false, "digest mismatch"))
    }
}

/// The version that lies under a name.
pub(super) fn holds(place: &Place, name: &ModelName) -> Result<Option<Digest>, RuntimeTrouble> {
    let stored = open(place)?.manifest(name).map_err(|error| trouble(true, &error.to_string()))?;
    Ok(stored.map(|(_, manifest)| manifest.digest()))
}

/// Gives a manifest a second name.
pub(super) fn copy(place: &Place, from: &ModelName, to: &ModelName) -> Result<(), RuntimeTrouble> {
    let store = open(place)?;
    let bytes = fs::read(path_of(&store, from)).map_err(|error| trouble(false, &error.to_string()))?;
    write(&path_of(&store, to), &bytes)
}

/// Takes a manifest away, if it is there.
pub(super) fn delete(place: &Place, name: &ModelName) -> Result<(), RuntimeTrouble> {
    drop(fs::remove_file(path_of(&open(place)?, name)));
    Ok(())
}

/// It does not run.
pub(super) fn down() -> RuntimeTrouble {
    RuntimeTrouble { is_down: true, ..trouble(true, "it does not run") }
}

/// It runs, and does not answer in time.
pub(super) fn mute() -> RuntimeTrouble {
    trouble(true, "it does not answer")
}

fn open(place: &Place) -> Result<Store, RuntimeTrouble> {
    match place {
        Place::Store(root) => Store::open(root).map_err(|fault| trouble(true, &fault.to_string())),
        Place::None(why) => Err(trouble(true, why)),
    }
}

fn path_of(store: &Store, name: &ModelName) -> PathBuf {
    name.parts().iter().fold(store.root().join("manifests"), |path, part| path.join(part))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), RuntimeTrouble> {
    let folder = path.parent().unwrap_or(path);
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(path, bytes));
    written.map_err(|error| trouble(false, &error.to_string()))
}

fn trouble(may_pass: bool, text: &str) -> RuntimeTrouble {
    RuntimeTrouble { may_pass, is_down: false, code: ErrorCode::RuntimeFailed, text: text.to_owned() }
}
