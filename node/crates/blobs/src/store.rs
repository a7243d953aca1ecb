//! A runtime's own folder of models, in Ollama's layout: who owns it, what it holds, what may be done to it.
//!
//! ```text
//! blobs/sha256-<hex>                           a file of some model, named by its SHA-256
//! manifests/<host>/<namespace>/<model>/<tag>   which files make a model
//! ```
//!
//! The folder belongs to the runtime: other programs write, replace and delete here at any time, and a runtime writes
//! its manifests in place. So whatever was read may be gone or another file a moment later; who keeps something of a
//! file keeps its [`FileIdentity`] beside it. `blobs` may be a link to another disk; its real place counts. Nothing
//! that is no plain file is ever opened.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, eaccess};

use ollamax_types::limits::MANIFEST_BYTES_MAX;
use ollamax_types::{Digest, ModelName, chunk_range};

use crate::fault::Fault;
use crate::manifest::{Manifest, ManifestError};
use crate::scrubbing::is_damage;

pub mod access;
pub mod publish;
pub mod remove;
pub mod replace;
pub mod scan;

pub use crate::manifest::BlobSpec;

use access::Access;
use scan::{Scan, Scanned};

/// A folder of models. Cheap to clone; holds nothing open.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    blobs: PathBuf,
}

/// Whose files those of a store are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A blob that is there, opened to be read.
#[derive(Debug)]
pub struct BlobFile {
    /// The file.
    pub file: fs::File,
    /// Its size, which is the one that was asked for.
    pub size_bytes: u64,
    /// Which file it is.
    pub identity: FileIdentity,
}

/// Tells a file from others, and from itself after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    /// Device.
    pub dev: u64,
    /// Number on that device.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of its bytes, nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Last change of anything, nanoseconds since 1970.
    pub ctime_ns: i128,
}

/// Why a manifest of a store is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk refused.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The file is no manifest.
    #[error("{path}: {problem}")]
    Manifest {
        /// Which file.
        path: String,
        /// What is wrong with it.
        problem: ManifestError,
    },
}

// === impl Store ===

impl Store {
    /// Takes a folder as a store; makes nothing. A store in which no model was ever put has no folders yet.
    ///
    /// # Errors
    /// When there is no such folder, or none that this process may look for.
    pub fn open(root: &Path) -> Result<Self, Fault> {
        const ACTION: &str = "open the model store";
        let real = fs::canonicalize(root).map_err(Fault::at(ACTION, root))?;
        if !fs::metadata(&real).map_err(Fault::at(ACTION, root))?.is_dir() {
            return Err(Fault::at(ACTION, root)(ErrorKind::NotADirectory.into()));
        }
        let blobs = real.join("blobs");
        // Where the real place cannot be found out, `access` tells why.
        let blobs = fs::canonicalize(&blobs).unwrap_or(blobs);
        Ok(Self { root: real, blobs })
    }

    /// The folder, without links in its path.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a blob lies or would lie.
    #[must_use]
    pub fn blob_path(&self, sha256: Digest) -> PathBuf {
        self.blobs.join(format!("sha256-{sha256}"))
    }

