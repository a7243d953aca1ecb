//! A model on its way out of this node's store.
//!
//! Everything is looked up before the first byte leaves: the manifest, all files, and their hash trees; a file that
//! nobody has hashed yet is hashed first. The largest files are held open meanwhile, so that a model that is removed
//! still leaves whole. One thread reads, compares and hands out; it waits for whoever takes the bytes, and ends when
//! nobody does, or with the node. A file that is found damaged becomes suspect.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_blobs::{
    BlobFile, BlobSpec, BundleError, BundleWriter, Contents, Fault, FileIdentity, Hashing, Indexed, Manifest, Progress,
    ReadError, Store, Tree,
};
use ollamax_types::{Digest, ErrorCode, ModelName};

use crate::adopt::Trees;
use crate::adopt::trees::Doubted;
use crate::error::PullError;
use crate::pull::{Means, blocking};

use super::{Leaving, PIECE_BYTES, PIECES_WAITING_MAX, place};

/// Most files that are held open; the others are small, and opened when it is their turn.
const OPEN_MAX: usize = 256;

/// What is handed out piece by piece.
type Piece = Result<Bytes, PullError>;

/// A file that leaves.
struct Source {
    spec: BlobSpec,
    tree: Tree,
    identity: FileIdentity,
    /// It is among the largest.
    open: Option<fs::File>,
}

/// All that the thread needs.
struct Work {
    contents: Contents,
    sources: Vec<Source>,
    store: Store,
    trees: Trees,
    _place: OwnedSemaphorePermit,
}

/// Where the bytes go.
struct Sink {
    to: mpsc::Sender<Piece>,
    stop: CancellationToken,
    runtime: runtime::Handle,
    piece: Vec<u8>,
}

