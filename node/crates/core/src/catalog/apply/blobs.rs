//! Files of models and their BLAKE3: each bound once, by a node that read it whole.
//!
//! A node binds only what it hashed itself and whose SHA-256 is its name. So another BLAKE3 or size for one file is a
//! defect or a lie, never an old copy: it is refused, and with it all that the same command tells. What is on record
//! stays as it is, with the name of who told it first.

use std::collections::BTreeMap;

use ollamax_types::limits::{BIND_BLOBS_MAX, BLOB_BYTES_MAX, BLOBS_MAX};
use ollamax_types::{Digest, NodeId, Root};

use super::limit::{check_count, exceeded};
use super::{Applied, Scene, Step, Stop, invalid, members, put};
use crate::catalog::command::{BoundBlob, Refusal};
use crate::catalog::read;
use crate::catalog::record::{Blob, Counts, Key, Record};

pub(super) fn bind(scene: &Scene<'_>, node: NodeId, blobs: &[BoundBlob]) -> Step {
    check_count("the list of files", blobs.len(), BIND_BLOBS_MAX)?;
    members::holder(scene, node)?;
    let mut mutations = Vec::new();
    for (sha256, (size_bytes, root)) in told(blobs)? {
        match read::blob(scene.view, &sha256)? {
            Some(bound) if (bound.size_bytes, bound.root) == (size_bytes, root) => {}
            Some(_) => return Err(Refusal::RootConflict { sha256 }.into()),
            None => {
                let blob = Blob { size_bytes, root, bound_by: node, bound_at: scene.entry.log_time };
                mutations.push(put(Key::Blob(sha256), Record::Blob(blob)));
            }
        }
    }
    if mutations.is_empty() {
        return Ok(Applied::done(mutations));
    }
    let counts = read::counts(scene.view)?;
    let needed = counts.blobs + mutations.len() as u64;
    if needed > BLOBS_MAX {
        return Err(exceeded("this cluster", needed, BLOBS_MAX, "files"));
    }
    mutations.push(put(Key::Counts, Record::Counts(Counts { blobs: needed, ..counts })));
    Ok(Applied::done(mutations))
}

/// What is told of each file, in order, each once.
fn told(blobs: &[BoundBlob]) -> Result<BTreeMap<Digest, (u64, Root)>, Stop> {
    let mut files = BTreeMap::new();
    for BoundBlob { sha256, size_bytes, root } in blobs.iter().copied() {
        if size_bytes > BLOB_BYTES_MAX {
            let file = sha256.short();
            return Err(invalid(format!("the file {file} has {size_bytes} bytes; the limit is {BLOB_BYTES_MAX}")));
        }
        if *files.entry(sha256).or_insert((size_bytes, root)) != (size_bytes, root) {
            return Err(Refusal::RootConflict { sha256 }.into());
        }
    }
    Ok(files)
}
