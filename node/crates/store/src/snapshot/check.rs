//! The rules of a snapshot stream: order, checksums, keys, count, BLAKE3 and state hash.
//!
//! Holds one chunk at a time and keeps nothing of it. [`super::Import`] goes by it, so that a stream which passes here
//! is one that an import takes, save for what a disk may refuse. Count and hash are of all records, those included that
//! an earlier stream had brought.

use std::collections::BTreeMap;

use prost::Message;

use ollamax_proto::disk;
use ollamax_proto::disk::snapshot_part::Part;

use super::FORMAT;
use super::staging::Reached;
use crate::error::ImportError;
use crate::family;
use crate::state::AppliedMeta;
use crate::state::applied::Standing;
use crate::state::hash::StateHash;

/// Keys and values, in order.
pub(super) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A stream that is looked at.
#[derive(Debug, Default)]
pub struct Check {
    /// The state that must come; `None`: any.
    expected: Option<Standing>,
    /// Records that an earlier stream had brought.
    before: u64,
    header: Option<Standing>,
    trailer: Option<disk::SnapshotTrailer>,
    last_key: Vec<u8>,
    chunks: u64,
    count: u64,
    families: BTreeMap<&'static str, u64>,
    hash: StateHash,
    hasher: blake3::Hasher,
}

fn invalid(reason: impl Into<String>) -> ImportError {
    ImportError::Invalid(reason.into())
}

// === impl Check ===

impl Check {
    /// Begins to look at a stream of this state, which goes on behind what an earlier one had brought.
    pub(super) fn behind(expected: Standing, reached: Reached) -> Self {
        let Reached { last_key, count, hash } = reached;
        Self { expected: Some(expected), before: count, last_key, count, hash, ..Self::default() }
    }

    /// How far the records reach that have come.
    pub(super) fn reached(&self) -> Reached {
        Reached { last_key: self.last_key.clone(), count: self.count, hash: self.hash }
    }

    /// The last key that has come; empty before the first.
    pub(super) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// Whether the stream has come to its end, good or not.
    pub(super) const fn is_over(&self) -> bool {
        self.trailer.is_some()
    }

    /// Looks at the next message of the stream.
    ///
    /// # Errors
    /// When it is damaged, out of order or not understood: the stream is none that can be installed.
    pub fn add(&mut self, message: &[u8]) -> Result<(), ImportError> {
        self.take(message).map(drop)
    }

    /// The same, with the records that the message brought.
    pub(super) fn take(&mut self, message: &[u8]) -> Result<Pairs, ImportError> {
        let part = disk::SnapshotPart::decode(message).map_err(|error| invalid(error.to_string()))?;
        match part.part {
            Some(Part::Header(header)) => self.add_header(header).map(|()| Vec::new()),
            Some(Part::Chunk(chunk)) => self.add_chunk(&chunk),
            Some(Part::Trailer(trailer)) => self.add_trailer(trailer).map(|()| Vec::new()),
            None => Err(invalid("a message of a kind that this release does not know")),
        }
    }

    /// How far the state is; known after the first message.
    #[must_use]
    pub fn meta(&self) -> Option<&AppliedMeta> {
        self.header.as_ref()?.meta.as_deref()
    }

    /// Records so far.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// How many records of each family there were so far.
    #[must_use]
    pub const fn families(&self) -> &BTreeMap<&'static str, u64> {
        &self.families
    }

    /// Whether everything that was announced has come, and fits.
    ///
    /// # Errors
    /// When something is missing or does not fit.
    pub fn verify(&self) -> Result<(), ImportError> {
        self.verified().map(drop)
    }

    /// The same, with what the header says.
    pub(super) fn verified(&self) -> Result<Standing, ImportError> {
        let (Some(standing), Some(trailer)) = (&self.header, &self.trailer) else {
            return Err(invalid("the stream ended early"));
        };
        let own = self.count - self.before;
        if trailer.chunks != self.chunks || trailer.count != own || standing.count != self.count {
            return Err(invalid("chunks or records are missing"));
        }
        if trailer.blake3 != self.hasher.finalize().as_bytes() {
            return Err(invalid("the records do not fit the trailer"));
        }
        if standing.hash != self.hash {
            return Err(invalid("the records do not fit the state hash"));
        }
        Ok(standing.clone())
    }

    fn add_header(&mut self, header: disk::SnapshotHeader) -> Result<(), ImportError> {
        if self.header.is_some() {
            return Err(invalid("a second header"));
        }
        if header.format != FORMAT {
            return Err(invalid(format!("format {}, and this release knows {FORMAT}", header.format)));
        }
        let applied = header.applied.ok_or_else(|| invalid("a header without its mark"))?;
        let standing = Standing::from_message(applied).map_err(|malformed| invalid(malformed.to_string()))?;
        if self.expected.as_ref().is_some_and(|expected| *expected != standing) {
            return Err(invalid("another state than the one that was announced"));
        }
        self.header = Some(standing);
        Ok(())
    }

    fn add_chunk(&mut self, chunk: &disk::SnapshotChunk) -> Result<Pairs, ImportError> {
        let number = chunk.number;
        if self.header.is_none() || self.trailer.is_some() || number != self.chunks {
            return Err(invalid(format!("chunk {number} is out of order")));
        }
        if crc32c::crc32c(&chunk.body) != chunk.crc32c {
            return Err(invalid(format!("chunk {number} does not fit its checksum")));
        }
        let body = disk::SnapshotPairs::decode(&chunk.body[..]).map_err(|error| invalid(error.to_string()))?;
        let ends = (body.pairs.first().map(|pair| &pair.key), body.pairs.last().map(|pair| &pair.key));
        if ends != (Some(&chunk.first_key), Some(&chunk.last_key)) {
            return Err(invalid(format!("chunk {number} does not hold the keys that it names")));
        }
        self.hasher.update(&chunk.body);
        self.chunks += 1;
        body.pairs.into_iter().map(|pair| self.add_pair(pair)).collect()
    }

    fn add_pair(&mut self, pair: disk::SnapshotPair) -> Result<(Vec<u8>, Vec<u8>), ImportError> {
        let disk::SnapshotPair { key, value } = pair;
        if key <= self.last_key {
            return Err(invalid("its keys are not in order"));
        }
        let known = family::decode_key(&key).and_then(|key| family::decode_record(&key, &value));
        known.map_err(|malformed| invalid(malformed.to_string()))?;
        self.hash.replace(&key, None, Some(&value));
        self.count += 1;
        if let Some(family) = family::name_of(&key) {
            *self.families.entry(family).or_default() += 1;
        }
        self.last_key.clone_from(&key);
        Ok((key, value))
    }

    fn add_trailer(&mut self, trailer: disk::SnapshotTrailer) -> Result<(), ImportError> {
        if self.header.is_none() || self.trailer.is_some() {
            return Err(invalid("a trailer out of order"));
        }
        self.trailer = Some(trailer);
        Ok(())
    }
}
