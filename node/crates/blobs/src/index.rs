//! Hash trees of published files, by the file that they were made of.
//!
//! One file per blob, `sha256-<hex>.tree`, version 1, little endian, never changed after it was written:
//!
//! ```text
//!   0  OMXTREE1           8 bytes
//!   8  SHA-256 of the blob   32
//!  40  device, number, size   3 x 8   what the blob's file was when it was hashed
//!  64  mtime, ctime           2 x 16  nanoseconds
//!  96  BLAKE3 of the blob    32
//! 128  hash of each chunk    32 each
//!      crc32c of all that     4
//! ```
//!
//! When the tree's file was last changed says when the blob was last read and found to be what it was.
//!
//! A tree says nothing of today's file: who uses it compares [`FileIdentity`] first. Trees can always be made again by
//! reading the blob, so they are written whole (temporary file, rename) but not synced, and one that does not fit its
//! checksum, name or root is removed with a warning and counts as absent.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ollamax_types::chunk::chunk_count;
use ollamax_types::limits::BLOB_BYTES_MAX;
use ollamax_types::{Digest, Root, Timestamp};

use crate::fault::Fault;
use crate::staging::disk;
use crate::store::FileIdentity;
use crate::tree::{ChunkHash, Tree};

const MAGIC: &[u8; 8] = b"OMXTREE1";
const HEAD_BYTES: usize = 128;
const HASH_BYTES: usize = size_of::<ChunkHash>();
const CRC_BYTES: usize = 4;
/// Endings of a tree's file: whole, and while it is written.
const ENDING: &str = ".tree";
const ENDING_UNFINISHED: &str = ".tmp";
/// Most attempts to write one tree while others write, or open the folder.
const WRITES_MAX: usize = 16;

/// The folder of trees. Cheap to clone; may be used from several threads.
#[derive(Debug, Clone)]
pub struct Index {
    root: PathBuf,
    /// Counts temporary files; a name that another writer has is passed over.
    writes: Arc<AtomicU64>,
}

/// A tree, and the file that it was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Indexed {
    /// What the file was when it was hashed.
    pub identity: FileIdentity,
    /// Its tree.
    pub tree: Tree,
}

// === impl Index ===

