//! Models of a fake registry on a disk: as files of a store in Ollama's layout, or the weights alone.
//!
//! Files are written in place, blobs before the manifest that names them, as a pull behind everybody's back does it.
//! All of it blocks on the disk.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

use ollamax_types::{Digest, ModelName};

use super::blob::{Blob, Content, FakeModel};

/// Bytes that are written or read at once.
const PIECE_BYTES: usize = 1 << 20;

// === impl Blob ===

impl Blob {
    /// Writes all of it into a file.
    ///
    /// # Errors
    /// What the disk said.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let (mut file, mut buffer, mut at) = (File::create(path)?, vec![0; PIECE_BYTES], 0);
        while at < self.size_bytes {
            let length = usize::try_from(self.size_bytes - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            self.read(at, &mut buffer[..length]);
            file.write_all(&buffer[..length])?;
            at += length as u64;
        }
        Ok(())
    }
}

// === impl FakeModel ===

impl FakeModel {
    /// Puts it into a store under a name, and answers where its weights lie.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn shelve(&self, store: &Path, name: &ModelName) -> Result<PathBuf> {
        let tag = manifest_in(store, name);
        for folder in [&store.join("blobs"), tag.parent().context("a tag has a folder")?] {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let (manifest, files) = self.parts();
        for (sha256, content) in &files {
            let path = blob_in(store, *sha256);
            let written = match content {
                Content::Made(blob) => blob.write(&path),
                Content::Kept(bytes) => fs::write(&path, bytes),
            };
            written.with_context(|| format!("write {}", path.display()))?;
        }
        fs::write(&tag, manifest).with_context(|| format!("write {}", tag.display()))?;
        let weights = files.first().map(|(sha256, _)| *sha256).context("a model has weights")?;
        Ok(blob_in(store, weights))
    }
}

/// Where the manifest of a name lies in a store.
#[must_use]
pub fn manifest_in(store: &Path, name: &ModelName) -> PathBuf {
    store.join("manifests").join(name.parts().join("/"))
}

/// Where a file lies in a store.
#[must_use]
pub fn blob_in(store: &Path, sha256: Digest) -> PathBuf {
    store.join("blobs").join(format!("sha256-{sha256}"))
}

/// The SHA-256 of what lies there.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_of_file(path: &Path) -> io::Result<Digest> {
    let (mut file, mut hasher, mut buffer) = (File::open(path)?, Sha256::new(), vec![0; PIECE_BYTES]);
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok(Digest(hasher.finalize().into()));
        }
        hasher.update(&buffer[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_registry::blob::sha256_of;

    #[test]
    fn what_is_shelved_lies_there_under_the_digests_of_its_manifest() {
        let temp = tempfile::tempdir().expect("temp");
        let model = FakeModel::of(3, 2 * PIECE_BYTES as u64 + 5);
        let name = "lab/demo:1b".parse().expect("a name");
        let weights = model.shelve(temp.path(), &name).expect("room");
        let manifest = fs::read(manifest_in(temp.path(), &name)).expect("written");
        assert_eq!(manifest, model.manifest());
        assert_eq!(sha256_of_file(&weights).expect("written"), model.weights.sha256());
        let (_, files) = model.parts();
        for (sha256, content) in files {
            let path = blob_in(temp.path(), sha256);
            assert_eq!(fs::metadata(&path).expect("written").len(), content.size_bytes());
            assert_eq!(sha256_of_file(&path).expect("written"), sha256);
        }
        fs::write(&weights, "damaged").expect("written");
        assert_eq!(sha256_of_file(&weights).expect("there"), sha256_of(b"damaged"));
    }
}
