//! Files of models and their BLAKE3: each bound once, by a node that read it whole.
//!
//! A node binds only what it hashed itself and whose SHA-256 is its name. So another BLAKE3 or size for one file is a
//! defect or a lie, never an old copy: it is refused, and with it all that the same command tells. What is on record
//! stays as it is, with the name of who told it first.

use std::collections::BTreeMap;

use ollamax_types::limits::{BIND_BLOBS_MAX, BLOB_BYTES_MAX, BLOBS_MAX, FORGET_BLOBS_MAX};
use ollamax_types::{Digest, NodeId, Root, Timestamp};

use super::limit::{check_count, exceeded};
use super::{Applied, Scene, Step, Stop, invalid, members, put};
use crate::catalog::command::{Answer, BoundBlob, Refusal};
use crate::catalog::read;
use crate::catalog::record::{Blob, Counts, Key, Record};
use crate::catalog::view::{Fault, Mutation};

/// Files that one command looks at.
const LOOKED_AT_MAX: usize = 1_000;

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

/// Forgets those that were bound before a time, among the next `LOOKED_AT_MAX` behind `after`.
pub(super) fn forget(scene: &Scene<'_>, before: Timestamp, after: Option<Digest>, limit: u32) -> Step {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit == 0 || limit > FORGET_BLOBS_MAX {
        return Err(invalid(format!("the limit must be 1 to {FORGET_BLOBS_MAX}")));
    }
    let page = read::blobs(scene.view, after, LOOKED_AT_MAX)?;
    let old: Vec<Digest> = page.iter().filter(|(_, blob)| blob.bound_at < before).map(|(sha256, _)| *sha256).collect();
    let answer = if page.len() == LOOKED_AT_MAX || old.len() > limit { Answer::More } else { Answer::Done };
    let mut mutations: Vec<Mutation> =
        old.into_iter().take(limit).map(|sha256| Mutation::Delete(Key::Blob(sha256))).collect();
    if !mutations.is_empty() {
        let counts = read::counts(scene.view)?;
        let blobs = counts.blobs.checked_sub(mutations.len() as u64);
        let blobs = blobs.ok_or_else(|| Fault::Invariant("more files than counted".to_owned()))?;
        mutations.push(put(Key::Counts, Record::Counts(Counts { blobs, ..counts })));
    }
    Ok(Applied::new(mutations, answer))
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