impl Index {
    /// Takes a folder, made where it is missing; what writers left unfinished goes.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, Fault> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(root);
        made.map_err(Fault::at("make the folder of hash trees", root))?;
        for name in names(root)?.iter().filter(|name| name.ends_with(ENDING_UNFINISHED)) {
            remove(&root.join(name))?;
        }
        Ok(Self { root: root.to_path_buf(), writes: Arc::default() })
    }

    /// The tree of a blob, as it was last put. `None` where there is none, or a damaged one, which is removed.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn get(&self, sha256: Digest) -> Result<Option<Indexed>, Fault> {
        let path = self.path(sha256);
        let fault = |source| Fault { action: "read the hash tree", path: path.display().to_string(), source };
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault(error)),
        };
        match decode(sha256, &bytes) {
            Ok(indexed) => Ok(Some(indexed)),
            Err(reason) => {
                tracing::warn!(path = %path.display(), %reason, "a damaged hash tree is removed");
                remove(&path)?;
                Ok(None)
            }
        }
    }

    /// Keeps the tree of a blob, in place of any other.
    ///
    /// # Errors
    /// When the disk refuses, or when the tree is that of a file of another size.
    pub fn put(&self, sha256: Digest, indexed: &Indexed) -> Result<(), Fault> {
        let path = self.path(sha256);
        if indexed.identity.size != indexed.tree.size_bytes() {
            return Err(Fault::at("keep the hash tree", &path)(ErrorKind::InvalidInput.into()));
        }
        let bytes = encode(sha256, indexed);
        let mut written = self.write(&path, &bytes);
        for _ in 1..WRITES_MAX {
            // Another writer has this name, or somebody who opened the folder took the file for a leftover.
            let is_meeting = |error: &io::Error| matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound);
            if !written.as_ref().is_err_and(is_meeting) {
                break;
            }
            written = self.write(&path, &bytes);
        }
        written.map_err(Fault::at("write the hash tree", &path))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let unfinished = path.with_extension(format!("{number}{ENDING_UNFINISHED}"));
        let mut file = OpenOptions::new().write(true).create_new(true).open(&unfinished)?;
        let written = file.write_all(bytes).and_then(|()| fs::rename(&unfinished, path));
        if written.is_err() {
            // What cannot be removed goes when the folder is opened again.
            drop(fs::remove_file(&unfinished));
        }
        written
    }

    /// Forgets the tree of a blob; absent is fine.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(&self, sha256: Digest) -> Result<(), Fault> {
        remove(&self.path(sha256))
    }

    /// When a blob was last read and found to be what it was: when its tree was put, or when that was noted since.
    /// `None` where there is no tree.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn checked_at(&self, sha256: Digest) -> Result<Option<Timestamp>, Fault> {
        let path = self.path(sha256);
        match fs::metadata(&path).and_then(|found| found.modified()) {
            Ok(modified) => Ok(Some(disk::moment(modified))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Fault::at("look at the hash tree", &path)(error)),
        }
    }

    /// A blob was read and is what it was. Where there is no tree there is nothing to note.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn note_checked(&self, sha256: Digest, at: Timestamp) -> Result<(), Fault> {
        let path = self.path(sha256);
        match disk::stamp(&path, at) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Fault::at("note in the hash tree", &path)(error)),
            _ => Ok(()),
        }
    }

    /// The blobs of which there is a tree, in order.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn all(&self) -> Result<Vec<Digest>, Fault> {
        let names = names(&self.root)?;
        let stems = names.iter().filter_map(|name| name.strip_prefix("sha256-")?.strip_suffix(ENDING));
        let mut all: Vec<Digest> = stems.filter_map(|stem| stem.parse().ok()).collect();
        all.sort_unstable();
        Ok(all)
    }

    fn path(&self, sha256: Digest) -> PathBuf {
        self.root.join(format!("sha256-{sha256}{ENDING}"))
    }
}

/// The names in a folder; those that are no text are none of ours.
fn names(folder: &Path) -> Result<Vec<String>, Fault> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<io::Result<Vec<fs::DirEntry>>>());
    let entries = entries.map_err(Fault::at("list the hash trees", folder))?;
    Ok(entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

fn remove(path: &Path) -> Result<(), Fault> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Fault::at("remove the hash tree", path)(error)),
        _ => Ok(()),
    }
}

/// The bytes of a file, at most one more than a tree can have.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let bytes_max = HEAD_BYTES + HASH_BYTES * chunk_count(BLOB_BYTES_MAX) as usize + CRC_BYTES;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn encode(sha256: Digest, Indexed { identity, tree }: &Indexed) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + HASH_BYTES * tree.hashes().len() + CRC_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&sha256.0);
    for number in [identity.dev, identity.ino, identity.size] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for moment in [identity.mtime_ns, identity.ctime_ns] {
        bytes.extend_from_slice(&moment.to_le_bytes());
    }
    bytes.extend_from_slice(&tree.root().0);
    bytes.extend_from_slice(tree.hashes().as_flattened());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// Undoes [`encode`]; else what is wrong with the bytes.
fn decode(sha256: Digest, bytes: &[u8]) -> Result<Indexed, String> {
    let Some((covered, crc)) = bytes.split_last_chunk::<CRC_BYTES>() else { return Err("cut short".to_owned()) };
    let Some((head, hashes)) = covered.split_first_chunk::<HEAD_BYTES>() else { return Err("cut short".to_owned()) };
    if !head.starts_with(MAGIC) {
        return Err("of another version".to_owned());
    }
    if crc32c::crc32c(covered) != u32::from_le_bytes(*crc) {
        return Err("its checksum does not fit".to_owned());
    }
    if field::<32>(head, 8) != sha256.0 {
        return Err("the tree of another file".to_owned());
    }
    let (hashes, rest) = hashes.as_chunks::<HASH_BYTES>();
    if !rest.is_empty() {
        return Err("half a hash at the end".to_owned());
    }
    let number = |at| u64::from_le_bytes(field(head, at));
    let moment = |at| i128::from_le_bytes(field(head, at));
    let identity =
        FileIdentity { dev: number(40), ino: number(48), size: number(56), mtime_ns: moment(64), ctime_ns: moment(80) };
    let tree = Tree::proved(identity.size, Root(field(head, 96)), hashes.to_vec());
    Ok(Indexed { identity, tree: tree.map_err(|error| error.to_string())? })
}

