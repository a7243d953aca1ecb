//! Reads a bundle from its front to its end, and believes nothing.
//!
//! A piece that is handed on was compared with the tree of its file, where the bundle has one; where it has none, the
//! end of the file tells, so nothing of a file counts before [`Reader::next_chunk`] said that there is no more of it.
//! Behind an error nothing more is asked.
//! Kept in memory are the three small files, trees whose files did not come yet, and nothing of the files themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, ErrorKind};

use sha2::{Digest as _, Sha256};

use ollamax_types::Digest;
use ollamax_types::chunk::{chunk_count, chunk_range};
use ollamax_types::limits::MANIFEST_BYTES_MAX;

use crate::manifest::BlobSpec;
use crate::tree::{ChunkHash, Tree, chunk_hash};

use super::tar::{self, Head, Kind};
use super::{
    BLOBS, BUNDLE_VERSION, BundleError, Contents, Listed, MANIFEST, OWN, PAGE, PAGE_BYTES_MAX, SUMS, TREES, Versioned,
    plain_digest, shown,
};

/// What is passed over is read in pieces of this length.
const PASSED_BYTES: usize = 64 << 10;
/// As much of a name as an error repeats, characters.
const NAME_CHARS_MAX: usize = 120;

/// A bundle that is being read.
pub struct Reader<R> {
    entries: Entries<R>,
    contents: Contents,
    /// Trees whose files did not come yet.
    trees: BTreeMap<Digest, Tree>,
    /// Files that came.
    seen: BTreeSet<Digest>,
    current: Option<Current>,
    is_over: bool,
}

/// The file that is being read.
struct Current {
    spec: BlobSpec,
    listed: Listed,
    tree: Option<Tree>,
    /// Of what was read.
    sha256: Sha256,
    hashes: Vec<ChunkHash>,
    /// The piece that comes next.
    next: u32,
}

/// The entries of a file of tar.
struct Entries<R> {
    from: R,
    /// Bytes that were read.
    at: u64,
    passed: Vec<u8>,
}

// === impl Reader ===

impl<R: io::Read> Reader<R> {
    /// Reads what comes before the files.
    ///
    /// # Errors
    /// When this is no bundle, or one that contradicts itself.
    pub fn begin(from: R) -> Result<Self, BundleError> {
        let mut entries = Entries { from, at: 0, passed: Vec::new() };
        let contents = front(&mut entries)?;
        let (trees, seen) = (BTreeMap::new(), BTreeSet::new());
        Ok(Self { entries, contents, trees, seen, current: None, is_over: false })
    }

    /// What the bundle promises.
    #[must_use]
    pub const fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Bytes of the bundle that were read.
    #[must_use]
    pub const fn read_bytes(&self) -> u64 {
        self.entries.at
    }

    /// The tree of the file that is being read, where the bundle has one.
    #[must_use]
    pub fn tree(&self) -> Option<&Tree> {
        self.current.as_ref()?.tree.as_ref()
    }

    /// Goes on to the next file of the model; what was not read of the last is read over, and checked. `None`: the
    /// bundle is at its end.
    ///
    /// # Errors
    /// When the bundle is damaged or ends too early.
    pub fn next_file(&mut self) -> Result<Option<BlobSpec>, BundleError> {
        let mut rest = Vec::new();
        while self.next_chunk(&mut rest)?.is_some() {}
        while !self.is_over {
            let Some(head) = self.entries.head()? else {
                self.is_over = true;
                break;
            };
            if let Some((sha256, listed)) = self.listed(&head.name, BLOBS) {
                return self.begin_file(&head, listed.spec(sha256), listed).map(Some);
            }
            if let Some((sha256, listed)) = self.listed(&head.name, TREES) {
                self.take_tree(&head, listed.spec(sha256), listed)?;
            } else if self.contents.manifest_path().is_some_and(|path| path == head.name) {
                self.compare_manifest(&head)?;
            } else {
                self.entries.pass(&head)?;
            }
        }
        Ok(None)
    }

    /// The next piece of the file that is being read, and its hash. `None`: the whole file came, and is what it should
    /// be.
    ///
    /// # Errors
    /// When the bundle is damaged or ends too early; what came of the file does not count then.
    pub fn next_chunk(&mut self, into: &mut Vec<u8>) -> Result<Option<(u32, ChunkHash)>, BundleError> {
        let Some(mut current) = self.current.take() else { return Ok(None) };
        let BlobSpec { sha256, size_bytes } = current.spec;
        let entry = format!("{BLOBS}{sha256}");
        if current.next == chunk_count(size_bytes) {
            self.entries.fill_up(size_bytes, &entry)?;
            current.finish()?;
            self.seen.insert(sha256);
            return Ok(None);
        }
        let range = chunk_range(size_bytes, current.next);
        into.resize(usize::try_from(range.end - range.start).expect("a chunk fits into memory"), 0);
        self.entries.fill(into, &entry)?;
        let taken = current.take(into)?;
        self.current = Some(current);
        Ok(Some(taken))
    }