    /// Opens a blob. `None` when it is absent, no plain file, or of another size.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn blob(&self, spec: BlobSpec) -> Result<Option<BlobFile>, Fault> {
        open_blob("open the blob", &self.blob_path(spec.sha256), spec)
    }

    /// The manifest of a model and where it lies, however the store spells its name.
    ///
    /// # Errors
    /// When the disk refuses, or when the file is no manifest, which one that is being written is not either.
    pub fn manifest(&self, name: &ModelName) -> Result<Option<(PathBuf, Manifest)>, ReadError> {
        let Some(path) = self.stored_manifest(name)? else { return Ok(None) };
        Ok(read_manifest(&path)?.map(|(manifest, _)| (path, manifest)))
    }

    /// The manifest with this digest, by the name of one of these models that had it when they were listed.
    #[must_use]
    pub fn manifest_among(&self, models: &[Scanned], digest: Digest) -> Option<Manifest> {
        let name = &models.iter().find(|scanned| scanned.model.digest == digest)?.model.name;
        let (_, manifest) = self.manifest(name).ok().flatten()?;
        (manifest.digest() == digest).then_some(manifest)
    }

    /// Lists what is there by its files alone.
    ///
    /// # Errors
    /// When the folder of manifests cannot be read; what is wrong with one model is told in the list.
    pub fn scan(&self) -> Result<Scan, Fault> {
        scan::scan(self)
    }

    /// Whether this process can publish here. Asked anew each time: rights change without our doing.
    #[must_use]
    pub fn access(&self) -> Access {
        access::judge(&access::look(self))
    }

    /// The folder into which a manifest of this name would go, if it is there and this process may not change it. A
    /// runtime makes folders of its own in a store whose folders were opened before.
    #[must_use]
    pub fn closed_folder(&self, name: &ModelName) -> Option<PathBuf> {
        let stored = self.stored_manifest(name).ok().flatten();
        let folder = match stored.as_deref().and_then(Path::parent) {
            Some(folder) => folder.to_owned(),
            None => self.folder_above(name),
        };
        let is_closed = folder.is_dir() && eaccess(&folder, AccessFlags::W_OK | AccessFlags::X_OK).is_err();
        is_closed.then_some(folder)
    }

    /// The deepest folder that is there on the way to a manifest, however the store spells it.
    fn folder_above(&self, name: &ModelName) -> PathBuf {
        let mut place = self.manifests();
        let [host, namespace, model, _] = name.parts();
        for part in [host, namespace, model] {
            let exact = place.join(part);
            let deeper = if exact.is_dir() {
                Some(exact)
            } else {
                entries_like(&place, part).unwrap_or_default().into_iter().find(|path| path.is_dir())
            };
            let Some(deeper) = deeper else { break };
            place = deeper;
        }
        place
    }

    /// Where files grow that belong into this store: beside the real folder of blobs, hence on its disk.
    #[must_use]
    pub fn staging_place(&self) -> PathBuf {
        self.blobs.parent().unwrap_or(&self.root).join(".ollamax")
    }

    /// The real folder of the blobs.
    pub(crate) fn blobs_folder(&self) -> &Path {
        &self.blobs
    }

    /// The folder of the manifests.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    /// The file of a model's manifest: as the name is spelled, else the first of those that differ in case alone.
    fn stored_manifest(&self, name: &ModelName) -> Result<Option<PathBuf>, Fault> {
        let exact = name.parts().iter().fold(self.manifests(), |path, part| path.join(part));
        if exact.is_file() {
            return Ok(Some(exact));
        }
        let mut places = vec![self.manifests()];
        for part in name.parts() {
            let mut deeper = Vec::new();
            for place in places {
                deeper.extend(entries_like(&place, part)?);
            }
            places = deeper;
        }
        Ok(places.into_iter().find(|path| path.is_file()))
    }
}

// === impl BlobFile ===

impl BlobFile {
    /// Reads a chunk as the disk gives it; beyond the end there is nothing to read.
    ///
    /// # Errors
    /// When the disk does not give it, or the file has become shorter.
    pub fn read_chunk(&self, index: u32, into: &mut Vec<u8>) -> io::Result<()> {
        let range = chunk_range(self.size_bytes, index);
        into.resize(usize::try_from(range.end - range.start).expect("a chunk fits into memory"), 0);
        self.file.read_exact_at(into, range.start)
    }
}

// === impl FileIdentity ===

impl FileIdentity {
    /// The identity of the file that this was asked of.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.len(),
            mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether this is the same file with the same bytes. It may have got or lost a name meanwhile.
    #[must_use]
    pub fn has_bytes_of(&self, other: &Self) -> bool {
        Self { ctime_ns: other.ctime_ns, ..*self } == *other
    }
}

// === impl ReadError ===

impl ReadError {
    /// Whether what lies there is damaged: the disk has lost it, or it is no manifest. Another form says nothing of
    /// that, and neither does a disk that refuses.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Fault(fault) => is_damage(&fault.source),
            Self::Manifest { problem, .. } => !matches!(problem, ManifestError::Version(_)),
        }
    }
}

fn nanoseconds(seconds: i64, rest: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(rest)
}

