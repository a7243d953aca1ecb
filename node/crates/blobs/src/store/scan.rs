//! Lists the models of a store from its files.
//!
//! Read are the manifests and the small configurations, of everything else only whether it is there: so a list costs
//! little, whatever the models weigh. It is bounded by `STORE_MANIFESTS_MAX` and by the files that all models together
//! may name. What cannot be read is left out and told, with its path and why, and hides nothing else. A manifest that
//! is damaged may be half written, since runtimes write in place: it is read again once, after all others.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use ollamax_types::limits::{CONFIG_BLOB_BYTES_MAX, STORE_MANIFESTS_MAX};
use ollamax_types::{Digest, ModelName, ModelRecord, Timestamp};

use crate::details::{capabilities, details_json};
use crate::fault::Fault;
use crate::manifest::Manifest;
use crate::store::{BlobSpec, FileIdentity, ReadError, Store, is_absent, read_file, read_manifest};

/// Folders between the place of manifests and a manifest: host, namespace, model.
const FOLDERS_DEEP: usize = 3;
/// Most entries of all folders that are looked at to find manifests.
const ENTRIES_MAX: usize = 4 * STORE_MANIFESTS_MAX;
/// Most files that the models of one list may name together.
const BLOBS_MAX: usize = 1 << 20;
/// Why a file is left out that no runtime takes for a manifest either.
const NO_NAME: &str = "the path is no name of a model";

/// One model of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// What a runtime would list of it, and what its configuration says that it can do.
    pub model: ModelRecord,
    /// The files that it needs, each once.
    pub blobs: Vec<BlobSpec>,
    /// Whether every file is there with its size.
    pub complete: bool,
}

/// Everything that a store holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scan {
    /// Its models, in the order of their paths; those that had to be read twice come last.
    pub models: Vec<Scanned>,
    /// What was left out: path and why.
    pub skipped: Vec<(String, String)>,
    /// The names whose manifest is damaged, path and why of each; they are among what was left out.
    pub damaged: BTreeMap<ModelName, String>,
}

// === impl Scan ===

impl Scan {
    /// What a runtime may take for a model and was not read, and why; `None`: all was.
    pub(super) fn unread(&self) -> Option<String> {
        let unread = self.skipped.iter().find(|(_, why)| why != NO_NAME);
        unread.map(|(path, why)| format!("{path}: {why}"))
    }
}

pub(super) fn scan(store: &Store) -> Result<Scan, Fault> {
    scan_with(store, || {})
}

/// As [`scan`]; `meanwhile` happens between the two readings of what may be half written.
fn scan_with(store: &Store, meanwhile: impl FnOnce()) -> Result<Scan, Fault> {
    let mut found = Found::default();
    found.walk(&store.manifests(), FOLDERS_DEEP).or_else(|fault| {
        // A store in which no model was ever put.
        if is_absent(&fault.source) { Ok(()) } else { Err(fault) }
    })?;
    let mut scanner = Scanner { store, scan: Scan::default(), sizes: HashMap::new(), blobs: 0 };
    scanner.scan.skipped = found.skipped;
    let mut unfinished = Vec::new();
    for path in found.manifests {
        if scanner.look(&path).is_err() {
            unfinished.push(path);
        }
    }
    meanwhile();
    for path in unfinished {
        if let Err(why) = scanner.look(&path) {
            let damaged = name_of(&path).map(|name| (name, format!("{}: {why}", path.display())));
            scanner.scan.damaged.extend(damaged);
            scanner.skip(&path, &why);
        }
    }
    Ok(scanner.scan)
}

/// What a walk through the folders of manifests met.
#[derive(Debug, Default)]
struct Found {
    manifests: Vec<PathBuf>,
    skipped: Vec<(String, String)>,
    entries: usize,
    overflowed: bool,
}

// === impl Found ===