    /// Reads the rest, and says whether all of the model came.
    ///
    /// # Errors
    /// When the bundle is damaged or ends too early, and when a file did not come.
    pub fn finish(mut self) -> Result<Contents, BundleError> {
        while self.next_file()?.is_some() {}
        let missing = self.contents.files().into_iter().find(|spec| !self.seen.contains(&spec.sha256));
        match missing {
            Some(spec) => Err(BundleError::Missing(spec.sha256)),
            None => Ok(self.contents),
        }
    }

    /// The file of the model that an entry of this name is about.
    fn listed(&self, name: &str, front: &str) -> Option<(Digest, Listed)> {
        let sha256 = plain_digest(name.strip_prefix(front)?)?;
        self.contents.files.get(&sha256).map(|listed| (sha256, *listed))
    }

    fn begin_file(&mut self, head: &Head, spec: BlobSpec, listed: Listed) -> Result<BlobSpec, BundleError> {
        let BlobSpec { sha256, size_bytes } = spec;
        if head.size_bytes != size_bytes {
            let found = head.size_bytes;
            return Err(BundleError::Contradiction(format!("{sha256} has {found} bytes, not {size_bytes}")));
        }
        if self.seen.contains(&sha256) {
            return Err(BundleError::Contradiction(format!("{sha256} comes twice")));
        }
        // The BLAKE3 of a file of one piece is the hash of that piece.
        let lone = (chunk_count(size_bytes) == 1).then(|| vec![listed.root.0]);
        let lone = lone.and_then(|hashes| Tree::of(size_bytes, hashes).ok());
        let tree = self.trees.remove(&sha256).or(lone);
        self.current = Some(Current { spec, listed, tree, sha256: Sha256::new(), hashes: Vec::new(), next: 0 });
        Ok(spec)
    }

    fn take_tree(&mut self, head: &Head, spec: BlobSpec, listed: Listed) -> Result<(), BundleError> {
        let BlobSpec { sha256, size_bytes } = spec;
        let wanted = u64::from(chunk_count(size_bytes)) * size_of::<ChunkHash>() as u64;
        if head.size_bytes != wanted {
            let found = head.size_bytes;
            return Err(BundleError::Contradiction(format!("the tree of {sha256} has {found} bytes, not {wanted}")));
        }
        let bytes = self.entries.small(head, wanted)?;
        let hashes = bytes.as_chunks::<{ size_of::<ChunkHash>() }>().0.to_vec();
        let tree = Tree::proved(size_bytes, listed.root, hashes);
        let tree = tree.map_err(|error| BundleError::Contradiction(format!("the tree of {sha256}: {error}")))?;
        // A tree behind its file comes too late to be of use.
        if !self.seen.contains(&sha256) {
            self.trees.insert(sha256, tree);
        }
        Ok(())
    }

    /// What a runtime would see of a bundle that is unpacked is the manifest that is promised.
    fn compare_manifest(&mut self, head: &Head) -> Result<(), BundleError> {
        let bytes = self.entries.small(head, MANIFEST_BYTES_MAX as u64)?;
        if bytes == self.contents.manifest().bytes() {
            return Ok(());
        }
        Err(BundleError::Contradiction(format!("{} is not {MANIFEST}", head.name)))
    }
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({} of {} files, at byte {})", self.seen.len(), self.contents.files.len(), self.entries.at)
    }
}

// === impl Current ===

impl Current {
    fn take(&mut self, bytes: &[u8]) -> Result<(u32, ChunkHash), BundleError> {
        let (BlobSpec { sha256, size_bytes }, index) = (self.spec, self.next);
        let hash = chunk_hash(size_bytes, index, bytes);
        let wanted = self.tree.as_ref().and_then(|tree| tree.hashes().get(index as usize));
        if wanted.is_some_and(|wanted| *wanted != hash) {
            return Err(BundleError::Damaged { sha256, index });
        }
        self.sha256.update(bytes);
        self.hashes.push(hash);
        self.next += 1;
        Ok((index, hash))
    }

    /// Whether what came is the file.
    fn finish(self) -> Result<(), BundleError> {
        let Self { spec: BlobSpec { sha256: wanted, size_bytes }, listed, sha256, hashes, .. } = self;
        let found = Digest(sha256.finalize().into());
        if found != wanted {
            return Err(BundleError::Digest { wanted, found });
        }
        let root = Tree::of(size_bytes, hashes).expect("each piece left its hash").root();
        if root != listed.root {
            return Err(BundleError::Contradiction(format!("it gives {wanted} another BLAKE3 than {root}")));
        }
        Ok(())
    }
}

// === impl Entries ===