/// Looks up all of a model and begins to hand it out; where a version is wanted, that one alone.
pub(crate) async fn leave(
    means: &Arc<Means>,
    (name, wanted): (&ModelName, Option<Digest>),
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Leaving, PullError> {
    let held = place(&means.bundles)?;
    let (store, name, manifest) = find(means, name).await?;
    if let Some(wanted) = wanted.filter(|wanted| *wanted != manifest.digest()) {
        let text =
            format!("version {} of {name} is on this node, and not {}", manifest.digest().short(), wanted.short());
        return Err(PullError::Bundle { code: ErrorCode::DigestConflict, text });
    }
    let (mut sources, mut roots) = (Vec::new(), BTreeMap::new());
    let kept_open = largest(&manifest);
    for spec in manifest.blobs() {
        let (tree, file) = proved(&means.trees, &store, spec).await?;
        roots.insert(spec.sha256, tree.root());
        let open = kept_open.contains(&spec).then_some(file.file);
        sources.push(Source { spec, tree, identity: file.identity, open });
    }
    let digest = manifest.digest();
    let contents = Contents::new(name.clone(), manifest, &roots).map_err(|error| PullError::of_bundle(&error))?;
    sources.sort_unstable_by_key(|source| (source.spec.size_bytes, source.spec.sha256));
    let length_bytes = contents.bundle_bytes();
    let (to, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let sink = Sink { to, stop: stop.clone(), runtime: runtime::Handle::current(), piece: Vec::new() };
    tracing::info!(model = %name, %digest, bytes = length_bytes, "a model leaves in a bundle");
    // It ends when nobody takes the bytes and with the node; what it could not do is told behind the bytes.
    let work = Work { contents, sources, store, trees: means.trees.clone(), _place: held };
    tasks.spawn_blocking(move || work.run(sink));
    let bytes = stream::unfold(pieces, |mut pieces| async move { Some((pieces.recv().await?, pieces)) });
    Ok(Leaving { name, digest, length_bytes, bytes: bytes.boxed() })
}

/// The store beside this node, and the model in it as it is spelled there.
async fn find(means: &Arc<Means>, name: &ModelName) -> Result<(Store, ModelName, Manifest), PullError> {
    let (runtime, wanted) = (Arc::clone(&means.runtime), name.clone());
    let found = blocking(move || {
        let store = runtime.place().store().map_err(PullError::NoStore)?;
        let stored = store.manifest(&wanted).map_err(|error| match error {
            ReadError::Fault(fault) => PullError::of_fault(&store.root().display().to_string(), &fault),
            ReadError::Manifest { problem, .. } => PullError::BadManifest(problem),
        })?;
        let Some((path, manifest)) = stored else {
            let text = format!("{wanted} is not on this node");
            return Err(PullError::Bundle { code: ErrorCode::ModelNotFound, text });
        };
        let name = spelled(&path).unwrap_or(wanted);
        Ok((store, name, manifest))
    });
    found.await?
}

/// The name whose manifest lies there.
fn spelled(path: &Path) -> Option<ModelName> {
    let mut parts = path.iter().rev().map(|part| part.to_str());
    let [tag, model, namespace, host] = [parts.next()??, parts.next()??, parts.next()??, parts.next()??];
    format!("{host}/{namespace}/{model}:{tag}").parse().ok()
}

/// The files that are held open.
fn largest(manifest: &Manifest) -> BTreeSet<BlobSpec> {
    let mut blobs = manifest.blobs();
    blobs.sort_unstable_by_key(|blob| blob.size_bytes);
    blobs.into_iter().rev().take(OPEN_MAX).collect()
}

/// A file and its hash tree, made now where there is none of this very file.
async fn proved(trees: &Trees, store: &Store, spec: BlobSpec) -> Result<(Tree, BlobFile), PullError> {
    let (known, asked) = (trees.clone(), store.clone());
    let found = blocking(move || -> Result<Option<(BlobFile, Option<Tree>)>, Fault> {
        let Some(file) = asked.blob(spec)? else { return Ok(None) };
        let indexed = known.open()?.get(spec.sha256)?.filter(|indexed| indexed.identity == file.identity);
        let is_doubted = known.is_doubted(spec.sha256, file.identity);
        let tree = indexed.filter(|_| !is_doubted).map(|indexed| indexed.tree);
        Ok(Some((file, tree)))
    });
    let found = found.await?.map_err(|fault| PullError::of_fault(&store.root().display().to_string(), &fault))?;
    match found {
        Some((file, Some(tree))) => Ok((tree, file)),
        Some((file, None)) => hashed(trees, spec, file).await,
        None => Err(gone(spec)),
    }
}

/// Hashes a file, chunk by chunk, so that it can be left at any of them.
async fn hashed(trees: &Trees, spec: BlobSpec, file: BlobFile) -> Result<(Tree, BlobFile), PullError> {
    let of_disk = move |error: io::Error| PullError::Disk(format!("read sha256-{}: {error}", spec.sha256));
    let mut hashing = Hashing::new(file.file.try_clone().map_err(of_disk)?, spec.size_bytes);
    let hashed = loop {
        let stepped = blocking(move || {
            let step = hashing.step();
            (hashing, step)
        });
        let (back, step) = stepped.await?;
        hashing = back;
        match step.map_err(|fault| PullError::Disk(fault.to_string()))? {
            Progress::More { .. } => {}
            Progress::Done(hashed) => break hashed,
        }
    };
    let trees = trees.clone();
    blocking(move || {
        if hashed.sha256 != spec.sha256 {
            let error = BundleError::Digest { wanted: spec.sha256, found: hashed.sha256 };
            let what = error.to_string();
            trees.doubt(spec.sha256, Doubted { identity: file.identity, tree: None, what });
            return Err(PullError::of_bundle(&error));
        }
        let found = file.file.metadata().map_err(of_disk)?;
        let indexed = Indexed { identity: file.identity, tree: hashed.tree.clone() };
        if FileIdentity::of(&found) == file.identity
            && let Err(error) = trees.open().and_then(|index| index.put(spec.sha256, &indexed))
        {
            tracing::warn!(%error, sha256 = %spec.sha256, "keep the hash tree of a file");
        }
        Ok((hashed.tree, file))
    })
    .await?
}

fn gone(spec: BlobSpec) -> PullError {
    let text = format!("sha256-{} of this model is not in the store any more", spec.sha256);
    PullError::Bundle { code: ErrorCode::StorageCorrupt, text }
}

// === impl Work ===

impl Work {
    /// Writes all of it, and says behind it what went wrong. Blocks on the disk and on whoever takes the bytes.
    fn run(self, mut sink: Sink) {
        let written = self.write(&mut sink);
        let error = match written {
            // Nobody takes the bytes any more, or the node ends.
            Ok(()) | Err(BundleError::Write(_)) => return,
            Err(error) => error,
        };
        if let BundleError::Damaged { sha256, .. } = &error
            && let Some(source) = self.sources.iter().find(|source| source.spec.sha256 == *sha256)
        {
            let (identity, tree, what) = (source.identity, Some(source.tree.clone()), error.to_string());
            self.trees.doubt(*sha256, Doubted { identity, tree, what });
        }
        let model = self.contents.name();
        tracing::warn!(%model, %error, "a model does not leave whole");
        sink.send(Err(PullError::of_bundle(&error)));
    }

    fn write(&self, sink: &mut Sink) -> Result<(), BundleError> {
        let mut writer = BundleWriter::begin(sink, &self.contents)?;
        for source in &self.sources {
            match &source.open {
                Some(file) => writer.file(source.spec, &source.tree, file)?,
                None => writer.file(source.spec, &source.tree, &self.open(source)?)?,
            }
        }
        writer.finish().map(drop)
    }

    /// The very file whose tree is at hand.
    fn open(&self, source: &Source) -> Result<fs::File, BundleError> {
        let found = self.store.blob(source.spec)?.filter(|file| file.identity == source.identity);
        found.map(|file| file.file).ok_or_else(|| {
            let path = self.store.blob_path(source.spec.sha256);
            Fault::at("read the file", &path)(ErrorKind::NotFound.into()).into()
        })
    }
}

// === impl Sink ===

impl Sink {
    /// False when nobody takes it any more.
    fn send(&self, piece: Piece) -> bool {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => false,
                sent = self.to.send(piece) => sent.is_ok(),
            }
        })
    }
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.reserve_exact(PIECE_BYTES - self.piece.len());
        let taken = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        if self.send(Ok(piece.into())) { Ok(()) } else { Err(ErrorKind::BrokenPipe.into()) }
    }
}