/// Entries of a folder whose name is this one but for its case, in order; none where there is no such folder.
fn entries_like(folder: &Path, wanted: &str) -> Result<Vec<PathBuf>, Fault> {
    let fault = |source| Fault { action: "list the folder", path: folder.display().to_string(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(fault(error)),
    };
    let mut like = Vec::new();
    for entry in entries {
        let name = entry.map_err(fault)?.file_name();
        if name.eq_ignore_ascii_case(wanted) {
            like.push(folder.join(name));
        }
    }
    like.sort_unstable();
    Ok(like)
}

/// Reads a manifest and what the system says of its file; `None` where there is no plain file.
fn read_manifest(path: &Path) -> Result<Option<(Manifest, Metadata)>, ReadError> {
    let Some((bytes, metadata)) = read_file("read the manifest", path, MANIFEST_BYTES_MAX)? else { return Ok(None) };
    match Manifest::read(&bytes) {
        Ok(manifest) => Ok(Some((manifest, metadata))),
        Err(problem) => Err(ReadError::Manifest { path: path.display().to_string(), problem }),
    }
}

/// Reads a file of at most so many bytes; of a longer one a byte more, by which it shows. `None` where there is no
/// plain file.
fn read_file(action: &'static str, path: &Path, bytes_max: usize) -> Result<Option<(Vec<u8>, Metadata)>, Fault> {
    let Some((file, metadata)) = open_file(action, path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(Fault::at(action, path))?;
    Ok(Some((bytes, metadata)))
}

/// Opens a file with these bytes, wherever it lies; `None` when it is absent, no plain file, or of another size.
pub(crate) fn open_blob(action: &'static str, path: &Path, spec: BlobSpec) -> Result<Option<BlobFile>, Fault> {
    let opened = open_file(action, path)?;
    let right = opened.filter(|(_, metadata)| metadata.len() == spec.size_bytes);
    Ok(right.map(|(file, metadata)| BlobFile {
        file,
        size_bytes: spec.size_bytes,
        identity: FileIdentity::of(&metadata),
    }))
}

/// Opens a plain file; `None` where there is none. It is looked at before, since opening a pipe or a device may do
/// something, and opened without waiting, since it may have become one.
fn open_file(action: &'static str, path: &Path) -> Result<Option<(fs::File, Metadata)>, Fault> {
    let opened = || -> io::Result<Option<(fs::File, Metadata)>> {
        if !fs::metadata(path)?.is_file() {
            return Ok(None);
        }
        let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
        let metadata = file.metadata()?;
        Ok(metadata.is_file().then_some((file, metadata)))
    };
    match opened() {
        Err(error) if is_absent(&error) => Ok(None),
        other => other.map_err(Fault::at(action, path)),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use nix::errno::Errno;
    use nix::sys::stat::Mode;
    use nix::unistd::{geteuid, mkfifo};
    use sha2::{Digest as _, Sha256};
    use tempfile::TempDir;

    use ollamax_types::CHUNK_BYTES;

    use super::*;

    fn store() -> (TempDir, Store) {
        let folder = tempfile::tempdir().expect("temp");
        fs::create_dir(folder.path().join("blobs")).expect("room");
        let store = Store::open(folder.path()).expect("a folder");
        (folder, store)
    }

    fn name(text: &str) -> ModelName {
        text.parse().expect("a name")
    }

    fn put(path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("room");
        fs::write(path, bytes).expect("room");
    }

    fn manifest_text(size: u64) -> String {
        let digest = Digest([7; 32]);
        format!(r#"{{"schemaVersion":2,"layers":[{{"mediaType":"x","digest":"sha256:{digest}","size":{size}}}]}}"#)
    }

    #[test]
    fn what_is_no_folder_is_no_store_and_nothing_is_made() {
        let folder = tempfile::tempdir().expect("temp");
        let absent = Store::open(&folder.path().join("absent")).expect_err("it is not there");
        assert_eq!(absent.source.kind(), ErrorKind::NotFound);
        let file = folder.path().join("file");
        fs::write(&file, "x").expect("room");
        assert_eq!(Store::open(&file).expect_err("a file").source.kind(), ErrorKind::NotADirectory);
        let empty = folder.path().join("empty");
        fs::create_dir(&empty).expect("room");
        let store = Store::open(&empty).expect("a folder");
        assert!(store.blob(BlobSpec { sha256: Digest([1; 32]), size_bytes: 1 }).expect("readable").is_none());
        assert!(store.manifest(&name("a")).expect("readable").is_none());
        assert_eq!(fs::read_dir(&empty).expect("a folder").count(), 0);
    }

    #[test]
    fn a_blob_is_a_plain_file_of_the_right_size() {
        let (_folder, store) = store();
        let sha256 = Digest(Sha256::digest(b"weights").into());
        let spec = BlobSpec { sha256, size_bytes: 7 };
        let path = store.blob_path(sha256);
        assert!(path.ends_with(format!("blobs/sha256-{sha256}")), "{}", path.display());
        let found = |spec| store.blob(spec).expect("readable").map(|blob| blob.identity);
        assert_eq!(found(spec), None, "absent");
        fs::write(&path, b"weights").expect("room");
        let identity = found(spec).expect("it is there");
        assert_eq!(identity.size, 7);
        assert_eq!(found(spec), Some(identity), "the same file");
        assert_eq!(found(BlobSpec { size_bytes: 8, ..spec }), None, "another size");
        let mut bytes = Vec::new();
        store.blob(spec).expect("readable").expect("there").file.read_to_end(&mut bytes).expect("readable");
        assert_eq!(bytes, b"weights");
        let other = store.root().join("other");
        fs::write(&other, b"WEIGHTS").expect("room");
        fs::rename(&other, &path).expect("ours");
        assert_ne!(found(spec), Some(identity), "another file of the same size");
        fs::remove_file(&path).expect("ours");
        fs::create_dir(&path).expect("room");
        assert_eq!(found(spec), None, "a folder");
        fs::remove_dir(&path).expect("ours");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("room");
        assert_eq!(found(BlobSpec { size_bytes: 0, ..spec }), None, "a pipe, for which nobody waits");
    }

    #[test]
    fn a_chunk_of_a_blob_is_read_at_its_place() {
        let (_folder, store) = store();
        let bytes: Vec<u8> = (0..CHUNK_BYTES + 3).map(|at| (at % 251) as u8).collect();
        let spec = BlobSpec { sha256: Digest(Sha256::digest(&bytes).into()), size_bytes: bytes.len() as u64 };
        fs::write(store.blob_path(spec.sha256), &bytes).expect("room");
        let file = store.blob(spec).expect("readable").expect("it is there");
        let whole = usize::try_from(CHUNK_BYTES).expect("small");
        let mut chunk = Vec::new();
        file.read_chunk(0, &mut chunk).expect("readable");
        assert!(chunk == bytes[..whole]);
        file.read_chunk(1, &mut chunk).expect("readable");
        assert_eq!(chunk, bytes[whole..]);
        file.read_chunk(2, &mut chunk).expect("nothing is read");
        assert!(chunk.is_empty(), "{} bytes behind the end", chunk.len());
        fs::write(store.blob_path(spec.sha256), &bytes[..whole]).expect("room");
        let short = file.read_chunk(1, &mut chunk).expect_err("it became shorter");
        assert_eq!(short.kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn blobs_on_another_disk_are_staged_beside_their_real_place() {
        let (folder, elsewhere) = (tempfile::tempdir().expect("temp"), tempfile::tempdir().expect("temp"));
        let real = elsewhere.path().canonicalize().expect("it is there");
        fs::create_dir(real.join("big")).expect("room");
        symlink(real.join("big"), folder.path().join("blobs")).expect("room");
        let store = Store::open(folder.path()).expect("a folder");
        assert_eq!(store.staging_place(), real.join(".ollamax"));
        assert!(store.blob_path(Digest([1; 32])).starts_with(real.join("big")));
        assert_eq!(store.root(), folder.path().canonicalize().expect("it is there"));
    }

    #[test]
    fn a_manifest_is_found_in_any_spelling_and_the_exact_one_first() {
        let (_folder, store) = store();
        let host = store.root().join("manifests/registry.ollama.ai");
        put(&host.join("Library/LLAMA/Latest"), manifest_text(1).as_bytes());
        let size = |text: &str| {
            let found = store.manifest(&name(text)).expect("readable");
            found.map(|(path, manifest)| (path.ends_with("LLAMA/Latest"), manifest.size_bytes()))
        };
        assert_eq!(size("llama"), Some((true, 1)));
        assert_eq!(size("llama:7b"), None);
        put(&host.join("library/llama/latest"), manifest_text(2).as_bytes());
        assert_eq!(size("llama"), Some((false, 2)));
        // A folder of the same name in another spelling hides nothing.
        fs::create_dir_all(host.join("LIBRARY/llama/latest")).expect("room");
        fs::remove_file(host.join("library/llama/latest")).expect("ours");
        assert_eq!(size("llama"), Some((true, 1)));
    }

    /// Root may write everywhere, so for it there is nothing to see.
    #[test]
    fn a_folder_that_a_runtime_closed_shows_before_anything_is_published() {
        let (_folder, store) = store();
        let host = store.root().join("manifests/registry.ollama.ai");
        assert_eq!(store.closed_folder(&name("a")), None, "no folder is there yet");
        put(&host.join("Library/LLAMA/Latest"), manifest_text(1).as_bytes());
        fs::create_dir(host.join("Library/phi")).expect("room");
        let namespace = host.join("Library");
        let check = |closed: &Path, rows: &[(&str, bool)]| {
            let set = |mode| fs::set_permissions(closed, fs::Permissions::from_mode(mode)).expect("ours");
            set(0o555);
            let found = rows.iter().map(|(text, _)| store.closed_folder(&name(text))).collect::<Vec<_>>();
            set(0o755);
            for ((text, is_closed), found) in rows.iter().zip(found) {
                let expected = (*is_closed && !geteuid().is_root()).then(|| closed.to_owned());
                assert_eq!(found, expected, "{text}");
                assert_eq!(store.closed_folder(&name(text)), None, "{text}");
            }
        };
        check(&namespace.join("LLAMA"), &[("llama", true), ("Llama:7b", true), ("phi", false), ("new", false)]);
        check(&namespace.join("phi"), &[("phi", true), ("llama", false)]);
        // In a folder that is open nothing above it is changed.
        check(&namespace, &[("llama", false), ("phi", false), ("new", true), ("you/new", false)]);
    }

    #[test]
    fn a_file_that_is_no_manifest_says_so_with_its_path() {
        let (_folder, store) = store();
        let path = store.root().join("manifests/registry.ollama.ai/library/a/latest");
        put(&path, &manifest_text(1).as_bytes()[..30]);
        let error = store.manifest(&name("a")).expect_err("half a file");
        let told = format!("{}: the manifest is no JSON of a manifest: ", path.display());
        assert!(error.to_string().starts_with(&told), "{error}");
        put(&path, " ".repeat(MANIFEST_BYTES_MAX + 9).as_bytes());
        let error = store.manifest(&name("a")).expect_err("too long");
        assert!(matches!(error, ReadError::Manifest { problem: ManifestError::TooLong, .. }), "{error}");
    }

    #[test]
    fn what_is_damaged_is_told_from_what_cannot_be_told() {
        let (_folder, store) = store();
        let path = store.root().join("manifests/registry.ollama.ai/library/a/latest");
        let check = |text: &str, expected| {
            put(&path, text.as_bytes());
            let error = store.manifest(&name("a")).expect_err("no manifest");
            assert_eq!(error.is_damage(), expected, "{error}");
        };
        let whole = manifest_text(1);
        check(&whole[..30], true);
        check("\0\0\0", true);
        check(&whole.replace("sha256:0707", "sha256:070"), true);
        check(&whole.replace(r#""size":1"#, r#""size":99999999999999999"#), true);
        check(r#"{"schemaVersion":2,"layers":[]}"#, true);
        check(r#"{"schemaVersion":1}"#, false);
        let refused = |errno: Errno| ReadError::Fault(Fault::at("read the manifest", &path)(errno.into()));
        assert!(refused(Errno::EIO).is_damage());
        assert!(!refused(Errno::EACCES).is_damage() && !refused(Errno::EMFILE).is_damage());
    }
}