impl Found {
    /// Goes through a folder with so many levels of folders below it. Files that lie higher are nobody's.
    fn walk(&mut self, folder: &Path, levels: usize) -> Result<(), Fault> {
        let fault = |source| Fault { action: "list the folder", path: folder.display().to_string(), source };
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(fault)? {
            if self.entries == ENTRIES_MAX {
                self.overflow(folder);
                break;
            }
            self.entries += 1;
            entries.push(entry.map_err(fault)?.path());
        }
        entries.sort_unstable();
        for path in entries {
            // A link is followed, as runtimes follow it; no loop is deeper than the levels.
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                // It has gone since, or it is a link that leads nowhere: what it led to may name any file.
                Err(error) if is_absent(&error) => {
                    if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
                        self.skip(&path, "the link leads nowhere");
                    }
                    continue;
                }
                Err(error) => {
                    self.skip(&path, &error.to_string());
                    continue;
                }
            };
            if levels == 0 && metadata.is_file() {
                if self.manifests.len() == STORE_MANIFESTS_MAX {
                    self.overflow(folder);
                    break;
                }
                self.manifests.push(path);
            } else if levels > 0
                && metadata.is_dir()
                && let Err(fault) = self.walk(&path, levels - 1)
                && !is_absent(&fault.source)
            {
                self.skip(&path, &fault.source.to_string());
            }
        }
        Ok(())
    }

    /// Tells once that there is more than is looked at.
    fn overflow(&mut self, folder: &Path) {
        if !self.overflowed {
            self.skip(
                folder,
                &format!("the store has more than {STORE_MANIFESTS_MAX} manifests; the rest is not read"),
            );
        }
        self.overflowed = true;
    }

    fn skip(&mut self, path: &Path, why: &str) {
        self.skipped.push((path.display().to_string(), why.to_owned()));
    }
}

/// Makes the list.
struct Scanner<'a> {
    store: &'a Store,
    scan: Scan,
    /// Sizes of the blobs that were met; models share them.
    sizes: HashMap<Digest, u64>,
    /// Files that all models name together.
    blobs: usize,
}

// === impl Scanner ===

impl Scanner<'_> {
    /// Takes one manifest into the list, or notes why not; nothing when it has gone meanwhile.
    ///
    /// # Errors
    /// Why it is damaged: the caller knows whether to look again.
    fn look(&mut self, path: &Path) -> Result<(), String> {
        let Some(name) = name_of(path) else {
            self.skip(path, NO_NAME);
            return Ok(());
        };
        match read_manifest(path) {
            Ok(None) => {}
            Ok(Some((manifest, metadata))) => {
                let blobs = manifest.blobs();
                if self.blobs + blobs.len() > BLOBS_MAX {
                    self.skip(path, &format!("the models of the store name more than {BLOBS_MAX} files"));
                } else {
                    self.blobs += blobs.len();
                    let scanned = self.scanned(name, &manifest, blobs, &metadata);
                    self.scan.models.push(scanned);
                }
            }
            Err(error) => {
                let why = match &error {
                    ReadError::Fault(fault) => fault.source.to_string(),
                    ReadError::Manifest { problem, .. } => problem.to_string(),
                };
                if error.is_damage() {
                    return Err(why);
                }
                self.skip(path, &why);
            }
        }
        Ok(())
    }

    fn scanned(&mut self, name: ModelName, manifest: &Manifest, blobs: Vec<BlobSpec>, metadata: &Metadata) -> Scanned {
        let complete = blobs.iter().all(|spec| self.holds(*spec));
        let config = self.config(manifest).unwrap_or_default();
        let model = ModelRecord {
            name,
            digest: manifest.digest(),
            weights: manifest.weights().unwrap_or(manifest.digest()),
            size_bytes: manifest.size_bytes(),
            modified_at: modified_at(metadata),
            details_json: details_json(&config).unwrap_or_else(|| "{}".to_owned()),
            capabilities: capabilities(&config),
        };
        Scanned { model, blobs, complete }
    }

    /// Whether a file is there with its size. What is there is asked once in a list, what is missing each time.
    fn holds(&mut self, spec: BlobSpec) -> bool {
        let known = self.sizes.get(&spec.sha256).copied();
        let size = known.or_else(|| {
            let metadata = fs::metadata(self.store.blob_path(spec.sha256)).ok().filter(Metadata::is_file)?;
            self.sizes.insert(spec.sha256, metadata.len());
            Some(metadata.len())
        });
        size == Some(spec.size_bytes)
    }

    /// The bytes of a model's configuration, where they can be read: no model is left out for want of details.
    fn config(&self, manifest: &Manifest) -> Option<Vec<u8>> {
        let path = self.store.blob_path(manifest.config()?.sha256);
        let (bytes, _) = read_file("read the configuration", &path, CONFIG_BLOB_BYTES_MAX).ok()??;
        Some(bytes)
    }

    fn skip(&mut self, path: &Path, why: &str) {
        self.scan.skipped.push((path.display().to_string(), why.to_owned()));
    }
}

/// The model whose manifest lies here, spelled as its folders are.
fn name_of(path: &Path) -> Option<ModelName> {
    let mut parts = path.iter().rev().map(|part| part.to_str());
    let (tag, model, namespace, host) = (parts.next()??, parts.next()??, parts.next()??, parts.next()??);
    format!("{host}/{namespace}/{model}:{tag}").parse().ok()
}

