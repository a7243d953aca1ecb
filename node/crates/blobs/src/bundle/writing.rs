//! Writes a bundle, in one order and without anything that differs between two times or two nodes.
//!
//! Each piece is compared with its tree before it leaves, so that no damaged file is carried on. Whoever takes the
//! bytes is told nothing of a failure: what it has then is cut, and no reader takes it for a bundle.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use ollamax_types::chunk::{chunk_count, chunk_range};

use crate::fault::Fault;
use crate::manifest::BlobSpec;
use crate::tree::Tree;

use super::{BLOBS, BundleError, Contents, MANIFEST, PAGE, SUMS, TREES, tar, tree_bytes};

/// A bundle that is being written.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    contents: Contents,
    /// Files that are not written yet.
    left: VecDeque<BlobSpec>,
    buffer: Vec<u8>,
}

// === impl Writer ===

impl<W: io::Write> Writer<W> {
    /// Writes what comes before the files.
    ///
    /// # Errors
    /// When the bytes are not taken.
    pub fn begin(to: W, contents: &Contents) -> Result<Self, BundleError> {
        let left = contents.files().into();
        let mut writer = Self { to, contents: contents.clone(), left, buffer: Vec::new() };
        let page = contents.page();
        writer.entry(PAGE, &page)?;
        writer.entry(SUMS, contents.sums(&page).as_bytes())?;
        writer.entry(MANIFEST, contents.manifest().bytes())?;
        Ok(writer)
    }

    /// Writes a file and its tree, which has the root that is listed.
    ///
    /// # Errors
    /// When a piece is not what the tree says, when the file cannot be read, and when the bytes are not taken.
    ///
    /// # Panics
    /// When another file is next ([`Contents::files`]) or the tree is another one: a defect of the caller.
    pub fn file(&mut self, spec: BlobSpec, tree: &Tree, file: &fs::File) -> Result<(), BundleError> {
        assert_eq!(self.left.pop_front(), Some(spec), "files come in their order");
        assert_eq!(self.contents.root(spec.sha256), Some(tree.root()), "the tree of {} is another", spec.sha256);
        let BlobSpec { sha256, size_bytes } = spec;
        if tree_bytes(size_bytes).is_some() {
            self.entry(&format!("{TREES}{sha256}"), tree.hashes().as_flattened())?;
        }
        self.head(&format!("{BLOBS}{sha256}"), size_bytes)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        for index in 0..chunk_count(size_bytes) {
            let range = chunk_range(size_bytes, index);
            buffer.resize(usize::try_from(range.end - range.start).expect("a chunk fits into memory"), 0);
            let read = file.read_exact_at(&mut buffer, range.start);
            read.map_err(Fault::at("read the file", &PathBuf::from(format!("sha256-{sha256}"))))?;
            if !tree.holds(index, &buffer) {
                return Err(BundleError::Damaged { sha256, index });
            }
            self.put(&buffer)?;
        }
        self.buffer = buffer;
        self.fill_up(size_bytes)
    }

    /// Writes what comes behind the files, and gives back who took it all.
    ///
    /// # Errors
    /// When the bytes are not taken.
    ///
    /// # Panics
    /// When a file was not written: a defect of the caller.
    pub fn finish(mut self) -> Result<W, BundleError> {
        assert!(self.left.is_empty(), "{} files are not written", self.left.len());
        if let Some(path) = self.contents.manifest_path() {
            let manifest = self.contents.manifest().clone();
            self.entry(&path, manifest.bytes())?;
        }
        self.put(&[0; 2 * tar::BLOCK_BYTES])?;
        self.to.flush().map_err(BundleError::Write)?;
        Ok(self.to)
    }

    fn entry(&mut self, name: &str, bytes: &[u8]) -> Result<(), BundleError> {
        self.head(name, bytes.len() as u64)?;
        self.put(bytes)?;
        self.fill_up(bytes.len() as u64)
    }

    fn head(&mut self, name: &str, size_bytes: u64) -> Result<(), BundleError> {
        let head = tar::head(name, size_bytes).expect("the name is short, or was tried before");
        self.put(&head)
    }

    fn fill_up(&mut self, size_bytes: u64) -> Result<(), BundleError> {
        let length = usize::try_from(tar::padding(size_bytes)).expect("it is shorter than a block");
        self.put(&[0; tar::BLOCK_BYTES][..length])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), BundleError> {
        self.to.write_all(bytes).map_err(BundleError::Write)
    }
}