fn field<const N: usize>(head: &[u8; HEAD_BYTES], at: usize) -> [u8; N] {
    head[at..at + N].try_into().expect("the layout says so many bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use ollamax_types::chunk::CHUNK_BYTES;

    use super::*;

    const SHA256: Digest = Digest([0xa0; 32]);

    fn index() -> (TempDir, Index) {
        let folder = tempfile::tempdir().expect("temp");
        let index = Index::open(&folder.path().join("transfer/trees")).expect("room");
        (folder, index)
    }

    /// A file of so many bytes whose chunks have these hashes.
    fn indexed(size: u64, hashes: Vec<ChunkHash>) -> Indexed {
        let identity = FileIdentity { dev: 1, ino: 2, size, mtime_ns: -3, ctime_ns: 4 };
        Indexed { identity, tree: Tree::of(size, hashes).expect("a hash for each chunk") }
    }

    fn three_chunks() -> Indexed {
        indexed(2 * CHUNK_BYTES + 1, vec![[1; 32], [2; 32], [3; 32]])
    }

    proptest! {
        #[test]
        fn a_tree_comes_back_as_it_went_and_any_flipped_bit_is_seen(
            hashes in prop::collection::vec(any::<[u8; 32]>(), 0..9),
            last in 1..=CHUNK_BYTES,
            (dev, ino, mtime_ns, ctime_ns) in any::<(u64, u64, i128, i128)>(),
            at in any::<prop::sample::Index>(),
        ) {
            let size = (hashes.len() as u64 * CHUNK_BYTES).saturating_sub(CHUNK_BYTES - last);
            let identity = FileIdentity { dev, ino, size, mtime_ns, ctime_ns };
            let indexed = Indexed { identity, tree: Tree::of(size, hashes).expect("a hash for each chunk") };
            let mut bytes = encode(SHA256, &indexed);
            prop_assert_eq!(decode(SHA256, &bytes), Ok(indexed));
            let at = at.index(bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(decode(SHA256, &bytes).is_err());
        }
    }

    #[test]
    fn when_a_file_was_checked_last_outlives_the_process_and_the_tree_tells_nothing_else() {
        let (folder, index) = index();
        let (long_ago, later) = (Timestamp(1_000_000_000_000), Timestamp(1_785_578_400_123));
        assert_eq!(index.checked_at(SHA256).expect("readable"), None);
        index.note_checked(SHA256, long_ago).expect("there is nothing to note");
        assert_eq!(index.checked_at(SHA256).expect("readable"), None);
        let tree = three_chunks();
        index.put(SHA256, &tree).expect("room");
        let put_at = index.checked_at(SHA256).expect("readable").expect("it has just been hashed");
        assert!(put_at > long_ago, "{put_at:?}");
        for at in [later, long_ago] {
            index.note_checked(SHA256, at).expect("ours");
            let again = Index::open(&folder.path().join("transfer/trees")).expect("it opens");
            assert_eq!(again.checked_at(SHA256).expect("readable"), Some(at));
            assert_eq!(again.get(SHA256).expect("readable"), Some(tree.clone()));
        }
    }

    #[test]
    fn the_golden_sample_has_not_changed() {
        let golden = concat!(
            "4f4d585452454531",
            "a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0",
            "0100000000000000",
            "0200000000000000",
            "0700000000000000",
            "fdffffffffffffffffffffffffffffff",
            "04000000000000000000000000000000",
            // The root of a file of one chunk is the hash of that chunk.
            "1111111111111111111111111111111111111111111111111111111111111111",
            "1111111111111111111111111111111111111111111111111111111111111111",
            "49f56aa1",
        );
        let sample = indexed(7, vec![[0x11; 32]]);
        assert_eq!(hex::encode(encode(SHA256, &sample)), golden);
        assert_eq!(decode(SHA256, &hex::decode(golden).expect("hex")), Ok(sample));
    }

    #[test]
    fn what_was_put_is_found_replaced_listed_and_removed() {
        let (folder, index) = index();
        let get = |sha256| index.get(sha256).expect("readable");
        assert_eq!(get(SHA256), None);
        assert_eq!(index.all().expect("readable"), []);
        index.put(SHA256, &indexed(7, vec![[9; 32]])).expect("room");
        index.put(SHA256, &three_chunks()).expect("room");
        index.put(Digest([1; 32]), &indexed(0, vec![])).expect("room");
        assert_eq!(get(SHA256), Some(three_chunks()));
        assert_eq!(get(Digest([1; 32])), Some(indexed(0, vec![])));
        fs::write(folder.path().join("transfer/trees/notes.txt"), "x").expect("room");
        assert_eq!(index.all().expect("readable"), [Digest([1; 32]), SHA256]);
        index.remove(SHA256).expect("ours");
        index.remove(SHA256).expect("absent is fine");
        assert_eq!(get(SHA256), None);
        let again = Index::open(&folder.path().join("transfer/trees")).expect("readable");
        assert_eq!(again.all().expect("readable"), [Digest([1; 32])]);
    }

    #[test]
    fn a_damaged_tree_is_removed_and_counts_as_absent() {
        let (_folder, index) = index();
        let sound = encode(SHA256, &three_chunks());
        let path = index.path(SHA256);
        let check = |bytes: &[u8], wanted: bool| {
            fs::write(&path, bytes).expect("room");
            assert_eq!(index.get(SHA256).expect("readable").is_some(), wanted, "{} bytes", bytes.len());
            assert_eq!(path.exists(), wanted);
        };
        check(&sound, true);
        check(&[], false);
        check(&sound[..3], false);
        check(&sound[..HEAD_BYTES], false);
        check(&sound[..sound.len() - 1], false);
        check(&vec![0; sound.len()], false);
        check(&encode(Digest([1; 32]), &three_chunks()), false);
        let sealed = |mut bytes: Vec<u8>| {
            let crc = crc32c::crc32c(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
            bytes
        };
        let body = &sound[..sound.len() - CRC_BYTES];
        check(&sealed(body.to_vec()), true);
        check(&sealed(body[..body.len() - HASH_BYTES].to_vec()), false);
        check(&sealed([body, &[0]].concat()), false);
        let mut lie = body.to_vec();
        lie[HEAD_BYTES] ^= 1;
        check(&sealed(lie), false);
    }

    #[test]
    fn what_a_writer_left_unfinished_goes_when_the_folder_is_opened() {
        let (folder, index) = index();
        let root = folder.path().join("transfer/trees");
        // The name that the next writer would choose.
        fs::write(root.join(format!("sha256-{SHA256}.0.tmp")), "half").expect("room");
        index.put(SHA256, &three_chunks()).expect("room");
        assert_eq!(index.all().expect("readable"), [SHA256]);
        let again = Index::open(&root).expect("readable");
        assert_eq!(names(&root).expect("readable"), [format!("sha256-{SHA256}.tree")]);
        assert_eq!(again.get(SHA256).expect("readable"), Some(three_chunks()));
    }

    #[test]
    fn a_folder_that_is_gone_is_a_fault_and_not_tried_for_ever() {
        let (folder, index) = index();
        fs::remove_dir_all(folder.path().join("transfer")).expect("ours");
        let fault = index.put(SHA256, &three_chunks()).expect_err("nowhere to write");
        assert_eq!(fault.source.kind(), ErrorKind::NotFound);
        assert_eq!(index.get(SHA256).expect("readable"), None);
    }

    #[test]
    fn the_tree_of_a_file_that_has_changed_its_size_is_not_kept() {
        let (_folder, index) = index();
        let mut grown = three_chunks();
        grown.identity.size += 1;
        let fault = index.put(SHA256, &grown).expect_err("not the same file");
        assert_eq!(fault.source.kind(), ErrorKind::InvalidInput);
        assert_eq!(index.all().expect("readable"), []);
    }
}