impl<R: io::Read> Entries<R> {
    /// The head of the next plain file. `None`: there is no more.
    fn head(&mut self) -> Result<Option<Head>, BundleError> {
        loop {
            let at = self.at;
            let Some(mut head) = tar::read(&self.block()?).map_err(|problem| torn(at, problem))? else {
                // Two blocks of zeros are the end; one alone is something else.
                let is_end = self.block()?.iter().all(|byte| *byte == 0);
                return if is_end { Ok(None) } else { Err(torn(at, "a block of zeros stands alone")) };
            };
            if let Some(name) = head.name.strip_prefix("./") {
                head.name = name.to_owned();
            }
            match head.kind {
                Kind::File => return Ok(Some(head)),
                Kind::Folder => {}
                Kind::Note => self.pass(&head)?,
                Kind::Strange => {
                    let name: String = head.name.chars().take(NAME_CHARS_MAX).collect();
                    return Err(BundleError::Contradiction(format!("{name:?} is no plain file")));
                }
            }
        }
    }

    fn block(&mut self) -> Result<[u8; tar::BLOCK_BYTES], BundleError> {
        let mut block = [0; tar::BLOCK_BYTES];
        self.fill(&mut block, "the head of an entry")?;
        Ok(block)
    }

    /// All bytes of an entry that is small.
    fn small(&mut self, head: &Head, bytes_max: u64) -> Result<Vec<u8>, BundleError> {
        let Head { name, size_bytes, .. } = head;
        if *size_bytes > bytes_max {
            return Err(BundleError::Contradiction(format!("{name} has {size_bytes} bytes; the limit is {bytes_max}")));
        }
        let mut bytes = vec![0; usize::try_from(*size_bytes).expect("what is small fits into memory")];
        self.fill(&mut bytes, name)?;
        self.fill_up(*size_bytes, name)?;
        Ok(bytes)
    }

    /// Reads over the bytes of an entry.
    fn pass(&mut self, head: &Head) -> Result<(), BundleError> {
        let mut passed = std::mem::take(&mut self.passed);
        passed.resize(PASSED_BYTES, 0);
        let mut left = head.size_bytes;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(PASSED_BYTES).min(PASSED_BYTES);
            self.fill(&mut passed[..length], &head.name)?;
            left -= length as u64;
        }
        self.passed = passed;
        self.fill_up(head.size_bytes, &head.name)
    }

    /// Reads what fills the last block of an entry up.
    fn fill_up(&mut self, size_bytes: u64, entry: &str) -> Result<(), BundleError> {
        let length = usize::try_from(tar::padding(size_bytes)).expect("it is shorter than a block");
        self.fill(&mut [0; tar::BLOCK_BYTES][..length], entry)
    }

    fn fill(&mut self, into: &mut [u8], entry: &str) -> Result<(), BundleError> {
        let mut done = 0;
        while done < into.len() {
            match self.from.read(&mut into[done..]) {
                Ok(0) => return Err(BundleError::Cut { entry: shown(entry), at: self.at }),
                Ok(read) => {
                    done += read;
                    self.at += read as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(BundleError::Read(error)),
            }
        }
        Ok(())
    }
}

/// Reads the three small files that come first, in any order.
fn front<R: io::Read>(entries: &mut Entries<R>) -> Result<Contents, BundleError> {
    let (mut page, mut sums, mut manifest) = (None::<Vec<u8>>, None::<Vec<u8>>, None::<Vec<u8>>);
    loop {
        if let (Some(page), Some(sums), Some(manifest)) = (&page, &sums, &manifest) {
            return Contents::read(page, sums, manifest);
        }
        let is_first = page.is_none() && sums.is_none() && manifest.is_none();
        let head = match entries.head() {
            Ok(Some(head)) => head,
            Ok(None) => return Err(BundleError::NotABundle("it has no files of ollamamax/ at its front")),
            Err(BundleError::Read(error)) => return Err(BundleError::Read(error)),
            Err(_) if is_first => return Err(BundleError::NotABundle("it is no file of tar, or its front is damaged")),
            Err(error) => return Err(error),
        };
        match head.name.as_str() {
            PAGE => page = Some(entries.small(&head, PAGE_BYTES_MAX).and_then(of_this_version)?),
            SUMS => sums = Some(entries.small(&head, PAGE_BYTES_MAX)?),
            MANIFEST => manifest = Some(entries.small(&head, MANIFEST_BYTES_MAX as u64)?),
            other if other.starts_with(OWN) => entries.pass(&head)?,
            _ => return Err(BundleError::NotABundle("the files of ollamamax/ are not at its front")),
        }
    }
}

/// A `bundle.json` that this release understands. Which version it is of is asked before anything else.
fn of_this_version(page: Vec<u8>) -> Result<Vec<u8>, BundleError> {
    let told = serde_json::from_slice::<Versioned>(&page);
    let refused = |error: serde_json::Error| BundleError::Contradiction(shown(&format!("{PAGE}: {error}")));
    let Versioned { version } = told.map_err(refused)?;
    if version == BUNDLE_VERSION { Ok(page) } else { Err(BundleError::Version { found: version }) }
}

const fn torn(at: u64, problem: &'static str) -> BundleError {
    BundleError::Torn { at, problem }
}