/// When the manifest was written, as runtimes tell it of a model.
fn modified_at(metadata: &Metadata) -> Timestamp {
    let millis = FileIdentity::of(metadata).mtime_ns.div_euclid(1_000_000);
    Timestamp(u64::try_from(millis).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use sha2::{Digest as _, Sha256};
    use tempfile::TempDir;

    use ollamax_types::Clock;

    use super::*;

    const CONFIG: &str = r#"{"model_format":"gguf","model_family":"llama","capabilities":["completion"]}"#;

    struct Shelf {
        folder: TempDir,
        store: Store,
    }

    impl Shelf {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("temp");
            fs::create_dir(folder.path().join("blobs")).expect("room");
            let store = Store::open(folder.path()).expect("a folder");
            Self { folder, store }
        }

        fn blob(&self, bytes: &[u8]) -> BlobSpec {
            let sha256 = Digest(Sha256::digest(bytes).into());
            fs::write(self.store.blob_path(sha256), bytes).expect("room");
            BlobSpec { sha256, size_bytes: bytes.len() as u64 }
        }

        /// Writes a file among the manifests.
        fn file(&self, path: &str, bytes: &[u8]) -> PathBuf {
            let path = self.store.manifests().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("room");
            fs::write(&path, bytes).expect("room");
            path
        }

        /// A model of these weights; gives the text of its manifest.
        fn model(&self, path: &str, weights: &[u8]) -> String {
            let (weights, config) = (self.blob(weights), self.blob(CONFIG.as_bytes()));
            let layer = |kind: &str, spec: BlobSpec| {
                let BlobSpec { sha256, size_bytes } = spec;
                format!(r#"{{"mediaType":"application/vnd.{kind}","digest":"sha256:{sha256}","size":{size_bytes}}}"#)
            };
            let text = format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
                layer("docker.container.image.v1+json", config),
                layer("ollama.image.model", weights)
            );
            self.file(path, text.as_bytes());
            text
        }

        fn scan(&self) -> Scan {
            self.store.scan().expect("readable")
        }
    }

    fn names(scan: &Scan) -> Vec<String> {
        scan.models.iter().map(|scanned| scanned.model.name.to_string()).collect()
    }

    #[test]
    fn a_model_is_listed_as_its_runtime_would_list_it() {
        let shelf = Shelf::new();
        assert_eq!(shelf.scan(), Scan::default(), "no folder of manifests yet");
        let path = "registry.ollama.ai/library/llama3.2/1b";
        let text = shelf.model(path, b"weights");
        let file = fs::File::options().write(true).open(shelf.store.manifests().join(path)).expect("ours");
        file.set_modified(UNIX_EPOCH + Duration::from_micros(1_785_578_400_123_456)).expect("ours");
        shelf.model("localhost:5000/me/Mine/Latest", b"others");
        let scan = shelf.scan();
        assert!(scan.skipped.is_empty(), "{:?}", scan.skipped);
        assert_eq!(names(&scan), ["localhost:5000/me/Mine:Latest", "llama3.2:1b"]);
        let Scanned { model, blobs, complete } = &scan.models[1];
        assert!(*complete);
        let spec =
            |bytes: &[u8]| BlobSpec { sha256: Digest(Sha256::digest(bytes).into()), size_bytes: bytes.len() as u64 };
        assert_eq!(blobs, &[spec(b"weights"), spec(CONFIG.as_bytes())]);
        let wanted = ModelRecord {
            name: "llama3.2:1b".parse().expect("a name"),
            digest: spec(text.as_bytes()).sha256,
            weights: spec(b"weights").sha256,
            size_bytes: (CONFIG.len() + b"weights".len()) as u64,
            modified_at: Timestamp(1_785_578_400_123),
            details_json: r#"{"parent_model":"","format":"gguf","family":"llama","families":null,"parameter_size":"","quantization_level":""}"#.to_owned(),
            capabilities: vec!["completion".to_owned()],
        };
        assert_eq!(model, &wanted);
    }

    #[test]
    fn what_is_incomplete_is_told_apart() {
        let shelf = Shelf::new();
        for (model, weights) in [("a", "absent"), ("b", "short"), ("c", "there")] {
            shelf.model(&format!("h/n/{model}/latest"), weights.as_bytes());
        }
        let path = |bytes: &[u8]| shelf.store.blob_path(Digest(Sha256::digest(bytes).into()));
        fs::remove_file(path(b"absent")).expect("ours");
        fs::write(path(b"short"), "shor").expect("room");
        let complete = |scan: &Scan| scan.models.iter().map(|scanned| scanned.complete).collect::<Vec<bool>>();
        assert_eq!(complete(&shelf.scan()), [false, false, true]);
        fs::remove_file(path(CONFIG.as_bytes())).expect("ours");
        let scan = shelf.scan();
        assert_eq!(complete(&scan), [false, false, false]);
        assert_eq!(scan.models[2].model.details_json, "{}", "there is nothing to read them from");
        assert!(scan.skipped.is_empty(), "{:?}", scan.skipped);
    }

    #[test]
    fn a_half_written_manifest_is_read_again_and_then_left_out() {
        let shelf = Shelf::new();
        shelf.model("h/n/whole/latest", b"w");
        let text = shelf.model("h/n/soon/latest", b"w");
        let half = &text.as_bytes()[..text.len() / 2];
        let soon = shelf.file("h/n/soon/latest", half);
        let never = shelf.file("h/n/never/latest", half);
        let finish = || fs::write(&soon, &text).expect("room");
        let scan = scan_with(&shelf.store, finish).expect("readable");
        assert_eq!(names(&scan), ["h/n/whole:latest", "h/n/soon:latest"]);
        let [(path, why)] = &scan.skipped[..] else { panic!("{:?}", scan.skipped) };
        assert_eq!(path, &never.display().to_string());
        let damaged: Vec<String> = scan.damaged.keys().map(ToString::to_string).collect();
        assert_eq!(damaged, ["h/n/never:latest"]);
        assert!(scan.damaged.values().all(|told| told.starts_with(path)), "{:?}", scan.damaged);
        assert!(why.starts_with("the manifest is no JSON of a manifest: EOF"), "{why}");
    }

    #[test]
    fn what_is_no_model_hides_none() {
        let shelf = Shelf::new();
        shelf.model("h/n/good/latest", b"w");
        // Too high and too deep: no runtime looks there.
        shelf.file("h/n/stray", b"x");
        shelf.file("h/n/good/deep/er", b"x");
        let dotted = shelf.file("h/n/good/.DS_Store", b"x");
        let old = shelf.file("h/n/old/latest", br#"{"schemaVersion":1}"#);
        let empty = shelf.file("h/n/empty/latest", br#"{"schemaVersion":2,"layers":[]}"#);
        let dangling = shelf.store.manifests().join("h/n/good/dangling");
        std::os::unix::fs::symlink("nowhere", &dangling).expect("room");
        let scan = shelf.scan();
        assert_eq!(names(&scan), ["h/n/good:latest"]);
        let skipped: Vec<&str> = scan.skipped.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(skipped, [dangling.clone(), dotted.clone(), old, empty].map(|path| path.display().to_string()));
        let why: Vec<&str> = scan.skipped.iter().map(|(_, why)| why.as_str()).collect();
        let (form, none) = ("the manifest has schema version 1; 2 is understood", "the manifest names no layer");
        assert_eq!(why, ["the link leads nowhere", NO_NAME, form, none]);
        let damaged: Vec<String> = scan.damaged.keys().map(ToString::to_string).collect();
        assert_eq!(damaged, ["h/n/empty:latest"], "another form is no damage");
        let unread = format!("{}: the link leads nowhere", dangling.display());
        assert_eq!(scan.unread(), Some(unread), "what was left out may name files");
        let of_no_model = Scan { skipped: vec![(dotted.display().to_string(), NO_NAME.to_owned())], ..scan };
        assert_eq!(of_no_model.unread(), None, "no runtime reads that either");
    }

    #[test]
    fn what_cannot_be_looked_at_is_told() {
        let shelf = Shelf::new();
        shelf.model("h/n/good/latest", b"w");
        let round = shelf.store.manifests().join("h/n/good/round");
        std::os::unix::fs::symlink(&round, &round).expect("room");
        let scan = shelf.scan();
        assert_eq!(names(&scan), ["h/n/good:latest"]);
        let skipped: Vec<&str> = scan.skipped.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(skipped, [round.display().to_string()], "it may name files that are not to go");
    }

    #[test]
    fn a_folder_of_manifests_that_is_a_file_is_taken_for_none() {
        let shelf = Shelf::new();
        fs::write(shelf.folder.path().join("manifests"), "x").expect("room");
        assert_eq!(shelf.scan(), Scan::default());
    }

    #[test]
    fn a_hundred_models_are_listed_within_half_a_second() {
        let shelf = Shelf::new();
        for number in 0..100 {
            shelf.model(&format!("registry.ollama.ai/library/m{number}/latest"), number.to_string().as_bytes());
        }
        let clock = Clock::system();
        let before = clock.now();
        assert_eq!(shelf.scan().models.len(), 100);
        assert!(clock.now().ms_since(before) < 500, "{} ms", clock.now().ms_since(before));
    }
}
